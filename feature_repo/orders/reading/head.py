"""The header of a CSV file: which line it is, what is between its columns, and how wide the rows below it are."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from pathlib import Path

from feature_repo.orders.mapping_file import MappingError, Read
from feature_repo.orders.reading.lines import Dialect, Kind, Line, parse, physical_lines

DELIMITERS = (",", ";", "\t", "|")
_SAMPLE_LINES = 200
_COMMENT_SIGNS = ("#", "//", "--", "%", ";", "!")
_SKIP_ADVICE = "; if it is a title, say `skip:` and how many lines are to be left out"
_BLANKS = " \t\ufeff\u200b\u00a0"


@dataclass(frozen=True, slots=True)
class Head:
    """How a file begins.

    Attributes
    ----------
    dialect : Dialect
    names : list of str
        Of the columns, without repeated ones.
    width : int
        Fields of a row; those beyond the names have to be empty.
    line, height : int
        The header's first physical line in the file, and how many it takes.
    notes : list of str
        What was left out above it.
    """

    dialect: Dialect
    names: list[str]
    width: int
    line: int
    height: int
    notes: list[str]

    @property
    def lines(self) -> int:
        """Physical lines up to the first row."""
        return self.line + self.height - 1


@dataclass(frozen=True, slots=True)
class _Layout:
    """What a file's first lines are, if a sign is its delimiter."""

    dialect: Dialect
    titles: list[Line]
    header: Line
    rows: list[Line]

    @property
    def header_width(self) -> int:
        return len(self.header.fields)

    @property
    def named(self) -> int:
        """Fields of the header up to the last that has a name."""
        return max((number for number, name in enumerate(self.header.fields, 1) if name.strip(_BLANKS)), default=0)

    @property
    def used(self) -> int:
        """Fields of the header up to the last that has a name, or a value below it."""
        values = (number for row in self.rows for number, value in enumerate(row.fields, 1) if value)
        return min(max(self.named, max(values, default=0)), self.header_width)

    @property
    def deviation(self) -> tuple[int, int]:
        """How much has to be left out for this layout to be right."""
        return len(self.titles), sum(row.kind is Kind.BROKEN for row in self.rows)

    def width(self) -> int | None:
        """The width that all rows have and that the header explains; None where there is none."""
        widths = {len(row.fields) for row in self.rows if row.kind is Kind.ROW}
        if not self.rows:
            return self.header_width
        width = widths.pop() if widths else 0
        if widths or (width < self.named or (width > self.header_width and self._is_beyond(width))):
            return None
        return width

    def _is_beyond(self, width: int) -> bool:
        """Whether rows that are wider than the header have more than delimiters at their ends."""
        beyond = any(any(row.fields[self.header_width :]) for row in self.rows)
        return beyond or self.named < self.header_width or decimal_comma(self.dialect, self.rows) is not None


def read_head(path: Path, shown: Path, read: Read) -> Head:
    """Find the header of a file of plain UTF-8.

    Parameters
    ----------
    path, shown : Path
        The text, and the file that it came from, for messages.
    read : Read

    Raises
    ------
    MappingError
        The first lines can be read in more ways than one, or in none; the message shows them and names the option
        that decides.
    """
    declared, skip = _declared_delimiter(path, shown, read)
    known = read.delimiter or declared
    dialect = Dialect("", read.quote, read.escape or read.quote, read.comment or "", read.strict)
    candidates = [
        layout
        for sign in ([known] if known else DELIMITERS)
        if (layout := _layout(path, replace(dialect, delimiter=sign), skip)) is not None
    ]
    if not candidates:
        raise MappingError(f"{shown} has no header: {_no_header(path, skip, read)}")
    chosen = candidates[0] if known else _choose(shown, candidates)
    width = _require_width(shown, chosen)
    _require_no_comment(shown, chosen.titles)
    notes = [*_notes(shown, chosen, declared, read)]
    return Head(chosen.dialect, _names(shown, chosen, notes), width, chosen.header.number, chosen.header.height, notes)


def decimal_comma(dialect: Dialect, rows: Sequence[Line]) -> tuple[int, str] | None:
    """The first field, from 1, and its text, where all rows have what looks like the halves of a decimal number."""
    lists = [row.fields for row in rows if row.kind is Kind.ROW]
    if dialect.delimiter != "," or not lists:
        return None
    for at in range(min(map(len, lists)) - 1):
        if all(re.fullmatch(r"-?\d+", one[at]) and re.fullmatch(r"\d{1,3}", one[at + 1]) for one in lists):
            return at + 1, f"{lists[0][at]},{lists[0][at + 1]}"
    return None


def explain_width(fields: Sequence[str], names: int, dialect: Dialect) -> str:
    """What is wrong with a row that has another number of fields than the header has names."""
    fault = f"it has {len(fields)} fields, and the header {names}"
    pair = next((pair for pair in pairwise(fields) if re.fullmatch(r"-?\d+;\d{1,2}", ";".join(pair))), None)
    if pair and len(fields) > names and dialect.delimiter == ",":
        return f"{fault}; {_decimal_advice(','.join(pair))}"
    if len(fields) > names:
        return f"{fault}: a value with {dialect.delimiter!r} in it needs quotes around it"
    return fault


def _decimal_advice(text: str) -> str:
    return (
        f"{text!r} looks like a number with a decimal comma that is not in quotes: export with another sign between "
        'the columns (`delimiter: ";"`) or with quotes, and say `decimal: ","`'
    )


def _declared_delimiter(path: Path, shown: Path, read: Read) -> tuple[str | None, int]:
    """The delimiter that a line such as `sep=;` names, which Excel writes, and how many lines to leave out."""
    first = next(islice(physical_lines(path), read.skip, None), "")
    found = re.fullmatch(r'"?sep=(.)"?[;,\t]*', first.rstrip("\r\n"), re.IGNORECASE)
    if not found:
        return None, read.skip
    if read.delimiter not in (None, found[1]):
        raise MappingError(
            f"{shown}: line {read.skip + 1} says that {found[1]!r} is between the columns, the mapping says "
            f"`delimiter: {read.delimiter!r}`: take it out of the mapping, or `skip: {read.skip + 1}`"
        )
    return found[1], read.skip + 1


def _layout(path: Path, dialect: Dialect, skip: int) -> _Layout | None:
    content = (line for line in parse(path, dialect, skip) if line.kind in (Kind.ROW, Kind.BROKEN))
    lines = list(islice(content, _SAMPLE_LINES))
    if not lines:
        return None
    first = next((at for at, line in enumerate(lines) if len(line.fields) != 1), 0)
    titles = lines[:first] if lines[first].kind is Kind.ROW else []
    return _Layout(dialect, titles, lines[len(titles)], lines[len(titles) + 1 :])


def _choose(shown: Path, candidates: Sequence[_Layout]) -> _Layout:
    """The one delimiter that fits."""
    wide = [one for one in candidates if one.header_width > 1]
    fitting = [one for one in wide if one.width() is not None]
    least = min((one.deviation for one in fitting), default=None)
    best = [one for one in fitting if one.deviation == least] or [one for one in wide if not one.titles] or wide
    if not best:
        return candidates[0]
    if len(best) > 1:
        signs = " and ".join(f"{one.dialect.delimiter!r} ({one.header_width} columns)" for one in best)
        raise MappingError(
            f"{shown}: line {best[0].header.number} can be split at {signs}: say which sign is between the columns "
            f"(`delimiter:` under `read`). It is {_short(best[0].header.text)}"
        )
    return best[0]


def _require_width(shown: Path, layout: _Layout) -> int:
    """The width of the rows. A few that deviate are refused one by one, when most of them do it is the header."""
    if layout.header.kind is Kind.BROKEN:
        raise MappingError(f"{shown}: line {layout.header.number} is no header: {layout.header.fault}{_SKIP_ADVICE}")
    width = layout.width()
    if width is not None:
        return width
    rows = [row for row in layout.rows if row.kind is Kind.ROW]
    fitting = [row for row in rows if len(row.fields) == layout.header_width]
    if layout.titles or 2 * len(fitting) < len(rows):
        raise MappingError(_mismatch(shown, layout, rows))
    return layout.header_width


def _mismatch(shown: Path, layout: _Layout, rows: Sequence[Line]) -> str:
    header, sign = layout.header, layout.dialect.delimiter
    counts = Counter(len(row.fields) for row in rows)
    seen = ", ".join(f"{count} of {width} fields" for width, count in sorted(counts.items()))
    odd = next(row for row in rows if len(row.fields) != layout.header_width)
    message = (
        f"{shown}: line {header.number} has {layout.header_width} fields between {sign!r} ({_short(header.text)}), the "
        f"lines below it are others: {seen}, such as line {odd.number} ({_short(odd.text)})."
    )
    numbers = decimal_comma(layout.dialect, rows)
    if numbers and min(counts) > layout.named:
        return f"{message} Fields {numbers[0]} and {numbers[0] + 1}: {_decimal_advice(numbers[1])}"
    table = next(row.number for row in rows if len(row.fields) == counts.most_common(1)[0][0])
    return (
        f"{message} If what is above line {table} is a title, say `skip: {table - 1}`{_comment_advice(header.text)}; "
        f"if another sign is between the columns, say `delimiter:`; an empty field at the end of each row needs "
        "one in the header, too"
    )


def _comment_advice(text: str) -> str:
    sign = next((sign for sign in _COMMENT_SIGNS if text.startswith(sign)), None)
    return f', or `comment: "{sign}"` if lines that begin with {sign} are comments' if sign else ""


def _require_no_comment(shown: Path, titles: Sequence[Line]) -> None:
    for title in titles:
        if _comment_advice(title.text):
            raise MappingError(
                f"{shown}: line {title.number} ({_short(title.text)}) looks like a comment: say `skip: "
                f"{titles[-1].number}` if only the first lines are to be left out{_comment_advice(title.text)}"
            )


def _no_header(path: Path, skip: int, read: Read) -> str:
    count = sum(1 for _ in physical_lines(path))
    left_out = f", {skip} of them left out" if skip else ""
    comments = f" but comments ({read.comment!r})" if read.comment else ""
    return f"its {count} lines{left_out} have nothing in them{comments}"


def _names(shown: Path, layout: _Layout, notes: list[str]) -> list[str]:
    """A name for each column: a repeated one is told apart by its position, so that nobody takes the wrong of two."""
    names = [name.strip(_BLANKS) for name in layout.header.fields[: layout.used]]
    counts = Counter(name.casefold() for name in names)
    repeated = [name for name in names if name and counts[name.casefold()] > 1]
    if repeated:
        notes.append(
            f"{shown.name}: the header names {', '.join(dict.fromkeys(repeated))} more than once: a mapping has to "
            f'write "{repeated[0]} (field {names.index(repeated[0]) + 1})"'
        )
    return [_name(name, at, counts) for at, name in enumerate(names)]


def _name(name: str, at: int, counts: Counter[str]) -> str:
    if not name:
        return f"column{at}"
    return f"{name} (field {at + 1})" if counts[name.casefold()] > 1 else name


def _notes(shown: Path, layout: _Layout, declared: str | None, read: Read) -> Iterator[str]:
    if read.skip:
        yield f"{shown.name}: {read.skip} lines skipped, as the mapping says"
    if declared:
        yield f"{shown.name}: line {read.skip + 1} says that {declared!r} is between the columns"
    for title in layout.titles:
        yield f"{shown.name}: line {title.number} stands alone above the header, and is left out: {_short(title.text)}"


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:77]}...")

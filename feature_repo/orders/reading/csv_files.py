"""CSV files into the scratch database: by DuckDB where a file keeps the rules throughout, else line by line.

DuckDB is told every sign, so that it finds none out by itself (its sniffer takes a `#` in the first rows for a comment
sign, and a stray quote for a file without quotes). Whether it read everything is checked on the file's bytes: with as
many line ends and delimiters as its rows have, it left nothing out and took no two fields for one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import duckdb
import pyarrow as pa

from feature_repo.orders.mapping_file import MappingError, Read
from feature_repo.orders.reading.counts import Counts, count
from feature_repo.orders.reading.head import Head, explain_width, read_head
from feature_repo.orders.reading.lines import LONGEST_ROW, Kind, Line, parse, physical_lines
from feature_repo.orders.reading.parts import Parts
from feature_repo.orders.reading.plain import plain_text
from feature_repo.orders.reading.sql import file_name, literal

_CHUNK_ROWS = 50_000


def load_csv(parts: Parts, path: Path, read: Read, extra: Mapping[str, str | None]) -> list[str]:
    """Add a CSV file's rows to the source, and its lines that are no rows to `broken_lines`.

    Parameters
    ----------
    parts : Parts
    path : Path
    read : Read
    extra : mapping of str to str or None
        Values of columns that the file's path says.

    Returns
    -------
    list of str
        The file's own columns.

    Raises
    ------
    MappingError
        The file is no CSV text, its header cannot be told, or a line is not accounted for.
    """
    with plain_text(path, read.encoding, parts.folder) as text:
        head = read_head(text, path, read)
        for note in head.notes:
            parts.note(note)
        file = _File(parts, path, text, read, head, extra)
        counts = file.count()
        if not (file.is_plain(counts) and file.load_at_once(counts)):
            file.load_line_by_line(counts)
        return head.names


@dataclass(frozen=True, slots=True)
class _File:
    parts: Parts
    path: Path
    text: Path
    read: Read
    head: Head
    extra: Mapping[str, str | None]

    def count(self) -> Counts:
        """What is below the header, in bytes."""
        start = sum(len(line.encode("utf-8", "surrogateescape")) for line in self._above())
        with self.text.open("rb") as file:
            start += 3 * (file.read(3) == b"\xef\xbb\xbf")
        dialect = self.head.dialect
        return count(self.text, start, dialect.delimiter, dialect.quote, dialect.comment)

    def is_plain(self, counts: Counts) -> bool:
        """Whether DuckDB can be told all that this file may hold."""
        dialect = self.head.dialect
        one_byte = len((dialect.delimiter + dialect.quote).encode()) <= 2 and len(dialect.delimiter) == 1
        columns = self.head.width == len(self.head.names) > 1
        signs = dialect.escape == dialect.quote and dialect.delimiter != " " and not counts.has_comment
        return one_byte and columns and signs and counts.has_one_line_end and not counts.has_nul

    def load_at_once(self, counts: Counts) -> bool:
        """Whether DuckDB read the file and everything in it is accounted for; otherwise nothing was added."""
        try:
            added = self.parts.add(f"FROM {self._reader()}", str(self.path), extra=self.extra)
        except duckdb.InvalidInputException:
            return False
        if self._has_all(added, counts):
            self._note_comments(0)
            return True
        self.parts.take_back(str(self.path), added)
        return False

    def load_line_by_line(self, counts: Counts) -> None:
        """Read with the exact reader, and check that every physical line became something."""
        rows: list[list[str]] = []
        broken: list[Line] = []
        heights: Counter[Kind] = Counter()
        for line in self._judged():
            heights[line.kind] += line.height
            if line.kind is Kind.ROW:
                rows.append(line.fields)
            elif line.kind is Kind.BROKEN:
                broken.append(line)
            if len(rows) == _CHUNK_ROWS:
                self._add(rows)
                rows = []
        self._add(rows)
        self.parts.add_broken([(self.path.name, line.number, line.text, line.fault) for line in broken])
        self._note_comments(heights[Kind.COMMENT])
        if heights.total() != counts.lines:
            raise MappingError(
                f"{self.path} has {counts.lines} lines below its header, of which {heights.total()} were read: "
                "its line ends are not understood; write it again with one of them"
            )

    def _judged(self) -> Iterator[Line]:
        """The lines below the header; a row of another width than the others is broken."""
        names, width = len(self.head.names), self.head.width
        for line in parse(self.text, self.head.dialect, self.head.lines):
            if line.kind is not Kind.ROW or len(line.fields) == width == names:
                yield line
            elif len(line.fields) > names and not any(line.fields[names:]):
                yield Line(line.kind, line.number, line.text, line.fields[:names], line.height)
            else:
                fault = explain_width(line.fields, names, self.head.dialect)
                yield Line(Kind.BROKEN, line.number, line.text, [], line.height, fault)

    def _add(self, rows: Sequence[Sequence[str]]) -> None:
        nulls = set(self.read.null_values)
        columns = list(zip(*rows, strict=True)) or [()] * len(self.head.names)
        arrays = [pa.array([None if value in nulls else value for value in one], pa.string()) for one in columns]
        self.parts.add_table(pa.table(arrays, names=self.head.names), str(self.path), extra=self.extra)

    def _reader(self) -> str:
        dialect = self.head.dialect
        options = {
            "auto_detect": "false",
            "header": "false",
            "skip": str(self.head.lines),
            "columns": "{" + ", ".join(f"{literal(name)}: 'VARCHAR'" for name in self.head.names) + "}",
            "delim": literal(dialect.delimiter),
            "quote": literal(dialect.quote),
            "escape": literal(dialect.escape),
            "comment": "''",
            "encoding": "'utf-8'",
            "compression": "'none'",
            "hive_partitioning": "false",
            "strict_mode": "true",
            "null_padding": "false",
            "ignore_errors": "false",
            "max_line_size": str(LONGEST_ROW),
            "nullstr": "[" + ", ".join(map(literal, self.read.null_values)) + "]",
        }
        said = ", ".join(f"{name} = {value}" for name, value in options.items())
        return f"read_csv({file_name(str(self.text))}, {said})"

    def _has_all(self, added: int, counts: Counts) -> bool:
        """Whether the rows have as many line ends and delimiters as the file."""
        delimiter = self.head.dialect.delimiter
        more_lines = counts.lines - counts.trailing_blank - added
        more_delimiters = counts.delimiters - added * (self.head.width - 1)
        if not counts.has_quote or not (more_lines or more_delimiters):
            return not (more_lines or more_delimiters)
        return (more_lines, more_delimiters) == self.parts.occurrences(added, self.head.names, ("\n", delimiter))

    def _above(self) -> Iterator[str]:
        return islice(physical_lines(self.text), self.head.lines)

    def _note_comments(self, below: int) -> None:
        sign = self.head.dialect.comment
        above = islice(self._above(), self.read.skip, self.head.line - 1)
        comments = below + sum(bool(sign) and line.startswith(sign) for line in above)
        if comments:
            self.parts.note(f"{self.path.name}: {comments} comment lines left out")

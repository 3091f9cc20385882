"""The exact reader of CSV: every physical line becomes part of a row, or is named with its number and what is wrong.

DuckDB reads a file that keeps the rules, far faster. This module reads those that break them, and decides what the
rules are: RFC 4180 with the mapping's signs. Spaces around a quoted field do not count, and a quote inside of another
field is a sign like any other: DuckDB takes both so, and a file must not be read differently for one of its lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import NamedTuple

LONGEST_ROW = 2_000_000
"""Signs in a row with line ends in it; a quote that is not closed by then never will be."""

UNDECODED = "\udcff"
"""Stands in a transcoded file for bytes that are no text. Its own bytes are no UTF-8, which every reader sees."""

_UNDECODED = re.compile("[\ud800-\udfff]+")


class Kind(Enum):
    """What became of one or more physical lines."""

    ROW = "row"
    BLANK = "blank"
    COMMENT = "comment"
    BROKEN = "broken"


class Line(NamedTuple):
    """A row, or a line that is none: a tuple, because there are as many as the file has lines.

    Attributes
    ----------
    number : int
        Of its first physical line in the file, from 1.
    height : int
        How many physical lines it takes.
    fields : list of str
        Of a row.
    text : str
        The line itself, without its end.
    fault : str
        What is wrong with a broken one.
    """

    kind: Kind
    number: int
    text: str
    fields: list[str]
    height: int = 1
    fault: str = ""


@dataclass(frozen=True)
class Dialect:
    """The signs of a CSV file; an empty one does not occur. If not strict, a quote that breaks the rules is text."""

    delimiter: str
    quote: str = '"'
    escape: str = '"'
    comment: str = ""
    strict: bool = True

    @cached_property
    def closed(self) -> re.Pattern[str]:
        """A whole quoted field, up to its delimiter or the end."""
        return re.compile(f"{self._opening}({self._inner}){self._sign} *(?={re.escape(self.delimiter)}|\\Z)", re.DOTALL)

    @cached_property
    def opened(self) -> re.Pattern[str]:
        """A field that begins with a quote, as far as it goes without another."""
        return re.compile(f"{self._opening}({self._inner})", re.DOTALL)

    @cached_property
    def escaped(self) -> re.Pattern[str]:
        """A sign with the escape sign before it."""
        return re.compile(f"{re.escape(self.escape)}(.)", re.DOTALL)

    @property
    def _sign(self) -> str:
        return re.escape(self.quote)

    @property
    def _opening(self) -> str:
        return f" *{self._sign}" if self.delimiter != " " else self._sign

    @property
    def _inner(self) -> str:
        if self.escape == self.quote:
            return f"[^{self._sign}]*+(?:{self._sign}{self._sign}[^{self._sign}]*+)*+"
        escape = re.escape(self.escape)
        return f"[^{self._sign}{escape}]*+(?:{escape}.[^{self._sign}{escape}]*+)*+"


def physical_lines(path: Path) -> Iterator[str]:
    """Lines with their ends: `\\n`, `\\r\\n` or `\\r`. Bytes that are no UTF-8 come as lone surrogates."""
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        first = file.readline().removeprefix("\ufeff")
        yield from chain([first] if first else [], file)


def parse(path: Path, dialect: Dialect, skip: int = 0) -> Iterator[Line]:
    """What a file's lines are, from line `skip + 1` on.

    A broken line takes nothing with it: reading goes on with the physical line after it.
    """
    lines = _Numbered(physical_lines(path), skip)
    for text in lines:
        number = lines.number
        body = _without_end(text)
        if dialect.comment and body.startswith(dialect.comment):
            yield Line(Kind.COMMENT, number, body, [])
        elif not body.strip(" \t\x1a"):
            yield Line(Kind.BLANK, number, body, [])
        elif fault := _no_text(body):
            yield Line(Kind.BROKEN, number, body, [], fault=fault)
        elif not dialect.quote or dialect.quote not in body:
            yield Line(Kind.ROW, number, body, body.split(dialect.delimiter))
        else:
            yield _quoted_row(number, text, lines, dialect)


class _Numbered:
    """Numbered lines, of which some can be given back."""

    def __init__(self, lines: Iterator[str], skip: int) -> None:
        self._lines, self._returned = lines, list[str]()
        self.number = 0
        while self.number < skip and next(self, None) is not None:
            pass

    def __iter__(self) -> _Numbered:
        return self

    def __next__(self) -> str:
        line = self._returned.pop() if self._returned else next(self._lines)
        self.number += 1
        return line

    def give_back(self, lines: list[str]) -> None:
        self._returned += reversed(lines)
        self.number -= len(lines)


class _Broken(Exception):
    """A line that breaks the rules; `is_open` where a quote is open at its end, so that the next line may mend it."""

    def __init__(self, fault: str, *, is_open: bool = False) -> None:
        super().__init__(fault)
        self.is_open = is_open


def _quoted_row(number: int, text: str, lines: _Numbered, dialect: Dialect) -> Line:
    taken: list[str] = []
    while True:
        whole = _without_end(text + "".join(taken))
        try:
            return Line(Kind.ROW, number, whole, _fields(whole, dialect), 1 + len(taken))
        except _Broken as broken:
            more = _until_a_quote(lines, dialect, LONGEST_ROW - len(whole)) if broken.is_open else []
            taken += more
            if not more:
                lines.give_back(taken)
                return _against_the_rules(number, _without_end(text), str(broken), dialect)


def _without_end(text: str) -> str:
    return text.removesuffix("\n").removesuffix("\r")


def _until_a_quote(lines: _Numbered, dialect: Dialect, room: int) -> list[str]:
    """The next lines up to one with a quote in it; none, where there is none within the room."""
    taken: list[str] = []
    for line in lines:
        taken.append(line)
        room -= len(line)
        if room < 0:
            break
        if dialect.quote in line:
            return taken
    lines.give_back(taken)
    return []


def _against_the_rules(number: int, body: str, fault: str, dialect: Dialect) -> Line:
    if not dialect.strict and not _no_text(body):
        return Line(Kind.ROW, number, body, _fields(body, dialect, strict=False))
    advice = "double the quotes inside of a quoted field, or say `strict: false` or `quote: none` under `read`"
    return Line(Kind.BROKEN, number, body, [], fault=fault if "encoding" in fault else f"{fault}; {advice}")


def _fields(text: str, dialect: Dialect, *, strict: bool = True) -> list[str]:
    fault = _no_text(text)
    if fault:
        raise _Broken(fault)
    fields: list[str] = []
    at = 0
    while True:
        field, at = _field(text, at, dialect) or _plain_field(text, at, len(fields) + 1, dialect, strict)
        fields.append(field)
        if at >= len(text):
            return fields
        at += len(dialect.delimiter)


def _field(text: str, at: int, dialect: Dialect) -> tuple[str, int] | None:
    """A quoted field and where it ends; None where there is no whole one."""
    found = dialect.closed.match(text, at)
    if found is None:
        return None
    inner = found[1]
    return (dialect.escaped.sub(r"\1", inner) if dialect.escape in inner else inner), found.end()


def _plain_field(text: str, at: int, number: int, dialect: Dialect, strict: bool) -> tuple[str, int]:
    opened = dialect.opened.match(text, at) if strict else None
    if opened and text[opened.end() : opened.end() + 1] != dialect.quote:
        raise _Broken(f"the quote that opens field {number} is never closed", is_open=True)
    if opened:
        after = text[opened.end() + 1 :].splitlines()[0][:20]
        raise _Broken(f"field {number} goes on after its closing quote, with {after!r}")
    end = text.find(dialect.delimiter, at)
    end = len(text) if end < 0 else end
    return text[at:end], end


def _no_text(body: str) -> str | None:
    if "\0" in body:
        return f"sign {body.index(chr(0)) + 1} is a NUL byte: the file is damaged, or in another `encoding`"
    found = None if body.isascii() else _UNDECODED.search(body)
    if found is None:
        return None
    raw = found[0].encode("utf-8", "surrogateescape")
    shown = "" if UNDECODED.encode("utf-8", "surrogatepass") in raw else f" (bytes {raw[:8].hex(' ')})"
    return (
        f"sign {found.start() + 1}{shown} is no text in this encoding: say which one it is (`encoding:` under `read`)"
    )

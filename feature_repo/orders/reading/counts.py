"""How many lines and delimiters a file has, counted on its bytes, to check that a reader left none of them out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

_BLOCK_BYTES = 1 << 18


@dataclass(slots=True)
class Counts:
    """What occurs in a file from a line on.

    Attributes
    ----------
    lines : int
        Physical lines, each ended by `\\n`, `\\r\\n`, `\\r` or the end of the file.
    returns, returns_with_newline : int
        `\\r`, and those of them before a `\\n`.
    delimiters : int
        First bytes of a delimiter.
    has_nul, has_quote, has_comment : bool
    trailing_blank : int
        Empty lines at the end.
    """

    newlines: int = 0
    returns: int = 0
    returns_with_newline: int = 0
    delimiters: int = 0
    has_nul: bool = False
    has_quote: bool = False
    has_comment: bool = False
    trailing_blank: int = 0
    ends_open: bool = False

    @property
    def lines(self) -> int:
        return self.newlines + self.returns - self.returns_with_newline + self.ends_open

    @property
    def has_one_line_end(self) -> bool:
        """Whether all lines end in the same way, by `\\n` or by `\\r\\n`."""
        return self.returns == self.returns_with_newline and self.returns in (0, self.newlines)


def count(path: Path, start: int, delimiter: str, quote: str, comment: str) -> Counts:
    """Count what is in a file from the byte `start` on."""
    counts = Counts()
    quote_byte, comment_start = quote.encode(), b"\n" + comment.encode()
    sign = delimiter.encode()[0]
    before = b"\n"
    with path.open("rb") as file:
        file.seek(start)
        while block := file.read(_BLOCK_BYTES):
            values = np.frombuffer(block, np.uint8)
            counts.newlines += int(np.count_nonzero(values == 10))
            counts.delimiters += int(np.count_nonzero(values == sign))
            counts.has_nul |= b"\0" in block
            counts.has_quote |= bool(quote) and quote_byte in block
            counts.has_comment |= bool(comment) and comment_start in before + block
            if b"\r" in block or before.endswith(b"\r"):
                joined = before[-1:] + block
                counts.returns += block.count(b"\r")
                counts.returns_with_newline += joined.count(b"\r\n")
            before = block[-len(comment_start) :]
    counts.ends_open = before != b"\n" and not before.endswith((b"\n", b"\r"))
    counts.trailing_blank = _trailing_blank(path, start)
    return counts


def _trailing_blank(path: Path, start: int) -> int:
    with path.open("rb") as file:
        file.seek(max(start, path.stat().st_size - 4096))
        tail = file.read()
    ends = tail[len(tail.rstrip(b"\r\n")) :]
    return max(ends.count(b"\n") - 1, 0)

"""Pieces of SQL."""

from __future__ import annotations


def quoted(name: str) -> str:
    """A name as a SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def file_name(path: str) -> str:
    """A path as a SQL string that stands for this one file, whatever signs of a pattern are in its name."""
    return literal("".join(f"[{sign}]" if sign in "*?[" else sign for sign in path))


def literal(value: str) -> str:
    """Text as a SQL string."""
    return "'" + value.replace("'", "''") + "'"

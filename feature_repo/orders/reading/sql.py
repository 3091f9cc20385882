"""Pieces of SQL."""

from __future__ import annotations


def quoted(name: str) -> str:
    """A name as a SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(value: str) -> str:
    """Text as a SQL string."""
    return "'" + value.replace("'", "''") + "'"

"""Numbers, truth values and words in SQL: text is read only as what it plainly is."""

from __future__ import annotations

from feature_repo.orders.conversion.expressions import Source

_WHOLE_KINDS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT")
_NUMBER_KINDS = (*_WHOLE_KINDS, "UHUGEINT", "DOUBLE", "FLOAT")


def number(name: str) -> str:
    """SQL: a number, null if it is none. The engine would take `1_000` as 1000, and `nan` and `inf` as numbers."""
    return f"CASE WHEN NOT contains(text_{name}, '_') THEN TRY_CAST(text_{name} AS DOUBLE) END"


def is_number(source: Source) -> bool:
    """Whether the engine has a number for it already."""
    return source.kind in _NUMBER_KINDS or source.kind.startswith("DECIMAL")


def truth(name: str, source: Source) -> str:
    """SQL: a truth value, null if it is none. Of numbers 0 and 1 only: the engine takes 2 and 0.5 as true, too."""
    if source.kind == "BOOLEAN":
        return f"raw_{name}"
    if is_number(source):
        return f"CASE raw_{name} WHEN 0 THEN false WHEN 1 THEN true END"
    return f"TRY_CAST(text_{name} AS BOOLEAN)"

"""Numbers, truth values and words in SQL: text is read only as what it plainly is."""

from __future__ import annotations

from feature_repo.orders.conversion.expressions import Source
from feature_repo.orders.mapping_file import Read
from feature_repo.orders.reading.numbers import number_of

_WHOLE_KINDS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT")
_NUMBER_KINDS = (*_WHOLE_KINDS, "UHUGEINT", "DOUBLE", "FLOAT")


def number(name: str, source: Source, read: Read) -> str:
    """SQL: a number, null if it is none. The engine would take `1_000` as 1000."""
    value = number_of(f"text_{name}", read) if is_text_of_file(source) else f"TRY_CAST(text_{name} AS DOUBLE)"
    return f"CASE WHEN NOT contains(text_{name}, '_') THEN {value} END"


def is_text_of_file(source: Source) -> bool:
    """Whether a value is as the file has it: what an expression makes has SQL's own decimal point."""
    return source.kind == "VARCHAR" and not source.can_fail


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

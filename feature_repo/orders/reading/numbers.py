"""Numbers in text, with the decimal and thousands signs of the mapping."""

from __future__ import annotations

import re

from feature_repo.orders.mapping_file import Read
from feature_repo.orders.reading.sql import literal

_ALIKE = {" ": " \u00a0\u202f\u2009", "'": "'\u2019"}
"""Signs that a typesetter writes for another."""


def number_of(text: str, read: Read) -> str:
    """SQL: the number that a text is, null where it is none with these signs.

    Thousands signs have to part groups of three digits: 21.50 is not 2150 where the point parts thousands.
    """
    if read.decimal == "." and read.thousands is None:
        return f"TRY_CAST({text} AS DOUBLE)"
    decimal, groups = _class(read.decimal), "" if read.thousands is None else _class(read.thousands)
    grouped = rf"|\d{{1,3}}(?:{groups}\d{{3}})+" if groups else ""
    pattern = literal(rf"[+-]?(?:\d*{grouped})(?:{decimal}\d*)?(?:[eE][+-]?\d+)?")
    plain = f"regexp_replace({text}, {literal(groups)}, '', 'g')" if groups else text
    number = f"TRY_CAST(regexp_replace({plain}, {literal(decimal)}, '.') AS DOUBLE)"
    return f"CASE WHEN regexp_full_match({text}, {pattern}) THEN {number} END"


def number_advice(text: str, read: Read) -> str:
    """SQL: what to do about a text that is no number with these signs, empty where nothing is to be said."""
    if read.decimal != "." or read.thousands is not None:
        thousands = f" and the thousands sign {read.thousands}" if read.thousands else ""
        return literal(f" with the decimal sign {read.decimal}{thousands}")
    advice = literal('; if the comma is its decimal sign, say `decimal: ","` under `read`')
    return rf"CASE WHEN regexp_full_match({text}, '[-+]?[\d. ]*,\d+') THEN {advice} ELSE '' END"


def _class(sign: str) -> str:
    return f"[{re.escape(_ALIKE.get(sign, sign))}]".replace("\\ ", " ")

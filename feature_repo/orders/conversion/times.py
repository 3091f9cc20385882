"""Times in SQL: which format reads a text, what unit a number has, and whether a value says itself in which zone it is.

A value is *naive* when the mapping's zone says which instant it is, *zoned* when it says so itself (an offset, `Z`, a
type with a zone, a number of seconds since 1970).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from feature_repo.orders.conversion import clocks
from feature_repo.orders.conversion.expressions import Source
from feature_repo.orders.conversion.values import is_number
from feature_repo.orders.mapping_file import UNIX_FORMATS, MappingError
from feature_repo.orders.source import literal

EARLIEST, LATEST = datetime(1970, 1, 1), datetime(2100, 1, 1)  # noqa: DTZ001  in UTC, as SQL says below
"""A time outside is a parsing accident; as the first of all it would start a backfill decades ago."""
_ZONED_KINDS = ("TIMESTAMP WITH TIME ZONE", "TIMESTAMPTZ_NS")
_FIRST_UNIX_YEAR = 1990
"""From it to 2100 the numbers of seconds, milliseconds, micro- and nanoseconds have no value in common."""
AMBIGUOUS_FORMAT, WRONG_UNIT = "ambiguous_time", "wrong_time_unit"
_TIME_ZONE = r"\d:\d\d(?::\d\d(?:[.,]\d+)?)?\s*(?:[zZ]|UTC|GMT|[+-]\d\d(?::?\d\d){0,2})$"
_NAIVE = r"[0-9Tt/ -]*:\d\d(?::\d\d(?:[.,]\d+)?)?"
_DATE = r"[0-9/-]+"
_NAMED_ZONE, _UTC = r"\d\s*[A-Za-z][A-Za-z_/]+$", r"(?i)\d\s*(?:utc|gmt)$"
_MICROSECONDS = {"unix": 1_000_000.0, "unix_ms": 1_000.0, "unix_us": 1.0, "unix_ns": 0.001}


@dataclass(frozen=True, slots=True)
class Times:
    """How the times of one source are read.

    Attributes
    ----------
    zone : str
        Of naive times.
    formats : tuple of str
        In the order of preference: where two read a value differently, the first of them is meant.
    undecided : tuple of pairs of str
        Formats that read some value of the source differently, of which nothing says which is meant.
    choices : dict of str to str
        What a local time in a repeated or skipped hour becomes; see `clocks.instant`.
    """

    zone: str
    formats: tuple[str, ...] = ()
    undecided: tuple[tuple[str, str], ...] = ()
    choices: dict[str, str] = field(default_factory=dict)

    @property
    def has_odd_hours(self) -> bool:
        """Whether the zone repeats or skips any."""
        return bool(clocks.odd_hours(self.zone))


def has_zone(form: str) -> bool:
    """Whether what a format reads is an instant by itself."""
    return form in UNIX_FORMATS or "%z" in form or "%Z" in form


def read_by(text: str, form: str) -> str:
    """SQL: text in one format as an instant, null if it does not fit or is no instant that an order has."""
    if form in UNIX_FORMATS:
        return unix(text, form)
    value = f"CAST(try_strptime({text}, {literal(form)}) AS TIMESTAMPTZ)"
    return f"CASE WHEN {is_possible(value)} THEN {value} END"


def is_possible(value: str) -> str:
    """SQL: whether an instant is one that an order may have."""
    return f"{value} >= TIMESTAMPTZ '{EARLIEST}+00' AND {value} < TIMESTAMPTZ '{LATEST}+00'"


def unix(value: str, form: str, is_text: bool = True) -> str:
    """SQL: a number of units since 1970 as an instant, null for a number that another unit is meant by."""
    factor, number = _MICROSECONDS[form], f"TRY_CAST({value} AS DOUBLE)"
    first = (datetime(_FIRST_UNIX_YEAR, 1, 1) - EARLIEST).total_seconds() * 1e6 / factor  # noqa: DTZ001
    last = (LATEST - EARLIEST).total_seconds() * 1e6 / factor
    plain = f" AND NOT regexp_matches({value}, '[_eE]')" if is_text else ""
    fits = f"{number} >= {first:.0f} AND {number} < {last:.0f}{plain}"
    return f"CASE WHEN {fits} THEN make_timestamptz(CAST(round({number} * {factor}) AS BIGINT)) END"


def is_number_of_units(name: str, source: Source, times: Times) -> bool:
    """Whether a column holds units since 1970, which the formats must allow.

    Raises
    ------
    MappingError
        It is neither that, nor text, nor a time.
    """
    if source.is_null or source.kind == "VARCHAR" or source.kind.startswith(("TIMESTAMP", "DATE")):
        return False
    if is_number(source) and source.kind != "FLOAT" and set(times.formats) & set(UNIX_FORMATS):
        return True
    raise MappingError(
        f"columns.{name}: {source.text!r} has type {source.kind}, which is no time; if these are seconds "
        f"or milliseconds since 1970, add `time: {{formats: [unix]}}`, or another of {list(UNIX_FORMATS)}"
    )


def local(name: str, source: Source, times: Times) -> str:
    """SQL: the wall time of a naive value, null for other values."""
    if source.kind.startswith("TIMESTAMP") and source.kind not in _ZONED_KINDS:
        return f"CAST(raw_{name} AS TIMESTAMP)"
    if source.kind != "VARCHAR":
        return "CAST(NULL AS TIMESTAMP)"
    text = f"text_{name}"
    if not times.formats:
        return f"CASE WHEN regexp_full_match({text}, {literal(_NAIVE)}) THEN TRY_CAST({text} AS TIMESTAMP) END"
    read = [f"try_strptime({text}, {literal(form)})" for form in times.formats if not has_zone(form)]
    first = _first_possible(read)
    return f"CASE WHEN {_undecided(text, times)} THEN NULL ELSE {first} END" if times.undecided else first


def instant(name: str, source: Source, times: Times, unit: bool) -> str:
    """SQL: a value as an instant, from `raw_`, `text_`, `local_` and, where the zone has odd hours, `hour_`."""
    naive = f"CAST(local_{name} AS TIMESTAMPTZ)"
    if times.has_odd_hours:
        naive = clocks.instant(name, times.choices)
    zoned = _zoned(name, source, times, unit)
    return f"CASE WHEN local_{name} IS NOT NULL THEN {naive} ELSE {zoned} END" if zoned else naive


def rule(name: str, source: Source, times: Times) -> str:
    """SQL: the rule that a value breaks which is no instant."""
    rules = [f"hour_{name}"] if times.has_odd_hours else []
    if times.undecided and source.kind == "VARCHAR":
        rules.append(f"CASE WHEN {_undecided(f'text_{name}', times)} THEN '{AMBIGUOUS_FORMAT}' END")
    if set(times.formats) & set(UNIX_FORMATS):
        rules.append(f"CASE WHEN {_other_unit(name, times)} IS NOT NULL THEN '{WRONG_UNIT}' END")
    return f"coalesce({', '.join([*rules, literal('unparsable')])})"


def reason(name: str, source: Source, times: Times) -> str:
    """SQL: what is wrong with such a value, to be read after it."""
    plain = literal(f" is no time{f' in the formats {list(times.formats)}' if times.formats else ''}")
    reasons = []
    if times.has_odd_hours:
        reasons.append(f"WHEN hour_{name} = '{clocks.AMBIGUOUS}' THEN {literal(_repeated(times.zone))}")
        reasons.append(f"WHEN hour_{name} = '{clocks.NONEXISTENT}' THEN {literal(_skipped(times.zone))}")
    if source.kind == "DATE":
        return literal(_ONLY_A_DATE)
    if source.kind == "VARCHAR":
        reasons += [_two_readings(f"text_{name}", pair) for pair in times.undecided]
        if not times.formats or any("%Z" in form for form in times.formats):
            reasons.append(f"WHEN {_names_zone(f'text_{name}')} THEN {literal(_ABBREVIATION)}")
    if source.kind == "VARCHAR" and not times.formats:
        reasons.append(f"WHEN {_is_date(f'text_{name}')} THEN {literal(_ONLY_A_DATE)}")
    if set(times.formats) & set(UNIX_FORMATS):
        unit = _other_unit(name, times)
        told = f"concat({plain}, ': as ', {unit}, ' it would be one between {_FIRST_UNIX_YEAR} and {LATEST.year}')"
        reasons.append(f"WHEN {unit} IS NOT NULL THEN {told}")
    return f"CASE {' '.join(reasons)} ELSE {plain} END" if reasons else plain


_ONLY_A_DATE = (
    " is a date without a time of day: map a column that has both, or, if midnight is what is meant, write "
    "CAST(column AS TIMESTAMP)"
)
_ABBREVIATION = (
    " names its zone, and most such names stand for several: write an offset such as +02:00, or UTC, or make it a time "
    "with an expression"
)


def _repeated(zone: str) -> str:
    return (
        f" is an hour that the clocks of {zone} have twice: export UTC or an offset, or say which one is meant with "
        "`time: {ambiguous: earlier}` or `later` (ALLOW=ambiguous=later for one ingestion)"
    )


def _skipped(zone: str) -> str:
    return (
        f" is an hour that the clocks of {zone} skip: export UTC or an offset, or say what is meant with "
        "`time: {nonexistent: earlier}` or `later` (ALLOW=nonexistent=later for one ingestion)"
    )


def _first_possible(values: list[str]) -> str:
    """SQL: the first of several local times that is in the years that an order may have."""
    kept = [f"CASE WHEN {value} >= TIMESTAMP '{EARLIEST}' THEN {value} END" for value in values]
    return f"coalesce({', '.join(kept)}, NULL)" if len(values) > 1 else (values or ["CAST(NULL AS TIMESTAMP)"])[0]


def _zoned(name: str, source: Source, times: Times, unit: bool) -> str:
    """SQL: a value that says itself which instant it is; empty if no value of the column can."""
    if unit:
        units = [unix(f"raw_{name}", form, is_text=False) for form in times.formats if form in UNIX_FORMATS]
        return f"coalesce({', '.join(units)}, NULL)"
    if source.kind in _ZONED_KINDS:
        return f"CAST(raw_{name} AS TIMESTAMPTZ)"
    if source.kind != "VARCHAR":
        return ""
    text = f"text_{name}"
    if not times.formats:
        return f"CASE WHEN regexp_matches({text}, {literal(_TIME_ZONE)}) THEN TRY_CAST({text} AS TIMESTAMPTZ) END"
    read = [read_by(text, form) for form in times.formats if has_zone(form)]
    value = f"coalesce({', '.join(read)}, NULL)" if read else ""
    return f"CASE WHEN {_in_doubt(text, times)} THEN NULL ELSE {value} END" if read else ""


def _in_doubt(text: str, times: Times) -> str:
    """SQL: whether nothing says which instant a text is, although a format with a zone fits."""
    doubts = [_names_zone(text)] if any("%Z" in form for form in times.formats) else []
    return " OR ".join([*doubts, *([_undecided(text, times)] if times.undecided else [])]) or "false"


def _undecided(text: str, times: Times) -> str:
    """SQL: whether two formats read a text differently, and nothing says which is meant."""
    pairs = (f"coalesce({read_by(text, first)} <> {read_by(text, second)}, false)" for first, second in times.undecided)
    return f"({' OR '.join(pairs)})"


def _two_readings(text: str, pair: tuple[str, str]) -> str:
    first, second = (f"timezone('UTC', {read_by(text, form)})" for form in pair)
    told = (
        f"concat(' is ', {first}, ' UTC in the format ', {literal(pair[0])}, ' and ', {second}, ' UTC in ', "
        f"{literal(pair[1])}, ': leave one of them in time.formats, or say ALLOW=formats=...')"
    )
    return f"WHEN {first} <> {second} THEN {told}"


def _other_unit(name: str, times: Times) -> str:
    """SQL: the unit, none of the mapping's, in which a number would be an instant."""
    others = [form for form in UNIX_FORMATS if form not in times.formats]
    cases = (f"WHEN {unix(f'text_{name}', form)} IS NOT NULL THEN '{form}'" for form in others)
    return f"CASE {' '.join(cases)} END" if others else "CAST(NULL AS VARCHAR)"


def _is_date(text: str) -> str:
    """SQL: whether a text is a date and nothing else."""
    return f"(regexp_full_match({text}, {literal(_DATE)}) AND TRY_CAST({text} AS DATE) IS NOT NULL)"


def _names_zone(text: str) -> str:
    return f"(regexp_matches({text}, {literal(_NAMED_ZONE)}) AND NOT regexp_matches({text}, {literal(_UTC)}))"

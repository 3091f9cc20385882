"""Local hours that the clocks of a zone repeat or skip: when they are, and what a local time in one of them becomes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

import duckdb

TABLE = "odd_hours"
AMBIGUOUS, NONEXISTENT = "ambiguous_local_time", "nonexistent_local_time"
_FIRST, _LAST = datetime(1970, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
_SECOND, _HOUR = timedelta(seconds=1), timedelta(hours=1)
_STEP = timedelta(days=4)
"""No zone changes its clocks and changes them back within it."""


@dataclass(frozen=True, slots=True)
class OddHours:
    """The local times `start <= t < end` that a zone has twice (`ambiguous_local_time`) or never."""

    rule: str
    start: datetime
    end: datetime


@lru_cache
def odd_hours(zone: str) -> tuple[OddHours, ...]:
    """All of a zone between 1970 and 2100, in order; none for a zone whose clocks nobody sets."""
    return tuple(_odd_hours(ZoneInfo(zone)))


def _odd_hours(zone: ZoneInfo) -> Iterator[OddHours]:
    day = _FIRST
    while day < _LAST:
        before, after = _offset(zone, day), _offset(zone, day + _STEP)
        if before != after:
            change = _change(zone, day).replace(tzinfo=None)
            start, end = sorted((change + before, change + after))
            yield OddHours(AMBIGUOUS if after < before else NONEXISTENT, start, end)
        day += _STEP


def _offset(zone: ZoneInfo, instant: datetime) -> timedelta:
    return instant.astimezone(zone).utcoffset() or timedelta()


def _change(zone: ZoneInfo, day: datetime) -> datetime:
    """The first second of a new offset within a step that begins with another."""
    low, high, before = day, day + _STEP, _offset(zone, day)
    while high - low > _SECOND:
        middle = low + (high - low) // 2 // _SECOND * _SECOND
        low, high = (middle, high) if _offset(zone, middle) == before else (low, middle)
    return high


def note_odd_hours(connection: duckdb.DuckDBPyConnection, zone: str) -> None:
    """Make the table `odd_hours`: each full hour that odd local times touch, with their rule, bounds and width."""
    connection.execute(
        f"CREATE TABLE {TABLE} (hour TIMESTAMP, rule VARCHAR, first TIMESTAMP, until TIMESTAMP, width INTERVAL)"
    )
    rows = ", ".join(
        f"(TIMESTAMP '{hour}', '{odd.rule}', TIMESTAMP '{odd.start}', TIMESTAMP '{odd.end}', "
        f"to_seconds({(odd.end - odd.start) // _SECOND}))"
        for odd in odd_hours(zone)
        for hour in _full_hours(odd)
    )
    connection.execute(f"INSERT INTO {TABLE} VALUES {rows}")


def joins(names: Iterable[str]) -> str:
    """SQL: what to join to rows with `local_<name>`, so that `rule_of` and `width_of` can be asked."""
    return "".join(
        f" LEFT JOIN {TABLE} AS odd_{name} ON odd_{name}.hour = date_trunc('hour', local_{name})" for name in names
    )


def rule_of(name: str) -> str:
    """SQL: the rule under which a local time is refused; null for an hour that there is once."""
    return f"CASE WHEN local_{name} >= odd_{name}.first AND local_{name} < odd_{name}.until THEN odd_{name}.rule END"


def width_of(name: str) -> str:
    """SQL: by how much the clocks are set then."""
    return f"odd_{name}.width"


def instant(name: str, choices: dict[str, str]) -> str:
    """SQL: a local time as an instant, from `local_<name>`, `hour_<name>` (its rule) and `width_<name>`.

    Parameters
    ----------
    choices : dict of str to str
        By rule `earlier`, `later` or `refuse` (the result is null then). A time that is skipped has two readings as
        well: by the offset before the change and by the one after it.

    Notes
    -----
    The engine itself takes the later reading in both cases, as ICU does by default.
    """
    later = f"CAST(local_{name} AS TIMESTAMPTZ)"
    readings = {"later": later, "earlier": f"{later} - width_{name}", "refuse": "NULL"}
    cases = " ".join(f"WHEN '{rule}' THEN {readings[choice]}" for rule, choice in choices.items())
    return f"CASE hour_{name} {cases} ELSE {later} END"


def _full_hours(odd: OddHours) -> Iterator[datetime]:
    hour = odd.start.replace(minute=0, second=0)
    while hour < odd.end:
        yield hour
        hour += _HOUR

"""Local hours that the clocks of a zone repeat or skip: when they are, and what a local time in one of them becomes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

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


def rule_of(local: str, zone: str) -> str:
    """SQL: the rule under which a local time is refused; null for an hour that there is once."""
    cases = " ".join(f"WHEN {_within(local, hours)} THEN '{hours.rule}'" for hours in odd_hours(zone))
    return f"CASE WHEN date_trunc('hour', {local}) IN ({_full_hours(zone)}) THEN CASE {cases} END END"


def instant(local: str, rule: str, zone: str, choices: dict[str, str]) -> str:
    """SQL: a local time as an instant.

    Parameters
    ----------
    local, rule : str
        SQL of the local time and of what `rule_of` gave for it.
    choices : dict of str to str
        By rule `earlier`, `later` or `refuse` (the result is null then). A time that is skipped has two readings as
        well: by the offset before the change and by the one after it.

    Notes
    -----
    The engine itself takes the later reading in both cases, as ICU does by default.
    """
    widths = " ".join(
        f"WHEN {_within(local, hours)} THEN to_seconds({(hours.end - hours.start) // _SECOND})"
        for hours in odd_hours(zone)
    )
    later = f"CAST({local} AS TIMESTAMPTZ)"
    readings = {"later": later, "earlier": f"{later} - CASE {widths} END", "refuse": "NULL"}
    cases = " ".join(f"WHEN '{name}' THEN {readings[choice]}" for name, choice in choices.items())
    return f"CASE {rule} {cases} ELSE {later} END"


def _within(local: str, hours: OddHours) -> str:
    return f"{local} >= TIMESTAMP '{hours.start}' AND {local} < TIMESTAMP '{hours.end}'"


def _full_hours(zone: str) -> str:
    """The full hours that odd ones touch: one look into a table tells nearly all times that they are none."""
    found: dict[datetime, None] = {}
    for hours in odd_hours(zone):
        hour = hours.start.replace(minute=0, second=0)
        while hour < hours.end:
            found[hour] = None
            hour += _HOUR
    return ", ".join(f"TIMESTAMP '{hour}'" for hour in found)

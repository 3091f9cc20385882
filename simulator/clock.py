"""Instants as datetimes, microseconds and hour numbers since 1970, all UTC. Nothing here reads a clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from simulator.errors import SimulatorError

__all__ = ["DAY_US", "HOUR_US", "MINUTE_US", "as_utc", "ceil_hour", "instant", "microseconds"]

MINUTE_US = 60_000_000
HOUR_US = 60 * MINUTE_US
DAY_US = 24 * HOUR_US

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def as_utc(when: datetime | str) -> datetime:
    """`when` (a datetime or ISO 8601 text) in UTC.

    Raises
    ------
    SimulatorError
        It is no instant, or has no time zone.
    """
    try:
        parsed = datetime.fromisoformat(when) if isinstance(when, str) else when
    except ValueError as error:
        raise SimulatorError(f"{when!r} is no ISO 8601 instant: write for example 2026-05-01T12:00+00:00") from error
    if parsed.tzinfo is None:
        raise SimulatorError(f"{when!s} has no time zone: write it with one, for example {parsed.isoformat()}+00:00")
    return parsed.astimezone(UTC)


def microseconds(when: datetime) -> int:
    """Whole microseconds since 1970."""
    return (when - _EPOCH) // timedelta(microseconds=1)


def instant(us: int) -> datetime:
    """The datetime of `us` microseconds since 1970."""
    return _EPOCH + timedelta(microseconds=us)


def ceil_hour(us: int) -> int:
    """Number of the first full hour at or after `us`."""
    return -(-us // HOUR_US)

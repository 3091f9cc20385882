"""Half-open windows of time: the argument that every pipeline step takes instead of reading a clock."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import ClassVar

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


def as_utc(instant: datetime | str) -> datetime:
    """`instant` (a datetime or ISO 8601 text) in UTC.

    Raises
    ------
    ValueError
        The instant is naive: a guess at its zone would shift every window silently.
    """
    parsed = datetime.fromisoformat(instant) if isinstance(instant, str) else instant
    if parsed.tzinfo is None:
        raise ValueError(f"{instant!s} has no time zone: write it with one, for example {instant!s}+00:00")
    # Rebuilt as a plain datetime: a subclass (Airflow hands out pendulum's) may lose its zone in arithmetic.
    in_utc = parsed.astimezone(UTC)
    return datetime(*in_utc.timetuple()[:6], in_utc.microsecond, tzinfo=UTC)


def floor_hour(instant: datetime) -> datetime:
    """The last full hour at or before `instant`, in UTC."""
    return floor(instant, HOUR)


def floor(instant: datetime, step: timedelta) -> datetime:
    """The last multiple of `step` since midnight at or before `instant`, in UTC."""
    in_utc = as_utc(instant)
    midnight = in_utc.replace(hour=0, minute=0, second=0, microsecond=0)
    return midnight + (in_utc - midnight) // step * step


@dataclass(frozen=True, slots=True)
class Window:
    """The instants `start <= t < end`, both in UTC and on the full hour.

    Raises
    ------
    ValueError
        A bound is naive or not on the full hour, or `end` is not after `start`.
    """

    start: datetime
    end: datetime
    unit: ClassVar[tuple[str, timedelta]] = "hour", HOUR

    def __post_init__(self) -> None:
        object.__setattr__(self, "start", as_utc(self.start))
        object.__setattr__(self, "end", as_utc(self.end))
        name_of_unit, length = self.unit
        for name in ("start", "end"):
            bound = getattr(self, name)
            if bound != floor(bound, length):
                raise ValueError(f"window {name} {bound.isoformat()} is not on the full {name_of_unit}")
        if self.end <= self.start:
            raise ValueError(f"window ends at {self.end.isoformat()}, not after its start {self.start.isoformat()}")

    @classmethod
    def last(cls, span: timedelta, end: datetime) -> Window:
        """The window of length `span` that ends at `end`."""
        return cls(as_utc(end) - span, end)

    @property
    def slug(self) -> str:
        """A name for files, for example `20260501T00_20260502T00`."""
        return f"{self.start:%Y%m%dT%H}_{self.end:%Y%m%dT%H}"

    def days(self) -> Iterator[datetime]:
        """Midnight of each UTC day that the window touches, in order."""
        day = floor(self.start, DAY)
        while day < self.end:
            yield day
            day += DAY

    def hours(self) -> Iterator[Window]:
        """The window hour by hour, in order."""
        start = self.start
        while start < self.end:
            yield Window(start, start + HOUR)
            start += HOUR

    def __str__(self) -> str:
        return f"[{self.start:%Y-%m-%d %H:%M}, {self.end:%Y-%m-%d %H:%M}) UTC"


class Moments(Window):
    """As `Window`, with bounds on full minutes: what happens between two hourly runs."""

    unit = "minute", MINUTE

    @property
    def slug(self) -> str:
        """A name for files, for example `20260501T0005_20260501T0010`."""
        return f"{self.start:%Y%m%dT%H%M}_{self.end:%Y%m%dT%H%M}"

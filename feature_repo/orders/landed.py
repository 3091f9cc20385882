"""Which days of the landing folder have been read to their end, so that a file is read whenever it comes.

A run reads the days of the lateness horizon before its window. Of each older day it is noted what its folder held when
it was read; a day whose folder holds something else is read again, and its rows are counted against what is recorded.
So a file that comes weeks behind its orders is found by the next run, and nothing else is read twice.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from config import Settings
from feature_repo.files import write_atomically
from feature_repo.orders.watermark import LandingError
from feature_repo.window import DAY, MINUTE, Moments, Window, as_utc

_PREFIX = "day="


@dataclass(frozen=True, slots=True)
class Landed:
    """What accepted runs have read of the landing folder.

    Attributes
    ----------
    since : datetime, optional
        The first hour that was recorded: what had landed of before it then is left out, not late. None before that.
    days : mapping of datetime to str
        By midnight, the fingerprint of the files of a day that was read to its end.
    late : mapping of datetime to tuple of datetime
        By midnight, the starts of the windows that took versions from the day when it lay beyond their horizon.
    left_out : mapping of datetime to frozenset of str
        By midnight, of days before `since`: the files that had landed by then, each with its size and time of change.
    """

    since: datetime | None = None
    days: Mapping[datetime, str] = field(default_factory=dict)
    late: Mapping[datetime, tuple[datetime, ...]] = field(default_factory=dict)
    left_out: Mapping[datetime, frozenset[str]] = field(default_factory=dict)

    def unread(
        self, listing: Mapping[datetime, str], between: tuple[datetime, datetime], window: Window
    ) -> list[datetime]:
        """The days, of those between two instants, that hold something else than when they were read, or of which
        this window took versions before."""
        first, end = between
        return [
            day
            for day, found in listing.items()
            if first < day + DAY and day < end and (self.days.get(day) != found or self._taken_in(day, window))
        ]

    def untold(self, listing: Mapping[datetime, str], before: datetime, window: Window) -> list[datetime]:
        """The same of days before the first recorded hour: those to which files came after that."""
        return [day for day in self.unread(listing, (datetime.min.replace(tzinfo=UTC), before), window) if self.since]

    def records_of(self, days: Collection[datetime]) -> Iterator[Window]:
        """The moments at which windows recorded versions of these days that lay beyond their horizon."""
        for start in sorted({start for day in days for start in self.late.get(day, ())}):
            yield Moments(start, start + MINUTE)

    def to_dict(self) -> dict[str, Any]:
        """The same with JSON types."""
        return {
            "since": self.since and self.since.isoformat(),
            "days": {day.isoformat(): found for day, found in self.days.items()},
            "late": {day.isoformat(): [start.isoformat() for start in starts] for day, starts in self.late.items()},
            "left_out": {day.isoformat(): sorted(files) for day, files in self.left_out.items()},
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Landed:
        """What `to_dict` wrote."""
        return cls(
            content["since"] and as_utc(content["since"]),
            {as_utc(day): str(found) for day, found in content["days"].items()},
            {as_utc(day): tuple(map(as_utc, starts)) for day, starts in content["late"].items()},
            {as_utc(day): frozenset(files) for day, files in content["left_out"].items()},
        )

    def _taken_in(self, day: datetime, window: Window) -> bool:
        return any(window.start <= start < window.end for start in self.late.get(day, ()))


def list_days(settings: Settings) -> dict[datetime, str]:
    """By midnight, in order, a fingerprint of the names, sizes and times of change of the files of each day.

    Raises
    ------
    LandingError
        There are Parquet files where nobody reads them: beside the folders of days, or in one that names no day.
    """
    try:
        entries = sorted(os.scandir(settings.landing_orders), key=lambda entry: entry.name)
    except FileNotFoundError:
        return {}
    days: dict[datetime, str] = {}
    for entry in entries:
        if entry.is_dir() and not entry.name.startswith("."):
            files = _files(Path(entry.path))
            if files:
                days[_day(entry)] = hashlib.blake2b(repr(files).encode(), digest_size=8).hexdigest()
        elif entry.is_file() and _is_parquet(entry.name):
            raise LandingError(
                f"{entry.path} is in no folder of a day, where nobody reads it: move it to "
                f"{settings.landing_orders}/{_PREFIX}YYYY-MM-DD, the UTC day of its arrival"
            )
    return days


def read_landed(settings: Settings) -> Landed:
    """What has been read so far; nothing in a lake from before it was noted.

    That is no loss: each day is then read once more, and what is recorded is not recorded again.

    Raises
    ------
    LandingError
        The note is damaged.
    """
    try:
        return Landed.from_dict(json.loads(_file(settings).read_text()))
    except FileNotFoundError:
        return Landed()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LandingError(
            f"{_file(settings)} is damaged ({error!r}): restore it, or delete it; all days are then read once more"
        ) from error


def files_before(end: datetime, settings: Settings) -> dict[datetime, frozenset[str]]:
    """The files of the days that end by an instant, each as text with its size and time of change."""
    return {
        day: frozenset(repr(file) for file in _files(settings.landing_orders / f"{_PREFIX}{day:%Y-%m-%d}"))
        for day in list_days(settings)
        if day + DAY <= end
    }


def new_files(day: datetime, noted: Landed, settings: Settings) -> list[str]:
    """The names of the files of a day that had not landed, or were others, when the first hour was recorded."""
    files = _files(settings.landing_orders / f"{_PREFIX}{day:%Y-%m-%d}")
    return [file[0] for file in files if repr(file) not in noted.left_out.get(day, ())]


def note_read(window: Window, read: Landed, settings: Settings) -> None:
    """Note what a window has read, after its versions have been recorded. Hold the lock of the tables.

    Parameters
    ----------
    window : Window
    read : Landed
        As `landing.read_window` found it: of `late`, the days from which the window took versions.
    settings : Settings
    """
    before = read_landed(settings)
    since = min(each for each in (window.start, read.since, before.since) if each is not None)
    # A day is read to its end by windows that end after it.
    whole = {day: found for day, found in read.days.items() if day + DAY <= window.end}
    taken = {day: (*before.late.get(day, ()), window.start) for day in read.late}
    left_out = before.left_out if before.since else read.left_out
    noted = Landed(
        since,
        {day: found for day, found in {**before.days, **whole}.items() if day in read.days},
        {**before.late, **{day: tuple(sorted(set(starts))) for day, starts in taken.items()}},
        {day: files for day, files in left_out.items() if day + DAY <= since},
    )
    if noted != before:
        write_atomically(_file(settings), json.dumps(noted.to_dict()) + "\n", durable=True)


def _day(entry: os.DirEntry[str]) -> datetime:
    try:
        day = datetime.strptime(entry.name, f"{_PREFIX}%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        day = None
    if day is None or entry.name != f"{_PREFIX}{day:%Y-%m-%d}":
        raise LandingError(
            f"{entry.path} holds Parquet files, but its name is no day, so nobody reads them: name it "
            f"{_PREFIX}YYYY-MM-DD, for example {_PREFIX}2026-05-01"
        )
    return day


def _files(folder: Path) -> list[tuple[str, int, int]]:
    """Names, sizes and times of change, in order."""
    with os.scandir(folder) as entries:
        found = [(entry.name, entry.stat()) for entry in entries if _is_parquet(entry.name)]
    return sorted((name, about.st_size, about.st_mtime_ns) for name, about in found)


def _is_parquet(name: str) -> bool:
    return name.endswith(".parquet") and not name.startswith(".")


def _file(settings: Settings) -> Path:
    return settings.orders / "_landed.json"

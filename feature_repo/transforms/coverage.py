"""Which hours the tile and feature tables are complete for, so that no run builds on a hole.

A row sums over the tiles of weeks. Were an hour skipped, or computed again with another result, every later row would
be silently wrong; with the covered stretch on record the next run refuses, and says what to run first.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import polars as pl

from config import Settings
from feature_repo.orders.schema import orders_table
from feature_repo.window import DAY, Window, as_utc, floor_hour

CHUNK = 15 * DAY
"""A backfill's memory is that of this much time, whatever the length of the whole."""


class HistoryMissing(RuntimeError):
    """Hours before the window have not been computed, or no longer count; the message says which to run first."""


class HistoryChanged(RuntimeError):
    """Tiles that a computation has read were replaced before it was published."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """The hours `[start, until)` have been computed without a gap.

    Attributes
    ----------
    start, until : datetime
    rewritten : tuple of datetime
        Every time that tiles were replaced by other ones: the first hour that changed.
    """

    start: datetime
    until: datetime
    rewritten: tuple[datetime, ...] = ()


def chunks(window: Window) -> Iterator[Window]:
    """The window in pieces of at most `CHUNK`, in order."""
    start = window.start
    while start < window.end:
        # They end at midnight, so that each leaves a snapshot of the state to the next one.
        end = min((start + CHUNK).replace(hour=0), window.end)
        yield Window(start, end)
        start = end


def read_coverage(settings: Settings) -> Coverage | None:
    """What has been computed; None when nothing has."""
    path = _file(settings)
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text())
        rewritten = tuple(as_utc(hour) for hour in content["rewritten"])
        return Coverage(as_utc(content["start"]), as_utc(content["until"]), rewritten)
    except (ValueError, KeyError, TypeError) as error:
        raise HistoryMissing(f"{path} is damaged ({error!r}): delete it and backfill all hours again") from error


def write_coverage(coverage: Coverage, settings: Settings) -> None:
    """Record what has been computed, in one rename."""
    path = _file(settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "start": coverage.start.isoformat(),
        "until": coverage.until.isoformat(),
        "rewritten": [hour.isoformat() for hour in coverage.rewritten],
    }
    handle, name = tempfile.mkstemp(prefix="._coverage-", suffix=".tmp", dir=path.parent)
    with os.fdopen(handle, "w") as file:
        json.dump(content, file)
    Path(name).replace(path)


def require_history(window: Window, settings: Settings) -> Coverage | None:
    """Make sure that everything before the window has been computed.

    Returns
    -------
    Coverage or None
        What is covered now; None before the first run.

    Raises
    ------
    HistoryMissing
        There is a hole between what is covered and the window, or orders were known before all of it.
    """
    coverage = read_coverage(settings)
    begins = min(window.start, coverage.start) if coverage else window.start
    first = _first_known(settings)
    if first is not None and first < begins:
        raise HistoryMissing(_advice("orders have been known since before the tiles begin", first, window.start))
    if coverage is not None and coverage.until < window.start:
        raise HistoryMissing(_advice("not all hours before the window are computed", coverage.until, window.start))
    return coverage


def _advice(problem: str, start: datetime, end: datetime) -> str:
    return (
        f"{problem}: run `python -m feature_repo backfill {start.isoformat()} {end.isoformat()}` first, or a window "
        "that begins there"
    )


def _first_known(settings: Settings) -> datetime | None:
    files = orders_table(settings).files()
    if not files:
        return None
    first = pl.scan_parquet(files[0], hive_partitioning=False).select(pl.col("known_at").min()).collect().item()
    return floor_hour(first)


def _file(settings: Settings) -> Path:
    return settings.tiles / "_coverage.json"

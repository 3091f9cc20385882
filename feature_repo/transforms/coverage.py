"""Which hours the tile and feature tables are complete for, so that no run builds on a hole.

A row sums over the tiles of weeks. Were an hour skipped, or computed again with another result, every later row would
be silently wrong; with the covered stretch on record the next run refuses, and says what to run first.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl

from config import Settings
from feature_repo.files import write_atomically
from feature_repo.orders.schema import orders_table
from feature_repo.orders.watermark import read_watermark
from feature_repo.transforms.replaced import note_replaced
from feature_repo.transforms.tables import EVENT_TIME, TILE_START
from feature_repo.window import DAY, HOUR, Window, as_utc, floor_hour

logger = logging.getLogger(__name__)

_MICROSECOND = timedelta(microseconds=1)
CHUNK = 15 * DAY
"""A backfill's memory is that of this much time, whatever the length of the whole."""


class HistoryMissing(RuntimeError):
    """Hours before the window have not been computed, or no longer count; the message says which to run first."""


class CoverageLost(HistoryMissing):
    """Tables have rows, and the record of which hours count is missing or damaged; the message says what to run.

    `known` is the stretch of time that the rows are of; None when there are none.
    """

    def __init__(self, message: str, known: Window | None) -> None:
        super().__init__(message)
        self.known = known


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
    unpublished : tuple of Window
        Covered hours of which other orders have been accepted, and the features of these not published since.
    """

    start: datetime
    until: datetime
    rewritten: tuple[datetime, ...] = ()
    unpublished: tuple[Window, ...] = ()

    def __post_init__(self) -> None:
        # Hours that are not covered are computed anyway.
        known = [(max(part.start, self.start), min(part.end, self.until)) for part in self.unpublished]
        object.__setattr__(self, "unpublished", tuple(Window(start, end) for start, end in known if start < end))

    def without(self, window: Window) -> tuple[Window, ...]:
        """What is unpublished beside a window."""
        parts = [
            (part.start, min(part.end, window.start), max(part.start, window.end), part.end)
            for part in self.unpublished
        ]
        pieces = [piece for first, second, third, last in parts for piece in ((first, second), (third, last))]
        return tuple(dict.fromkeys(Window(start, end) for start, end in pieces if start < end))


def chunks(window: Window) -> Iterator[Window]:
    """The window in pieces of at most `CHUNK`, in order."""
    start = window.start
    while start < window.end:
        # They end at midnight, so that each leaves a snapshot of the state to the next one.
        end = min((start + CHUNK).replace(hour=0), window.end)
        yield Window(start, end)
        start = end


def read_coverage(settings: Settings) -> Coverage | None:
    """What has been computed; None when nothing has.

    Raises
    ------
    CoverageLost
        The record is damaged; or it is missing, although tables have rows.
    """
    path = _file(settings)
    try:
        content = json.loads(path.read_text())
        rewritten = tuple(as_utc(hour) for hour in content["rewritten"])
        unpublished = tuple(Window(*bounds) for bounds in content.get("unpublished", ()))
        return Coverage(as_utc(content["start"]), as_utc(content["until"]), rewritten, unpublished)
    except FileNotFoundError:
        if known := _known_rows(settings):
            raise _lost(path, "missing, although tables have rows", known) from None
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise _lost(path, f"damaged ({error!r})", _known_rows(settings)) from error


def begin_anew(window: Window, settings: Settings) -> None:
    """Where the record is lost and a window begins before all rows, let it be the first one that counts.

    Raises
    ------
    CoverageLost
        There are rows before the window.
    """
    from feature_repo.transforms.views import TRANSFORMS

    try:
        read_coverage(settings)
    except CoverageLost as error:
        if error.known is not None and error.known.start < window.start:
            raise
        logger.warning("%s; beginning anew with %s", error, window)
        if error.known is not None:
            note_replaced(TRANSFORMS, error.known.end, settings)
        write_coverage(Coverage(window.start, window.start), settings)


def write_coverage(coverage: Coverage, settings: Settings) -> None:
    """Record what has been computed, in one rename."""
    content = {
        "start": coverage.start.isoformat(),
        "until": coverage.until.isoformat(),
        "rewritten": [hour.isoformat() for hour in coverage.rewritten],
        "unpublished": [[part.start.isoformat(), part.end.isoformat()] for part in coverage.unpublished],
    }
    write_atomically(_file(settings), json.dumps(content), durable=True)


def note_unpublished(window: Window, settings: Settings) -> None:
    """Note that the orders of a window are about to change, if it is covered; publishing its features ends that.

    Call it before the orders change, and hold the lock of the tables.
    """
    coverage = read_coverage(settings)
    if coverage is None or window.start >= coverage.until or window.end <= coverage.start:
        return
    part = Window(max(window.start, coverage.start), min(window.end, coverage.until))
    write_coverage(replace(coverage, unpublished=(*coverage.without(part), part)), settings)


def unpublished_before(window: Window, settings: Settings) -> list[Window]:
    """Hours before a window of which a run changed the orders, and was ended before it published their features."""
    coverage = read_coverage(settings)
    parts = coverage.unpublished if coverage else ()
    return sorted((part for part in parts if part.start < window.start), key=lambda part: part.start)


def covered_hours(settings: Settings) -> Window:
    """The hours that have been computed.

    Raises
    ------
    HistoryMissing
        None have; or the features of some do not follow from their orders.
    """
    coverage = read_coverage(settings)
    if coverage is None or coverage.start >= coverage.until:
        raise HistoryMissing("nothing has been computed yet: `python -m feature_repo backfill START END` computes all")
    if coverage.unpublished:
        raise HistoryMissing(_unpublished(coverage.unpublished[0]))
    return Window(coverage.start, coverage.until)


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
    if stale := unpublished_before(window, settings):
        raise HistoryMissing(_unpublished(stale[0]))
    if coverage is not None and coverage.until < window.start:
        raise HistoryMissing(_advice("not all hours before the window are computed", coverage.until, window.start))
    return coverage


def _unpublished(part: Window) -> str:
    return (
        f"other orders of {part} have been accepted, and the run was ended before it published their features: run "
        f"`python -m feature_repo recompute {part.start.isoformat()} {part.end.isoformat()}` first, or the next hourly "
        "run, which does it"
    )


def _advice(problem: str, start: datetime, end: datetime) -> str:
    return (
        f"{problem}: run `python -m feature_repo backfill {start.isoformat()} {end.isoformat()}` first, or a window "
        "that begins there"
    )


def landed_since(settings: Settings) -> datetime | None:
    """The first hour of which orders have landed or are in the lake; None without any."""
    watermark, known = read_watermark(settings), _first_known(settings)
    begins = [floor_hour(watermark.started_at)] if watermark else []
    return min([*begins, *([known] if known else [])], default=None)


def not_computed_before(window: Window, settings: Settings) -> Window | None:
    """The hours before a window that have orders, or follow on computed ones, and that no run has computed.

    That nothing is on record does not mean that nothing is missing: then it is all that has landed.
    """
    coverage = read_coverage(settings)
    begin = coverage.until if coverage else landed_since(settings)
    return Window(begin, window.start) if begin is not None and begin < window.start else None


def left_out(settings: Settings) -> str | None:
    """What has landed before the first computed hour, in words: somebody chose to begin there, or did not know."""
    coverage, begin = read_coverage(settings), landed_since(settings)
    if coverage is None or begin is None or coverage.start <= begin:
        return None
    return (
        f"features begin at {coverage.start.isoformat()}, although orders have landed since {begin.isoformat()}: the "
        f"hours before are not in them. `python -m feature_repo backfill {begin.isoformat()} "
        f"{coverage.until.isoformat()}` computes them"
    )


def _lost(path: Path, what: str, known: Window | None) -> CoverageLost:
    if known is None:
        return CoverageLost(f"{path} is {what}: delete it; nothing has been computed yet", None)
    return CoverageLost(
        f"{path} is {what}, so nobody knows which hours of {known} are complete: restore it together with the tables, "
        f"or run `python -m feature_repo backfill {known.start.isoformat()} {known.end.isoformat()}`, which computes "
        "them all again",
        known,
    )


def _known_rows(settings: Settings) -> Window | None:
    """The hours that tiles and feature rows are of; None when there are none."""
    spans = [
        (file, column, earlier)
        for files, column, earlier in (
            (settings.tiles.glob("[!_]*/day=*/rows.parquet"), TILE_START, timedelta()),
            (settings.features.glob("[!_]*/day=*/rows.parquet"), EVENT_TIME, _MICROSECOND),
        )
        for file in files
    ]
    bounds = [
        pl.scan_parquet(file, hive_partitioning=False)
        .select(first=pl.col(column).min(), last=pl.col(column).max())
        .collect()
        .row(0)
        for file, column, _ in spans
    ]
    hours = [
        floor_hour(instant - earlier)
        for bound, (_, _, earlier) in zip(bounds, spans, strict=True)
        for instant in bound
        if instant is not None
    ]
    return Window(min(hours), max(hours) + HOUR) if hours else None


def _first_known(settings: Settings) -> datetime | None:
    files = orders_table(settings).files()
    if not files:
        return None
    first = pl.scan_parquet(files[0], hive_partitioning=False).select(pl.col("known_at").min()).collect().item()
    return floor_hour(first)


def _file(settings: Settings) -> Path:
    return settings.tiles / "_coverage.json"

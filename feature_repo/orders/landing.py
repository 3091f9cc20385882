"""The landing folder: where order versions arrive, and how one window's worth is read from it.

Layout: `<landing>/day=YYYY-MM-DD/<any name>.parquet`, the day being the UTC day of arrival, with the columns of
`LANDING_SCHEMA` (absent columns are null). `_watermark.json` says until when the folder is complete; writers put it
there after the files, in one rename, so a reader never sees half an hour of orders.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl

from config import Settings
from feature_repo.lake import TIMESTAMP
from feature_repo.orders.landed import Landed, files_before, list_days, new_files, read_landed
from feature_repo.orders.landing_ids import can_hold_ids, read_ids
from feature_repo.orders.recorded import recorded_at
from feature_repo.orders.schema import (
    BATCH_SCHEMA,
    ID_COLUMNS,
    LANDING_SCHEMA,
    REFUSAL_SCHEMA,
    orders_table,
    quarantine_table,
)
from feature_repo.orders.watermark import (
    LandingError,
    Watermark,
    read_watermark,
    watermark_file,
)
from feature_repo.window import DAY, Moments, Window, floor, floor_hour

logger = logging.getLogger(__name__)

_FILE_SCHEMA = {**LANDING_SCHEMA, **REFUSAL_SCHEMA}
_MICROSECOND = timedelta(microseconds=1)


class SourceNotReady(RuntimeError):
    """The landing folder is not complete up to the window's end; a later retry may succeed."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a window found in the landing folder.

    Attributes
    ----------
    rows : pl.DataFrame
        As `read_landing` returns them.
    landed : Landed
        What the folder held, with the days beyond the lateness horizon from which there are rows as `late`.
    """

    rows: pl.DataFrame
    landed: Landed


def read_landing(window: Window, settings: Settings) -> pl.DataFrame:
    """The versions that one window brings in.

    Parameters
    ----------
    window : Window
    settings : Settings

    Returns
    -------
    pl.DataFrame
        Columns of `BATCH_SCHEMA`, ordered by `known_at` and `order_id`. `known_at` lies in the window; `found_late`
        marks versions that were put into an earlier hour of the landing folder after that hour had been run.

    Raises
    ------
    SourceNotReady
        The folder is not complete up to `window.end`, or nothing has landed.
    LandingError
        A file is damaged or has columns that are not in `LANDING_SCHEMA`.

    Notes
    -----
    Each landed row is recorded once, in the lake or in the quarantine, and what has been recorded stays. A row that
    one of them already holds at an instant keeps it, so running a window again gives the same batch, and a row that a
    later window found late is not counted a second time here. A row of before the window that is recorded nowhere is
    taken now, however far behind it comes, with `known_at = window.start`: that is when this house learnt of it. This
    holds for one that repeats a recorded version, too: it comes in, and is quarantined as a duplicate, instead of
    vanishing. Hours before the first recorded one are not looked at: starting in the middle of a history does not
    make that history late.
    """
    return read_window(window, settings).rows


def read_window(window: Window, settings: Settings) -> Reading:
    """As `read_landing`, with what has to be noted when the versions are recorded (`landed.note_read`)."""
    began = floor_hour(_require_complete(window, settings).started_at)
    listing, noted = list_days(settings), read_landed(settings)
    first = _first_recorded(window, noted, settings)
    near = floor(window.start - settings.lateness_horizon, DAY)
    days = [day for day in listing if near <= day < window.end]
    records = [Moments(near, window.end + settings.lateness_horizon), *noted.records_of(days)]
    batches, late = [_taken(days, max(first, near), window, records, settings)], []
    # Of what the watermark tells, `coverage.left_out` says that it is left out. Of what it does not, nobody would.
    untold = [day for day in noted.untold(listing, first, window) if day + DAY <= min(first, began)]
    for day in [*untold, *noted.unread(listing, (first, near), window)]:
        recorded = [Moments(day, day + DAY + settings.lateness_horizon), window, *noted.records_of([day])]
        names = new_files(day, noted, settings) if day in untold else None
        found = _taken([day], day if day in untold else first, window, recorded, settings, names)
        if found.height:
            batches.append(found)
            late.append(day)
    batch = pl.concat(batches)
    if count := int(batch["found_late"].sum()):
        logger.warning("%d order versions for %s were found late in the landing folder", count, window)
    rows = batch.select(list(BATCH_SCHEMA)).sort("known_at", "order_id", "updated_at", maintain_order=True)
    left_out = {} if noted.since else files_before(first, settings)
    return Reading(rows, Landed(first, listing, dict.fromkeys(late, (window.start,)), left_out))


def _require_complete(window: Window, settings: Settings) -> Watermark:
    watermark = read_watermark(settings)
    if watermark is None:
        raise SourceNotReady(
            f"no orders have landed in {settings.landing_orders} (no {watermark_file(settings).name}): bring some in "
            "with `make ingest ORDERS=... MAPPING=...`, or let the simulator make some"
        )
    if watermark.complete_until < window.end:
        raise SourceNotReady(
            f"orders from {watermark.source!r} are complete until {watermark.complete_until.isoformat()}, the window "
            f"{window} needs them until {window.end.isoformat()}: wait for the source, or run an earlier window"
        )
    return watermark


def _first_recorded(window: Window, noted: Landed, settings: Settings) -> datetime:
    """The first instant whose versions may count as found late: none are, before anything has been recorded."""
    first = min(window.start, noted.since or window.start)
    for table in (orders_table(settings), quarantine_table(settings)):
        files = table.files()
        if files:
            found = pl.scan_parquet(files[0], hive_partitioning=False).select(pl.col("known_at").min()).collect().item()
            first = min(first, floor_hour(found))
    return first


def _taken(
    days: Sequence[datetime],
    first: datetime,
    window: Window,
    records: Iterable[Window],
    settings: Settings,
    names: Collection[str] | None = None,
) -> pl.DataFrame:
    """The rows of some days, known since `first`, that belong to the window by what has been recorded at `records`.

    Of all files, or of those with these names.
    """
    landed = _read_days(days, settings, names)
    landed = landed.filter(pl.col("known_at").is_between(first, window.end, closed="left"))
    return _settle(landed, recorded_at(landed, records, settings), window)


def _read_days(days: Sequence[datetime], settings: Settings, names: Collection[str] | None = None) -> pl.DataFrame:
    files = [
        (path, day)
        for day in days
        for path in sorted((settings.landing_orders / f"day={day:%Y-%m-%d}").glob("*.parquet"))
        if not path.name.startswith(".") and (names is None or path.name in names)
    ]
    if not files:
        return pl.DataFrame(schema={**LANDING_SCHEMA, **REFUSAL_SCHEMA, "known_at": TIMESTAMP})
    frames = [_place(_conform(path), day) for path, day in files]
    try:
        return pl.concat(frames).collect()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise _unreadable(_damaged_file([path for path, _ in files]), error) from error


def _damaged_file(paths: Sequence[Path]) -> Path | str:
    """The first file whose rows cannot be read, although its schema can."""
    for path in paths:
        try:
            pl.read_parquet(path, hive_partitioning=False)
        except (pl.exceptions.PolarsError, OSError):
            return path
    return f"one of {', '.join(str(path) for path in paths)}"


def _unreadable(path: Path | str, error: Exception) -> LandingError:
    return LandingError(f"{path} cannot be read ({error}): write it again, or take it out of the folder")


def _conform(path: Path) -> pl.LazyFrame:
    """One landing file in the types of `_FILE_SCHEMA`."""
    try:
        found = pl.read_parquet_schema(path)
    except (pl.exceptions.ComputeError, OSError) as error:
        raise _unreadable(path, error) from error
    unknown = sorted(set(found) - set(_FILE_SCHEMA))
    if unknown:
        raise LandingError(
            f"{path} has columns that no order has: {unknown}. Known are {list(LANDING_SCHEMA)}: rename or drop the "
            "others, or bring the file in with `make ingest` and a mapping"
        )
    columns = [_typed(path, name, found.get(name), kind) for name, kind in _FILE_SCHEMA.items()]
    return read_ids(pl.scan_parquet(path, hive_partitioning=False).select(columns), path)


def _typed(path: Path, name: str, found: pl.DataType | None, wanted: pl.DataType) -> pl.Expr:
    if found is None or found == pl.Null():
        return pl.lit(None, dtype=wanted).alias(name)
    if found == wanted or (name in ID_COLUMNS and can_hold_ids(found)):
        return pl.col(name)
    if wanted == TIMESTAMP and isinstance(found, pl.Datetime) and found.time_zone:
        return pl.col(name).dt.convert_time_zone("UTC").cast(TIMESTAMP)
    safe = wanted.is_numeric() and found.is_integer()
    if safe or (wanted == pl.Float64() and found.is_float()):
        return pl.col(name).cast(wanted)
    raise LandingError(
        f"{path}: column {name} has type {found}, not {wanted}: write it so (times with a time zone), or bring the "
        "file in with `make ingest` and a mapping"
    )


def _place(rows: pl.LazyFrame, day: datetime) -> pl.LazyFrame:
    """Add `known_at`; a row that is not known on its folder's day is refused rather than never read."""
    last = day + DAY - _MICROSECOND
    misplaced = pl.col("known_at").is_not_null() & (pl.col("known_at").dt.truncate("1d") != day)
    reason = pl.format(
        "known at {}, but landed in the folder day={}: put it into the folder of the day of its arrival",
        pl.col("known_at").dt.strftime("%Y-%m-%d %H:%M:%S"),
        pl.lit(f"{day:%Y-%m-%d}"),
    )
    return rows.with_columns(known_at=pl.max_horizontal("updated_at", "arrived_at")).with_columns(
        refused_rule=pl.when(misplaced).then(pl.lit("wrong_day")).otherwise("refused_rule"),
        refused_reason=pl.when(misplaced).then(reason).otherwise("refused_reason"),
        known_at=pl.col("known_at").fill_null(day).clip(day, last),
    )


def _settle(landed: pl.DataFrame, recorded: pl.Series, window: Window) -> pl.DataFrame:
    """Decide each version's `known_at` from what has been recorded; see the notes of `read_landing`."""
    start, end = pl.lit(window.start, TIMESTAMP), pl.lit(window.end, TIMESTAMP)
    known, record = pl.col("known_at"), pl.col("recorded_at")
    keep = pl.when(record.is_null()).then(True).when(record < start).then(known >= start).otherwise(record < end)
    fresh = record.is_null() | (record < start)
    at = pl.when(fresh).then(pl.max_horizontal(known, start)).otherwise(pl.max_horizontal(known, record))
    return landed.with_columns(recorded).filter(keep).with_columns(at.alias("known_at"), found_late=at > known)

"""The landing folder: where order versions arrive, and how one window's worth is read from it.

Layout: `<landing>/day=YYYY-MM-DD/<any name>.parquet`, the day being the UTC day of arrival, with the columns of
`LANDING_SCHEMA` (absent columns are null). `_watermark.json` says until when the folder is complete; writers put it
there after the files, in one rename, so a reader never sees half an hour of orders.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl

from config import Settings
from feature_repo.lake import TIMESTAMP
from feature_repo.orders.landing_ids import can_hold_ids, read_ids
from feature_repo.orders.schema import (
    BATCH_SCHEMA,
    ID_COLUMNS,
    LANDING_SCHEMA,
    ORDER_SCHEMA,
    REFUSAL_SCHEMA,
    orders_table,
    quarantine_table,
    row_text,
)
from feature_repo.window import DAY, Moments, Window, as_utc, floor_hour

logger = logging.getLogger(__name__)

_FILE_SCHEMA = {**LANDING_SCHEMA, **REFUSAL_SCHEMA}
_MICROSECOND = timedelta(microseconds=1)


class SourceNotReady(RuntimeError):
    """The landing folder is not complete up to the window's end; a later retry may succeed."""


class LandingError(ValueError):
    """A file in the landing folder cannot be used; the message names the file, the column and what to do."""


@dataclass(frozen=True, slots=True)
class Watermark:
    """Until when the landing folder is complete, and who fills it.

    Attributes
    ----------
    complete_until : datetime
        All versions known before this instant are there. UTC.
    source : str
        `simulator`, or the name of a mapping.
    started_at : datetime
        The full hour of the first version. UTC.
    """

    complete_until: datetime
    source: str
    started_at: datetime


def watermark_file(settings: Settings) -> Path:
    """Where the watermark is kept."""
    return settings.landing_orders / "_watermark.json"


def read_watermark(settings: Settings) -> Watermark | None:
    """The landing folder's watermark; None when nothing has landed yet.

    Raises
    ------
    LandingError
        The file is damaged.
    """
    path = watermark_file(settings)
    try:
        content = json.loads(path.read_text())
        return Watermark(as_utc(content["complete_until"]), str(content["source"]), as_utc(content["started_at"]))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise LandingError(
            f"{path} is damaged ({error!r}): delete it and run `make ingest` or the simulator again"
        ) from error


def write_watermark(settings: Settings, watermark: Watermark) -> None:
    """Put the watermark there in one rename. Call it after the files that it vouches for."""
    content = {
        "complete_until": as_utc(watermark.complete_until).isoformat(),
        "source": watermark.source,
        "started_at": as_utc(watermark.started_at).isoformat(),
    }
    write_atomically(watermark_file(settings), json.dumps(content, indent=2) + "\n")


def write_atomically(path: Path, text: str) -> None:
    """Write a text file beside its place and rename it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", suffix=".tmp", dir=path.parent)
    with os.fdopen(handle, "w") as file:
        file.write(text)
    Path(name).replace(path)


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
    What has been recorded stays. A version that the lake or the quarantine already holds at an instant keeps it, so
    running a window again gives the same batch, and a version that a later window found late is not counted a second
    time here. A version of the `lateness_horizon` before the window that is recorded nowhere is taken now, with
    `known_at = window.start`: that is when this house learnt of it. Hours before the first recorded one are not
    looked at: starting in the middle of a history does not make that history late.
    """
    _require_complete(window, settings)
    span = Moments(window.start - settings.lateness_horizon, window.end)
    landed = _read_days(span, settings).filter(
        pl.col("known_at").is_between(_late_from(span, window, settings), window.end, closed="left")
    )
    batch = _settle(landed, window, settings)
    late = int(batch["found_late"].sum())
    if late:
        logger.warning("%d order versions for %s were found late in the landing folder", late, window)
    return batch.select(list(BATCH_SCHEMA)).sort("known_at", "order_id", "updated_at", maintain_order=True)


def _require_complete(window: Window, settings: Settings) -> None:
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


def _late_from(span: Window, window: Window, settings: Settings) -> datetime:
    """The first instant whose versions may count as found late: none are, before anything has been recorded."""
    first = window.start
    for table in (orders_table(settings), quarantine_table(settings)):
        files = table.files()
        if files:
            found = pl.scan_parquet(files[0], hive_partitioning=False).select(pl.col("known_at").min()).collect().item()
            first = min(first, floor_hour(found))
    return max(first, span.start)


def _read_days(span: Window, settings: Settings) -> pl.DataFrame:
    files = [
        (path, day)
        for day in span.days()
        for path in sorted((settings.landing_orders / f"day={day:%Y-%m-%d}").glob("*.parquet"))
        if not path.name.startswith(".")
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


def _settle(landed: pl.DataFrame, window: Window, settings: Settings) -> pl.DataFrame:
    """Decide each version's `known_at` from what has been recorded; see the notes of `read_landing`."""
    recorded = _recorded(landed, window, settings)
    start, end = pl.lit(window.start, TIMESTAMP), pl.lit(window.end, TIMESTAMP)
    known, record = pl.col("known_at"), pl.col("recorded_at")
    keep = pl.when(record.is_null()).then(True).when(record < start).then(known >= start).otherwise(record < end)
    fresh = record.is_null() | (record < start)
    at = pl.when(fresh).then(pl.max_horizontal(known, start)).otherwise(pl.max_horizontal(known, record))
    return landed.with_columns(recorded).filter(keep).with_columns(at.alias("known_at"), found_late=at > known)


def _recorded(landed: pl.DataFrame, window: Window, settings: Settings) -> pl.Series:
    """When the lake or the quarantine first recorded each landed version; null where neither holds it."""
    around = Moments(window.start - settings.lateness_horizon, window.end + settings.lateness_horizon)
    keys = landed.select(_content_hash(), pl.coalesce("source_row", row_text()).alias("row"))
    lake = orders_table(settings).scan(around).select(_content_hash(), "known_at").collect()
    refused = quarantine_table(settings).scan(around).select("row", "known_at").collect()
    first = [
        keys.join(found.group_by(key).agg(pl.col("known_at").min()), on=key, how="left", maintain_order="left")[
            "known_at"
        ]
        for found, key in ((lake, "content"), (refused, "row"))
    ]
    return pl.DataFrame({"lake": first[0], "quarantine": first[1]}).select(
        recorded_at=pl.min_horizontal("lake", "quarantine")
    )["recorded_at"]


def _content_hash() -> pl.Expr:
    return pl.struct(list(ORDER_SCHEMA)).hash().alias("content")

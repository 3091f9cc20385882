"""The converted versions, written into the landing folder: a file for each day that has new ones."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import duckdb
import polars as pl

from config import Settings
from feature_repo.files import replace_file
from feature_repo.lake import TIMESTAMP
from feature_repo.orders.mapping_file import Mapping
from feature_repo.orders.schema import LANDING_SCHEMA, REFUSAL_SCHEMA
from feature_repo.orders.watermark import Watermark

_FILE_SCHEMA = {**LANDING_SCHEMA, **REFUSAL_SCHEMA}


@dataclass(slots=True)
class Written:
    """What was new: versions that converted, those that did not, and those known before the earlier watermark."""

    landed: int = 0
    refused: int = 0
    behind: int = 0
    files: list[Path] = field(default_factory=list)


def place_refused(connection: duckdb.DuckDBPyConnection, span: tuple[datetime, datetime]) -> None:
    """Give refused versions a place in time within the span, so that some run takes them to the quarantine.

    Only the id is kept of what did convert: the whole row is in `source_row`.
    """
    emptied = ", ".join(f"{name} = NULL" for name in LANDING_SCHEMA if name not in ("order_id", "arrived_at"))
    events = "coalesce(known_at, greatest(placed_at, accepted_at, picked_up_at, delivered_at, cancelled_at), $last)"
    place = f"least(greatest({events}, $first), $last)"
    connection.execute(
        f"UPDATE versions SET arrived_at = {place}, known_at = {place}, {emptied} WHERE refused_rule IS NOT NULL",
        {"first": span[0], "last": span[1]},
    )


def write_days(
    connection: duckdb.DuckDBPyConnection, plan: Mapping, settings: Settings, earlier: Watermark | None
) -> Written:
    """Write the versions that have not landed before, each into the folder of the day on which it became known."""
    connection.execute(
        "CREATE TABLE days AS SELECT *, CAST(timezone('UTC', known_at) AS DATE) AS day FROM versions "
        "WHERE NOT duplicate ORDER BY known_at, order_id, source_row"
    )
    written = Written()
    for (day,) in connection.execute("SELECT DISTINCT day FROM days ORDER BY day").fetchall():
        folder = settings.landing_orders / f"day={day:%Y-%m-%d}"
        rows = _not_landed_yet(_day_rows(connection, str(day)), folder)
        if rows.is_empty():
            continue
        good = rows.filter(pl.col("refused_rule").is_null())
        known = good.select(pl.max_horizontal("updated_at", "arrived_at")).to_series()
        written.files.append(_write_file(rows, folder, plan.name))
        written.landed += good.height
        written.refused += rows.height - good.height
        written.behind += int((known < earlier.complete_until).sum()) if earlier else 0
    return written


def _day_rows(connection: duckdb.DuckDBPyConnection, day: str) -> pl.DataFrame:
    names = ", ".join(_FILE_SCHEMA)
    frame: pl.DataFrame = connection.sql(f"SELECT {names} FROM days WHERE day = CAST(? AS DATE)", params=[day]).pl()
    times = [name for name, kind in _FILE_SCHEMA.items() if kind == TIMESTAMP]
    return frame.with_columns(pl.col(times).dt.convert_time_zone("UTC")).cast(pl.Schema(_FILE_SCHEMA))


def _not_landed_yet(rows: pl.DataFrame, folder: Path) -> pl.DataFrame:
    files = sorted(path for path in folder.glob("*.parquet") if not path.name.startswith("."))
    if not files:
        return rows
    landed = pl.concat([pl.read_parquet(path, hive_partitioning=False) for path in files], how="diagonal")
    return rows.join(landed, on=list(_FILE_SCHEMA), how="anti", nulls_equal=True, maintain_order="left")


def _write_file(rows: pl.DataFrame, folder: Path, name: str) -> Path:
    content = hashlib.sha256(rows.write_ipc(None, compat_level=pl.CompatLevel.oldest()).getvalue()).hexdigest()
    path = folder / f"{name}-{content[:12]}.parquet"
    replace_file(path, lambda beside: rows.write_parquet(beside, compression="zstd", statistics=True), durable=True)
    return path

"""From accepted order versions to published tiles and feature rows of all views: seconds and memory as history grows.

The lake holds two versions of each order, as it was placed and as it ended, over 120 days, as the simulator's does, of
2,000 restaurants, 4,000 drivers and 250,000 customers. From nothing, the hours are computed in pieces, as a backfill
does. Then four more hours are computed and published, each on its own, after a month and after a year of 27,397 orders
a day. The anchor is `DataFrame.rolling` of pandas over the same orders: count, mean and standard deviation of the
delivery time in two windows of each of the four keys, far less than the views hold, at the size at which it ends in
reasonable time.

make bench NAME=features
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks.harness import compare
from config import Settings
from feature_repo.lake import TIMESTAMP
from feature_repo.orders.schema import LAKE_SCHEMA, orders_table
from feature_repo.transforms.coverage import chunks
from feature_repo.window import DAY, HOUR, Window

START = datetime(2025, 5, 1, tzinfo=UTC)
DAYS, MONTH_DAYS, YEAR_DAYS = 120, 30, 365
PLACE = Path(tempfile.gettempdir()) / "delivery-eta-benchmark-features"
RESTAURANTS, DRIVERS, CUSTOMERS, ZONES = 2_000, 4_000, 250_000, 50
SECOND_US = 1_000_000
HOUR_WEIGHTS = np.array(
    [1, 1, 1, 1, 1, 1, 2, 3, 5, 6, 10, 22, 28, 20, 10, 8, 10, 20, 34, 36, 26, 14, 7, 3], dtype=float
)
"""Orders by the hour of the day: lunch, dinner and little at night."""


def write_lake(settings: Settings, orders: int, days: int, seed: int = 7) -> Window:
    """Write a lake of accepted versions, two for each order: as it was placed, and as it ended.

    Parameters
    ----------
    settings : Settings
    orders : int
        Placed in all, evenly over the days.
    days : int
    seed : int

    Returns
    -------
    Window
        From the first day's midnight to the last one's end.
    """
    table = orders_table(settings)
    pending = pl.DataFrame(schema=LAKE_SCHEMA)
    for number, day in enumerate(_days(days)):
        count = orders * (number + 1) // days - orders * number // days
        versions = pl.concat([pending, _versions(day, number, count, seed)])
        due = pl.col("known_at") < day + DAY
        table.replace(Window(day, day + DAY), versions.filter(due))
        pending = versions.filter(~due)
    return Window(START, START + days * DAY)


def _days(days: int) -> Iterator[datetime]:
    return (START + number * DAY for number in range(days))


def _versions(day: datetime, number: int, count: int, seed: int) -> pl.DataFrame:
    """Both versions of the orders placed on one day; the second may be known on a later day."""
    rng = np.random.default_rng([seed, number])
    second = rng.choice(24, count, p=HOUR_WEIGHTS / HOUR_WEIGHTS.sum()) * 3_600 + rng.integers(0, 3_600, count)
    placed = int(day.timestamp()) * SECOND_US + second * SECOND_US + rng.integers(0, SECOND_US, count)
    accepted = placed + rng.integers(20, 300, count) * SECOND_US
    picked_up = accepted + (rng.gamma(6, 120, count).astype("int64") + 60) * SECOND_US
    delivered = picked_up + (rng.gamma(5, 150, count).astype("int64") + 60) * SECOND_US
    cancelled = rng.random(count) < 0.04
    late = np.where(rng.random(count) < 0.02, rng.integers(0, 6 * 3_600, count) * SECOND_US, 0)
    restaurant = _unequal(rng, RESTAURANTS, count)
    orders = pl.DataFrame(
        {
            "order_id": pl.Series(np.arange(count)),
            "restaurant_id": restaurant,
            "driver_id": _unequal(rng, DRIVERS, count),
            "customer_id": _unequal(rng, CUSTOMERS, count),
            "zone_id": restaurant % ZONES,
            "placed_at": placed,
            "accepted_at": accepted,
            "picked_up_at": picked_up,
            "delivered_at": delivered,
            "cancelled": cancelled,
            "is_asap": rng.random(count) < 0.95,
            "distance_km": np.round(rng.gamma(3, 0.9, count) + 0.2, 3),
            "item_count": rng.integers(1, 8, count),
            "order_value": np.round(rng.lognormal(3.2, 0.5, count), 2),
            "promised_minutes": rng.choice([30.0, 40.0, 50.0], count),
            "late": late,
        }
    ).with_columns(
        *[pl.format("{}{}", pl.lit(name[0]), pl.col(name).cast(pl.String).str.zfill(6)).alias(name) for name in _IDS],
        pl.format("o{}-{}", pl.lit(f"{day:%Y%m%d}"), pl.col("order_id").cast(pl.String).str.zfill(7)).alias("order_id"),
        *_times(),
    )
    return pl.concat([_placed(orders), _ended(orders)])


_IDS = ("restaurant_id", "driver_id", "customer_id", "zone_id")


def _times() -> list[pl.Expr]:
    return [pl.col(name).cast(TIMESTAMP) for name in ("placed_at", "accepted_at", "picked_up_at", "delivered_at")]


def _placed(orders: pl.DataFrame) -> pl.DataFrame:
    nothing = [pl.lit(None, dtype=LAKE_SCHEMA[name]).alias(name) for name in _LATER]
    return orders.with_columns(
        *nothing, status=pl.lit("placed"), updated_at=pl.col("placed_at"), known_at=pl.col("placed_at")
    ).select(list(LAKE_SCHEMA))


_LATER = ("driver_id", "accepted_at", "picked_up_at", "delivered_at", "cancelled_at")


def _ended(orders: pl.DataFrame) -> pl.DataFrame:
    cancelled = pl.col("cancelled")
    ended = pl.col("delivered_at")
    return orders.with_columns(
        *[pl.when(~cancelled).then(pl.col(name)).alias(name) for name in _LATER if name != "cancelled_at"],
        cancelled_at=pl.when(cancelled).then(ended),
        status=pl.when(cancelled).then(pl.lit("cancelled")).otherwise(pl.lit("delivered")),
        updated_at=ended,
        known_at=ended + pl.duration(microseconds=pl.col("late")),
    ).select(list(LAKE_SCHEMA))


def _unequal(rng: np.random.Generator, size: int, count: int) -> np.ndarray:
    """`count` participants out of `size`, the busiest fifth of them in half of the orders."""
    return (size * rng.random(count) ** 2.32).astype("int64")


def ours(orders: int, days: int, hours: int | None) -> Mapping[str, Any]:
    """Tiles and rows of all views: of all hours, or of the last ones, each on its own as the hourly run does."""
    from feature_repo import pipeline

    settings, rows = _settings(orders), 0
    for window in _single_hours(days, hours) if hours else chunks(Window(START, START + days * DAY)):
        rows += sum(pipeline.compute_features(window, settings)["rows"].values())
        pipeline.publish_features(window, settings)
    return {"feature rows": rows}


def pandas_rolling(orders: int, **_: Any) -> Mapping[str, Any]:
    """Windows of pandas, one key after the other."""
    import pandas as pd

    settings = _settings(orders)
    columns = ["known_at", "placed_at", "delivered_at", *_IDS]
    files = sorted(str(path) for path in orders_table(settings).root.glob("day=*/*.parquet"))
    found = pd.concat([pd.read_parquet(file, columns=columns) for file in files]).dropna(subset=["delivered_at"])
    found["minutes"] = (found.delivered_at - found.placed_at).dt.total_seconds() / 60
    found = found.sort_values("known_at").set_index("known_at")
    rows = 0
    for key in _IDS:
        for window in ("7D", "28D"):
            rolled = found.groupby(key)["minutes"].rolling(window, closed="left").agg(["count", "mean", "std"])
            rows += len(rolled)
    return {"feature rows": rows}


def _begin(orders: int, days: int, hours: int | None) -> None:
    """A lake of so many orders; if only its last hours are measured, with the features of those before."""
    settings = _settings(orders)
    shutil.rmtree(settings.data_dir, ignore_errors=True)
    write_lake(settings, orders, days)
    if hours:
        from feature_repo import pipeline

        for window in chunks(Window(START, _single_hours(days, hours)[0].start)):
            pipeline.compute_features(window, settings)
            pipeline.publish_features(window, settings)


def _single_hours(days: int, count: int) -> list[Window]:
    """Of the last evening, the first at 17:00."""
    first = START + days * DAY - 7 * HOUR
    return [Window(first + number * HOUR, first + (number + 1) * HOUR) for number in range(count)]


def _settings(orders: int) -> Settings:
    return Settings(data_dir=PLACE / str(orders))


SIZES = {
    "1 M orders": {"orders": 1_000_000, "days": DAYS, "hours": None},
    "10 M orders": {"orders": 10_000_000, "days": DAYS, "hours": None},
    "50 M orders": {"orders": 50_000_000, "days": DAYS, "hours": None},
    "4 hours after a month": {"orders": 10_000_000 * MONTH_DAYS // YEAR_DAYS, "days": MONTH_DAYS, "hours": 4},
    "4 hours after a year": {"orders": 10_000_000, "days": YEAR_DAYS, "hours": 4},
}


def main(arguments: list[str]) -> None:
    """Measure all sizes, or those that are named."""
    sizes = {name: size for name, size in SIZES.items() if not arguments or name in arguments}
    try:
        compare(
            "features",
            {"ours": ours, "pandas rolling": pandas_rolling},
            sizes,
            anchor="ours",
            packages=["duckdb", "ibis-framework", "polars", "pandas"],
            runs=1,
            leave_out=[("pandas rolling", name) for name in sizes if name != "1 M orders"],
            before=_begin,
        )
    finally:
        shutil.rmtree(PLACE, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1:])

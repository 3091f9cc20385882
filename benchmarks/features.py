"""From accepted order versions to published tiles and feature rows: seconds, memory and rows, as history grows.

make bench NAME=features
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import numpy as np
import polars as pl

from config import Settings
from feature_repo.lake import TIMESTAMP
from feature_repo.orders.schema import LAKE_SCHEMA, orders_table
from feature_repo.window import DAY, Window

START = datetime(2025, 5, 1, tzinfo=UTC)
YEAR_DAYS = 365
RESTAURANTS, DRIVERS, CUSTOMERS, ZONES = 2_000, 4_000, 250_000, 50
SECOND_US = 1_000_000
HOUR_WEIGHTS = np.array(
    [1, 1, 1, 1, 1, 1, 2, 3, 5, 6, 10, 22, 28, 20, 10, 8, 10, 20, 34, 36, 26, 14, 7, 3], dtype=float
)
"""Orders by the hour of the day: lunch, dinner and little at night."""


def write_lake(settings: Settings, orders: int, days: int = YEAR_DAYS, seed: int = 7) -> Window:
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

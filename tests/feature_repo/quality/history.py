"""Weeks of ordinary orders in the lake, for rules that compare with what is usual."""

from __future__ import annotations

import random
from datetime import datetime
from typing import Any

import polars as pl

from config import Settings
from feature_repo.orders.schema import orders_table
from feature_repo.window import DAY, Window
from tests.feature_repo.orders.builders import NOON, lake_frame, minutes, version

MIDNIGHT = NOON.replace(hour=0)
HOURS = (11, 12, 13)
"""The shop is open for three hours a day."""
PER_HOUR = 40


def ordinary(number: int, at: datetime, draw: random.Random, **changes: Any) -> dict[str, Any]:
    """A delivered order that became known at an instant, with values of an ordinary spread."""
    placed_at = at - minutes(30)
    row = version(
        f"{at:%m%dT%H}-{number}",
        placed_at=placed_at,
        updated_at=at,
        restaurant_id=f"r{draw.randrange(20)}",
        customer_id=f"c{draw.randrange(400)}",
        distance_km=round(draw.gauss(4.0, 1.0), 2),
        order_value=round(draw.lognormvariate(3.0, 0.5), 2),
        item_count=draw.randint(1, 5),
        driver_id=None if draw.random() < 0.02 else f"d{draw.randrange(30)}",
    )
    return row | changes


def hour(start: datetime, count: int = PER_HOUR, seed: int | None = None, **changes: Any) -> list[dict[str, Any]]:
    """Orders that became known evenly over an hour, the last one in its last two minutes."""
    draw = random.Random(f"{start} {seed}")
    return [ordinary(number, start + minutes(59 - number * 58 / count), draw, **changes) for number in range(count)]


def fill_lake(settings: Settings, days: int = 28, until: datetime = MIDNIGHT, **changes: Any) -> None:
    """So many ordinary days before a midnight, on which nothing was odd."""
    for back in range(1, days + 1):
        day = until - back * DAY
        rows = [row for of_day in HOURS for row in hour(day.replace(hour=of_day), **changes)]
        orders_table(settings).replace(Window(day, day + DAY), lake_frame(*rows))


def batch(rows: list[dict[str, Any]]) -> pl.DataFrame:
    return lake_frame(*rows)

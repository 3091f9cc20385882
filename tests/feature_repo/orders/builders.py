"""Small literal order versions for tests."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from config import Settings
from feature_repo.orders.schema import LAKE_SCHEMA, LANDING_SCHEMA, ORDER_SCHEMA
from feature_repo.orders.watermark import Watermark, write_watermark

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)


def minutes(count: float) -> timedelta:
    return timedelta(minutes=count)


def version(order_id: str = "o1", /, **changes: Any) -> dict[str, Any]:
    """A delivered order placed at noon; `changes` replace columns."""
    placed_at = changes.get("placed_at") or NOON
    row = {
        **dict.fromkeys(LANDING_SCHEMA),
        "order_id": order_id,
        "restaurant_id": "r1",
        "customer_id": "c1",
        "zone_id": "z1",
        "driver_id": "d1",
        "placed_at": placed_at,
        "accepted_at": placed_at + minutes(2),
        "picked_up_at": placed_at + minutes(15),
        "delivered_at": placed_at + minutes(30),
        "status": "delivered",
        "is_asap": True,
        "distance_km": 2.5,
        "item_count": 2,
        "order_value": 20.0,
        "promised_minutes": 35.0,
        "updated_at": placed_at + minutes(30),
    }
    return {**row, **changes}


def placed(order_id: str = "o1", /, **changes: Any) -> dict[str, Any]:
    """The first version of an order: placed and nothing more."""
    at = changes.get("placed_at", NOON)
    later = dict.fromkeys(("driver_id", "accepted_at", "picked_up_at", "delivered_at"))
    return version(order_id, **{"status": "placed", "updated_at": at, **later, **changes})


def landing_frame(*rows: dict[str, Any]) -> pl.DataFrame:
    return pl.DataFrame(list(rows), schema=LANDING_SCHEMA)


def lake_frame(*rows: dict[str, Any]) -> pl.DataFrame:
    """Versions as the lake holds them, `known_at` from `updated_at` and `arrived_at`."""
    known = pl.max_horizontal("updated_at", "arrived_at")
    return landing_frame(*rows).with_columns(known_at=known).select([*ORDER_SCHEMA, "known_at"]).cast(LAKE_SCHEMA)


def land(settings: Settings, *rows: dict[str, Any], name: str = "orders", day: str | None = None) -> Path:
    """Write versions into the landing folder of a day (that of the first row), under a file name."""
    frame = landing_frame(*rows)
    arrival = day or f"{frame.select(pl.max_horizontal('updated_at', 'arrived_at')).item(0, 0):%Y-%m-%d}"
    path = settings.landing_orders / f"day={arrival}" / f"{name}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.write_parquet(path)
    return path


def complete(settings: Settings, until: datetime, source: str = "test") -> None:
    """Declare the landing folder complete until an instant."""
    write_watermark(settings, Watermark(until, source, NOON))

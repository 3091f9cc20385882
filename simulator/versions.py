"""From the world's arrays to the versions of orders that a source would send, in the landing format."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from simulator.clock import HOUR_US, MINUTE_US, instant
from simulator.drills import Drill, break_rows, delay_outages
from simulator.market import Market
from simulator.world import Columns, Status

__all__ = ["LANDING", "NO_VERSIONS", "oracle_of", "order_versions"]

TIME = pl.Datetime("us", "UTC")

LANDING: dict[str, pl.DataType] = {
    "order_id": pl.String(),
    "restaurant_id": pl.String(),
    "driver_id": pl.String(),
    "customer_id": pl.String(),
    "zone_id": pl.String(),
    "placed_at": TIME,
    "accepted_at": TIME,
    "picked_up_at": TIME,
    "delivered_at": TIME,
    "cancelled_at": TIME,
    "status": pl.String(),
    "is_asap": pl.Boolean(),
    "distance_km": pl.Float64(),
    "item_count": pl.Int64(),
    "order_value": pl.Float64(),
    "promised_minutes": pl.Float64(),
    "updated_at": TIME,
    "arrived_at": TIME,
}
"""Columns of a landing file."""

NO_VERSIONS = pl.DataFrame(schema={**LANDING, "luck": pl.Float64(), "known_at": TIME})
"""What `order_versions` returns for no orders: beside the landing's columns two that are not written."""

SENT_TWICE = 0.005
SENT_AGAIN_LATER = 0.3
EVENTS = {
    "accepted_at": "accepted",
    "picked_up_at": "picked_up",
    "delivered_at": "delivered",
    "cancelled_at": "cancelled",
}


def order_versions(orders: Columns, market: Market, drills: Sequence[Drill] = ()) -> pl.DataFrame:
    """Both versions of each order (as placed, and as delivered or cancelled), duplicates included.

    Returns
    -------
    polars.DataFrame
        The columns of `NO_VERSIONS`: `known_at` is when the version becomes known, `luck` the row's own uniform number.
    """
    request = _request(orders, market)
    versions = pl.concat([_first(orders, request), _last(orders, request, market)])
    versions = pl.concat([versions.drop("twice", "again"), _sent_again(versions)])
    versions = versions.with_columns(known_at=pl.max_horizontal("updated_at", "arrived_at"))
    return break_rows(drills, delay_outages(drills, versions))


def oracle_of(orders: Columns) -> pl.DataFrame:
    """The noise-free part of each order's delivery minutes: the best that any model could predict.

    `expected_minutes` does not know the driver, as a request does not; `expected_minutes_with_driver` does.
    """
    return pl.DataFrame(
        {
            "order_id": _order_ids(orders),
            "placed_at": _times(orders["placed"]),
            "is_asap": orders["asap"],
            "expected_minutes": orders["expected"],
            "expected_minutes_with_driver": orders["expected_with_driver"],
        }
    )


def _request(orders: Columns, market: Market) -> pl.DataFrame:
    """What stays the same in both versions."""
    return pl.DataFrame(
        {
            "order_id": _order_ids(orders),
            "restaurant_id": _names(market.restaurants.names, orders["restaurant"]),
            "customer_id": _names(market.customers.names, orders["customer"]),
            "zone_id": _names(market.zones.names, orders["zone"]),
            "placed_at": _times(orders["placed"]),
            "is_asap": orders["asap"],
            "distance_km": pl.Series(orders["distance"]).fill_nan(None),
            "item_count": orders["items"],
            "order_value": orders["value"],
            "promised_minutes": orders["promised"],
        }
    )


def _first(orders: Columns, request: pl.DataFrame) -> pl.DataFrame:
    nothing = {name: pl.lit(None, dtype=TIME) for name in EVENTS}
    version = request.with_columns(driver_id=pl.lit(None, dtype=pl.String), status=pl.lit("placed"), **nothing)
    return _recorded(version, orders, "first")


def _last(orders: Columns, request: pl.DataFrame, market: Market) -> pl.DataFrame:
    delivered = pl.Series(orders["status"] == Status.DELIVERED)
    version = request.with_columns(
        _names(market.drivers.names, orders["driver"]).alias("driver_id"),
        pl.when(delivered).then(pl.lit("delivered")).otherwise(pl.lit("cancelled")).alias("status"),
        *(_times(orders[source]).alias(name) for name, source in EVENTS.items()),
    )
    return _recorded(version, orders, "last")


def _recorded(version: pl.DataFrame, orders: Columns, which: str) -> pl.DataFrame:
    return version.with_columns(
        _times(orders[f"{which}_updated"]).alias("updated_at"),
        _times(orders[f"{which}_arrived"]).alias("arrived_at"),
        *(pl.Series(what, orders[f"{which}_{what}"]) for what in ("luck", "twice", "again")),
    ).select(*LANDING, "luck", "twice", "again")


def _sent_again(versions: pl.DataFrame) -> pl.DataFrame:
    """Versions that the source sends twice: most at once, some up to an hour later."""
    again = versions.filter(pl.col("twice") < SENT_TWICE)
    known = pl.max_horizontal("updated_at", "arrived_at")
    delay = pl.duration(microseconds=(pl.col("again") * 60 * MINUTE_US / SENT_AGAIN_LATER).cast(pl.Int64))
    later = pl.when(pl.col("again") < SENT_AGAIN_LATER).then(known + delay).otherwise(pl.col("arrived_at"))
    return again.with_columns(later.alias("arrived_at")).drop("twice", "again")


def _order_ids(orders: Columns) -> pl.Series:
    """Ids such as `o2026050112-00042`: the hour in which it was placed, and its number in it."""
    hours, which = np.unique(orders["placed"] // HOUR_US, return_inverse=True)
    prefixes = pl.Series([f"o{instant(int(hour) * HOUR_US):%Y%m%d%H}-" for hour in hours], dtype=pl.String)
    numbers = pl.Series(
        [f"{number:05d}" for number in range(int(orders["number"].max(initial=-1)) + 1)], dtype=pl.String
    )
    return prefixes.gather(which) + numbers.gather(orders["number"])


def _names(names: list[str], positions: np.ndarray) -> pl.Series:
    known = pl.Series([*names, None], dtype=pl.String)
    return known.gather(np.where(positions < 0, len(names), positions))


def _times(microseconds: np.ndarray) -> pl.Series:
    return pl.Series(microseconds.astype("datetime64[us]")).dt.replace_time_zone("UTC")

"""The batch feature views: which features there are, with their types, units and allowed ranges.

How a value is computed is in `transforms/<view>.py`, under the same name. Everything else (schema checks,
expectations, the model's inputs, drift columns) is read from the fields here through `feature_repo.catalog`.
"""

import difflib
import math
from datetime import timedelta
from typing import Any

from feast import FeatureView, Field
from feast.types import FeastType, Float64, Int64, String

from feature_repo import entities, sources

BATCH_TTL = timedelta(hours=26)
"""Every live entity gets a row at midnight even when nothing happened to it, so a value older than a day and two
hours of slack means a stopped pipeline, never a quiet restaurant."""

WEEKLY_TTL = timedelta(days=7, hours=2)
"""The same for entities that get a row every Monday: customers, of whom most are quiet on most days."""

LIVE_TTL = timedelta(minutes=20)
"""Of rows that come every few minutes, and at the latest every 10: an older one means that refreshing has stopped."""

MINUTES_PER_DAY = 24 * 60
LIMITS: dict[str, type] = {
    "minimum": float,
    "maximum": float,
    "allowed": str,
    "max_null_share": float,
    "at_most": str,
    "implies": str,
}
"""What a field may say of its values; each becomes a check of every run."""


def field(name: str, dtype: FeastType, unit: str, description: str, **limits: Any) -> Field:
    """A field with the tags that the catalog reads.

    Parameters
    ----------
    name, dtype
        As in Feast.
    unit : str
        For example `minutes`, `orders`, `share`.
    description : str
        One phrase; also kept as a tag, which is where the catalog and the UI find it.
    **limits
        What holds for every run's rows, where it does: `minimum`, `maximum` (inclusive numbers), `allowed`
        (comma-separated words), `max_null_share`, `at_most` (a feature of the view that this one cannot exceed),
        `implies` (a feature of the view that has a value where this one has).

    Raises
    ------
    ValueError
        There is no such limit, so nothing would ever be checked; or it cannot be one.
    """
    for limit, value in limits.items():
        _require_limit(name, limit, value)
    tags = {"unit": unit, "description": description, **{key: str(value) for key, value in limits.items()}}
    return Field(name=name, dtype=dtype, description=description, tags=tags)


def _require_limit(field_name: str, limit: str, value: Any) -> None:
    if limit not in LIMITS:
        near = difflib.get_close_matches(limit, LIMITS, n=1)
        hint = f": did you mean {near[0]}?" if near else ""
        raise ValueError(f"{field_name}: there is no limit {limit!r}{hint} There are {', '.join(LIMITS)}")
    if LIMITS[limit] is float and (isinstance(value, bool | str) or not math.isfinite(value)):
        raise ValueError(f"{field_name}: {limit} is a number, not {value!r}")
    if LIMITS[limit] is str and not (isinstance(value, str) and value.strip()):
        raise ValueError(f"{field_name}: {limit} is a text, not {value!r}")


def _count(name: str, description: str, unit: str = "orders", **limits: Any) -> Field:
    return field(name, Int64, unit, description, minimum=0, max_null_share=0, **limits)


def _per_driver(name: str, description: str) -> Field:
    return field(name, Float64, "orders", description, minimum=0, max_null_share=0)


def _minutes(name: str, description: str, **limits: Any) -> Field:
    return field(name, Float64, "minutes", description, minimum=0, maximum=MINUTES_PER_DAY, **limits)


def _share(name: str, description: str) -> Field:
    return field(name, Float64, "share", description, minimum=0, maximum=1)


def _amount(name: str, description: str, **limits: Any) -> Field:
    return field(name, Float64, "currency", description, minimum=0, **limits)


def _tags(grain: str, freshness: str = "hourly, 10 minutes after the full hour") -> dict[str, str]:
    return {"owner": "marketplace-data", "grain": grain, "freshness": freshness}


restaurant_stats = FeatureView(
    name="restaurant_stats",
    entities=[entities.restaurant],
    ttl=BATCH_TTL,
    source=sources.restaurant_rows,
    online=True,
    description="How busy a restaurant is, and how long its orders take.",
    tags=_tags("one row per restaurant and hour at which one of its windows changed, and at midnight"),
    schema=[
        field("restaurant_id", String, "id", "the restaurant"),
        _count("order_count_7d", "orders placed in the last 7 days"),
        _minutes(
            "delivery_minutes_mean_7d",
            "mean minutes from placed to delivered, ASAP orders, last 7 days",
            implies="delivery_minutes_mean_28d",
        ),
        _minutes("delivery_minutes_mean_28d", "mean minutes from placed to delivered, ASAP orders, last 28 days"),
        _minutes(
            "delivery_minutes_std_28d",
            "sample standard deviation of delivery minutes, last 28 days",
            implies="delivery_minutes_mean_28d",
        ),
        _minutes(
            "preparation_minutes_mean_7d",
            "mean minutes from accepted to picked up, ASAP orders, last 7 days",
            implies="preparation_minutes_mean_28d",
        ),
        _minutes("preparation_minutes_mean_28d", "mean minutes from accepted to picked up, ASAP orders, last 28 days"),
        _minutes(
            "preparation_minutes_std_28d",
            "sample standard deviation of preparation minutes, last 28 days",
            implies="preparation_minutes_mean_28d",
        ),
        _amount("order_value_mean_28d", "mean value of orders placed in the last 28 days"),
        _share("acceptance_rate_7d", "accepted orders among accepted and declined ones, last 7 days"),
    ],
)

driver_stats = FeatureView(
    name="driver_stats",
    entities=[entities.driver],
    ttl=BATCH_TTL,
    source=sources.driver_rows,
    online=True,
    description="How much a driver delivered, how far and how fast.",
    tags=_tags("one row per driver and hour at which one of the windows changed, and at midnight"),
    schema=[
        field("driver_id", String, "id", "the driver"),
        _count("delivered_count_28d", "orders delivered in the last 28 days"),
        _minutes("delivery_minutes_mean_28d", "mean minutes from placed to delivered, ASAP orders, last 28 days"),
        field(
            "distance_km_mean_28d",
            Float64,
            "kilometres",
            "mean distance of orders delivered in the last 28 days",
            minimum=0,
            maximum=100,
        ),
        _share("on_time_rate_28d", "orders delivered within the promised minutes, last 28 days"),
    ],
)

customer_stats = FeatureView(
    name="customer_stats",
    entities=[entities.customer],
    ttl=WEEKLY_TTL,
    source=sources.customer_rows,
    online=True,
    description="How often a customer orders, and for how much.",
    tags=_tags("one row per customer and hour at which a window changed, and on Mondays for 90 days after an order"),
    schema=[
        field("customer_id", String, "id", "the customer"),
        _count("order_count_30d", "orders placed in the last 30 days", at_most="order_count_lifetime"),
        _amount(
            "order_value_sum_30d", "value of orders placed in the last 30 days", at_most="order_value_sum_lifetime"
        ),
        _amount(
            "order_value_mean_30d", "mean value of orders placed in the last 30 days", implies="order_value_sum_30d"
        ),
        field(
            "days_since_last_order",
            Float64,
            "days",
            "days from the placing of the last order to the instant of the row",
            minimum=0,
        ),
        _count("order_count_lifetime", "all orders ever placed"),
        _amount("order_value_sum_lifetime", "value of all orders ever placed"),
        field(
            "segment",
            String,
            "category",
            "kind of customer, from the order counts",
            allowed="new,occasional,regular,vip",
            max_null_share=0,
        ),
    ],
)

zone_stats = FeatureView(
    name="zone_stats",
    entities=[entities.zone],
    ttl=BATCH_TTL,
    source=sources.zone_rows,
    online=True,
    description="How congested a delivery zone is.",
    tags=_tags("one row per zone and hour at which one of its windows changed, and at midnight"),
    schema=[
        field("zone_id", String, "id", "the zone"),
        _count("order_count_1h", "orders placed in the last hour", at_most="order_count_7d"),
        _count("order_count_7d", "orders placed in the last 7 days"),
        _count("delivered_count_1h", "orders delivered in the last hour"),
        _minutes(
            "delivery_minutes_mean_1h",
            "mean minutes from placed to delivered, ASAP orders, last hour",
            implies="delivery_minutes_mean_24h",
        ),
        _minutes(
            "delivery_minutes_mean_24h",
            "mean minutes from placed to delivered, ASAP orders, last 24 hours",
            implies="delivery_minutes_mean_7d",
        ),
        _minutes("delivery_minutes_mean_7d", "mean minutes from placed to delivered, ASAP orders, last 7 days"),
        _count(
            "open_order_count",
            "orders placed in the last 24 hours and neither delivered nor cancelled",
            at_most="order_count_7d",
        ),
    ],
)

zone_live = FeatureView(
    name="zone_live",
    entities=[entities.zone],
    ttl=LIVE_TTL,
    source=sources.zone_live_rows,
    online=True,
    description="How congested a delivery zone is at this moment.",
    tags=_tags(
        "one row per zone and 2 minutes in which something changed, and every 10 minutes",
        freshness="every 2 minutes, 2 minutes later",
    ),
    schema=[
        field("zone_id", String, "id", "the zone"),
        _count("order_count_60m", "orders placed in the last 60 minutes"),
        _minutes(
            "delivery_minutes_mean_60m", "mean minutes from placed to delivered, ASAP orders, delivered in the last 60"
        ),
        _count("open_order_count", "orders placed in the last 24 hours and neither delivered nor cancelled"),
        _count("open_asap_order_count", "open orders that are wanted at once", at_most="open_order_count"),
        _count("active_driver_count", "drivers who delivered here in the last 2 hours", unit="drivers"),
        _per_driver(
            "open_asap_orders_per_driver", "open ASAP orders over active drivers, over one while there are none"
        ),
        _per_driver("delivered_per_driver_60m", "orders delivered in the last 60 minutes over active drivers"),
    ],
)

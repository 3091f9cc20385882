"""For each rule of the register, data that breaks it: what `test_breakers.py` runs, and checks to be complete."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import polars as pl

from config import Settings
from feature_repo.catalog import FieldInfo, ViewInfo
from feature_repo.lake import PartitionedTable
from feature_repo.orders.schema import LAKE_SCHEMA, orders_table
from feature_repo.quality import ValidationReport, validate_features, validate_orders
from feature_repo.quality.features import table_schema
from feature_repo.window import DAY, HOUR, Window
from tests.feature_repo.orders.builders import NOON, lake_frame, minutes, placed, version
from tests.feature_repo.quality.history import fill_lake, hour

WINDOW = Window(NOON, NOON + HOUR)
Breaker = Callable[[Settings], ValidationReport]

VIEW = ViewInfo(
    name="shop_stats",
    join_key="shop_id",
    ttl=timedelta(hours=26),
    fields=(
        FieldInfo("count_7d", "Int64", "orders", 0, None, max_null_share=0.0),
        FieldInfo("count_1h", "Int64", "orders", 0, None, at_most="count_7d"),
        FieldInfo("rate_7d", "Float64", "share", 0, 1, implies="kind"),
        FieldInfo("kind", "String", "category", None, None, "", ("new", "old")),
    ),
)
"""A view of our own in place of the catalog's, with every tag there is."""


def orders(*rows: dict, **columns) -> Breaker:
    frame = lake_frame(*rows).with_columns(**{name: pl.lit(value) for name, value in columns.items()})
    return lambda settings: validate_orders(frame, WINDOW, settings).report


def one_order(**changes) -> Breaker:
    return orders(placed("good"), version("bad", **changes))


def without(column: str) -> Breaker:
    frame = lake_frame(version()).with_columns(pl.lit(None, LAKE_SCHEMA[column]).alias(column))
    return lambda settings: validate_orders(frame, WINDOW, settings).report


def after_weeks(*rows: dict) -> Breaker:
    def breaker(settings: Settings) -> ValidationReport:
        fill_lake(settings)
        return validate_orders(lake_frame(*rows), WINDOW, settings).report

    return breaker


def feature_frame(count: int = 1, **columns) -> pl.DataFrame:
    rows = {
        "shop_id": [f"s{number}" for number in range(count)],
        "event_timestamp": [NOON + HOUR] * count,
        "created": [NOON + HOUR + minutes(10)] * count,
        "count_7d": [3] * count,
        "count_1h": [1] * count,
        "rate_7d": [0.5] * count,
        "kind": ["new"] * count,
    }
    return pl.DataFrame({**rows, **columns}, schema=table_schema(VIEW))


def features(count: int = 1, **columns) -> Breaker:
    return lambda settings: validate_features("shop_stats", feature_frame(count, **columns), WINDOW, settings)


def features_after_a_day(count: int, **columns) -> Breaker:
    def breaker(settings: Settings) -> ValidationReport:
        table = PartitionedTable(settings.features / "shop_stats", "event_timestamp", table_schema(VIEW), ["shop_id"])
        earlier = feature_frame(10).with_columns(pl.col("event_timestamp", "created") - DAY)
        table.replace(Window(NOON + HOUR - DAY, NOON + 2 * HOUR - DAY), earlier)
        return validate_features("shop_stats", feature_frame(count, **columns), WINDOW, settings)

    return breaker


def row_count(settings: Settings) -> ValidationReport:
    week = Window(NOON - 7 * DAY, NOON - 7 * DAY + HOUR)
    orders_table(settings).replace(week, lake_frame(*(placed(f"w{n}", placed_at=week.start) for n in range(40))))
    return validate_orders(lake_frame(version()), WINDOW, settings).report


def schema(settings: Settings) -> ValidationReport:
    return validate_features("shop_stats", feature_frame().drop("rate_7d"), WINDOW, settings)


def silent_from(start: int) -> list[dict]:
    return [row for row in hour(NOON) if row["updated_at"] < NOON + minutes(start)]


STALE = {
    "placed_at": NOON - minutes(240),
    "accepted_at": NOON - minutes(239),
    "picked_up_at": NOON - minutes(230),
    "delivered_at": NOON - minutes(210),
    "updated_at": NOON - minutes(200),
}

BREAKERS: dict[str, Breaker] = {
    "converted": orders(version(), refused_rule="unparsable", refused_reason="column a: no", source_row="{}"),
    "order_id_not_null": orders(placed("good"), version(order_id=None)),
    "restaurant_id_not_null": one_order(restaurant_id=None),
    "placed_at_not_null": one_order(placed_at=None, updated_at=NOON + minutes(40)),
    "status_not_null": one_order(status=None),
    "updated_at_not_null": one_order(updated_at=None, arrived_at=NOON + minutes(30)),
    "blank_id": one_order(driver_id=" "),
    "status": one_order(status="lost"),
    "known_in_window": one_order(arrived_at=NOON + 2 * HOUR),
    "placed_in_future": one_order(placed_at=NOON + minutes(50), updated_at=NOON + minutes(45)),
    "too_late": one_order(placed_at=NOON - 72 * HOUR - minutes(1), arrived_at=NOON),
    "delivered_before_placed": one_order(delivered_at=NOON - minutes(1)),
    "stage_order": one_order(picked_up_at=NOON + minutes(1)),
    "cancelled_before_placed": one_order(cancelled_at=NOON - minutes(1)),
    "delivered_without_time": one_order(delivered_at=None),
    "delivery_minutes": one_order(
        placed_at=NOON - 24 * HOUR, delivered_at=NOON + minutes(1), updated_at=NOON + minutes(1)
    ),
    "updated_before_event": one_order(updated_at=NOON + minutes(29)),
    "finite_numbers": one_order(order_value=float("inf")),
    "distance_km": one_order(distance_km=100.5),
    "order_value": one_order(order_value=-0.01),
    "item_count": one_order(item_count=0),
    "promised_minutes": one_order(promised_minutes=-1.0),
    "conflicting_version": orders(version(), version(order_value=1.0, arrived_at=NOON + minutes(50))),
    "duplicate_version": orders(version(), version(arrived_at=NOON + minutes(50))),
    "order_changed": orders(version(), version(restaurant_id="r2", updated_at=NOON + minutes(40))),
    "order_id_not_all_null": without("order_id"),
    "restaurant_id_not_all_null": without("restaurant_id"),
    "placed_at_not_all_null": without("placed_at"),
    "status_not_all_null": without("status"),
    "updated_at_not_all_null": without("updated_at"),
    "rejected_share": orders(*(version(f"b{number}", item_count=0) for number in range(10))),
    "no_rows": orders(),
    "row_count": row_count,
    "found_late": orders(version(), found_late=True),
    "fact_withdrawn": orders(version(), version(delivered_at=None, status="picked_up", updated_at=NOON + minutes(40))),
    "mean_shift": after_weeks(*hour(NOON, order_value=2000.0)),
    "null_shift": after_weeks(*hour(NOON, driver_id=None)),
    "distinct_shift": after_weeks(*hour(NOON, restaurant_id="r1")),
    "source_silent": after_weeks(*silent_from(30)),
    "source_stale": after_weeks(*(row | {"arrived_at": row["updated_at"]} | STALE for row in hour(NOON))),
    "schema": schema,
    "key_not_null": features(shop_id=[None]),
    "event_timestamp_not_null": features(event_timestamp=[None]),
    "event_timestamp_in_window": features(event_timestamp=[NOON], created=[NOON + minutes(10)]),
    "on_the_step": features(event_timestamp=[NOON + minutes(59)], created=[NOON + minutes(69)]),
    "created_after_delay": features(created=[NOON + HOUR]),
    "one_row_per_key": features(2, shop_id=["a", "a"]),
    "feature_finite": features(rate_7d=[float("nan")]),
    "feature_range": features(rate_7d=[1.01]),
    "feature_allowed": features(kind=["odd"]),
    "feature_null_share": features(count_7d=[None]),
    "feature_at_most": features(count_1h=[4]),
    "feature_implies": features(kind=[None]),
    "feature_nulls": features_after_a_day(3, rate_7d=[None] * 3),
    "feature_gone": features_after_a_day(20, rate_7d=[None] * 20),
}

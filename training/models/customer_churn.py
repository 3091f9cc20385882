"""Whether a customer who has ordered lately stays away for the next 30 days, asked every Monday morning."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import polars as pl

from feature_repo.window import DAY, HOUR, Window, floor_hour
from training.spec import DatasetLimits, GateSpec, ModelSpec, SearchSpec, SliceSpec

if TYPE_CHECKING:
    from config import Settings

HORIZON = 30 * DAY
"""A customer who orders nothing for so long is gone. The features look as far back."""
MONDAY, ASKED_AT = 0, timedelta(hours=6)
"""UTC; by then the rows of midnight are published."""


def active_customers(asked: Window, as_of: datetime, settings: Settings) -> pl.LazyFrame:
    """Every Monday at 06:00 UTC in the window, the customers who had placed an order in the 30 days before.

    Who counts is decided by what was known at that instant. The label is known when the 30 days and the lateness
    horizon are over: until then an order that was placed in time may still arrive. Instants without 30 days of history
    before them are left out, since the features of their rows would be too small.
    """
    from feature_repo.orders.history import latest_orders, order_versions

    span = Window(asked.start - HORIZON, floor_hour(as_of) + HOUR)
    known = order_versions(settings, span).filter(pl.col("known_at") <= as_of, pl.col("customer_id").is_not_null())
    first = known.sort("known_at", "updated_at").unique("order_id", keep="first", maintain_order=True).collect()
    asked_at = _instants(asked, first["placed_at"].min())
    customers = pl.concat([_active(first, instant) for instant in asked_at] or [_active(first, asked.end).clear()])
    known_at = pl.col("asked_at") + HORIZON + settings.lateness_horizon
    later = latest_orders(settings, Window(asked.start, span.end), as_of).select("customer_id", ordered_at="placed_at")
    return (
        customers.lazy()
        .with_columns(label_known_at=known_at)
        .filter(pl.col("label_known_at") <= as_of)
        .sort("asked_at")
        .join_asof(
            later.sort("ordered_at"),
            left_on="asked_at",
            right_on="ordered_at",
            by="customer_id",
            strategy="forward",
            tolerance=HORIZON - timedelta(microseconds=1),
            check_sortedness=False,
        )
        .with_columns(churned=pl.col("ordered_at").is_null().cast(pl.Float64))
        .drop("ordered_at")
    )


def _instants(asked: Window, history_start: object) -> list[datetime]:
    if not isinstance(history_start, datetime):
        return []
    first = max(asked.start, history_start + HORIZON)
    day = first.replace(hour=0, minute=0, second=0, microsecond=0)
    days = [day + number * DAY for number in range((asked.end - day).days + 1)]
    instants = [one + ASKED_AT for one in days if one.weekday() == MONDAY]
    return [instant for instant in instants if first <= instant < asked.end]


def _active(orders: pl.DataFrame, instant: datetime) -> pl.DataFrame:
    placed = pl.col("placed_at").is_between(instant - HORIZON, instant, closed="left")
    return (
        orders.filter(placed, pl.col("known_at") <= instant)
        .group_by("customer_id")
        .agg(zone_id=pl.col("zone_id").sort_by("placed_at", "order_id").last())
        .with_columns(asked_at=pl.lit(instant, pl.Datetime("us", "UTC")))
        .with_columns(row_id=pl.format("{}@{}", "customer_id", pl.col("asked_at").dt.strftime("%Y-%m-%d")))
    )


SPEC = ModelSpec(
    name="customer_churn",
    feature_service="customer_churn_v1",
    population=active_customers,
    row_id="row_id",
    instant="asked_at",
    label="churned",
    unit="nats",
    kind="classification",
    limits=DatasetLimits(minimum_rows=500, label_minimum=0, label_maximum=1),
    label_horizon=HORIZON,
    requires=("customer_id",),
    window_days=365,
    estimator="sklearn.ensemble.HistGradientBoostingClassifier",
    parameters={"max_iter": 300, "early_stopping": True, "n_iter_no_change": 15},
    candidates=(
        {"learning_rate": 0.1, "max_leaf_nodes": 15, "min_samples_leaf": 40},
        {"learning_rate": 0.05, "max_leaf_nodes": 8, "min_samples_leaf": 100, "l2_regularization": 10.0},
    ),
    search=SearchSpec(
        space={
            "learning_rate": (0.03, 0.05, 0.1),
            "max_leaf_nodes": (4, 8, 15, 31),
            "min_samples_leaf": (40, 100, 400),
            "l2_regularization": (0.0, 1.0, 10.0),
        }
    ),
    gates=(
        GateSpec("validation_roc_auc", 0.65),
        GateSpec("calibration_error", 0.10),
        GateSpec("train_validation_gap", 0.15),
        GateSpec("beats_baseline", 1.0),
        GateSpec("no_worse_than_champion", 0.01),
        GateSpec("slices", 1.0),
        GateSpec("fairness", 0.50),
        GateSpec("refit_agrees", 0.75),
        GateSpec("onnx_matches", 1e-3),
        GateSpec("model_bytes", 5e6),
        GateSpec("row_microseconds", 2_000),
    ),
    slices=(
        SliceSpec("one order in 30 days", where="customer_stats__order_count_30d = 1", maximum=0.8),
        SliceSpec("customer", by="customer_stats__segment", maximum=0.8),
        SliceSpec("zone", by="zone_id", maximum=0.8),
    ),
    # Not between segments: how often somebody orders is what tells whether they will, so their errors must differ.
    fairness=(SliceSpec("zone", by="zone_id"),),
)

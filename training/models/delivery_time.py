"""Minutes from the placement of an order to its delivery, predicted when it is placed."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import polars as pl

from feature_repo.request_fields import REQUEST_FIELDS
from feature_repo.window import Window
from training.spec import DatasetLimits, GateSpec, HiddenEntity, IntervalSpec, ModelSpec, SearchSpec, SliceSpec

if TYPE_CHECKING:
    from config import Settings

SHORTEST, LONGEST = 1.0, 180.0
"""Minutes. Outside of them a record is a slip of the recording device, or an incident that no feature knows of."""
PROMISE = "promised_minutes"

CUSTOMER_SEGMENT = """CASE WHEN customer_stats__order_count_30d >= 8 THEN 'vip'
WHEN customer_stats__order_count_30d >= 3 THEN 'regular'
WHEN customer_stats__order_count_30d >= 1 THEN 'occasional' ELSE 'without recent orders' END"""
"""As the feature view has it, but for those whom it has not seen for a month."""


def delivered_asap_orders(placed: Window, as_of: datetime, settings: Settings) -> pl.LazyFrame:
    """Delivered orders for now (a scheduled order's duration is the customer's choice), as known at `as_of`.

    The outcome, and the driver whom `hidden` makes unknown again, are those of an order's latest version; the fields of
    the request and what the platform promised are those of its first: a later correction was not in the request, nor
    a later estimate told to who ordered.
    """
    from feature_repo.orders.history import latest_orders, requests_as_placed

    minutes = (pl.col("delivered_at") - pl.col("placed_at")).dt.total_microseconds() / 60e6
    return (
        latest_orders(settings, placed, as_of)
        .filter(pl.col("status") == "delivered", pl.col("is_asap"))
        .with_columns(delivery_minutes=minutes, label_known_at=pl.col("known_at"))
        .filter(pl.col("delivery_minutes").is_between(SHORTEST, LONGEST))
        .drop(REQUEST_FIELDS)
        .join(requests_as_placed(settings, placed, as_of), on="order_id", how="left", validate="1:1")
    )


SPEC = ModelSpec(
    name="delivery_time",
    feature_service="delivery_time_v2",
    population=delivered_asap_orders,
    asks={"is_asap": True},
    row_id="order_id",
    instant="placed_at",
    label="delivery_minutes",
    unit="minutes",
    requires=("delivered_at",),
    limits=DatasetLimits(minimum_rows=500, label_minimum=SHORTEST, label_maximum=LONGEST),
    estimator="sklearn.ensemble.HistGradientBoostingRegressor",
    parameters={"max_iter": 300, "early_stopping": True, "n_iter_no_change": 15},
    # The first wins where rows are many; the last, small trees on few features each, where they are few and noisy.
    candidates=(
        {"loss": "absolute_error", "learning_rate": 0.1, "max_leaf_nodes": 31, "min_samples_leaf": 40},
        {
            "loss": "absolute_error",
            "learning_rate": 0.05,
            "max_leaf_nodes": 15,
            "min_samples_leaf": 100,
            "max_features": 0.5,
        },
        {
            "loss": "squared_error",
            "learning_rate": 0.05,
            "max_leaf_nodes": 8,
            "min_samples_leaf": 100,
            "max_features": 0.3,
            "l2_regularization": 10.0,
        },
    ),
    # Drawn from only when asked for: `python -m training run --trials 20 --folds 3`.
    search=SearchSpec(
        space={
            "loss": ("absolute_error", "squared_error"),
            "learning_rate": (0.03, 0.05, 0.1, 0.2),
            "max_leaf_nodes": (8, 15, 31, 63),
            "min_samples_leaf": (20, 40, 100, 200),
            "max_features": (0.3, 0.5, 1.0),
            "l2_regularization": (0.0, 1.0, 10.0),
        }
    ),
    # Fewer trees than the middle has: more of them narrow the interval by 1 % and cost as much again.
    interval=IntervalSpec(
        estimator="sklearn.ensemble.HistGradientBoostingRegressor",
        parameters={
            "loss": "quantile",
            "learning_rate": 0.15,
            "max_leaf_nodes": 15,
            "min_samples_leaf": 100,
            "max_features": 0.5,
            "max_iter": 100,
            "early_stopping": True,
            "n_iter_no_change": 10,
        },
    ),
    hidden=HiddenEntity(entity="driver", view="driver_stats", share=0.5),
    promise=PROMISE,
    baseline_feature="restaurant_stats__delivery_minutes_mean_28d",
    gates=(
        GateSpec("validation_mae", 8.0),
        GateSpec("train_validation_gap", 3.0),
        GateSpec("beats_baseline", 1.0),
        GateSpec("no_worse_than_champion", 0.10),
        GateSpec("slices", 1.0),
        GateSpec("fairness", 0.50),
        GateSpec("interval_coverage", 0.03),
        GateSpec("interval_parts", 0.05),
        GateSpec("refit_agrees", 0.75),
        GateSpec("onnx_matches", 1e-3),
        GateSpec("model_bytes", 5e6),
        GateSpec("row_microseconds", 2_000),
    ),
    slices=(
        SliceSpec("peak", where="request_features__is_peak_hour = 1", maximum=9.0),
        SliceSpec("off peak", where="request_features__is_peak_hour = 0", maximum=8.0),
        SliceSpec("long distance (> 5 km)", where="distance_km > 5", maximum=11.0),
        SliceSpec("new restaurant", where="restaurant_stats__delivery_minutes_mean_28d IS NULL", maximum=13.0),
        SliceSpec("zone", by="zone_id", maximum=11.0),
    ),
    fairness=(SliceSpec("zone", by="zone_id"), SliceSpec("customer", by=CUSTOMER_SEGMENT)),
)

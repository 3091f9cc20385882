"""How good the predictions were, once the outcomes are known, beside what the naive baseline would have been."""

from __future__ import annotations

from typing import Any

import polars as pl

SOURCES = ("online", "replay", "batch")
"""Where predictions come from, the one that people saw first."""
NOMINAL_COVERAGE = 0.8
"""Share of outcomes that should lie between the 10th and the 90th percentile."""


class AmbiguousOutcomes(ValueError):
    """An order has more than one outcome: a join would multiply its predictions."""


def join_outcomes(predictions: pl.DataFrame, outcomes: pl.DataFrame) -> pl.DataFrame:
    """The predictions, each beside the outcome of its order where there is one.

    Parameters
    ----------
    predictions : pl.DataFrame
        The prediction log: at least `order_id`.
    outcomes : pl.DataFrame
        `order_id` and `actual_minutes`, one row per order.

    Returns
    -------
    pl.DataFrame
        As many rows as `predictions`, in their order, with `actual_minutes` (null: no outcome).

    Raises
    ------
    AmbiguousOutcomes
        An order occurs twice in `outcomes`.
    """
    twice = outcomes.filter(pl.col("order_id").is_duplicated())["order_id"].unique().sort()
    if twice.len():
        raise AmbiguousOutcomes(f"{twice.len()} orders have more than one outcome, for example {twice[0]!r}")
    joined = predictions.join(
        outcomes.select("order_id", pl.col("actual_minutes").cast(pl.Float64)),
        on="order_id",
        how="left",
        maintain_order="left",
    )
    assert joined.height == predictions.height
    return joined


def one_per_order(joined: pl.DataFrame) -> pl.DataFrame:
    """One prediction per order: the first that the service gave, else the one of batch scoring.

    Rows without an order id cannot have an outcome and are left out.
    """
    rank = pl.col("source").replace_strict({name: i for i, name in enumerate(SOURCES)}, default=len(SOURCES))
    return (
        joined.filter(pl.col("order_id").is_not_null())
        .sort(rank, "predicted_at", "prediction_id")
        .unique(subset="order_id", keep="first", maintain_order=True)
    )


def measure(joined: pl.DataFrame, baseline_minutes: float | None) -> dict[str, Any]:
    """Errors in minutes, over one prediction per order.

    Parameters
    ----------
    joined : pl.DataFrame
        Result of `join_outcomes`.
    baseline_minutes : float or None
        The constant that the naive baseline predicts; None when there is no champion to take it from.

    Returns
    -------
    dict
        Counts; `mae`, `rmse`, `bias` (predicted minus actual), `coverage` (share inside P10 to P90) and
        `baseline_mae`, None where nothing can be measured; the same `by_source` and `by_version`.
    """
    orders = one_per_order(joined)
    return {
        "predictions": joined.height,
        "without_order_id": joined["order_id"].null_count(),
        "degraded_share": _share(joined, pl.col("status") != "ok"),
        **_errors(orders, baseline_minutes),
        "by_source": _by("source", joined, baseline_minutes),
        "by_version": _by("model_version", orders, baseline_minutes),
    }


def _by(column: str, rows: pl.DataFrame, baseline_minutes: float | None) -> dict[str, Any]:
    groups = rows.partition_by(column, as_dict=True)
    return {str(key): _errors(one_per_order(group), baseline_minutes) for (key,), group in sorted(groups.items())}


def _errors(orders: pl.DataFrame, baseline_minutes: float | None) -> dict[str, Any]:
    known = orders.filter(pl.col("actual_minutes").is_not_null(), pl.col("delivery_minutes").is_not_null())
    actual, predicted = known["actual_minutes"], known["delivery_minutes"]
    error = predicted - actual
    inside = pl.col("actual_minutes").is_between(pl.col("p10_minutes"), pl.col("p90_minutes"))
    return {
        "orders": orders.height,
        "outcomes": known.height,
        "mae": _number(error.abs().mean()),
        "rmse": _number((error**2).mean(), 0.5),
        "bias": _number(error.mean()),
        "coverage": _share(known.filter(pl.col("p10_minutes").is_not_null()), inside),
        "baseline_mae": None if baseline_minutes is None else _number((actual - baseline_minutes).abs().mean()),
    }


def _share(frame: pl.DataFrame, condition: pl.Expr) -> float | None:
    return _number(frame.select(condition.mean()).item()) if frame.height else None


def _number(value: Any, power: float = 1.0) -> float | None:
    return None if value is None else float(value) ** power if power != 1.0 else float(value)

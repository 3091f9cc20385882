"""What the business asks of a model, beside the mean error: promises kept, bias, how wrong it is of late orders."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from training.export import Vector
from training.spec import ModelSpec


def business(
    predicted: Vector, promised: Vector, actual: Vector, rows: pl.DataFrame, spec: ModelSpec
) -> dict[str, Any]:
    """Measures of promises, on rows that the model has not seen, in the label's unit.

    Parameters
    ----------
    predicted, promised, actual : array of float64, shape (n,)
        The prediction, its 90th percentile (what may be promised), and what happened.
    rows : pl.DataFrame, n rows
        With the platform's own estimate, where the source has it (`spec.promise`).
    spec : ModelSpec

    Returns
    -------
    dict
        `bias` (mean of predicted minus actual), `late_share` (share after the promised 90th percentile), of these
        `late_by` (mean distance from it) and `late_error` (mean absolute error of the prediction); `platform` (None
        without its estimate) with the `rows` that have one, its `error`, `bias` and `late_share`, and of the same rows
        the model's `model_error`, and `late_error` and `model_late_error` of those that came after the platform's
        estimate. None stands for the mean of no rows.
    """
    late = actual > promised
    return {
        "bias": float((predicted - actual).mean()),
        "late_share": float(late.mean()),
        "late_by": _mean((actual - promised)[late]),
        "late_error": _mean(np.abs(actual - predicted)[late]),
        "platform": _platform(predicted, actual, rows, spec),
    }


def _platform(predicted: Vector, actual: Vector, rows: pl.DataFrame, spec: ModelSpec) -> dict[str, Any] | None:
    if spec.promise not in rows.columns:
        return None
    told = rows[spec.promise].cast(pl.Float64).fill_null(float("nan")).to_numpy()
    known = np.isfinite(told)
    if not known.any():
        return None
    told, predicted, actual = told[known], predicted[known], actual[known]
    late = actual > told
    return {
        "rows": int(known.sum()),
        "error": float(np.abs(actual - told).mean()),
        "model_error": float(np.abs(actual - predicted).mean()),
        "bias": float((told - actual).mean()),
        "late_share": float(late.mean()),
        "late_error": _mean(np.abs(actual - told)[late]),
        "model_late_error": _mean(np.abs(actual - predicted)[late]),
    }


def _mean(values: Vector) -> float | None:
    return float(values.mean()) if len(values) else None

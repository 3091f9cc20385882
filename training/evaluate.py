"""How good a candidate is: on rows it has not seen, beside naive baselines, part by part."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import polars as pl

from training.dataset import Dataset
from training.export import Matrix, Vector
from training.spec import ModelSpec, SliceSpec
from training.split import Split
from training.train import hide, labels, matrix

Predict = Callable[[Matrix], Vector]

LOWER, UPPER = 0.10, 0.90
SMALLEST_SLICE = 20
"""Rows; below it, the error of a slice says nothing."""
MOST_SLICE_VALUES = 12


def error_metrics(predicted: Vector, actual: Vector) -> dict[str, float]:
    """Mean absolute error, root mean squared error and the 90th percentile of the absolute error."""
    error = predicted - actual
    return {
        "mae": float(np.mean(np.abs(error))),
        "rmse": float(math.sqrt(np.mean(error**2))),
        "p90": float(np.quantile(np.abs(error), 0.9)),
    }


def evaluate(predict: Predict, split: Split, dataset: Dataset, spec: ModelSpec) -> dict[str, Any]:
    """Metrics of a model on all three parts.

    The hidden entity's features are missing on every row, because that is how most requests arrive; the metrics with
    that entity known have `_with_<entity>` in their names.

    Returns
    -------
    dict
        `metrics` (`<part>_mae`, `_rmse`, `_p90`), `baselines` (name -> part metrics), `baseline` (mean label of the
        train rows), `slices` (validation rows), `interval` (offsets and coverage), `rows`, `gap`.
    """
    metrics: dict[str, float] = {}
    predictions: dict[str, Vector] = {}
    for part, rows in split.parts().items():
        full = matrix(rows, dataset.inputs)
        predictions[part] = predict(hide(full, dataset, spec, 1.0))
        metrics |= _named(part, error_metrics(predictions[part], labels(rows, spec)))
        if spec.hidden and part != "train":
            known = error_metrics(predict(full), labels(rows, spec))
            metrics[f"{part}_mae_with_{spec.hidden.entity}"] = known["mae"]
    baselines = {
        name: _baseline_metrics(split, spec, values) for name, values in _baselines(split, dataset, spec).items()
    }
    return {
        "rows": {part: rows.height for part, rows in split.parts().items()},
        "gap": split.gap,
        "validation_start": split.validation_start.isoformat(),
        "test_start": split.test_start.isoformat(),
        "metrics": metrics,
        "baselines": baselines,
        "baseline": float(np.mean(labels(split.train, spec))),
        "slices": list(_slices(split.validation, predictions["validation"], spec)),
        "interval": _interval(predictions, split, spec),
    }


def conformal_offsets(residuals: Vector) -> tuple[float, float]:
    """Offsets to add to a prediction for its 10th and 90th percentile.

    Order statistics of the residuals (actual minus predicted) at ranks floor(0.1 (n + 1)) and ceil(0.9 (n + 1)), which
    makes the interval cover at least 80 % of exchangeable rows.
    """
    ordered = np.sort(residuals)
    count = len(ordered)
    low = min(max(math.floor(LOWER * (count + 1)), 1), count)
    high = min(max(math.ceil(UPPER * (count + 1)), 1), count)
    return float(ordered[low - 1]), float(ordered[high - 1])


def _interval(predictions: dict[str, Vector], split: Split, spec: ModelSpec) -> dict[str, float]:
    low, high = conformal_offsets(labels(split.validation, spec) - predictions["validation"])
    residuals = labels(split.test, spec) - predictions["test"]
    coverage = float(np.mean((residuals >= low) & (residuals <= high)))
    return {"p10_offset": low, "p90_offset": high, "test_coverage": coverage}


def _baselines(split: Split, dataset: Dataset, spec: ModelSpec) -> dict[str, Callable[[pl.DataFrame], Vector]]:
    mean = float(np.mean(labels(split.train, spec)))
    found: dict[str, Callable[[pl.DataFrame], Vector]] = {"train_mean": lambda rows: np.full(rows.height, mean)}
    feature = spec.baseline_feature
    if feature in dataset.inputs:
        found["trailing_mean"] = lambda rows: rows[feature].cast(pl.Float64).fill_null(mean).to_numpy()
    return found


def _baseline_metrics(split: Split, spec: ModelSpec, baseline: Callable[[pl.DataFrame], Vector]) -> dict[str, float]:
    named: dict[str, float] = {}
    for part, rows in split.parts().items():
        named |= _named(part, error_metrics(baseline(rows), labels(rows, spec)))
    return named


def _named(part: str, metrics: dict[str, float]) -> dict[str, float]:
    return {f"{part}_{name}": value for name, value in metrics.items()}


def _slices(rows: pl.DataFrame, predicted: Vector, spec: ModelSpec) -> Iterator[dict[str, Any]]:
    scored = rows.with_columns(error=pl.Series(np.abs(predicted - labels(rows, spec))))
    for part in spec.slices:
        try:
            yield from _slice(scored, part)
        except pl.exceptions.ColumnNotFoundError as missing:
            yield {"slice": part.name, "rows": None, "mae": None, "note": f"no column {missing}"}


def _slice(scored: pl.DataFrame, part: SliceSpec) -> Iterator[dict[str, Any]]:
    if part.where is not None:
        yield _slice_row(part.name, scored.filter(pl.sql_expr(part.where)))
        return
    assert part.by is not None  # a slice has one of the two
    known = scored.filter(pl.col(part.by).is_not_null())
    counts = known.group_by(part.by).len().sort(["len", part.by], descending=[True, False]).head(MOST_SLICE_VALUES)
    for value in counts[part.by].sort():
        yield _slice_row(f"{part.name} {value}", known.filter(pl.col(part.by) == value))


def _slice_row(name: str, rows: pl.DataFrame) -> dict[str, Any]:
    if rows.height < SMALLEST_SLICE:
        return {"slice": name, "rows": rows.height, "mae": None, "note": f"fewer than {SMALLEST_SLICE} rows"}
    return {"slice": name, "rows": rows.height, "mae": float(rows["error"].to_numpy().mean()), "note": ""}

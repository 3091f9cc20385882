"""How good a candidate is: on rows it has not seen, beside naive baselines, part by part."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import polars as pl

from training.business import business
from training.coverage import interval
from training.dataset import Dataset
from training.export import Matrix, OnnxModel, Ranges, Vector
from training.parts import SMALLEST_SLICE, parts
from training.spec import ModelSpec, SliceSpec
from training.split import Split, rows_seen
from training.train import hide, known_rows, labels, matrix

Predict = Callable[[Matrix], Vector]

SMALLEST_GROUP = 100
"""Rows; the largest gap among many small groups is noise."""
TIMED_ROWS = 300


def evaluate(
    predict: Predict, split: Split, dataset: Dataset, spec: ModelSpec, ranges: Callable[[Matrix], Ranges] | None = None
) -> dict[str, Any]:
    """Metrics of a model on all three parts.

    `ranges` gives the prediction with its percentiles; without it, the prediction stands for all three, and the
    interval has the same width for all.

    The hidden entity's features are missing on every row, because that is how most requests arrive; the metrics with
    that entity known have `_with_<entity>` in their names. A metric that is not defined on a part is left out.

    Returns
    -------
    dict
        `task`, `primary` (names), `seen` (see `training.split.rows_seen`), `metrics` (`<part>_mae`, `_rmse`, `_p90`, or
        those of another task), `baselines` (name -> part metrics), `baseline` (mean label of the train rows), `slices`
        and `groups` (validation rows),
        `interval` (see `training.coverage.interval`) and `business` (see `training.business.business`), both of the
        test rows and None for a probability; `rows`, `gap`.
    """
    metrics: dict[str, float] = {}
    predictions: dict[str, Vector] = {}
    for part, rows in split.parts().items():
        full, actual = matrix(rows, dataset.inputs), labels(rows, spec)
        predictions[part] = predict(hide(full, dataset, spec, 1.0))
        metrics |= _named(part, spec.task.metrics(predictions[part], actual))
        if spec.hidden and part != "train":
            known = float(np.mean(spec.task.losses(predict(full), actual)))
            metrics[f"{part}_{spec.task.primary}_with_{spec.hidden.entity}"] = known
    baselines = {
        name: _baseline_metrics(split, spec, values) for name, values in _baselines(split, dataset, spec).items()
    }
    scored = split.validation.with_columns(
        _loss=pl.Series(spec.task.losses(predictions["validation"], labels(split.validation, spec)))
    )
    return {
        "task": spec.task.name,
        "primary": spec.task.primary,
        "rows": {part: rows.height for part, rows in split.parts().items()},
        "gap": split.gap,
        "seen": rows_seen(split, known_rows(dataset, spec), spec),
        "validation_start": split.validation_start.isoformat(),
        "test_start": split.test_start.isoformat(),
        "metrics": metrics,
        "baselines": baselines,
        "baseline": float(np.mean(labels(split.train, spec))),
        "slices": [row for part in spec.slices for row in _slice(scored, part, SMALLEST_SLICE, spec)],
        "groups": [
            {"kind": part.name} | row for part in spec.fairness for row in _slice(scored, part, SMALLEST_GROUP, spec)
        ],
        **_promises(ranges or (lambda inputs: np.repeat(predict(inputs)[:, None], 3, axis=1)), split, dataset, spec),
    }


def row_microseconds(model: OnnxModel, inputs: Matrix) -> float:
    """Median time of predicting one row at a time, over up to 300 rows of `inputs`, in microseconds."""
    taken = []
    for place in range(min(TIMED_ROWS, len(inputs))):
        row = inputs[place : place + 1]
        begun = time.perf_counter_ns()
        model.predict(row)
        taken.append(time.perf_counter_ns() - begun)
    return float(np.median(taken)) / 1000


def _promises(
    ranges: Callable[[Matrix], Ranges], split: Split, dataset: Dataset, spec: ModelSpec
) -> dict[str, dict[str, Any] | None]:
    if spec.task.name != "regression":
        return {"interval": None, "business": None}
    told, bounds = interval(ranges, split, dataset, spec)
    predicted = ranges(hide(matrix(split.test, dataset.inputs), dataset, spec, 1.0))[:, 0]
    kept = business(predicted, bounds[:, 1], labels(split.test, spec), split.test, spec)
    return {"interval": told, "business": kept}


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
        named |= _named(part, spec.task.metrics(baseline(rows), labels(rows, spec)))
    return named


def _named(part: str, metrics: dict[str, float]) -> dict[str, float]:
    return {f"{part}_{name}": value for name, value in metrics.items() if math.isfinite(value)}


def _slice(scored: pl.DataFrame, part: SliceSpec, smallest: int, spec: ModelSpec) -> Iterator[dict[str, Any]]:
    try:
        for name, rows in parts(scored, part):
            few = rows.height < smallest
            losses = rows["_loss"].to_numpy()
            yield {
                "slice": name,
                "rows": rows.height,
                spec.task.primary: None if few else float(losses.mean()),
                "standard_error": None if few else float(losses.std(ddof=1) / math.sqrt(rows.height)),
                "maximum": part.maximum,
                "note": f"fewer than {smallest} rows" if few else "",
            }
    except pl.exceptions.ColumnNotFoundError as missing:
        note = f"no column {str(missing).split(';')[0].rpartition('column ')[2]}"
        nothing = {"rows": None, spec.task.primary: None, "standard_error": None}
        yield {"slice": part.name, **nothing, "maximum": part.maximum, "note": note}

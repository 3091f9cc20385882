"""What the report shows of a candidate: residuals, calibration, and what its error owes to each input. Numbers only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from training.dataset import Dataset
from training.export import Matrix, Vector
from training.spec import ModelSpec
from training.split import Split
from training.train import hide, labels, matrix

BINS = 10
HISTOGRAM_BINS = 24
IMPORTANCE_ROWS = 2_000


def pictures(predict: Callable[[Matrix], Vector], split: Split, dataset: Dataset, spec: ModelSpec) -> dict[str, Any]:
    """What to draw, of the test rows, as the gates see them: with the hidden entity unknown.

    Returns
    -------
    dict
        `residuals` (`edges`, `counts`; predicted minus actual, the outermost 1 % on each side left out), `calibration`
        (tenths of the rows by prediction: `rows`, mean `predicted`, mean `actual`), `importance` (input -> growth of
        the primary metric when its column is shuffled, on at most 2,000 rows, largest first).
    """
    inputs = hide(matrix(split.test, dataset.inputs), dataset, spec, 1.0)
    actual = labels(split.test, spec)
    predicted = predict(inputs)
    chosen = np.sort(np.random.default_rng(spec.seed).permutation(len(inputs))[:IMPORTANCE_ROWS])
    return {
        "residuals": _histogram(predicted - actual),
        "calibration": _calibration(predicted, actual),
        "importance": _importance(predict, inputs[chosen], actual[chosen], dataset.inputs, spec),
    }


def _histogram(residuals: Vector) -> dict[str, list[float]]:
    low, high = np.quantile(residuals, [0.01, 0.99])
    counts, edges = np.histogram(residuals, bins=HISTOGRAM_BINS, range=(low, max(high, low + 1e-9)))
    return {"edges": [float(edge) for edge in edges], "counts": [int(count) for count in counts]}


def _calibration(predicted: Vector, actual: Vector) -> list[dict[str, float]]:
    parts = [part for part in np.array_split(np.argsort(predicted, kind="stable"), BINS) if len(part)]
    return [
        {"rows": len(part), "predicted": float(predicted[part].mean()), "actual": float(actual[part].mean())}
        for part in parts
    ]


def _importance(
    predict: Callable[[Matrix], Vector], inputs: Matrix, actual: Vector, names: list[str], spec: ModelSpec
) -> dict[str, float]:
    whole = float(np.mean(spec.task.losses(predict(inputs), actual)))
    order = np.random.default_rng(spec.seed).permutation(len(inputs))
    grown: dict[str, float] = {}
    for place, name in enumerate(names):
        shuffled = inputs.copy()
        shuffled[:, place] = inputs[order, place]
        grown[name] = float(np.mean(spec.task.losses(predict(shuffled), actual))) - whole
    return dict(sorted(grown.items(), key=lambda item: -item[1]))

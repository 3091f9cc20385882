"""What kind of answer a model gives: how it is measured, compared row by row, and read from the estimator.

The primary metric of a task is the mean of its row losses, and smaller is better, so that a search, a gate and a
bootstrap need not know which task they serve.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from training.export import Matrix, Vector

THRESHOLD = 0.5
"""Probability from which on the positive class is said."""
CALIBRATION_BINS = 10
SMALLEST_PROBABILITY = 1e-7
"""A certain answer that is wrong costs 16.1 in log loss, not infinity."""


class Task(Protocol):
    """A kind of answer.

    Attributes
    ----------
    name : str
    primary : str
        The metric that candidates are chosen by; smaller is better.
    """

    name: str
    primary: str

    def metrics(self, predicted: Vector, actual: Vector) -> dict[str, float]:
        """All metrics of predictions against what happened, shapes (n,); NaN where one is not defined."""

    def losses(self, predicted: Vector, actual: Vector) -> Vector:
        """The loss of each row, shape (n,); their mean is the primary metric."""

    def predict(self, estimator: Any, inputs: Matrix) -> Vector:
        """One number per row of `inputs`, shape (n,)."""


class Regression:
    """A number in the label's unit."""

    name = "regression"
    primary = "mae"

    def metrics(self, predicted: Vector, actual: Vector) -> dict[str, float]:
        """`mae` mean absolute error, `rmse` root mean squared error, `p90` 90th percentile of the absolute error."""
        error = predicted - actual
        return {
            "mae": float(np.mean(np.abs(error))),
            "rmse": float(math.sqrt(np.mean(error**2))),
            "p90": float(np.quantile(np.abs(error), 0.9)),
        }

    def losses(self, predicted: Vector, actual: Vector) -> Vector:
        """The absolute errors."""
        return np.abs(predicted - actual)

    def predict(self, estimator: Any, inputs: Matrix) -> Vector:
        """What the estimator predicts."""
        return np.asarray(estimator.predict(inputs), dtype=np.float64).reshape(-1)


class Classification:
    """The probability of the positive class; the label is 0 or 1."""

    name = "classification"
    primary = "log_loss"

    def metrics(self, predicted: Vector, actual: Vector) -> dict[str, float]:
        """`log_loss`, `brier`, `ece`, and at `THRESHOLD` `accuracy`, `precision`, `recall`, `f1`; `roc_auc`.

        `precision` is NaN if no row is said to be positive, `recall` if none is, `roc_auc` if there is one class only.
        """
        positive, said = actual > THRESHOLD, predicted >= THRESHOLD
        hits = int(np.sum(said & positive))
        mentioned, present = int(np.sum(said)), int(np.sum(positive))
        return {
            "log_loss": float(np.mean(self.losses(predicted, actual))),
            "accuracy": float(np.mean(said == positive)),
            "precision": hits / mentioned if mentioned else math.nan,
            "recall": hits / present if present else math.nan,
            "f1": 2 * hits / (mentioned + present) if mentioned + present else math.nan,
            "roc_auc": _roc_auc(predicted, positive),
            "brier": float(np.mean((predicted - actual) ** 2)),
            "ece": _expected_calibration_error(predicted, actual),
        }

    def losses(self, predicted: Vector, actual: Vector) -> Vector:
        """The negative logarithm of the probability that was given to what happened."""
        given = np.where(actual > THRESHOLD, predicted, 1.0 - predicted)
        return np.asarray(-np.log(np.clip(given, SMALLEST_PROBABILITY, 1.0)))

    def predict(self, estimator: Any, inputs: Matrix) -> Vector:
        """The estimator's probability of its second class."""
        return np.asarray(estimator.predict_proba(inputs)[:, 1], dtype=np.float64)


TASKS: Mapping[str, Task] = {task.name: task for task in (Regression(), Classification())}


def _roc_auc(predicted: Vector, positive: npt.NDArray[np.bool_]) -> float:
    present, absent = int(positive.sum()), int((~positive).sum())
    if not present or not absent:
        return math.nan
    _, place, count = np.unique(predicted, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    ranks = (last - (count - 1) / 2)[place]
    return float((ranks[positive].sum() - present * (present + 1) / 2) / (present * absent))


def _expected_calibration_error(predicted: Vector, actual: Vector) -> float:
    """Distance of the mean probability and the share of positives, over equally wide bins, weighted by their rows."""
    bins = np.minimum((predicted * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
    apart = np.bincount(bins, weights=predicted - actual, minlength=CALIBRATION_BINS)
    return float(np.abs(apart).sum() / len(predicted))

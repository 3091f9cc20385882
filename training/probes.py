"""Canaries for leaks: two ways in which a training set can know more than a prediction ever will."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from training.dataset import Dataset
from training.export import Matrix, Vector
from training.spec import ModelSpec
from training.split import split_by_time
from training.train import labels, matrix

MOST_ROWS = 5_000
"""Of train and of validation rows each, evenly spread over time: it costs a second."""
TOO_GOOD = 0.25
"""A feature that predicts the label by itself with so small a share of the mean's error has seen the label."""
TWINS = 0.60
"""Rows that are predicted from others of their own time with so small a share of the error know those others."""


def probe(dataset: Dataset, spec: ModelSpec) -> tuple[list[str], dict[str, Any]]:
    """Run the canaries on a training set.

    Returns
    -------
    (list of str, dict)
        What is wrong, in sentences; and the measurements: `from_the_future` (the best single feature, its share of the
        mean's error), `shuffled_time` (error with time shuffled over error in time order; None where rows of one time
        share their labels by design).

    Notes
    -----
    *From the future*: a shallow tree on each feature alone. What was known at the instant of an order never fixes its
    outcome; a feature that does was computed from it. *Shuffled time*: a tree that remembers single rows is fitted on
    half of the train rows, once on the earlier half and once on any half. A row of the other half is as new to one as
    to the other, unless it has a twin among the rows of its own time.
    """
    split = split_by_time(dataset.rows(), spec)
    train, validation = _thin(split.train), _thin(split.validation)
    seen, held_out = matrix(train, dataset.inputs), matrix(validation, dataset.inputs)
    name, share = _best_alone(seen, labels(train, spec), held_out, labels(validation, spec), dataset.inputs, spec)
    shuffled = None if spec.label_horizon else _shuffled_time(seen, labels(train, spec), spec)
    measured = {"from_the_future": {"feature": name, "share": share}, "shuffled_time": shuffled}
    return list(_failures(name, share, shuffled, spec)), measured


def _failures(name: str, share: float, shuffled: float | None, spec: ModelSpec) -> Iterable[str]:
    if share < TOO_GOOD:
        yield (
            f"{name} by itself predicts {spec.label} with {share:.0%} of the error of the mean: no feature knows that "
            "much at the instant of the prediction, so it was computed from the outcome; look at its transform"
        )
    if shuffled is not None and shuffled < TWINS:
        yield (
            f"with time shuffled, rows are predicted with {shuffled:.0%} of the error that they have in time order: "
            "rows have twins near them in time; look for orders that are listed again under another id"
        )


def _thin(rows: pl.DataFrame) -> pl.DataFrame:
    step = -(-rows.height // MOST_ROWS)
    return rows.gather_every(step) if step > 1 else rows


def _best_alone(
    seen: Matrix, target: Vector, held_out: Matrix, actual: Vector, names: list[str], spec: ModelSpec
) -> tuple[str, float]:
    mean = float(np.mean(spec.task.losses(np.full(len(actual), target.mean()), actual)))
    shares = [
        _error(seen[:, [place]], target, held_out[:, [place]], actual, spec, max_depth=6, min_samples_leaf=20) / mean
        for place in range(len(names))
    ]
    best = int(np.argmin(shares))
    return names[best], shares[best]


def _shuffled_time(values: Matrix, target: Vector, spec: ModelSpec) -> float:
    order = np.arange(len(values))
    shuffled = np.random.default_rng(spec.seed).permutation(order)

    def error(chosen: npt.NDArray[np.int64]) -> float:
        first, second = np.array_split(chosen, 2)
        return _error(values[first], target[first], values[second], target[second], spec, min_samples_leaf=1)

    return error(shuffled) / error(order)


def _error(seen: Matrix, target: Vector, held_out: Matrix, actual: Vector, spec: ModelSpec, **limits: int) -> float:
    from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

    kind = DecisionTreeClassifier if spec.kind == "classification" else DecisionTreeRegressor
    tree = kind(random_state=spec.seed, **limits).fit(seen, target)
    return float(np.mean(spec.task.losses(spec.task.predict(tree, held_out), actual)))

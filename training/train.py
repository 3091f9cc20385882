"""Fitting: the candidates of a spec, the best of them by validation error."""

from __future__ import annotations

import importlib
import inspect
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from training.dataset import Dataset
from training.export import Matrix, Vector
from training.spec import ModelSpec
from training.split import Split

LOGGER = logging.getLogger(__name__)

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Fitted:
    """The best candidate.

    Parameters
    ----------
    model : estimator
    parameters : mapping
        All its arguments.
    trials : list of dict
        Of every candidate: its arguments, validation error, iterations, seconds.
    """

    model: Any
    parameters: Mapping[str, Any]
    trials: list[dict[str, Any]]


def matrix(rows: pl.DataFrame, inputs: list[str]) -> Matrix:
    """Model inputs as float32 `[rows, inputs]`; a missing value is NaN.

    float32 here and in serving, so that both compare the same numbers with a tree's thresholds.
    """
    columns = [rows[name].cast(pl.Float32).fill_null(float("nan")).to_numpy() for name in inputs]
    return (
        np.column_stack(columns).astype(np.float32, copy=False) if columns else np.empty((rows.height, 0), np.float32)
    )


def labels(rows: pl.DataFrame, spec: ModelSpec) -> Vector:
    """The labels as float64."""
    return rows[spec.label].cast(pl.Float64).to_numpy().astype(np.float64, copy=False)


def hide(values: Matrix, dataset: Dataset, spec: ModelSpec, share: float) -> Matrix:
    """A copy of `values` in which the hidden entity's features are missing on a seeded `share` of the rows."""
    if spec.hidden is None or share <= 0:
        return values
    hidden = np.isin(dataset.inputs, dataset.view_inputs(spec.hidden.view))
    chosen = np.random.default_rng(spec.seed).random(len(values)) < share
    copy = values.copy()
    copy[np.ix_(chosen, hidden)] = np.nan
    return copy


def training_matrix(split: Split, dataset: Dataset, spec: ModelSpec) -> Matrix:
    """The train rows as the estimator sees them: the hidden entity is missing on its share of them."""
    return hide(matrix(split.train, dataset.inputs), dataset, spec, spec.hidden.share if spec.hidden else 0.0)


def fit(split: Split, dataset: Dataset, spec: ModelSpec, progress: Progress = LOGGER.info) -> Fitted:
    """Fit every candidate on the train rows and keep the one with the smallest validation error.

    Validation rows also stop a candidate early; the test rows play no part.
    """
    inputs, target = training_matrix(split, dataset, spec), labels(split.train, spec)
    held_out = hide(matrix(split.validation, dataset.inputs), dataset, spec, 1.0)
    held_out_target = labels(split.validation, spec)
    fillable = _without_empty_columns(inputs)
    best: tuple[float, Any, Mapping[str, Any]] | None = None
    trials = []
    for number, candidate in enumerate(spec.candidates, start=1):
        begun = time.perf_counter()
        parameters = {**spec.parameters, **candidate}
        model = _fit_one(spec, parameters, (fillable, target), (held_out, held_out_target))
        error = float(np.mean(spec.task.losses(spec.task.predict(model, held_out), held_out_target)))
        iterations = int(getattr(model, "n_iter_", 0))
        seconds = round(time.perf_counter() - begun, 2)
        trials.append(
            {**candidate, f"validation_{spec.task.primary}": error, "iterations": iterations, "seconds": seconds}
        )
        progress(
            f"candidate {number} of {len(spec.candidates)}: validation error {error:.3f} {spec.unit}, "
            f"{iterations} iterations, {seconds:.1f} s"
        )
        if best is None or error < best[0]:
            best = (error, model, parameters)
    assert best is not None  # a spec has at least one candidate
    return Fitted(best[1], best[2], trials)


def _without_empty_columns(inputs: Matrix) -> Matrix:
    """`inputs` with 0 in columns that have no value at all.

    scikit-learn cannot bin a column without values. A constant has no split, so the model never looks at the column.
    """
    empty = np.isnan(inputs).all(axis=0)
    return np.where(empty, np.float32(0), inputs) if empty.any() else inputs


def _fit_one(
    spec: ModelSpec, parameters: Mapping[str, Any], train: tuple[Matrix, Vector], validation: tuple[Matrix, Vector]
) -> Any:
    module, _, name = spec.estimator.rpartition(".")
    estimator = getattr(importlib.import_module(module), name)
    accepted = inspect.signature(estimator).parameters
    model = estimator(**parameters, **({"random_state": spec.seed} if "random_state" in accepted else {}))
    if "X_val" in inspect.signature(model.fit).parameters and parameters.get("early_stopping"):
        return model.fit(*train, X_val=validation[0], y_val=validation[1])
    return model.fit(*train)

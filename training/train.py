"""Fitting: the candidates of a spec, the best of them by validation error, and that one again on all rows."""

from __future__ import annotations

import importlib
import inspect
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from training.dataset import Dataset
from training.export import Matrix, Ranges, Vector
from training.intervals import LOWER, UPPER
from training.spec import ModelSpec
from training.split import Split, rolling_origins

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
        Of every candidate: its arguments, error, iterations, seconds.
    quantiles : tuple of estimators
        Of the 10th and the 90th percentile; empty if the spec has none.
    """

    model: Any
    parameters: Mapping[str, Any]
    trials: list[dict[str, Any]]
    quantiles: tuple[Any, ...] = ()

    def answers(self, inputs: Matrix, spec: ModelSpec) -> Ranges:
        """Prediction, 10th and 90th percentile per row, shape (n, 3); without quantile models the prediction thrice."""
        others = [np.asarray(model.predict(inputs), np.float64) for model in self.quantiles]
        predicted = spec.task.predict(self.model, inputs)
        return np.column_stack([predicted, *(others or [predicted] * 2)])


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


def hidden_views(spec: ModelSpec) -> frozenset[str]:
    """The views that most requests lack, because their entity is not known yet."""
    return frozenset([spec.hidden.view] if spec.hidden else [])


def medians(inputs: Matrix) -> npt.NDArray[np.float32]:
    """The median of each column, NaN where it has no value."""
    known = ~np.isnan(inputs).all(axis=0)
    found = np.full(inputs.shape[1], np.nan, np.float32)
    found[known] = np.nanmedian(inputs[:, known], axis=0)
    return found


def training_matrix(rows: pl.DataFrame, dataset: Dataset, spec: ModelSpec) -> Matrix:
    """Rows as the estimator is fitted on them: the hidden entity is missing on its share of them."""
    return hide(matrix(rows, dataset.inputs), dataset, spec, spec.hidden.share if spec.hidden else 0.0)


def candidates(spec: ModelSpec) -> list[Mapping[str, Any]]:
    """The candidates that the spec names, then those that its search draws; the same seed draws the same."""
    from sklearn.model_selection import ParameterSampler

    size = math.prod(len(values) for values in spec.search.space.values())
    trials = min(spec.search.trials, size)
    drawn = ParameterSampler(dict(spec.search.space), trials, random_state=spec.seed) if trials else []
    return [*spec.candidates, *drawn]


def fit(split: Split, dataset: Dataset, spec: ModelSpec, progress: Progress = LOGGER.info) -> Fitted:
    """Fit every candidate and keep the one with the smallest error, on the validation rows or over rolling origins.

    Held-out rows also stop a candidate early; the test rows play no part.
    """
    origins = [(split.train, split.validation)]
    if spec.search.folds:
        origins = rolling_origins(split.train, spec.search.folds, spec)
    prepared = [_prepared(train, held_out, dataset, spec) for train, held_out in origins]
    judged_by = f"{'rolling' if spec.search.folds else 'validation'}_{spec.task.primary}"
    listed = candidates(spec)
    best: tuple[float, Any, Mapping[str, Any]] | None = None
    trials = []
    for number, candidate in enumerate(listed, start=1):
        begun = time.perf_counter()
        parameters = {**spec.parameters, **candidate}
        models = [_fit_one(spec.estimator, parameters, spec.seed, *pair) for pair in prepared]
        error = float(np.mean([_error(model, pair[1], spec) for model, pair in zip(models, prepared, strict=True)]))
        iterations = int(np.mean([getattr(model, "n_iter_", 0) for model in models]))
        seconds = round(time.perf_counter() - begun, 2)
        trials.append({**candidate, judged_by: error, "iterations": iterations, "seconds": seconds})
        progress(
            f"candidate {number} of {len(listed)}: {judged_by.partition('_')[0]} error {error:.3f} {spec.unit}, "
            f"{iterations} iterations, {seconds:.1f} s"
        )
        if best is None or error < best[0]:
            best = (error, models[-1], parameters)
    assert best is not None  # a spec has at least one candidate
    model = best[1]
    whole = _prepared(split.train, split.validation, dataset, spec) if spec.search.folds else prepared[0]
    if spec.search.folds:
        model = _fit_one(spec.estimator, best[2], spec.seed, *whole)
    quantiles = tuple(
        _fit_one(estimator, parameters, spec.seed, *whole) for estimator, parameters in _quantile_models(spec)
    )
    return Fitted(model, best[2], trials, quantiles)


def fit_again(fitted: Fitted, dataset: Dataset, spec: ModelSpec) -> Fitted:
    """The same models on all rows of the data set: with the chosen arguments, and as many iterations as were found.

    Nothing is held out, so nothing can stop them early or say how good they are: that is known of `fitted` alone.
    """
    rows = known_rows(dataset, spec)
    seen = without_empty_columns(training_matrix(rows, dataset, spec)), labels(rows, spec)
    settled = _settled(fitted.parameters, fitted.model)
    model = _fit_one(spec.estimator, settled, spec.seed, seen)
    quantiles = tuple(
        _fit_one(estimator, _settled(parameters, before), spec.seed, seen)
        for (estimator, parameters), before in zip(_quantile_models(spec), fitted.quantiles, strict=True)
    )
    return Fitted(model, settled, fitted.trials, quantiles)


def known_rows(dataset: Dataset, spec: ModelSpec) -> pl.DataFrame:
    """All rows of the data set, each with a label that is known as of its instant, in order of time."""
    return dataset.rows().sort(spec.instant, spec.row_id)


def _quantile_models(spec: ModelSpec) -> list[tuple[str, Mapping[str, Any]]]:
    """Class and arguments of the models of both percentiles."""
    if spec.interval is None:
        return []
    found = spec.interval
    return [(found.estimator, {**found.parameters, found.level: level}) for level in (LOWER, UPPER)]


def _settled(parameters: Mapping[str, Any], fitted: Any) -> dict[str, Any]:
    """Arguments that lead to as many iterations as early stopping found."""
    if not parameters.get("early_stopping"):
        return dict(parameters)
    return {**parameters, "early_stopping": False, "max_iter": fitted.n_iter_}


def _prepared(
    train: pl.DataFrame, held_out: pl.DataFrame, dataset: Dataset, spec: ModelSpec
) -> tuple[tuple[Matrix, Vector], tuple[Matrix, Vector]]:
    seen = without_empty_columns(training_matrix(train, dataset, spec))
    unseen = hide(matrix(held_out, dataset.inputs), dataset, spec, 1.0)
    return (seen, labels(train, spec)), (unseen, labels(held_out, spec))


def _error(model: Any, held_out: tuple[Matrix, Vector], spec: ModelSpec) -> float:
    return float(np.mean(spec.task.losses(spec.task.predict(model, held_out[0]), held_out[1])))


def without_empty_columns(inputs: Matrix) -> Matrix:
    """`inputs` with 0 in columns that have no value at all.

    scikit-learn cannot bin a column without values. A constant has no split, so the model never looks at the column.
    """
    empty = np.isnan(inputs).all(axis=0)
    return np.where(empty, np.float32(0), inputs) if empty.any() else inputs


def _fit_one(
    estimator: str,
    parameters: Mapping[str, Any],
    seed: int,
    train: tuple[Matrix, Vector],
    validation: tuple[Matrix, Vector] | None = None,
) -> Any:
    module, _, name = estimator.rpartition(".")
    kind = getattr(importlib.import_module(module), name)
    accepted = inspect.signature(kind).parameters
    model = kind(**parameters, **({"random_state": seed} if "random_state" in accepted else {}))
    if validation and "X_val" in inspect.signature(model.fit).parameters and parameters.get("early_stopping"):
        return model.fit(*train, X_val=validation[0], y_val=validation[1])
    return model.fit(*train)

"""Where the 80 % interval holds: by tenth of the prediction, by part of the market, and without each view."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from training.availability import Availability
from training.dataset import Dataset
from training.export import Matrix, Ranges, Vector
from training.intervals import Calibration, Predict, calibrate
from training.parts import SMALLEST_SLICE, parts
from training.spec import ModelSpec
from training.split import Split
from training.train import hidden_views, hide, labels, matrix, medians, training_matrix

TENTHS = 10

Inside = npt.NDArray[np.bool_]


def interval(predict: Predict, split: Split, dataset: Dataset, spec: ModelSpec) -> tuple[dict[str, Any], Ranges]:
    """The interval of a model that was fitted on the train rows: offsets from validation rows, coverage of test rows.

    Returns
    -------
    (dict, array of float64, shape (n, 2))
        The intervals of the test rows, and what is to be said of them:
        `p10_offset`, `p90_offset` (of the usual request), `test_coverage`, `below` and `above` (shares outside of it),
        `mean_width`; `parts`, each with `part`, `kind`, `rows`, `offsets_from` (how many rows its offsets were made
        of), `coverage` and mean absolute `error` (None where rows are few). Kinds: `tenth` (of the prediction), `slice`
        (of the spec), `known` (the hidden entity is there), `absent` (a view was taken away, or all, or the store is
        down).
    """
    availability = Availability.of(dataset)
    calibration = calibrate(
        predict,
        matrix(split.validation, dataset.inputs),
        labels(split.validation, spec),
        availability,
        hidden=hidden_views(spec),
        medians=medians(training_matrix(split.train, dataset, spec)),
    )
    seen, actual = matrix(split.test, dataset.inputs), labels(split.test, spec)
    usual = hide(seen, dataset, spec, 1.0)
    ranges = predict(usual)
    bounds = calibration.bounds(ranges, availability.absent(usual))
    inside = within(actual, bounds)
    listed = [
        *_tenths(ranges[:, 0], actual, inside, spec),
        *_slices(split.test, ranges[:, 0], actual, inside, spec),
    ]
    listed = [part | {"offsets_from": calibration.usual.rows} for part in listed]
    listed += _unusual(predict, calibration, availability, (split, dataset, spec))
    told = {
        "p10_offset": calibration.usual.p10_offset,
        "p90_offset": calibration.usual.p90_offset,
        "test_coverage": float(inside.mean()),
        "below": float((actual < bounds[:, 0]).mean()),
        "above": float((actual > bounds[:, 1]).mean()),
        "mean_width": float((bounds[:, 1] - bounds[:, 0]).mean()),
        "parts": listed,
    }
    return told, bounds


def within(actual: Vector, bounds: Ranges) -> Inside:
    """Which outcomes lie in their interval, its ends included."""
    return np.asarray((actual >= bounds[:, 0]) & (actual <= bounds[:, 1]))


def _part(name: str, kind: str, predicted: Vector, actual: Vector, inside: Inside) -> dict[str, Any]:
    few = len(actual) < SMALLEST_SLICE
    return {
        "part": name,
        "kind": kind,
        "rows": len(actual),
        "coverage": None if few else float(inside.mean()),
        "error": None if few else float(np.abs(actual - predicted).mean()),
    }


def _tenths(predicted: Vector, actual: Vector, inside: Inside, spec: ModelSpec) -> Iterator[dict[str, Any]]:
    """Tenths of the rows by prediction; fewer parts where a tenth would be too small to say anything."""
    count = max(1, min(TENTHS, len(predicted) // SMALLEST_SLICE))
    for number, rows in enumerate(np.array_split(np.argsort(predicted, kind="stable"), count), start=1):
        span = f"{predicted[rows].min():.1f} to {predicted[rows].max():.1f} {spec.unit}"
        name = f"predicted {span} ({number} of {count})"
        yield _part(name, "tenth", predicted[rows], actual[rows], inside[rows])


def _slices(
    rows: pl.DataFrame, predicted: Vector, actual: Vector, inside: Inside, spec: ModelSpec
) -> Iterator[dict[str, Any]]:
    numbered = rows.with_row_index("_row")
    named: set[str] = set()
    for part in (*spec.slices, *spec.fairness):
        try:
            found = [(name, chosen["_row"].to_numpy()) for name, chosen in parts(numbered, part)]
        except pl.exceptions.ColumnNotFoundError:
            continue  # the report of errors by slice says which column is missing
        for name, places in found:
            if name not in named:
                named.add(name)
                yield _part(name, "slice", predicted[places], actual[places], inside[places])


def _unusual(
    predict: Predict, calibration: Calibration, availability: Availability, judged: tuple[Split, Dataset, ModelSpec]
) -> Iterator[dict[str, Any]]:
    split, dataset, spec = judged
    rows, actual = matrix(split.test, dataset.inputs), labels(split.test, spec)
    hidden = hidden_views(spec).intersection(availability.views)

    def one(name: str, kind: str, inputs: Matrix, absent: frozenset[str]) -> dict[str, Any]:
        ranges = predict(inputs)
        inside = within(actual, calibration.bounds(ranges, availability.absent(inputs)))
        return _part(name, kind, ranges[:, 0], actual, inside) | {"offsets_from": calibration.of(absent).rows}

    usual = availability.without(rows, hidden)
    if hidden and spec.hidden:
        yield one(f"with the {spec.hidden.entity} known", "known", rows, frozenset())
    for view in availability.views:
        if view not in hidden:
            yield one(f"without {view}", "absent", availability.without(usual, [view]), hidden | {view})
    everything = frozenset(availability.views)
    if everything:
        yield one("without any view", "absent", availability.without(usual, everything), everything)
    if calibration.store_down:
        typical = medians(training_matrix(split.train, dataset, spec))
        ranges = predict(availability.with_typical(rows, typical, hidden))
        inside = within(actual, calibration.bounds_store_down(ranges))
        told = _part("store down", "absent", ranges[:, 0], actual, inside)
        yield told | {"offsets_from": calibration.store_down.rows}

"""Which feature views a row has, and what a row would be without some of them: the same rule as in serving.

A view is absent from a row when none of its inputs has a value: the entity is not named, new, or the view is stale.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.dataset import Dataset
from training.export import Matrix

Mask = npt.NDArray[np.bool_]
"""bool, shape (rows, views)."""

RESTAURANT_VIEW = "restaurant_stats"
"""The stored view that request-time features refer to."""


@dataclass(frozen=True, slots=True)
class Availability:
    """The views of a data set's inputs.

    Parameters
    ----------
    columns : mapping of str to tuple of int
        View -> places of its inputs. A view that no row has is none: without it is how the model lives.
    computed : mapping of str to tuple of int
        View -> places of the request-time inputs that have no value without it.
    """

    columns: Mapping[str, tuple[int, ...]]
    computed: Mapping[str, tuple[int, ...]]

    @classmethod
    def of(cls, dataset: Dataset) -> Availability:
        """The views of a data set, in the order of its description."""
        inputs, rates = dataset.description["inputs"], dataset.description["null_rates"]
        columns = {
            view["name"]: tuple(place for place, item in enumerate(inputs) if item["view"] == view["name"])
            for view in dataset.description["views"]
        }
        names = dataset.inputs
        seen = {view: places for view, places in columns.items() if any(rates[names[place]] < 1.0 for place in places)}
        lost = _without_restaurant()
        computed = tuple(
            place for place, item in enumerate(inputs) if item["source"] == "on_demand" and item["feature"] in lost
        )
        return cls(seen, {RESTAURANT_VIEW: computed} if computed else {})

    @property
    def views(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(self.columns)

    def absent(self, inputs: Matrix) -> Mask:
        """Of each row, which views it lacks."""
        if not self.columns:
            return np.zeros((len(inputs), 0), bool)
        return np.column_stack([np.isnan(inputs[:, places]).all(axis=1) for places in self.columns.values()])

    def without(self, inputs: Matrix, views: Collection[str]) -> Matrix:
        """A copy of `inputs` as it would be if nobody had the values of these views."""
        copy = inputs.copy()
        for view in views:
            copy[:, [*self.columns.get(view, ()), *self.computed.get(view, ())]] = np.nan
        return copy

    def with_typical(self, inputs: Matrix, medians: npt.NDArray[np.float32], unknown: Collection[str]) -> Matrix:
        """A copy of `inputs` as serving has it while the store does not answer.

        Every stored value is the median of the training rows, except those of the views in `unknown`, whose entity is
        not named; what is computed from a stored value has none.
        """
        copy = inputs.copy()
        for view, places in self.columns.items():
            copy[:, places] = np.nan if view in unknown else medians[list(places)]
            copy[:, self.computed.get(view, ())] = np.nan
        return copy


def _without_restaurant() -> frozenset[str]:
    """Names of the request-time features that have no value without the restaurant's: asked of the function itself."""
    from feature_repo.transforms import request_time

    known, unknown = (request_time.compute_row(0.0, 1.0, usual, request_time.UNTOLD) for usual in (1.0, math.nan))
    return frozenset(
        name
        for name, before, after in zip(request_time.FEATURES, known, unknown, strict=True)
        if not math.isnan(before) and math.isnan(after)
    )

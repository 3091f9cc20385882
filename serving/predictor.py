"""From orders to estimates: online features, request-time features, the model. One code path for 1 row and for 1,000.

A value that is not there goes into the model as NaN, not as the training median: the model is a histogram gradient
boosting that was trained with missing values (new restaurants, hidden drivers) and has learnt a branch for each of
them, whereas a median would claim knowledge that nobody has. This holds with the store down, too: every stored feature
is NaN then, and the answer is marked `degraded`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from functools import cached_property, lru_cache
from operator import attrgetter
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from feature_repo.transforms import request_time
from serving.bundle import Bundle, BundleInput, BundleView, Estimates
from serving.errors import BundleError

__all__ = ["FeatureLookup", "FeatureStatus", "Looked", "LookupFailed", "Order", "Predictions", "Predictor"]

STORE_DOWN = "the online store does not answer: all of its features are missing"
ALL_STALE = "every stored feature is older than its time to live: is the feature pipeline running?"
UNDECODABLE = "a stored feature cannot be decoded and counts as missing"
OTHER_REQUEST_FUNCTION = "request-time features are computed by another version than the model was trained with"

REQUEST_FIELDS = ("distance_km", "item_count", "order_value")
ORDER_VALUE = REQUEST_FIELDS.index("order_value")
_request_values = attrgetter(*REQUEST_FIELDS)
_COMPUTED = tuple(request_time.compute([0.0], [1.0], [1.0]))

RESTAURANT_VALUE = ("restaurant_stats", "order_value_mean_28d")
"""The stored feature that the request-time features refer to."""


class FeatureStatus(IntEnum):
    """What became of one input of one row."""

    PRESENT = 0
    STALE = 1
    MISSING = 2
    UNDECODABLE = 3
    UNAVAILABLE = 4

    @property
    def label(self) -> str:
        """The name in answers, logs and metrics."""
        return self.name.lower()


_PRESENT, _STALE, _MISSING, _UNDECODABLE, _UNAVAILABLE = (np.uint8(status) for status in FeatureStatus)
"""For numpy, which takes a member of an enumeration apart at each use."""

LABELS = tuple(status.label for status in FeatureStatus)


@dataclass(frozen=True, slots=True)
class Order:
    """An order at the instant of its prediction."""

    restaurant_id: str
    placed_at: datetime
    order_id: str | None = None
    driver_id: str | None = None
    customer_id: str | None = None
    zone_id: str | None = None
    distance_km: float | None = None
    item_count: int | None = None
    order_value: float | None = None


class LookupFailed(Exception):
    """The online store gave no answer in time."""


class Looked(NamedTuple):
    """What the online store knows.

    Attributes
    ----------
    values : array of float64, shape (rows, columns)
        A column for each feature of each view, in their order; NaN = not present.
    statuses : array of uint8, shape (rows, columns)
        A `FeatureStatus` each.
    event_times : array of float64, shape (rows, views)
        Unix seconds as of which a view's values hold; NaN = there are none.
    """

    values: NDArray[np.float64]
    statuses: NDArray[np.uint8]
    event_times: NDArray[np.float64]


class FeatureLookup(Protocol):
    """Reads the stored features of rows of entity keys."""

    def read(self, rows: list[dict[str, str | None]], as_of: datetime) -> Looked:
        """Raise `LookupFailed` if the store does not answer."""
        ...


@dataclass(frozen=True, slots=True)
class Predictions:
    """What was predicted for rows of orders, and from what.

    Attributes
    ----------
    inputs : array of float64, shape (rows, inputs)
        The model's inputs in the bundle's order; NaN = missing.
    statuses : array of uint8, shape (rows, inputs)
        A `FeatureStatus` each.
    event_times : array of float64, shape (rows, views)
        Unix seconds as of which each view's stored values hold; NaN = there are none.
    estimates : Estimates
        Minutes.
    reasons : list of tuple of str
        For each row, why it is degraded; empty = it is not.
    """

    inputs: NDArray[np.float64]
    statuses: NDArray[np.uint8]
    event_times: NDArray[np.float64]
    estimates: Estimates
    reasons: list[tuple[str, ...]]

    def __len__(self) -> int:
        return len(self.inputs)


class Predictor:
    """A bundle together with the store that its features come from.

    Raises
    ------
    BundleError
        An input of the model is neither stored, nor in a request, nor computed from one.
    """

    def __init__(self, bundle: Bundle, lookup: FeatureLookup) -> None:
        self.bundle = bundle
        self.lookup = lookup
        views, inputs = bundle.document.views, bundle.document.inputs
        stored = [(view.name, feature) for view in views for feature in view.features]
        # What is known of an order stands in one row: the stored, the requested, then the computed values.
        given = [("", name) for name in (*REQUEST_FIELDS, *_COMPUTED)]
        position = {each: index for index, each in enumerate([*stored, *given])}
        self._inputs_from = np.array([_position(column, position) for column in inputs], dtype=np.intp)
        self._stored_inputs = np.array([index < len(stored) for index in self._inputs_from], dtype=bool)
        self._restaurant_value = position.get(RESTAURANT_VALUE)
        self._ttl = np.array([view.ttl_seconds for view in views])
        self._view_of_column = np.array([i for i, view in enumerate(views) for _ in view.features], dtype=np.intp)
        self._join_keys = sorted({view.join_key for view in views})
        self._computes = any(column.source == "on_demand" for column in inputs)
        trained_with = bundle.document.request_function_version
        self.standing_reasons: tuple[str, ...] = ()
        if self._computes and trained_with not in (None, request_time.REQUEST_FUNCTION_VERSION):
            self.standing_reasons = (OTHER_REQUEST_FUNCTION,)

    @cached_property
    def view_names(self) -> tuple[str, ...]:
        """The names of the views that are read, in the order of `Predictions.event_times`."""
        return tuple(view.name for view in self.views)

    @property
    def views(self) -> tuple[BundleView, ...]:
        """The views that are read, in the order of `Predictions.event_times`."""
        return self.bundle.document.views

    def predict(self, orders: Sequence[Order]) -> Predictions:
        """Predict rows of orders, each as of its own `placed_at`.

        Parameters
        ----------
        orders : sequence of Order
            At least one.

        Returns
        -------
        Predictions
            One row per order, in the same order. A store that does not answer, and features that are missing or
            stale, do not raise: they are marked.
        """
        placed_at = np.array([order.placed_at.timestamp() for order in orders])
        looked, store_down = self._look_up(orders, placed_at)
        given = self._given(orders, placed_at, looked)
        absent = np.isnan(given).view(np.uint8) * _MISSING
        inputs = np.concatenate((looked.values, given), axis=1).take(self._inputs_from, axis=1)
        statuses = np.concatenate((looked.statuses, absent), axis=1).take(self._inputs_from, axis=1)
        estimates = self.bundle.estimate(inputs.astype(np.float32))
        return Predictions(inputs, statuses, looked.event_times, estimates, self._reasons(statuses, store_down))

    def _look_up(self, orders: Sequence[Order], placed_at: NDArray[np.float64]) -> tuple[Looked, bool]:
        if not self.views:
            return self._nothing(len(orders), _MISSING), False
        rows = [{key: getattr(order, key, None) for key in self._join_keys} for order in orders]
        try:
            looked = self.lookup.read(rows, min(order.placed_at for order in orders))
        except LookupFailed:
            return self._nothing(len(orders), _UNAVAILABLE), True
        return self._expire(looked, placed_at), False

    def _expire(self, looked: Looked, placed_at: NDArray[np.float64]) -> Looked:
        """Apply the time to live as of each row's own instant: the store was read as of the earliest of them."""
        if len(placed_at) == 1:
            return looked
        expired = placed_at[:, None] - looked.event_times > self._ttl
        stale = expired[:, self._view_of_column] & (looked.statuses == _PRESENT)
        statuses = np.where(stale, _STALE, looked.statuses)
        return Looked(np.where(stale, np.nan, looked.values), statuses, looked.event_times)

    def _nothing(self, rows: int, status: np.uint8) -> Looked:
        columns = len(self._view_of_column)
        return Looked(
            np.full((rows, columns), np.nan),
            np.full((rows, columns), status, dtype=np.uint8),
            np.full((rows, len(self.views)), np.nan),
        )

    def _given(self, orders: Sequence[Order], placed_at: NDArray[np.float64], looked: Looked) -> NDArray[np.float64]:
        """`REQUEST_FIELDS` and what is computed from them, one row per order; None becomes NaN."""
        requested = np.array([_request_values(order) for order in orders], dtype=np.float64)
        if not self._computes:
            return requested
        mean = np.full(len(orders), np.nan)
        if self._restaurant_value is not None:
            mean = looked.values[:, self._restaurant_value]
        computed = request_time.compute(placed_at, requested[:, ORDER_VALUE], mean)
        return np.concatenate((requested, *(values[:, None] for values in computed.values())), axis=1)

    def _reasons(self, statuses: NDArray[np.uint8], store_down: bool) -> list[tuple[str, ...]]:
        """Why each row is degraded."""
        standing = (*self.standing_reasons, STORE_DOWN) if store_down else self.standing_reasons
        return [standing + _faults(row.tobytes()) for row in statuses[:, self._stored_inputs]]


@lru_cache(maxsize=1_024)  # few combinations occur
def _faults(stored: bytes) -> tuple[str, ...]:
    """What the statuses of a row's stored inputs say."""
    only_stale = _STALE in stored and _PRESENT not in stored
    return (ALL_STALE,) * only_stale + (UNDECODABLE,) * (_UNDECODABLE in stored)


def _position(column: BundleInput, positions: Mapping[tuple[str, str], int]) -> int:
    name = column.name if column.source == "request" else column.feature or column.name
    wanted = (column.view or "", name) if column.source == "view" else ("", name)
    if wanted not in positions:
        raise BundleError(f"the input {column.name} ({column.source}) is not known here: train the model again")
    return positions[wanted]

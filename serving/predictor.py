"""From orders to estimates: online features, request-time features, the model. One code path for 1 row and for 1,000.

A value that an entity does not have (a new restaurant, an order without a driver, a row past its time to live) goes
into the model as NaN: that is how training saw it, and the model has learnt a branch for it. While the store does not
answer, nobody knows whether there is a value, and mostly there is one: the median of the training rows stands in for
it, and the answer is marked `degraded`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from functools import cached_property, lru_cache
from operator import attrgetter, itemgetter
from typing import Any, NamedTuple, Protocol

from feature_repo.transforms import request_time
from serving.bundle import Bundle, BundleInput, BundleView, Estimates
from serving.errors import BundleError
from serving.online import StoredRow

__all__ = ["FeatureLookup", "FeatureStatus", "LookupFailed", "Order", "Predictions", "Predictor"]

STORE_DOWN = "the online store does not answer: all of its features are missing"
ALL_STALE = "every stored feature is older than its time to live: is the feature pipeline running?"
UNDECODABLE = "a stored feature cannot be decoded and counts as missing"
OTHER_REQUEST_FUNCTION = "request-time features are computed by another version than the model was trained with"

REQUEST_FIELDS = ("distance_km", "item_count", "order_value")
ORDER_VALUE = REQUEST_FIELDS.index("order_value")
_request_values = attrgetter(*REQUEST_FIELDS)
_COMPUTED = request_time.FEATURES

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


_PRESENT, _STALE, _MISSING, _UNDECODABLE, _UNAVAILABLE = (int(status) for status in FeatureStatus)
LABELS = tuple(status.label for status in FeatureStatus)


class Order(NamedTuple):
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


class FeatureLookup(Protocol):
    """Reads the stored features of rows of entity keys."""

    async def read(self, rows: list[dict[str, str | None]], as_of: Sequence[datetime]) -> list[list[StoredRow]]:
        """Of each row, its views as of the row's instant; raises `LookupFailed` if the store does not answer."""
        ...


@dataclass(slots=True)
class Predictions:
    """What was predicted for rows of orders, and from what; an element per row.

    Attributes
    ----------
    inputs : sequence of sequence of float
        The model's inputs in the bundle's order; NaN = missing.
    statuses : sequence of bytes
        A `FeatureStatus` of each input.
    event_times : sequence of tuple of float
        Unix seconds as of which each view's stored values hold; NaN = there are none.
    estimates : Estimates
        Minutes.
    reasons : list of tuple of str
        Why the row is degraded; empty = it is not.
    """

    # Plain Python: most requests have one row, for which each array costs more than all of its values.
    inputs: Sequence[Sequence[float]]
    statuses: Sequence[bytes]
    event_times: Sequence[tuple[float, ...]]
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
        inputs_from = [_position(column, position) for column in inputs]
        self._inputs_of = _picker(inputs_from)
        self._stored_of = _picker([place for place, index in enumerate(inputs_from) if index < len(stored)])
        self._restaurant_value = position.get(RESTAURANT_VALUE)
        medians = {(column.view, column.feature): column.median for column in inputs if column.median is not None}
        self._unanswered = [
            StoredRow.typical([medians.get((view.name, feature), math.nan) for feature in view.features], _UNAVAILABLE)
            for view in views
        ]
        self._unasked = [StoredRow.without_values(len(view.features), _MISSING) for view in views]
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

    async def predict(self, orders: Sequence[Order]) -> Predictions:
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
        views, store_down = await self._look_up(orders)
        stored = [[value for view in row for value in view.values] for row in views]
        inputs, statuses = [], []
        for row, values, given in zip(views, stored, self._given(orders, stored, store_down), strict=True):
            known = (*values, *given)
            marks = b"".join([view.statuses for view in row]) + bytes([_MISSING * (value != value) for value in given])
            inputs.append(self._inputs_of(known))
            statuses.append(bytes(self._inputs_of(marks)))
        event_times = [tuple([view.event for view in row]) for row in views]
        estimates = self.bundle.estimate(inputs, store_down=store_down)
        return Predictions(inputs, statuses, event_times, estimates, self._reasons(statuses, store_down))

    async def _look_up(self, orders: Sequence[Order]) -> tuple[list[list[StoredRow]], bool]:
        if not self.views:
            return [[]] * len(orders), False
        rows = [{key: getattr(order, key, None) for key in self._join_keys} for order in orders]
        try:
            return await self.lookup.read(rows, [order.placed_at for order in orders]), False
        except LookupFailed:
            return [self._without_store(row) for row in rows], True

    def _without_store(self, row: dict[str, str | None]) -> list[StoredRow]:
        """The views of a row while the store does not answer."""
        return [
            unasked if row[view.join_key] is None else unanswered
            for view, unasked, unanswered in zip(self.views, self._unasked, self._unanswered, strict=True)
        ]

    def _given(
        self, orders: Sequence[Order], stored: Sequence[Sequence[float]], store_down: bool
    ) -> list[tuple[float, ...]]:
        """`REQUEST_FIELDS` and what is computed from them, one row per order; None becomes NaN."""
        requested = [
            tuple([math.nan if value is None else float(value) for value in _request_values(order)]) for order in orders
        ]
        if not self._computes:
            return requested
        given = []
        for order, row, values in zip(orders, requested, stored, strict=True):
            usual = math.nan if self._restaurant_value is None or store_down else values[self._restaurant_value]
            given.append((*row, *request_time.compute_row(order.placed_at.timestamp(), row[ORDER_VALUE], usual)))
        return given

    def _reasons(self, statuses: Sequence[bytes], store_down: bool) -> list[tuple[str, ...]]:
        """Why each row is degraded."""
        standing = (*self.standing_reasons, STORE_DOWN) if store_down else self.standing_reasons
        return [standing + _faults(self._stored_of(row)) for row in statuses]


@lru_cache(maxsize=1_024)  # few combinations occur
def _faults(stored: tuple[int, ...]) -> tuple[str, ...]:
    """What the statuses of a row's stored inputs say."""
    only_stale = _STALE in stored and _PRESENT not in stored
    return (ALL_STALE,) * only_stale + (UNDECODABLE,) * (_UNDECODABLE in stored)


def _picker(places: Sequence[int]) -> Callable[[Sequence[Any]], tuple[Any, ...]]:
    """A function that gives what stands at these places."""
    return itemgetter(*places) if len(places) > 1 else lambda row: tuple([row[place] for place in places])


def _position(column: BundleInput, positions: Mapping[tuple[str, str], int]) -> int:
    name = column.name if column.source == "request" else column.feature or column.name
    wanted = (column.view or "", name) if column.source == "view" else ("", name)
    if wanted not in positions:
        raise BundleError(f"the input {column.name} ({column.source}) is not known here: train the model again")
    return positions[wanted]

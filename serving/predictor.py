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
from functools import cached_property
from operator import attrgetter, itemgetter
from typing import Any, NamedTuple, Protocol

from feature_repo.request_fields import REQUEST_FIELDS
from feature_repo.transforms import request_time
from serving.absence import Absence
from serving.bundle import Bundle, BundleInput, BundleView, Estimates
from serving.errors import BundleError
from serving.online import LARGEST, StoredRow
from serving.status import FeatureStatus

__all__ = ["FeatureLookup", "LookupFailed", "Order", "Predictions", "Predictor"]

STORE_DOWN = "the online store does not answer: typical values of the training rows stand in for its features"
OTHER_REQUEST_FUNCTION = "request-time features are computed by another version than the model was trained with"
TOO_LONG = "the model predicts more than any delivery that it was trained on took: the answer is cut there"

ORDER_VALUE = REQUEST_FIELDS.index("order_value")
_NAN = math.nan
_request_values = attrgetter(*REQUEST_FIELDS)
_COMPUTED = request_time.FEATURES

RESTAURANT_VALUE = ("restaurant_stats", "order_value_mean_28d")
"""The stored feature that the request-time features refer to."""


_MISSING, _UNDECODABLE = int(FeatureStatus.MISSING), int(FeatureStatus.UNDECODABLE)
_UNAVAILABLE, _OUTSIDE = int(FeatureStatus.UNAVAILABLE), int(FeatureStatus.OUTSIDE)


class Order(NamedTuple):
    """An order at the instant of its prediction.

    Stored values have to be fresh at `asked_at`, the server's clock, or at `placed_at` if that is later or nobody asked
    now, as in a replay.
    """

    restaurant_id: str
    placed_at: datetime
    order_id: str | None = None
    driver_id: str | None = None
    customer_id: str | None = None
    zone_id: str | None = None
    distance_km: float | None = None
    item_count: int | None = None
    order_value: float | None = None
    promised_minutes: float | None = None
    is_asap: bool = True
    replay: bool = False
    asked_at: datetime | None = None


class LookupFailed(Exception):
    """The online store gave no answer in time."""


class FeatureLookup(Protocol):
    """Reads the stored features of rows of entity keys."""

    async def read(
        self, rows: list[dict[str, str | None]], as_of: Sequence[datetime], asked_at: Sequence[datetime | None]
    ) -> list[list[StoredRow]]:
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
        self.absence = Absence(bundle.document)
        self._bounds = [(place, *column.bounds) for place, column in enumerate(inputs) if column.bounds is not None]
        self._restaurant_value = position.get(RESTAURANT_VALUE)
        medians = {(column.view, column.feature): column.median for column in inputs if column.median is not None}
        self._unanswered = [
            StoredRow.typical([medians.get((view.name, feature), math.nan) for feature in view.features], _UNAVAILABLE)
            for view in views
        ]
        self._unasked = [StoredRow.without_values(len(view.features), _MISSING) for view in views]
        self._join_keys = sorted({view.join_key for view in views})
        self._computes = any(column.source == "on_demand" for column in inputs)
        trained_with, current = bundle.document.request_function_version, request_time.REQUEST_FUNCTION_VERSION
        unlike = trained_with != current or bundle.document.clock is None
        self.standing_reasons: tuple[str, ...] = ()
        self._clock = bundle.clock
        if self._computes and trained_with is not None and unlike:
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
        rows = [{key: getattr(order, key, None) for key in self._join_keys} for order in orders]
        views, store_down = await self._look_up(rows, orders)
        stored = [[value for view in row for value in view.values] for row in views]
        inputs, statuses = [], []
        for row, values, given in zip(views, stored, self._given(orders, stored, store_down), strict=True):
            known = (*values, *given)
            marks = b"".join([view.statuses for view in row]) + bytes([_status(value) for value in given])
            picked, found = self._checked(self._inputs_of(known), self._inputs_of(marks))
            inputs.append(picked)
            statuses.append(found)
        event_times = [tuple([view.event for view in row]) for row in views]
        estimates = self.bundle.bounded(self.bundle.estimate(inputs, store_down=store_down))
        reasons = self._reasons(statuses, self.named(orders), store_down, estimates)
        return Predictions(inputs, statuses, event_times, estimates, reasons)

    def named(self, orders: Sequence[Order]) -> list[tuple[bool, ...]]:
        """Of each order, whether it says of whom each view is."""
        return [tuple([getattr(order, view.join_key, None) is not None for view in self.views]) for order in orders]

    async def _look_up(
        self, rows: list[dict[str, str | None]], orders: Sequence[Order]
    ) -> tuple[list[list[StoredRow]], bool]:
        if not self.views:
            return [[]] * len(orders), False
        try:
            as_of, asked_at = [order.placed_at for order in orders], [order.asked_at for order in orders]
            return await self.lookup.read(rows, as_of, asked_at), False
        except LookupFailed:
            return [self._without_store(row) for row in rows], True

    def _checked(self, inputs: tuple[float, ...], marks: tuple[int, ...]) -> tuple[tuple[float, ...], bytes]:
        """Inputs without those that are infinite to the model, and their statuses with those that are implausible."""
        statuses = bytearray(marks)
        if _UNDECODABLE in marks:
            inputs = tuple([_NAN if mark == _UNDECODABLE else value for value, mark in zip(inputs, marks, strict=True)])
        for place, low, high in self._bounds:
            if not low <= inputs[place] <= high and inputs[place] == inputs[place]:
                statuses[place] = _OUTSIDE
        return inputs, bytes(statuses)

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
            placed_at = order.placed_at.timestamp()
            given.append((*row, *request_time.compute_row(placed_at, row[ORDER_VALUE], usual, self._clock)))
        return given

    def _reasons(
        self, statuses: Sequence[bytes], named: Sequence[tuple[bool, ...]], store_down: bool, estimates: Estimates
    ) -> list[tuple[str, ...]]:
        """Why each row is degraded."""
        standing = (*self.standing_reasons, STORE_DOWN) if store_down else self.standing_reasons
        found = [standing + self.absence.reasons(row, whose) for row, whose in zip(statuses, named, strict=True)]
        longest = self.bundle.document.label_maximum
        if max(estimates.minutes) < longest:
            return found
        too_long = [minutes >= longest for minutes in estimates.minutes]
        return [(*reasons, TOO_LONG) if cut else reasons for reasons, cut in zip(found, too_long, strict=True)]


def _status(value: float) -> int:
    """Of a value that a request brought, or that was computed of one."""
    if value != value:
        return _MISSING
    return 0 if -LARGEST <= value <= LARGEST else _UNDECODABLE


def _picker(places: Sequence[int]) -> Callable[[Sequence[Any]], tuple[Any, ...]]:
    """A function that gives what stands at these places."""
    return itemgetter(*places) if len(places) > 1 else lambda row: tuple([row[place] for place in places])


def _position(column: BundleInput, positions: Mapping[tuple[str, str], int]) -> int:
    name = column.name if column.source == "request" else column.feature or column.name
    wanted = (column.view or "", name) if column.source == "view" else ("", name)
    if wanted not in positions:
        raise BundleError(f"the input {column.name} ({column.source}) is not known here: train the model again")
    return positions[wanted]

"""What is not there: of one order, view by view, and of a process, beside how often it was so in training.

An answer without a view is as good as its model only if training had many such rows. A new customer is one of many, and
no reason to doubt; a restaurant of which nothing is stored is one in a hundred, and a store that was emptied none.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from serving.bundle import BundleDocument
from serving.status import FeatureStatus

__all__ = ["ALL_STALE", "UNDECODABLE", "Absence", "Share"]

ALL_STALE = "every stored feature is older than its time to live: is the feature pipeline running?"
UNDECODABLE = (
    "a stored feature is no number (it cannot be decoded, or is text, NaN or beyond all bounds): it counts as missing"
)

USUAL_SHARE = 0.05
"""A view that lacked in at least this share of the training rows is one that the model has learnt to do without."""
BLOCK_ROWS = 500
"""Shares are those of the last one to two blocks of rows."""
FEWEST_ROWS = 100
JUDGED_EVERY_ROWS = 20
MARGIN, DEVIATIONS = 0.1, 4.0
"""A share is too large if it is above training's by so much and by so many standard errors: no false alarm in 300,000
orders whose shares are those of training (a test simulates it). A view that is gone is found in 100 orders."""

_STALE, _MISSING = FeatureStatus.STALE, FeatureStatus.MISSING
_GIVEN = frozenset({FeatureStatus.PRESENT, FeatureStatus.OUTSIDE})

Named = tuple[bool, ...]


class Share(NamedTuple):
    """How often a view had nothing of an entity that a request named, lately, and how often that was so in training."""

    view: str
    rows: int
    missing: float
    in_training: float | None
    is_too_large: bool


class _Counts:
    """Rows, and those without the view, of this block and the one before."""

    def __init__(self) -> None:
        self.rows = self.missing = self.rows_before = self.missing_before = 0

    def add(self, is_missing: bool) -> None:
        if self.rows == BLOCK_ROWS:
            self.rows_before, self.missing_before = self.rows, self.missing
            self.rows = self.missing = 0
        self.rows += 1
        self.missing += is_missing

    @property
    def total(self) -> int:
        return self.rows + self.rows_before

    @property
    def share(self) -> float:
        return (self.missing + self.missing_before) / self.total if self.total else 0.0


class Absence:
    """Judges what is missing, stale, of the future or outside of the inputs of one model.

    Parameters
    ----------
    document : BundleDocument
        Of the model; its inputs have the shares of nulls in training.
    """

    def __init__(self, document: BundleDocument) -> None:
        self.views = document.views
        self._names = [column.name for column in document.inputs]
        self._places = [
            [place for place, column in enumerate(document.inputs) if column.view == view.name] for view in self.views
        ]
        self._stored = [place for place, column in enumerate(document.inputs) if column.source == "view"]
        rates = [[document.inputs[place].null_rate for place in places] for places in self._places]
        self._in_training = [
            None if not view or None in view else min(rate for rate in view if rate is not None) for view in rates
        ]
        self._lock = threading.Lock()
        self._counts = [_Counts() for _ in self.views]
        self._too_large: frozenset[int] = frozenset()
        self._unjudged = 0
        self.reasons = lru_cache(maxsize=1_024)(self._reasons)  # few combinations occur
        self._missing = lru_cache(maxsize=1_024)(self._of_row)

    def _reasons(self, statuses: bytes, named: Named) -> tuple[str, ...]:
        """Why an answer of these inputs is degraded; `named` tells whether the entity of each view is known."""
        stored = {statuses[place] for place in self._stored}
        found = []
        if _STALE in stored and not stored & _GIVEN:
            found.append(ALL_STALE)
        else:
            found += [
                reason for view, is_named in enumerate(named) if is_named for reason in self._of_view(view, statuses)
            ]
        if FeatureStatus.FUTURE in stored:
            found.append(f"{self._list(statuses, FeatureStatus.FUTURE)}: newer than the order, counts as missing")
        if FeatureStatus.UNDECODABLE in stored:
            found.append(UNDECODABLE)
        if FeatureStatus.OUTSIDE in statuses:
            outside = self._list(statuses, FeatureStatus.OUTSIDE)
            found.append(f"{outside}: far outside of what the model was trained on")
        return tuple(found)

    def _of_view(self, view: int, statuses: bytes) -> list[str]:
        found = {statuses[place] for place in self._places[view]}
        name, key = self.views[view].name, self.views[view].join_key
        if not found or found & _GIVEN:
            return []
        if _STALE in found:
            return [f"{name}: all that is stored of this {key} is older than its time to live"]
        if found != {_MISSING}:
            return []
        rate = self._in_training[view]
        if rate is None:
            return [f"{name}: nothing is stored of this {key}, and how often that was so in training is not known"]
        if rate < USUAL_SHARE:
            return [f"{name}: nothing is stored of this {key}, which was so in {rate:.1%} of the training rows"]
        if view in self._too_large:
            return [f"{name}: nothing is stored of this {key}, nor of many others lately: does the pipeline run?"]
        return []

    def _list(self, statuses: bytes, wanted: FeatureStatus) -> str:
        names = [name for name, status in zip(self._names, statuses, strict=True) if status == wanted]
        return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")

    def add(self, statuses: Sequence[bytes], named: Sequence[Named]) -> None:
        """Count rows that were answered; those of a store that did not answer say nothing."""
        with self._lock:
            for row, whose in zip(statuses, named, strict=True):
                for counts, is_missing in zip(self._counts, self._missing(row, whose), strict=True):
                    if is_missing is not None:
                        counts.add(is_missing)
            self._unjudged += len(statuses)
            if self._unjudged >= JUDGED_EVERY_ROWS:
                self._judge()

    def _of_row(self, statuses: bytes, named: Named) -> tuple[bool | None, ...]:
        """Of each view, whether it has nothing for this row; None where nobody asked it, or it did not answer."""
        found = [{statuses[place] for place in places} for places in self._places]
        return tuple(
            not view & _GIVEN if is_named and view and FeatureStatus.UNAVAILABLE not in view else None
            for view, is_named in zip(found, named, strict=True)
        )

    def _judge(self) -> None:
        self._unjudged = 0
        too_large = frozenset(view for view in range(len(self.views)) if self._is_too_large(view))
        if too_large != self._too_large:
            self._too_large = too_large
            self.reasons.cache_clear()

    def shares(self) -> list[Share]:
        """Of each view that was asked for."""
        return [
            Share(view.name, counts.total, counts.share, rate, place in self._too_large)
            for place, (view, counts, rate) in enumerate(zip(self.views, self._counts, self._in_training, strict=True))
            if counts.total
        ]

    def _is_too_large(self, view: int) -> bool:
        counts, rate = self._counts[view], self._in_training[view] or 0.0
        if counts.total < FEWEST_ROWS:
            return False
        error = math.sqrt(max(rate * (1 - rate), 1e-4) / counts.total)
        return counts.share > rate + max(MARGIN, DEVIATIONS * error)

"""The 80 % interval: quantile models, moved by what the newest rows say, for each set of views that a row may have.

It is conformalised quantile regression: two models predict the 10th and the 90th percentile of each order, and offsets,
order statistics of how far off they were on rows that they have not seen, make the two cover what they promise. A row
without a view is predicted worse, so its offsets are those of rows from which the view was taken away.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import chain, combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from training.availability import Availability
from training.export import Matrix, Ranges, Vector

LOWER, UPPER = 0.10, 0.90
MOST_VIEWS = 5
"""Up to so many, every set of absent views has offsets of its own; beyond it, sets of two and that of all."""
MOST_ROWS = 10_000
"""Newest rows that the offsets of ordinary requests are made of: they cover within 0.8 % of what they should."""
ROWS_OF_OTHERS = 2_000
"""The same for sets with a view that is usually there, of which there are many: within 1.8 %."""
FEWEST_ROWS = 100
"""With fewer rows that lack exactly these views, those that lack others as well count, too."""

Predict = Callable[[Matrix], Ranges]
"""Inputs -> prediction, 10th and 90th percentile before any offset: shape (rows, 3)."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """The offsets of rows that lack certain views.

    Parameters
    ----------
    absent : tuple of str
        Names of the views.
    p10_offset, p90_offset : float
        To be added to the predicted percentiles, in the label's unit.
    rows : int
        That they were made of.
    """

    absent: tuple[str, ...]
    p10_offset: float
    p90_offset: float
    rows: int


@dataclass(frozen=True, slots=True)
class Calibration:
    """The offsets of every set of views that a row may lack.

    Parameters
    ----------
    views : tuple of str
        That count: see `Availability`.
    usual : Pattern
        That of most requests.
    patterns : tuple of Pattern
        All of them, `usual` included; the last one lacks all views.
    store_down : Pattern or None
        While the store does not answer and medians stand in for its values. None if the model has no stored input.
    """

    views: tuple[str, ...]
    usual: Pattern
    patterns: tuple[Pattern, ...]
    store_down: Pattern | None

    def of(self, absent: frozenset[str]) -> Pattern:
        """The pattern of exactly these views, else the smallest one that lacks them and others."""
        fitting = [pattern for pattern in self.patterns if absent.issubset(pattern.absent)]
        return min(fitting, key=lambda pattern: len(pattern.absent))

    def bounds(self, ranges: Ranges, absent: npt.NDArray[np.bool_]) -> Ranges:
        """The 10th and the 90th percentile of each row, shape (rows, 2), with the prediction between them.

        Parameters
        ----------
        ranges : array of float64, shape (rows, 3)
            What the models predict.
        absent : array of bool, shape (rows, views)
            Of each row, which of `views` it lacks.
        """
        offsets = np.empty((len(ranges), 2))
        found, place = np.unique(absent, axis=0, return_inverse=True)
        for number, row in enumerate(found):
            pattern = self.of(frozenset(np.array(self.views, dtype=object)[row]))
            offsets[place.reshape(-1) == number] = pattern.p10_offset, pattern.p90_offset
        return _between(ranges, offsets)

    def bounds_store_down(self, ranges: Ranges) -> Ranges:
        """As `bounds`, of rows in which medians stand in for the values of a store that does not answer."""
        down = self.store_down or self.usual
        return _between(ranges, np.array([[down.p10_offset, down.p90_offset]]))

    def to_dict(self) -> dict[str, Any]:
        """As it stands in a bundle: `p10_offset` and `p90_offset` are the usual ones."""
        return {
            "p10_offset": self.usual.p10_offset,
            "p90_offset": self.usual.p90_offset,
            "views": list(self.views),
            "patterns": [_plain(pattern) for pattern in self.patterns],
            "store_down": _plain(self.store_down) if self.store_down else None,
        }


def calibrate(
    predict: Predict,
    inputs: Matrix,
    actual: Vector,
    availability: Availability,
    *,
    hidden: frozenset[str] = frozenset(),
    medians: npt.NDArray[np.float32] | None = None,
) -> Calibration:
    """Offsets for each set of absent views, from rows that the models have not seen.

    Parameters
    ----------
    predict : callable
    inputs : array of float32, shape (n, inputs)
        The newest last, with all that is known of them; at most `MOST_ROWS` are used, `ROWS_OF_OTHERS` per unusual set.
    actual : array of float64, shape (n,)
    availability : Availability
    hidden : set of str
        Views that most requests lack.
    medians : array of float32, shape (inputs,), optional
        What stands in for stored values while the store is down.

    Notes
    -----
    From all rows the views of the set are taken away. Those that then lack exactly these make its offsets; where they
    are few, all do.
    """
    patterns = []
    for absent in absent_sets(availability.views, hidden):
        count = MOST_ROWS if hidden.issuperset(absent) else ROWS_OF_OTHERS
        changed, outcomes = availability.without(inputs[-count:], absent), actual[-count:]
        exact = (availability.absent(changed) == np.isin(availability.views, absent)).all(axis=1)
        chosen = exact if exact.sum() >= FEWEST_ROWS else np.ones(len(changed), bool)
        patterns.append(_pattern(absent, predict(changed[chosen]), outcomes[chosen]))
    usual = next(pattern for pattern in patterns if set(pattern.absent) == hidden.intersection(availability.views))
    down = None
    if availability.views and medians is not None:
        changed = availability.with_typical(inputs[-ROWS_OF_OTHERS:], medians, hidden)
        down = _pattern(usual.absent, predict(changed), actual[-ROWS_OF_OTHERS:])
    return Calibration(availability.views, usual, tuple(patterns), down)


def absent_sets(views: tuple[str, ...], hidden: frozenset[str]) -> list[tuple[str, ...]]:
    """The sets of views for which there are offsets, smallest first, that of all views last."""
    others = [view for view in views if view not in hidden]
    largest = len(others) if len(views) <= MOST_VIEWS else min(2, len(others))
    some = chain.from_iterable(combinations(others, size) for size in range(largest + 1))
    known = tuple(view for view in views if view in hidden)
    sets = [tuple(view for view in views if view in {*one, *more}) for one in some for more in _subsets(known)]
    return sorted({*sets, tuple(views)}, key=lambda one: (len(one), [views.index(view) for view in one]))


def conformal_offsets(low: Vector, high: Vector) -> tuple[float, float]:
    """Offsets to add to the predicted 10th and 90th percentile.

    Parameters
    ----------
    low, high : array of float64, shape (n,)
        Actual minus predicted 10th, and minus predicted 90th percentile.

    Notes
    -----
    Order statistics at ranks floor(0.1 (n + 1)) and ceil(0.9 (n + 1)), which makes the interval cover at least 80 % of
    exchangeable rows.
    """
    count = len(low)
    first = min(max(math.floor(LOWER * (count + 1)), 1), count)
    last = min(max(math.ceil(UPPER * (count + 1)), 1), count)
    return float(np.sort(low)[first - 1]), float(np.sort(high)[last - 1])


def _pattern(absent: tuple[str, ...], ranges: Ranges, actual: Vector) -> Pattern:
    return Pattern(absent, *conformal_offsets(actual - ranges[:, 1], actual - ranges[:, 2]), rows=len(actual))


def _between(ranges: Ranges, offsets: Ranges) -> Ranges:
    """The percentiles with their offsets; neither crosses the prediction."""
    low, high = ranges[:, 1] + offsets[:, 0], ranges[:, 2] + offsets[:, 1]
    return np.column_stack([np.minimum(low, ranges[:, 0]), np.maximum(high, ranges[:, 0])])


def _subsets(views: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    return chain.from_iterable(combinations(views, size) for size in range(len(views) + 1))


def _plain(pattern: Pattern) -> Mapping[str, Any]:
    return asdict(pattern) | {"absent": list(pattern.absent)}

"""Two models on the same rows: how far apart they are, and how sure that is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from training.export import Vector

RESAMPLES = 2_000
CONFIDENCE = 0.95
FEWEST_ROWS = 50
FEWEST_BLOCKS = 8
"""With fewer, resampling blocks gives an interval that is too narrow."""
BLOCKS: tuple[tuple[str, int], ...] = (("day", 86_400), ("6 hours", 21_600), ("hour", 3_600))
"""Names and seconds, longest first. Rows of one day share its weather and its jams, so they count as one draw."""


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """The mean difference of two models' row losses, with its interval.

    Parameters
    ----------
    rows, blocks : int
    block : str
        What was resampled: a stretch of time, or `row`.
    mean, low, high : float
        The difference, and its 95 % interval, in the unit of the loss.
    """

    rows: int
    blocks: int
    block: str
    mean: float
    low: float
    high: float


def paired_bootstrap(differences: Vector, instants: pl.Series, seed: int) -> PairedDifference:
    """Bootstrap the mean of paired differences by blocks of time, so that dependent rows do not fake certainty.

    Parameters
    ----------
    differences : array of float64, shape (n,)
        Loss of one model minus loss of the other, row by row.
    instants : pl.Series
        When each row was predicted, shape (n,).
    seed : int
        The same seed gives the same interval.

    Notes
    -----
    A resample draws as many blocks as there are, with replacement, and takes the mean of all their rows. Only the sums
    and sizes of the blocks enter, so the cost does not depend on the number of rows. Rows that lie in fewer than 8
    hours (predictions made once a week, say) are resampled one by one.
    """
    name, block = _blocks(instants)
    sums, sizes = np.bincount(block, weights=differences), np.bincount(block)
    draw = np.random.default_rng(seed)
    means = np.empty(RESAMPLES)
    for number in range(RESAMPLES):
        chosen = draw.integers(0, len(sums), len(sums))
        means[number] = sums[chosen].sum() / sizes[chosen].sum()
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return PairedDifference(len(differences), len(sums), name, float(np.mean(differences)), float(low), float(high))


def _blocks(instants: pl.Series) -> tuple[str, npt.NDArray[np.int64]]:
    seconds = instants.dt.epoch("s").to_numpy()
    for name, length in BLOCKS:
        found, block = np.unique(seconds // length, return_inverse=True)
        if len(found) >= FEWEST_BLOCKS:
            return name, block
    return "row", np.arange(len(seconds))

"""Features of a request: Feast's on-demand view and the serving process both call `compute_row`.

It is plain Python: for the one row of a request, numpy takes longer to begin than to compute, and offline a million
rows cost three seconds. So there is one definition, and online and offline are equal to the last bit.
"""

from __future__ import annotations

import ast
import hashlib
import math
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

HOUR_SECONDS = 3_600
DAY_SECONDS = 24 * HOUR_SECONDS
WEEK_SECONDS = 7 * DAY_SECONDS
MONDAY = 4 * DAY_SECONDS
"""1970-01-05, the first Monday of Unix time: the start of a week."""
PEAK_HOURS = (11, 12, 13, 18, 19, 20)
"""Full hours of lunch and dinner, UTC. A marketplace in another zone learns its phase from the sines and cosines."""
FEATURES = (
    "hour_of_day_sin",
    "hour_of_day_cos",
    "day_of_week_sin",
    "day_of_week_cos",
    "is_peak_hour",
    "order_value_to_restaurant_mean",
)
"""What `compute_row` returns, in its order."""


def compute_row(placed_at: float, order_value: float, restaurant_order_value_mean: float) -> tuple[float, ...]:
    """The features of one request.

    Parameters
    ----------
    placed_at : float
        Unix seconds, UTC.
    order_value : float
        Value of the order in units of currency; NaN where unknown.
    restaurant_order_value_mean : float
        The restaurant's mean order value of 28 days; NaN where unknown.

    Returns
    -------
    tuple of float
        `FEATURES`. The ratio is NaN where a value is unknown or the mean is not positive.
    """
    day_seconds = placed_at % DAY_SECONDS
    day_angle = 2 * math.pi * day_seconds / DAY_SECONDS
    week_angle = 2 * math.pi * ((placed_at - MONDAY) % WEEK_SECONDS) / WEEK_SECONDS
    usable = 0 < restaurant_order_value_mean < math.inf
    return (
        math.sin(day_angle),
        math.cos(day_angle),
        math.sin(week_angle),
        math.cos(week_angle),
        float(day_seconds // HOUR_SECONDS in PEAK_HOURS),
        order_value / restaurant_order_value_mean if usable else math.nan,
    )


def compute(
    placed_at: ArrayLike, order_value: ArrayLike, restaurant_order_value_mean: ArrayLike
) -> dict[str, NDArray[np.float64] | NDArray[np.int64]]:
    """`compute_row` of each of n requests.

    Parameters
    ----------
    placed_at, order_value, restaurant_order_value_mean : float64, shape (n,)

    Returns
    -------
    dict of str to array, shape (n,)
        The columns of `request_features`: float64, except `is_peak_hour`, which is int64.

    Examples
    --------
    >>> columns = compute([0.0], [30.0], [20.0])
    >>> float(columns["hour_of_day_cos"][0]), float(columns["order_value_to_restaurant_mean"][0])
    (1.0, 1.5)
    """
    given = [
        np.asarray(values, np.float64).tolist() for values in (placed_at, order_value, restaurant_order_value_mean)
    ]
    rows = np.array([compute_row(*row) for row in zip(*given, strict=True)], np.float64).reshape(-1, len(FEATURES))
    columns: dict[str, NDArray[np.float64] | NDArray[np.int64]] = dict(zip(FEATURES, rows.T.copy(), strict=True))
    columns["is_peak_hour"] = columns["is_peak_hour"].astype(np.int64)
    return columns


def version_of(source: str) -> str:
    """16 hexadecimal digits of what a module like this one computes with: its constants and `compute_row`.

    Comments, docstrings, layout and everything else in it do not count.
    """
    counting: list[str] = []
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef) and node.name == "compute_row":
            node.body = [part for part in node.body if not _is_text(part)]
            counting.append(ast.unparse(node))
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) != "REQUEST_FUNCTION_VERSION":
            counting.append(ast.unparse(node))
    return hashlib.sha256("\n".join(counting).encode()).hexdigest()[:16]


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


REQUEST_FUNCTION_VERSION = version_of(Path(__file__).read_text())
"""A model bundle records it; answers of a bundle made with another one are marked degraded."""

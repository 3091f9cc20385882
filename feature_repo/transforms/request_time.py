"""Features of a request: Feast's on-demand view and the serving process both call `compute_row`.

It is plain Python: for the one row of a request, numpy takes longer to begin than to compute, and offline a million
rows cost three seconds. So there is one definition, and online and offline are equal to the last bit.
"""

from __future__ import annotations

import ast
import hashlib
import math
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import ArrayLike, NDArray

HOUR_SECONDS = 3_600
DAY_SECONDS = 24 * HOUR_SECONDS
WEEK_SECONDS = 7 * DAY_SECONDS
MONDAY = 4 * DAY_SECONDS
"""1970-01-05, the first Monday of Unix time: the start of a week."""
FEATURES = (
    "hour_of_day_sin",
    "hour_of_day_cos",
    "day_of_week_sin",
    "day_of_week_cos",
    "is_peak_hour",
    "order_value_to_restaurant_mean",
)
"""What `compute_row` returns, in its order."""
CALENDAR = FEATURES[:5]
"""Those that depend on the instant and the clock alone."""
COMPUTING = ("compute_row", "offset_seconds", "_steady_offset", "_offset")
"""The functions by which a row is computed: see `version_of`."""
EARLIEST, LATEST = -70 * 365 * DAY_SECONDS, 1_000 * 365 * DAY_SECONDS
"""Beyond these instants a zone keeps its offset, since local times would leave the years that a datetime can have."""


class Clock(NamedTuple):
    """By which clock a market lives.

    Attributes
    ----------
    zone : str
        Name of a time zone, such as `Europe/Berlin`.
    peak_hours : tuple of int
        Full hours of the day, 0 to 23, by that clock.
    """

    zone: str
    peak_hours: tuple[int, ...]

    @classmethod
    def read(cls, noted: Mapping[str, Any] | None) -> Clock:
        """As a data set or a bundle noted it; `UNTOLD` where one noted none."""
        return UNTOLD if noted is None else cls(str(noted["zone"]), tuple(noted["peak_hours"]))


UNTOLD = Clock("UTC", (11, 12, 13, 18, 19, 20))
"""The clock of models from before each recorded its own."""


def compute_row(
    placed_at: float, order_value: float, restaurant_order_value_mean: float, clock: Clock
) -> tuple[float, ...]:
    """The features of one request.

    Parameters
    ----------
    placed_at : float
        Unix seconds, UTC.
    order_value : float
        Value of the order in units of currency; NaN where unknown.
    restaurant_order_value_mean : float
        The restaurant's mean order value of 28 days; NaN where unknown.
    clock : Clock
        Whose hours and weekdays are meant.

    Returns
    -------
    tuple of float
        `FEATURES`. The ratio is NaN where a value is unknown or the mean is not positive.
    """
    local = placed_at + offset_seconds(placed_at, clock.zone)
    day_seconds = local % DAY_SECONDS
    day_angle = 2 * math.pi * day_seconds / DAY_SECONDS
    week_angle = 2 * math.pi * ((local - MONDAY) % WEEK_SECONDS) / WEEK_SECONDS
    usable = 0 < restaurant_order_value_mean < math.inf
    return (
        math.sin(day_angle),
        math.cos(day_angle),
        math.sin(week_angle),
        math.cos(week_angle),
        float(day_seconds // HOUR_SECONDS in clock.peak_hours),
        order_value / restaurant_order_value_mean if usable else math.nan,
    )


def offset_seconds(placed_at: float, zone: str) -> float:
    """By how many seconds the clocks of a zone are ahead of UTC at an instant, in Unix seconds."""
    steady = _steady_offset(zone, placed_at // HOUR_SECONDS)
    return _offset(zone, placed_at) if steady is None else steady


@lru_cache(maxsize=1 << 16)  # seven years of hours; asking the zone takes longer than all the rest of a row
def _steady_offset(zone: str, hour: float) -> float | None:
    """The offset in an hour of UTC; None where clocks are set within it, as in some places a minute past the hour."""
    first, last = _offset(zone, hour * HOUR_SECONDS), _offset(zone, (hour + 1) * HOUR_SECONDS - 1e-6)
    return first if first == last else None


def _offset(zone: str, placed_at: float) -> float:
    local = datetime.fromtimestamp(min(max(placed_at, EARLIEST), LATEST), ZoneInfo(zone))
    offset = local.utcoffset()
    return offset.total_seconds() if offset else 0.0


def compute(
    placed_at: ArrayLike, order_value: ArrayLike, restaurant_order_value_mean: ArrayLike, clock: Clock
) -> dict[str, NDArray[np.float64] | NDArray[np.int64]]:
    """`compute_row` of each of n requests.

    Parameters
    ----------
    placed_at, order_value, restaurant_order_value_mean : float64, shape (n,)
    clock : Clock

    Returns
    -------
    dict of str to array, shape (n,)
        The columns of `request_features`: float64, except `is_peak_hour`, which is int64.

    Examples
    --------
    >>> columns = compute([0.0], [30.0], [20.0], Clock("UTC", (12, 19)))
    >>> float(columns["hour_of_day_cos"][0]), float(columns["order_value_to_restaurant_mean"][0])
    (1.0, 1.5)
    """
    given = [
        np.asarray(values, np.float64).tolist() for values in (placed_at, order_value, restaurant_order_value_mean)
    ]
    rows = [compute_row(placed, value, usual, clock) for placed, value, usual in zip(*given, strict=True)]
    table = np.array(rows, np.float64).reshape(-1, len(FEATURES))
    columns: dict[str, NDArray[np.float64] | NDArray[np.int64]] = dict(zip(FEATURES, table.T.copy(), strict=True))
    columns["is_peak_hour"] = columns["is_peak_hour"].astype(np.int64)
    return columns


def calendar(placed_at: ArrayLike, clock: Clock) -> dict[str, NDArray[np.float64] | NDArray[np.int64]]:
    """The `CALENDAR` of `compute`: for rows that were computed by another clock than a model was trained by."""
    instants = np.asarray(placed_at, np.float64)
    unknown = np.full(instants.shape, math.nan)
    columns = compute(instants, unknown, unknown, clock)
    return {name: columns[name] for name in CALENDAR}


def version_of(source: str) -> str:
    """16 hexadecimal digits of what a module like this one computes with: its constants and `COMPUTING`.

    Comments, docstrings, layout and everything else in it do not count.
    """
    counting: list[str] = []
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef) and node.name in COMPUTING:
            node.body = [part for part in node.body if not _is_text(part)]
            counting.append(ast.unparse(node))
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) != "REQUEST_FUNCTION_VERSION":
            counting.append(ast.unparse(node))
    return hashlib.sha256("\n".join(counting).encode()).hexdigest()[:16]


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


REQUEST_FUNCTION_VERSION = version_of(Path(__file__).read_text())
"""A model bundle records it; answers of a bundle made with another one are marked degraded."""

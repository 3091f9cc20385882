"""Features of a request, on numpy arrays: Feast's on-demand view and the serving process both call `compute`.

Only numpy is imported here, so the request path costs microseconds and needs neither Feast nor pandas.
"""

from __future__ import annotations

import hashlib
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
_IS_PEAK = np.array([hour in PEAK_HOURS for hour in range(24)], dtype=np.int64)


def compute(
    placed_at: ArrayLike, order_value: ArrayLike, restaurant_order_value_mean: ArrayLike
) -> dict[str, NDArray[np.float64] | NDArray[np.int64]]:
    """The columns of `request_features`, in the order of its schema.

    Parameters
    ----------
    placed_at : float64, shape (n,)
        Unix seconds, UTC.
    order_value : float64, shape (n,)
        Value of the order in units of currency; NaN where unknown.
    restaurant_order_value_mean : float64, shape (n,)
        The restaurant's mean order value of 28 days; NaN where unknown.

    Returns
    -------
    dict of str to array, shape (n,)
        Float64, except `is_peak_hour`, which is int64. The ratio is NaN where a value is unknown or the mean is not
        positive.

    Examples
    --------
    >>> columns = compute([0.0], [30.0], [20.0])
    >>> float(columns["hour_of_day_cos"][0]), float(columns["order_value_to_restaurant_mean"][0])
    (1.0, 1.5)
    """
    seconds = np.asarray(placed_at, dtype=np.float64)
    day_seconds = seconds % DAY_SECONDS
    day_angle = 2 * np.pi * day_seconds / DAY_SECONDS
    week_angle = 2 * np.pi * ((seconds - MONDAY) % WEEK_SECONDS) / WEEK_SECONDS
    hour = (day_seconds // HOUR_SECONDS).astype(np.intp)
    return {
        "hour_of_day_sin": np.sin(day_angle),
        "hour_of_day_cos": np.cos(day_angle),
        "day_of_week_sin": np.sin(week_angle),
        "day_of_week_cos": np.cos(week_angle),
        "is_peak_hour": _IS_PEAK.take(hour, mode="clip"),
        "order_value_to_restaurant_mean": _ratio(order_value, restaurant_order_value_mean),
    }


def _ratio(value: ArrayLike, mean: ArrayLike) -> NDArray[np.float64]:
    numerator = np.asarray(value, dtype=np.float64)
    denominator = np.asarray(mean, dtype=np.float64)
    usable = np.isfinite(denominator) & (denominator > 0)
    ratio = np.full(numerator.shape, np.nan)
    np.divide(numerator, denominator, out=ratio, where=usable)
    return ratio


REQUEST_FUNCTION_VERSION = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]
"""Changes with this file. A model bundle records it; answers of a bundle made with another one are marked degraded."""

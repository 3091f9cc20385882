"""`request_time.compute` for one request, in plain Python: for one row, numpy takes longer to begin than to compute.

What the features are is said there; this gives the same numbers sooner, which a test holds for any request.
"""

from __future__ import annotations

import math

from feature_repo.transforms.request_time import DAY_SECONDS, HOUR_SECONDS, MONDAY, PEAK_HOURS, WEEK_SECONDS

__all__ = ["compute_row"]


def compute_row(placed_at: float, order_value: float, restaurant_order_value_mean: float) -> tuple[float, ...]:
    """The columns of `request_time.compute`, in its order, from one element of each of its arguments."""
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

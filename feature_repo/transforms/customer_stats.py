"""How often a customer orders, and for how much."""

from typing import Any

import ibis
import ibis.expr.types as ir

from feature_repo.transforms.measures import ORDER_VALUE, PLACED, PLACED_AT
from feature_repo.transforms.spec import LIFETIME, NOW, WEEK, Feature, ViewTransform, count, mean, total
from feature_repo.window import DAY

MONTH = 30 * DAY
ACTIVE = 90 * DAY
"""A lifetime never empties, so rows for ever would make the table grow with all customers ever seen. After this time
without an order a customer counts as gone, and the online values run out with their TTL."""

REGULAR_ORDERS = 3
VIP_ORDERS = 8


def days_since(now: Any, last_second: Any) -> ir.Value:
    """Days from the last order's placing to the row's instant."""
    return (now - last_second) / 86_400


def segment(ever: Any, month: Any) -> ir.Value:
    """`new` after one order; else by the last 30 days: `vip` from 8 orders on, `regular` from 3 on, or `occasional`."""
    return ibis.cases(
        (month >= VIP_ORDERS, "vip"), (month >= REGULAR_ORDERS, "regular"), (ever <= 1, "new"), else_="occasional"
    )


TRANSFORM = ViewTransform(
    view="customer_stats",
    key="customer_id",
    heartbeat=ACTIVE,
    # Most customers are quiet on most days: with a row every midnight, two thirds of the table would say nothing new.
    beat=WEEK,
    features={
        "order_count_30d": count(PLACED, MONTH),
        "order_value_sum_30d": total(ORDER_VALUE, among=PLACED, window=MONTH),
        "order_value_mean_30d": mean(ORDER_VALUE, MONTH),
        "days_since_last_order": Feature("float64", (NOW, PLACED_AT.last()), days_since),
        "order_count_lifetime": count(PLACED, LIFETIME),
        "order_value_sum_lifetime": total(ORDER_VALUE, among=PLACED, window=LIFETIME),
        "segment": Feature("string", (PLACED.count(LIFETIME), PLACED.count(MONTH)), segment),
    },
)

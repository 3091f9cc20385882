"""How congested a delivery zone is, as of the last full hour."""

from typing import Any

import ibis.expr.types as ir

from feature_repo.transforms.measures import ABANDONED, CLOSED, DELIVERED, DELIVERY_MINUTES, PLACED
from feature_repo.transforms.spec import LIFETIME, WEEK, Feature, ViewTransform, count, mean
from feature_repo.window import DAY, HOUR

OPEN_ORDERS = (PLACED.count(LIFETIME), CLOSED.count(LIFETIME), ABANDONED.count(LIFETIME))


def open_orders(placed: Any, closed: Any, abandoned: Any) -> ir.Value:
    """Every placed order ends exactly once (see `facts.OPEN_AT_MOST`), so the difference is the orders still open."""
    return placed - closed - abandoned


TRANSFORM = ViewTransform(
    view="zone_stats",
    key="zone_id",
    heartbeat=WEEK,
    features={
        "order_count_1h": count(PLACED, HOUR),
        "order_count_7d": count(PLACED, WEEK),
        "delivered_count_1h": count(DELIVERED, HOUR),
        "delivery_minutes_mean_1h": mean(DELIVERY_MINUTES, HOUR),
        "delivery_minutes_mean_24h": mean(DELIVERY_MINUTES, DAY),
        "delivery_minutes_mean_7d": mean(DELIVERY_MINUTES, WEEK),
        "open_order_count": Feature("int64", OPEN_ORDERS, open_orders),
    },
)

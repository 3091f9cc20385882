"""How congested a delivery zone is now: kept up to date between the hourly runs."""

from typing import Any

import ibis
import ibis.expr.types as ir

from feature_repo.transforms.measures import (
    ASAP_ABANDONED,
    ASAP_CLOSED,
    ASAP_PLACED,
    DELIVERED,
    DELIVERY_MINUTES,
    PLACED,
    SHIFT_BEGAN,
    SHIFT_ENDED,
)
from feature_repo.transforms.spec import LIFETIME, LIVE_STEP, Feature, ViewTransform, count, mean
from feature_repo.transforms.zone_stats import OPEN_ORDERS, open_orders
from feature_repo.window import DAY, HOUR, MINUTE

DRIVERS = (SHIFT_BEGAN.count(LIFETIME), SHIFT_ENDED.count(LIFETIME))
OPEN_ASAP_ORDERS = (ASAP_PLACED.count(LIFETIME), ASAP_CLOSED.count(LIFETIME), ASAP_ABANDONED.count(LIFETIME))


def drivers(began: Any, ended: Any) -> ir.Value:
    """Every shift that began ends exactly once, so the difference is the drivers who are on one."""
    return began - ended


def per_driver(orders: Any, began: Any, ended: Any) -> ir.Value:
    """Orders over drivers on a shift; over one while there are none."""
    return orders / ibis.greatest(drivers(began, ended), 1)


TRANSFORM = ViewTransform(
    view="zone_live",
    key="zone_id",
    heartbeat=DAY,
    beat=10 * MINUTE,
    step=LIVE_STEP,
    features={
        "order_count_60m": count(PLACED, HOUR),
        "delivery_minutes_mean_60m": mean(DELIVERY_MINUTES, HOUR),
        "open_order_count": Feature("int64", OPEN_ORDERS, open_orders),
        "open_asap_order_count": Feature("int64", OPEN_ASAP_ORDERS, open_orders),
        "active_driver_count": Feature("int64", DRIVERS, drivers),
        "open_asap_orders_per_driver": Feature(
            "float64",
            (*OPEN_ASAP_ORDERS, *DRIVERS),
            lambda placed, closed, abandoned, *shifts: per_driver(open_orders(placed, closed, abandoned), *shifts),
        ),
        "delivered_per_driver_60m": Feature("float64", (DELIVERED.count(HOUR), *DRIVERS), per_driver),
    },
)

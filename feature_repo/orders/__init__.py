"""Orders: their canonical form, how they arrive, and how their history is read."""

from feature_repo.orders.history import latest_orders, order_versions
from feature_repo.orders.landing import SourceNotReady, read_landing
from feature_repo.orders.schema import (
    BATCH_SCHEMA,
    LAKE_SCHEMA,
    LANDING_SCHEMA,
    ORDER_SCHEMA,
    QUARANTINE_SCHEMA,
    orders_table,
    quarantine_table,
)
from feature_repo.orders.watermark import LandingError, Watermark, read_watermark, write_watermark

__all__ = [
    "BATCH_SCHEMA",
    "LAKE_SCHEMA",
    "LANDING_SCHEMA",
    "ORDER_SCHEMA",
    "QUARANTINE_SCHEMA",
    "LandingError",
    "SourceNotReady",
    "Watermark",
    "latest_orders",
    "order_versions",
    "orders_table",
    "quarantine_table",
    "read_landing",
    "read_watermark",
    "write_watermark",
]

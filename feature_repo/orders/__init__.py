"""Orders: their canonical form, how they arrive, and how their history is read."""

from feature_repo.orders.history import latest_orders, order_versions
from feature_repo.orders.landing import (
    LandingError,
    SourceNotReady,
    Watermark,
    read_landing,
    read_watermark,
    write_watermark,
)
from feature_repo.orders.schema import (
    BATCH_SCHEMA,
    LAKE_SCHEMA,
    LANDING_SCHEMA,
    ORDER_SCHEMA,
    QUARANTINE_SCHEMA,
    orders_table,
    quarantine_table,
)

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

"""The canonical order: one row is one *version* of an order, as a source recorded it at `updated_at`.

The types here are the contract between whoever writes the landing folder and everything behind it.
"""

from __future__ import annotations

import polars as pl

from config import Settings
from feature_repo.lake import TIMESTAMP, PartitionedTable

ORDER_SCHEMA: dict[str, pl.DataType] = {
    "order_id": pl.String(),
    "restaurant_id": pl.String(),
    "driver_id": pl.String(),
    "customer_id": pl.String(),
    "zone_id": pl.String(),
    "placed_at": TIMESTAMP,
    "accepted_at": TIMESTAMP,
    "picked_up_at": TIMESTAMP,
    "delivered_at": TIMESTAMP,
    "cancelled_at": TIMESTAMP,
    "status": pl.String(),
    "is_asap": pl.Boolean(),
    "distance_km": pl.Float64(),
    "item_count": pl.Int64(),
    "order_value": pl.Float64(),
    "promised_minutes": pl.Float64(),
    "updated_at": TIMESTAMP,
}
"""Columns of an order version, in order."""

LANDING_SCHEMA: dict[str, pl.DataType] = {**ORDER_SCHEMA, "arrived_at": TIMESTAMP}
"""What a file in the landing folder may hold; a column that it lacks is read as null."""

REFUSAL_SCHEMA: dict[str, pl.DataType] = {
    "refused_rule": pl.String(),
    "refused_reason": pl.String(),
    "source_row": pl.String(),
}
"""Filled for rows that `bring_in` could not convert: they travel through the landing to the quarantine, by one road."""

LAKE_SCHEMA: dict[str, pl.DataType] = {**ORDER_SCHEMA, "known_at": TIMESTAMP}
"""Accepted versions. `known_at` is when this house learnt of the version."""

BATCH_SCHEMA: dict[str, pl.DataType] = {**LAKE_SCHEMA, **REFUSAL_SCHEMA, "found_late": pl.Boolean()}
"""One window's versions on their way from the landing to the lake."""

QUARANTINE_SCHEMA: dict[str, pl.DataType] = {
    "known_at": TIMESTAMP,
    "order_id": pl.String(),
    "rule": pl.String(),
    "reason": pl.String(),
    "row": pl.String(),
    "window": pl.String(),
}
"""Rejected versions: the rule, the reason in words, the whole row as JSON, and the run's window."""

ID_COLUMNS = tuple(name for name in ORDER_SCHEMA if name.endswith("_id"))
REQUIRED_COLUMNS = ("order_id", "restaurant_id", "placed_at", "status", "updated_at")
STATUSES = ("placed", "accepted", "picked_up", "delivered", "cancelled")
STAGE_TIMES = ("placed_at", "accepted_at", "picked_up_at", "delivered_at")
"""The instants of an order's normal course, in the order in which they must happen."""
EVENT_TIMES = (*STAGE_TIMES, "cancelled_at")


_LAND_AGAIN = (
    "if the landing folder still has its orders, delete it and run `python -m feature_repo backfill {start} {end}`"
)


def orders_table(settings: Settings) -> PartitionedTable:
    """The lake's table of accepted order versions. Grain: one version of one order."""
    key = ["known_at", "order_id", "updated_at"]
    return PartitionedTable(settings.orders, "known_at", LAKE_SCHEMA, key, _LAND_AGAIN, durable=True)


def quarantine_table(settings: Settings) -> PartitionedTable:
    """The table of rejected order versions. Grain: one rejected row."""
    key = ["known_at", "order_id", "rule", "row", "reason"]
    root = settings.quarantine / "orders"
    return PartitionedTable(root, "known_at", QUARANTINE_SCHEMA, key, _LAND_AGAIN, durable=True)


def row_text(columns: list[str] | None = None) -> pl.Expr:
    """Expression: an order version as JSON text, equal if and only if the order columns are equal.

    `known_at` and `arrived_at` are left out on purpose: the same version delivered twice has the same text, which is
    how the landing recognises what the lake or the quarantine already holds.
    """
    names = columns if columns is not None else list(ORDER_SCHEMA)
    parts = [
        pl.col(name).dt.strftime("%Y-%m-%dT%H:%M:%S%.6fZ") if ORDER_SCHEMA[name] == TIMESTAMP else pl.col(name)
        for name in names
    ]
    return pl.struct(parts).struct.json_encode()

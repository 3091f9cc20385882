"""Small tables brought in through a mapping, and what became of each of their orders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from config import Settings
from feature_repo.orders.decisions import parse_allowed
from feature_repo.orders.mapping import bring_in
from feature_repo.orders.report import IngestReport

COLUMNS = {"order_id": "id", "restaurant_id": "shop", "placed_at": "placed"}
TOLERANT = {"max_share": 1.0}


def bring(
    orders: Path | str | Sequence[str],
    settings: Settings,
    *,
    now: Any = None,
    allow: Sequence[str] = (),
    **mapping: Any,
) -> IngestReport:
    """Bring in lines of a CSV file (header first) or a file, with the mapping above changed by keyword."""
    directory = settings.data_dir.parent
    read = {"format": "csv"}
    if isinstance(orders, list):
        path = directory / "orders.csv"
        path.write_text("\n".join(orders) + "\n", encoding="utf-8")
        orders = path
    elif str(orders).endswith(".parquet"):
        read = {"format": "parquet"}
    content = {"name": "shop", "read": read, "quarantine": TOLERANT, **mapping}
    content["columns"] = {**COLUMNS, **mapping.get("columns", {})}
    plan = directory / "mapping.yaml"
    plan.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    return bring_in(str(orders), plan, settings, now=now, allowed=parse_allowed(allow))


def landed(settings: Settings) -> pl.DataFrame:
    """All that has landed, by the number of its order."""
    files = sorted(settings.landing_orders.glob("day=*/*.parquet"))
    return pl.concat([pl.read_parquet(path, hive_partitioning=False) for path in files]).sort("order_id")


def outcomes(settings: Settings, column: str) -> dict[str, Any]:
    """By order: its value in a column, or the rule that refused it."""
    frame = landed(settings).select("order_id", pl.col(column), "refused_rule")
    return {order: rule or value for order, value, rule in frame.rows()}


def reasons(settings: Settings) -> dict[str, str]:
    """By refused order: why."""
    return dict(
        landed(settings).filter(pl.col("refused_rule").is_not_null()).select("order_id", "refused_reason").rows()
    )

"""What orders allow: they are brought in, in a folder that is thrown away, and looked at as training would."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from config import Settings
from feature_repo.absence import input_losses, views_without_rows
from feature_repo.orders.columns import absent_columns
from feature_repo.orders.mapping import bring_in

_HISTORY_DAYS = 28
"""The longest window of most features."""


def tell(orders: str, mapping: Path, settings: Settings) -> list[str]:
    """Bring orders in by a mapping, for a trial, and say in lines what they allow.

    Raises
    ------
    MappingError
        They cannot be brought in.
    """
    settings.staging.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="profile-", dir=settings.staging) as folder:
        trial = settings.model_copy(update={"data_dir": Path(folder)})
        report = bring_in(orders, mapping, trial, now=datetime.now(UTC))
        return [*report.summary().splitlines(), *_orders(trial), *_views(trial), *_models(trial)]


def _orders(settings: Settings) -> Iterator[str]:
    files = sorted(settings.landing_orders.glob("day=*/*.parquet"))
    versions = pl.concat([pl.scan_parquet(file, hive_partitioning=False) for file in files], how="diagonal")
    if "refused_rule" in versions.collect_schema():
        versions = versions.filter(pl.col("refused_rule").is_null())
    for name in ("delivered_at", "restaurant_id", "driver_id", "customer_id", "zone_id"):
        if name not in versions.collect_schema():
            versions = versions.with_columns(pl.lit(None).alias(name))
    minutes = ((pl.col("delivered_at") - pl.col("placed_at")).dt.total_seconds() / 60).cast(pl.Float64)
    ids = ("restaurant_id", "driver_id", "customer_id", "zone_id")
    found = (
        versions.with_columns(pl.col("delivered_at").cast(pl.Datetime("us", "UTC")))
        .group_by("order_id")
        .agg(
            pl.col("placed_at").min(),
            pl.col("delivered_at").drop_nulls().last(),
            *[pl.col(name).drop_nulls().last() for name in ids],
        )
        .with_columns(minutes=minutes)
        .collect()
    )
    days = (found["placed_at"].max() - found["placed_at"].min()).days + 1  # type: ignore[operator,union-attr]
    usable = found.filter(pl.col("minutes").is_between(1, 180))
    yield f"  orders            {found.height:,} in {days:,} days, {usable.height:,} delivered in 1 to 180 minutes"
    if usable.height:
        p10, p50, p90 = (usable["minutes"].quantile(q) for q in (0.1, 0.5, 0.9))
        yield f"  delivery time     median {p50:.1f} min, P10 {p10:.1f}, P90 {p90:.1f}"
    counts = ", ".join(f"{found[name].n_unique() - (found[name].null_count() > 0):,} {name[:-3]}s" for name in ids)
    yield f"  entities          {counts}"
    if days < _HISTORY_DAYS:
        yield f"  history           {days} days: features of {_HISTORY_DAYS} days are those of a shorter time at first"


def _views(settings: Settings) -> Iterator[str]:
    for view, key in views_without_rows(absent_columns(settings)).items():
        yield f"  no rows           {view}: the source has no {key}"


def _models(settings: Settings) -> Iterator[str]:
    from training.models import specs

    absent = absent_columns(settings)
    for spec in specs().values():
        missing = sorted(set(spec.requires) & set(absent))
        if missing:
            yield f"  model             {spec.name} cannot be trained: the source has no {', '.join(missing)}"
            continue
        losses = input_losses(spec.feature_service, absent)
        without = f", {len(losses.without_value)} of its inputs missing in every row" if losses.without_value else ""
        yield f"  model             {spec.name} can be trained{without}"

"""What orders allow: they are brought in, in a folder that is thrown away, and looked at as training would."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from config import Settings
from feature_repo.absence import input_losses, views_without_rows
from feature_repo.orders.columns import absent_columns
from feature_repo.orders.mapping import bring_in
from training.models import get_spec, specs

_IDS = ("restaurant_id", "driver_id", "customer_id", "zone_id")
_HISTORY_DAYS = 28
"""The longest window of most features."""


@dataclass(frozen=True, slots=True)
class Found:
    """What orders allow: in lines for a person, and how far the median of all deliveries is off on average, minutes."""

    lines: list[str]
    median_error: float | None


def tell(orders: str, mapping: Path, settings: Settings) -> Found:
    """Bring orders in by a mapping, for a trial, and say what they allow.

    Raises
    ------
    MappingError
        They cannot be brought in.
    """
    settings.staging.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="profile-", dir=settings.staging) as folder:
        trial = settings.model_copy(update={"data_dir": Path(folder)})
        report = bring_in(orders, mapping, trial, now=datetime.now(UTC))
        found = _latest(trial)
        minutes = found.filter(pl.col("minutes").is_between(1, 180))["minutes"]
        error = float((minutes - minutes.median()).abs().mean()) if minutes.len() else None  # type: ignore[arg-type]
        lines = [*report.summary().splitlines(), *_orders(found, minutes, error), *_views(trial), *_models(trial)]
        return Found(lines, error)


def gate_thresholds(median_error: float | None) -> dict[str, float]:
    """Thresholds for a market that is noisier than the one that the model's own are set for; empty if it is not.

    A model that errs by more than always saying the median is none. What a good one reaches, the first run shows.
    """
    usual = next(gate.threshold for gate in get_spec("delivery_time").gates if gate.name == "validation_mae")
    if median_error is None or median_error <= usual:
        return {}
    return {"validation_mae": round(median_error, 1), "slices": round(median_error / usual, 1)}


def _latest(settings: Settings) -> pl.DataFrame:
    """One row per order, with its `minutes` to delivery."""
    files = sorted(settings.landing_orders.glob("day=*/*.parquet"))
    versions = pl.concat([pl.scan_parquet(file, hive_partitioning=False) for file in files], how="diagonal")
    if "refused_rule" in versions.collect_schema():
        versions = versions.filter(pl.col("refused_rule").is_null())
    for name in ("delivered_at", "restaurant_id", "driver_id", "customer_id", "zone_id"):
        if name not in versions.collect_schema():
            versions = versions.with_columns(pl.lit(None).alias(name))
    minutes = ((pl.col("delivered_at") - pl.col("placed_at")).dt.total_seconds() / 60).cast(pl.Float64)
    return (
        versions.with_columns(pl.col("delivered_at").cast(pl.Datetime("us", "UTC")))
        .group_by("order_id")
        .agg(
            pl.col("placed_at").min(),
            pl.col("delivered_at").drop_nulls().last(),
            *[pl.col(name).drop_nulls().last() for name in _IDS],
        )
        .with_columns(minutes=minutes)
        .collect()
    )


def _orders(found: pl.DataFrame, minutes: pl.Series, error: float | None) -> Iterator[str]:
    days = (found["placed_at"].max() - found["placed_at"].min()).days + 1  # type: ignore[operator,union-attr]
    yield f"  orders            {found.height:,} in {days:,} days, {minutes.len():,} delivered in 1 to 180 minutes"
    if error is not None:
        p10, p50, p90 = (minutes.quantile(q) for q in (0.1, 0.5, 0.9))
        yield f"  delivery time     median {p50:.1f} min, P10 {p10:.1f}, P90 {p90:.1f}"
        yield f"  to be beaten      {error:.1f} min: so far off on average is who always says the median"
    counts = ", ".join(f"{found[name].n_unique() - (found[name].null_count() > 0):,} {name[:-3]}s" for name in _IDS)
    yield f"  entities          {counts}"
    if days < _HISTORY_DAYS:
        yield f"  history           {days} days: features of {_HISTORY_DAYS} days are those of a shorter time at first"


def _views(settings: Settings) -> Iterator[str]:
    for view, key in views_without_rows(absent_columns(settings)).items():
        yield f"  no rows           {view}: the source has no {key}"


def _models(settings: Settings) -> Iterator[str]:
    absent = absent_columns(settings)
    for spec in specs().values():
        missing = sorted(set(spec.requires) & set(absent))
        if missing:
            yield f"  model             {spec.name} cannot be trained: the source has no {', '.join(missing)}"
            continue
        losses = input_losses(spec.feature_service, absent)
        without = f", {len(losses.without_value)} of its inputs missing in every row" if losses.without_value else ""
        yield f"  model             {spec.name} can be trained{without}"

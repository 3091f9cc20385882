"""Small Feast objects over literal rows, shared by the tests of the stores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.data_format import ParquetFormat
from feast.types import Float64, Int64, String

from feature_repo.stores.parquet import TIMESTAMP

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
AS_OF = {"type": "feature_repo.stores.asof.AsOfOfflineStore", "knowledge_cutoff": True}
"""The offline store as `feature_store.yaml` asks for it."""
HISTORY_SCHEMA = {
    "restaurant_id": pl.String,
    "event_timestamp": TIMESTAMP,
    "created": TIMESTAMP,
    "orders": pl.Int64,
    "minutes": pl.Float64,
}


def at(minutes: float) -> datetime:
    """The instant so many minutes after noon."""
    return NOON + timedelta(minutes=minutes)


def history(rows: Sequence[tuple[str | None, float, float | None, int | None]]) -> pl.DataFrame:
    """Rows of (restaurant, event minute, created minute, orders); `minutes` is half of `orders`."""
    return pl.DataFrame(
        {
            "restaurant_id": [key for key, *_ in rows],
            "event_timestamp": [at(event) for _, event, _, _ in rows],
            "created": [None if created is None else at(created) for _, _, created, _ in rows],
            "orders": [orders for *_, orders in rows],
            "minutes": [None if orders is None else orders / 2 for *_, orders in rows],
        },
        schema=HISTORY_SCHEMA,
    )


def write(frame: pl.DataFrame, path: Path) -> Path:
    """Write a Parquet file and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.write_parquet(path)
    return path


restaurant = Entity(name="restaurant", join_keys=["restaurant_id"], value_type=ValueType.STRING)


def view(path: Path | str, name: str = "restaurant_stats", ttl: timedelta | None = None, **source: Any) -> FeatureView:
    """A view of `orders` and `minutes` by restaurant over a Parquet path."""
    options = {"timestamp_field": "event_timestamp", "created_timestamp_column": "created", **source}
    return FeatureView(
        name=name,
        entities=[restaurant],
        ttl=ttl,
        schema=[
            Field(name="restaurant_id", dtype=String),
            Field(name="orders", dtype=Int64),
            Field(name="minutes", dtype=Float64),
        ],
        source=FileSource(name=f"{name}_source", path=str(path), file_format=ParquetFormat(), **options),
    )


def repo_config(
    directory: Path, offline: Mapping[str, Any] | None = None, online: Mapping[str, Any] | None = None, **other: Any
) -> RepoConfig:
    """A configuration with a registry of its own in `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    return RepoConfig(
        project="delivery_eta",
        provider="local",
        registry={"registry_type": "sql", "path": f"sqlite:///{directory / 'registry.db'}"},
        offline_store=dict(offline or AS_OF),
        online_store=dict(online or {"type": "sqlite", "path": str(directory / "online.db")}),
        entity_key_serialization_version=3,
        repo_path=directory,
        **other,
    )


def store(directory: Path, objects: Sequence[Any], **config: Any) -> FeatureStore:
    """A feature store that knows `objects`."""
    opened = FeatureStore(config=repo_config(directory, **config))
    opened.apply([restaurant, *objects])
    return opened


def entity_frame(rows: Sequence[tuple[str | None, float | None]]) -> pd.DataFrame:
    """An entity frame of (restaurant, minute)."""
    return pd.DataFrame(
        {
            "restaurant_id": pd.Series([key for key, _ in rows], dtype=object),
            "event_timestamp": pd.Series(
                [pd.NaT if minute is None else at(minute) for _, minute in rows], dtype="datetime64[us, UTC]"
            ),
        }
    )

"""A small market whose truth is known, stored as a training set without Feast; an MLflow of each test's own."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from config import Settings
from training import pipeline
from training.dataset import Dataset, store_dataset
from training.models import get_spec
from training.spec import ModelSpec

AS_OF = datetime(2026, 5, 1, tzinfo=UTC)
TRAILING_MEAN = "restaurant_stats__delivery_minutes_mean_28d"
DRIVER_MEAN = "driver_stats__delivery_minutes_mean_28d"
PEAK = "request_features__is_peak_hour"

MakeRows = Callable[..., pl.DataFrame]


def described_inputs() -> list[dict[str, Any]]:
    """Inputs of the small market, as the catalogue would describe them."""

    def one(name: str, source: str, dtype: str = "Float64") -> dict[str, Any]:
        view, _, feature = name.rpartition("__")
        unit = {"unit": "", "minimum": None, "maximum": None}
        return {"name": name, "source": source, "view": view or None, "feature": feature, "dtype": dtype} | unit

    return [
        one(TRAILING_MEAN, "view"),
        one("restaurant_stats__preparation_minutes_mean_28d", "view"),
        one(DRIVER_MEAN, "view"),
        one(PEAK, "on_demand", "Int64"),
        one("distance_km", "request"),
    ]


def description(as_of: datetime = AS_OF, **changes: Any) -> dict[str, Any]:
    """What `build_dataset` would say about the small market's sources."""
    restaurant = [TRAILING_MEAN.rpartition("__")[2], "preparation_minutes_mean_28d"]
    return {
        "model": "delivery_time",
        "as_of": as_of.isoformat(),
        "window": {"start": (as_of - timedelta(days=90)).isoformat(), "end": as_of.isoformat()},
        "feature_service": "delivery_time_v1",
        "definitions_hash": "d" * 64,
        "request_function_version": "r" * 64,
        "clock": {"zone": "UTC", "peak_hours": [11, 12, 13, 18, 19, 20]},
        "seed": 20260101,
        "inputs": described_inputs(),
        "views": [
            {"name": "restaurant_stats", "join_key": "restaurant_id", "ttl_seconds": 93600, "features": restaurant},
            {
                "name": "driver_stats",
                "join_key": "driver_id",
                "ttl_seconds": 93600,
                "features": [DRIVER_MEAN.rpartition("__")[2]],
            },
        ],
        "order_partitions": [{"path": "lake/orders/day=2026-04-01/rows.parquet", "sha256": "a" * 64}],
        "feature_tables": {"restaurant_stats": "b" * 64},
        "absent_columns": [],
        "absent_inputs": [],
    } | changes


def market(count: int = 3000, seed: int = 5, noise: float = 3.0, days: int = 60) -> pl.DataFrame:
    """Orders whose duration is 8 + restaurant + driver + 2 minutes a kilometre + 6 at peak + noise."""
    draw = np.random.default_rng(seed)
    start = AS_OF - timedelta(days=days)
    seconds = np.sort(draw.integers(0, days * 86_400 - 7200, count))
    placed = [start + timedelta(seconds=int(second)) for second in seconds]
    restaurant, driver = draw.normal(15, 4, count), draw.normal(0, 2, count)
    distance, peak = draw.gamma(2, 1.5, count), draw.random(count) < 0.3
    minutes = np.clip(8 + restaurant + driver + 2 * distance + 6 * peak + draw.normal(0, noise, count), 1, 180)
    return pl.DataFrame(
        {
            "order_id": [f"o{number:06d}" for number in range(count)],
            "placed_at": placed,
            "zone_id": [f"z{number % 4}" for number in range(count)],
            TRAILING_MEAN: restaurant + 18,
            "restaurant_stats__preparation_minutes_mean_28d": restaurant,
            DRIVER_MEAN: driver + 30,
            PEAK: peak.astype(int),
            "distance_km": distance,
            "delivery_minutes": minutes,
        },
        schema_overrides={"placed_at": pl.Datetime("us", "UTC")},
    ).with_columns(
        pl.when(pl.int_range(pl.len()) % 11 == 3).then(None).otherwise(pl.col(TRAILING_MEAN)).alias(TRAILING_MEAN),
        label_known_at=pl.col("placed_at") + pl.duration(seconds=(pl.col("delivery_minutes") * 60).cast(pl.Int64)),
    )


@pytest.fixture
def spec() -> ModelSpec:
    """The real spec, with one quick candidate, which a busy machine may take its time to ask."""
    quick = {"loss": "absolute_error", "learning_rate": 0.1, "max_leaf_nodes": 15, "min_samples_leaf": 20}
    real = get_spec("delivery_time")
    interval = replace(real.interval, parameters={**real.interval.parameters, "max_iter": 20, "max_leaf_nodes": 4})
    return replace(real, candidates=(quick,), interval=interval).with_thresholds({"row_microseconds": 1e9})


@pytest.fixture(scope="session")
def empty_mlflow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database with its tables and nothing in them; making one takes seconds, copying none."""
    import mlflow

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{path}", f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def mlflow_ready(settings: Settings, empty_mlflow: Path) -> Settings:
    """The settings, with an MLflow database in its place."""
    shutil.copyfile(empty_mlflow, settings.mlflow_tracking_uri.removeprefix("sqlite:///"))
    return settings


@pytest.fixture
def stored(settings: Settings, spec: ModelSpec) -> Callable[..., Dataset]:
    """Stores rows as the training set of an instant, as `build_dataset` would have."""

    def store(rows: pl.DataFrame | None = None, as_of: datetime = AS_OF, **changes: Any) -> Dataset:
        rows = market() if rows is None else rows
        dataset = store_dataset(rows, description(as_of, **changes), settings.datasets, spec)
        pipeline.note_dataset(as_of, settings, spec, dataset)
        return dataset

    return store

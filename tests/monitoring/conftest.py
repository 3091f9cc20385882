"""A champion in a local directory, logged predictions of it and outcomes: all made, none trained."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from config import Settings, get_settings
from feature_repo.window import Window
from monitoring.report import write_frame

INPUTS = {
    "restaurant_stats__delivery_minutes_mean_28d": ("view", "restaurant_stats"),
    "driver_stats__on_time_rate_28d": ("view", "driver_stats"),
    "request_features__hour_of_day_sin": ("on_demand", "request_features"),
    "request_features__is_peak_hour": ("on_demand", "request_features"),
    "distance_km": ("request", None),
    "item_count": ("request", None),
}
DAY = Window(datetime.fromisoformat("2026-05-01T00:00+00:00"), datetime.fromisoformat("2026-05-02T00:00+00:00"))


def feature_rows(rows: int, seed: int = 1, shift: float = 0.0) -> pl.DataFrame:
    """Rows of `INPUTS`; `shift` moves the restaurant's mean and the distance, in standard deviations."""
    draw = np.random.default_rng(seed)
    values = {
        "restaurant_stats__delivery_minutes_mean_28d": draw.normal(30 + 5 * shift, 5, rows),
        "driver_stats__on_time_rate_28d": np.where(draw.random(rows) < 0.5, np.nan, draw.random(rows)),
        "request_features__hour_of_day_sin": np.sin(draw.random(rows) * 2 * np.pi),
        "request_features__is_peak_hour": draw.integers(0, 2, rows).astype(float),
        "distance_km": np.abs(draw.normal(3 + shift, 1, rows)),
        "item_count": draw.integers(1, 6, rows).astype(float),
    }
    return pl.DataFrame(values).fill_nan(None)


def with_predictions(features: pl.DataFrame) -> pl.DataFrame:
    """The rows and what a very simple model predicts for them."""
    return features.with_columns(
        prediction=pl.col("restaurant_stats__delivery_minutes_mean_28d").fill_null(30) + 2 * pl.col("distance_km") - 6
    )


def logged(features: pl.DataFrame, start: datetime, source: str = "online", status: str = "ok") -> pl.DataFrame:
    """The rows as a prediction log: orders o0, o1, ... placed evenly over 24 hours from `start`."""
    rows = with_predictions(features)
    minutes = rows["prediction"]
    placed = [start + timedelta(days=1) * (i / rows.height) for i in range(rows.height)]
    return pl.DataFrame(
        {
            "prediction_id": [f"{source}-{i}" for i in range(rows.height)],
            "order_id": [f"o{i}" for i in range(rows.height)],
            "placed_at": pl.Series(placed, dtype=pl.Datetime("us", "UTC")),
            "predicted_at": pl.Series(placed, dtype=pl.Datetime("us", "UTC")),
            "model_name": "delivery_time",
            "model_version": "7",
            "variant": "champion",
            "source": source,
            "status": status,
            "delivery_minutes": minutes,
            "p10_minutes": minutes - 6.4,
            "p90_minutes": minutes + 6.4,
            "inputs": [json.dumps(row) for row in features.iter_rows(named=True)],
            "statuses": json.dumps(dict.fromkeys(features.columns, "present")),
        }
    )


def outcomes_of(predictions: pl.DataFrame, noise: float = 5.0, bias: float = 0.0) -> pl.DataFrame:
    """What happened: the prediction, off by `bias` and by normal `noise`."""
    draw = np.random.default_rng(3)
    off = draw.normal(bias, noise, predictions.height)
    return predictions.select("order_id", actual_minutes=pl.col("delivery_minutes") + pl.Series(off))


@pytest.fixture
def champion_directory(tmp_path: Path) -> Path:
    """A bundle as training makes it, without the model itself, which monitoring does not run."""
    directory = tmp_path / "champion"
    bundle = {
        "model": "delivery_time",
        "baseline_minutes": 30.0,
        "metrics": {"test_mae": 4.2, "validation_mae": 4.1},
        "inputs": [
            {"name": name, "source": source, "view": view, "feature": name, "dtype": "Float64"}
            for name, (source, view) in INPUTS.items()
        ],
    }
    reference = with_predictions(feature_rows(3000, seed=0))
    write_frame(directory / "reference.parquet", reference.with_columns(label=pl.col("prediction") + 1))
    (directory / "bundle.json").write_text(json.dumps(bundle))
    return directory


@pytest.fixture
def house(champion_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Settings of an installation whose champion is the one above; needs no Redis."""
    monkeypatch.setenv("ETA_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("ETA_MODEL_DIR", str(champion_directory))
    get_settings.cache_clear()
    yield get_settings()
    get_settings.cache_clear()


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch):
    """Puts predictions and outcomes in the place of the prediction log and the lake of orders."""

    def put(predictions: pl.DataFrame, outcomes: pl.DataFrame) -> None:
        def read(placed: Window, settings: Settings) -> pl.DataFrame:
            return predictions.filter(pl.col("placed_at").is_between(placed.start, placed.end, closed="left"))

        monkeypatch.setattr("monitoring.pipeline._predictions", read)
        monkeypatch.setattr("monitoring.pipeline._outcomes", lambda placed, window, settings: outcomes)

    return put

"""A training set from real orders through the real feature store, to a champion."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest

import feature_repo
from config import get_settings
from feature_repo.lake import TIMESTAMP
from feature_repo.orders.schema import LAKE_SCHEMA, orders_table
from feature_repo.transforms.request_time import CALENDAR, Clock, calendar
from feature_repo.window import Window
from tests.training.conftest import AS_OF
from training import pipeline
from training.checks import check_dataset
from training.dataset import build_dataset
from training.errors import EmptyPopulation, RowsChanged

COUNT, DAYS = 1500, 30
SPAN = Window.last(timedelta(days=DAYS), AS_OF)

pytestmark = pytest.mark.usefixtures("mlflow_ready")


def orders(lacking: tuple[str, ...] = ()) -> pl.DataFrame:
    """Final versions of orders: most delivered, some cancelled, scheduled, slow beyond belief, or still under way."""
    draw = np.random.default_rng(3)
    seconds = np.sort(draw.integers(0, DAYS * 86_400, COUNT))
    restaurant = draw.integers(0, 12, COUNT)
    distance = draw.gamma(2, 1.5, COUNT)
    minutes = 15 + restaurant + 2 * distance + draw.normal(0, 3, COUNT).clip(-9, 9)
    minutes[7] = 500.0
    number = pl.int_range(pl.len())
    placed = pl.col("placed_at")
    frame = pl.DataFrame(
        {
            "order_id": [f"o{place:05d}" for place in draw.permutation(COUNT)],
            "restaurant_id": [f"r{place}" for place in restaurant],
            "driver_id": [f"d{place}" for place in draw.integers(0, 20, COUNT)],
            "customer_id": [f"c{place}" for place in draw.integers(0, 200, COUNT)],
            "zone_id": [f"z{place % 3}" for place in restaurant],
            "placed_at": [SPAN.start + timedelta(seconds=int(second)) for second in seconds],
            "minutes": minutes,
            "distance_km": distance,
            "item_count": draw.integers(1, 6, COUNT),
            "order_value": draw.gamma(4, 6, COUNT).round(2),
            "promised_minutes": np.full(COUNT, 40.0),
        },
        schema_overrides={"placed_at": TIMESTAMP},
    ).with_columns(
        accepted_at=placed + pl.duration(minutes=2),
        picked_up_at=placed + pl.duration(minutes=9),
        delivered_at=placed + pl.duration(seconds=(pl.col("minutes") * 60).cast(pl.Int64)),
        cancelled_at=pl.lit(None, TIMESTAMP),
        is_asap=number % 10 != 0,
        status=pl.when(number % 17 == 5).then(pl.lit("cancelled")).otherwise(pl.lit("delivered")),
    )
    stamped = frame.with_columns(updated_at=pl.col("delivered_at"), known_at=pl.col("delivered_at"))
    return stamped.with_columns(pl.lit(None, LAKE_SCHEMA[name]).alias(name) for name in lacking)


@pytest.fixture
def own_definitions(settings, monkeypatch):
    """The definitions imported anew: they hold the data directory that the process had when they were imported."""
    for name in ("definitions", "entities", "on_demand", "services", "sources", "views"):
        monkeypatch.delitem(sys.modules, f"feature_repo.{name}", raising=False)
        monkeypatch.delattr(feature_repo, name, raising=False)


@pytest.fixture
def prepare(settings, own_definitions):
    """Puts orders into the lake, computes their features, registers the definitions."""
    from feature_repo import pipeline as features
    from feature_repo.store import apply

    def fill(frame: pl.DataFrame) -> None:
        known = frame.filter(pl.col("known_at") < SPAN.end)
        orders_table(settings).replace(SPAN, known.select(list(LAKE_SCHEMA)))
        features.compute_features(SPAN, settings)
        features.publish_features(SPAN, settings)
        apply(settings)

    return fill


def eligible(frame: pl.DataFrame, as_of: datetime) -> set[str]:
    """The population, said another way."""
    return {
        row["order_id"]
        for row in frame.iter_rows(named=True)
        if row["status"] == "delivered" and row["is_asap"] and row["known_at"] <= as_of and 1 <= row["minutes"] <= 180
    }


def test_the_population_is_what_could_have_been_predicted_and_is_known_by_now(prepare, settings, spec, monkeypatch):
    frame = orders()
    prepare(frame)
    as_of = AS_OF - timedelta(days=3)
    dataset, reused = build_dataset(as_of, settings, spec)
    rows = dataset.rows()
    assert not reused
    assert set(rows["order_id"]) == eligible(frame, as_of)
    assert rows["label_known_at"].max() <= as_of
    joined = rows.join(frame.select("order_id", "minutes"), on="order_id", validate="1:1")
    assert (joined["delivery_minutes"] - joined["minutes"]).abs().max() < 1 / 60
    assert dataset.description["order_partitions"][0]["path"].startswith("lake/orders/day=")
    assert build_dataset(as_of, settings, spec) == (dataset, True)

    monkeypatch.setenv("ETA_MARKET_ZONE", "Asia/Kolkata")  # the clock counts as an input, like the files
    get_settings.cache_clear()
    other, reused = build_dataset(as_of, get_settings(), spec)
    assert (reused, other.hash == dataset.hash) == (False, False)
    assert other.description["clock"] == {"zone": "Asia/Kolkata", "peak_hours": [11, 12, 13, 18, 19, 20]}
    placed_at = other.rows()["placed_at"].dt.epoch("us") / 1_000_000
    for name, values in calendar(placed_at, Clock.read(other.description["clock"])).items():
        np.testing.assert_array_equal(other.rows()[f"request_features__{name}"], values)  # to the bit
    calendars = [f"request_features__{name}" for name in CALENDAR]
    assert other.rows().drop(calendars).equals(rows.drop(calendars))


def test_the_request_is_what_it_was_at_placement_and_the_outcome_what_is_known_now(prepare, settings, spec):
    final = orders()
    unknown = ("driver_id", "accepted_at", "picked_up_at", "delivered_at")
    placed = final.with_columns(
        *(pl.lit(None, LAKE_SCHEMA[name]).alias(name) for name in unknown),
        status=pl.lit("placed"),
        updated_at=pl.col("placed_at"),
        known_at=pl.col("placed_at"),
    )
    corrected = final.with_columns(
        order_value=pl.lit(999.0), distance_km=pl.lit(99.0), promised_minutes=pl.col("minutes")
    )
    prepare(pl.concat([placed, corrected]))
    rows = build_dataset(AS_OF, settings, spec)[0].rows().join(final, on="order_id", suffix="_then")
    assert rows.height == len(eligible(final, AS_OF))
    assert (rows["order_value"] == rows["order_value_then"]).all()
    assert (rows["distance_km"] == rows["distance_km_then"]).all()
    assert (rows["driver_id"] == rows["driver_id_then"]).all()
    assert (rows["promised_minutes"] == 40.0).all()  # as it was told then, and not when all was over


def test_a_new_order_makes_a_new_data_set(prepare, settings, spec):
    prepare(orders().head(1400))
    first, _ = build_dataset(AS_OF, settings, spec)
    prepare(orders())
    second, reused = build_dataset(AS_OF, settings, spec)
    assert not reused
    assert second.hash != first.hash


AGAIN = """
import json, sys
from datetime import datetime
from config import get_settings
from training import pipeline
from training.models import get_spec

story = pipeline.run(datetime.fromisoformat(sys.argv[1]), get_settings(), get_spec("delivery_time"))
heavy = {"feast", "sklearn", "skl2onnx", "onnxruntime", "ibis"} & set(sys.modules)
print(json.dumps({"status": story["status"], "heavy": sorted(heavy)} | {
    name: part["reused"] for name, part in story.items() if isinstance(part, dict) and "reused" in part}))
"""


def test_a_rerun_in_another_process_finds_all_again_without_the_heavy_libraries(prepare, settings):
    prepare(orders())

    def run() -> dict:
        command = [sys.executable, "-c", AGAIN, AS_OF.isoformat()]
        return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])

    steps = ("dataset", "validation", "training", "evaluation", "registration")
    first, again = run(), run()
    assert {first[step] for step in steps} == {False}
    assert {again[step] for step in steps} == {True}
    assert (again["status"], again["heavy"]) == ("registered", [])
    last_day = max((settings.features / "zone_stats").glob("day=*/*.parquet"))
    pl.read_parquet(last_day, hive_partitioning=False).head(1).write_parquet(last_day)
    assert run()["dataset"] is False


def test_a_run_through_feast_ends_with_a_champion(prepare, settings, spec):
    prepare(orders())
    story = pipeline.run(AS_OF, settings, spec)
    assert story["status"] == "registered", story
    assert story["evaluation"]["metrics"]["test_mae"] < story["evaluation"]["baselines"]["train_mean"]["test_mae"]
    dataset = pipeline.noted_dataset(AS_OF, settings, spec)
    rates = dataset.description["null_rates"]
    assert rates["restaurant_stats__delivery_minutes_mean_28d"] < 0.2
    assert rates["request_features__is_peak_hour"] == 0.0
    assert story["dataset"]["rows"] == len(eligible(orders(), AS_OF))


def test_a_source_that_lacks_columns_still_runs_and_lists_the_features(prepare, settings, spec):
    prepare(orders(lacking=("distance_km", "driver_id", "promised_minutes")))
    dataset, _ = build_dataset(AS_OF, settings, spec)
    verdict = check_dataset(dataset, spec)
    assert not verdict["stopped"], verdict["failures"]
    assert {"distance_km", "driver_stats__delivery_minutes_mean_28d"} <= set(verdict["absent_in_source"])
    assert "order_value" not in verdict["absent_in_source"]
    assert pipeline.run(AS_OF, settings, spec)["status"] == "registered"


def test_features_that_were_never_computed_stop_the_run(prepare, settings, spec):
    prepare(orders())
    shutil.rmtree(settings.features / "restaurant_stats")
    dataset, _ = build_dataset(AS_OF, settings, spec)
    verdict = check_dataset(dataset, spec)
    assert verdict["stopped"]
    assert any("restaurant_stats__order_count_7d has no value on any row" in text for text in verdict["failures"])


def test_an_empty_population_says_what_to_do(prepare, settings, spec):
    prepare(orders())
    with pytest.raises(EmptyPopulation, match="bring in orders of this window"):
        build_dataset(AS_OF - timedelta(days=200), settings, spec)


def test_a_store_that_loses_a_row_is_refused(prepare, settings, spec, monkeypatch):
    from feast import FeatureStore

    prepare(orders())
    real = FeatureStore.get_historical_features

    class Shorter:
        def __init__(self, job):
            self.job = job

        def to_df(self):
            return self.job.to_df().iloc[1:]

    monkeypatch.setattr(FeatureStore, "get_historical_features", lambda *a, **k: Shorter(real(*a, **k)))
    with pytest.raises(RowsChanged, match=r"1\d\d\d rows went into the historical retrieval, 1\d\d\d came back"):
        build_dataset(AS_OF, settings, spec)

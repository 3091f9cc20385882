"""Batch scoring through the real feature store: the same answers as online, once per window."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from config import Settings, get_settings
from feature_repo.lake import TIMESTAMP, PartitionedTable
from feature_repo.orders.schema import LAKE_SCHEMA, orders_table
from feature_repo.transforms.request_time import calendar
from feature_repo.window import DAY, Window
from serving import batch
from serving.bundle import Bundle
from serving.errors import BundleError, NoChampion
from serving.lookup import StoreLookup
from serving.prediction_log import read_predictions
from serving.predictor import Order, Predictor
from serving.service import Asked, Service
from serving.wire import at_once
from tests.serving.conftest import NAMES, NOON, ROOT, BundleMaker

MIDNIGHT = NOON.replace(hour=0)
TODAY = Window(MIDNIGHT, MIDNIGHT + DAY)
DTYPES = {"int64": pl.Int64(), "float64": pl.Float64(), "string": pl.String()}
VALUES = {
    "restaurant_stats": {"order_count_7d": 40, "delivery_minutes_mean_28d": 30.5, "order_value_mean_28d": 20.0},
    "driver_stats": {"delivery_minutes_mean_28d": 28.0},
    "customer_stats": {},
    "zone_stats": {"open_order_count": 12},
    "zone_live": {},
}
"""What `fill_store` puts into Redis, for the offline store."""


def order(order_id: str, minutes: int, **values: object) -> dict:
    """A version of an order of restaurant r1 that was known when it was placed, `minutes` after noon."""
    placed = NOON + timedelta(minutes=minutes)
    row: dict = dict.fromkeys(LAKE_SCHEMA) | {"order_id": order_id, "restaurant_id": "r1", "zone_id": "z1"}
    row |= {"placed_at": placed, "updated_at": placed, "known_at": placed, "status": "placed", "is_asap": True}
    return row | {"distance_km": 2.0, "item_count": 3, "order_value": 30.0} | values


ORDERS = [
    order("o1", 0),
    order("o2", 10, driver_id="d1", accepted_at=NOON + timedelta(minutes=14), status="accepted"),
    order("o3", 20, driver_id="d1", accepted_at=NOON + timedelta(minutes=20), status="accepted", zone_id=None),
    order("o4", 30, restaurant_id="unknown", distance_km=None, order_value=None),
    order("cancelled", 40, status="cancelled"),
    order("scheduled", 50, is_asap=False),
    order("tomorrow", 24 * 60),
]


@pytest.fixture(scope="module")
def applied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory whose feature store has been applied, which takes seconds."""
    directory = tmp_path_factory.mktemp("installation")
    # In a process of its own: the definitions read the settings once, when they are imported.
    command = [sys.executable, "-m", "feature_repo", "apply"]
    variables = {**os.environ, "ETA_DATA_DIR": str(directory)}
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return directory


@pytest.fixture
def installation(
    applied: Path, store: str, settings: Settings, bundle_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> Settings:
    """A lake with orders and feature rows as of noon, an applied feature store, a champion, and no predictions."""
    monkeypatch.setenv("ETA_DATA_DIR", str(applied))
    monkeypatch.setenv("ETA_MODEL_DIR", str(bundle_dir))
    get_settings.cache_clear()
    here = get_settings()
    shutil.rmtree(here.predictions, ignore_errors=True)
    rows = pl.DataFrame(ORDERS, schema=LAKE_SCHEMA)
    orders_table(here).replace(Window(MIDNIGHT, MIDNIGHT + 2 * DAY), rows)
    write_features(here)
    return here


def write_features(settings: Settings) -> None:
    """One row as of noon, online since noon, per view."""
    from feature_repo import catalog

    for view in catalog.batch_views():
        kinds = {field.name: DTYPES[field.dtype.lower()] for field in view.fields}
        schema = {view.join_key: pl.String(), "event_timestamp": TIMESTAMP, "created": TIMESTAMP, **kinds}
        row = dict.fromkeys(schema) | {view.join_key: f"{view.join_key[0]}1", "event_timestamp": NOON, "created": NOON}
        frame = pl.DataFrame([row | VALUES[view.name]], schema=schema)
        PartitionedTable(settings.features / view.name, "event_timestamp", schema, [view.join_key]).replace(
            TODAY, frame
        )


def test_each_order_of_the_window_is_scored_once_and_as_online(installation: Settings, bundle_dir: Path):
    found = batch.score(TODAY, installation)

    assert (found["rows"], found["outside_population"]) == (4, 1)
    assert found["file"] == f"lake/predictions/day=2026-05-02/batch-delivery_time-{TODAY.slug}.parquet"
    assert found["null_rates"]["distance_km"] == 0.25
    assert found["null_rates"]["restaurant_stats__order_count_7d"] == 0.25
    assert found["null_rates"]["driver_stats__delivery_minutes_mean_28d"] == 0.75
    logged = read_predictions(installation, TODAY)
    assert logged["order_id"].to_list() == ["o1", "o2", "o3", "o4"]
    assert logged["driver_id"].to_list() == [None, None, "d1", None]
    bundle = Bundle.load(bundle_dir)
    predictor = Predictor(bundle, StoreLookup(installation).for_bundle(bundle))
    keys = ["restaurant_id", "placed_at", "driver_id", "zone_id"]
    asked = [row | {"order_id": None} for row in logged.select(keys).to_dicts()]
    request = [{"distance_km": 2.0, "item_count": 3, "order_value": 30.0}] * 3 + [{"item_count": 3}]
    orders = [Order(**row, **extra) for row, extra in zip(asked, request, strict=True)]
    online = at_once(predictor.predict(orders))
    inputs = [list(json.loads(text).values()) for text in logged["inputs"]]
    np.testing.assert_allclose(np.array(inputs, dtype=float), online.inputs, atol=1e-12)
    np.testing.assert_allclose(logged["delivery_minutes"].to_numpy(), online.estimates.minutes, atol=1e-6)
    np.testing.assert_allclose(logged["p90_minutes"].to_numpy(), online.estimates.p90, atol=1e-6)


def test_batch_scoring_names_hours_by_the_model_s_clock_whatever_the_installation_s_is(
    installation: Settings, make_bundle: BundleMaker
):
    bundle = Bundle.load(make_bundle(clock={"zone": "Asia/Kolkata", "peak_hours": [17]}))
    orders = batch.orders_to_score(TODAY, installation)
    inputs = batch.historical_inputs(orders, bundle, installation)

    expected = calendar([placed.timestamp() for placed in orders["placed_at"]], bundle.clock)
    for name in ("hour_of_day_cos", "is_peak_hour"):
        np.testing.assert_array_equal(inputs[:, NAMES.index(f"request_features__{name}")], expected[name])
    # Placed at 12:00, 12:10, 12:20, 12:30 and 12:50 UTC: half past five and later there.
    assert inputs[:, NAMES.index("request_features__is_peak_hour")].tolist() == [1, 1, 1, 0, 0]


def test_orders_that_the_model_may_have_learnt_from_are_marked_as_such(
    installation: Settings, make_bundle: BundleMaker, monkeypatch: pytest.MonkeyPatch
):
    placed = sorted(batch.orders_to_score(TODAY, installation)["placed_at"])
    monkeypatch.setenv("ETA_MODEL_DIR", str(make_bundle(trained_until=placed[2].isoformat())))
    get_settings.cache_clear()
    learnt = get_settings()

    assert batch.score(TODAY, learnt)["rows"] == 4

    logged = read_predictions(learnt, TODAY).sort("placed_at")
    assert logged["variant"].to_list() == ["in sample", "in sample", "champion", "champion"]
    assert logged["order_id"].n_unique() == logged["prediction_id"].n_unique() == 4


def answered_online(settings: Settings) -> None:
    """Ask a service about the orders that a batch scores, as each was known when it was placed, and let it log."""
    service = Service(settings, clock=lambda: NOON + timedelta(minutes=45))
    service.start()
    for row in batch.orders_to_score(TODAY, settings).filter("is_asap").iter_rows(named=True):
        at_once(service.predict([Order(**row)], [Asked("r", 0.0)]))
    service.stop()


def test_online_and_batch_rows_of_the_log_agree_and_are_of_one_schema(installation: Settings):
    answered_online(installation)
    batch.score(TODAY, installation)

    logged = read_predictions(installation, TODAY)

    parts = [logged.filter(source=source).sort("order_id") for source in ("online", "batch")]
    assert [part.height for part in parts] == [4, 4]
    online, scored = parts
    for column in ("order_id", "placed_at", "model_version", "variant", "restaurant_id", "driver_id", "statuses"):
        assert online[column].to_list() == scored[column].to_list()
    for column in ("delivery_minutes", "p10_minutes", "p90_minutes"):
        np.testing.assert_allclose(online[column], scored[column], atol=1e-6)
    values = [[list(json.loads(text).values()) for text in part["inputs"]] for part in parts]
    np.testing.assert_allclose(np.array(values[0], dtype=float), np.array(values[1], dtype=float), atol=1e-12)


def test_the_log_is_a_source_of_feast(installation: Settings, tmp_path: Path):
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
    from feast.types import Float64, String

    answered_online(installation)
    batch.score(TODAY, installation)
    (tmp_path / "feature_store.yaml").write_text(
        f"project: skew\nprovider: local\nregistry: {tmp_path}/registry.db\nentity_key_serialization_version: 3\n"
        "offline_store: {type: feature_repo.stores.asof.AsOfOfflineStore}\n"
    )
    store = FeatureStore(repo_path=str(tmp_path))
    order_entity = Entity(name="order", join_keys=["order_id"], value_type=ValueType.STRING)
    source = FileSource(name="log", path=str(installation.predictions), timestamp_field="predicted_at")
    fields = [
        Field(name="delivery_minutes", dtype=Float64),
        *(Field(name=n, dtype=String) for n in ("source", "inputs")),
    ]
    store.apply([order_entity, FeatureView(name="prediction", entities=[order_entity], schema=fields, source=source)])
    instants = [NOON + timedelta(minutes=30), NOON + timedelta(hours=1), TODAY.end + timedelta(hours=1)]
    asked = pl.DataFrame({"order_id": ["o1"] * 3, "event_timestamp": instants}).to_pandas()

    names = [f"prediction:{field.name}" for field in fields]
    found = store.get_historical_features(asked, names).to_df()

    assert found["source"].tolist()[1:] == ["online", "batch"]
    assert found["source"].isna().tolist() == [True, False, False]
    logged = read_predictions(installation, TODAY).filter(order_id="o1").sort("predicted_at")
    assert found["delivery_minutes"].tolist()[1:] == logged["delivery_minutes"].to_list()
    assert found["inputs"].tolist()[1:] == logged["inputs"].to_list()


def test_a_batch_row_is_logged_with_every_value_and_scoring_again_changes_nothing(installation: Settings):
    first = batch.score(TODAY, installation)
    logged = read_predictions(installation, TODAY)
    again = batch.score(TODAY, installation)

    assert again == first
    assert read_predictions(installation, TODAY).equals(logged)
    assert len(list(installation.predictions.rglob("*.parquet"))) == 1
    row = logged.row(0, named=True)
    assert list(json.loads(row.pop("inputs"))) == NAMES
    assert json.loads(row.pop("statuses"))["driver_stats__delivery_minutes_mean_28d"] == "missing"
    assert len(row.pop("prediction_id")) == 32
    minutes = row.pop("delivery_minutes")
    assert row == {
        "order_id": "o1",
        "placed_at": NOON,
        "predicted_at": TODAY.end,
        "model_name": "delivery_time",
        "model_version": first["model_version"],
        "variant": "champion",
        "source": "batch",
        "status": "ok",
        "p10_minutes": pytest.approx(minutes - 6),
        "p90_minutes": pytest.approx(minutes + 9),
        "latency_ms": None,
        "restaurant_id": "r1",
        "driver_id": None,
        "customer_id": None,
        "zone_id": "z1",
        "event_times": '{"restaurant_stats":null,"driver_stats":null,"zone_stats":null}',
        "reasons": "[]",
        "request": '{"distance_km":2.0,"item_count":3,"order_value":30.0,"promised_minutes":null,"is_asap":true}',
        "caller": None,
        "request_id": None,
    }


def test_a_window_without_orders_leaves_no_rows_of_an_earlier_run(installation: Settings):
    batch.score(TODAY, installation)
    orders_table(installation).replace(TODAY, pl.DataFrame(schema=LAKE_SCHEMA))

    found = batch.score(TODAY, installation)

    assert (found["rows"], found["file"]) == (0, None)
    assert read_predictions(installation, TODAY).is_empty()


def test_a_service_that_lost_an_input_is_named(installation: Settings, make_bundle: BundleMaker):
    changed = make_bundle(feature_service="customer_churn_v1")
    other = installation.model_copy(update={"model_dir_override": changed})
    orders = batch.orders_to_score(TODAY, other)

    with pytest.raises(BundleError, match=r"customer_churn_v1 no longer gives \['restaurant_stats__order_count_7d'"):
        batch.historical_inputs(orders, Bundle.load(changed), installation)


def test_without_a_champion_scoring_says_what_to_do(settings: Settings, tmp_path: Path):
    with pytest.raises(
        NoChampion, match=r"no version of the model delivery_time .* Train and promote a model: make train"
    ):
        batch.score(TODAY, settings)
    with pytest.raises(NoChampion, match="make train"):
        batch.score(TODAY, settings.model_copy(update={"model_dir_override": tmp_path}))


def test_the_command_line_reports_errors_in_one_line(
    settings: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setenv("ETA_MODEL_DIR", str(tmp_path))
    get_settings.cache_clear()

    assert batch.main(["2026-05-01T00:00+00:00", "2026-05-02T00:00+00:00"]) == 1
    assert capsys.readouterr().err == (
        f"batch scoring: the model directory {tmp_path} has no bundle.json. Train and promote a model: make train\n"
    )
    assert batch.main(["2026-05-01", "2026-05-02"]) == 1
    assert "has no time zone" in capsys.readouterr().err


def test_a_champion_in_a_database_is_found_through_mlflow(settings: Settings, bundle_dir: Path, tmp_path: Path):
    from mlflow import MlflowClient

    uri = settings.mlflow_tracking_uri
    client = MlflowClient(uri, uri)
    run = client.create_run(client.create_experiment("e", artifact_location=(tmp_path / "artifacts").as_uri()))
    client.log_artifacts(run.info.run_id, str(bundle_dir), "serving")
    client.create_registered_model("delivery_time")
    version = client.create_model_version("delivery_time", f"{run.info.artifact_uri}/serving", run.info.run_id)
    client.set_registered_model_alias("delivery_time", "champion", version.version)

    ref, bundle = batch.champion(settings)

    assert (ref.version, ref.source) == ("1", f"{run.info.artifact_uri}/serving")
    assert bundle.input_names == tuple(NAMES)

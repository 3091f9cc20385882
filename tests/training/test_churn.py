"""The classifier: who is asked about, what has become of them, and gates that fail a coin."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest

from feature_repo.orders.schema import LAKE_SCHEMA, orders_table
from feature_repo.window import Window
from tests.training.conftest import AS_OF, description
from training import pipeline
from training.checks import check_dataset
from training.dataset import build_dataset, store_dataset
from training.errors import DatasetError, EmptyPopulation, GatesNotPassed
from training.export import OnnxModel
from training.models import get_spec
from training.registry import ModelRegistry
from training.split import split_by_time

pytestmark = pytest.mark.usefixtures("mlflow_ready")

SPEC = replace(get_spec("customer_churn"), candidates=({"max_leaf_nodes": 8, "max_iter": 60},))
LATENESS = timedelta(hours=72)


def lake_orders(days: int = 110, count: int = 900) -> pl.DataFrame:
    """First and final versions of orders of 60 customers; a fifth reaches us up to three days after its placing."""
    draw = np.random.default_rng(4)
    start = AS_OF - timedelta(days=days)
    placed = [start + timedelta(seconds=int(second)) for second in np.sort(draw.integers(0, days * 86_400, count))]
    late = np.where(draw.random(count) < 0.2, draw.integers(0, 71, count), 0)
    frame = pl.DataFrame(
        {
            "order_id": [f"o{number:05d}" for number in range(count)],
            "customer_id": [f"c{int(60 * share**3)}" for share in draw.random(count)],
            "zone_id": [f"z{number % 3}" for number in range(count)],
            "restaurant_id": ["r1"] * count,
            "placed_at": placed,
            "known_at": [at + timedelta(hours=int(hours)) for at, hours in zip(placed, late, strict=True)],
            "order_value": draw.gamma(4, 6, count).round(2),
        },
        schema_overrides={"placed_at": LAKE_SCHEMA["placed_at"], "known_at": LAKE_SCHEMA["known_at"]},
    ).with_columns(status=pl.lit("placed"), updated_at=pl.col("placed_at"), is_asap=pl.lit(True))
    final = frame.with_columns(
        status=pl.lit("cancelled"),
        updated_at=pl.col("placed_at") + pl.duration(minutes=30),
        known_at=pl.col("known_at") + pl.duration(minutes=30),
    )
    both = pl.concat([frame, final]).with_columns(
        pl.lit(None, kind).alias(name) for name, kind in LAKE_SCHEMA.items() if name not in frame.columns
    )
    return both.select(list(LAKE_SCHEMA)).filter(pl.col("known_at") < AS_OF)


def fill_lake(settings, frame: pl.DataFrame) -> Window:
    span = Window(AS_OF - timedelta(days=110), AS_OF)
    orders_table(settings).replace(span, frame)
    return span


def expected(frame: pl.DataFrame, as_of: datetime) -> dict[str, float]:
    """The population and its labels, said another way: order by order, customer by customer."""
    orders = [row for row in frame.iter_rows(named=True) if row["status"] == "placed"]
    month, begin = timedelta(days=30), min(row["placed_at"] for row in orders)
    found: dict[str, float] = {}
    for number in range(200):
        instant = AS_OF - timedelta(days=200 - number) + timedelta(hours=6)
        if instant.weekday() != 0 or instant < begin + month or instant + month + LATENESS > as_of:
            continue
        for customer in {row["customer_id"] for row in orders}:
            own = [row for row in orders if row["customer_id"] == customer]
            if any(instant - month <= row["placed_at"] < instant and row["known_at"] <= instant for row in own):
                came = any(instant <= row["placed_at"] < instant + month and row["known_at"] <= as_of for row in own)
                found[f"{customer}@{instant:%Y-%m-%d}"] = 0.0 if came else 1.0
    return found


@pytest.mark.parametrize("as_of", [AS_OF, AS_OF - timedelta(days=9, hours=5)])
def test_population_and_label_are_those_of_a_brute_force_search(settings, as_of):
    frame = lake_orders()
    fill_lake(settings, frame)
    asked = Window(as_of.replace(minute=0) - timedelta(days=365), as_of.replace(minute=0))
    rows = SPEC.population(asked, as_of, settings).collect()
    labels = dict(zip(rows["row_id"], rows["churned"], strict=True))
    assert labels == expected(frame, as_of)
    assert len(labels) > 100
    assert 0.1 < np.mean(list(labels.values())) < 0.9
    assert rows["label_known_at"].max() <= as_of


def test_the_population_does_not_change_when_the_future_does(settings):
    asked = Window(AS_OF - timedelta(days=110), AS_OF)
    fill_lake(settings, lake_orders())
    until = AS_OF - timedelta(days=40)
    before = SPEC.population(asked, AS_OF, settings).collect().filter(pl.col("asked_at") <= until)
    fill_lake(settings, lake_orders().filter(pl.col("known_at") <= until))
    after = SPEC.population(asked, AS_OF, settings).collect().filter(pl.col("asked_at") <= until)
    assert set(before["row_id"]) == set(after["row_id"])
    assert after["churned"].mean() > before["churned"].mean()


def test_without_customers_or_without_a_month_of_history_there_is_no_row(settings):
    asked = Window(AS_OF - timedelta(days=110), AS_OF)
    fill_lake(settings, lake_orders().with_columns(pl.lit(None, pl.String).alias("customer_id")))
    assert SPEC.population(asked, AS_OF, settings).collect().is_empty()
    fill_lake(settings, lake_orders(days=20, count=100))
    with pytest.raises(EmptyPopulation, match=r"no row in .* has a label that is known at"):
        build_dataset(AS_OF, settings, SPEC)


def churn_rows(count: int = 6000, days: int = 300, known: bool = True) -> pl.DataFrame:
    """Weekly rows whose odds of churning grow with the days since the last order."""
    draw = np.random.default_rng(8)
    weeks = draw.integers(0, days // 7, count)
    asked = [AS_OF - timedelta(days=33 + 7 * int(week)) for week in weeks]
    since, orders = draw.uniform(0, 30, count), draw.integers(1, 12, count).astype(float)
    odds = (since - 15) / 5 - (orders - 5) / 3 if known else np.zeros(count)
    churned = (draw.random(count) < 1 / (1 + np.exp(-odds))).astype(float)
    return pl.DataFrame(
        {
            "row_id": [f"c{number:05d}" for number in range(count)],
            "asked_at": asked,
            "zone_id": [f"z{number % 3}" for number in range(count)],
            "customer_stats__order_count_30d": orders,
            "customer_stats__days_since_last_order": since,
            "churned": churned,
        },
        schema_overrides={"asked_at": pl.Datetime("us", "UTC")},
    ).with_columns(label_known_at=pl.col("asked_at") + pl.duration(days=33))


@pytest.fixture
def stored_churn(settings):
    def store(rows: pl.DataFrame):
        names = ("order_count_30d", "days_since_last_order")
        inputs = [
            {"name": f"customer_stats__{name}", "source": "view", "view": "customer_stats", "feature": name}
            | {"dtype": "Float64", "unit": "", "minimum": None, "maximum": None}
            for name in names
        ]
        views = [{"name": "customer_stats", "join_key": "customer_id", "ttl_seconds": 1, "features": list(names)}]
        described = description(model="customer_churn", inputs=inputs, views=views)
        dataset = store_dataset(rows, described, settings.datasets, SPEC)
        pipeline.note_dataset(AS_OF, settings, SPEC, dataset)
        return dataset

    return store


def test_the_parts_are_a_horizon_apart(stored_churn):
    split = split_by_time(stored_churn(churn_rows()).rows(), SPEC)
    horizon = timedelta(days=33)
    assert split.train["asked_at"].max() + horizon <= split.validation["asked_at"].min()
    assert split.validation["asked_at"].max() + horizon <= split.test["asked_at"].min()
    assert split.gap["train"] > 0
    assert min(part.height for part in split.parts().values()) > 200


def test_a_history_shorter_than_two_horizons_says_how_long_it_must_be(stored_churn):
    short = stored_churn(churn_rows(days=60))
    with pytest.raises(
        DatasetError, match=r"decided 33 days after .* span 49 days, more than 66 are needed: bring in more history"
    ):
        split_by_time(short.rows(), SPEC)
    verdict = check_dataset(short, SPEC)
    assert verdict["stopped"]
    assert "bring in more history" in verdict["failures"][0]


def test_one_class_only_stops_the_run(stored_churn):
    one = stored_churn(churn_rows().with_columns(churned=pl.lit(1.0)))
    assert "churned is 1.0 on every row: nothing can be learnt" in check_dataset(one, SPEC)["failures"][0]
    recent = pl.when(pl.col("asked_at") > AS_OF - timedelta(days=90)).then(0.0).otherwise("churned")
    (failure,) = check_dataset(stored_churn(churn_rows().with_columns(churned=recent)), SPEC)["failures"]
    assert failure.startswith("churned is 0 on every one of the")
    assert "test rows: a classifier needs both classes" in failure


def test_a_classifier_goes_the_whole_way_and_its_onnx_answers_probabilities(stored_churn, settings):
    dataset = stored_churn(churn_rows())
    assert not check_dataset(dataset, SPEC)["stopped"]
    pipeline.train(AS_OF, settings, SPEC)
    evaluation = pipeline.evaluate(AS_OF, settings, SPEC)
    assert evaluation["passed"], [gate for gate in evaluation["gates"] if not gate["passed"]]
    wanted = {"log_loss", "accuracy", "precision", "recall", "f1", "roc_auc", "brier", "ece"}
    assert {name.removeprefix("test_") for name in evaluation["metrics"] if name.startswith("test_")} == wanted
    assert evaluation["interval"] is None
    version = pipeline.register(AS_OF, settings, SPEC)["version"]
    registry = ModelRegistry(settings, "customer_churn")
    bundle = registry.fetch_bundle(registry.version(version), settings.data_dir / "fetched")
    model = OnnxModel((bundle / "model.onnx").read_bytes())
    likely, unlikely = model.predict(np.array([[1, 29], [11, 1]], np.float32))
    assert 0 <= unlikely < 0.2 < 0.8 < likely <= 1
    assert registry.champion().tags["primary_metric"] == "log_loss"


def test_a_coin_is_rejected_with_the_reason(stored_churn, settings):
    stored_churn(churn_rows(known=False))
    pipeline.train(AS_OF, settings, SPEC)
    failed = {
        gate["name"]: gate["reason"] for gate in pipeline.evaluate(AS_OF, settings, SPEC)["gates"] if not gate["passed"]
    }
    assert "ranks them rightly with probability 0." in failed["validation_roc_auc"]
    with pytest.raises(GatesNotPassed, match="validation_roc_auc: "):
        pipeline.register(AS_OF, settings, SPEC)


def test_a_model_whose_probabilities_are_wrong_is_rejected(stored_churn, settings):
    cutoff = AS_OF - timedelta(days=150)
    drifted = churn_rows().with_columns(
        churned=pl.when(pl.col("asked_at") > cutoff, pl.int_range(pl.len()) % 2 == 0).then(1.0).otherwise("churned")
    )
    stored_churn(drifted)
    pipeline.train(AS_OF, settings, SPEC)
    gates = {gate["name"]: gate for gate in pipeline.evaluate(AS_OF, settings, SPEC)["gates"]}
    assert not gates["calibration_error"]["passed"]
    assert "predicted probabilities and observed shares are 0." in gates["calibration_error"]["reason"]

"""Orders without customers, drivers, zones or anything but the least: from the file to the summary, room by room."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from config import Settings
from feature_repo import pipeline
from feature_repo.absence import input_losses, views_without_rows
from feature_repo.orders.columns import absent_columns
from feature_repo.orders.mapping import bring_in
from feature_repo.store import apply
from feature_repo.transforms.views import TRANSFORMS
from feature_repo.window import Window
from stack.summary import summary
from stack.walkthrough import Story, _feature_rows
from training.checks import check_dataset
from training.dataset import build_dataset
from training.models import get_spec
from training.pipeline import run
from training.split import split_by_time
from training.train import fit

SPAN = Window(datetime(2026, 4, 1, tzinfo=UTC), datetime(2026, 4, 6, tzinfo=UTC))
ORDERS = 400
LEAST = ("order_id", "restaurant_id", "placed_at", "delivered_at")
LATER = ("driver_id", "accepted_at", "picked_up_at", "delivered_at", "cancelled_at")


def orders() -> list[dict[str, Any]]:
    """Five days of orders with every column; each eleventh was cancelled before it was accepted."""
    dice = random.Random(5)
    rows = []
    for number in range(ORDERS):
        placed = SPAN.start + (SPAN.end - SPAN.start - timedelta(hours=2)) * number / ORDERS
        minutes = {"accepted_at": 2, "picked_up_at": dice.randint(6, 15), "delivered_at": dice.randint(18, 70)}
        times = {name: f"{placed + timedelta(minutes=after):%Y-%m-%dT%H:%M:%SZ}" for name, after in minutes.items()}
        cancelled = dict.fromkeys(minutes) | {"cancelled_at": times["accepted_at"]}
        ids = {
            key: f"{key[0]}{dice.randint(1, count)}"
            for key, count in (("restaurant_id", 4), ("driver_id", 5), ("customer_id", 30), ("zone_id", 2))
        }
        numbers = {
            "distance_km": dice.uniform(1, 6),
            "item_count": dice.randint(1, 5),
            "order_value": dice.uniform(9, 50),
            "promised_minutes": 45,
        }
        row = {"order_id": f"o{number}", "placed_at": f"{placed:%Y-%m-%dT%H:%M:%SZ}", "cancelled_at": None} | ids
        rows.append(row | numbers | (cancelled if number % 11 == 3 else times))
    return rows


def land(columns: Sequence[str], settings: Settings, tmp_path: Path) -> Window:
    """Bring in a file of these columns, each order known when placed and when ended; return the hours covered."""
    pl.DataFrame(orders()).select(columns).write_csv(tmp_path / "mine.csv")
    unknown = [name for name in LATER if name in columns]
    ended = "coalesce(delivered_at, cancelled_at)" if "cancelled_at" in columns else "delivered_at"
    mapping = {
        "name": "mine",
        "read": {"format": "csv"},
        "columns": {name: name for name in columns},
        "versions": [
            {"name": "placed", "unknown": unknown, "columns": {"status": "'placed'", "updated_at": "placed_at"}},
            {"name": "ended", "where": f"{ended} IS NOT NULL"},
        ],
    }
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(mapping))
    report = bring_in(str(tmp_path / "mine.csv"), tmp_path / "mine.yaml", settings)
    return Window(SPAN.start, report.complete_until)


@pytest.fixture
def spec():
    quick = {"loss": "absolute_error", "learning_rate": 0.2, "max_leaf_nodes": 5, "max_iter": 20}
    model = get_spec("delivery_time")
    return replace(model, candidates=(quick,), limits=replace(model.limits, minimum_rows=100))


EVERYTHING = tuple(orders()[0])
LACKING = {
    "nothing": (),
    "customers and drivers": ("customer_id", "driver_id"),
    "zones": ("zone_id",),
    "acceptance, value and promise": ("accepted_at", "order_value", "promised_minutes"),
    "all but the least": tuple(name for name in EVERYTHING if name not in LEAST),
}


@pytest.mark.parametrize("lacking", LACKING.values(), ids=LACKING)
def test_a_source_that_lacks_columns_goes_all_the_way_and_is_told_what_it_loses(
    lacking: tuple[str, ...], settings: Settings, tmp_path: Path, spec
) -> None:
    span = land([name for name in EVERYTHING if name not in lacking], settings, tmp_path)
    assert set(absent_columns(settings)) == set(lacking)
    apply(settings)
    pipeline.backfill(span, settings)
    pipeline.materialize(Window.last(timedelta(days=1), span.end), settings)
    assert pipeline.audit_online(Window.last(timedelta(hours=1), span.end), settings)["passed"]

    rows = _feature_rows(settings)
    assert list(rows) == list(TRANSFORMS)
    assert {view for view, count in rows.items() if not count} == set(views_without_rows(lacking))

    dataset, _ = build_dataset(span.end, settings, spec)
    verdict = check_dataset(dataset, spec)
    assert not verdict["stopped"], verdict["failures"]
    rates = dataset.description["null_rates"]
    promised = list(input_losses(spec.feature_service, lacking).without_value)
    assert promised == verdict["absent_in_source"] == [name for name, rate in rates.items() if rate == 1]
    fit(split_by_time(dataset.rows(), spec), dataset, spec)

    told = summary(Story(features=rows, training={"status": "stopped", "validation": {"failures": ["x"]}}), settings)
    assert ("What the source does not have" in told) == bool(lacking)
    assert all(name in told for name in (*lacking, *promised))


def test_a_model_that_cannot_be_made_of_the_source_is_skipped_with_the_reason(
    settings: Settings, tmp_path: Path
) -> None:
    land(["order_id", "restaurant_id", "driver_id", "placed_at", "delivered_at"], settings, tmp_path)
    skipped = run(SPAN.end, settings, get_spec("customer_churn"))
    assert (skipped["status"], "dataset" in skipped) == ("skipped", False)
    assert "no model customer_churn for this source: it needs customer_id" in skipped["reason"]
    page = summary(Story(training={"status": "stopped", "validation": {"failures": []}}), settings)
    assert "customer_churn  no such model: it needs customer_id; its training is skipped" in page

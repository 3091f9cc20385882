"""The definitions are complete, agree with the transforms, and the Feast command line takes them once."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta

import numpy as np
import polars as pl
import pytest
from feast.types import Float64

from config import Settings, get_settings
from config.settings import ROOT
from feature_repo import definitions, views
from feature_repo.store import apply, feature_store
from feature_repo.transforms.spec import Measure, ViewTransform, count
from feature_repo.transforms.tables import DTYPES
from feature_repo.transforms.views import TRANSFORMS
from feature_repo.window import DAY, HOUR, MINUTE

ALL_FIELDS = [
    *((view.name, field) for view in definitions.BATCH_VIEWS for field in view.features),
    *((name, field) for name, fields in definitions.ON_DEMAND_FIELDS.items() for field in fields),
    *(("order_request", field) for field in definitions.order_request.schema),
]


@pytest.mark.parametrize(("view", "field"), ALL_FIELDS, ids=lambda value: getattr(value, "name", value))
def test_every_field_tells_its_unit_and_meaning(view, field):
    assert field.tags["unit"]
    assert field.tags["description"]


@pytest.mark.parametrize("view", definitions.BATCH_VIEWS, ids=lambda view: view.name)
def test_every_batch_view_tells_owner_grain_and_freshness_and_expires(view):
    assert {"owner", "grain", "freshness"} <= set(view.tags)
    transform = TRANSFORMS[view.name]
    assert view.ttl == transform.beat + (10 * MINUTE if transform.is_live else 2 * HOUR)
    assert view.batch_source.created_timestamp_column == "created"


@pytest.mark.parametrize("view", definitions.BATCH_VIEWS, ids=lambda view: view.name)
def test_a_transform_makes_exactly_the_fields_of_its_view(view):
    made = {name: str(DTYPES[feature.dtype]) for name, feature in TRANSFORMS[view.name].features.items()}
    assert made == {field.name: str(field.dtype) for field in view.features}
    assert TRANSFORMS[view.name].key == view.join_keys[0]


def test_a_live_value_never_outlives_its_time_to_live():
    for transform in TRANSFORMS.values():
        assert transform.heartbeat >= transform.windows[-1]


def test_a_heartbeat_shorter_than_a_window_is_refused():
    orders = count(Measure("orders", "placed"), 2 * DAY)
    with pytest.raises(ValueError, match="the heartbeat 1 day, 0:00:00 is shorter than window 2 days"):
        ViewTransform("some_stats", "zone_id", {"orders": orders}, heartbeat=DAY)


@pytest.mark.parametrize("what", ["beat", "heartbeat", "window"])
def test_a_span_that_is_not_a_number_of_steps_is_refused(what: str):
    spans = {"beat": DAY, "heartbeat": DAY, "window": HOUR} | {what: 90 * MINUTE}
    orders = count(Measure("orders", "placed"), spans.pop("window"))
    with pytest.raises(ValueError, match=f"the {what} 1:30:00 is not a number of full steps of 1:00:00"):
        ViewTransform("some_stats", "zone_id", {"orders": orders}, **spans)
    ViewTransform("some_stats", "zone_id", {"orders": orders}, **spans, step=30 * MINUTE)


def test_a_step_that_hours_are_not_made_of_is_refused():
    orders = count(Measure("orders", "placed"), DAY)
    with pytest.raises(ValueError, match="an hour is not a number of steps of 0:07:00"):
        ViewTransform("some_stats", "zone_id", {"orders": orders}, heartbeat=DAY, step=7 * MINUTE)


def test_a_window_that_is_not_whole_minutes_is_refused():
    with pytest.raises(ValueError, match="is not a number of full minutes"):
        count(Measure("orders", "placed"), MINUTE / 2)


def test_applying_twice_changes_nothing(settings: Settings):
    views = [*definitions.BATCH_VIEWS, *definitions.ON_DEMAND_VIEWS]
    counts = {"entities": len(definitions.ENTITIES), "views": len(views), "services": len(definitions.SERVICES)}
    assert apply(settings) == counts
    before = _registered(settings)
    apply(settings)
    assert _registered(settings) == before


def test_sources_are_those_of_the_settings_at_the_time(settings: Settings):
    apply(settings)
    for view in feature_store(settings).list_batch_feature_views():
        assert view.batch_source.path == str(settings.features / view.name)


def test_settings_that_are_not_the_process_s_are_refused(settings: Settings, tmp_path):
    with pytest.raises(ValueError, match="are not those of the process"):
        feature_store(Settings(data_dir=tmp_path / "elsewhere"))


def test_the_feast_command_line_plans_nothing_after_apply(settings: Settings):
    apply(settings)
    plan = _feast("plan")
    assert "No changes to registry" in plan
    assert "request_features" in _feast("on-demand-feature-views", "list")


def test_features_of_the_past_come_with_request_features(settings: Settings, monkeypatch):
    import pandas as pd

    from feature_repo import catalog
    from feature_repo.transforms.request_time import Clock, compute
    from feature_repo.transforms.tables import feature_table
    from feature_repo.window import Window, as_utc

    monkeypatch.setenv("ETA_MARKET_ZONE", "Asia/Kolkata")
    monkeypatch.setenv("ETA_PEAK_HOURS", "[17]")
    get_settings.cache_clear()
    settings = get_settings()
    apply(settings)
    noon = as_utc("2026-03-02T12:00+00:00")
    _write_restaurant_rows(feature_table(TRANSFORMS["restaurant_stats"], settings), Window(noon, noon + HOUR))
    placed = pd.to_datetime([noon + timedelta(minutes=11)] * 3 + [noon + timedelta(minutes=9)])
    entities = pd.DataFrame(
        {
            "order_id": ["a", "b", "c", "d"],
            "restaurant_id": ["known", "new", "worthless", "known"],
            "driver_id": None,
            "customer_id": "someone",
            "zone_id": "centre",
            "event_timestamp": placed,
            "placed_at": placed,
            "distance_km": [1.5, None, 2.0, 2.0],
            "item_count": pd.array([1, None, 3, 4], dtype="Int64"),
            "promised_minutes": [30.0, 35.0, None, 40.0],
            "order_value": [30.0, 30.0, 30.0, 30.0],
        }
    )
    store = feature_store(settings)
    service = store.get_feature_service("delivery_time_v1")
    answer = store.get_historical_features(entity_df=entities, features=service, full_feature_names=True).to_df()
    assert answer["order_id"].tolist() == ["a", "b", "c", "d"]
    ratios = answer["request_features__order_value_to_restaurant_mean"]
    assert ratios[0] == 1.5
    assert ratios[1:].isna().all()  # no row, a mean of zero, and a row that was not online yet
    seconds = [instant.timestamp() for instant in placed]
    clock = Clock("Asia/Kolkata", (17,))
    for name, expected in compute(seconds, entities["order_value"], [20.0, None, 0.0, None], clock).items():
        np.testing.assert_array_equal(answer[f"request_features__{name}"].to_numpy(), expected)  # to the bit
    assert answer["request_features__is_peak_hour"].tolist() == [1] * 4  # 17:41 there
    assert [one.name for one in catalog.model_inputs("delivery_time_v1") if one.name not in answer] == []


def _write_restaurant_rows(table, window) -> None:
    rows = pl.DataFrame({"restaurant_id": ["known", "worthless"], "order_value_mean_28d": [20.0, 0.0]})
    times = {"event_timestamp": pl.lit(window.start), "created": pl.lit(window.start + timedelta(minutes=10))}
    absent = [pl.lit(None).alias(name) for name in table.schema if name not in (*rows.columns, *times)]
    table.replace(window, rows.with_columns(*absent, **times).select(list(table.schema)).cast(dict(table.schema)))


def _registered(settings: Settings) -> list[object]:
    store = feature_store(settings)
    views = [*store.list_batch_feature_views(), *store.list_on_demand_feature_views(), *store.list_feature_services()]
    return sorted(views, key=lambda view: view.name)


def _feast(*arguments: str) -> str:
    command = [sys.executable, "-m", "feast.cli.cli", "-c", "feature_repo", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"at_mots": "order_count_7d"}, "there is no limit 'at_mots': did you mean at_most"),
        ({"min": 0}, "there is no limit 'min'"),
        ({"minimum": "0"}, "minimum is a number, not '0'"),
        ({"maximum": float("nan")}, "maximum is a number, not nan"),
        ({"implies": ""}, "implies is a text, not ''"),
    ],
)
def test_a_limit_that_would_never_be_checked_is_refused(limits, message):
    with pytest.raises(ValueError, match=f"rate: {message}"):
        views.field("rate", Float64, "share", "a rate", **limits)

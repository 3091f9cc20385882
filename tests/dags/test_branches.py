"""Every DAG run from start to end with `dag.test()`, each branch both ways; the rooms' functions are stand-ins."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.dags.runner import Scenario

REFUSED = {"rule": "ids_not_null", "severity": "stop", "reason": "40 % rejected"}
WARNED = {"rule": "row_count", "severity": "warn", "reason": "3 rows, usually 90"}
INVALID = {"view": "zone_stats", "rule": "range", "severity": "stop", "reason": "order_count_7d below 0"}
FEATURES = {
    "ingest_orders": {"rows": 10},
    "validate_orders": {"stopped": False, "failures": []},
    "quarantine_batch": {"rows": 10},
    "accept_orders": {"accepted": 10},
    "compute_features": {"rows": {}},
    "validate_features": {"stopped": False, "failures": []},
    "publish_features": {"rows": {}},
    "materialize": {"rows": {}},
    "audit_online": {"passed": True},
}
TRAINING = {
    "build_dataset": {"rows": 100},
    "validate_dataset": {"stopped": False, "failures": []},
    "train": {"run": "abc"},
    "evaluate": {"passed": True, "gates": []},
    "register": {"version": "1"},
    "reject": {},
}
MONITORING = {
    "join_outcomes": {"outcomes": 10},
    "drift_report": {"drifted": []},
    "verdict": {"action": "none", "reasons": ["all checks passed"], "window": "[w)"},
}
FAILED_GATE = {"name": "validation_mae", "passed": False, "reason": "9.1 is above 8.0"}


COMPUTED = "2026-05-02T02:00+00:00"


def feature(name: str, coverage: str | None = COMPUTED, landed: str | None = None, **changes: Any) -> Scenario:
    modules = {"_fill": "feature_repo.pipeline.runs"}  # which `close_gap`, that runs for real, calls
    results = {
        f"{modules.get(function, 'feature_repo.pipeline')}:{function}": result
        for function, result in {**FEATURES, **changes}.items()
    }
    return Scenario(name, "feature_pipeline", results, coverage=coverage, landed=landed)


def live(name: str, **changes: Any) -> Scenario:
    results = {"why_not": None, "follow": {"refreshed": 5, "left_out": 0}} | changes
    return Scenario(name, "live_features", {f"feature_repo.live:{name}": result for name, result in results.items()})


def first_day(name: str, dag: str) -> Scenario:
    """A run of an installation in which nothing has landed; nothing is a stand-in."""
    return Scenario(f"first day: {name}", dag)


def training(name: str, logical_date: str | None = "2026-05-02T03:30:00+00:00", **changes: Any) -> Scenario:
    results = {f"training.pipeline:{function}": result for function, result in {**TRAINING, **changes}.items()}
    return Scenario(name, "training_pipeline", results, logical_date, coverage=COMPUTED)


def monitoring(name: str, action: str, reason: str) -> Scenario:
    changed = {**MONITORING, "verdict": {"action": action, "reasons": [reason], "window": "[w)"}}
    results = {f"monitoring.pipeline:{function}": result for function, result in changed.items()}
    return Scenario(name, "monitoring", results, coverage=COMPUTED)


SCENARIOS = [
    # The first ones: the others note in the same data directory what has landed and been computed.
    first_day("features", "feature_pipeline"),
    first_day("training", "training_pipeline"),
    first_day("scoring", "batch_scoring"),
    first_day("monitoring", "monitoring"),
    feature("first day: orders land from now on", coverage=None, landed="2026-05-02T03:10+00:00"),
    feature("first day: a history has landed", coverage=None, landed="2026-01-02T10:20+00:00", _fill={"rows": 1}),
    feature("features: good"),
    feature("features: batch refused", validate_orders={"stopped": True, "failures": [WARNED, REFUSED]}),
    feature("features: warned", validate_orders={"stopped": False, "failures": [WARNED]}),
    feature("features: invalid", validate_features={"stopped": True, "failures": [INVALID]}),
    feature("features: stores differ", audit_online={"passed": False, "reasons": ["driver_stats: 3 mismatched"]}),
    feature("features: lake broken", accept_orders={"raise": "disk is full"}),
    feature("features: after downtime", coverage="2026-05-01T20:00+00:00", _fill={"rows": 1}),
    feature("features: gap refused", coverage="2026-05-01T20:00+00:00", _fill={"raise": "the orders were refused"}),
    live("live: good"),
    live("live: nothing to do", why_not="no hour has been computed yet"),
    live("live: failed", follow={"raise": "Redis does not answer"}),
    training("training: good"),
    training("training: asked for by an asset", logical_date=None),
    training("training: data refused", validate_dataset={"stopped": True, "failures": ["rows: 12 of 500"]}),
    training("training: rejected", evaluate={"passed": False, "gates": [FAILED_GATE]}),
    monitoring("monitoring: nothing", "none", "all checks passed"),
    monitoring("monitoring: alert", "alert", "not enough data: 0 predictions"),
    monitoring("monitoring: retrain", "retrain", "prediction has drifted"),
    Scenario("params: malformed", "feature_pipeline", conf={"start": "yesterday", "end": "today"}, retries=2),
    Scenario(
        "params: backwards", "monitoring", conf={"start": "2026-05-02T00:00Z", "end": "2026-05-01T00:00Z"}, retries=2
    ),
    Scenario("params: unknown", "live_features", conf={"as_off": "2026-05-02T00:00Z"}, retries=2),
    Scenario(
        "params: as of",
        "training_pipeline",
        {"training.pipeline:build_dataset": {"raise": "seen"}},
        conf={"as_of": "2026-04-30T12:00:00+02:00"},
        coverage=COMPUTED,
    ),
    Scenario("scoring: good", "batch_scoring", {"serving.batch:score": {"rows": 5}}, coverage=COMPUTED),
    Scenario(
        "scoring: no champion",
        "batch_scoring",
        {"serving.batch:score": {"raise": "no champion: make train"}},
        coverage=COMPUTED,
    ),
]


@pytest.fixture(scope="module")
def results(run_scenarios: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    return run_scenarios(SCENARIOS)


def states(result: dict[str, Any], *tasks: str) -> list[str]:
    return [result["tasks"][task] for task in tasks]


def called(result: dict[str, Any]) -> list[str]:
    return [function for function, _ in result["calls"]]


def only_alert(result: dict[str, Any]) -> dict[str, Any]:
    (alert,) = result["alerts"]
    return alert


def test_a_good_hour_goes_through_all_steps_in_order_and_publishes_features(results) -> None:
    result = results["features: good"]
    assert result["state"] == "success"
    assert called(result) == [function for function in FEATURES if function != "quarantine_batch"]
    assert states(result, "quarantine_batch", "alert_batch_refused") == ["skipped", "skipped"]
    assert (result["assets"], result["alerts"]) == (["delivery_eta_features"], [])


def test_all_steps_of_a_run_get_its_data_interval(results) -> None:
    windows = {argument for _, argument in results["features: good"]["calls"]}
    assert windows == {"[2026-05-02 02:00, 2026-05-02 03:00) UTC"}


def test_a_refused_batch_is_quarantined_alerted_and_red_and_touches_nothing_else(results) -> None:
    result = results["features: batch refused"]
    assert result["state"] == "failed"
    assert called(result) == ["ingest_orders", "validate_orders", "quarantine_batch"]
    assert states(result, "alert_batch_refused", "accept_orders", "publish_asset") == ["failed", "skipped", "skipped"]
    alert = only_alert(result)
    assert alert["severity"] == "error"
    assert "feature_pipeline.alert_batch_refused" in alert["title"]
    assert "now in quarantine: ids_not_null: 40 % rejected" in alert["body"]
    assert alert["context"]["dag"] == "feature_pipeline"
    assert result["assets"] == []


def test_a_warning_is_told_and_the_run_goes_on(results) -> None:
    result = results["features: warned"]
    assert (result["state"], result["assets"]) == ("success", ["delivery_eta_features"])
    alert = only_alert(result)
    assert (alert["severity"], alert["body"]) == ("warning", "row_count: 3 rows, usually 90")
    assert alert["title"].startswith("validate_orders of [2026-05-02 02:00")


def test_hours_that_no_run_has_computed_are_filled_first_and_told(results) -> None:
    result = results["features: after downtime"]
    assert result["state"] == "success"
    assert result["calls"][0] == ["_fill", "[2026-05-01 20:00, 2026-05-02 02:00) UTC"]
    assert called(result)[1] == "ingest_orders"
    assert only_alert(result)["severity"] == "info"
    assert "filled a gap: [2026-05-01 20:00" in only_alert(result)["title"]


def test_a_gap_that_cannot_be_filled_ends_red_before_anything_is_read(results) -> None:
    result = results["features: gap refused"]
    assert (result["state"], called(result)) == ("failed", ["_fill"])
    assert "the orders were refused" in result["alerts"][-1]["body"]


@pytest.mark.parametrize("name", ["features", "training", "scoring", "monitoring", "orders land from now on"])
def test_before_there_is_anything_runs_are_skipped_and_nobody_is_alarmed(results, name: str) -> None:
    result = results[f"first day: {name}"]
    assert result["state"] == "success"
    assert set(result["tasks"].values()) == {"skipped"}
    assert (result["alerts"], result["assets"], result["calls"]) == ([], [], [])


def test_the_first_hour_of_an_installation_computes_all_that_has_landed_and_tells(results) -> None:
    result = results["first day: a history has landed"]
    assert result["state"] == "success"
    assert result["calls"][0] == ["_fill", "[2026-01-02 10:00, 2026-05-02 02:00) UTC"]
    assert called(result)[1] == "ingest_orders"
    assert "filled a gap: [2026-01-02 10:00" in only_alert(result)["title"]


def test_features_outside_of_their_definitions_are_not_published(results) -> None:
    result = results["features: invalid"]
    assert result["state"] == "failed"
    assert called(result)[-1] == "validate_features"
    assert states(result, "publish_features", "materialize") == ["upstream_failed", "upstream_failed"]
    assert "zone_stats: range: order_count_7d below 0" in only_alert(result)["body"]


def test_stores_that_differ_are_told_and_no_asset_is_published(results) -> None:
    result = results["features: stores differ"]
    assert (result["state"], result["assets"]) == ("failed", [])
    assert "driver_stats: 3 mismatched" in only_alert(result)["body"]


def test_an_error_in_a_step_is_told_with_its_message(results) -> None:
    result = results["features: lake broken"]
    assert result["state"] == "failed"
    assert "disk is full" in only_alert(result)["body"]


def test_live_values_are_refreshed_for_ten_minutes_of_the_present_whatever_run_it_is(results) -> None:
    found = results["live: good"]
    assert states(found, "refresh") == ["success"]
    assert called(found) == ["why_not", "follow"]
    begin, until = (datetime.fromisoformat(argument) for _, argument in found["calls"])
    assert until - begin == timedelta(minutes=10)
    assert timedelta() <= datetime.now(UTC) - begin < timedelta(hours=1)  # and not in the run's interval of months ago


def test_live_values_are_not_refreshed_where_there_is_nothing_to_do(results) -> None:
    found = results["live: nothing to do"]
    assert states(found, "refresh") == ["skipped"]
    assert called(found) == ["why_not"]


def test_live_values_that_cannot_be_refreshed_are_told(results) -> None:
    assert states(results["live: failed"], "refresh") == ["failed"]
    assert "Redis does not answer" in only_alert(results["live: failed"])["body"]


def test_a_good_model_is_registered(results) -> None:
    result = results["training: good"]
    assert (result["state"], result["alerts"]) == ("success", [])
    assert called(result) == ["build_dataset", "validate_dataset", "train", "evaluate", "register"]
    assert states(result, "refuse_dataset", "reject", "alert_rejected") == ["skipped"] * 3


def test_training_knows_what_was_known_at_the_end_of_its_interval(results) -> None:
    assert {argument for _, argument in results["training: good"]["calls"]} == {"2026-05-02 02:00:00+00:00"}


def test_a_run_without_an_interval_takes_the_full_hour_before_it_was_asked_for(results) -> None:
    result = results["training: asked for by an asset"]
    assert result["state"] == "success"
    assert {argument for _, argument in result["calls"]} == {"2026-05-02 03:00:00+00:00"}


def test_bad_training_data_is_refused_and_red(results) -> None:
    result = results["training: data refused"]
    assert (result["state"], called(result)) == ("failed", ["build_dataset", "validate_dataset"])
    assert states(result, "refuse_dataset", "train", "register", "reject") == ["failed"] + ["skipped"] * 3
    assert "training data of delivery_time: rows: 12 of 500" in only_alert(result)["body"]


def test_a_rejected_model_is_told_with_its_gate_and_the_champion_stays(results) -> None:
    result = results["training: rejected"]
    assert result["state"] == "success"
    assert called(result)[-2:] == ["evaluate", "reject"]
    assert states(result, "register", "alert_rejected") == ["skipped", "success"]
    alert = only_alert(result)
    assert (alert["severity"], alert["body"]) == ("warning", "validation_mae: 9.1 is above 8.0")


@pytest.mark.parametrize(
    ("name", "taken", "alerts", "assets"),
    [
        ("monitoring: nothing", "nothing", [], []),
        ("monitoring: alert", "alert", ["not enough data: 0 predictions"], []),
        ("monitoring: retrain", "trigger_retraining", ["prediction has drifted"], ["delivery_eta_retrain"]),
    ],
)
def test_each_verdict_takes_its_branch(results, name: str, taken: str, alerts: list[str], assets: list[str]) -> None:
    result = results[name]
    assert result["state"] == "success"
    branches = ("trigger_retraining", "alert", "nothing")
    assert states(result, *branches) == ["success" if branch == taken else "skipped" for branch in branches]
    assert [alert["body"] for alert in result["alerts"]] == alerts
    assert result["assets"] == assets


def test_monitoring_looks_at_the_24_hours_before_three_in_the_morning(results) -> None:
    windows = {argument for _, argument in results["monitoring: nothing"]["calls"]}
    assert windows == {"[2026-05-01 03:00, 2026-05-02 03:00) UTC"}


def test_scored_orders_are_published(results) -> None:
    result = results["scoring: good"]
    assert (result["state"], result["assets"]) == ("success", ["delivery_eta_predictions"])


def test_scoring_without_a_champion_is_red_and_says_what_to_do(results) -> None:
    result = results["scoring: no champion"]
    assert (result["state"], result["assets"]) == ("failed", [])
    assert "no champion: make train" in only_alert(result)["body"]


@pytest.mark.parametrize(
    ("name", "task", "said"),
    [
        ("params: malformed", "fill_gap", "parameter start = 'yesterday' is no time"),
        ("params: backwards", "join_outcomes", "parameter end = '2026-05-01T00:00Z' is not after parameter start"),
        ("params: unknown", "refresh", "there is no parameter 'as_off'"),
    ],
)
def test_parameters_that_cannot_be_meant_end_the_run_at_the_first_try(results, name: str, task: str, said: str) -> None:
    result = results[name]
    assert (result["state"], result["tasks"][task], result["calls"]) == ("failed", "failed", [])
    assert result["tries"][task] == 1
    assert said in only_alert(result)["body"]


def test_a_model_is_trained_as_of_the_parameter(results) -> None:
    assert results["params: as of"]["calls"] == [["build_dataset", "2026-04-30 10:00:00+00:00"]]

from __future__ import annotations

from typing import Any

import pytest

from monitoring.verdict import Findings, Thresholds, Verdict, decide, find
from tests.monitoring.conftest import DAY

T = Thresholds()
GOOD_PERFORMANCE = {
    "model": "delivery_time 7", "outcomes": 400, "mae": 4.0, "baseline_mae": 9.0, "test_mae": 4.2, "coverage": 0.81,
    "degraded_share": 0.0,
}  # fmt: skip
GOOD_DRIFT = {
    "rows": 500, "judged": 10, "drifted": [], "drifted_share": 0.0, "prediction_drifted": False, "empty": [],
}  # fmt: skip
VIOLATED = Findings(violations=["the world has changed"])


def judge(performance: dict[str, Any] | None = None, drift: dict[str, Any] | None = None) -> Findings:
    return find(GOOD_PERFORMANCE | (performance or {}), GOOD_DRIFT | (drift or {}), T)


def past(*actions: tuple[bool, str]) -> list[dict[str, Any]]:
    return [{"violated": violated, "action": action} for violated, action in actions]


def decided(findings: Findings, history: list[dict[str, Any]] | None = None) -> Verdict:
    return decide(findings, history or [], DAY, T)


def test_a_good_window_is_green_and_says_so() -> None:
    verdict = decided(judge())
    assert (verdict.action, verdict.reasons, verdict.violated) == ("none", ["all checks passed"], False)


@pytest.mark.parametrize(
    ("performance", "drift", "kind", "message"),
    [
        ({"mae": 9.5, "test_mae": 8.0}, {}, "violations", "error 9.50 min is not below the naive baseline's 9.00 min"),
        ({"mae": 5.3}, {}, "violations", "error 5.30 min is more than 1.25 times the 4.20 min of its test"),
        ({}, {"drifted_share": 0.4, "drifted": ["a", "b", "c", "d"]}, "violations", "4 of 10 inputs have drifted"),
        ({}, {"prediction_drifted": True}, "violations", "the distribution of the predictions has drifted"),
        ({}, {"empty": ["distance_km"]}, "faults", "inputs without any value, which had some in training: distance_km"),
        ({"degraded_share": 0.2}, {}, "faults", "20% of the predictions were degraded"),
        ({"coverage": 0.5}, {}, "faults", "50% of the outcomes lie in the predicted P10-P90 range"),
        ({"coverage": 0.99}, {}, "faults", "99% of the outcomes lie in the predicted P10-P90 range"),
        ({"outcomes": 49}, {}, "gaps", "not enough data: 49 predictions with an outcome"),
        ({}, {"rows": 99}, "gaps", "not enough data: 99 predictions"),
        ({}, {"rows": 0, "drifted_share": None}, "gaps", "not enough data: 0 predictions"),
        ({"model": None}, {}, "gaps", "no champion is registered"),
        ({"test_mae": None}, {}, "gaps", "states no test error"),
    ],
)
def test_each_check_fires_alone(performance, drift, kind: str, message: str) -> None:
    findings = judge(performance, drift)
    other = {"violations", "faults", "gaps"} - {kind}
    assert [message in text for text in getattr(findings, kind)] == [True]
    assert [getattr(findings, name) for name in other] == [[], []]
    assert decided(findings).action == "alert"


@pytest.mark.parametrize(
    ("performance", "drift"),
    [
        ({"mae": 5.24}, {}),
        ({"coverage": 0.66}, {}),
        ({"degraded_share": 0.05}, {}),
        ({"outcomes": 50}, {"rows": 100}),
        ({}, {"drifted_share": 0.25, "drifted": ["a", "b", "c"]}),
    ],
)
def test_numbers_at_their_limit_pass(performance, drift) -> None:
    assert decided(judge(performance, drift)).action == "none"


def test_no_data_at_all_is_never_green() -> None:
    nothing = {"outcomes": 0, "mae": None, "baseline_mae": None, "coverage": None, "degraded_share": None}
    verdict = decided(judge(nothing, {"rows": 0, "drifted_share": None, "judged": 0}))
    assert verdict.action == "alert"
    assert len([reason for reason in verdict.reasons if reason.startswith("not enough data")]) == 2


@pytest.mark.parametrize(
    ("history", "action"),
    [
        ([], "alert"),
        (past((False, "none"), (False, "none")), "alert"),
        (past((True, "alert")), "retrain"),
        (past((True, "alert"), (False, "none")), "retrain"),
        (past((True, "alert"), (False, "none"), (False, "none")), "alert"),
        (past((True, "alert"), (True, "retrain")), "alert"),
        (past((True, "retrain"), (True, "alert")), "retrain"),
    ],
)
def test_a_violation_must_persist_and_starts_anew_after_a_retraining(history, action: str) -> None:
    assert decided(VIOLATED, history).action == action


def test_violations_of_the_past_do_nothing_when_the_newest_window_is_good() -> None:
    assert decided(judge(), past((True, "alert"), (True, "alert"))).action == "none"


def test_a_fault_is_never_retrained_upon() -> None:
    findings = Findings(violations=["drifted"], faults=["a feature vanished"])
    verdict = decided(findings, past((True, "alert"), (True, "alert")))
    assert verdict.action == "alert"
    assert verdict.reasons[-1].startswith("not retrained in spite of it")


def test_missing_outcomes_do_not_hide_persistent_drift() -> None:
    verdict = decided(judge({"outcomes": 0, "mae": None}, {"prediction_drifted": True}), past((True, "alert")))
    assert verdict.action == "retrain"

"""Every gate, and evidence that fails it."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest

from config import Settings
from training.comparison import PairedDifference
from training.evidence import ChampionEvidence, Evidence
from training.gates import GATES, decide
from training.models import get_spec
from training.spec import GateSpec

SPEC = get_spec("delivery_time")
ALL = (*SPEC.gates, GateSpec("validation_roc_auc", 0.65), GateSpec("calibration_error", 0.05))


def part(name: str, mae: float | None, maximum: float | None = None, rows: int = 500, **more):
    return {
        "slice": name,
        "rows": rows,
        "mae": mae,
        "standard_error": 0.1,
        "maximum": maximum,
        "note": "" if mae else "few rows",
    } | more


def covered(name: str, coverage: float | None, rows: int = 1_000):
    return {"part": name, "kind": "tenth", "rows": rows, "coverage": coverage, "error": 5.0, "offsets_from": 10_000}


ROWS = {"validation": 10_000, "test": 10_000}
AGREES = {
    "rows": 500,
    "apart": 1.0,
    "column": "prediction",
    "distance": 5.0,
    "judged_error": 5.0,
    "final_error": 4.5,
}
GOOD = Evidence(
    metrics={"train_mae": 5.0, "validation_mae": 5.5, "validation_roc_auc": 0.8, "validation_ece": 0.01},
    baselines={"train_mean": 9.0, "trailing_mean": 8.0},
    champion=None,
    onnx_difference=1e-6,
    slices=[part("peak", 6.0, 9.0), part("zone a", 5.0, 10.0), part("tiny", None, 1.0)],
    groups=[part("zone a", 5.0, kind="zone"), part("zone b", 6.0, kind="zone"), part("vip", 5.5, kind="customer")],
    interval={"test_coverage": 0.79, "rows": ROWS, "parts": [covered("short", 0.84), covered("tiny", None, 9)]},
    refit=AGREES,
    model_bytes=200_000,
    row_microseconds=12.0,
)


def against(mean: float, low: float, high: float, left_out: int = 0) -> ChampionEvidence:
    return ChampionEvidence("4", PairedDifference(900, 14, "day", mean, low, high), 5.5, 5.5 - mean, left_out)


def verdict(name: str, evidence: Evidence):
    (result,) = [result for result in decide(evidence, ALL) if result.name == name]
    return result


def test_good_evidence_passes_every_gate_and_each_says_why():
    results = decide(GOOD, ALL)
    assert {result.name for result in results} == set(GATES)
    assert [result.name for result in results if not result.passed or not result.reason] == []
    assert [result.threshold for result in results] == [gate.threshold for gate in ALL]


def test_without_a_champion_the_comparison_is_recorded_as_such():
    result = verdict("no_worse_than_champion", GOOD)
    assert (result.passed, result.observed, result.reason) == (True, None, "no champion yet")


@pytest.mark.parametrize(
    ("name", "change", "observed", "reason"),
    [
        ("validation_mae", {"metrics": {"train_mae": 8.0, "validation_mae": 8.01}}, 8.01, "8.01 minutes, above 8"),
        ("validation_roc_auc", {"metrics": {"validation_roc_auc": 0.5}}, 0.5, "probability 0.500, below 0.65"),
        ("calibration_error", {"metrics": {"validation_ece": 0.2}}, 0.2, "0.200 apart on validation rows, above 0.05"),
        ("train_validation_gap", {"metrics": {"train_mae": 2.0, "validation_mae": 5.5}}, 3.5, "overfitting"),
        ("train_validation_gap", {"metrics": {"train_mae": 7.0, "validation_mae": 3.5}}, 3.5, "a leak"),
        ("beats_baseline", {"baselines": {"mean": 9.0, "trailing": 5.5}}, 1.0, r"5.50 minutes .*\(trailing\): not bet"),
        ("beats_baseline", {"baselines": {}}, None, "no baseline was measured"),
        (
            "no_worse_than_champion",
            {"champion": against(0.4, 0.3, 0.5)},
            0.5,
            r"same 900 test rows \(14 blocks of one day\): candidate 5.500, champion version 4 5.100 .*: worse",
        ),
        (
            "no_worse_than_champion",
            {"champion": against(0.0, -0.4, 0.4, left_out=70)},
            0.4,
            r"70 more left out.*\[-0.400, \+0.400\]: not shown to lose at most 0.1",
        ),
        (
            "no_worse_than_champion",
            {"champion": ChampionEvidence("4", None, problem="the data set lacks ['rain']; bring it back")},
            None,
            r"version 4 could not be compared: .*\['rain'\]; bring it back",
        ),
        (
            "slices",
            {"slices": [part("peak", 9.9, 9.0), part("zone a", 5.0, 10.0), part("far", 30.0, 10.0)]},
            2.98,
            r"too large an error on far \(30.00 minutes, at most 10.00 beyond 0.20 of noise, 500 rows\), peak \(9.90",
        ),
        (
            "fairness",
            {"groups": [part("zone a", 4.0, kind="zone"), part("zone b", 9.0, kind="zone")]},
            (5 - 2 * math.hypot(0.1, 0.1)) / 5.5,
            "zone b 9.00, zone a 4.00 minutes: beyond noise 86% of the error of all apart, more than 50%",
        ),
        ("interval_coverage", {"interval": None}, None, "no prediction interval"),
        (
            "interval_coverage",
            {"interval": GOOD.interval | {"test_coverage": 0.70}},
            0.1 - 2 * math.sqrt(2 * 0.16 / 10_000),
            "holds 70.0% of 10000 test rows, outside of 77% to 83%, give or take 1.1% of noise",
        ),
        ("interval_parts", {"interval": None}, None, "no prediction interval"),
        (
            "interval_parts",
            {"interval": GOOD.interval | {"parts": [covered("tiny", None, 9)]}},
            None,
            "no part of the test rows is large enough",
        ),
        (
            "interval_parts",
            {
                "interval": GOOD.interval
                | {"parts": [covered("short", 0.955), covered("long", 0.58), covered("mid", 0.8)]}
            },
            0.22 - 2.39398 * math.sqrt(0.16 / 1_000 + 0.16 / 10_000),
            r"not within 75% to 85%: the interval holds 58.0% of 1000 rows, long \(noise 3.2%\), 95.5% of 1000 rows, s",
        ),
        ("refit_agrees", {"refit": None}, None, "nothing was fitted again on all rows: train again"),
        (
            "refit_agrees",
            {"refit": AGREES | {"apart": 4.0, "column": "90th percentile"}},
            0.8,
            r"the 90th percentile is 4 apart on the 500 newest ones, 80% of the judged model's .* \(more than 75%\)",
        ),
        (
            "refit_agrees",
            {"refit": AGREES | {"final_error": 5.3}},
            0.2,
            "error there 5.300, judged 5.000 minutes: worse on rows that it has seen, so it learnt something else",
        ),
        ("model_bytes", {"model_bytes": 6_000_000}, 6e6, "6,000,000 bytes, more than 5,000,000"),
        ("row_microseconds", {"row_microseconds": 2500.0}, 2500.0, "2,500 µs"),
        ("onnx_matches", {"onnx_difference": 0.01}, 0.01, "serving would answer something else"),
    ],
)
def test_a_gate_fails_with_its_reason(name, change, observed, reason):
    result = verdict(name, replace(GOOD, **change))
    assert not result.passed
    assert result.observed == pytest.approx(observed, rel=1e-5) if observed is not None else result.observed is None
    assert re.search(reason, result.reason), result.reason


def test_an_installation_has_thresholds_of_its_own(tmp_path):
    own = Settings(_env_file=None, data_dir=tmp_path, gate_thresholds={"delivery_time": {"validation_mae": 13.0}})
    assert get_spec("delivery_time", own).gates[0] == GateSpec("validation_mae", 13.0)
    unknown = Settings(_env_file=None, data_dir=tmp_path, gate_thresholds={"delivery_time": {"beauty": 1.0}})
    with pytest.raises(ValueError, match="has no gates"):
        get_spec("delivery_time", unknown)


@pytest.mark.parametrize("name", sorted(set(GATES) - {"no_worse_than_champion", "slices", "fairness"}))
def test_what_cannot_be_measured_does_not_pass(name):
    blind = Evidence(metrics={}, baselines={"mean": 9.0}, champion=None, onnx_difference=math.nan)
    result = verdict(name, blind)
    assert not result.passed
    assert result.observed is None
    assert result.reason.startswith(("not measurable", "the model has no prediction interval", "nothing was fitted"))


@pytest.mark.parametrize(("name", "change"), [("slices", {"slices": []}), ("fairness", {"groups": GOOD.groups[2:]})])
def test_parts_that_a_source_does_not_have_are_named_and_do_not_stop_it(name, change):
    result = verdict(name, replace(GOOD, **change))
    assert (result.passed, result.observed) == (True, None)
    assert result.reason.startswith("no slice to judge" if name == "slices" else "no two groups to compare")
    assert "not judged: tiny (few rows)" in verdict("slices", GOOD).reason


@pytest.mark.parametrize(
    ("champion", "said"),
    [(against(0.01, -0.05, 0.08), "no worse"), (against(-0.3, -0.4, -0.2), "better")],
)
def test_a_candidate_that_is_shown_not_to_lose_more_than_the_allowance_passes(champion, said):
    result = verdict("no_worse_than_champion", replace(GOOD, champion=champion))
    assert result.passed
    assert result.reason.endswith(f"]: {said}")


def test_a_spec_with_an_unknown_gate_or_kind_is_refused():
    with pytest.raises(ValueError, match=r"no such gates: \['beauty'\]"):
        replace(SPEC, gates=(GateSpec("beauty", 1.0),))
    with pytest.raises(ValueError, match="no such kind: 'guess'"):
        replace(SPEC, kind="guess")


def test_thresholds_can_be_set_for_another_source_but_gates_cannot_be_invented():
    assert SPEC.with_thresholds({"validation_mae": 14.0}).gates[0] == GateSpec("validation_mae", 14.0)
    with pytest.raises(ValueError, match=r"has no gates \['beauty'\]"):
        SPEC.with_thresholds({"beauty": 1.0})


@pytest.mark.parametrize(
    ("kind", "coverage", "passed"),
    [("tenth", 0.66, False), ("slice", 0.66, False), ("absent", 0.66, True), ("absent", 0.58, False)],
)
def test_rows_without_a_view_may_be_further_off_as_they_are_answered_as_degraded(kind, coverage, passed):
    parts = [covered("usual", 0.8), covered("judged", coverage) | {"kind": kind}]
    evidence = replace(GOOD, interval=GOOD.interval | {"parts": parts})
    found = GATES["interval_parts"](evidence, 0.05)
    assert found.passed is passed, found.reason
    assert f"{coverage:.1%} of 1000 rows, judged" in found.reason
    assert ("(without a view 65% to 95%)" in found.reason) == (kind == "absent")

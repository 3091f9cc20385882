"""Every gate, and evidence that fails it."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest

from config import Settings
from training.gates import GATES, ChampionEvidence, Evidence, decide
from training.models import get_spec
from training.spec import GateSpec

SPEC = get_spec("delivery_time")
GOOD = Evidence(
    metrics={"train_mae": 5.0, "validation_mae": 5.5},
    baselines={"train_mean": 9.0, "trailing_mean": 8.0},
    champion=None,
    onnx_difference=1e-6,
)


def verdict(name: str, evidence: Evidence):
    (result,) = [result for result in decide(evidence, SPEC.gates) if result.name == name]
    return result


def test_good_evidence_passes_every_gate_and_each_says_why():
    results = decide(GOOD, SPEC.gates)
    assert [result.name for result in results] == [
        "validation_mae",
        "train_validation_gap",
        "beats_baseline",
        "no_worse_than_champion",
        "onnx_matches",
    ]
    assert all(result.passed and result.reason for result in results)
    assert [result.threshold for result in results] == [8.0, 3.0, 1.0, 0.05, 1e-3]


def test_without_a_champion_the_comparison_is_recorded_as_such():
    result = verdict("no_worse_than_champion", GOOD)
    assert (result.passed, result.observed, result.reason) == (True, None, "no champion yet")


@pytest.mark.parametrize(
    ("name", "change", "observed", "reason"),
    [
        ("validation_mae", {"metrics": {"train_mae": 8.0, "validation_mae": 8.01}}, 8.01, "8.01 minutes, above 8"),
        ("train_validation_gap", {"metrics": {"train_mae": 2.0, "validation_mae": 5.5}}, 3.5, "overfitting"),
        ("train_validation_gap", {"metrics": {"train_mae": 7.0, "validation_mae": 3.5}}, 3.5, "a leak"),
        ("beats_baseline", {"baselines": {"mean": 9.0, "trailing": 5.5}}, 1.0, r"5.50 minutes .*\(trailing\): not bet"),
        ("beats_baseline", {"baselines": {}}, None, "no baseline was measured"),
        ("no_worse_than_champion", {"champion": ChampionEvidence("4", 5.4)}, 0.1, "champion version 4 5.40 .*: worse"),
        (
            "no_worse_than_champion",
            {"champion": ChampionEvidence("4", None, "the data set lacks its inputs ['rain']; bring it back")},
            None,
            r"version 4 could not be compared: .*\['rain'\]; bring it back",
        ),
        ("onnx_matches", {"onnx_difference": 0.01}, 0.01, "serving would answer something else"),
    ],
)
def test_a_gate_fails_with_its_reason(name, change, observed, reason):
    result = verdict(name, replace(GOOD, **change))
    assert not result.passed
    assert result.observed == pytest.approx(observed) if observed is not None else result.observed is None
    assert re.search(reason, result.reason), result.reason


def test_an_installation_has_thresholds_of_its_own(tmp_path):
    own = Settings(_env_file=None, data_dir=tmp_path, gate_thresholds={"delivery_time": {"validation_mae": 13.0}})
    assert get_spec("delivery_time", own).gates[0] == GateSpec("validation_mae", 13.0)
    unknown = Settings(_env_file=None, data_dir=tmp_path, gate_thresholds={"delivery_time": {"beauty": 1.0}})
    with pytest.raises(ValueError, match="has no gates"):
        get_spec("delivery_time", unknown)


@pytest.mark.parametrize("name", sorted(set(GATES) - {"no_worse_than_champion"}))
def test_what_cannot_be_measured_does_not_pass(name):
    blind = Evidence(metrics={}, baselines={"mean": 9.0}, champion=None, onnx_difference=math.nan)
    result = verdict(name, blind)
    assert not result.passed
    assert result.observed is None
    assert result.reason.startswith("not measurable")


def test_within_the_allowance_a_candidate_is_no_worse_than_the_champion():
    result = verdict("no_worse_than_champion", replace(GOOD, champion=ChampionEvidence("4", 5.46)))
    assert result.passed
    assert result.reason == "on the same rows: candidate 5.50, champion version 4 5.46 minutes: no worse"


def test_a_spec_with_an_unknown_gate_is_refused():
    with pytest.raises(ValueError, match=r"no such gates: \['beauty'\]"):
        replace(SPEC, gates=(GateSpec("beauty", 1.0),))


def test_thresholds_can_be_set_for_another_source_but_gates_cannot_be_invented():
    assert SPEC.with_thresholds({"validation_mae": 14.0}).gates[0] == GateSpec("validation_mae", 14.0)
    with pytest.raises(ValueError, match=r"has no gates \['beauty'\]"):
        SPEC.with_thresholds({"beauty": 1.0})

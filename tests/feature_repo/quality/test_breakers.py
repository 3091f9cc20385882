"""Every rule of the register is broken by some data, says why, and does what its severity says, configured or not."""

from __future__ import annotations

import pytest

from feature_repo.quality import features
from feature_repo.quality.rules import RULES
from tests.feature_repo.quality.breakers import BREAKERS, VIEW


@pytest.fixture(autouse=True)
def catalog(monkeypatch):
    monkeypatch.setattr(features, "batch_views", lambda: [VIEW])


def test_every_rule_has_data_that_breaks_it_and_no_other_has():
    assert set(BREAKERS) == set(RULES)


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_that_is_broken_says_so_with_its_severity(rule, settings):
    report = BREAKERS[rule](settings)
    broken = [result for result in report.failures if result.definition == rule]
    assert broken, f"{rule} passed"
    assert {result.severity for result in broken} == {RULES[rule].severity}
    assert all(result.reason and str(result.threshold) for result in broken)
    assert report.stopped or RULES[rule].severity != "stop"


@pytest.mark.parametrize(
    ("rule", "severity"),
    [
        ("item_count", "stop"),
        ("rejected_share", "warn"),
        ("row_count", "stop"),
        ("source_silent", "stop"),
        ("null_shift", "stop"),
        ("feature_at_most", "warn"),
        ("feature_nulls", "stop"),
    ],
)
def test_a_rule_does_what_it_is_configured_to_do(rule, severity, settings):
    configured = settings.model_copy(update={"rule_severities": {rule: severity}})
    report = BREAKERS[rule](configured)
    assert {result.severity for result in report.failures if result.definition == rule} == {severity}
    others = [result for result in report.failures if result.definition != rule and result.severity == "stop"]
    assert report.stopped == (severity == "stop" or bool(others))

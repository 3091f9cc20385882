"""What the wrapper around Great Expectations promises."""

from __future__ import annotations

import os

import polars as pl
import pytest

from feature_repo.quality.suite import BrokenSuite, Expectation, run_suite

FRAME = pl.DataFrame({"number": [1.0, 5.0, None], "good": [True, False, True]})


def test_outcomes_come_by_rule_with_the_positions_of_failing_rows():
    between = Expectation("limits", "ExpectColumnValuesToBeBetween", {"column": "number", "max_value": 4})
    outcomes = run_suite("test", FRAME, [Expectation.holds("good"), between])
    assert [(rule, one.passed, one.rows) for rule, one in outcomes.items()] == [
        ("good", False, [1]),
        ("limits", False, [1]),
    ]


def test_all_failing_rows_are_found_not_only_the_first_twenty():
    frame = pl.DataFrame({"good": [number % 2 == 0 for number in range(500)]})
    assert run_suite("test", frame, [Expectation.holds("good")])["good"].rows == list(range(1, 500, 2))


def test_an_expectation_that_cannot_be_evaluated_is_a_fault_of_the_suite():
    with pytest.raises(BrokenSuite, match=r'suite test: rule absent could not be evaluated: .*column "absent"'):
        run_suite("test", FRAME, [Expectation.holds("absent")])


def test_great_expectations_does_not_call_home():
    run_suite("test", FRAME, [])
    assert os.environ["GX_ANALYTICS_ENABLED"] == "false"

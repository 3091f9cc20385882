"""The function that training and serving share."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from config.settings import ROOT
from feature_repo.transforms import request_time

MONDAY_NOON = 1_772_452_800.0  # 2026-03-02T12:00Z


def compute(placed_at=MONDAY_NOON, value=30.0, mean=20.0) -> dict[str, float]:
    return {name: column[0].item() for name, column in request_time.compute([placed_at], [value], [mean]).items()}


def test_noon_on_a_monday():
    expected = {
        "hour_of_day_sin": 0.0,
        "hour_of_day_cos": -1.0,
        "day_of_week_sin": np.sin(2 * np.pi * 0.5 / 7),
        "day_of_week_cos": np.cos(2 * np.pi * 0.5 / 7),
        "is_peak_hour": 1,
        "order_value_to_restaurant_mean": 1.5,
    }
    found = compute()
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert list(found) == list(request_time.FEATURES)


def test_a_week_starts_on_monday_at_midnight():
    start = compute(MONDAY_NOON - 12 * 3_600)
    assert (start["day_of_week_sin"], start["day_of_week_cos"]) == (0.0, 1.0)


@pytest.mark.parametrize(("hour", "peak"), [(10.99, 0), (11, 1), (13.99, 1), (14, 0), (17.99, 0), (18, 1), (21, 0)])
def test_peak_hours_are_whole_hours(hour, peak):
    assert compute(MONDAY_NOON + (hour - 12) * 3_600)["is_peak_hour"] == peak


@pytest.mark.parametrize(
    ("value", "mean"), [(30.0, 0.0), (30.0, np.nan), (np.nan, 20.0), (30.0, -1.0), (30.0, np.inf), (0.0, 0.0)]
)
def test_a_ratio_that_cannot_be_is_missing_without_a_warning(value, mean):
    with np.errstate(all="raise"):
        assert np.isnan(compute(value=value, mean=mean)["order_value_to_restaurant_mean"])


@given(
    placed_at=st.integers(946_684_800_000_000, 4_102_444_800_000_000).map(lambda micros: micros / 1e6),
    value=st.floats(0, 1e5) | st.just(math.nan),
    mean=st.floats(-1, 1e5) | st.sampled_from([math.nan, math.inf, 0.0]),
)
@example(placed_at=MONDAY_NOON + 6 * 3_600, value=30.0, mean=20.0)
def test_many_requests_are_given_what_each_is_given_alone(placed_at: float, value: float, mean: float):
    alone = [request_time.compute_row(placed_at, value, mean), request_time.compute_row(placed_at + 1, value, mean)]
    together = request_time.compute([placed_at, placed_at + 1], [value] * 2, [mean] * 2)
    np.testing.assert_array_equal(np.array(alone), np.column_stack(list(together.values())))
    assert tuple(together) == request_time.FEATURES


def test_no_rows_give_no_rows():
    columns = request_time.compute([], [], [])
    assert {name: column.dtype for name, column in columns.items()}["is_peak_hour"] == np.int64
    assert {column.shape for column in columns.values()} == {(0,)}


def test_the_module_needs_numpy_only():
    program = (
        "import sys, feature_repo.transforms.request_time\n"
        "print([name for name in ('pandas', 'feast', 'ibis', 'polars', 'duckdb') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


SOURCE = Path(request_time.__file__).read_text()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("DAY_SECONDS = 24", "# of a day\nDAY_SECONDS = (24)"),
        ('"""The features of one request.', '"""What else.'),
        ("    day_seconds = placed_at", "    # of the day\n    day_seconds = placed_at"),
        ('"""A model bundle records it', '"""Recorded'),
        ("np.asarray(values, np.float64)", "np.array(values, np.float64)"),
    ],
)
def test_the_version_stays_when_nothing_else_is_computed(before: str, after: str):
    assert before in SOURCE
    assert request_time.version_of(SOURCE.replace(before, after, 1)) == request_time.REQUEST_FUNCTION_VERSION


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("PEAK_HOURS = (11,", "PEAK_HOURS = (10,"),
        ("MONDAY = 4 *", "MONDAY = 3 *"),
        ("math.cos(day_angle)", "math.sin(day_angle)"),
        ("usable = 0 <", "usable = 0 <="),
    ],
)
def test_the_version_changes_when_something_else_is_computed(before: str, after: str):
    assert before in SOURCE
    assert request_time.version_of(SOURCE.replace(before, after, 1)) != request_time.REQUEST_FUNCTION_VERSION

"""The function that training and serving share."""

from __future__ import annotations

import math
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from config.settings import ROOT
from feature_repo.transforms import request_time
from feature_repo.transforms.request_time import Clock

MONDAY_NOON = 1_772_452_800.0  # 2026-03-02T12:00Z


UTC = Clock("UTC", (11, 12, 13, 18, 19, 20))


def compute(placed_at=MONDAY_NOON, value=30.0, mean=20.0, clock=UTC) -> dict[str, float]:
    columns = request_time.compute([placed_at], [value], [mean], clock)
    return {name: column[0].item() for name, column in columns.items()}


def at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


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
    ("zone", "instant", "hour", "weekday"),
    [
        # The clocks go from 02:00 to 03:00 on a Sunday, and back from 03:00 to 02:00.
        ("Europe/Berlin", "2026-03-29T00:59:59.999999+00:00", 1 + 3_599.999999 / 3_600, 6),
        ("Europe/Berlin", "2026-03-29T01:00:00+00:00", 3, 6),
        ("Europe/Berlin", "2026-10-25T00:59:59+00:00", 2 + 3_599 / 3_600, 6),
        ("Europe/Berlin", "2026-10-25T01:00:00+00:00", 2, 6),
        ("Europe/Berlin", "2026-03-28T10:00:00+00:00", 11, 5),
        ("Europe/Berlin", "2026-03-29T10:00:00+00:00", 12, 6),
        ("Europe/Berlin", "2026-10-25T23:00:00+00:00", 0, 0),
        ("America/Los_Angeles", "2026-03-08T09:59:59+00:00", 1 + 3_599 / 3_600, 6),
        ("America/Los_Angeles", "2026-03-08T10:00:00+00:00", 3, 6),
        ("America/Los_Angeles", "2026-11-01T08:30:00+00:00", 1.5, 6),
        ("America/Los_Angeles", "2026-11-01T09:30:00+00:00", 1.5, 6),
        ("America/Los_Angeles", "2026-11-02T07:59:59+00:00", 23 + 3_599 / 3_600, 6),
        ("America/Los_Angeles", "2026-11-02T08:00:00+00:00", 0, 0),
        ("Asia/Kolkata", "2026-03-02T05:29:59+00:00", 10 + 3_599 / 3_600, 0),
        ("Asia/Kolkata", "2026-03-02T05:30:00+00:00", 11, 0),
        ("Asia/Kolkata", "2026-03-01T18:30:00+00:00", 0, 0),
        ("Australia/Sydney", "2026-04-04T15:30:00+00:00", 2.5, 6),
        ("Australia/Sydney", "2026-04-04T16:30:00+00:00", 2.5, 6),
        ("Australia/Sydney", "2026-10-03T15:59:59+00:00", 1 + 3_599 / 3_600, 6),
        ("Australia/Sydney", "2026-10-03T16:00:00+00:00", 3, 6),
        # By half an hour, and a minute past midnight.
        ("Australia/Lord_Howe", "2026-10-03T15:29:59+00:00", 1 + 3_599 / 3_600, 6),
        ("Australia/Lord_Howe", "2026-10-03T15:30:00+00:00", 2.5, 6),
        ("America/St_Johns", "2010-03-14T03:30:59+00:00", 59 / 3_600, 6),
        ("America/St_Johns", "2010-03-14T03:31:00+00:00", 1 + 1 / 60, 6),
    ],
)
def test_hours_and_weekdays_are_those_of_the_market_s_clock(zone: str, instant: str, hour: float, weekday: int):
    found = compute(at(instant), clock=Clock(zone, (2, 11)))
    day, week = 2 * math.pi * hour / 24, 2 * math.pi * (weekday + hour / 24) / 7
    angles = {"hour_of_day_sin": math.sin(day), "hour_of_day_cos": math.cos(day)}
    angles |= {"day_of_week_sin": math.sin(week), "day_of_week_cos": math.cos(week)}
    assert {name: found[name] for name in angles} == pytest.approx(angles, abs=1e-9)
    assert found["is_peak_hour"] == (int(hour) in (2, 11))


def test_a_year_of_quarter_hours_is_as_the_zone_itself_says():
    for zone in ("Europe/Berlin", "Australia/Lord_Howe", "Asia/Kathmandu", "America/Santiago"):
        instants = np.arange(at("2026-01-01T00:00+00:00"), at("2027-01-01T00:00+00:00"), 900) + 0.25
        local = [datetime.fromtimestamp(instant, ZoneInfo(zone)) for instant in instants.tolist()]
        found = request_time.calendar(instants, Clock(zone, (7,)))["is_peak_hour"]
        assert found.tolist() == [int(one.hour == 7) for one in local]


@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "America/Los_Angeles", "UTC"])
@pytest.mark.parametrize("instant", ["0001-01-01T00:00:00+00:00", "9999-12-31T23:59:59+00:00"])
def test_the_first_and_the_last_year_of_all_have_hours_too(zone: str, instant: str):
    assert abs(compute(at(instant), clock=Clock(zone, (0,)))["hour_of_day_sin"]) <= 1


def test_what_noted_no_clock_meant_utc():
    assert Clock.read(None) == UTC
    assert Clock.read({"zone": "Asia/Kolkata", "peak_hours": [8]}) == Clock("Asia/Kolkata", (8,))


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
    zone=st.sampled_from(["UTC", "Europe/Berlin", "America/Los_Angeles", "Asia/Kolkata", "America/Santiago"]),
)
@example(placed_at=MONDAY_NOON + 6 * 3_600, value=30.0, mean=20.0, zone="Asia/Kolkata")
def test_many_requests_are_given_what_each_is_given_alone(placed_at: float, value: float, mean: float, zone: str):
    clock = Clock(zone, (11, 19))
    alone = [request_time.compute_row(instant, value, mean, clock) for instant in (placed_at, placed_at + 1)]
    together = request_time.compute([placed_at, placed_at + 1], [value] * 2, [mean] * 2, clock)
    np.testing.assert_array_equal(np.array(alone), np.column_stack(list(together.values())))
    assert tuple(together) == request_time.FEATURES


def test_no_rows_give_no_rows():
    columns = request_time.compute([], [], [], UTC)
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
        ("    day_seconds = local", "    # of the day\n    day_seconds = local"),
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
        ('UNTOLD = Clock("UTC", (11,', 'UNTOLD = Clock("UTC", (10,'),
        ("local = placed_at + offset", "local = placed_at - offset"),
        ("if first == last else None", "if first else None"),
        ("offset.total_seconds()", "offset.seconds"),
        ("MONDAY = 4 *", "MONDAY = 3 *"),
        ("math.cos(day_angle)", "math.sin(day_angle)"),
        ("usable = 0 <", "usable = 0 <="),
    ],
)
def test_the_version_changes_when_something_else_is_computed(before: str, after: str):
    assert before in SOURCE
    assert request_time.version_of(SOURCE.replace(before, after, 1)) != request_time.REQUEST_FUNCTION_VERSION

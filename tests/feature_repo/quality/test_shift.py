"""Batches beside a stored baseline: ordinary ones pass, small ones too; odd ones are told, with the column."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from config import Settings
from feature_repo.orders.schema import orders_table
from feature_repo.quality import validate_orders
from feature_repo.quality.baseline import (
    DAYS,
    FORMAT,
    KEPT,
    MIN_DAYS,
    Baseline,
    baseline_file,
    baseline_for,
    make_baseline,
    orders_by_hour,
)
from feature_repo.quality.rules import severities
from feature_repo.quality.shift import compare, judge, reported_names
from feature_repo.window import DAY, HOUR, Window
from tests.feature_repo.orders.builders import NOON, lake_frame, minutes, placed, version
from tests.feature_repo.quality.history import MIDNIGHT, PER_HOUR, fill_lake, hour

WINDOW = Window(NOON, NOON + HOUR)


@pytest.fixture(scope="module")
def filled(tmp_path_factory) -> Settings:
    """Four ordinary weeks. Tests leave them as they are."""
    settings = Settings(data_dir=tmp_path_factory.mktemp("weeks"))
    fill_lake(settings)
    return settings


@pytest.fixture(scope="module")
def usual(filled) -> Baseline:
    return make_baseline(MIDNIGHT, filled)


def failed(rows, usual, settings, window=WINDOW) -> dict[str, str]:
    """What is reported of a batch: reasons by name."""
    frame = lake_frame(*rows)
    found = compare(frame, frame, window, usual, settings)
    assert {one.reported_as for one in found} == {*reported_names(), "source_silent", "source_stale"}
    return {
        one.reported_as: one.reason for one in found if one.low is not None and not one.low <= one.observed <= one.high
    }


def test_great_expectations_judges_by_the_bounds(usual, filled):
    rows = hour(NOON, order_value=2000.0, driver_id=None)
    frame = lake_frame(*rows)
    results = judge(compare(frame, frame, WINDOW, usual, filled), severities(filled))
    assert {one.rule: one.reason for one in results if not one.passed} == failed(rows, usual, filled)
    assert {one.severity for one in results} == {"warn"}


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("count", [1, 3, 12, PER_HOUR, 500])
def test_an_ordinary_batch_of_any_size_is_not_told(seed, count, usual, filled):
    assert failed(hour(NOON, count, seed), usual, filled).keys() <= {"source_silent", "source_stale"}


def test_an_empty_batch_has_no_distribution(usual, filled):
    assert failed([], usual, filled).keys() == {"source_silent", "source_stale"}


def test_a_mean_in_another_unit_is_told_with_column_and_distance(usual, filled):
    found = failed(hour(NOON, order_value=2000.0), usual, filled)
    assert found.keys() == {"order_value_mean_shift"}
    assert "the mean of order_value is 2000 in 40 orders; 2" in found["order_value_mean_shift"]
    assert "standard errors" in found["order_value_mean_shift"]


def test_slower_deliveries_are_told(usual, filled):
    rows = [row | {"placed_at": row["placed_at"] - minutes(30)} for row in hour(NOON)]
    assert failed(rows, usual, filled).keys() == {"delivery_minutes_mean_shift"}


def test_a_column_that_vanishes_is_told(usual, filled):
    found = failed(hour(NOON, driver_id=None), usual, filled)
    assert found.keys() == {"driver_id_null_shift"}
    assert "the share of nulls of driver_id is 1 in 40 orders" in found["driver_id_null_shift"]


def test_a_column_that_appears_is_told(settings):
    fill_lake(settings, days=MIN_DAYS, promised_minutes=None)
    found = failed(hour(NOON), make_baseline(MIDNIGHT, settings), settings)
    assert found.keys() == {"promised_minutes_null_shift"}


def test_two_rare_nulls_in_a_small_batch_are_chance(usual, filled):
    rows = hour(NOON, 12)
    rows[:2] = [row | {"zone_id": None} for row in rows[:2]]
    assert failed(rows, usual, filled).keys() <= {"source_silent", "source_stale"}


def test_a_source_that_sends_one_restaurant_only_is_told(usual, filled):
    found = failed(hour(NOON, restaurant_id="r1"), usual, filled)
    assert found.keys() == {"restaurant_id_distinct_shift"}
    assert (
        "the number of distinct values of restaurant_id is 1 in 40 orders; 1" in found["restaurant_id_distinct_shift"]
    )


def test_ids_that_are_all_new_are_told(usual, filled):
    rows = [row | {"restaurant_id": f"new{number}"} for number, row in enumerate(hour(NOON))]
    assert failed(rows, usual, filled).keys() == {"restaurant_id_distinct_shift"}


def test_twice_the_orders_do_not_pass_for_twice_the_restaurants(usual, filled):
    assert failed(hour(NOON, 5 * PER_HOUR), usual, filled) == {}


def test_a_window_of_many_hours_is_compared_hour_by_hour(usual, filled):
    day = Window(MIDNIGHT, MIDNIGHT + DAY)
    rows = [row for of_day in (11, 12, 13) for row in hour(MIDNIGHT.replace(hour=of_day))]
    assert failed(rows, usual, filled, day).keys() <= {"source_silent", "source_stale"}
    few = [row | {"restaurant_id": "r1"} for row in rows]
    assert "restaurant_id_distinct_shift" in failed(few, usual, filled, day)


def test_versions_of_one_order_are_one_piece_of_evidence():
    first, last = placed("a"), version("a")
    orders = orders_by_hour(lake_frame(last, first, placed("b")))
    assert orders.select("order_id", "status", "delivery_minutes").sort("order_id").rows() == [
        ("a", "delivered", 30.0),
        ("b", "placed", None),
    ]


def test_the_minutes_of_scheduled_orders_are_no_deliveries():
    assert orders_by_hour(lake_frame(version(is_asap=False)))["delivery_minutes"].to_list() == [None]


def test_a_source_that_falls_silent_is_told(usual, filled):
    rows = [row for row in hour(NOON) if row["updated_at"] < NOON + minutes(30)]
    found = failed(rows, usual, filled)
    assert found.keys() == {"source_silent", "source_stale"}
    assert "minutes before the window's end; at this hour it is usually at most 1 minutes" in found["source_silent"]


def test_a_source_that_only_repeats_the_past_is_told(usual, filled):
    rows = [row | {"arrived_at": row["updated_at"], "updated_at": NOON - minutes(200)} for row in hour(NOON)]
    rows = [row | {"placed_at": NOON - minutes(240), "accepted_at": NOON - minutes(239)} for row in rows]
    rows = [row | {"picked_up_at": NOON - minutes(220), "delivered_at": NOON - minutes(210)} for row in rows]
    assert failed(rows, usual, filled).keys() == {"source_stale"}


def test_a_clock_in_the_future_is_no_sign_of_life(usual, filled):
    ahead = [row | {"updated_at": NOON + 9 * HOUR, "arrived_at": NOON} for row in hour(NOON)]
    assert "source_stale" in failed(ahead, usual, filled)


def test_without_a_baseline_everything_passes_and_says_so(settings):
    frame = lake_frame(*hour(NOON))
    results = judge(compare(frame, frame, WINDOW, None, settings), severities(settings))
    assert [one.rule for one in results if not one.passed] == []
    assert {one.reason for one in results if one.definition == "mean_shift"} == {
        f"no baseline yet: it takes {MIN_DAYS} days of orders"
    }


def test_a_baseline_needs_days_enough(settings):
    fill_lake(settings, days=MIN_DAYS - 1)
    assert baseline_for(WINDOW, settings) is None
    assert not baseline_file(MIDNIGHT, settings).exists(), "and a poor one is not kept"


def test_a_baseline_is_made_once_a_day_and_read_again(settings):
    fill_lake(settings)
    made = baseline_for(WINDOW, settings)
    assert (made.span, made.days, made.rows) == (Window(MIDNIGHT - DAYS * DAY, MIDNIGHT), DAYS, DAYS * 3 * PER_HOUR)
    orders_table(settings).replace(Window(MIDNIGHT - 5 * DAY, MIDNIGHT - 4 * DAY), lake_frame())
    assert baseline_for(Window(NOON + HOUR, NOON + 2 * HOUR), settings) == made, "read, not made of what is there now"
    assert baseline_for(Window(MIDNIGHT + DAY, MIDNIGHT + DAY + HOUR), settings) != made
    assert sorted(path.name for path in baseline_file(NOON, settings).parent.iterdir()) == [
        "2026-05-04.json",
        "2026-05-05.json",
    ]


def test_the_window_itself_is_not_part_of_its_baseline(settings):
    fill_lake(settings)
    before = make_baseline(MIDNIGHT, settings)
    orders_table(settings).replace(WINDOW, lake_frame(*hour(NOON, order_value=2000.0)))
    assert make_baseline(MIDNIGHT, settings) == before


@pytest.mark.parametrize("damage", ["{", "[]", '{"format": 0}', f'{{"format": {FORMAT}}}'])
def test_a_baseline_that_is_damaged_or_of_another_format_is_made_anew(damage, settings):
    fill_lake(settings, days=MIN_DAYS)
    made = baseline_for(WINDOW, settings)
    baseline_file(MIDNIGHT, settings).write_text(damage)
    assert baseline_for(WINDOW, settings) == made
    assert json.loads(baseline_file(MIDNIGHT, settings).read_text())["format"] == FORMAT


def test_old_baselines_are_forgotten(settings):
    fill_lake(settings, days=MIN_DAYS)
    folder = baseline_file(MIDNIGHT, settings).parent
    folder.mkdir(parents=True)
    for back in range(1, KEPT + 5):
        (folder / f"{MIDNIGHT - timedelta(days=back):%Y-%m-%d}.json").write_text("{}")
    baseline_for(WINDOW, settings)
    assert len(list(folder.iterdir())) == KEPT
    assert baseline_file(MIDNIGHT, settings).exists()


def test_a_level_is_the_mean_of_its_hour_of_the_day_and_the_variance_between_days_is_found(settings):
    for back in range(1, 29):
        at = MIDNIGHT - back * DAY + 12 * HOUR
        rows = [row | {"distance_km": 4.0 + (back % 2)} for row in hour(at)]
        orders_table(settings).replace(Window(at, at + HOUR), lake_frame(*rows))
    statistic = make_baseline(MIDNIGHT, settings).statistics["mean", "distance_km"]
    assert statistic.levels[12].value == pytest.approx(4.5)
    assert (statistic.levels[12].hours, statistic.levels[12].within) == (28, 0.0)
    # 28 values one half off their mean, variance with divisor n - 1.
    assert statistic.between == pytest.approx(0.25 * 28 / 27)


def test_draws_are_those_of_the_rarefaction_formula(usual):
    frequencies = usual.frequencies["restaurant_id"]
    values = [times for times, count in frequencies for _ in range(count)]
    total = sum(values)
    expected = sum(1 - (1 - times / total) ** 10 for times in values)
    assert usual.draws("restaurant_id", 10)[0] == pytest.approx(expected)
    assert usual.draws("restaurant_id", 0) == (0.0, 0.0)


def test_shifts_are_warnings_of_the_validation(settings):
    fill_lake(settings)
    report = validate_orders(lake_frame(*hour(NOON, driver_id=None)), WINDOW, settings).report
    assert [(one.rule, one.definition, one.severity) for one in report.failures] == [
        ("driver_id_null_shift", "null_shift", "warn")
    ]
    assert not report.stopped
    assert " to " in report.failures[0].threshold

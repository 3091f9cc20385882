"""Each rule for orders has a batch that breaks it, and says why in words."""

from __future__ import annotations

import json
from datetime import timedelta

import polars as pl
import pytest

from config import Settings
from feature_repo.orders.schema import BATCH_SCHEMA, LAKE_SCHEMA, QUARANTINE_SCHEMA, orders_table
from feature_repo.quality import stopped_batch, validate_orders
from feature_repo.quality.order_batch import ROW_COUNT_FACTOR, trailing_row_count
from feature_repo.quality.order_rows import row_rules
from feature_repo.quality.orders import acceptable_orders
from feature_repo.window import DAY, HOUR, Window
from tests.feature_repo.orders.builders import NOON, lake_frame, minutes, placed, version

WINDOW = Window(NOON, NOON + HOUR)


def batch(*rows, **columns):
    """Rows as `read_landing` gives them; `columns` are set in every row."""
    return lake_frame(*rows).with_columns(**{name: pl.lit(value) for name, value in columns.items()})


def result(verdict, rule):
    return next(one for one in verdict.report.results if one.rule == rule)


def test_acceptable_orders_are_those_that_a_validation_accepts(settings):
    old = version("old", updated_at=NOON - minutes(5))
    orders_table(settings).replace(Window(NOON - HOUR, NOON), batch(old))
    broken = [version(f"broken-{rule}", **change) for rule, (change, _) in BROKEN.items()]
    again = [
        placed("twice"),
        placed("twice"),
        placed("twice", order_value=3.0),
        version("old", updated_at=NOON - minutes(5)),
    ]
    rows = batch(placed("a"), *broken, version("a"), *again)
    refused = rows.tail(1).with_columns(refused_rule=pl.lit("wrong_day"), refused_reason=pl.lit("of yesterday"))
    rows = pl.concat([rows, refused], how="diagonal")
    accepted = validate_orders(rows, WINDOW, settings).accepted
    assert 3 <= accepted.height < rows.height
    assert acceptable_orders(rows, WINDOW, settings).equals(accepted)


def test_good_versions_are_accepted_unchanged(settings):
    rows = batch(placed("a"), version("a"), version("b", is_asap=False, driver_id=None, distance_km=None))
    verdict = validate_orders(rows, WINDOW, settings)
    assert verdict.accepted.equals(rows)
    assert verdict.accepted.schema == pl.Schema(LAKE_SCHEMA)
    assert (verdict.rejected.height, verdict.report.stopped, verdict.report.failures) == (0, False, [])
    assert verdict.rejected.schema == pl.Schema(QUARANTINE_SCHEMA)


BROKEN = {
    "order_id_not_null": ({"order_id": None}, "order_id is null; every order has one"),
    "restaurant_id_not_null": ({"restaurant_id": None}, "restaurant_id is null"),
    "placed_at_not_null": ({"placed_at": None, "updated_at": NOON + minutes(40)}, "placed_at is null"),
    "status_not_null": ({"status": None}, "status is null"),
    "updated_at_not_null": ({"updated_at": None, "arrived_at": NOON + minutes(30)}, "updated_at is null"),
    "blank_id": ({"driver_id": " "}, "is an empty text; an unknown one is null"),
    "status": ({"status": "lost"}, "status lost is none of placed, accepted"),
    "known_in_window": ({"arrived_at": NOON + 2 * HOUR}, "known at 2026-05-04 14:00:00, outside of the window [2026"),
    "placed_in_future": (
        {"placed_at": NOON + minutes(50), "updated_at": NOON + minutes(45)},
        "placed_at 2026-05-04 12:50:00 is after 2026-05-04 12:45:00",
    ),
    "too_late": (
        {"placed_at": NOON - 72 * HOUR - minutes(1), "arrived_at": NOON},
        "became known at 2026-05-04 12:00:00, more than 72 h after it was placed at 2026-05-01 11:59:00",
    ),
    "delivered_before_placed": (
        {"delivered_at": NOON - minutes(1), "accepted_at": None, "picked_up_at": None},
        "delivered_at 2026-05-04 11:59:00 is before placed_at 2026-05-04 12:00:00",
    ),
    "stage_order": (
        {"picked_up_at": NOON + minutes(1)},
        "picked_up_at 2026-05-04 12:01:00 is before an earlier stage at 2026-05-04 12:02:00",
    ),
    "cancelled_before_placed": (
        {"cancelled_at": NOON - minutes(1)},
        "cancelled_at 2026-05-04 11:59:00 is before placed_at",
    ),
    "delivered_without_time": ({"delivered_at": None}, "status is delivered, but delivered_at is null"),
    "delivery_minutes": (
        {"placed_at": NOON - 24 * HOUR, "delivered_at": NOON + minutes(1), "updated_at": NOON + minutes(1)},
        "an ASAP order took 1441.0 minutes, more than 1440",
    ),
    "updated_before_event": (
        {"updated_at": NOON + minutes(29)},
        "updated_at 2026-05-04 12:29:00 is before the newest event at 2026-05-04 12:30:00",
    ),
    "finite_numbers": ({"promised_minutes": float("nan")}, "promised_minutes is NaN or infinite"),
    "distance_km": ({"distance_km": 100.5}, "distance_km 100.5 is not 0 to 100"),
    "order_value": ({"order_value": -0.01}, "order_value -0.01 is not at least 0"),
    "item_count": ({"item_count": 0}, "item_count 0 is not at least 1"),
    "promised_minutes": ({"promised_minutes": -1.0}, "promised_minutes -1.0 is not at least 0"),
}


def test_every_row_rule_has_a_row_here_that_breaks_it(settings):
    names = {rule.name for rule in row_rules(WINDOW, settings)}
    assert names == set(BROKEN)


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """The verdict on one batch with a row for each rule, among good ones."""
    settings = Settings(data_dir=tmp_path_factory.mktemp("broken"))
    rows = [version(rule, **changes) for rule, (changes, _) in BROKEN.items()]
    return validate_orders(batch(placed("good"), *rows), WINDOW, settings)


@pytest.mark.parametrize("rule", BROKEN)
def test_a_broken_row_is_quarantined_with_its_rule_and_reason(broken, rule):
    order_id = None if rule == "order_id_not_null" else rule
    row = broken.rejected.filter(pl.col("order_id").eq_missing(pl.lit(order_id))).to_dicts()[0]
    assert (row["rule"], row["window"]) == (rule, WINDOW.slug)
    assert BROKEN[rule][1] in row["reason"]
    found = result(broken, rule)
    assert (found.passed, found.severity) == (False, "reject")
    assert found.reason.startswith(f"{found.failed_rows} of {len(BROKEN) + 1} rows, for example: ")


def test_only_the_broken_rows_are_rejected(broken):
    assert broken.accepted["order_id"].to_list() == ["good"]
    assert broken.rejected.height == len(BROKEN)


POISON = {
    "order_value": (1e17, "at most 1,000,000,000"),
    "promised_minutes": (1e300, "at most 43,200"),
    "item_count": (2**62, "at most 1,000,000"),
}


def test_values_of_which_no_sum_fits_are_quarantined_before_they_stop_the_computation(settings):
    rows = [version(name, **{name: value}) for name, (value, _) in POISON.items()]
    verdict = validate_orders(batch(placed("good"), *rows), WINDOW, settings)
    assert verdict.accepted["order_id"].to_list() == ["good"]
    assert sorted(verdict.rejected["rule"]) == sorted(POISON)
    for rule, reason in verdict.rejected.select("rule", "reason").rows():
        assert reason.endswith(POISON[rule][1])


def test_rows_at_the_limits_are_accepted(settings):
    limits = {
        "horizon": {"placed_at": NOON - 72 * HOUR, "arrived_at": NOON, "is_asap": False},
        "same instant": {"delivered_at": NOON, "accepted_at": NOON, "picked_up_at": NOON},
        "24 h": {"placed_at": NOON - 24 * HOUR, "delivered_at": NOON, "updated_at": NOON},
        "scheduled": {"placed_at": NOON - 30 * HOUR, "delivered_at": NOON, "updated_at": NOON, "is_asap": False},
        "limits": {"distance_km": 100.0, "order_value": 0.0, "item_count": 1, "promised_minutes": 0.0},
        "nulls": {"accepted_at": None, "picked_up_at": None, "distance_km": None, "order_value": None},
    }
    verdict = validate_orders(batch(*(version(name, **changes) for name, changes in limits.items())), WINDOW, settings)
    assert verdict.rejected.to_dicts() == []


def test_a_row_that_breaks_several_rules_is_kept_once_and_names_them_all(settings):
    verdict = validate_orders(batch(version(status="lost", item_count=0)), WINDOW, settings)
    assert verdict.rejected.height == 1
    assert verdict.rejected["rule"].item() == "status"
    assert verdict.rejected["reason"].item().endswith("(also: item_count)")


def test_the_quarantine_keeps_the_whole_row(settings):
    verdict = validate_orders(batch(version(item_count=0)), WINDOW, settings)
    kept = json.loads(verdict.rejected["row"].item())
    assert kept["item_count"] == 0
    assert kept["placed_at"] == "2026-05-04T12:00:00.000000Z"
    assert verdict.rejected["known_at"].item() == NOON + minutes(30)


def test_a_row_refused_before_keeps_its_own_rule_and_its_source(settings):
    rows = batch(
        version(order_id="x", status=None), refused_rule="unparsable", refused_reason="column a: no", source_row="{}"
    )
    verdict = validate_orders(pl.concat([rows, batch(placed("good"))], how="diagonal"), WINDOW, settings)
    row = verdict.rejected.to_dicts()[0]
    assert (row["rule"], row["reason"], row["row"]) == ("unparsable", "column a: no", "{}")
    assert [one.rule for one in verdict.report.failures] == ["converted"]
    assert verdict.accepted["order_id"].to_list() == ["good"]


def test_a_version_that_comes_twice_is_kept_once(settings):
    rows = batch(version(), version(arrived_at=NOON + minutes(50)))
    verdict = validate_orders(rows, WINDOW, settings)
    assert verdict.accepted["known_at"].to_list() == [NOON + minutes(30)]
    assert verdict.rejected.select("rule", "reason").row(0) == (
        "duplicate_version",
        "the same version, updated_at 2026-05-04 12:30:00, came before",
    )


def test_a_version_that_contradicts_another_is_quarantined(settings):
    verdict = validate_orders(
        batch(version(), version(order_value=1.0, arrived_at=NOON + minutes(50))), WINDOW, settings
    )
    assert verdict.accepted["order_value"].to_list() == [20.0]
    assert verdict.rejected["rule"].to_list() == ["conflicting_version"]
    assert "other values came first" in verdict.rejected["reason"].item()


def test_a_version_that_the_lake_has_is_a_duplicate(settings):
    earlier = Window(NOON, NOON + HOUR)
    orders_table(settings).replace(earlier, lake_frame(version()))
    again, contradiction = version(arrived_at=NOON + HOUR), version(order_value=1.0, arrived_at=NOON + HOUR)
    verdict = validate_orders(batch(again, contradiction), Window(NOON + HOUR, NOON + 2 * HOUR), settings)
    assert sorted(verdict.rejected["rule"]) == ["conflicting_version", "duplicate_version"]
    assert verdict.accepted.is_empty()


def test_running_the_same_window_again_does_not_make_its_rows_duplicates(settings):
    orders_table(settings).replace(WINDOW, lake_frame(version()))
    assert validate_orders(batch(version()), WINDOW, settings).rejected.is_empty()


def test_a_broken_version_does_not_shut_out_a_good_one(settings):
    verdict = validate_orders(batch(version(item_count=0), version(arrived_at=NOON + minutes(50))), WINDOW, settings)
    assert verdict.accepted["item_count"].to_list() == [2]
    assert verdict.rejected["rule"].to_list() == ["item_count"]


def test_one_window_of_two_hours_judges_as_two_windows_of_one(settings):
    rows = [
        version("a"),
        version("a", arrived_at=NOON + HOUR + minutes(1)),
        version("b", item_count=0),
        version("b", arrived_at=NOON + HOUR + minutes(2)),
        version("c"),
        version("c", order_value=3.0, arrived_at=NOON + HOUR + minutes(3)),
    ]
    both = Window(NOON, NOON + 2 * HOUR)
    whole = validate_orders(batch(*rows), both, settings)
    accepted, rules = [], []
    for hour in both.hours():
        inside = pl.col("known_at").is_between(hour.start, hour.end, closed="left")
        part = validate_orders(batch(*rows).filter(inside), hour, settings)
        orders_table(settings).replace(hour, part.accepted)
        accepted.append(part.accepted)
        rules += part.rejected["rule"].to_list()
    order = ["known_at", "order_id"]
    assert pl.concat(accepted).sort(order).equals(whole.accepted.sort(order))
    assert sorted(rules) == sorted(whole.rejected["rule"]) == ["conflicting_version", "duplicate_version", "item_count"]


def many(count, **changes):
    return [version(f"o{number}", **changes) for number in range(count)]


def test_a_batch_with_too_many_rejects_is_stopped(settings):
    bad = [version(f"b{number}", item_count=0) for number in range(11)]
    verdict = validate_orders(batch(*many(40), *bad), WINDOW, settings)
    assert verdict.report.stopped
    found = result(verdict, "rejected_share")
    assert (found.severity, found.passed, found.observed) == ("stop", False, round(11 / 51, 4))
    assert found.reason == "11 of 51 rows are rejected (repeated versions not counted)"


def test_a_batch_at_the_limit_is_not_stopped(settings):
    bad = [version(f"b{number}", item_count=0) for number in range(10)]
    assert not validate_orders(batch(*many(40), *bad), WINDOW, settings).report.stopped


def test_a_few_rejects_stop_no_small_batch(settings):
    verdict = validate_orders(batch(version("a"), version("b", item_count=0)), WINDOW, settings)
    assert not verdict.report.stopped
    assert "fewer than 10 stop nothing" in result(verdict, "rejected_share").reason


def test_repeated_versions_do_not_stop_a_batch(settings):
    verdict = validate_orders(batch(*many(20), *many(20)), WINDOW, settings)
    assert (verdict.accepted.height, verdict.rejected.height, verdict.report.stopped) == (20, 20, False)


@pytest.mark.parametrize("column", ["order_id", "restaurant_id", "placed_at", "status", "updated_at"])
def test_a_required_column_that_is_null_everywhere_stops_the_batch(settings, column):
    rows = batch(version()).with_columns(pl.lit(None, LAKE_SCHEMA[column]).alias(column))
    verdict = validate_orders(rows, WINDOW, settings)
    assert verdict.report.stopped
    assert (
        f"{column} is null in 1 of 1 rows; a source that lacks it" in result(verdict, f"{column}_not_all_null").reason
    )


def test_a_stopped_batch_goes_to_the_quarantine_as_a_whole(settings):
    rows = batch(*many(3)).with_columns(restaurant_id=pl.lit(None, pl.String))
    report = validate_orders(rows, WINDOW, settings).report
    kept = stopped_batch(rows, report, WINDOW)
    assert kept.schema == pl.Schema(QUARANTINE_SCHEMA)
    assert kept["rule"].unique().to_list() == ["batch_stopped"]
    assert "the whole batch was refused: restaurant_id is null in 3 of 3 rows" in kept["reason"][0]


def test_an_hour_without_orders_is_a_warning_and_not_green(settings):
    verdict = validate_orders(batch(), WINDOW, settings)
    found = result(verdict, "no_rows")
    assert (verdict.report.stopped, found.passed, found.severity) == (False, False, "warn")
    assert "not one order version became known in [2026-05-04 12:00" in found.reason


def fill_weeks(settings, *counts):
    """One lake hour per week before the window, the newest first."""
    for back, count in enumerate(counts, start=1):
        at = NOON - 7 * DAY * back
        rows = [placed(f"w{back}-{number}", placed_at=at) for number in range(count)]
        orders_table(settings).replace(Window(at, at + HOUR), lake_frame(*rows))


def test_without_history_the_row_count_says_so(settings):
    verdict = validate_orders(batch(version()), WINDOW, settings)
    assert result(verdict, "row_count").passed
    assert "no history yet" in result(verdict, "row_count").reason


@pytest.mark.parametrize(("count", "passed"), [(1, False), (2, True), (32, True), (33, False)])
def test_the_row_count_is_compared_with_the_same_hours_of_the_weeks_before(settings, count, passed):
    fill_weeks(settings, 6, 10)
    verdict = validate_orders(batch(*many(count)), WINDOW, settings)
    found = result(verdict, "row_count")
    assert (found.passed, found.severity, found.threshold) == (passed, "warn", f"2.0 to {8 * ROW_COUNT_FACTOR:.1f}")
    assert found.reason == f"{count} rows, usual in these hours of the week are 8.0"


def test_weeks_before_the_lake_began_and_weeks_that_overlap_are_left_out(settings):
    fill_weeks(settings, 6, 10)
    assert trailing_row_count(WINDOW, settings) == 8.0
    long = Window(NOON - 10 * DAY, NOON)
    assert trailing_row_count(long, settings) is None
    assert trailing_row_count(Window(NOON - 14 * DAY - HOUR, NOON - 14 * DAY), settings) is None


def test_a_quiet_week_counts_as_nothing(settings):
    fill_weeks(settings, 0, 10)
    assert trailing_row_count(WINDOW, settings) == 5.0


def test_versions_found_late_are_a_warning(settings):
    verdict = validate_orders(batch(version(), found_late=True), WINDOW, settings)
    assert (
        result(verdict, "found_late").reason == "1 versions were put into hours of the landing folder that had been run"
    )
    assert verdict.accepted.height == 1


def test_the_report_is_kept_as_json(settings):
    validate_orders(batch(version(item_count=0)), WINDOW, settings)
    report = json.loads((settings.reports / "quality" / "orders" / f"{WINDOW.slug}.json").read_text())
    assert (report["suite"], report["row_count"], report["rejected_count"], report["stopped"]) == (
        "orders",
        1,
        1,
        False,
    )
    assert {"rule", "definition", "severity", "passed", "observed", "threshold", "failed_rows", "reason"} == set(
        report["results"][0]
    )


def test_a_batch_of_another_form_is_refused_with_its_columns(settings):
    with pytest.raises(ValueError, match=r"needs the columns of the lake; wrong .*'placed_at'"):
        validate_orders(batch(version()).with_columns(pl.col("placed_at").cast(pl.String)), WINDOW, settings)


def test_rows_in_are_rows_out(settings):
    rows = batch(
        version("a"), version("a"), version("b", status="x"), placed("c"), version("d", arrived_at=NOON + 9 * HOUR)
    )
    verdict = validate_orders(rows, WINDOW, settings)
    assert verdict.accepted.height + verdict.rejected.height == rows.height
    assert set(BATCH_SCHEMA) > set(LAKE_SCHEMA)
    assert verdict.rejected["known_at"].max() < WINDOW.end + timedelta(0)

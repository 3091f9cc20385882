"""The rules for feature rows follow from a view's tags; each has a frame that breaks it."""

from __future__ import annotations

import json
from datetime import timedelta

import polars as pl
import pytest

from feature_repo.catalog import FieldInfo, ViewInfo, batch_views
from feature_repo.lake import PartitionedTable
from feature_repo.quality import features, validate_features
from feature_repo.quality.features import table_schema
from feature_repo.window import DAY, HOUR, Window
from tests.feature_repo.orders.builders import NOON, minutes

VIEW = ViewInfo(
    name="shop_stats",
    join_key="shop_id",
    ttl=timedelta(hours=26),
    fields=(
        FieldInfo("count_7d", "Int64", "orders", 0, None, max_null_share=0.0),
        FieldInfo("count_1h", "Int64", "orders", 0, None, max_null_share=0.5, at_most="count_7d"),
        FieldInfo("rate_7d", "Float64", "share", 0, 1, implies="kind"),
        FieldInfo("kind", "String", "category", None, None, "", ("new", "old")),
    ),
)
WINDOW = Window(NOON, NOON + HOUR)


@pytest.fixture(autouse=True)
def catalog(monkeypatch):
    monkeypatch.setattr(features, "batch_views", lambda: [VIEW])


def frame(count=1, **columns):
    rows = {
        "shop_id": [f"s{number}" for number in range(count)],
        "event_timestamp": [NOON + HOUR] * count,
        "created": [NOON + HOUR + minutes(10)] * count,
        "count_7d": [3] * count,
        "count_1h": [1] * count,
        "rate_7d": [0.5] * count,
        "kind": ["new"] * count,
    }
    return pl.DataFrame({**rows, **columns}, schema=table_schema(VIEW))


def found(report, rule):
    return next(one for one in report.results if one.rule == rule)


def test_good_rows_pass(settings):
    report = validate_features("shop_stats", frame(3), WINDOW, settings)
    assert (report.failures, report.stopped, report.row_count) == ([], False, 3)


def test_an_empty_frame_passes(settings):
    assert validate_features("shop_stats", frame(0), WINDOW, settings).failures == []


@pytest.mark.parametrize(
    ("rule", "columns", "reason"),
    [
        ("shop_id_not_null", {"shop_id": [None]}, "1 of 1 rows break it, for example shop_id=None"),
        ("event_timestamp_in_window", {"event_timestamp": [NOON], "created": [NOON + minutes(10)]}, "1 of 1 rows"),
        (
            "event_timestamp_in_window",
            {"event_timestamp": [NOON + 2 * HOUR], "created": [NOON + 2 * HOUR + minutes(10)]},
            "event_timestamp=2026-05-04 14:00:00+00:00",
        ),
        (
            "on_the_step",
            {"event_timestamp": [NOON + minutes(59)], "created": [NOON + minutes(69)]},
            "event_timestamp=2026-05-04 12:59:00+00:00",
        ),
        ("created_after_delay", {"created": [NOON + HOUR]}, "created=2026-05-04 13:00:00+00:00"),
        ("created_after_delay", {"created": [None]}, "created=None"),
        ("rate_7d_finite", {"rate_7d": [float("nan")]}, "rate_7d=nan"),
        ("rate_7d_range", {"rate_7d": [1.01]}, "rate_7d=1.01"),
        ("count_7d_range", {"count_7d": [-1]}, "count_7d=-1"),
        ("kind_allowed", {"kind": ["odd"]}, "kind=odd"),
        ("count_7d_null_share", {"count_7d": [None]}, "1 of 1 rows break it"),
        ("count_1h_at_most", {"count_1h": [4]}, "count_7d=3, count_1h=4"),
        ("rate_7d_implies", {"kind": [None]}, "rate_7d=0.5, kind=None"),
    ],
)
def test_a_row_outside_of_the_definition_stops_the_batch(settings, rule, columns, reason):
    report = validate_features("shop_stats", frame(**columns), WINDOW, settings)
    assert report.stopped
    assert found(report, rule).severity == "stop"
    assert not found(report, rule).passed
    assert reason in found(report, rule).reason


def test_values_at_their_limits_and_missing_ones_pass(settings):
    rows = frame(2, count_1h=[3, None], rate_7d=[None, 1.0], kind=[None, "old"])
    report = validate_features("shop_stats", rows, WINDOW, settings)
    assert report.failures == []
    assert found(report, "count_1h_at_most").threshold == "at most count_7d"
    assert found(report, "count_1h_null_share").threshold == "null in at most 0.5 of the rows"


def test_a_feature_may_be_null_before_it_began(settings):
    rows, begins = frame(2, count_7d=[None, 3]), {"count_7d": NOON + 2 * HOUR}
    assert validate_features("shop_stats", rows, WINDOW, settings, begins).failures == []
    begins = {"count_7d": NOON + HOUR}
    assert validate_features("shop_stats", rows, WINDOW, settings, begins).failures != []


def test_more_nulls_than_the_tag_allows_stop_the_batch(settings):
    report = validate_features("shop_stats", frame(3, count_1h=[1, None, None]), WINDOW, settings)
    assert [one.rule for one in report.failures] == ["count_1h_null_share"]
    assert report.stopped


def test_a_missing_event_time_stops_the_batch(settings):
    report = validate_features("shop_stats", frame(event_timestamp=[None]), WINDOW, settings)
    assert not found(report, "event_timestamp_not_null").passed


def test_two_rows_for_one_key_and_instant_stop_the_batch(settings):
    report = validate_features("shop_stats", frame(2, shop_id=["a", "a"]), WINDOW, settings)
    assert report.stopped
    assert found(report, "one_row_per_key").reason.startswith("2 of 2 rows break it, for example shop_id=a")


def test_a_missing_column_stops_the_batch(settings):
    report = validate_features("shop_stats", frame().drop("rate_7d"), WINDOW, settings)
    assert report.stopped
    assert found(report, "schema").reason == "missing: ['rate_7d']"


def test_an_undefined_column_and_a_wrong_type_stop_the_batch(settings):
    rows = frame().with_columns(pl.col("count_7d").cast(pl.Float64), extra=pl.lit(1))
    report = validate_features("shop_stats", rows, WINDOW, settings)
    assert found(report, "schema").reason == "not defined: ['extra']; count_7d is Float64, not Int64"


def remember(settings, days, **columns):
    """Earlier rows of the same hour of the day."""
    table = PartitionedTable(settings.features / "shop_stats", "event_timestamp", table_schema(VIEW), ["shop_id"])
    for back in range(1, days + 1):
        shift = timedelta(days=back)
        rows = frame(10, **columns).with_columns(pl.col("event_timestamp", "created") - shift)
        table.replace(Window(NOON + HOUR - shift, NOON + 2 * HOUR - shift), rows)


def test_without_history_nulls_pass_and_say_so(settings):
    report = validate_features("shop_stats", frame(20, rate_7d=[None] * 20), WINDOW, settings)
    assert found(report, "rate_7d_nulls").passed
    assert "20 of 20 rows are null; no history yet" in found(report, "rate_7d_nulls").reason


def test_a_feature_that_vanishes_from_all_rows_stops_the_batch(settings):
    remember(settings, 7)
    report = validate_features("shop_stats", frame(20, rate_7d=[None] * 20), WINDOW, settings)
    assert report.stopped
    assert not found(report, "rate_7d_gone").passed
    assert found(report, "rate_7d_gone").reason == (
        "20 of 20 rows are null, 0.0% of those of these hours in the seven days before"
    )


def test_a_few_rows_without_a_value_are_only_a_warning(settings):
    remember(settings, 7)
    result = found(validate_features("shop_stats", frame(3, rate_7d=[None] * 3), WINDOW, settings), "rate_7d_nulls")
    assert (result.severity, result.passed) == ("warn", False)


def test_a_feature_that_is_rarely_there_does_not_stop_the_batch(settings):
    remember(settings, 7, rate_7d=[0.5] * 4 + [None] * 6)
    report = validate_features("shop_stats", frame(20, rate_7d=[None] * 20), WINDOW, settings)
    assert not report.stopped


def test_a_rise_of_nulls_is_a_warning(settings):
    remember(settings, 7)
    few, many = [None] * 10 + [0.5] * 10, [None] * 11 + [0.5] * 9
    results = [
        found(validate_features("shop_stats", frame(20, rate_7d=values), WINDOW, settings), "rate_7d_nulls")
        for values in (few, many)
    ]
    assert [(one.severity, one.passed) for one in results] == [("warn", True), ("warn", False)]


def test_only_the_same_hours_of_the_last_seven_days_are_compared(settings):
    table = PartitionedTable(settings.features / "shop_stats", "event_timestamp", table_schema(VIEW), ["shop_id"])
    for shift in (8 * DAY, 5 * HOUR):
        rows = frame(10).with_columns(pl.col("event_timestamp", "created") - shift)
        table.replace(Window(NOON + HOUR - shift, NOON + 2 * HOUR - shift), rows)
    report = validate_features("shop_stats", frame(20, rate_7d=[None] * 20), WINDOW, settings)
    assert "no history yet" in found(report, "rate_7d_nulls").reason


def test_an_unknown_view_is_named(settings):
    with pytest.raises(KeyError, match=r"no batch view 'nope'; the catalog has \['shop_stats'\]"):
        validate_features("nope", frame(), WINDOW, settings)


def test_the_report_is_kept_as_json(settings):
    validate_features("shop_stats", frame(), WINDOW, settings)
    path = settings.reports / "quality" / "features" / "shop_stats" / f"{WINDOW.slug}.json"
    assert json.loads(path.read_text())["suite"] == "features/shop_stats"


def test_every_view_of_the_catalog_can_be_validated(settings, monkeypatch):
    monkeypatch.setattr(features, "batch_views", batch_views)
    for view in batch_views():
        empty = pl.DataFrame(schema=table_schema(view))
        assert validate_features(view.name, empty, WINDOW, settings).failures == []

"""An order's restaurant and time of placing do not change, whatever windows its versions are read in."""

from __future__ import annotations

from datetime import timedelta

import polars as pl
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from config import Settings
from feature_repo.orders.schema import BATCH_SCHEMA, LAKE_SCHEMA, orders_table
from feature_repo.quality import validate_orders, withdrawn
from feature_repo.quality.order_history import history_rules, mark_history
from feature_repo.quality.rules import severities
from feature_repo.window import HOUR, Window
from tests.feature_repo.orders.builders import NOON, lake_frame, minutes, placed, version

WINDOW = Window(NOON, NOON + HOUR)
RULES = [rule.name for rule in history_rules()]
NOTHING = pl.Series("position", [], dtype=pl.UInt32)
SECOND = timedelta(seconds=1)


def marked(rows, window, settings):
    batch = rows.with_columns(refused_rule=pl.lit(None, BATCH_SCHEMA["refused_rule"])).sort("known_at", "order_id")
    return mark_history(batch, NOTHING, window, settings)


def broken(rows, window, settings):
    """The rule that each row breaks, if any, in the order in which they became known."""
    found = marked(rows, window, settings)
    return [next((name for name in RULES if not row[name]), None) for row in found.sort("position").to_dicts()]


def later(**changes):
    return version(**{"updated_at": NOON + minutes(40), **changes})


@pytest.mark.parametrize(
    ("change", "accepted"),
    [
        ({}, True),
        ({"placed_at": NOON + minutes(1)}, True),
        ({"placed_at": NOON + 59 * SECOND}, True),
        ({"placed_at": NOON - minutes(1)}, True),
        ({"placed_at": NOON + 61 * SECOND}, False),
        ({"placed_at": NOON - 61 * SECOND}, False),
        ({"restaurant_id": "r2"}, False),
        ({"restaurant_id": "r2", "placed_at": NOON - minutes(90)}, False),
        ({"driver_id": "another", "order_value": 3.0, "customer_id": None}, True),
    ],
)
@pytest.mark.parametrize("first", ["in the batch", "in the lake", "in the lake, at the edge of the look-back"])
def test_a_version_keeps_the_restaurant_and_the_placing_of_the_first(settings, first, change, accepted):
    if first == "in the batch":
        found = broken(lake_frame(placed(), later(**change)), WINDOW, settings)[1]
    else:
        shift = HOUR if first == "in the lake" else settings.lateness_horizon
        orders_table(settings).replace(WINDOW, lake_frame(placed()))
        window = Window(NOON + shift, NOON + shift + HOUR)
        found = broken(lake_frame(later(arrived_at=NOON + shift, **change)), window, settings)[0]
    assert found == (None if accepted else "order_changed")


def test_the_reason_names_both_versions_and_the_remedy(settings):
    verdict = validate_orders(lake_frame(placed(), later(restaurant_id="r2")), WINDOW, settings)
    assert verdict.rejected.select("rule", "reason").row(0) == (
        "order_changed",
        "restaurant_id r2 and placed_at 2026-05-04 12:00:00, but the order's first version, "
        "updated_at 2026-05-04 12:00:00, has r1 and 2026-05-04 12:00:00; "
        "an order keeps both: map an order_id that no two orders share",
    )
    assert verdict.accepted.height == 1


def test_tickets_that_restart_by_hand_in_the_landing_folder_stop_the_batch(settings):
    first = [placed(str(number), placed_at=NOON + number * SECOND) for number in range(20)]
    orders_table(settings).replace(WINDOW, lake_frame(*first))
    tomorrow = NOON + 24 * HOUR
    again = [placed(str(number), placed_at=tomorrow + number * SECOND) for number in range(20)]
    verdict = validate_orders(lake_frame(*again), Window(tomorrow, tomorrow + HOUR), settings)
    assert verdict.report.stopped
    assert verdict.rejected["rule"].unique().to_list() == ["order_changed"]


def test_a_refused_version_is_nobodys_first_and_shuts_no_version_out(settings):
    rows = lake_frame(
        placed(),
        later(restaurant_id="r2"),
        later(arrived_at=NOON + minutes(45)),  # of the same id and time as the refused one
        later(restaurant_id="r2", arrived_at=NOON + minutes(50)),
    )
    assert broken(rows, WINDOW, settings) == [None, "order_changed", None, "conflicting_version"]


@st.composite
def reused(draw):
    """Versions of two ids that several orders use, corrected by seconds, minutes and hours."""
    rows = []
    for order in draw(st.lists(st.sampled_from("ab"), min_size=1, max_size=10)):
        at = NOON + draw(st.integers(0, 20)) * minutes(30) + draw(st.sampled_from([0, 40, 60, 100])) * SECOND
        updated = at + draw(st.integers(0, 2)) * minutes(30)
        known = updated + draw(st.integers(0, 3)) * minutes(30)
        row = placed(
            order, placed_at=at, updated_at=updated, arrived_at=known, order_value=draw(st.sampled_from([1.0, 2.0]))
        )
        rows.append({**row, "restaurant_id": draw(st.sampled_from(["r1", "r1", "r2"]))})
    return rows


@given(rows=reused())
@hypothesis_settings(max_examples=40, deadline=None, derandomize=True)
def test_hour_by_hour_and_in_one_go_the_same_versions_are_accepted(tmp_path_factory, rows):
    horizon = 2 * HOUR
    frame = lake_frame(*rows).filter(pl.col("known_at") <= pl.col("placed_at") + horizon).unique(maintain_order=True)
    whole, cut = Window(NOON, NOON + 14 * HOUR), tmp_path_factory.mktemp("hours")
    settings = Settings(data_dir=cut, lateness_horizon_hours=2)
    for hour in whole.hours():
        part = frame.filter(pl.col("known_at").is_between(hour.start, hour.end, closed="left"))
        if part.height:
            orders_table(settings).replace(hour, marked(part, hour, settings).filter(*RULES).select(list(LAKE_SCHEMA)))
    once = Settings(data_dir=tmp_path_factory.mktemp("once"), lateness_horizon_hours=2)
    at_once = marked(frame, whole, once).filter(*RULES).select(list(LAKE_SCHEMA))
    assert orders_table(settings).read().equals(at_once.sort(orders_table(settings).sort_by))


TAKING_BACK = [
    ([placed(), later()], {}),
    ([version(), later(status="picked_up", delivered_at=None)], {"delivered_at": 1, "status": 1}),
    ([version(), later(customer_id=None)], {"customer_id": 1}),
    (
        [version(), later(customer_id=None), version(updated_at=NOON + minutes(50), customer_id=None)],
        {"customer_id": 2},
    ),
    ([version(), later(order_value=3.0, driver_id="another")], {}),  # corrections to other values
    ([version(), later(status="cancelled", cancelled_at=NOON + minutes(39))], {}),
    # An older record that comes late knows less by nature.
    ([later(), version(arrived_at=NOON + minutes(50), delivered_at=None, status="picked_up")], {}),
    ([version("a"), later(delivered_at=None, status="picked_up")], {}),
]


@pytest.mark.parametrize("held", [0, 1])
@pytest.mark.parametrize(("rows", "counts"), TAKING_BACK)
def test_what_goes_backwards_is_counted_by_column(rows, counts, held):
    frame = lake_frame(*rows)
    result = withdrawn.judge(frame[held:], frame[:held], (), severities(Settings()))
    assert (result.passed, result.severity) == (not counts, "warn")
    assert all(f"{name} {count}" in result.reason for name, count in counts.items())
    assert result.observed == max(counts.values(), default=0)


def test_what_the_source_may_take_back_is_told_and_no_fault():
    frame = lake_frame(version(), later(status="picked_up", delivered_at=None))
    result = withdrawn.judge(frame, frame[:0], ("status", "delivered_at"), severities(Settings()))
    assert result.passed
    assert result.reason == "taken back, as the source's corrections allow: delivered_at 1, status 1"

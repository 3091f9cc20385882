"""Facts: each once, at the instant at which it first became known, with the values of that version."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from config import Settings
from feature_repo.orders.identity import SAME_PLACING
from feature_repo.orders.schema import LAKE_SCHEMA
from feature_repo.transforms import facts, fold
from feature_repo.transforms.engine import engine, evaluate, hand_over
from feature_repo.window import DAY, HOUR, Window

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
WINDOW = Window(NOON - HOUR, NOON + 2 * DAY)
BASE = {
    "order_id": "one",
    "restaurant_id": "r",
    "customer_id": "c",
    "zone_id": "z",
    "placed_at": NOON,
    "status": "placed",
    "is_asap": True,
    "order_value": 19.99,
    "updated_at": NOON,
    "known_at": NOON,
}
DELIVERED = {
    "status": "delivered",
    "accepted_at": NOON + timedelta(minutes=1),
    "picked_up_at": NOON + timedelta(minutes=11),
    "delivered_at": NOON + timedelta(minutes=31),
    "driver_id": "d",
    "promised_minutes": 31.0,
}


def known(minutes: float, **changes) -> dict:
    at = NOON + timedelta(minutes=minutes)
    return BASE | {"updated_at": at, "known_at": at} | changes


@pytest.fixture
def compute(tmp_path):
    def run(*versions: dict, window: Window = WINDOW) -> pl.DataFrame:
        bounds = (int(window.start.timestamp()), int(window.end.timestamp()))
        with engine(Settings(data_dir=tmp_path)) as connection:
            table = hand_over(connection, pl.DataFrame(list(versions), schema=LAKE_SCHEMA), "versions")
            tangled = fold.tangled_orders(connection, table)
            orders = None if tangled.is_empty() else hand_over(connection, tangled, "tangled")
            shown = evaluate(connection, facts.facts, [table, orders], frozenset(), frozenset(), bounds=bounds)
            return long(shown)

    return run


def long(found: pl.DataFrame) -> pl.DataFrame:
    """One row per fact, its name in `fact`."""
    rest = [name for name in found.columns if name not in facts.FACTS]
    return found.unpivot(facts.FACTS, index=rest, variable_name="fact").filter("value").drop("value")


def hours_of(found: pl.DataFrame) -> dict[str, int]:
    """Of the facts about orders."""
    base = int(NOON.timestamp()) // 3_600
    orders = found.filter(~pl.col("fact").is_in(facts.SHIFTS))
    return {row["fact"]: row["known_second"] // 3_600 - base for row in orders.to_dicts()}


def minutes_of_shifts(found: pl.DataFrame) -> list[tuple[str, str, str, float]]:
    """(fact, driver, zone, minutes after noon), in the order of time."""
    base = int(NOON.timestamp())
    shifts = found.filter(pl.col("fact").is_in(facts.SHIFTS)).sort("known_second", "fact", "zone_id")
    return [
        (row["fact"], row["driver_id"], row["zone_id"], (row["known_second"] - base) / 60) for row in shifts.to_dicts()
    ]


def test_one_version_can_show_several_facts(compute):
    found = compute(known(31, **DELIVERED))
    assert hours_of(found) == {"placed": 0, "accepted": 0, "picked_up": 0, "delivered": 0, "closed": 0}
    delivered = found.row(by_predicate=pl.col("fact") == "delivered", named=True)
    assert (delivered["delivery_seconds"], delivered["preparation_seconds"], delivered["on_time"]) == (1860, 600, 1)
    assert (delivered["value_cents"], delivered["too_slow"]) == (1999, None)


def test_a_correction_changes_nothing(compute):
    found = compute(known(0), known(65, order_value=5.0), known(130, **DELIVERED), known(200, **DELIVERED))
    assert hours_of(found) == {"placed": 0, "accepted": 2, "picked_up": 2, "delivered": 2, "closed": 2}
    assert found.filter(fact="placed")["value_cents"].to_list() == [1999]


def test_of_two_versions_known_at_once_the_earlier_record_counts(compute):
    found = compute(known(5, order_value=7.0), known(5, order_value=5.0, updated_at=NOON))
    assert found.filter(fact="placed")["value_cents"].to_list() == [500]


def test_a_fact_is_counted_in_the_window_in_which_it_became_known_and_in_no_other(compute):
    versions = (known(0), known(90, **DELIVERED))
    first, second = Window(NOON, NOON + HOUR), Window(NOON + HOUR, NOON + 2 * HOUR)
    assert set(hours_of(compute(*versions, window=first))) == {"placed"}
    assert set(hours_of(compute(*versions, window=second))) == {"accepted", "picked_up", "delivered", "closed"}


def test_the_last_microsecond_of_an_hour_belongs_to_it(compute):
    at = NOON + HOUR - timedelta(microseconds=1)
    assert hours_of(compute(known(0, known_at=at)))["placed"] == 0


def test_cancelled_without_acceptance_is_declined(compute):
    assert {"declined", "cancelled", "closed"} <= set(hours_of(compute(known(0), known(9, status="cancelled"))))
    accepted = known(9, status="cancelled", accepted_at=NOON)
    assert "declined" not in hours_of(compute(known(0), accepted))


def test_a_cancellation_that_does_not_repeat_the_acceptance_does_not_decline(compute):
    found = hours_of(compute(known(0), known(5, status="accepted", accepted_at=NOON), known(9, status="cancelled")))
    assert "cancelled" in found
    assert "declined" not in found


def test_a_fact_has_the_values_that_were_known_by_then_and_none_that_came_later(compute):
    events = (
        known(0, zone_id=None),
        known(1, status="accepted", accepted_at=NOON + timedelta(minutes=1), order_value=None),
        known(11, status="picked_up", picked_up_at=NOON + timedelta(minutes=11), order_value=None),
        known(31, status="delivered", delivered_at=NOON + timedelta(minutes=31), driver_id="d", promised_minutes=30.0),
        known(32, status="picked_up", driver_id="other", order_value=5.0),
    )
    found = {row["fact"]: row for row in compute(*events).to_dicts()}
    assert found["placed"]["zone_id"] is None
    assert found["picked_up"]["preparation_seconds"] == 600
    shown = [
        found["delivered"][name] for name in ("driver_id", "zone_id", "value_cents", "delivery_seconds", "too_slow")
    ]
    assert shown == ["d", "z", 1999, 1860, 1]


def test_an_older_record_that_arrives_late_shows_what_was_unknown_when_it_arrives(compute):
    late = known(31, **DELIVERED) | {"known_at": NOON + timedelta(minutes=200)}
    found = hours_of(compute(known(0), known(40, status="picked_up"), late))
    assert (found["delivered"], found["closed"]) == (3, 3)


def test_an_order_of_which_nothing_says_that_it_is_for_later_is_for_now(compute):
    found = compute(known(0, is_asap=None), known(31, **DELIVERED, is_asap=None))
    assert found.filter(fact="delivered")["delivery_seconds"].to_list() == [1860]
    assert found.filter(fact="placed")["asap"].to_list() == [1]


def test_an_id_that_comes_back_days_later_is_another_order(compute):
    later = NOON + timedelta(days=1, hours=12)
    again = known(36 * 60, placed_at=later, order_value=5.0)
    found = compute(known(0), known(31, **DELIVERED), again).filter(fact="placed")
    assert found.sort("known_second")["value_cents"].to_list() == [1999, 500]


def test_an_order_without_an_end_is_abandoned_after_a_day_and_its_late_end_does_not_count_again(compute):
    assert hours_of(compute(known(0))) == {"placed": 0, "abandoned": 24}
    found = hours_of(compute(known(0), known(25 * 60, **DELIVERED)))
    assert found["abandoned"] == 24
    assert "closed" not in found


def test_an_order_is_taken_off_where_it_was_added(compute):
    found = compute(known(0), known(9, zone_id="elsewhere", status="cancelled"))
    zones = {row["fact"]: row["zone_id"] for row in found.to_dicts()}
    assert zones == {"placed": "z", "declined": "elsewhere", "cancelled": "elsewhere", "closed": "z"}


def test_a_scheduled_order_has_no_durations(compute):
    found = compute(known(31, **DELIVERED, is_asap=False)).filter(fact="delivered")
    assert found["delivery_seconds"].to_list() == [None]
    assert found["on_time"].to_list() == [1]


def test_the_lookback_covers_the_horizon_and_an_open_day():
    assert facts.lookback(timedelta(hours=72)) == 3 * DAY + SAME_PLACING + DAY


def delivery(minutes: float, order: str, driver: str | None = "d", zone: str | None = "z") -> dict:
    return known(minutes, **DELIVERED | {"order_id": order, "driver_id": driver, "zone_id": zone})


def test_a_shift_lasts_from_a_drivers_first_delivery_until_two_hours_after_the_last(compute):
    found = compute(delivery(31, "a"), delivery(151, "b"), delivery(100, "c"), delivery(272, "d"))
    # From 151 to 272 are more than two hours; from 31 to 151 exactly two, with another delivery between them.
    assert minutes_of_shifts(found) == [
        ("shift_began", "d", "z", 31),
        ("shift_ended", "d", "z", 271),
        ("shift_began", "d", "z", 272),
        ("shift_ended", "d", "z", 392),
    ]


def test_two_hours_to_the_second_are_one_shift_and_one_second_more_are_two(compute):
    one = compute(delivery(31, "a"), delivery(151, "b"))
    assert [fact for fact, *_ in minutes_of_shifts(one)] == ["shift_began", "shift_ended"]
    two = compute(delivery(31, "a"), delivery(151 + 1 / 60, "b"))
    assert [fact for fact, *_ in minutes_of_shifts(two)] == ["shift_began", "shift_ended"] * 2


def test_deliveries_in_the_same_second_begin_one_shift(compute):
    found = minutes_of_shifts(compute(delivery(31, "a"), delivery(31, "b")))
    assert [fact for fact, *_ in found] == ["shift_began", "shift_ended"]


def test_a_driver_is_on_a_shift_in_each_zone_and_nobody_is_nowhere(compute):
    found = minutes_of_shifts(
        compute(
            delivery(31, "a"), delivery(40, "b", zone="y"), delivery(50, "c", driver=None), delivery(60, "e", zone=None)
        )
    )
    assert [(fact, zone) for fact, _, zone, _ in found] == [
        ("shift_began", "z"),
        ("shift_began", "y"),
        ("shift_ended", "z"),
        ("shift_ended", "y"),
    ]


def test_a_shift_that_began_before_the_window_does_not_begin_again_in_it(compute):
    versions = (delivery(31, "a"), delivery(90, "b"))
    found = minutes_of_shifts(compute(*versions, window=Window(NOON + HOUR, NOON + 6 * HOUR)))
    assert found == [("shift_ended", "d", "z", 210)]

"""Facts: each once, in the hour in which it first became known, with the values of that version."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from config import Settings
from feature_repo.orders.schema import LAKE_SCHEMA
from feature_repo.transforms import facts
from feature_repo.transforms.engine import engine
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
        import ibis

        with engine(Settings(data_dir=tmp_path)) as connection:
            table = ibis.memtable(pl.DataFrame(list(versions), schema=LAKE_SCHEMA))
            tied = connection.to_polars(facts.tied_orders(table))
            return long(connection.to_polars(facts.facts(table, window, tied)))

    return run


def long(found: pl.DataFrame) -> pl.DataFrame:
    """One row per fact, its name in `fact`."""
    rest = [name for name in found.columns if name not in facts.FACTS]
    return found.unpivot(facts.FACTS, index=rest, variable_name="fact").filter("value").drop("value")


def hours_of(found: pl.DataFrame) -> dict[str, int]:
    base = int(NOON.timestamp()) // 3_600
    return {row["fact"]: row["known_hour"] - base for row in found.to_dicts()}


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
    assert facts.lookback(timedelta(hours=72)) == 3 * DAY + DAY

"""The marketplace has the properties that features and checks are made for."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest

from simulator.clock import HOUR_US, microseconds
from simulator.market import Market
from simulator.versions import order_versions
from simulator.world import LONGEST_HOURS, World
from tests.simulator.conftest import landed, with_known_at

FIRST_HOUR = microseconds(datetime(2026, 4, 1, tzinfo=UTC)) // HOUR_US


@pytest.fixture(scope="module")
def rows(month):
    return with_known_at(landed(month[0]))


@pytest.fixture(scope="module")
def delivered(rows, month):
    """Delivered ASAP orders with their minutes and the oracle's."""
    minutes = (pl.col("delivered_at") - pl.col("placed_at")).dt.total_seconds() / 60
    chosen = rows.filter(pl.col("status") == "delivered", pl.col("is_asap")).unique("order_id", maintain_order=True)
    oracle = pl.read_parquet(month[1]).drop("placed_at", "is_asap")
    return chosen.with_columns(minutes=minutes).filter(pl.col("minutes") > 0).join(oracle, on="order_id")


def by_hour(orders: pl.DataFrame) -> dict[int, int]:
    return dict(orders.group_by(pl.col("placed_at").dt.hour()).len().iter_rows())


def test_an_hour_is_the_same_whichever_hours_were_looked_at_before():
    straight, jumping = World(5, 2_000), World(5, 2_000)
    wanted = [straight.orders(FIRST_HOUR + step) for step in range(4)][3]
    for hour in (FIRST_HOUR + 40, FIRST_HOUR + 3):
        found = jumping.orders(hour)
    for name, values in wanted.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


def test_lunch_and_dinner_are_busy_and_the_night_is_quiet(delivered):
    counts = by_hour(delivered)
    assert min(counts[hour] for hour in (12, 19)) > 2 * max(counts[hour] for hour in (9, 15, 22))
    assert max(counts[hour] for hour in range(1, 7)) < counts[15]


def test_weekends_are_busier_than_the_beginning_of_the_week(delivered):
    days = dict(delivered.group_by(pl.col("placed_at").dt.weekday()).len().iter_rows())
    assert min(days[5], days[6]) > max(days[1], days[2])


def test_rain_raises_demand():
    world = World(5, 2_000)
    hours = range(FIRST_HOUR, FIRST_HOUR + 24 * 30)
    zones = len(world.market.zones.names)
    rain = np.array([world.weather(hour) for hour in hours])
    usual = np.array([world.market.hourly_orders(hour) for hour in hours])
    made = np.array([np.bincount(world._arrivals_of(hour).zone, minlength=zones) for hour in hours])
    wet, dry = rain > 1, rain == 0
    assert made[wet].sum() / usual[wet].sum() > 1.1 * made[dry].sum() / usual[dry].sum()


def test_a_crowded_zone_delivers_later_than_the_same_zone_at_the_same_hour_when_it_is_not(delivered):
    place = ["zone_id", pl.col("placed_at").dt.hour().alias("hour")]
    slots = delivered.group_by(*place, pl.col("placed_at").dt.date().alias("date")).agg(
        pl.len().alias("count"), pl.col("minutes").mean()
    )
    usual = pl.col("count").mean().over("zone_id", "hour")
    dinner = slots.filter(pl.col("hour").is_in([12, 19]))
    crowded = dinner.filter(pl.col("count") > 1.3 * usual)["minutes"].mean()
    calm = dinner.filter(pl.col("count") < 0.7 * usual)["minutes"].mean()
    assert crowded > calm + 3


def test_load_counts_the_orders_of_the_last_hour_in_the_zone():
    world = World(5, 2_000)
    hour = FIRST_HOUR + 12
    before, now = world._arrivals_of(hour - 1), world._arrivals_of(hour)
    placed, zone = np.r_[before.placed, now.placed], np.r_[before.zone, now.zone]
    capacity = world.market.zones.capacity * world.market.zones.tide.at(hour / 24)
    expected = [
        ((zone == z) & (placed >= t - HOUR_US) & (placed < t)).sum() / capacity[z]
        for t, z in zip(now.placed, now.zone, strict=True)
    ]
    np.testing.assert_allclose(world.load(hour), expected)
    assert len(expected) > 50


def test_restaurants_and_zones_keep_their_pace(delivered):
    half = delivered["placed_at"].median()
    for key in ("restaurant_id", "zone_id"):
        means = [
            delivered.filter(side).group_by(key).agg(pl.col("minutes").mean(), pl.len()).filter(pl.col("len") > 60)
            for side in (pl.col("placed_at") < half, pl.col("placed_at") >= half)
        ]
        both = means[0].join(means[1], on=key)
        assert both.select(pl.corr("minutes", "minutes_right")).item() > 0.7, key


def test_farther_orders_take_longer(delivered):
    known = delivered.filter(pl.col("distance_km") < 100)
    assert known.select(pl.corr("distance_km", "minutes")).item() > 0.3


def test_the_oracle_is_unbiased_and_far_better_than_the_mean(delivered):
    minutes = delivered["minutes"]
    naive = (minutes - minutes.mean()).abs().mean()
    floor = (minutes - delivered["expected_minutes"]).abs().mean()
    assert 35 < minutes.mean() < 40
    assert 9 < naive < 12
    assert 4 < floor < 5.5
    assert (minutes - delivered["expected_minutes"]).mean() == pytest.approx(0, abs=0.2)
    assert (minutes - delivered["expected_minutes_with_driver"]).abs().mean() < floor


def test_orders_have_the_promised_shares(rows):
    last = rows.filter(pl.col("status") != "placed").unique("order_id")
    shares = last.select(
        scheduled=(~pl.col("is_asap")).mean(),
        cancelled=(pl.col("status") == "cancelled").mean(),
        declined=(pl.col("cancelled_at").is_not_null() & pl.col("accepted_at").is_null()).mean(),
        no_customer=pl.col("customer_id").is_null().mean(),
        no_zone=pl.col("zone_id").is_null().mean(),
        no_distance=pl.col("distance_km").is_null().mean(),
        no_driver=(pl.col("driver_id").is_null() & (pl.col("status") == "delivered")).mean(),
    ).row(0, named=True)
    assert shares["scheduled"] == pytest.approx(0.08, abs=0.01)
    assert shares["cancelled"] == pytest.approx(0.055, abs=0.015)
    assert shares["declined"] == pytest.approx(0.028, abs=0.012)
    assert shares["no_zone"] == pytest.approx(0.005, abs=0.003)
    for name in ("no_customer", "no_distance", "no_driver"):
        assert shares[name] == pytest.approx(0.01, abs=0.004), name


def test_a_first_version_knows_only_the_request(rows):
    first = rows.filter(pl.col("status") == "placed")
    later = ["driver_id", "accepted_at", "picked_up_at", "delivered_at", "cancelled_at"]
    assert first.select(pl.col(later).is_null().all()).row(0) == (True,) * 5


def test_stages_follow_each_other_but_for_a_little_dirt(rows):
    done = rows.filter(pl.col("status") == "delivered").select(
        early=(pl.col("placed_at") <= pl.col("accepted_at")) & (pl.col("accepted_at") <= pl.col("picked_up_at")),
        late=pl.col("picked_up_at") <= pl.col("delivered_at"),
        recorded=pl.max_horizontal("picked_up_at", "delivered_at") <= pl.col("updated_at"),
    )
    assert done["early"].all()
    assert done["recorded"].all()
    assert 0 < (~done["late"]).sum() < 0.002 * done.height


def test_late_versions_duplicates_and_dirt_have_their_shares(rows):
    lateness = (pl.col("known_at") - pl.max_horizontal("placed_at", "delivered_at", "cancelled_at")).dt.total_minutes()
    unique = rows.unique(pl.exclude("arrived_at", "known_at"))
    assert unique.select((lateness > 1).mean()).item() == pytest.approx(0.01, abs=0.003)
    age = pl.col("known_at") - pl.col("placed_at")
    assert 3 < unique.filter(age > pl.duration(hours=72)).height < 60
    assert 1 - unique.height / rows.height == pytest.approx(0.005, abs=0.002)
    dirty = (
        (pl.col("distance_km") > 100).fill_null(False)
        | (pl.col("order_value") < 0)
        | (pl.col("item_count") < 1)
        | (pl.col("delivered_at") < pl.col("placed_at")).fill_null(False)
    )
    assert rows.select(dirty.mean()).item() == pytest.approx(0.001, abs=0.0005)


def test_versions_of_an_order_are_recorded_in_turn(rows):
    turns = rows.group_by("order_id").agg(
        first=pl.col("updated_at").filter(pl.col("status") == "placed").max(),
        last=pl.col("updated_at").filter(pl.col("status") != "placed").min(),
    )
    assert turns.filter(pl.col("first") >= pl.col("last")).height == 0


def test_no_version_becomes_known_later_than_the_lookback_covers():
    world = World(5, 20_000)
    for hour in range(FIRST_HOUR, FIRST_HOUR + 24):
        versions = order_versions(world.orders(hour), world.market)
        latest = versions.select((pl.col("known_at") - pl.col("placed_at")).max()).item()
        assert latest.total_seconds() < 3600 * LONGEST_HOURS


def test_a_small_market_has_the_base_size_and_a_large_one_grows():
    small, large = Market.draw(7, 100), Market.draw(7, 250_000 / 120 * 4)
    sizes = [
        [len(group.names) for group in (market.zones, market.restaurants, market.drivers, market.customers)]
        for market in (small, large)
    ]
    assert sizes == [[12, 400, 300, 20_000], [24, 1_600, 1_200, 80_000]]
    assert len(set(large.customers.names)) == 80_000


def test_a_participant_is_picked_within_the_zone_in_proportion_to_its_weight():
    restaurants = Market.draw(7, 2_000).restaurants
    luck = (np.arange(20_000) + 0.5) / 20_000
    for zone in (0, 11):
        picked = restaurants.pick(np.full(len(luck), zone), luck)
        assert set(restaurants.zone[picked]) == {zone}
        inside = restaurants.zone == zone
        share = np.bincount(picked, minlength=len(inside))[inside] / len(luck)
        np.testing.assert_allclose(share, restaurants.weight[inside] / restaurants.weight[inside].sum(), atol=1e-3)


def test_few_customers_place_many_of_the_orders(rows):
    counts = rows.filter(pl.col("status") == "placed")["customer_id"].drop_nulls().value_counts(sort=True)["count"]
    assert counts.head(len(counts) // 10).sum() > 0.3 * counts.sum()

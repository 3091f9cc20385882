"""`latest_orders` against a brute-force search, over random histories with ties, corrections and late arrivals."""

from __future__ import annotations

import tempfile
from datetime import timedelta
from pathlib import Path

import polars as pl
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from config import Settings
from feature_repo.orders import latest_orders, order_versions, orders_table
from feature_repo.orders.schema import LAKE_SCHEMA
from feature_repo.window import DAY, HOUR, Window
from tests.feature_repo.orders.builders import NOON, lake_frame, minutes, placed, version

HALF_HOURS = st.integers(0, 8).map(lambda count: minutes(30 * count))


@st.composite
def histories(draw):
    """Versions of a few orders; times lie on a coarse grid so that ties and boundaries are common."""
    rows = []
    for number in range(draw(st.integers(1, 4))):
        at = NOON + draw(HALF_HOURS)
        keys = draw(st.lists(st.tuples(HALF_HOURS, HALF_HOURS), min_size=1, max_size=4, unique_by=lambda key: key[0]))
        for value, (recorded, delay) in enumerate(keys):
            corrected = draw(st.sampled_from([timedelta(0)] * 4 + [minutes(-30)]))
            updated_at = at + recorded
            rows.append(
                placed(
                    f"o{number}",
                    placed_at=min(at + corrected, updated_at),
                    order_value=float(value),
                    updated_at=updated_at,
                    arrived_at=updated_at + delay,
                )
            )
    return rows


def expected(frame, window, as_of):
    """Each order's winner by plain search."""
    best = {}
    for row in frame.iter_rows(named=True):
        key = (row["updated_at"], row["known_at"])
        if row["known_at"] <= as_of and (row["order_id"] not in best or key > best[row["order_id"]][0]):
            best[row["order_id"]] = (key, row)
    rows = [row for _, row in best.values() if window.start <= row["placed_at"] < window.end]
    return sorted(rows, key=lambda row: row["order_id"])


@given(rows=histories(), start=st.integers(0, 4), length=st.integers(1, 4), seen=st.integers(-2, 18))
@example(rows=[placed(), version(order_value=1.0)], start=0, length=1, seen=1)
@hypothesis_settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_latest_orders_equals_a_plain_search(rows, start, length, seen):
    window = Window(NOON + start * HOUR, NOON + (start + length) * HOUR)
    as_of = NOON + minutes(30 * seen)
    with tempfile.TemporaryDirectory() as directory:
        settings = Settings(data_dir=Path(directory), lateness_horizon_hours=9)
        frame = lake_frame(*rows)
        orders_table(settings).replace(Window(NOON - DAY, NOON + 2 * DAY), frame)
        found = latest_orders(settings, window, as_of).collect().sort("order_id")
    assert found.to_dicts() == expected(frame, window, as_of)
    assert found.schema == pl.Schema(LAKE_SCHEMA)


def test_a_correction_recorded_earlier_but_learnt_later_does_not_win(settings):
    newest = version(order_value=2.0, updated_at=NOON + minutes(40))
    belated = version(order_value=1.0, updated_at=NOON + minutes(35), arrived_at=NOON + 5 * HOUR)
    orders_table(settings).replace(Window(NOON, NOON + 6 * HOUR), lake_frame(newest, belated))
    window = Window(NOON, NOON + HOUR)
    assert latest_orders(settings, window, NOON + 6 * HOUR).collect()["order_value"].to_list() == [2.0]


def test_a_version_known_exactly_at_the_instant_is_seen_and_a_later_one_is_not(settings):
    orders_table(settings).replace(
        Window(NOON, NOON + 2 * HOUR), lake_frame(placed(), version(updated_at=NOON + HOUR, delivered_at=NOON + HOUR))
    )
    window = Window(NOON, NOON + HOUR)
    seen = [
        latest_orders(settings, window, NOON + HOUR - step).collect()["status"].item()
        for step in (HOUR * 0, minutes(1))
    ]
    assert seen == ["delivered", "placed"]


def test_nothing_is_seen_before_the_window(settings):
    orders_table(settings).replace(Window(NOON, NOON + HOUR), lake_frame(placed()))
    assert latest_orders(settings, Window(NOON, NOON + HOUR), NOON - minutes(1)).collect().is_empty()


def test_only_the_days_that_can_matter_are_opened(settings):
    orders_table(settings).replace(Window(NOON, NOON + HOUR), lake_frame(placed()))
    for day in (NOON - 2 * DAY, NOON + 5 * DAY):
        path = orders_table(settings).file(day)
        path.parent.mkdir(parents=True)
        path.write_bytes(b"would raise if it were opened")
    assert latest_orders(settings, Window(NOON, NOON + HOUR), NOON + 30 * DAY).collect().height == 1


def test_order_versions_reads_the_window(settings):
    orders_table(settings).replace(
        Window(NOON, NOON + 2 * HOUR), lake_frame(placed("a"), version("b", updated_at=NOON + HOUR))
    )
    assert order_versions(settings, Window(NOON, NOON + HOUR)).collect()["order_id"].to_list() == ["a"]

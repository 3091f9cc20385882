"""Landed = accepted + quarantined, row for row, hour by hour and in one go, whenever duplicates come."""

from __future__ import annotations

from datetime import timedelta

import polars as pl
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from config import Settings
from feature_repo.orders import orders_table, read_landing
from feature_repo.orders.schema import LAKE_SCHEMA, quarantine_table, row_text
from feature_repo.window import HOUR, Window
from tests.feature_repo.orders.builders import NOON, complete, land, minutes, placed

HOURS = 5
REFUSED = pl.lit("refused"), pl.lit("by a test")


def run(settings, window):
    """Read a window as the pipeline does; what is marked by its value or repeats a version goes to the quarantine."""
    batch = read_landing(window, settings)
    earlier = orders_table(settings).scan(Window(NOON, window.start)) if window.start > NOON else None
    seen = earlier.select("order_id", "updated_at").collect() if earlier is not None else batch.head(0)
    key = ["order_id", "updated_at"]
    again = batch.with_row_index("n").join(seen.select(key), on=key, how="semi")["n"]
    bad = (
        ~batch.select(pl.struct(key).is_first_distinct()).to_series()
        | batch.with_row_index("n")["n"].is_in(again.implode())
        | (batch["order_value"] < 0)
    )
    good, rejected = batch.filter(~bad), batch.filter(bad)
    orders_table(settings).replace(window, good.select(list(LAKE_SCHEMA)))
    rows = rejected.select(
        "known_at",
        "order_id",
        rule=REFUSED[0],
        reason=REFUSED[1],
        row=pl.coalesce("source_row", row_text()),
        window=pl.lit(window.slug),
    )
    quarantine_table(settings).replace(window, rows)
    return batch


def recorded(settings, table):
    return table(settings).scan().select(pl.len()).collect().item()


# Each landing: an order, the minute at which it was recorded, its value, and the hour in which its file comes.
HISTORY = [
    ("a", 3, 20.0, 0),
    ("a", 3, 20.0, 3),  # a duplicate that comes late
    ("b", 10, -1.0, 0),
    ("b", 10, -1.0, 2),  # a duplicate of a refused one
    ("c", 70, 20.0, 1),
    ("c", 70, 20.0, 1),  # twice in one file
    ("d", 20, 20.0, 4),  # late, and for the first time
    ("d", 20, 20.0, 4),
    ("a", 3, 20.0, 4),  # a third time
]


def land_hour(settings, history, hour):
    landing = [row for row in history if row[3] == hour]
    rows = [placed(order, updated_at=NOON + minutes(at), order_value=value) for order, at, value, _ in landing]
    if rows:
        land(settings, *rows, name=f"hour-{hour}")
    complete(settings, NOON + (hour + 1) * HOUR)
    return len(rows)


@given(copies=st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from([3, 70, 130]), st.integers(0, 4)), max_size=12))
@hypothesis_settings(max_examples=6, deadline=None, derandomize=True)
def test_every_landed_row_is_in_the_lake_or_in_the_quarantine_after_each_hour(tmp_path_factory, copies):
    history = [(order, at, -1.0 if at == 70 else 20.0, hour) for order, at, hour in copies]
    assert_adds_up(tmp_path_factory.mktemp("landing"), history)


def test_duplicates_that_land_late_are_counted(tmp_path):
    assert_adds_up(tmp_path, HISTORY)


def assert_adds_up(directory, history):
    settings = Settings(data_dir=directory / "hourly", lateness_horizon_hours=72)
    history = [("first", 0, 20.0, 0), *[(o, at, value, max(hour, at // 60)) for o, at, value, hour in history]]
    landed = 0
    for hour, window in enumerate(Window(NOON, NOON + HOURS * HOUR).hours()):
        landed += land_hour(settings, history, hour)
        batch = run(settings, window)
        assert run(settings, window).equals(batch), "the same again when the hour is run again"
        assert recorded(settings, orders_table) + recorded(settings, quarantine_table) == landed
    once = Settings(data_dir=directory / "once")
    for hour in range(HOURS):
        land_hour(once, history, hour)
    run(once, Window(NOON, NOON + HOURS * HOUR))
    assert recorded(once, orders_table) + recorded(once, quarantine_table) == landed
    assert recorded(once, orders_table) == recorded(settings, orders_table)


@pytest.mark.parametrize("copies", [2, 3])
def test_rows_that_were_refused_at_the_door_are_each_recorded(settings, copies):
    path = land(settings, *[placed("x") for _ in range(copies)])
    refused = {"refused_rule": pl.lit("unparsable"), "refused_reason": pl.lit("no"), "source_row": pl.lit("{}")}
    pl.read_parquet(path).with_columns(**refused, order_value=pl.lit(-1.0)).write_parquet(path)
    complete(settings, NOON + 2 * HOUR)
    assert run(settings, Window(NOON, NOON + HOUR)).height == copies
    assert read_landing(Window(NOON + HOUR, NOON + 2 * HOUR), settings).is_empty()
    assert read_landing(Window(NOON, NOON + HOUR), settings).height == copies


def test_a_new_file_of_an_old_version_is_a_duplicate_although_the_old_file_is_gone(settings):
    path = land(settings, placed("x"))
    complete(settings, NOON + 2 * HOUR)
    run(settings, Window(NOON, NOON + HOUR))
    path.unlink()
    land(settings, placed("x", arrived_at=NOON + HOUR + timedelta(minutes=5)))
    assert read_landing(Window(NOON + HOUR, NOON + 2 * HOUR), settings).height == 1

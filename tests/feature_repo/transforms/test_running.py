"""Both ways to running sums give the same, whatever the events."""

from __future__ import annotations

import ibis.expr.types as ir
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from config import Settings
from feature_repo.transforms.engine import engine, evaluate, hand_over, running_sums
from feature_repo.transforms.running import by_windows, in_one_pass

SCHEMA = {"key": pl.String, "at": pl.Int64, "value": pl.Int64, "other": pl.Int64, "newest": pl.Int64}
EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["", "a", "b", "ab", "ß"]),
        st.integers(0, 5),
        st.integers(-(2**40), 2**40),
        st.integers(-3, 3),
        st.none() | st.integers(-5, 5),
    ),
    max_size=30,
)


COLUMNS = (("value", "other"), ("newest",))


def all_windows(events: ir.Table) -> ir.Table:
    return by_windows(events, *COLUMNS)


def ordered(events: ir.Table, *_bounds: ir.IntegerScalar) -> ir.Table:
    return events.order_by("key", "at")


def every_row(sums: ir.Table) -> ir.Table:
    return sums.order_by("key", "at")


def both_ways(events: pl.DataFrame, configured: Settings) -> tuple[pl.DataFrame, pl.DataFrame]:
    sums, maxima = COLUMNS
    with engine(configured) as connection:
        table = hand_over(connection, events, "events")
        passed = running_sums(connection, ordered, [table], bounds=(0, 0), sums=sums, maxima=maxima)
        found = evaluate(connection, all_windows, [table]), evaluate(connection, every_row, [passed])
    return tuple(frame.select("key", "at", "until", "value", "other", "newest").sort("key", "at") for frame in found)


@given(rows=EVENTS)
@settings(max_examples=60, deadline=None)
def test_both_ways_give_the_same(rows, tmp_path_factory):
    events = pl.DataFrame(rows, SCHEMA, orient="row")
    expected, found = both_ways(events, Settings(data_dir=tmp_path_factory.mktemp("data")))
    assert_frame_equal(found, expected)


def test_sums_run_along_a_key_and_a_maximum_outlives_nulls():
    events = pl.DataFrame(
        [("a", 1, 2, 0, 7), ("a", 1, 3, 0, None), ("a", 4, -1, 0, None), ("b", 2, 10, 0, None)], SCHEMA, orient="row"
    )
    found = in_one_pass(events, ["value"], ["newest"])
    assert found.rows() == [("a", 1, 4, 5, 7), ("a", 4, None, 4, 7), ("b", 2, None, 10, None)]


def test_keys_that_leave_64_bits_together_are_summed_exactly():
    most = 2**63 - 1
    events = pl.DataFrame([("a", 1, most, 0, 0), ("b", 1, most, 0, 0), ("b", 2, -5, 0, 0)], SCHEMA, orient="row")
    assert in_one_pass(events, ["value"], [])["value"].to_list() == [most, most, most - 5]

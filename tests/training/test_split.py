"""The split goes by time, and no label crosses it."""

from __future__ import annotations

from datetime import timedelta

import polars as pl
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.training.conftest import AS_OF, market
from training.errors import DatasetError
from training.models import get_spec
from training.split import split_by_time

SPEC = get_spec("delivery_time")


def test_the_parts_follow_each_other_in_time():
    split = split_by_time(market(), SPEC)
    assert split.train["placed_at"].max() < split.validation["placed_at"].min()
    assert split.validation["placed_at"].max() < split.test["placed_at"].min()
    assert [part.height + gap for part, gap in zip(split.parts().values(), [*split.gap.values(), 0], strict=True)] == [
        2100,
        450,
        450,
    ]


def test_a_label_that_was_not_known_when_the_next_part_began_is_left_out_and_counted():
    late = (pl.int_range(pl.len()) % 100 == 0) & (pl.int_range(pl.len()) < 2550)
    rows = market().with_columns(
        label_known_at=pl.when(late).then(pl.lit(AS_OF)).otherwise(pl.col("placed_at") + pl.duration(seconds=1))
    )
    split = split_by_time(rows, SPEC)
    assert split.gap == {"train": 21, "validation": 5}
    assert split.train["label_known_at"].max() <= split.validation_start
    assert split.validation["label_known_at"].max() <= split.test_start
    assert split.test.height == 450


@given(seconds=st.lists(st.integers(0, 40), min_size=3, max_size=60), delay=st.integers(0, 5))
@hypothesis_settings(max_examples=60, deadline=None)
def test_no_history_with_ties_lets_a_row_or_a_label_cross(seconds, delay):
    start = AS_OF - timedelta(days=1)
    placed = [start + timedelta(seconds=second) for second in seconds]
    rows = pl.DataFrame(
        {"order_id": [str(number) for number in range(len(placed))], "placed_at": placed},
        schema_overrides={"placed_at": pl.Datetime("us", "UTC")},
    ).with_columns(label_known_at=pl.col("placed_at") + timedelta(seconds=delay))
    try:
        split = split_by_time(rows, SPEC)
    except DatasetError:
        return
    parts = [split.train, split.validation, split.test]
    assert sum(part.height for part in parts) + sum(split.gap.values()) == rows.height
    assert split.train["placed_at"].max() < split.validation["placed_at"].min()
    assert split.validation["placed_at"].max() < split.test["placed_at"].min()
    assert split.train["label_known_at"].max() <= split.validation["placed_at"].min()


@pytest.mark.parametrize("count", [0, 2])
def test_too_few_rows_have_a_message(count):
    with pytest.raises(DatasetError, match=f"{count} rows cannot be split"):
        split_by_time(market().head(count), SPEC)


def test_one_instant_for_all_rows_has_a_message():
    rows = market().with_columns(placed_at=pl.lit(AS_OF))
    with pytest.raises(DatasetError, match="the history is too short"):
        split_by_time(rows, SPEC)

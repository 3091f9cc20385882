"""The paired bootstrap: right about noise, honest about rows that depend on each other."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from training.comparison import paired_bootstrap

START = datetime(2026, 4, 1, tzinfo=UTC)


def instants(count: int, step: timedelta) -> pl.Series:
    return pl.Series([START + number * step for number in range(count)], dtype=pl.Datetime("us", "UTC"))


def test_of_independent_rows_the_interval_is_that_of_the_central_limit_theorem():
    draw = np.random.default_rng(1).normal(0.1, 1.0, 4000)
    found = paired_bootstrap(draw, instants(4000, timedelta(minutes=15)), seed=1)
    assert (found.rows, found.blocks, found.block) == (4000, 42, "day")
    assert found.mean == pytest.approx(draw.mean())
    assert found.high - found.low == pytest.approx(2 * 1.96 / np.sqrt(4000), rel=0.25)


def test_rows_that_share_their_days_luck_are_not_counted_as_independent():
    days, rows = 20, 200
    luck = np.repeat(np.random.default_rng(2).normal(0, 1, days), rows)
    found = paired_bootstrap(luck, instants(days * rows, timedelta(days=1) / rows), seed=1)
    assert found.high - found.low > 0.6  # 2 x 1.96 / sqrt(20); as independent rows it would be 0.06


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    covered = 0
    for seed in range(100):
        draw = np.random.default_rng(seed).normal(0.0, 1.0, 900)
        found = paired_bootstrap(draw, instants(900, timedelta(hours=1)), seed=seed)
        covered += found.low <= 0 <= found.high
    assert 88 <= covered <= 99


@pytest.mark.parametrize(
    ("count", "step", "block"),
    [
        (100, timedelta(days=1), "day"),
        (100, timedelta(minutes=40), "6 hours"),
        (100, timedelta(minutes=10), "hour"),
        (100, timedelta(seconds=1), "row"),
    ],
)
def test_the_longest_block_that_leaves_enough_of_them_is_taken(count, step, block):
    assert paired_bootstrap(np.ones(count), instants(count, step), seed=1).block == block


def test_the_same_seed_gives_the_same_interval():
    draw = np.random.default_rng(3).normal(0, 1, 500)
    assert paired_bootstrap(draw, instants(500, timedelta(hours=1)), 7) == paired_bootstrap(
        draw, instants(500, timedelta(hours=1)), 7
    )

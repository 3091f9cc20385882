"""Every row against brute force: which rows there are, and what is in them."""

from __future__ import annotations

import random
from datetime import timedelta

import polars as pl
import pytest

from config import Settings
from feature_repo.transforms import compute
from feature_repo.transforms.views import TRANSFORMS
from feature_repo.window import HOUR
from tests.feature_repo.transforms import histories, oracle

SAMPLE = 2_000


@pytest.fixture(scope="module", params=[1, 2, 3])
def history(request, tmp_path_factory):
    settings = Settings(data_dir=tmp_path_factory.mktemp("oracle"))
    versions = histories.random_history(seed=request.param)
    window = histories.write_lake(versions, settings)
    tiles = compute.compute_tiles(window, settings)
    return window, oracle.facts_of(versions, window.end), compute.compute_rows(window, tiles, settings)


def assert_same(found: dict, expected: dict, where: object) -> None:
    for name, value in expected.items():
        if isinstance(value, float):
            assert found[name] == pytest.approx(value, rel=1e-9, abs=1e-9), (where, name)
        else:
            assert found[name] == value, (where, name)


def test_rows_stand_where_a_window_changes_and_hold_what_was_known(history):
    window, facts, rows = history
    for view, frame in rows.items():
        key = TRANSFORMS[view].key
        found = {(row[key], row["event_timestamp"]): row for row in frame.to_dicts()}
        assert len(found) == frame.height
        assert set(found) == oracle.row_instants(view, window.start, window.end, facts)
        # Of a live view every row is looked for, and of their values a part: they are a hundred times as many.
        dice = random.Random(1)
        looked_at = found.items() if frame.height < SAMPLE else dice.sample(sorted(found.items()), SAMPLE)
        for (entity, at), row in looked_at:
            assert_same(row, oracle.features(view, entity, at, facts), (view, entity, at))


def test_between_two_rows_nothing_changes_but_the_days_since_the_last_order(history):
    window, facts, rows = history
    dice = random.Random(0)
    for view, frame in rows.items():
        key = TRANSFORMS[view].key
        for entity in frame[key].unique():
            at = window.start + dice.randrange(1, (window.end - window.start) // HOUR) * HOUR
            seen = frame.filter((pl.col(key) == entity) & (pl.col("event_timestamp") <= at)).sort("event_timestamp")
            if seen.is_empty() or at - seen["event_timestamp"][-1] > timedelta(hours=24):
                continue
            expected = oracle.features(view, entity, at, facts)
            expected.pop("days_since_last_order", None)
            assert_same(seen.to_dicts()[-1], expected, (view, entity, at))


def test_rows_are_promised_after_the_publication_delay(history):
    _, _, rows = history
    minutes = {view: 2 if TRANSFORMS[view].is_live else 10 for view in rows}
    for view, frame in rows.items():
        delays = (frame["created"] - frame["event_timestamp"]).unique().to_list()
        assert delays == [timedelta(minutes=minutes[view])]

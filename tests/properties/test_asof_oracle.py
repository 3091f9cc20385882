"""The as-of store against a brute-force oracle, and against Feast's DuckDB store, on random histories."""

from __future__ import annotations

import tempfile
from datetime import UTC, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pandas as pd
import polars as pl
import pytest
from feast.infra.offline_stores.duckdb import DuckDBOfflineStore
from hypothesis import example, given, settings
from hypothesis import strategies as st

from feature_repo.stores import join
from feature_repo.stores.asof import AsOfOfflineStore
from tests.feature_repo.stores.helpers import at, entity_frame, history, repo_config, view, write

FactRow = tuple[str | None, int, int | None, int]
EntityRow = tuple[str | None, int]

# Few keys and few instants, so that ties, boundaries and corrections happen all the time.
minutes = st.integers(0, 12)
facts = st.lists(
    st.tuples(st.sampled_from(["a", "b", None]), minutes, st.sampled_from([None, -2, 0, 1, 5])), max_size=30
).map(
    lambda rows: [
        (key, event, None if delay is None else event + delay, value) for value, (key, event, delay) in enumerate(rows)
    ]
)
entities = st.lists(st.tuples(st.sampled_from(["a", "b", "c", None]), st.integers(-2, 18)), max_size=25)
ttls = st.one_of(st.none(), st.integers(1, 8))


def oracle(rows: list[FactRow], asked: list[EntityRow], ttl: int | None, cutoff: bool) -> list[int | None]:
    """Look at every row for every question."""
    answers: list[int | None] = []
    for key, t in asked:
        known = [
            (event, event if created is None else created, value)
            for of, event, created, value in rows
            if key is not None and of == key and event <= t and not (cutoff and created is not None and created > t)
        ]
        best = max(known, default=None)  # values grow in file order, so they break full ties as the store does
        answers.append(best[2] if best is not None and (ttl is None or best[0] >= t - ttl) else None)
    return answers


@settings(max_examples=400, deadline=None)
@given(rows=facts, asked=entities, ttl=ttls, cutoff=st.booleans(), limit=st.one_of(st.none(), st.integers(1, 9)))
@example(rows=[("a", 3, 9, 0), ("a", 2, 2, 1)], asked=[("a", 8), ("a", 9)], ttl=None, cutoff=True, limit=None)
@example(rows=[("a", 5, 5, 0), ("a", 5, 7, 1)], asked=[("a", 5), ("a", 6), ("a", 7)], ttl=None, cutoff=True, limit=1)
@example(rows=[("a", 5, 5, 0)], asked=[("a", 4), ("a", 5), ("a", 8), ("a", 9)], ttl=3, cutoff=True, limit=None)
def test_join_equals_brute_force(
    rows: list[FactRow], asked: list[EntityRow], ttl: int | None, cutoff: bool, limit: int | None
) -> None:
    left = pl.DataFrame(
        {"restaurant_id": [key for key, _ in asked], "t": [at(t) for _, t in asked]},
        schema={"restaurant_id": pl.String, "t": pl.Datetime("us", "UTC")},
    )
    with mock.patch.object(join, "BYTES_PER_ROW", 1 << 20):  # as many rows at once as the limit says
        answers = join.asof_join(
            left,
            history(rows).lazy(),
            join.Columns(["restaurant_id"], "event_timestamp", "created", ["orders"]),
            at="t",
            ttl=None if ttl is None else timedelta(minutes=ttl),
            cutoff=cutoff,
            memory_limit_mebibytes=limit,
        )
    assert answers["orders"].to_list() == oracle(rows, asked, ttl, cutoff)


def historical(store: Any, config: Any, views: list[Any], frame: pd.DataFrame, **options: Any) -> pd.DataFrame:
    no_on_demand_views = SimpleNamespace(list_on_demand_feature_views=lambda *_, **__: [])
    refs = [f"{item.name}:{name}" for item in views for name in ("orders", "minutes")]
    job = store.get_historical_features(
        config, views, refs, frame, no_on_demand_views, "delivery_eta", full_feature_names=True, **options
    )
    return job.to_df()


@settings(max_examples=40, deadline=None)
@given(first=facts, second=facts, asked=entities.filter(len), ttl=ttls, cutoff=st.booleans(), aware=st.booleans())
def test_store_equals_brute_force_on_two_views(
    first: list[FactRow], second: list[FactRow], asked: list[EntityRow], ttl: int | None, cutoff: bool, aware: bool
) -> None:
    frame = entity_frame(asked).assign(order=range(len(asked)))
    if not aware:
        frame["event_timestamp"] = frame["event_timestamp"].dt.tz_localize(None)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        config = repo_config(
            root, offline={"type": "feature_repo.stores.asof.AsOfOfflineStore", "knowledge_cutoff": cutoff}
        )
        life = None if ttl is None else timedelta(minutes=ttl)
        views = [
            view(write(history(rows), root / f"{part}.parquet"), name=part, ttl=life)
            for part, rows in (("first", first), ("second", second))
        ]
        result = historical(AsOfOfflineStore, config, views, frame)
    assert result["order"].to_list() == list(range(len(asked)))
    for part, rows in (("first", first), ("second", second)):
        expected = pd.Series(oracle(rows, asked, ttl, cutoff), dtype="float64")
        pd.testing.assert_series_equal(result[f"{part}__orders"].astype("float64"), expected, check_names=False)


@settings(max_examples=25, deadline=None)
@given(rows=facts, asked=entities.filter(len), ttl=ttls, cutoff=st.booleans())
def test_store_equals_feasts_duckdb_store(
    rows: list[FactRow], asked: list[EntityRow], ttl: int | None, cutoff: bool
) -> None:
    # Feast leaves open which row wins when both times agree, and keys without an entity are its users' own business.
    distinct = list(
        {
            (key, event, created): (key, event, created, n)
            for key, event, created, n in rows
            if key is not None and created is not None
        }.values()
    )
    frame = entity_frame([row for row in asked if row[0] is not None])
    if not len(frame):
        return
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        item = view(
            write(history(distinct), root / "rows.parquet"), ttl=None if ttl is None else timedelta(minutes=ttl)
        )
        ours_config = repo_config(
            root, offline={"type": "feature_repo.stores.asof.AsOfOfflineStore", "knowledge_cutoff": cutoff}
        )
        ours = historical(AsOfOfflineStore, ours_config, [item], frame.copy())
        theirs = historical(
            DuckDBOfflineStore,
            repo_config(root, offline={"type": "duckdb"}),
            [item],
            frame.assign(order=range(len(frame))),
            filter_by_created_timestamp=cutoff,
        ).sort_values("order", ignore_index=True)
    # Duplicated entity rows: Feast's join multiplies or keeps them, but each copy has the same answer.
    assert ours["event_timestamp"].dt.tz == UTC or str(ours["event_timestamp"].dt.tz) == "UTC"
    expected = theirs.drop_duplicates("order").reset_index(drop=True)
    for column in ("restaurant_stats__orders", "restaurant_stats__minutes"):
        pd.testing.assert_series_equal(ours[column].astype("float64"), expected[column].astype("float64"))


def test_oracle_notices_a_leak() -> None:
    """The oracle itself: a correction created at 9 must not be seen at 8."""
    rows: list[FactRow] = [("a", 1, 1, 10), ("a", 1, 9, 11)]
    assert oracle(rows, [("a", 8), ("a", 9)], None, True) == [10, 11]
    assert oracle(rows, [("a", 8), ("a", 9)], None, False) == [11, 11]
    with pytest.raises(AssertionError):
        assert oracle(rows, [("a", 8)], None, False) == oracle(rows, [("a", 8)], None, True)

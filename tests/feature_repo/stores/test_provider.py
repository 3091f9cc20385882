"""What is pushed is checked against the declared types before Feast makes it fit, and before anything is written."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import redis
from feast import FeatureStore, FeatureView, Field, FileSource, PushSource, RepoConfig
from feast.data_source import PushMode
from feast.types import Float64, Int64, String

from feature_repo.stores.declared import NotAsDeclared
from feature_repo.stores.provider import CheckedProvider
from tests.feature_repo.stores.helpers import AS_OF, at, history, restaurant, view, write
from tests.feature_repo.stores.test_redis_online import OURS, row, write_rows

REFS = ["restaurant_stats:orders", "restaurant_stats:minutes"]


@pytest.fixture
def opened(redis_url: str, tmp_path: Path) -> FeatureStore:
    """A store into whose view rows are pushed."""
    write(history([("a", 0, 0, 1)]), tmp_path / "rows.parquet")
    source = FileSource(
        path=str(tmp_path / "rows.parquet"), timestamp_field="event_timestamp", created_timestamp_column="created"
    )
    item = FeatureView(
        name="restaurant_stats",
        entities=[restaurant],
        schema=[
            Field(name="restaurant_id", dtype=String),
            Field(name="orders", dtype=Int64),
            Field(name="minutes", dtype=Float64),
        ],
        source=PushSource(name="pushed", batch_source=source),
    )
    config = RepoConfig(
        project="delivery_eta",
        provider="feature_repo.stores.provider.CheckedProvider",
        registry={"registry_type": "sql", "path": f"sqlite:///{tmp_path / 'registry.db'}"},
        offline_store=AS_OF,
        online_store={**OURS, "connection_string": redis_url},
        entity_key_serialization_version=3,
    )
    store = FeatureStore(config=config)
    store.apply([restaurant, item])
    return store


def frame(**columns: Any) -> pd.DataFrame:
    given = {
        "restaurant_id": ["a", "b"], "event_timestamp": [at(1), at(1)], "created": [at(2), at(2)],
        "orders": [7, 8], "minutes": [0.5, None], **columns,
    }  # fmt: skip
    return pd.DataFrame({name: values for name, values in given.items() if values is not None})


REFUSED = {
    "fraction": ({"orders": [7, 3.5]}, "'orders' is declared Int64, but the data frame to write online has 3.5"),
    "text": ({"orders": ["7", "8"]}, "'orders' is declared Int64, but .* has string"),
    "mixed": ({"orders": [7, "8"]}, "has a column of mixed types .*orders"),
    "truth": ({"orders": [True, False]}, "'orders' is declared Int64, but .* has bool"),
    "text for a float": ({"minutes": ["a", "b"]}, "'minutes' is declared Float64, but .* has string"),
    "number as key": ({"restaurant_id": [1, 2]}, "'restaurant_id' is declared String, but .* has int64"),
    "no key": ({"restaurant_id": ["a", None]}, "'restaurant_id' .* lacks it in 1 of 2 rows, the first of them row 1"),
    "no time": ({"event_timestamp": [at(1), None]}, "'event_timestamp' .* lacks it in 1 of 2 rows"),
    "number as time": ({"event_timestamp": [1, 2]}, "'event_timestamp' .* has int64: write time stamps"),
    "column missing": ({"created": None}, r"has no columns \['created'\]"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_frame_that_does_not_fit_is_refused_by_name(case: str) -> None:
    columns, message = REFUSED[case]
    with pytest.raises(NotAsDeclared, match=f"restaurant_stats: .*{message}"):
        CheckedProvider._prep_rows_to_write_for_ingestion(view("unused"), frame(**columns))


def test_refused_push_writes_nothing_whichever_way_it_comes(
    opened: FeatureStore, redis_url: str, tmp_path: Path
) -> None:
    rows, before = frame(orders=[7, 3.5]), (tmp_path / "rows.parquet").read_bytes()
    for push in (
        lambda: opened.push("pushed", rows),
        lambda: opened.push("pushed", rows, to=PushMode.ONLINE_AND_OFFLINE),
        lambda: opened.push("pushed", rows, to=PushMode.OFFLINE),
        lambda: opened.write_to_online_store("restaurant_stats", rows),
        lambda: asyncio.run(opened.write_to_online_store_async("restaurant_stats", rows)),
    ):
        with pytest.raises(NotAsDeclared, match=r"'orders' is declared Int64, but .* has 3.5"):
            push()
    assert redis.Redis.from_url(redis_url).dbsize() == 0
    assert (tmp_path / "rows.parquet").read_bytes() == before


def test_push_is_read_back_alike_on_both_sides(opened: FeatureStore) -> None:
    rows = frame(orders=[7.0, None], event_timestamp=pd.to_datetime(["2026-05-01 12:01", "2026-05-01 12:01"]))
    opened.push("pushed", rows, to=PushMode.ONLINE_AND_OFFLINE)
    online = opened.get_online_features(REFS, [{"restaurant_id": "a"}, {"restaurant_id": "b"}]).to_dict()
    assert (online["orders"], online["minutes"]) == ([7, None], [0.5, None])
    asked = pd.DataFrame({"restaurant_id": ["a", "b"], "event_timestamp": [at(9)] * 2})
    offline = opened.get_historical_features(asked, REFS).to_df()
    assert offline.fillna(-1)[["orders", "minutes"]].to_numpy().tolist() == [[7, 0.5], [-1, -1]]


def test_columns_of_other_views_may_be_in_the_frame() -> None:
    rows = CheckedProvider._prep_rows_to_write_for_ingestion(view("unused"), frame(other=[1, 2]))
    assert [values["orders"].int64_val for _, values, *_ in rows] == [7, 8]


def test_rows_of_another_type_than_declared_are_refused_by_the_store_itself(redis_url: str, tmp_path: Path) -> None:
    key, values, event, created = row("a", 0, 0, 1)
    values["orders"].double_val = 3.5
    with pytest.raises(NotAsDeclared, match="'orders' is declared Int64, but the rows to write has double_val"):
        write_rows(tmp_path, [row("b", 0, 0, 1), (key, values, event, created)], connection_string=redis_url)
    assert redis.Redis.from_url(redis_url).dbsize() == 0

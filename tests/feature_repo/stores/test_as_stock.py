"""What Feast's own tests ask of stores, in small: periods without an entity frame, units of time, lists, 1970."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from feast import FeatureView, Field, FileSource, RepoConfig
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Array, Bool, FeastType, Float32, Int32, Int64, String, UnixTimestamp

from feature_repo.stores import materialize, questions
from feature_repo.stores.asof import AsOfOfflineStore
from feature_repo.stores.declared import NotAsDeclared
from feature_repo.stores.latest import EVENT, Source, batches
from feature_repo.stores.parquet import Period
from feature_repo.stores.redis_online import LatestWinsRedisOnlineStore
from tests.feature_repo.stores.helpers import AS_OF, at, entity_frame, history, repo_config, restaurant, view, write
from tests.feature_repo.stores.test_redis_online import OURS, row, write_rows

ROWS = history([("a", 0, 0, 1), ("a", 10, 30, 2), ("b", 20, 20, 3)])


def ask(directory: Path, items: list[FeatureView], frame: pd.DataFrame | None, **options: Any) -> pa.Table:
    cutoff = options.pop("knowledge_cutoff", True)
    config = repo_config(directory, offline={**AS_OF, "knowledge_cutoff": cutoff})
    nothing = SimpleNamespace(list_on_demand_feature_views=lambda *_, **__: [])
    refs = [f"{item.name}:orders" for item in items]
    return AsOfOfflineStore.get_historical_features(
        config, items, refs, frame, nothing, "delivery_eta", **options
    ).to_arrow()


def answers(table: pa.Table) -> list[Any]:
    rows = zip(table["restaurant_id"].to_pylist(), table["event_timestamp"].to_pylist(), table["orders"].to_pylist(),
               strict=True)  # fmt: skip
    return [(key, round((time - at(0)).total_seconds() / 60), orders) for key, time, orders in rows]


@pytest.mark.parametrize(
    ("cutoff", "start", "end", "expected"),
    [
        (False, 0, 30, [("a", 0, 1), ("a", 10, 2), ("b", 20, 3)]),
        (True, 0, 30, [("a", 0, 1), ("b", 20, 3), ("a", 30, 2)]),  # an instant is when the row became known
        (True, 0, 29, [("a", 0, 1), ("b", 20, 3)]),  # what becomes known after the end is not there
        (False, 1, 10, [("a", 10, 2)]),  # both ends belong to it
        (False, 40, 50, []),
    ],
)
def test_period_without_entities_asks_each_key_at_each_of_its_instants(
    tmp_path: Path, cutoff: bool, start: float, end: float, expected: list[Any]
) -> None:
    item = view(write(ROWS, tmp_path / "r.parquet"))
    table = ask(tmp_path, [item], None, start_date=at(start), end_date=at(end), knowledge_cutoff=cutoff)
    assert answers(table) == expected


def test_period_of_views_with_other_keys_is_refused(tmp_path: Path) -> None:
    here = view(write(ROWS, tmp_path / "r.parquet"))
    there = view(tmp_path / "r.parquet", name="there")
    there.projection.join_key_map = {"restaurant_id": "other_id"}
    with pytest.raises(ValueError, match=r"same join keys only, not of .*other_id.*: give an entity_df"):
        ask(tmp_path, [here, there], None, start_date=at(0), end_date=at(1))


def test_period_of_a_source_without_a_file_is_empty(tmp_path: Path) -> None:
    table = ask(tmp_path, [view(tmp_path / "absent")], None, start_date=at(0), end_date=at(1))
    assert (table.num_rows, table.column_names) == (0, ["restaurant_id", "event_timestamp", "orders"])


@pytest.mark.parametrize(
    "change",
    [
        pl.col("event_timestamp", "created").dt.cast_time_unit("ns"),
        pl.col("event_timestamp", "created").dt.cast_time_unit("ms"),
        pl.col("event_timestamp", "created").dt.replace_time_zone(None),
        pl.col("created").dt.replace_time_zone(None).dt.cast_time_unit("ns"),
    ],
)
def test_any_unit_and_naive_times_are_the_same_instants(tmp_path: Path, change: pl.Expr) -> None:
    path = write(ROWS.with_columns(change), tmp_path / "r.parquet")
    asked = entity_frame([("a", 10), ("a", 30), ("b", 20)])
    assert ask(tmp_path, [view(path)], asked)["orders"].to_pylist() == [1, 2, 3]
    source = Source([str(path)], {"restaurant_id": "restaurant_id"}, "event_timestamp", "created")
    found = pl.concat(batches(source, Period(at(10), at(20)), lambda _: None))
    assert found[EVENT].to_list() == [at(10), at(20)]


@pytest.mark.parametrize(
    ("declared", "values", "element"),
    [
        (Int32, [[1, 2], []], pa.int64()),
        (Int64, [[1, 2], None], pa.int64()),
        (Float32, [[0.5], []], pa.float64()),
        (Bool, [[True, False], []], pa.bool_()),
        (String, [["a"], []], pa.string()),
        (UnixTimestamp, [[datetime(2026, 5, 1, tzinfo=UTC)], []], pa.timestamp("us", "UTC")),
    ],
)
def test_lists_come_back_as_lists_of_what_they_hold(
    tmp_path: Path, declared: FeastType, values: list[Any], element: pa.DataType
) -> None:
    item = FeatureView(
        name="lists", entities=[restaurant],
        schema=[Field(name="restaurant_id", dtype=String), Field(name="orders", dtype=Array(declared))],
        source=FileSource(path=str(tmp_path / "r.parquet"), timestamp_field="event_timestamp"),
    )  # fmt: skip
    frame = pd.DataFrame({"restaurant_id": ["a", "b"], "event_timestamp": [at(0)] * 2, "orders": values})
    frame.to_parquet(tmp_path / "r.parquet")
    column = ask(tmp_path, [item], entity_frame([("a", 1), ("b", 1)]))["orders"]
    assert (column.type, column.to_pylist()) == (pa.list_(element), values)


@pytest.mark.parametrize("instants", [[1_777_000_000], [1_777_000_000.5], [True], ["now", 7]])
def test_numbers_are_no_instants(instants: list[Any]) -> None:
    with pytest.raises(ValueError, match=r"'at' of the entity frame holds the number .* cannot be told apart"):
        questions.as_utc(pd.Series(instants, name="at"))


@pytest.mark.parametrize("text", ["03/05/2026 12:00", "May 3 2026", "noon"])
def test_texts_that_are_read_differently_in_different_countries_are_no_instants(text: str) -> None:
    with pytest.raises(ValueError, match="'at' of the entity frame holds texts that are not times in ISO 8601"):
        questions.as_utc(pd.Series([text], name="at"))


def test_row_of_1970_is_there_and_a_newer_one_replaces_it(redis_url: str, tmp_path: Path) -> None:
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    key, values, *_ = row("a", 0, 0, 1)
    write_rows(tmp_path, [(key, values, epoch, epoch)], connection_string=redis_url)
    config = repo_config(tmp_path, online={**OURS, "connection_string": redis_url})
    online = LatestWinsRedisOnlineStore()

    def read() -> Any:
        time, found = online.online_read(config, view("unused"), [key, row("zz", 0, 0, 0)[0]], ["orders"])[0]
        return time, found and found["orders"].int64_val

    assert read() == (epoch, 1)
    write_rows(tmp_path, [row("a", 0, 0, 2)], connection_string=redis_url)
    assert read() == (at(0), 2)
    write_rows(tmp_path, [(key, values, epoch, epoch)], connection_string=redis_url)
    assert read() == (at(0), 2)


def test_view_without_a_ttl_attribute_is_read(redis_url: str, tmp_path: Path) -> None:
    """An on-demand view that is written at materialisation has none."""
    write_rows(tmp_path, [row("a", 0, 0, 1)], connection_string=redis_url)
    config: RepoConfig = repo_config(tmp_path, online={**OURS, "connection_string": redis_url})
    on_demand: Any = SimpleNamespace(name="restaurant_stats", features=view("unused").features, projection=None)
    ((_, found),) = LatestWinsRedisOnlineStore().online_read(config, on_demand, [row("a", 0, 0, 0)[0]], ["orders"])
    assert found is not None
    assert found["orders"] == Value(int64_val=1)


def test_materialised_value_of_another_type_is_refused(tmp_path: Path) -> None:
    rows = ROWS.rename({"event_timestamp": "__event", "created": "__created"}).with_columns(orders=3.5)
    with pytest.raises(NotAsDeclared, match=r"'orders' is declared Int64, but its source has 3\.5"):
        materialize.encoded_rows(rows, view("unused"), repo_config(tmp_path))


def test_the_products_own_configuration_asks_for_the_cut_off() -> None:
    import yaml

    from config.settings import ROOT

    configuration = yaml.safe_load((ROOT / "feature_repo" / "feature_store.yaml").read_text())
    assert configuration["offline_store"]["knowledge_cutoff"] is True
    assert configuration["provider"] == "feature_repo.stores.provider.CheckedProvider"

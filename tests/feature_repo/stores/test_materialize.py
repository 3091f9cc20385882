"""The batch engine through `FeatureStore.materialize`, beside stock Feast, with bad files and a Redis that dies."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pytest
import redis
from feast import BatchFeatureView, Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.data_format import ParquetFormat
from feast.types import Array, Bool, Float32, Float64, Int32, Int64, Json, String, UnixTimestamp
from tqdm import tqdm

from config import Settings, get_settings
from feature_repo.store import apply, feature_store
from feature_repo.stores.latest import Source
from feature_repo.stores.materialize import LatestRowsEngine
from feature_repo.stores.parquet import TIMESTAMP, Period, UnusableSource
from feature_repo.stores.redis_online import OnlineStoreUnavailable, feast_connection_string, stamp_field
from feature_repo.transforms.tables import feature_table
from feature_repo.transforms.views import TRANSFORMS
from stack.ports import CLUSTER_BUS, free_port
from tests.feature_repo.stores.helpers import NOON, at, history, restaurant, store, view, write
from tests.feature_repo.stores.test_redis_online import OURS
from tests.servers import RedisServer
from tests.waiting import wait_until

ENGINE = "feature_repo.stores.materialize.LatestRowsEngine"
STATS = "restaurant_stats"

hour = Entity(name="hour", join_keys=["hour_of_day"], value_type=ValueType.INT32)
zone = Entity(name="zone", join_keys=["zone_number"], value_type=ValueType.INT64)


def opened(directory: Path, objects: list[Any], engine: dict[str, Any] | None = None, **online: Any) -> FeatureStore:
    return store(directory, objects, online={**OURS, **online}, batch_engine={"type": ENGINE, **(engine or {})})


def stock(directory: Path, objects: list[Any], url: str) -> FeatureStore:
    online = {"type": "redis", "connection_string": feast_connection_string(url)}
    return store(directory, objects, offline={"type": "duckdb"}, online=online)


def dump(url: str) -> dict[bytes, dict[bytes, bytes]]:
    """All of a Redis but the created times, which only our store keeps."""
    client = redis.Redis.from_url(url)
    hashes = {key: client.hgetall(key) for key in client.scan_iter()}
    return {
        key: {name: data for name, data in fields.items() if not name.startswith(b"_created:")}
        for key, fields in hashes.items()
    }


def orders(url: str) -> dict[str, int | None]:
    """The feature `orders` by restaurant."""
    from feast.infra.key_encoding_utils import deserialize_entity_key
    from feast.infra.online_stores.helpers import _mmh3
    from feast.protos.feast.types.Value_pb2 import Value

    found = {}
    for key, fields in dump(url).items():
        value = Value.FromString(fields[_mmh3(f"{STATS}:orders")])
        name = deserialize_entity_key(key.removesuffix(b"delivery_eta")).entity_values[0].string_val
        found[name] = value.int64_val if value.HasField("int64_val") else None
    return found


def source(path: Path, **options: Any) -> FileSource:
    times = {"timestamp_field": "event_timestamp", "created_timestamp_column": "created"}
    return FileSource(name="rows", path=str(path), file_format=ParquetFormat(), **{**times, **options})


def wide_rows() -> pl.DataFrame:
    """Two rows for each of six (zone, hour), the second one newer, in all types."""
    count = 12
    return pl.DataFrame(
        {
            "zone": pl.Series([n % 3 - 1 for n in range(count)], dtype=pl.Int64),
            "hour_of_day": pl.Series([n % 2 for n in range(count)], dtype=pl.Int32),
            "event_timestamp": pl.Series([at(n) for n in range(count)], dtype=TIMESTAMP),
            "created": pl.Series([at(n + 10.5) for n in range(count)], dtype=TIMESTAMP),
            "a_double": [None if n % 5 == 0 else n / 3 for n in range(count)],
            "a_float": pl.Series([n / 7 for n in range(count)], dtype=pl.Float32),
            "a_long": pl.Series([-(10**n) for n in range(count)], dtype=pl.Int64),
            "an_int": pl.Series([n - 6 for n in range(count)], dtype=pl.Int32),
            "a_truth": [n % 3 == 0 for n in range(count)],
            "a_text": [None if n % 7 == 0 else "ä" * n for n in range(count)],
            "a_time": pl.Series([at(-n * 1e6) for n in range(count)], dtype=TIMESTAMP),
            "a_list": [[n / 2, 1.0] for n in range(count)],
            "words": [["a"] * (n % 3 + 1) for n in range(count)],
        }
    )


def wide_view(path: Path) -> FeatureView:
    kinds = {
        "a_double": Float64, "a_float": Float32, "a_long": Int64, "an_int": Int32, "a_truth": Bool, "a_text": String,
        "a_time": UnixTimestamp, "a_list": Array(Float64), "words": Array(String),
    }  # fmt: skip
    keys = {"zone_number": Int64, "hour_of_day": Int32}
    return FeatureView(
        name="wide",
        entities=[zone, hour],
        schema=[Field(name=name, dtype=kind) for name, kind in {**keys, **kinds}.items()],
        source=source(path, field_mapping={"zone": "zone_number"}),
    )


def nobodys_view(path: Path) -> FeatureView:
    return FeatureView(name="nobodys", entities=[], schema=[Field(name="orders", dtype=Int64)], source=source(path))


@pytest.mark.parametrize("name", ["composite keys, mapped columns, all types", "one key"])
def test_redis_holds_what_stock_feast_would_have_written(settings: Settings, tmp_path: Path, name: str) -> None:
    rows = history([("a", 0, 9, 1), ("a", 1, 9, 2), ("b", 1, 9, None), ("b", 0, 99, 3), ("é", 2, 9, -4)])
    objects: list[Any]
    if name == "one key":
        objects = [view(write(rows, tmp_path / "rows.parquet"))]
    else:
        objects = [zone, hour, wide_view(write(wide_rows(), tmp_path / "rows.parquet"))]
    opened(tmp_path / "ours", objects).materialize(at(-60), at(60))
    other = settings.redis_url.removesuffix("/0") + "/1"
    stock(tmp_path / "stock", objects, other).materialize(at(-60), at(60))
    assert len(dump(other)) == (3 if name == "one key" else 6)
    assert dump(settings.redis_url) == dump(other)


def test_view_without_entities_has_one_row_that_a_stock_client_reads(settings: Settings, tmp_path: Path) -> None:
    """Stock Feast 0.67 cannot materialise such a view, and reads it only beside one that has entities."""
    path = write(history([("a", 1, 9, 2), ("b", 0, 9, 1), (None, 2, 9, 3)]), tmp_path / "rows.parquet")
    objects = [nobodys_view(path), view(path)]
    opened(tmp_path / "ours", objects).materialize(at(-60), at(60))
    client = stock(tmp_path / "stock", objects, settings.redis_url)
    answer = client.get_online_features(["nobodys:orders", f"{STATS}:minutes"], [{"restaurant_id": "a"}]).to_dict()
    assert answer == {"restaurant_id": ["a"], "orders": [3], "minutes": [1.0]}


def test_period_is_inclusive_and_ties_go_to_the_later_created_then_to_the_later_row(
    settings: Settings, tmp_path: Path
) -> None:
    rows = [("a", 0, 5, 1), ("a", 0, 9, 2), ("a", 0, 7, 3), ("b", 0, None, 4), ("b", 0, 0, 5), ("c", 60, 0, 6)]
    outside = [("a", 60.001, 0, 8), ("d", -0.001, 0, 7), (None, 0, 0, 9)]
    opened(tmp_path, [view(write(history([*rows, *outside]), tmp_path / "r.parquet"))]).materialize(at(0), at(60))
    assert orders(settings.redis_url) == {"a": 2, "b": 5, "c": 6}


@pytest.mark.parametrize("rows_in_memory", [2, 7, 10_000])
def test_any_bound_of_memory_ends_in_the_same_state(settings: Settings, tmp_path: Path, rows_in_memory: int) -> None:
    rows = [(f"r{n * 7 % 10}", n * 37 % 50, n % 4, n) for n in range(100)]
    for part in range(5):
        write(history(rows[part::5]), tmp_path / "rows" / f"{part}.parquet")
    opened(tmp_path, [view(tmp_path / "rows")], {"rows_in_memory": rows_in_memory}).materialize(at(-60), at(60))
    ordered = [row for part in range(5) for row in rows[part::5]]
    newest = {key: value for key, _, _, value in sorted(ordered, key=lambda row: row[1:3])}
    assert orders(settings.redis_url) == newest


def test_only_what_the_period_touches_is_read(tmp_path: Path) -> None:
    rows = history([("a", minute, minute, minute) for minute in range(60)])
    rows.write_parquet(tmp_path / "rows.parquet", row_group_size=10)
    files = Source([str(tmp_path / "rows.parquet")], {"orders": "orders"}, "event_timestamp", None)
    assert files.rows(Period(at(20), at(29))) == 10
    assert files.rows(Period(at(19), at(29))) == 20
    assert files.rows(Period()) == 60


class Bar(tqdm):  # type: ignore[type-arg]
    """Feast's progress bar, which calls `on_update` with what it says."""

    on_update: Callable[[Bar], Any] = staticmethod(lambda bar: None)

    def update(self, n: float | None = 1) -> bool | None:
        updated = super().update(n)
        type(self).on_update(self)
        return updated


def materialize_with_bar(store: FeatureStore, name: str, on_update: Callable[[Bar], Any]) -> None:
    bar = type("Bar", (Bar,), {"on_update": staticmethod(on_update)})
    store._get_provider().materialize_single_feature_view(
        store.config,
        store.get_feature_view(name),
        at(-60),
        at(1e6),
        store.registry,
        store.project,
        lambda total: bar(total=total, mininterval=0),
    )


def test_progress_tells_the_rows_read_and_the_keys_written(settings: Settings, tmp_path: Path) -> None:
    path = write(history([(f"r{n % 7}", n, n, n) for n in range(50)]), tmp_path / "rows.parquet")
    seen: dict[str, tuple[float, float]] = {}
    materialize_with_bar(
        opened(tmp_path, [view(path)], rows_per_round_trip=3),
        STATS,
        lambda bar: seen.update({bar.desc: (bar.n, bar.total)}),
    )
    assert seen == {"rows read: ": (50, 50), "keys written: ": (7, 7)}


def test_what_is_newer_in_redis_stays(settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(history([("a", 5, 5, 5), ("b", 1, 1, 1)]), tmp_path / "rows.parquet")
    repository = opened(tmp_path, [view(path)])
    repository.materialize(at(0), at(10))
    write(history([("a", 4, 99, 4), ("b", 2, 2, 2)]), path)
    with caplog.at_level(logging.INFO):
        repository.materialize(at(0), at(10))
    assert orders(settings.redis_url) == {"a": 5, "b": 2}
    assert "restaurant_stats: 2 rows read, 2 keys found, 1 written" in caplog.messages


@pytest.mark.parametrize("what", ["no directory", "nothing in the period", "no row"])
def test_view_without_data_brings_nothing_online(settings: Settings, tmp_path: Path, what: str) -> None:
    path = tmp_path / "rows" / "rows.parquet"
    if what != "no directory":
        write(history([("a", -500, 0, 1)] if what == "nothing in the period" else []), path)
    opened(tmp_path, [view(tmp_path / "rows")]).materialize(at(-60), at(60))
    assert dump(settings.redis_url) == {}


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def _damage_a_page(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[4:200] = b"\xff" * 196
    path.write_bytes(data)


def _rewrite(change: Callable[[pl.DataFrame], pl.DataFrame]) -> Callable[[Path], None]:
    return lambda path: change(pl.read_parquet(path)).write_parquet(path)


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "truncated": (_truncate, "cannot be read as Parquet"),
    "a damaged page": (_damage_a_page, "cannot be read as Parquet"),
    "a column is missing": (_rewrite(lambda rows: rows.drop("orders")), r"has no columns \['orders'\]"),
    "another type": (_rewrite(lambda rows: rows.cast({"orders": pl.Float64})), "other column types"),
    "naive times": (_rewrite(lambda rows: rows.cast({"created": pl.Datetime("us")})), r"other column types .*created"),
    "nanoseconds": (
        _rewrite(lambda rows: rows.cast({"event_timestamp": pl.Datetime("ns", "UTC")})),
        r"other column types .*event_timestamp",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
def test_unusable_file_is_named_and_mending_it_completes_the_run(settings: Settings, tmp_path: Path, name: str) -> None:
    damage, message = DAMAGES[name]
    good, bad = tmp_path / "rows" / "day=2026-05-01" / "a.parquet", tmp_path / "rows" / "day=2026-05-02" / "b.parquet"
    write(history([("a", 1, 1, 1), ("b", 1, 1, 1)]), good)
    rows = history([("b", 2, 2, 2), ("c", 2, 2, 2)])
    write(rows, bad)
    damage(bad)
    repository = opened(tmp_path, [view(tmp_path / "rows")])
    with pytest.raises(UnusableSource, match=message) as caught:
        repository.materialize(at(-60), at(60))
    assert str(bad) in str(caught.value)
    assert dump(settings.redis_url) == {}
    write(rows, bad)
    repository.materialize(at(-60), at(60))
    assert orders(settings.redis_url) == {"a": 1, "b": 2, "c": 2}


@pytest.fixture
def start_redis(tmp_path: Path) -> Iterator[Callable[..., RedisServer]]:
    with ExitStack() as started:

        def start(*options: str, port: int | None = None) -> RedisServer:
            server = RedisServer(tmp_path, *options, port=port)
            started.callback(server.kill)
            return server

        yield start


def test_redis_that_dies_half_way_is_told_and_the_next_run_completes_it(
    settings: Settings, tmp_path: Path, start_redis: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start_redis("--appendonly", "yes", "--appendfsync", "always")
    url, port = server.url, server.port
    monkeypatch.setenv("ETA_REDIS_URL", url)
    get_settings.cache_clear()
    path = write(history([(f"r{n}", n, n, n) for n in range(500)]), tmp_path / "rows.parquet")
    repository = opened(tmp_path, [view(path)], rows_per_round_trip=50)

    def kill(bar: Bar) -> None:
        if bar.desc.startswith("keys written") and bar.n >= 100:
            server.kill()

    with pytest.raises(OnlineStoreUnavailable, match=rf"127\.0\.0\.1:{port} does not answer .*start it"):
        materialize_with_bar(repository, STATS, kill)
    with pytest.raises(OnlineStoreUnavailable, match="does not answer"):
        repository.materialize(at(-60), at(1e6))
    server.start()
    kept = orders(url)
    assert 100 <= len(kept) < 500
    assert all(kept[f"r{n}"] == n for n in range(100))
    repository.materialize(at(-60), at(1e6))
    assert orders(url) == {f"r{n}": n for n in range(500)}


def test_redis_cluster_holds_the_same(settings: Settings, tmp_path: Path, start_redis: Callable[..., Any]) -> None:
    port = free_port(CLUSTER_BUS)
    start_redis("--cluster-enabled", "yes", port=port)
    node = redis.Redis(port=port)
    node.execute_command("CLUSTER", "ADDSLOTS", *range(16384))
    wait_until(lambda: b"cluster_state:ok" in node.execute_command("CLUSTER", "INFO"), "the cluster is well")
    objects = [view(write(history([("a", 0, 0, 1), ("a", 1, 1, 2), ("b", 0, 0, 3)]), tmp_path / "rows.parquet"))]
    opened(tmp_path / "single", objects).materialize(at(-60), at(60))
    cluster = {"redis_type": "redis_cluster", "connection_string": f"127.0.0.1:{port}"}
    opened(tmp_path / "cluster", objects, **cluster).materialize(at(-60), at(60))
    assert dump(f"redis://127.0.0.1:{port}") == dump(settings.redis_url) != {}


def _minute_as_orders(rows: pd.DataFrame) -> pd.DataFrame:
    """Feast gives a transformation the keys and times only."""
    return rows.assign(orders=rows["event_timestamp"].dt.minute)


def test_view_with_a_transformation_goes_through_feasts_engine(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(history([("a", 42, 42, 0)]), tmp_path / "rows.parquet")
    computed = BatchFeatureView(
        name=STATS,
        entities=[restaurant],
        mode="pandas",
        udf=_minute_as_orders,
        udf_string="",
        online=True,
        schema=[Field(name="restaurant_id", dtype=String), Field(name="orders", dtype=Int64)],
        source=source(path),
    )
    with caplog.at_level(logging.INFO):
        opened(tmp_path, [computed]).materialize(at(-60), at(60))
    assert f"{STATS} is materialised by Feast's local engine: it is a BatchFeatureView" in caplog.messages
    assert orders(settings.redis_url) == {"a": 42}


def test_other_stores_and_rare_types_go_through_feasts_engine(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = history([("a", 0, 0, 1)])
    path = write(rows.with_columns(note=pl.lit('{"a": 1}')), tmp_path / "rows.parquet")
    plain = view(path)
    noted = FeatureView(
        name="noted",
        entities=[restaurant],
        schema=[Field(name="restaurant_id", dtype=String), Field(name="note", dtype=Json)],
        source=source(path),
    )
    with caplog.at_level(logging.INFO):
        opened(tmp_path / "json", [noted]).materialize(at(-60), at(60))
        sqlite = store(tmp_path / "sqlite", [plain], batch_engine={"type": ENGINE})
        sqlite.materialize(at(-60), at(60))
    said = [message for message in caplog.messages if "local engine" in message]
    assert [line.partition(": ")[2] for line in said] == [
        "features ['note'] are of rare types",
        "the online store is SqliteOnlineStore",
    ]
    assert len(dump(settings.redis_url)) == 1
    assert sqlite.get_online_features([f"{STATS}:orders"], [{"restaurant_id": "a"}]).to_dict()["orders"] == [1]


def test_unknown_option_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="rows_in_memroy"):
        opened(tmp_path, [], {"rows_in_memroy": 5})._get_provider().batch_engine  # noqa: B018


def test_command_line_goes_through_the_engine(settings: Settings) -> None:
    apply(settings)
    assert isinstance(feature_store(settings)._get_provider().batch_engine, LatestRowsEngine)
    transform = TRANSFORMS["zone_stats"]
    table = feature_table(transform, settings)
    row = dict.fromkeys(table.schema) | {transform.key: "centre"}
    row |= {name: NOON for name, kind in table.schema.items() if kind == TIMESTAMP}
    file = table.file(NOON)
    file.parent.mkdir(parents=True)
    pl.DataFrame([row], schema=table.schema).write_parquet(file)
    root = Path(__file__).resolve().parents[3]
    bounds = [(NOON + step).isoformat() for step in (timedelta(hours=-1), timedelta(hours=1))]
    command = [sys.executable, "-m", "feast.cli.cli", "-c", str(root / "feature_repo"), "materialize", *bounds]
    done = subprocess.run(command, cwd=root, env=dict(os.environ), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "rows read" in done.stderr
    (fields,) = dump(settings.redis_url).values()
    assert b"_ts:zone_stats" in fields
    (key,) = redis.Redis.from_url(settings.redis_url).scan_iter()
    assert redis.Redis.from_url(settings.redis_url).hexists(key, stamp_field("zone_stats"))

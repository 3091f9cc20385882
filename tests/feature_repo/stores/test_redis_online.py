"""The Redis store against a real Redis: late data, stock clients, TTL, concurrency, failure."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from feast import FeatureStore
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.infra.online_stores.redis import RedisOnlineStore
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value

from config import Settings, get_settings
from feature_repo.stores.redis_online import (
    LatestWinsRedisOnlineStore,
    OnlineStoreUnavailable,
    feast_connection_string,
    stamp_field,
)
from tests.conftest import free_port
from tests.feature_repo.stores.helpers import at, history, repo_config, store, view, write
from tests.servers import RedisServer

OURS = {"type": "feature_repo.stores.redis_online.LatestWinsRedisOnlineStore"}
REFS = ["restaurant_stats:orders", "restaurant_stats:minutes"]


def stock(url: str) -> dict[str, str]:
    return {"type": "redis", "connection_string": feast_connection_string(url)}


def row(key: str, event: float, created: float | None, orders: int | None) -> Any:
    entity = EntityKey(join_keys=["restaurant_id"], entity_values=[Value(string_val=key)])
    values = {
        "orders": Value() if orders is None else Value(int64_val=orders),
        "minutes": Value() if orders is None else Value(double_val=orders / 2),
    }
    return entity, values, at(event), None if created is None else at(created)


def write_rows(directory: Path, rows: Sequence[Any], **online: Any) -> None:
    config = repo_config(directory, online={**OURS, **online})
    LatestWinsRedisOnlineStore().online_write_batch(config, view("unused"), list(rows), None)


def stored(directory: Path, url: str, *keys: str) -> list[Any]:
    """What a stock client reads: (event time, orders) of each key."""
    config = repo_config(directory, online=stock(url))
    wanted = [row(key, 0, 0, 0)[0] for key in keys]
    found = RedisOnlineStore().online_read(config, view("unused"), wanted, ["orders"])
    return [
        (time, values["orders"].int64_val if values and values["orders"].HasField("int64_val") else None)
        for time, values in found
    ]


@pytest.mark.parametrize(
    ("first", "second", "kept"),
    [
        ((0, 0, 1), (1, 1, 2), 2),  # newer event
        ((1, 1, 2), (0, 0, 1), 2),  # late arrival of an older event
        ((1, 1, 2), (0, 99, 1), 2),  # ... even one created later
        ((0, 0, 1), (0, 5, 2), 2),  # correction of the same event
        ((0, 5, 2), (0, 0, 1), 2),  # ... arriving before what it corrects
        ((0, 5, 1), (0, 5, 2), 2),  # a corrected re-run agrees in both times
        ((0, None, 1), (0, 5, 2), 2),
        ((0, 5, 2), (0, None, 1), 2),
        ((-30 * 365 * 24 * 60 * 60, None, 2), (-31 * 365 * 24 * 60 * 60, None, 1), 2),  # before 1970
    ],
)
def test_latest_event_then_latest_created_stays(
    settings: Settings, tmp_path: Path, first: Any, second: Any, kept: int
) -> None:
    for event, created, orders in (first, second):
        write_rows(tmp_path, [row("a", event, created, orders)])
    assert stored(tmp_path, settings.redis_url, "a")[0][1] == kept


def test_rows_of_one_batch_compete_too(settings: Settings, tmp_path: Path) -> None:
    write_rows(tmp_path, [row("a", 1, 1, 1), row("a", 3, 3, 3), row("a", 2, 2, 2)])
    assert stored(tmp_path, settings.redis_url, "a") == [(at(3), 3)]


def test_null_replaces_a_value(settings: Settings, tmp_path: Path) -> None:
    write_rows(tmp_path, [row("a", 0, 0, 1), row("a", 1, 1, None)])
    assert stored(tmp_path, settings.redis_url, "a") == [(at(1), None)]


@pytest.mark.parametrize(("event", "kept"), [(0, 7), (1, 7), (2, 1), (3, 1)])
def test_value_of_a_stock_writer_is_ranked_by_its_event_time(
    settings: Settings, tmp_path: Path, event: int, kept: int
) -> None:
    """Also when our stamp, left from before, belongs to another event."""
    write_rows(tmp_path, [row("a", 0, 99, 5)])
    config = repo_config(tmp_path, online=stock(settings.redis_url))
    RedisOnlineStore().online_write_batch(config, view("unused"), [row("a", 2, None, 1)], None)
    write_rows(tmp_path, [row("a", 4 - event - 1, 5, 7)])
    assert stored(tmp_path, settings.redis_url, "a")[0][1] == kept


def test_round_trips_of_any_size_write_the_same(settings: Settings, tmp_path: Path) -> None:
    rows = [row(f"r{n}", n, n, n) for n in range(25)]
    write_rows(tmp_path, rows, rows_per_round_trip=10)
    assert [orders for _, orders in stored(tmp_path, settings.redis_url, *(f"r{n}" for n in range(25)))] == list(
        range(25)
    )


@pytest.mark.parametrize("rows_per_script", [1, 3, 1000])
def test_script_calls_of_any_size_write_the_same(settings: Settings, tmp_path: Path, rows_per_script: int) -> None:
    sizes = {"rows_per_round_trip": 10, "rows_per_script": rows_per_script}
    write_rows(tmp_path, [row(f"r{n}", 5, 5, n) for n in range(0, 25, 2)], **sizes)
    write_rows(tmp_path, [row(f"r{n}", n % 10, n, 100 + n) for n in range(25)], **sizes)
    kept = [n if n % 2 == 0 and n % 10 < 5 else 100 + n for n in range(25)]
    assert [orders for _, orders in stored(tmp_path, settings.redis_url, *(f"r{n}" for n in range(25)))] == kept


def test_rows_with_other_features_than_the_ones_before_keep_to_theirs(settings: Settings, tmp_path: Path) -> None:
    (entity, values, *times) = row("b", 0, 0, 2)
    write_rows(tmp_path, [row("a", 0, 0, 1), (entity, {"orders": values["orders"]}, *times), row("c", 0, 0, 3)])
    lengths = [redis.Redis.from_url(settings.redis_url).hlen(_redis_key(key)) for key in "abc"]
    assert lengths == [4, 3, 4]
    assert [orders for _, orders in stored(tmp_path, settings.redis_url, "a", "b", "c")] == [1, 2, 3]


def test_progress_counts_every_row_once(tmp_path: Path, settings: Settings) -> None:
    seen: list[int] = []
    config = repo_config(tmp_path, online={**OURS, "rows_per_round_trip": 4})
    rows = [row(f"r{n}", 0, 0, n) for n in range(10)]
    LatestWinsRedisOnlineStore().online_write_batch(config, view("unused"), rows, seen.append)
    assert seen == [4, 4, 2]


def test_key_lives_as_long_as_configured(settings: Settings, tmp_path: Path) -> None:
    write_rows(tmp_path, [row("a", 0, 0, 1)], key_ttl_seconds=100)
    assert 0 < redis.Redis.from_url(settings.redis_url).ttl(_redis_key("a")) <= 100


def test_asynchronous_write_leaves_the_same(settings: Settings, tmp_path: Path) -> None:
    rows = [row("a", 1, 1, 1), row("b", 1, 1, None), row("a", 0, 9, 2)]
    client = redis.Redis.from_url(settings.redis_url)
    write_rows(tmp_path, rows)
    expected = [client.hgetall(_redis_key(key)) for key in "ab"]
    client.flushall()
    store, config = LatestWinsRedisOnlineStore(), repo_config(tmp_path, online=OURS)
    asyncio.run(store.online_write_batch_async(config, view("unused"), rows, None))
    assert [client.hgetall(_redis_key(key)) for key in "ab"] == expected


def test_key_that_is_no_hash_is_an_error_that_leaves_the_connection_usable(settings: Settings, tmp_path: Path) -> None:
    client = redis.Redis.from_url(settings.redis_url)
    client.set(_redis_key("r7"), "in the way")
    config = repo_config(tmp_path, online={**OURS, "rows_per_round_trip": 4, "rows_per_script": 2})
    online, rows = LatestWinsRedisOnlineStore(), [row(f"r{n}", 0, 0, n) for n in range(20)]
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        online.online_write_batch(config, view("unused"), rows, None)
    client.delete(_redis_key("r7"))
    online.online_write_batch(config, view("unused"), rows, None)
    found = stored(tmp_path, settings.redis_url, *(f"r{n}" for n in range(20)))
    assert [orders for _, orders in found] == list(range(20))


def _write_many(arguments: tuple[str, str, int]) -> None:
    url, directory, seed = arguments
    rows = [row(f"r{n % 20}", (n * 7 + seed * 13) % 50, (n + seed) % 60, seed * 1000 + n) for n in range(400)]
    write_rows(Path(directory) / str(seed), rows, connection_string=url, rows_per_round_trip=7)


def test_concurrent_writers_leave_the_latest_of_all(settings: Settings, tmp_path: Path) -> None:
    with multiprocessing.get_context("fork").Pool(3) as pool:
        pool.map(_write_many, [(settings.redis_url, str(tmp_path), seed) for seed in range(3)])
    best: dict[str, tuple[int, int]] = {}
    for seed in range(3):
        for n in range(400):
            key, rank = f"r{n % 20}", ((n * 7 + seed * 13) % 50, (n + seed) % 60)
            best[key] = max(best.get(key, rank), rank)
    client = redis.Redis.from_url(settings.redis_url)
    for key, (event, created) in best.items():
        raw = client.hget(_redis_key(key), stamp_field("restaurant_stats"))
        micros = [int.from_bytes(raw[part : part + 8], "big") - 2**63 for part in (0, 8)]
        assert micros == [int(at(minute).timestamp() * 1_000_000) for minute in (event, created)]


def _redis_key(key: str) -> bytes:
    return serialize_entity_key(row(key, 0, 0, 0)[0], entity_key_serialization_version=3) + b"delivery_eta"


def test_script_forgotten_by_redis_is_loaded_again(settings: Settings, tmp_path: Path) -> None:
    write_rows(tmp_path, [row("a", 0, 0, 1)])
    redis.Redis.from_url(settings.redis_url).script_flush()
    write_rows(tmp_path, [row("a", 1, 1, 2)])
    assert stored(tmp_path, settings.redis_url, "a")[0][1] == 2


def materialised(directory: Path, now: datetime, ttl: timedelta) -> FeatureStore:
    rows = history([("a", 0, 0, 1), ("a", 60, 60, 2), ("b", 0, 0, 3), ("n", 60, 60, None)])
    item = view(write(rows, directory / "rows.parquet"), ttl=ttl)
    opened = store(directory, [item], online=OURS)
    opened.materialize(at(-60), at(60))
    opened._get_provider().online_store._now = lambda: now  # type: ignore[attr-defined]
    return opened


def read(opened: FeatureStore, *keys: str) -> dict[str, list[Any]]:
    return opened.get_online_features(REFS, [{"restaurant_id": key} for key in keys]).to_dict()


def test_stock_client_reads_what_materialize_wrote(settings: Settings, tmp_path: Path) -> None:
    ours = materialised(tmp_path, now=at(61), ttl=timedelta(days=1))
    theirs = FeatureStore(config=repo_config(tmp_path, online=stock(settings.redis_url)))
    expected = {
        "restaurant_id": ["a", "b", "n", "zz"], "orders": [2, 3, None, None], "minutes": [1.0, 1.5, None, None],
    }  # fmt: skip
    assert read(theirs, "a", "b", "n", "zz") == expected
    assert read(ours, "a", "b", "n", "zz") == expected


def test_value_older_than_its_ttl_is_read_as_not_found(settings: Settings, tmp_path: Path) -> None:
    opened = materialised(tmp_path, now=at(120), ttl=timedelta(minutes=90))
    assert read(opened, "a", "b")["orders"] == [2, None]
    response = opened.get_online_features(REFS, [{"restaurant_id": "b"}]).proto
    assert [vector.statuses[0] for vector in response.results[1:]] == [FieldStatus.NOT_FOUND] * 2
    assert response.results[1].event_timestamps[0].ToDatetime(UTC) == at(0)


def test_value_exactly_as_old_as_its_ttl_is_present(settings: Settings, tmp_path: Path) -> None:
    assert read(materialised(tmp_path, now=at(120), ttl=timedelta(minutes=60)), "a")["orders"] == [2]


def test_deleted_view_leaves_other_views_and_no_stamp(settings: Settings, tmp_path: Path) -> None:
    config = repo_config(tmp_path, online=OURS)
    online = LatestWinsRedisOnlineStore()
    online.online_write_batch(config, view("unused"), [row("a", 5, 5, 1)], None)
    online.online_write_batch(config, view("unused", name="other"), [row("a", 5, 5, 2)], None)
    online.delete_table(config, view("unused"))
    fields = redis.Redis.from_url(settings.redis_url).hkeys(_redis_key("a"))
    assert b"_ts:restaurant_stats" not in fields
    assert stamp_field("restaurant_stats").encode() not in fields
    assert b"_ts:other" in fields
    write_rows(tmp_path, [row("a", 0, 0, 9)])
    assert stored(tmp_path, settings.redis_url, "a")[0][1] == 9


def test_redis_down_is_an_error_at_once_that_names_its_address(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    monkeypatch.setenv("ETA_REDIS_URL", f"redis://:secret@127.0.0.1:{port}/0")
    get_settings.cache_clear()
    opened = store(tmp_path, [view(write(history([("a", 0, 0, 1)]), tmp_path / "r.parquet"))], online=OURS)
    with pytest.raises(
        OnlineStoreUnavailable, match=rf"127\.0\.0\.1:{port} does not answer .* \(make up\)"
    ) as write_error:
        opened.materialize(at(-1), at(1))
    with pytest.raises(OnlineStoreUnavailable, match=f":{port} does not answer"):
        read(opened, "a")
    assert "secret" not in str(write_error.value)


def test_slow_redis_is_an_error(settings: Settings, tmp_path: Path, redis_process: RedisServer) -> None:
    with redis_process.frozen(), pytest.raises(OnlineStoreUnavailable, match="Timeout"):
        write_rows(tmp_path, [row("a", 0, 0, 1)], timeout_seconds=0.2)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://127.0.0.1:6390/0", "127.0.0.1:6390,db=0"),
        ("redis://127.0.0.1", "127.0.0.1:6379,db=0"),
        ("rediss://me:p%40ss@cache:1/3", "cache:1,db=3,ssl=true,username=me,password=p@ss"),
    ],
)
def test_url_in_feasts_own_form(url: str, expected: str) -> None:
    assert feast_connection_string(url) == expected


def test_password_that_feasts_form_cannot_express_is_refused() -> None:
    with pytest.raises(ValueError, match="password holds a comma"):
        feast_connection_string("redis://:a%2Cb@cache:1/0")

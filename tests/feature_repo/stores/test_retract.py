"""What Redis holds of a view becomes what the offline store says: case by case, rows of literal values."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import redis

from config import Settings
from feature_repo.stores.held import held_keys
from feature_repo.stores.redis_online import OnlineStoreUnavailable
from feature_repo.stores.retract import Reconciled, reconcile
from tests.conftest import free_port
from tests.feature_repo.stores.helpers import at, history, store, view, write
from tests.feature_repo.stores.test_redis_online import OURS, _redis_key, row, stock, write_rows

TTL = timedelta(hours=2)
NOTHING: list[Any] = []
OFFLINE = [("a", 0, 10, 1), ("a", 60, 70, 2), ("n", 60, 70, None), ("old", -600, -590, 4), ("late", 90, 100, 9)]
# name: (rows that Redis holds, of (key, event minute, created minute, orders); overwritten, removed)
CASES: dict[str, tuple[list[tuple[str, float, float | None, int | None]], int, int]] = {
    "the offline row": ([("a", 60, 70, 2), ("n", 60, 70, None)], 0, 0),
    "nothing at all": (NOTHING, 0, 0),
    "a newer row that is gone": ([("a", 61, 71, 3)], 1, 0),
    "a row of after the computed hours": ([("late", 90, 100, 9)], 0, 1),
    "an older row": ([("a", 0, 10, 1)], 1, 0),
    "other values": ([("a", 60, 70, 3)], 1, 0),
    "a value for null": ([("n", 60, 70, 3)], 1, 0),
    "null for a value": ([("a", 60, 70, None)], 1, 0),
    "a later created time, which would outrank a correction": ([("a", 60, 7000, 2)], 1, 0),
    "the far future": ([("a", 5e8, 5e8, 2)], 1, 0),
    "an entity that offline never had": ([("ghost", 60, 70, 5)], 0, 1),
    "a row whose offline row is too old to be served": ([("old", 60, 70, 5)], 0, 1),
    "a row that is itself too old, and gone": ([("ghost", -61, -60, 5)], 0, 0),
    "a row exactly as old as may be served, and gone": ([("ghost", -60, -50, 5)], 0, 1),
}


def opened(directory: Path, **online: Any) -> tuple[Any, Any]:
    rows = view(write(history(OFFLINE), directory / "rows.parquet"), ttl=TTL)
    return store(directory, [rows], online={**OURS, **online}), rows


def rows_of(client: Any) -> dict[bytes, dict[bytes, bytes]]:
    return {key: client.hgetall(key) for key in client.scan_iter()}


@pytest.mark.parametrize("name", CASES)
def test_what_is_wrong_is_put_right_and_nothing_else(name: str, settings: Settings, tmp_path: Path) -> None:
    held, overwritten, removed = CASES[name]
    repository, rows = opened(tmp_path)
    write_rows(tmp_path, [row(*one) for one in held])
    client = redis.Redis.from_url(settings.redis_url)
    before = rows_of(client)
    assert reconcile(rows, repository, at(60)) == Reconciled(len(held), overwritten, removed, 0)
    if not overwritten + removed:
        assert rows_of(client) == before
    after = rows_of(client)
    repository.materialize(at(-60), at(60))
    assert {key: after[key] for key in after if b"ghost" not in key} == {
        key: value for key, value in rows_of(client).items() if key in after and b"ghost" not in key
    }, "as if it had been materialised into an empty store"
    assert reconcile(rows, repository, at(60)).overwritten == 0


def test_what_a_stock_client_wrote_is_judged_as_well(settings: Settings, tmp_path: Path) -> None:
    from feast.infra.online_stores.redis import RedisOnlineStore

    from tests.feature_repo.stores.helpers import repo_config

    repository, rows = opened(tmp_path)
    theirs = repo_config(tmp_path, online=stock(settings.redis_url))
    RedisOnlineStore().online_write_batch(theirs, rows, [row("a", 5000, None, 7), row("ghost", 60, None, 7)], None)
    assert reconcile(rows, repository, at(60)) == Reconciled(2, 1, 1, 0)
    client = redis.Redis.from_url(settings.redis_url)
    assert list(rows_of(client)) == [_redis_key("a")]


def test_rows_of_other_views_of_the_entity_stay(settings: Settings, tmp_path: Path) -> None:
    repository, rows = opened(tmp_path)
    write_rows(tmp_path, [row("ghost", 60, 70, 5)])
    client = redis.Redis.from_url(settings.redis_url)
    client.hset(_redis_key("ghost"), "_ts:other", b"theirs")
    assert reconcile(rows, repository, at(60)).removed == 1
    assert client.hgetall(_redis_key("ghost")) == {b"_ts:other": b"theirs"}


def test_rows_of_a_refresh_are_left_up_to_where_it_may_know_more(settings: Settings, tmp_path: Path) -> None:
    repository, rows = opened(tmp_path)
    write_rows(tmp_path, [row("a", 80, 80, 7), row("n", 81, 81, 7)])
    assert reconcile(rows, repository, at(60), ahead_until=lambda: at(80)) == Reconciled(2, 1, 0, 0)


@pytest.mark.parametrize("key", ["a", "", "a*[?]\\", "delivery_eta"])
def test_keys_are_told_from_those_of_other_projects(key: str, settings: Settings, tmp_path: Path) -> None:
    client = redis.Redis.from_url(settings.redis_url)
    write_rows(tmp_path, [row(key, 0, 0, 1)])
    (raw,) = client.scan_iter()
    assert [found for part in held_keys(client, ["restaurant_id"], "delivery_eta", 10) for found in part] == [raw]
    client.rename(raw, raw.removesuffix(b"delivery_eta") + b"their_delivery_eta")
    assert list(held_keys(client, ["restaurant_id"], "delivery_eta", 10)) == []


def test_a_dead_redis_is_named(tmp_path: Path, settings: Settings) -> None:
    port = free_port()
    repository, rows = opened(tmp_path, connection_string=f"127.0.0.1:{port}")
    with pytest.raises(OnlineStoreUnavailable, match=f"127.0.0.1:{port} does not answer"):
        reconcile(rows, repository, at(60))

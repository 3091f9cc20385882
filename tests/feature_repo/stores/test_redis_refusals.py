"""A Redis that answers, but not with what it is asked for: the error says which one, why, and what to do."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from redis import exceptions

from feature_repo.stores.redis_errors import OnlineStoreUnavailable, told
from feature_repo.stores.redis_online import LatestWinsRedisOnlineStore, LatestWinsRedisOnlineStoreConfig
from tests.conftest import free_port
from tests.feature_repo.stores.helpers import repo_config, view
from tests.feature_repo.stores.test_redis_online import OURS, row, stored


@contextmanager
def _set(client: redis.Redis, name: str, value: str) -> Iterator[None]:
    before = client.config_get(name)[name]
    client.config_set(name, value)
    try:
        yield
    finally:
        client.config_set(name, before)


@contextmanager
def _replica(client: redis.Redis) -> Iterator[None]:
    client.execute_command("REPLICAOF", "127.0.0.1", free_port())
    try:
        yield
    finally:
        client.execute_command("REPLICAOF", "NO", "ONE")


@contextmanager
def _reader(client: redis.Redis) -> Iterator[None]:
    client.execute_command("ACL", "SETUSER", "reader", "on", ">secret", "~*", "+@read", "+@connection")
    try:
        yield
    finally:
        client.execute_command("ACL", "DELUSER", "reader")


CASES = {
    "out of memory": (lambda c: _set(c, "maxmemory", "1"), "", "is out of memory .*: raise its maxmemory"),
    "replica": (_replica, "", "is a read-only replica .*: give the address of the primary"),
    "no password": (lambda c: _set(c, "requirepass", "secret"), "", "does not take the user or password"),
    "wrong password": (lambda c: _set(c, "requirepass", "secret"), ":wrong-one@", "does not take the user or password"),
    "needless password": (lambda c: _set(c, "requirepass", ""), ":wrong-one@", "has no password|does not take"),
    "no right": (_reader, "reader:secret@", "does not let this user do that"),
}


def write(directory: Path, url: str, is_async: bool = False) -> None:
    config = repo_config(directory, online={**OURS, "connection_string": url})
    online = LatestWinsRedisOnlineStore()
    if is_async:
        asyncio.run(online.online_write_batch_async(config, view("unused"), [row("a", 1, 1, 2)], None))
    else:
        online.online_write_batch(config, view("unused"), [row("a", 1, 1, 2)], None)


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_refused_write_names_address_cause_and_remedy_and_leaves_what_was_there(
    redis_url: str, tmp_path: Path, case: str, is_async: bool
) -> None:
    write(tmp_path, redis_url)
    client, (state, credentials, message) = redis.Redis.from_url(redis_url), CASES[case]
    with (
        state(client),
        pytest.raises(OnlineStoreUnavailable, match=rf"Redis at 127\.0\.0\.1:\d+ ({message})") as error,
    ):
        write(tmp_path, redis_url.replace("//", f"//{credentials}"), is_async)
    assert "secret" not in str(error.value)
    assert "wrong-one" not in str(error.value)
    assert stored(tmp_path, redis_url, "a")[0][1] == 2


@pytest.mark.parametrize("case", ["no password", "wrong password"])
def test_refused_read_says_the_same(redis_url: str, tmp_path: Path, case: str) -> None:
    client, (state, credentials, message) = redis.Redis.from_url(redis_url), CASES[case]
    config = repo_config(tmp_path, online={**OURS, "connection_string": redis_url.replace("//", f"//{credentials}")})
    with state(client), pytest.raises(OnlineStoreUnavailable, match=message):
        LatestWinsRedisOnlineStore().online_read(config, view("unused"), [row("a", 0, 0, 0)[0]], ["orders"])


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (exceptions.BusyLoadingError("Redis is loading the dataset in memory"), "is still loading its data"),
        (exceptions.ClusterDownError("Hash slot not served"), "is a cluster of which a part is down"),
        (exceptions.MovedError("7365 127.0.0.1:7001"), "is a cluster .*: set redis_type: redis_cluster"),
        (exceptions.RedisClusterException("Cluster mode is not enabled"), "is no cluster .*redis_type: redis"),
        (exceptions.ResponseError("MISCONF Redis is configured to save RDB snapshots"), "cannot save its data"),
        (exceptions.ConnectionError("max number of clients reached"), "has no connection left"),
        (exceptions.ResponseError("DB index is out of range"), "has no such database"),
        (exceptions.ResponseError("@user_script: 1: -OOM command not allowed"), "is out of memory"),
        (exceptions.ResponseError("something about a room"), r"refuses \(something about a room\): look at its log"),
        (exceptions.TimeoutError("Timeout reading"), "does not answer .*: turn it on"),
    ],
)  # fmt: skip
def test_every_refusal_says_what_to_do(error: Any, message: str) -> None:
    options = LatestWinsRedisOnlineStoreConfig(
        connection_string="cache:6379,password=secret,db=0", remedy_when_down="turn it on"
    )
    sentence = told(error, options)
    assert sentence.startswith("Redis at cache:6379 ")
    assert "secret" not in sentence
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(sentence)

"""Bare connections to a real Redis: what Redis refuses, loses or sends unasked never becomes the next answer."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis
from redis.exceptions import RedisError, ResponseError

from serving.wire import WirePool
from tests.conftest import free_port

PING = b"*1\r\n$4\r\nPING\r\n"


def echo(text: bytes) -> bytes:
    return b"*2\r\n$4\r\nECHO\r\n$%d\r\n%s\r\n" % (len(text), text)


@pytest.fixture
def pool(redis_url: str) -> Iterator[WirePool]:
    pool = WirePool(redis_url, timeout=2.0)
    yield pool
    pool.close()


def connections(url: str) -> int:
    return len(redis.Redis.from_url(url).client_list())


def test_replies_come_in_the_order_of_the_commands_over_one_connection(pool: WirePool, redis_url: str):
    before = connections(redis_url)
    assert pool.exchange(echo(b"a") + echo(b"b"), 2) == [b"a", b"b"]
    large = b"x" * 300_000
    assert pool.exchange(echo(large), 1) == [large]
    assert connections(redis_url) == before + 1


def test_a_key_of_another_type_is_a_reply_and_any_other_refusal_an_error(pool: WirePool, redis_url: str):
    redis.Redis.from_url(redis_url).set("text", "1")
    hget = b"*3\r\n$4\r\nHGET\r\n$4\r\ntext\r\n$1\r\nf\r\n"
    refusal, answer = pool.exchange(hget + echo(b"a"), 2)
    assert (str(refusal)[:9], answer) == ("WRONGTYPE", b"a")

    with pytest.raises(ResponseError, match="unknown command"):
        pool.exchange(b"*1\r\n$7\r\nNOTHING\r\n" + echo(b"late"), 2)
    assert pool.exchange(echo(b"next"), 1) == [b"next"]


def test_a_reply_that_nobody_read_is_not_taken_for_the_next(pool: WirePool):
    assert pool.exchange(echo(b"read") + echo(b"unread"), 1) == [b"read"]
    assert pool.exchange(echo(b"next"), 1) == [b"next"]


def test_a_connection_that_redis_closed_is_replaced(pool: WirePool, redis_url: str):
    pool.ping()
    redis.Redis.from_url(redis_url).execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    assert pool.exchange(echo(b"again"), 1) == [b"again"]


def test_nobody_at_the_address_is_an_error_at_once():
    nobody = WirePool(f"redis://127.0.0.1:{free_port()}/0", timeout=0.05)
    with pytest.raises(RedisError, match="refused"):
        nobody.ping()

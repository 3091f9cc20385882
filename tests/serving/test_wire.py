"""Bare connections to a real Redis: what Redis refuses, loses or sends unasked never becomes the next answer."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
import redis
import uvloop
from redis.exceptions import RedisError, ResponseError

from serving.wire import OPENERS, WirePool, at_once
from tests.conftest import free_port
from tests.servers import RedisServer
from tests.waiting import GENEROUS_SECONDS, wait_until

PING = b"*1\r\n$4\r\nPING\r\n"
Exchange = Callable[[WirePool, bytes, int], Any]


def echo(text: bytes) -> bytes:
    return b"*2\r\n$4\r\nECHO\r\n$%d\r\n%s\r\n" % (len(text), text)


@pytest.fixture(params=["thread", "asyncio", "uvloop"])
def exchange(request: pytest.FixtureRequest) -> Iterator[Exchange]:
    """What a pool is asked with: from a thread, where it blocks, or on one event loop for the whole test."""
    if request.param == "thread":
        yield lambda pool, commands, count: at_once(pool.exchange(commands, count))
        return
    with asyncio.Runner(loop_factory=uvloop.new_event_loop if request.param == "uvloop" else None) as runner:
        yield lambda pool, commands, count: runner.run(pool.exchange(commands, count))


@pytest.fixture
def pool(redis_url: str) -> Iterator[WirePool]:
    pool = WirePool(redis_url, timeout=GENEROUS_SECONDS)
    yield pool
    pool.close()


def connections(url: str) -> int:
    """How many Redis has ever taken, before this one."""
    with redis.Redis.from_url(url) as client:
        return int(client.info("stats")["total_connections_received"]) - 1


def try_to_echo(exchange: Exchange, pool: WirePool, text: bytes) -> list[Any]:
    """The answer; none if it took longer than the pool waits, as it may on a busy machine."""
    try:
        return exchange(pool, echo(text), 1)
    except RedisError:
        return []


def test_replies_come_in_the_order_of_the_commands_over_one_connection(
    exchange: Exchange, pool: WirePool, redis_url: str
):
    before = connections(redis_url)
    assert exchange(pool, echo(b"a") + echo(b"b"), 2) == [b"a", b"b"]
    large = b"x" * 300_000
    assert exchange(pool, echo(large), 1) == [large]
    assert connections(redis_url) == before + 2  # the other one has asked before


def test_a_key_of_another_type_is_a_reply_and_any_other_refusal_an_error(
    exchange: Exchange, pool: WirePool, redis_url: str
):
    redis.Redis.from_url(redis_url).set("text", "1")
    hget = b"*3\r\n$4\r\nHGET\r\n$4\r\ntext\r\n$1\r\nf\r\n"
    refusal, answer = exchange(pool, hget + echo(b"a"), 2)
    assert (str(refusal)[:9], answer) == ("WRONGTYPE", b"a")

    with pytest.raises(ResponseError, match="unknown command"):
        exchange(pool, b"*1\r\n$7\r\nNOTHING\r\n" + echo(b"late"), 2)
    assert exchange(pool, echo(b"next"), 1) == [b"next"]


def test_a_reply_that_nobody_read_is_not_taken_for_the_next(exchange: Exchange, pool: WirePool):
    assert exchange(pool, echo(b"read") + echo(b"unread"), 1) == [b"read"]
    assert exchange(pool, echo(b"next"), 1) == [b"next"]


def test_a_reply_that_comes_too_late_is_not_taken_for_the_next(
    exchange: Exchange, redis_url: str, redis_process: RedisServer
):
    impatient = WirePool(redis_url, timeout=0.2)
    wait_until(lambda: try_to_echo(exchange, impatient, b"first") == [b"first"], "an answer in time")
    with redis_process.frozen(), pytest.raises(RedisError, match="Timeout"):
        exchange(impatient, echo(b"late"), 1)
    redis.Redis.from_url(redis_url).ping()
    impatient.timeout = GENEROUS_SECONDS

    assert exchange(impatient, echo(b"next"), 1) == [b"next"]


def test_a_connection_that_redis_closed_is_replaced(exchange: Exchange, pool: WirePool, redis_url: str):
    exchange(pool, PING, 1)
    redis.Redis.from_url(redis_url).execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    assert exchange(pool, echo(b"again"), 1) == [b"again"]


def test_a_password_and_a_database_are_those_of_the_address(exchange: Exchange, redis_url: str):
    client = redis.Redis.from_url(redis_url)
    client.execute_command("ACL", "SETUSER", "reader", "on", ">p w", "+@all", "~*")
    address = redis_url.removeprefix("redis://").removesuffix("/0")
    redis.Redis.from_url(f"redis://{address}/1").set("k", "of one")
    get = b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n"

    assert exchange(WirePool(f"redis://reader:p%20w@{address}/1", GENEROUS_SECONDS), get, 1) == [b"of one"]
    with pytest.raises(RedisError, match="invalid username-password"):
        exchange(WirePool(f"redis://reader:wrong@{address}/1", GENEROUS_SECONDS), get, 1)


def test_nobody_at_the_address_is_an_error_at_once(exchange: Exchange):
    nobody = WirePool(f"redis://127.0.0.1:{free_port()}/0", timeout=GENEROUS_SECONDS)
    with pytest.raises(RedisError, match="refused"):
        exchange(nobody, PING, 1)


def test_more_than_the_socket_takes_at_once_is_sent_bit_by_bit(exchange: Exchange, pool: WirePool):
    large = b"x" * 30_000_000

    assert exchange(pool, echo(large), 1) == [large]
    assert exchange(pool, echo(b"next"), 1) == [b"next"]


@pytest.fixture
def trickle() -> Iterator[str]:
    """The address of a server that has no end of an answer, and always sends a little of it."""
    over = threading.Event()

    def answer(connection: socket.socket) -> None:
        with suppress(OSError), connection:
            connection.sendall(b"$100000000\r\n")
            while not over.wait(0.001):
                connection.sendall(b"x")

    def serve() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=answer, args=[listener.accept()[0]], daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}/0"
        over.set()
        listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("login", ["", "user:password@"])
def test_an_answer_that_trickles_is_waited_for_no_longer_than_any_other(exchange: Exchange, trickle: str, login: str):
    pool = WirePool(f"redis://{login}{trickle}", timeout=0.1)

    with pytest.raises(RedisError, match="Timeout"):
        exchange(pool, PING, 1)


def test_a_name_server_that_does_not_answer_is_not_waited_for(exchange: Exchange, monkeypatch: pytest.MonkeyPatch):
    over = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: over.wait(GENEROUS_SECONDS) and [])
    pool = WirePool("redis://redis.example:6379/0", timeout=0.01)

    for _ in range(OPENERS + 2):
        with pytest.raises(RedisError, match="Timeout connecting"):
            exchange(pool, PING, 1)
    over.set()


def test_requests_side_by_side_on_one_loop_each_get_their_own_answer(pool: WirePool):
    async def ask() -> list[Any]:
        return await asyncio.gather(*(pool.exchange(echo(b"%d" % number), 1) for number in range(50)))

    assert asyncio.run(ask()) == [[b"%d" % number] for number in range(50)]
    assert asyncio.run(ask()) == [[b"%d" % number] for number in range(50)]  # on another loop


def test_who_gives_up_waiting_leaves_nothing_behind(pool: WirePool, redis_process: RedisServer):
    async def give_up() -> Any:
        await pool.exchange(PING, 1)
        with redis_process.frozen(), pytest.raises(TimeoutError):
            await asyncio.wait_for(pool.exchange(echo(b"given up"), 1), 0.01)
        return await pool.exchange(echo(b"next"), 1)

    assert asyncio.run(give_up()) == [b"next"]


def test_what_would_hold_up_an_event_loop_is_a_mistake(pool: WirePool):
    async def blocks() -> None:
        at_once(pool.ping())

    with pytest.raises(RuntimeError, match="would hold up the event loop"):
        asyncio.run(blocks())

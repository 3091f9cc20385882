"""Connections to Redis over which packed commands go out and bare replies come back.

redis-py opens them (address, TLS, password, database) and its own way of reading then costs as much as all the rest of
a read: here the bytes go through its socket and hiredis' parser, and nothing else.
"""

from __future__ import annotations

import asyncio
import builtins
import select
import ssl
import time
from collections import deque
from collections.abc import Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

import hiredis
import redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError, RedisError, ResponseError, TimeoutError
from redis.retry import Retry

__all__ = ["WirePool", "at_once"]

CHUNK_BYTES = 16_384
OPENERS = 4
"""So many threads may wait for a name server at once; what would wait behind them has no time left."""
_NOT_ALL = object()
T = TypeVar("T")


def at_once(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that waits for nothing but Redis from a thread without an event loop, where that wait blocks."""
    try:
        work.send(None)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    work.close()
    raise RuntimeError("this would hold up the event loop: await it there")


class WirePool:
    """Connections to one Redis; safe to share between threads and one event loop at a time, and reconnects by itself.

    Parameters
    ----------
    url : str
        `redis://`, `rediss://` or `unix://` URL.
    timeout : float
        Seconds for all of an exchange, a new connection included. There are no retries.
    """

    def __init__(self, url: str, timeout: float) -> None:
        self.timeout = timeout
        try:
            self._client = redis.Redis.from_url(
                url,
                socket_timeout=timeout,
                socket_connect_timeout=timeout,
                retry=Retry(NoBackoff(), 0),
                driver_info=None,  # otherwise each new connection costs two more round trips
            )
        except ValueError:  # its message may hold part of the password
            raise ValueError(
                "ETA_REDIS_URL is no address of a Redis: redis://[user:password@]host:port/database, with "
                "percent-encoding of what is neither letter nor digit in the password"
            ) from None
        self._openers = ThreadPoolExecutor(OPENERS, thread_name_prefix="redis-open")
        self._idle: deque[_Wire] = deque()
        self._idle_on_loop: deque[_LoopWire] = deque()
        options = self._client.connection_pool.connection_kwargs
        self.address = str(options.get("path") or f"{options.get('host')}:{options.get('port')}")

    async def exchange(self, commands: bytes, count: int) -> list[Any]:
        """The replies to so many packed commands; the refusal of a key that holds another type is a reply.

        On an event loop others go on meanwhile. Without one it blocks: see `at_once`.

        Raises
        ------
        redis.RedisError
            Redis is down, slow, or refuses to answer.
        """
        deadline = time.monotonic() + self.timeout
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            wire = _usable(self._idle) or _Wire(self._opened(deadline))
            replies = wire.exchange(commands, count, deadline)
            self._idle.append(wire)
            return replies
        on_loop = _usable(self._idle_on_loop)
        if on_loop is not None and on_loop.loop is not loop:  # the one of an event loop that has ended
            on_loop.close()
            on_loop = None
        on_loop = on_loop or _LoopWire(await self._opened_on_loop(deadline), loop)
        replies = await on_loop.exchange_on_loop(commands, count, deadline)
        self._idle_on_loop.append(on_loop)
        return replies

    async def ping(self) -> None:
        """Raise RedisError unless Redis answers in time."""
        await self.exchange(b"*1\r\n$4\r\nPING\r\n", 1)

    def close(self) -> None:
        """Close the idle connections."""
        for idle in (self._idle, self._idle_on_loop):
            while idle:
                idle.pop().close()
        self._client.close()
        self._openers.shutdown(wait=False, cancel_futures=True)

    # redis-py gives each step of opening (looking the name up, connecting, password, database) a time of its own, and
    # the first one none at all: it is done in a thread, whose result is not waited for beyond the deadline.
    def _opened(self, deadline: float) -> Any:
        opening = self._openers.submit(self._open)
        try:
            return opening.result(deadline - time.monotonic())
        except builtins.TimeoutError as error:
            _unwanted(opening)
            raise TimeoutError("Timeout connecting") from error

    async def _opened_on_loop(self, deadline: float) -> Any:
        opening = self._openers.submit(self._open)
        try:
            return await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(opening)), deadline - time.monotonic())
        except builtins.TimeoutError as error:
            _unwanted(opening)
            raise TimeoutError("Timeout connecting") from error
        except asyncio.CancelledError:
            _unwanted(opening)
            raise

    def _open(self) -> Any:
        connection: Any = self._client.connection_pool.make_connection()
        connection.connect()
        return connection


def _unwanted(opening: Future[Any]) -> None:
    """Close a connection that comes too late, or do not even begin with it."""

    def close(opened: Future[Any]) -> None:
        if not opened.cancelled() and opened.exception() is None:
            opened.result().disconnect()

    if not opening.cancel():
        opening.add_done_callback(close)


W = TypeVar("W", bound="_Wire")


def _usable(idle: deque[W]) -> W | None:
    """A connection that nobody else uses and that the other side has not closed."""
    while idle:
        try:
            wire = idle.pop()
        except IndexError:  # another thread was quicker
            break
        if wire.is_quiet():
            return wire
        wire.close()
    return None


class _Wire:
    """One open connection."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._socket = connection._sock
        self._reader = hiredis.Reader(notEnoughData=_NOT_ALL)
        self._readable = select.poll()
        self._readable.register(self._socket, select.POLLIN)

    def is_quiet(self) -> bool:
        """Whether nothing has arrived that nobody asked for, as the end of the connection would have."""
        return not self._reader.has_data() and not self._readable.poll(0)

    def exchange(self, commands: bytes, count: int, deadline: float) -> list[Any]:
        replies: list[Any] = []
        try:
            self._limit(deadline)
            self._socket.sendall(commands)
            while not self._has_all(replies, count):
                self._limit(deadline)
                self._receive()
        except BaseException as error:
            self._give_up(error)
            raise
        return replies

    def _has_all(self, replies: list[Any], count: int) -> bool:
        """Take what was received; whether so many replies are there now."""
        while len(replies) < count:
            reply = self._reader.gets()
            if reply is _NOT_ALL:
                return False
            if isinstance(reply, hiredis.ReplyError) and not str(reply).startswith("WRONGTYPE"):
                raise ResponseError(str(reply))
            replies.append(reply)
        return True

    def _limit(self, deadline: float) -> None:
        """Let the next call of the socket wait no longer than until then."""
        left = deadline - time.monotonic()
        if left <= 0:
            raise builtins.TimeoutError("Timeout reading from the socket")
        self._socket.settimeout(left)

    def _receive(self) -> None:
        received = self._socket.recv(CHUNK_BYTES)
        if not received:
            raise ConnectionError("it closed the connection")
        self._reader.feed(received)

    def _give_up(self, error: BaseException) -> None:
        """Never used again after an error: a late reply is nobody's."""
        self.close()
        if isinstance(error, OSError):
            raise _as_redis_error(error) from error

    def close(self) -> None:
        self._connection.disconnect()


class _LoopWire(_Wire):
    """One open connection of an event loop."""

    def __init__(self, connection: Any, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(connection)
        self.loop = loop
        self._socket.setblocking(False)
        self._descriptor = self._socket.fileno()
        self._unsent = b""
        self._replies: list[Any] = []
        self._count = 0
        self._answer: asyncio.Future[list[Any]] = loop.create_future()
        self._answer.cancel()  # nobody has asked yet
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None
        loop.add_reader(self._descriptor, self._arrived)

    async def exchange_on_loop(self, commands: bytes, count: int, deadline: float) -> list[Any]:
        self._replies, self._count, self._answer = [], count, self.loop.create_future()
        self._due = self.loop.time() + deadline - time.monotonic()
        if self._timer is None:  # it may be one of an answer that came in time: a timer each would cost more than it
            self._timer = self.loop.call_at(self._due, self._look_at_the_time)
        self._unsent = commands
        try:
            self._send()
            if self._unsent:
                self.loop.add_writer(self._descriptor, self._send_on)
            return await self._answer
        except BaseException as error:
            self._give_up(error)
            raise

    def _send(self) -> None:
        """As much as the socket takes now."""
        with suppress(BlockingIOError, ssl.SSLWantWriteError):
            self._unsent = self._unsent[self._socket.send(self._unsent) :]

    def _send_on(self) -> None:
        try:
            self._send()
        except OSError as error:
            self._unsent = b""
            self._fail(error)
        if not self._unsent:
            self.loop.remove_writer(self._descriptor)

    def _arrived(self) -> None:
        try:
            while not self._answer.done():
                self._receive()
                if self._has_all(self._replies, self._count):
                    self._answer.set_result(self._replies)
                    return
        except (BlockingIOError, ssl.SSLWantReadError):
            return
        except (OSError, RedisError) as error:
            self._fail(error)
        self.loop.remove_reader(self._descriptor)  # what nobody asked for stays unread, so that `is_quiet` sees it

    def _look_at_the_time(self) -> None:
        self._timer = None
        if self._answer.done():
            return
        if self.loop.time() < self._due:
            self._timer = self.loop.call_at(self._due, self._look_at_the_time)
        else:
            self._fail(TimeoutError("Timeout reading from the socket"))

    def _fail(self, error: Exception) -> None:
        if not self._answer.done():
            self._answer.set_exception(error)

    def close(self) -> None:
        if not self.loop.is_closed():
            self.loop.remove_reader(self._descriptor)
            if self._unsent:
                self.loop.remove_writer(self._descriptor)
        if self._timer is not None:
            self._timer.cancel()
        super().close()


def _as_redis_error(error: OSError) -> RedisError:
    kind = TimeoutError if isinstance(error, builtins.TimeoutError) else ConnectionError
    return kind(f"{kind.__name__}: {error}")

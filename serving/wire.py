"""Connections to Redis over which packed commands go out and bare replies come back.

redis-py opens them (address, TLS, password, database) and its own way of reading then costs as much as all the rest of
a read: here the bytes go through its socket and hiredis' parser, and nothing else.
"""

from __future__ import annotations

import asyncio
import builtins
import select
import ssl
from collections import deque
from collections.abc import Coroutine
from typing import Any, TypeVar

import hiredis
import redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError, RedisError, ResponseError, TimeoutError
from redis.retry import Retry

__all__ = ["WirePool", "at_once"]

CHUNK_BYTES = 16_384
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
        Seconds for connecting, and again for each answer. There are no retries.
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
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            wire = _usable(self._idle) or _Wire(self._open())
            replies = wire.exchange(commands, count)
            self._idle.append(wire)
            return replies
        on_loop = _usable(self._idle_on_loop)
        if on_loop is not None and on_loop.loop is not loop:  # the one of an event loop that has ended
            on_loop.close()
            on_loop = None
        on_loop = on_loop or _LoopWire(await loop.run_in_executor(None, self._open), loop, self.timeout)
        replies = await on_loop.exchange_on_loop(commands, count)
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

    def _open(self) -> Any:
        connection: Any = self._client.connection_pool.make_connection()
        connection.connect()
        return connection


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

    def exchange(self, commands: bytes, count: int) -> list[Any]:
        replies: list[Any] = []
        try:
            self._socket.sendall(commands)
            while not self._has_all(replies, count):
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

    def __init__(self, connection: Any, loop: asyncio.AbstractEventLoop, timeout: float) -> None:
        super().__init__(connection)
        self.loop = loop
        self._timeout = timeout
        self._socket.setblocking(False)
        self._descriptor = self._socket.fileno()
        self._replies: list[Any] = []
        self._count = 0
        self._answer: asyncio.Future[list[Any]] = loop.create_future()
        self._answer.cancel()  # nobody has asked yet
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None
        loop.add_reader(self._descriptor, self._arrived)

    async def exchange_on_loop(self, commands: bytes, count: int) -> list[Any]:
        self._replies, self._count, self._answer = [], count, self.loop.create_future()
        self._due = self.loop.time() + self._timeout
        if self._timer is None:  # it may be one of an answer that came in time: a timer each would cost more than it
            self._timer = self.loop.call_at(self._due, self._look_at_the_time)
        try:
            # Nothing else is under way here, so that the socket has room for all of it.
            if self._socket.send(commands) != len(commands):
                raise ConnectionError("it takes no more commands")
            return await self._answer
        except BaseException as error:
            self._give_up(error)
            raise

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
        if self._timer is not None:
            self._timer.cancel()
        super().close()


def _as_redis_error(error: OSError) -> RedisError:
    kind = TimeoutError if isinstance(error, builtins.TimeoutError) else ConnectionError
    return kind(f"{kind.__name__}: {error}")

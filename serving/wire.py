"""Connections to Redis over which packed commands go out and bare replies come back.

redis-py opens them (address, TLS, password, database) and its own way of reading then costs as much as all the rest of
a read: here the bytes go through its socket and hiredis' parser, and nothing else.
"""

from __future__ import annotations

import builtins
import select
from collections import deque
from typing import Any

import hiredis
import redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError, ResponseError, TimeoutError
from redis.retry import Retry

__all__ = ["WirePool"]

CHUNK_BYTES = 16_384
_NOT_ALL = object()


class WirePool:
    """Connections to one Redis; safe to share between threads, and reconnects by itself.

    Parameters
    ----------
    url : str
        `redis://`, `rediss://` or `unix://` URL.
    timeout : float
        Seconds for connecting, and again for each answer. There are no retries.
    """

    def __init__(self, url: str, timeout: float) -> None:
        self._client = redis.Redis.from_url(
            url,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            retry=Retry(NoBackoff(), 0),
            driver_info=None,  # otherwise each new connection costs two more round trips
        )
        self._idle: deque[_Wire] = deque()
        options = self._client.connection_pool.connection_kwargs
        self.address = str(options.get("path") or f"{options.get('host')}:{options.get('port')}")

    def exchange(self, commands: bytes, count: int) -> list[Any]:
        """The replies to so many packed commands; the refusal of a key that holds another type is a reply.

        Raises
        ------
        redis.RedisError
            Redis is down, slow, or refuses to answer.
        """
        wire = self._usable()
        replies = wire.exchange(commands, count)  # after an error it is not used again: a late reply is nobody's
        self._idle.append(wire)
        return replies

    def ping(self) -> None:
        """Raise RedisError unless Redis answers in time."""
        self.exchange(b"*1\r\n$4\r\nPING\r\n", 1)

    def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._idle.pop().close()
        self._client.close()

    def _usable(self) -> _Wire:
        """A connection that nobody else uses and that the other side has not closed."""
        while self._idle:
            try:
                wire = self._idle.pop()
            except IndexError:  # another thread was quicker
                break
            if wire.is_quiet():
                return wire
            wire.close()
        return _Wire(self._client.connection_pool.make_connection())


class _Wire:
    """One open connection."""

    def __init__(self, connection: Any) -> None:
        connection.connect()
        self._connection = connection
        self._socket = connection._sock
        self._reader = hiredis.Reader(notEnoughData=_NOT_ALL)
        self._readable = select.poll()
        self._readable.register(self._socket, select.POLLIN)

    def is_quiet(self) -> bool:
        """Whether nothing has arrived that nobody asked for, as the end of the connection would have."""
        return not self._reader.has_data() and not self._readable.poll(0)

    def exchange(self, commands: bytes, count: int) -> list[Any]:
        try:
            self._socket.sendall(commands)
            return [self._reply() for _ in range(count)]
        except OSError as error:
            self.close()
            kind = TimeoutError if isinstance(error, builtins.TimeoutError) else ConnectionError
            raise kind(f"{kind.__name__}: {error}") from error
        except BaseException:
            self.close()
            raise

    def _reply(self) -> Any:
        while (reply := self._reader.gets()) is _NOT_ALL:
            received = self._socket.recv(CHUNK_BYTES)
            if not received:
                raise ConnectionError("it closed the connection")
            self._reader.feed(received)
        if isinstance(reply, hiredis.ReplyError) and not str(reply).startswith("WRONGTYPE"):
            raise ResponseError(str(reply))
        return reply

    def close(self) -> None:
        self._connection.disconnect()

"""HTTP over sockets: uvicorn's server and protocol, with bounds on what nobody has to show a key for."""

from __future__ import annotations

import asyncio
import errno
import json
import socket
import time
from collections.abc import Callable
from http import HTTPStatus
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serving.errors import PROBLEM_TYPE

__all__ = ["Protocol", "Server", "bind"]

HEAD_OF_ANSWER = b"HTTP/1.1 "
HEAD_SECONDS = 10.0
"""From the first byte of a request, or the opening of a connection, to the end of the head."""
LINGER_SECONDS = 1.0
MAXIMUM_HEAD_BYTES = 32 * 1024


def _refusal(status: int, kind: str, detail: str) -> bytes:
    phrase = HTTPStatus(status).phrase
    document = {"type": PROBLEM_TYPE + kind, "title": phrase, "status": status, "detail": detail}
    body = json.dumps(document).encode()
    head = f"HTTP/1.1 {status} {phrase}\r\nContent-Type: application/problem+json\r\nConnection: close\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


REFUSALS = {
    400: _refusal(400, "invalid-head", "This is no HTTP request"),
    408: _refusal(408, "head-too-slow", f"The head of a request has to come in {HEAD_SECONDS:g} seconds"),
    431: _refusal(431, "head-too-large", f"The head of a request has at most {MAXIMUM_HEAD_BYTES:,} bytes"),
}


class OneWrite:
    """A transport that sends the head of an answer together with its body: each call of the system wakes a process."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self.transport = transport
        self.loop = loop
        self.head = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transport, name)

    def write(self, data: bytes) -> None:
        """Send data; the head of an answer waits until the event loop goes on, or for what follows."""
        if not self.head and data.startswith(HEAD_OF_ANSWER):
            self.head = data
            self.loop.call_soon(self.flush)
        else:
            data, self.head = self.head + data, b""
            self.transport.write(data)

    def flush(self) -> None:
        """Send a head that nothing has followed."""
        if self.head:
            self.write(b"")

    def write_eof(self) -> None:
        """Send what waits, and say that nothing follows."""
        self.flush()
        self.transport.write_eof()

    def close(self) -> None:
        """Send what waits, and close."""
        self.flush()
        self.transport.close()


class Protocol(HttpToolsProtocol):
    """uvicorn's own, over `OneWrite`, with bounds on how long and how large the head of a request may be."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin with a connection."""
        super().connection_made(OneWrite(transport, self.loop))  # type: ignore[arg-type]
        self._head_bytes = 0
        self._in_head, self._in_message, self._refused = True, True, False
        self._timer: asyncio.TimerHandle | None = None
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """End with a connection."""
        self._stop_waiting()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """Begin with a request."""
        super().on_message_begin()
        self._head_bytes, self._in_head, self._in_message = 0, True, True

    def on_headers_complete(self) -> None:
        """Go on with its body."""
        self._in_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """End with a request."""
        self._in_message = False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Wait for the next request, or for the end of a body that is not wanted."""
        super().on_response_complete()
        if self._in_message:
            self._wait()

    def on_url(self, url: bytes) -> None:
        """Take a part of the address."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        self._count(len(name) + len(value) + len(": \r\n"))
        super().on_header(name, value)

    def data_received(self, data: bytes) -> None:
        """Take what has arrived."""
        if self._refused:
            return
        super().data_received(data)
        if not self._in_message or not (self._in_head or self.cycle.response_complete):
            self._stop_waiting()  # the body of a request that is worked on is waited for where it is read
            return
        self._wait()
        if self._in_head:
            self._head_bytes += len(data)  # what the parser keeps until a line is complete counts, too
            if self._head_bytes > 2 * MAXIMUM_HEAD_BYTES:
                self._refuse(431)

    def send_400_response(self, msg: str) -> None:
        """Refuse what the parser cannot read, or what is too large."""
        self._refuse(431 if self._head_bytes > MAXIMUM_HEAD_BYTES else 400)

    def _count(self, size: int) -> None:
        if self._in_head:
            self._head_bytes += size
        if self._head_bytes > MAXIMUM_HEAD_BYTES:
            raise ValueError("the head of the request is too large")

    def _wait(self) -> None:
        """For a head, or for the end of what is not wanted; no longer for what has begun already."""
        if self._timer is None and not self.transport.is_closing():
            self._timer = self.loop.call_later(HEAD_SECONDS, self._is_late)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _is_late(self) -> None:
        self._timer = None
        if self._in_head:
            self._refuse(408)
        else:
            self.transport.close()

    def _refuse(self, status: int) -> None:
        """Answer, and close a moment later: closed at once, what still comes would cost the client the answer."""
        self._stop_waiting()
        if self._refused or self.transport.is_closing():
            return
        self._refused = True
        self.transport.write(REFUSALS[status])
        self.transport.write_eof()
        self._timer = self.loop.call_later(LINGER_SECONDS, self.transport.close)


class Server(uvicorn.Server):
    """uvicorn's own, that goes on answering for a while after the first signal, so that balancers look elsewhere.

    Parameters
    ----------
    config : uvicorn.Config
    drain_seconds : float
        How long; a second signal ends it at once.
    on_drain : callable
        Told when it begins.
    """

    def __init__(self, config: uvicorn.Config, drain_seconds: float, on_drain: Callable[[], None]) -> None:
        super().__init__(config)
        self.drain_seconds = drain_seconds
        self.on_drain = on_drain
        self._ends_at: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end."""
        if self._ends_at is None and self.started and self.drain_seconds:
            self._captured_signals.append(sig)
            self._ends_at = time.monotonic() + self.drain_seconds
            self.on_drain()
        else:
            super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        """Whether to end now."""
        self.should_exit |= self._ends_at is not None and time.monotonic() >= self._ends_at
        return await super().on_tick(counter)


def bind(host: str, port: int) -> socket.socket:
    """A listening socket's address, taken before anything slow is started.

    Raises
    ------
    SystemExit
        The port is taken, or the address is not ours.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        reason = "is taken by another program" if error.errno == errno.EADDRINUSE else f"cannot be used ({error})"
        raise SystemExit(
            f"serving: {host}:{port} {reason}. Stop it, or choose another port: ETA_SERVING_PORT"
        ) from error
    return listener

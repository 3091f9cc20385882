"""`python -m serving`: one process that answers on `settings.host:settings.serving_port` until it is told to stop."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import signal
import socket
import sys
import time
from typing import Any

import uvicorn
from pydantic import ValidationError
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from config import Settings, get_settings
from serving.app import create_app
from serving.service import Service

GRACE_SECONDS = 10
HEAD_OF_ANSWER = b"HTTP/1.1 "

SWITCH_SECONDS = 1e-4
"""How long the log's thread may keep the interpreter while a request wants it. Python's 5 ms would be paid at each of
the handful of points where a request lets go of it."""


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

    def close(self) -> None:
        """Send what waits, and close."""
        self.flush()
        self.transport.close()


class Protocol(HttpToolsProtocol):
    """uvicorn's own, over `OneWrite`."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin with a connection."""
        super().connection_made(OneWrite(transport, self.loop))  # type: ignore[arg-type]


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


def main() -> None:
    """Serve until SIGTERM or SIGINT; then finish what is being answered and log what was predicted.

    The exit status is 0, or 1 if some of it could not be logged.
    """
    started = time.perf_counter()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # one line per poll of the registry otherwise
    sys.setswitchinterval(SWITCH_SECONDS)
    settings = _settings()
    listener = bind(settings.host, settings.serving_port)
    service = _service(settings)
    # uvicorn shuts down in order and then raises the signal once more: it ends the process as it should.
    for ending in (signal.SIGTERM, signal.SIGINT):
        signal.signal(ending, lambda *_: sys.exit(exit_status(service)))
    app = create_app(service=service)
    gc.collect()
    gc.freeze()  # what the libraries hold stays; looking through it again and again would stop requests for a while
    logging.getLogger(__name__).info(
        "serving on %s, API docs at %s/docs (start-up %.2f s)",
        settings.serving_url,
        settings.serving_url,
        time.perf_counter() - started,
    )
    config = uvicorn.Config(
        app,
        http=Protocol,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    uvicorn.Server(config).run(sockets=[listener])


def exit_status(service: Service) -> int:
    """1 if predictions were answered and could not be logged any more, else 0."""
    return 1 if service.log.lost_at_end else 0


def _settings() -> Settings:
    try:
        return get_settings()
    except ValidationError as error:
        raise SystemExit(f"serving: the settings are not valid: {error}") from None  # its cause shows the values


def _service(settings: Settings) -> Service:
    try:
        return Service(settings)
    except ValueError as error:
        raise SystemExit(f"serving: {error}") from None


if __name__ == "__main__":
    main()

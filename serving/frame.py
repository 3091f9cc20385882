"""What surrounds every request: its id, its key, its body, its turn, its metrics, and an answer if all else fails."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.errors import Problem
from serving.predicting import authenticated
from serving.problems import http_problem, problem_of, problem_response
from serving.service import Service, new_id

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["MAXIMUM_BODY_BYTES", "MAXIMUM_ORDER_BYTES", "REQUEST_ID_HEADER", "Direct", "RequestFrame"]

logger = logging.getLogger(__name__)

MAXIMUM_BODY_BYTES = 2 * 1024 * 1024
"""A batch of 1,000 orders with ids of the greatest length fits."""
MAXIMUM_ORDER_BYTES = 16 * 1024
"""An order with ids of the greatest length fits, each of their characters written as `\\u0041`."""
BODY_SECONDS = 10.0
"""From the head to the end of the body."""

REQUEST_ID_HEADER = b"x-request-id"
ALWAYS_ANSWERED = frozenset({"/health", "/ready", "/metrics"})
CLIENT_GONE = 499
"""Counted where a client hung up before there was an answer."""

ACCEPTED_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
"""A caller's id is taken over only if it cannot forge a log line or a header."""


@dataclass(frozen=True, slots=True)
class Direct:
    """What answers a POST of a path without the router and the middleware of the rest, which take as long as it does.

    Parameters
    ----------
    answer : callable
        Of scope, body and the name of the caller's key.
    maximum_bytes : int
        Of the body.
    """

    answer: Callable[[Scope, bytes, str], Awaitable[Response]]
    maximum_bytes: int


class RequestFrame:
    """ASGI middleware, the outermost of the application's own.

    Who has no key is refused before the body is read, and a request takes a turn only when its body is there: bodies
    that do not come hold nobody else up.

    Parameters
    ----------
    app : ASGI application
        What it surrounds.
    service : Service
        Whose keys, metrics and limits count. `ETA_SERVING_CONCURRENCY` requests are worked on at once; further ones are
        told to come back. Health, readiness and metrics are always answered: an overloaded process is not a dead one.
    direct : mapping of str to Direct
        By path.
    """

    def __init__(self, app: ASGIApp, service: Service, direct: Mapping[str, Direct]) -> None:
        self.app = app
        self.direct = direct
        self.service = service
        self.concurrency = service.settings.serving_concurrency
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        request_id = _request_id(scope)
        scope.setdefault("state", {}).update(request_id=request_id, started=started)
        status = 0

        async def framed_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"].append((REQUEST_ID_HEADER, request_id.encode()))
                if self.service.draining:  # so that the next request is sent to another process
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        direct = self.direct.get(scope["path"]) if scope["method"] == "POST" else None
        try:
            if direct is not None:
                response = await self._answer(direct, scope, receive)
                await response(scope, receive, framed_send)
            else:
                with self._turn(scope):
                    await self.app(scope, receive, framed_send)
        except Problem as problem:
            await problem_response(problem, scope)(scope, receive, framed_send)
        except ClientDisconnect:
            pass
        except Exception as error:
            logger.exception("request %s to %s failed", request_id, scope["path"])
            if status:  # the answer is under way: nothing but closing the connection is left
                raise
            await problem_response(_fault(error), scope)(scope, receive, framed_send)
        finally:
            route = scope["path"] if scope["path"] in self.direct else getattr(scope.get("route"), "path", "unmatched")
            self.service.metrics.answered(route, scope["method"], status or CLIENT_GONE, time.perf_counter() - started)

    async def _answer(self, direct: Direct, scope: Scope, receive: Receive) -> Response:
        caller = authenticated(self.service, header(scope, b"x-api-key"))
        body = await _body(scope, receive, direct.maximum_bytes)
        try:
            with self._turn(scope):
                return await direct.answer(scope, body, caller)
        except (RequestValidationError, HTTPException) as error:
            raise problem_of(error) from error

    @contextmanager
    def _turn(self, scope: Scope) -> Iterator[None]:
        """One of the requests that are worked on at once."""
        if self._running >= self.concurrency and scope["path"] not in ALWAYS_ANSWERED:
            raise _overloaded(self.concurrency)
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1


def header(scope: Scope, name: bytes) -> str | None:
    """The first header of this name, which has to be in lower case; None if there is none."""
    for key, value in scope["headers"]:
        if key == name:
            return str(value, "latin-1")
    return None


async def _body(scope: Scope, receive: Receive, maximum_bytes: int) -> bytes:
    """The body, which comes in one message unless it is long.

    Raises
    ------
    Problem
        413: it is larger than `maximum_bytes`. 408: it does not come in `BODY_SECONDS`.
    """
    declared = header(scope, b"content-length") or ""
    if declared.isdigit() and int(declared) > maximum_bytes:
        raise _too_large(maximum_bytes)
    body = b""
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    raise ClientDisconnect
                given: bytes = message.get("body", b"")
                body = body + given if body else given
                if len(body) > maximum_bytes:
                    raise _too_large(maximum_bytes)
                if not message.get("more_body"):
                    return body
    except TimeoutError as error:
        raise http_problem(408, f"{len(body):,} bytes came in {BODY_SECONDS:g} seconds, and no end") from error


def _too_large(maximum_bytes: int) -> Problem:
    return http_problem(413, f"The body is larger than {maximum_bytes:,} bytes: send fewer orders at once")


def _overloaded(concurrency: int) -> Problem:
    return Problem(
        status=503,
        kind="overloaded",
        title="Too many requests at once",
        detail=f"{concurrency} requests are being worked on: come back in a second, or start more processes",
        headers={"Retry-After": "1"},
    )


def _fault(error: Exception) -> Problem:
    return Problem(
        status=500,
        kind="fault",
        title="A fault of the service",
        detail=f"The request failed ({type(error).__name__}); the log of the server has the details under its id",
    )


def _request_id(scope: Scope) -> str:
    given = header(scope, REQUEST_ID_HEADER)
    return given if given and ACCEPTED_REQUEST_ID.fullmatch(given) else new_id()

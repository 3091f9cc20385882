"""What surrounds every request: its id, the limit of its body, its metrics, and an answer if all else fails."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.api import PROBLEM_MEDIA_TYPE, header
from serving.errors import Problem
from serving.metrics import Metrics
from serving.service import new_id

__all__ = ["MAXIMUM_BODY_BYTES", "REQUEST_ID_HEADER", "RequestFrame", "problem_response"]

logger = logging.getLogger(__name__)

MAXIMUM_BODY_BYTES = 2 * 1024 * 1024
"""A batch of 1,000 orders with ids of the greatest length fits."""

REQUEST_ID_HEADER = b"x-request-id"
ALWAYS_ANSWERED = frozenset({"/health", "/ready", "/metrics"})
CLIENT_GONE = 499
"""Counted where a client hung up before there was an answer."""

ACCEPTED_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
"""A caller's id is taken over only if it cannot forge a log line or a header."""


def problem_response(problem: Problem, scope: Scope) -> Response:
    """The answer of a problem, as `application/problem+json`."""
    document = problem.document(scope.get("state", {}).get("request_id"), scope.get("path"))
    # ASCII, because a rejected field's name may hold what UTF-8 cannot encode.
    body = json.dumps(document, ensure_ascii=True).encode()
    return Response(body, problem.status, problem.headers, media_type=PROBLEM_MEDIA_TYPE)


class RequestFrame:
    """ASGI middleware, the outermost of the application's own.

    Parameters
    ----------
    app : ASGI application
        What it surrounds.
    metrics : Metrics
        Counts requests and their latency.
    concurrency : int
        So many requests are worked on at once; further ones are told to come back. Health, readiness and metrics are
        always answered: an overloaded process is not a dead one.
    direct : mapping of str to ASGI application
        By path: what answers a POST without the router and the middleware of the rest, which take as long as it does.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, concurrency: int, direct: Mapping[str, ASGIApp]) -> None:
        self.app = app
        self.direct = direct
        self.metrics = metrics
        self.concurrency = concurrency
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
            await send(message)

        self._running += 1
        try:
            if self._running > self.concurrency and scope["path"] not in ALWAYS_ANSWERED:
                await problem_response(_overloaded(self.concurrency), scope)(scope, receive, framed_send)
                return
            direct = self.direct.get(scope["path"]) if scope["method"] == "POST" else None
            await (direct or self.app)(scope, _limited(receive, scope), framed_send)
        except Exception as error:
            logger.exception("request %s to %s failed", request_id, scope["path"])
            if status:  # the answer is under way: nothing but closing the connection is left
                raise
            await problem_response(_fault(error), scope)(scope, receive, framed_send)
        finally:
            self._running -= 1
            route = scope["path"] if scope["path"] in self.direct else getattr(scope.get("route"), "path", "unmatched")
            self.metrics.answered(route, scope["method"], status or CLIENT_GONE, time.perf_counter() - started)


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


def _limited(receive: Receive, scope: Scope) -> Callable[[], Awaitable[MutableMapping[str, Any]]]:
    """`receive` that stops reading a body beyond the limit; a server reads no further than the declared length."""
    declared = header(scope, b"content-length") or ""
    oversized = declared.isdigit() and int(declared) > MAXIMUM_BODY_BYTES
    if declared.isdigit() and not oversized:
        return receive
    received = 0

    async def limited() -> Message:
        nonlocal received
        message = {} if oversized else await receive()
        received += len(message.get("body", b""))
        if oversized or received > MAXIMUM_BODY_BYTES:
            raise HTTPException(413, f"The body is larger than {MAXIMUM_BODY_BYTES:,} bytes: send fewer orders at once")
        return message

    return limited

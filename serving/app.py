"""The FastAPI application: the routes of `serving.api` around a `Service`, with errors as problem documents."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi_swagger import patch_fastapi
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from config import Settings, get_settings
from serving.api import answer_one, field_errors, router
from serving.coalesce import Coalescer
from serving.errors import FieldError, Problem, invalid_request
from serving.frame import RequestFrame, problem_response
from serving.schemas import OrderRequest, ProblemDocument
from serving.service import Service

__all__ = ["create_app"]

DESCRIPTION = """
How long a food delivery takes, predicted at the moment the order is placed.

Every answer says which model gave it and what it was made from: `status` is `degraded` when the answer had to do
without something that should have been there, and missing and stale features are listed by name.
"""

KINDS = {
    400: ("invalid-body", "The body cannot be read"),
    404: ("not-found", "There is no such address"),
    405: ("method-not-allowed", "This address does not take this method"),
    413: ("body-too-large", "The body is too large"),
}


def create_app(settings: Settings | None = None, service: Service | None = None) -> FastAPI:
    """An application with its own service, which starts and stops with it.

    Parameters
    ----------
    settings : Settings, optional
        By default those of the process.
    service : Service, optional
        By default one made of the settings.
    """
    parts = service or Service(settings or get_settings())

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await run_in_threadpool(parts.start)
        yield
        await run_in_threadpool(parts.stop)

    app = FastAPI(
        title="delivery-eta",
        version="0.1.0",
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
    )
    app.state.service = parts
    app.state.coalescer = coalescer = Coalescer(parts)
    app.include_router(router)
    patch_fastapi(app)  # /docs with scripts of our own, as a closed network reaches nobody else's
    for fault, handler in HANDLERS.items():
        app.add_exception_handler(fault, handler)
    app.add_middleware(
        RequestFrame,
        metrics=parts.metrics,
        concurrency=parts.settings.serving_concurrency,
        direct={"/predict": _predicting(coalescer)},
    )
    _document_problems(app)
    return app


def _predicting(coalescer: Coalescer) -> ASGIApp:
    """The application that answers a POST of `/predict`."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            response = await answer_one(scope, receive, coalescer)
        except tuple(HANDLERS) as error:
            handler = next(handler for kind, handler in HANDLERS.items() if isinstance(error, kind))
            response = await handler(Request(scope, receive), error)
        await response(scope, receive, send)

    return application


async def _on_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return problem_response(error, request.scope)


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    faults = error.errors()
    if any(fault["type"] == "json_invalid" for fault in faults):
        detail = f"The body is not JSON: {faults[0].get('ctx', {}).get('error', faults[0]['msg'])}"
        return problem_response(_http_problem(400, detail, [FieldError("body", detail)]), request.scope)
    return problem_response(invalid_request(field_errors(faults)), request.scope)


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    problem = _http_problem(error.status_code, error.detail)
    problem.headers.update(error.headers or {})
    return problem_response(problem, request.scope)


HANDLERS: dict[type[Exception], Callable[[Request, Exception], Awaitable[Response]]] = {
    Problem: _on_problem,
    RequestValidationError: _on_invalid,
    HTTPException: _on_http,
}


def _http_problem(status: int, detail: str, errors: list[FieldError] | None = None) -> Problem:
    kind, title = KINDS.get(status, ("http", "The request failed"))
    return Problem(status=status, kind=kind, title=title, detail=detail, errors=errors or ())


def _document_problems(app: FastAPI) -> None:
    """Add the problem document, which routes refer to by name, to the OpenAPI schema."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            schemas = schema["components"]["schemas"]
            order = OrderRequest.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas["OrderRequest"] = order
            schemas["ProblemDocument"] = ProblemDocument.model_json_schema()
            for unused in ("HTTPValidationError", "ValidationError"):
                schemas.pop(unused, None)
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]

"""The FastAPI application: the routes of `serving.api` around a `Service`, with errors as problem documents."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi_swagger import patch_fastapi
from starlette.exceptions import HTTPException

from config import Settings, get_settings
from serving.api import router
from serving.coalesce import Coalescer
from serving.errors import Problem
from serving.frame import MAXIMUM_BODY_BYTES, MAXIMUM_ORDER_BYTES, Direct, RequestFrame
from serving.predicting import answer_batch, answer_one
from serving.problems import problem_of, problem_response
from serving.schemas import BatchRequest, OrderRequest, ProblemDocument
from serving.service import Service

__all__ = ["create_app"]

DESCRIPTION = """
How long a food delivery takes, predicted at the moment the order is placed.

Every answer says which model gave it and what it was made from: `status` is `degraded` when the answer had to do
without something that should have been there, and missing and stale features are listed by name.
"""

ROW = {
    "anyOf": [
        {"$ref": "#/components/schemas/OrderRequest"},
        {"description": "Anything else is answered by a `problem` in its row, not by an error."},
    ]
}
CAUSED_BY_REQUEST = (Problem, RequestValidationError, HTTPException)


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
        redirect_slashes=False,  # to an address made of a header that anybody may send
    )
    app.state.service = parts
    app.state.coalescer = coalescer = Coalescer(parts)
    app.include_router(router)
    patch_fastapi(app)  # /docs with scripts of our own, as a closed network reaches nobody else's
    for fault in CAUSED_BY_REQUEST:
        app.add_exception_handler(fault, _on_error)
    app.add_middleware(
        RequestFrame,
        service=parts,
        direct={
            "/predict": Direct(partial(answer_one, coalescer), MAXIMUM_ORDER_BYTES),
            "/predict/batch": Direct(partial(answer_batch, parts), MAXIMUM_BODY_BYTES),
        },
    )
    _document_problems(app)
    return app


async def _on_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, CAUSED_BY_REQUEST)
    return problem_response(problem_of(error), request.scope)


def _document_problems(app: FastAPI) -> None:
    """Add the problem document, which routes refer to by name, to the OpenAPI schema."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            schemas = schema["components"]["schemas"]
            order = OrderRequest.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas["OrderRequest"] = order
            schemas["BatchRequest"] = batch = BatchRequest.model_json_schema()
            batch["properties"]["orders"]["items"] = ROW
            schemas["ProblemDocument"] = ProblemDocument.model_json_schema()
            for unused in ("HTTPValidationError", "ValidationError"):
                schemas.pop(unused, None)
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]

"""The routes of the HTTP interface; `serving.schemas` has the documents that they take and give."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable
from functools import lru_cache
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.security import APIKeyHeader
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json
from starlette.types import Receive, Scope

from serving.champion import LoadedModel
from serving.coalesce import Coalescer
from serving.errors import FieldError, Problem
from serving.predictor import LABELS, FeatureStatus, Order
from serving.schemas import (
    BatchRequest,
    BatchResponse,
    BatchRow,
    ChallengerDescription,
    FeaturesResponse,
    Health,
    Identifier,
    Instant,
    ModelDescription,
    OrderRequest,
    PartState,
    PredictResponse,
    Ready,
    RowProblem,
)
from serving.service import Asked, Served, Service
from serving.wire import at_once

__all__ = ["PROBLEM_MEDIA_TYPE", "answer_one", "field_errors", "header", "router"]

_STALE, _MISSING = int(FeatureStatus.STALE), int(FeatureStatus.MISSING)
PROBLEM_MEDIA_TYPE = "application/problem+json"


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Documentation of the statuses other than 2xx that a route answers."""
    texts = {
        400: "The body is not JSON.",
        401: "The API key is missing or wrong.",
        413: "The body is too large.",
        422: "A field is missing, unknown or out of range; `errors` names it.",
        500: "A fault of the service.",
        503: "There is no model, a part is not ready, or too many requests came at once.",
    }
    schema = {"$ref": "#/components/schemas/ProblemDocument"}
    return {
        status: {"description": texts[status], "content": {PROBLEM_MEDIA_TYPE: {"schema": schema}}}
        for status in statuses
    }


# Dependencies are coroutines although they wait for nothing: each plain function would cost a switch of threads.
async def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


ServiceOf = Annotated[Service, Depends(_service)]
_key_header = APIKeyHeader(name="X-API-Key", auto_error=False, description="ETA_API_KEY of the server.")


async def _authenticated(service: ServiceOf, key: Annotated[str | None, Depends(_key_header)]) -> None:
    _check_key(service, key)


def _check_key(service: Service, key: str | None) -> None:
    # Bytes, because compare_digest refuses text that is not ASCII.
    if key is None or not secrets.compare_digest(key.encode(), service.api_key):
        raise Problem(
            status=401,
            kind="unauthenticated",
            title="The API key is missing or wrong",
            detail="Send the server's ETA_API_KEY in the header X-API-Key",
            errors=[FieldError("X-API-Key", "missing" if key is None else "wrong")],
            headers={"WWW-Authenticate": "ApiKey"},
        )


def field_errors(faults: Any) -> list[FieldError]:
    """Pydantic's faults as fields and messages."""
    return [
        FieldError(
            ".".join(str(part) for part in fault["loc"] if part != "body") or "body",
            str(fault["msg"]).removeprefix("Value error, "),
        )
        for fault in faults
    ]


_FEATURES_PARAMETER = {
    "name": "features",
    "in": "query",
    "required": False,
    "schema": {"type": "boolean", "default": False, "description": "Also return the model's inputs."},
}
_boolean = TypeAdapter(bool)
T = TypeVar("T")


def _wants_features(scope: Scope) -> bool:
    given = Request(scope).query_params.get("features", False)
    return _checked(lambda: _boolean.validate_python(given), "query", "features")


def header(scope: Scope, name: bytes) -> str | None:
    """The first header of this name, which has to be in lower case; None if there is none."""
    for key, value in scope["headers"]:
        if key == name:
            return str(value, "latin-1")
    return None


async def _body(scope: Scope, receive: Receive) -> bytes:
    """The body, which comes in one message unless it is long."""
    message = await receive()
    if message.get("more_body") or message["type"] != "http.request":
        return message.get("body", b"") + await Request(scope, receive).body()  # type: ignore[no-any-return]
    return message["body"]  # type: ignore[no-any-return]


class _Json(Response):
    """A document that is there already, with the two headers that it needs."""

    def __init__(self, body: bytes) -> None:
        self.status_code, self.background, self.body = 200, None, body
        self.raw_headers = [(b"content-length", b"%d" % len(body)), (b"content-type", b"application/json")]


def _parsed(body: bytes) -> OrderRequest:
    return _checked(lambda: OrderRequest.model_validate_json(body), "body")


def _checked(validate: Callable[[], T], *place: str) -> T:
    """What `validate` returns, or its faults as those of the request."""
    try:
        return validate()
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False)
        raise RequestValidationError([{**fault, "loc": (*place, *fault["loc"])} for fault in faults]) from error


router = APIRouter()


@router.post(
    "/predict",
    response_model=PredictResponse,
    responses=_problems(400, 401, 413, 422, 500, 503),
    summary="How long will this order take?",
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/OrderRequest"}}},
        },
        "parameters": [_FEATURES_PARAMETER],
        "security": [{"APIKeyHeader": []}],
    },
)
async def predict(request: Request) -> Response:
    """Predict one order from its stored features, its request-time features and the champion model."""
    return await answer_one(request.scope, request.receive, request.app.state.coalescer)


async def answer_one(scope: Scope, receive: Receive, coalescer: Coalescer) -> Response:
    """The answer to a POST of `/predict`; raises the problems of the request as `predict` does."""
    # The request is read and answered by hand, and `RequestFrame` brings it here directly: FastAPI's own way through
    # routes, dependencies and models takes as long as everything else together.
    service = coalescer.service
    _check_key(service, header(scope, b"x-api-key"))
    with_features = bool(scope["query_string"]) and _wants_features(scope)
    order = _parsed(await _body(scope, receive)).order(service.clock())
    request_id, started = scope["state"]["request_id"], scope["state"]["started"]
    served, row = await coalescer.predict(order, Asked(request_id, started))
    return _Json(to_json({**_prediction(served, row, with_features), "request_id": request_id}))


@router.post(
    "/predict/batch",
    response_model=BatchResponse,
    responses=_problems(400, 401, 413, 422, 500, 503),
    dependencies=[Depends(_authenticated)],
    summary="How long will these orders take?",
)
def predict_batch(
    batch: BatchRequest,
    request: Request,
    service: ServiceOf,
    features: Annotated[bool, Query(description="Also return the model's inputs.")] = False,
) -> Response:
    """Predict up to 1,000 orders in one pass. A row that is no valid order gets a problem instead of a prediction."""
    service.model()
    now = service.clock()
    checked = [_check_row(index, row) for index, row in enumerate(batch.orders)]
    valid = [(index, row.order(now)) for index, row in enumerate(checked) if isinstance(row, OrderRequest)]
    rows: dict[int, Any] = {row.index: row for row in checked if isinstance(row, BatchRow)}
    service.metrics.count("eta_batch_rows_rejected", by=len(rows))
    if valid:
        orders = [order for _, order in valid]
        asked = Asked(request.state.request_id, request.state.started)
        answered = at_once(service.predict(orders, [asked] * len(orders)))
        for (index, order), (served, row) in zip(valid, answered, strict=True):
            prediction = _prediction(served, row, features)
            rows[index] = {"index": index, "order_id": order.order_id, "prediction": prediction, "problem": None}
    answer = {
        "rows": [rows[index] for index in range(len(checked))],
        "succeeded": len(valid),
        "failed": len(checked) - len(valid),
        "request_id": request.state.request_id,
    }
    return _Json(to_json(answer))


@router.get(
    "/features/{restaurant_id}",
    response_model=FeaturesResponse,
    responses=_problems(401, 422, 500, 503),
    dependencies=[Depends(_authenticated)],
    summary="What would a prediction be made from?",
)
def features(
    restaurant_id: Annotated[Identifier, Path()],
    request: Request,
    service: ServiceOf,
    driver_id: Annotated[Identifier | None, Query()] = None,
    customer_id: Annotated[Identifier | None, Query()] = None,
    zone_id: Annotated[Identifier | None, Query()] = None,
    placed_at: Annotated[Instant | None, Query(description="With a time zone; now if absent.")] = None,
) -> dict[str, Any]:
    """Show each input of the champion for an order placed now: value, status, age. Nothing is logged."""
    order = Order(
        restaurant_id=restaurant_id,
        placed_at=placed_at or service.clock(),
        driver_id=driver_id,
        customer_id=customer_id,
        zone_id=zone_id,
    )
    served = at_once(service.look(order))
    answer = _prediction(served, 0, with_features=True)
    kept = {name: answer[name] for name in ("status", "reasons", "as_of", "features", "model")}
    return {**kept, "request_id": request.state.request_id}


@router.head("/health", include_in_schema=False)  # what many balancers ask with
@router.get("/health", response_model=Health, summary="Does the process answer?")
async def health() -> Health:
    """Say that the process answers; see `/ready` for whether it can do its work."""
    return Health()


@router.head("/ready", include_in_schema=False)
@router.get("/ready", response_model=Ready, responses=_problems(503), summary="Can it give undegraded answers?")
def ready(service: ServiceOf) -> Ready:
    """Check the model and the online store."""
    parts = service.parts()
    described = {name: PartState(ok=part.ok, detail=part.detail) for name, part in parts.items()}
    broken = [f"{name}: {part.detail}" for name, part in parts.items() if not part.ok]
    if broken:
        raise Problem(
            status=503,
            kind="not-ready",
            title="A part of the service is not ready",
            detail="; ".join(broken),
            extra={"parts": {name: part.model_dump() for name, part in described.items()}},
        )
    return Ready(parts=described)


@router.get("/model", response_model=ModelDescription, responses=_problems(503), summary="Which model answers?")
def model(service: ServiceOf) -> ModelDescription:
    """Describe the model in use, its lineage, and the state of its registry."""
    current = service.model()
    document = current.bundle.document
    kept = {name: getattr(document, name) for name in ModelDescription.model_fields if hasattr(document, name)}
    kept.update(
        inputs=list(current.bundle.input_names),
        interval=document.interval.model_dump(mode="json", exclude_defaults=True),
        metrics=dict(document.metrics),
    )
    return ModelDescription(
        **kept,
        name=current.ref.name,
        version=current.ref.version,
        alias=current.ref.alias,
        variant=current.variant,
        source=current.ref.source,
        challenger=_challenger(service),
        registry=service.champion.registry_state,
        registry_reason=service.champion.registry_reason,
        last_refusal=service.champion.refusal,
    )


@router.get("/metrics", response_class=Response, summary="Prometheus metrics")
def metrics(service: ServiceOf) -> Response:
    """Export counters, latencies and the state of the parts."""
    service.record()
    return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)


def _challenger(service: Service) -> ChallengerDescription | None:
    current = service.challenger.current
    if current is None:
        return None
    rule = current.rule
    return ChallengerDescription(version=current.ref.version, mode=rule.mode, share=rule.share, variant=rule.variant)


def _check_row(index: int, row: Any) -> OrderRequest | BatchRow:
    if not isinstance(row, dict):
        return _bad_row(index, None, [FieldError("body", "an order is an object with at least restaurant_id")])
    try:
        return OrderRequest.model_validate(row)
    except ValidationError as error:
        return _bad_row(index, row.get("order_id"), field_errors(error.errors(include_url=False, include_input=False)))


def _bad_row(index: int, order_id: Any, errors: list[FieldError]) -> BatchRow:
    problem = RowProblem(
        title="This row is not a valid order",
        detail=f"{errors[0].field}: {errors[0].message}",
        errors=[{"field": fault.field, "message": fault.message} for fault in errors],
    )
    return BatchRow(index=index, order_id=order_id if isinstance(order_id, str) else None, problem=problem)


def _prediction(served: Served, row: int, with_features: bool) -> dict[str, Any]:
    predictions = served.predictions
    names = served.model.bundle.input_names
    missing, stale = _absent(names, predictions.statuses[row])
    return {
        "prediction_id": served.prediction_ids[row],
        "order_id": served.orders[row].order_id,
        "delivery_minutes": predictions.estimates.minutes[row],
        "p10_minutes": predictions.estimates.p10[row],
        "p90_minutes": predictions.estimates.p90[row],
        "status": "degraded" if predictions.reasons[row] else "ok",
        "reasons": predictions.reasons[row],
        "missing_features": missing,
        "stale_features": stale,
        "features": _features(served, row) if with_features else None,
        "as_of": served.orders[row].placed_at,
        "model": _model_name(served.model),
    }


@lru_cache(maxsize=1_024)  # few combinations occur
def _absent(names: tuple[str, ...], statuses: bytes) -> tuple[list[str], list[str]]:
    """The names of the missing inputs and those of the stale ones."""
    missing = [name for name, status in zip(names, statuses, strict=True) if status >= _MISSING]
    return missing, [name for name, status in zip(names, statuses, strict=True) if status == _STALE]


def _features(served: Served, row: int) -> dict[str, dict[str, Any]]:
    predictions = served.predictions
    as_of = served.orders[row].placed_at.timestamp()
    ages = {
        view.name: as_of - time
        for view, time in zip(served.model.predictor.views, predictions.event_times[row], strict=True)
        if not math.isnan(time)
    }
    inputs = served.model.bundle.document.inputs
    values, statuses = predictions.inputs[row], predictions.statuses[row]
    return {
        column.name: {
            "value": None if math.isnan(value) else value,
            "status": LABELS[status],
            "age_seconds": ages.get(column.view or "") if column.source == "view" else None,
        }
        for column, value, status in zip(inputs, values, statuses, strict=True)
    }


def _model_name(model: LoadedModel) -> dict[str, str]:
    return {"name": model.ref.name, "version": model.ref.version, "alias": model.ref.alias, "variant": model.variant}

"""The routes of the HTTP interface; `serving.schemas` has the documents that they take and give."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.security import APIKeyHeader
from prometheus_client import CONTENT_TYPE_LATEST

from config.urls import redacted
from serving.errors import Problem
from serving.predicting import authenticated, prediction_document
from serving.predictor import Order
from serving.problems import PROBLEM_MEDIA_TYPE
from serving.schemas import (
    BatchResponse,
    ChallengerDescription,
    FeaturesResponse,
    Health,
    Identifier,
    Instant,
    ModelDescription,
    PartState,
    PredictResponse,
    Ready,
)
from serving.service import Service
from serving.status import FeatureStatus
from serving.wire import at_once

__all__ = ["router"]

_STALE = int(FeatureStatus.STALE)


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Documentation of the statuses other than 2xx that a route answers."""
    texts = {
        400: "The body is not JSON.",
        401: "The API key is missing or wrong.",
        408: "The body did not arrive in time.",
        413: "The body is too large.",
        422: "A field is missing, unknown or out of range, or the model does not answer for such orders; see `errors`.",
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
_key_header = APIKeyHeader(
    name="X-API-Key", auto_error=False, description="ETA_API_KEY of the server, or one of its ETA_API_KEYS."
)


async def _authenticated(service: ServiceOf, key: Annotated[str | None, Depends(_key_header)]) -> str:
    return authenticated(service, key)


_FEATURES_PARAMETER = {
    "name": "features",
    "in": "query",
    "required": False,
    "schema": {"type": "boolean", "default": False, "description": "Also return the model's inputs."},
}
_REPLAY = "An order of the past, for what was stored then: freshness is judged as of `placed_at` alone. Logged as such."
_REPLAY_PARAMETER = {
    "name": "replay",
    "in": "query",
    "required": False,
    "schema": {"type": "boolean", "default": False, "description": _REPLAY},
}


def _answered_directly(schema: str) -> dict[str, Any]:
    """What FastAPI cannot know of a route that `RequestFrame` answers."""
    body = {"required": True, "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}}
    parameters = [_FEATURES_PARAMETER, _REPLAY_PARAMETER]
    return {"requestBody": body, "parameters": parameters, "security": [{"APIKeyHeader": []}]}


router = APIRouter()


@router.post(
    "/predict",
    response_model=PredictResponse,
    responses=_problems(400, 401, 408, 413, 422, 500, 503),
    summary="How long will this order take?",
    openapi_extra=_answered_directly("OrderRequest"),
)
async def predict() -> Response:
    """Predict one order from its stored features, its request-time features and the champion model."""
    raise NotImplementedError("RequestFrame answers it: serving.predicting.answer_one")


@router.post(
    "/predict/batch",
    response_model=BatchResponse,
    responses=_problems(400, 401, 408, 413, 422, 500, 503),
    summary="How long will these orders take?",
    openapi_extra=_answered_directly("BatchRequest"),
)
async def predict_batch() -> Response:
    """Predict up to 1,000 orders in one pass. A row that is no valid order gets a problem instead of a prediction."""
    raise NotImplementedError("RequestFrame answers it: serving.predicting.answer_batch")


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
    replay: Annotated[bool, Query(description=_REPLAY)] = False,
) -> dict[str, Any]:
    """Show each input of the champion for an order placed now: value, status, age. Nothing is logged."""
    now = service.clock()
    order = Order(
        restaurant_id=restaurant_id,
        placed_at=placed_at or now,
        driver_id=driver_id,
        customer_id=customer_id,
        zone_id=zone_id,
        replay=replay,
        asked_at=None if replay else now,
    )
    if refusal := service.refusal(order):
        raise refusal
    served = at_once(service.look(order))
    answer = prediction_document(served, 0, with_features=True)
    kept = {name: answer[name] for name in ("status", "reasons", "as_of", "features", "model")}
    return {**kept, "request_id": request.state.request_id}


@router.head("/health", include_in_schema=False)  # what many balancers ask with
@router.get("/health", response_model=Health, summary="Does the process answer?")
async def health() -> Health:
    """Say that the process answers; see `/ready` for whether it can do its work."""
    return Health()


@router.head("/ready", include_in_schema=False)
@router.get("/ready", response_model=Ready, responses=_problems(503), summary="Should requests be sent here?")
def ready(service: ServiceOf) -> Ready:
    """Say whether there is a model, and of everything else how it is: without it answers are degraded, not absent."""
    parts = service.parts()
    described = {name: PartState(ok=part.ok, detail=part.detail) for name, part in parts.items()}
    reason = "it ends: send requests elsewhere" if service.draining else None
    if not parts["model"].ok:
        reason = f"model: {parts['model'].detail}"
    if reason is not None:
        raise Problem(
            status=503,
            kind="not-ready",
            title="This process takes no requests",
            detail=reason,
            extra={"parts": {name: part.model_dump() for name, part in described.items()}},
        )
    return Ready(status="ready" if all(part.ok for part in parts.values()) else "degraded", parts=described)


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
        clock=document.clock and document.clock.model_dump(mode="json"),
    )
    return ModelDescription(
        **kept,
        name=current.ref.name,
        version=current.ref.version,
        alias=current.ref.alias,
        variant=current.variant,
        source=redacted(current.ref.source),
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

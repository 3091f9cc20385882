"""The way of a POST of `/predict` and `/predict/batch`, from the body to the answer.

Requests are read and answered by hand, and `RequestFrame` brings them here directly: FastAPI's own way through routes,
dependencies and models takes as long as everything else together.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import lru_cache, partial
from typing import Any, TypeVar

from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from serving.champion import LoadedModel
from serving.coalesce import Coalescer
from serving.errors import FieldError, Problem
from serving.predictor import Order
from serving.problems import field_errors, http_problem
from serving.schemas import BatchRequest, BatchRow, OrderRequest, RowProblem
from serving.service import Asked, Served, Service
from serving.status import LABELS, NOT_GIVEN, FeatureStatus
from serving.wire import at_once

__all__ = ["answer_batch", "answer_one", "authenticated", "prediction_document"]

_STALE = int(FeatureStatus.STALE)
_boolean = TypeAdapter(bool)
T = TypeVar("T")


class _Json(Response):
    """A document that is there already, with the two headers that it needs."""

    def __init__(self, body: bytes) -> None:
        self.status_code, self.background, self.body = 200, None, body
        self.raw_headers = [(b"content-length", b"%d" % len(body)), (b"content-type", b"application/json")]


def authenticated(service: Service, key: str | None) -> str:
    """The name of a caller's API key.

    Raises
    ------
    Problem
        401: it is missing or wrong.
    """
    name = None if key is None else service.caller(key)
    if name is None:
        raise Problem(
            status=401,
            kind="unauthenticated",
            title="The API key is missing or wrong",
            detail="Send the server's ETA_API_KEY, or one of its ETA_API_KEYS, in the header X-API-Key",
            errors=[FieldError("X-API-Key", "missing" if key is None else "wrong")],
            headers={"WWW-Authenticate": "ApiKey"},
        )
    return name


async def answer_one(coalescer: Coalescer, scope: Scope, body: bytes, caller: str) -> Response:
    """The answer to a POST of `/predict`; raises the problems of the request."""
    service = coalescer.service
    with_features, replay = _flags(scope)
    order = _checked(lambda: OrderRequest.model_validate_json(body), "body").order(service.clock(), replay)
    if refusal := service.refusal(order):
        raise refusal
    request_id, started = scope["state"]["request_id"], scope["state"]["started"]
    served, row = await coalescer.predict(order, Asked(request_id, started, caller))
    return _Json(to_json({**prediction_document(served, row, with_features), "request_id": request_id}))


async def answer_batch(service: Service, scope: Scope, body: bytes, caller: str) -> Response:
    """The answer to a POST of `/predict/batch`; raises the problems of the request, not those of its rows."""
    service.model()
    flags = _flags(scope)
    asked = Asked(scope["state"]["request_id"], scope["state"]["started"], caller)
    return await run_in_threadpool(partial(_answer_rows, service, body, asked, *flags))


def _answer_rows(service: Service, body: bytes, asked: Asked, with_features: bool, replay: bool) -> Response:
    batch = _checked(lambda: BatchRequest.model_validate(_parsed(body)), "body")
    now = service.clock()
    checked = [_check_row(service, index, row, now, replay) for index, row in enumerate(batch.orders)]
    valid = [(index, row) for index, row in enumerate(checked) if isinstance(row, Order)]
    rows: dict[int, Any] = {row.index: row for row in checked if isinstance(row, BatchRow)}
    service.metrics.count("eta_batch_rows_rejected", by=len(rows))
    if valid:
        orders = [order for _, order in valid]
        answered = at_once(service.predict(orders, [asked] * len(orders)))
        for (index, order), (served, row) in zip(valid, answered, strict=True):
            prediction = prediction_document(served, row, with_features)
            rows[index] = {"index": index, "order_id": order.order_id, "prediction": prediction, "problem": None}
    answer = {
        "rows": [rows[index] for index in range(len(checked))],
        "succeeded": len(valid),
        "failed": len(checked) - len(valid),
        "request_id": asked.request_id,
    }
    return _Json(to_json(answer))


def _parsed(body: bytes) -> Any:
    # Not by pydantic, to which half an emoji in one row is a fault of the whole.
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        detail = f"The body is not JSON: {error}"
        raise http_problem(400, detail, [FieldError("body", detail)]) from error


def _flags(scope: Scope) -> tuple[bool, bool]:
    """Whether the inputs are wanted, too, and whether it is a replay."""
    if not scope["query_string"]:
        return False, False
    given = Request(scope).query_params
    features, replay = (
        _checked(partial(_boolean.validate_python, given.get(name, False)), "query", name)
        for name in ("features", "replay")
    )
    return features, replay


def _checked(validate: Callable[[], T], *place: str) -> T:
    """What `validate` returns, or its faults as those of the request."""
    try:
        return validate()
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False)
        raise RequestValidationError([{**fault, "loc": (*place, *fault["loc"])} for fault in faults]) from error


def _check_row(service: Service, index: int, row: Any, now: datetime, replay: bool) -> Order | BatchRow:
    if not isinstance(row, dict):
        return _bad_row(index, None, [FieldError("body", "an order is an object with at least restaurant_id")])
    try:
        order = OrderRequest.model_validate(row).order(now, replay)
    except ValidationError as error:
        faults = field_errors(error.errors(include_url=False, include_input=False))
        return _bad_row(index, row.get("order_id"), faults)
    refusal = service.refusal(order)
    return _bad_row(index, order.order_id, refusal.errors, refusal.title) if refusal else order


def _bad_row(
    index: int, order_id: Any, errors: Sequence[FieldError], title: str = "This row is not a valid order"
) -> BatchRow:
    problem = RowProblem(
        title=title,
        detail=_writable(f"{errors[0].field}: {errors[0].message}"),
        errors=[{"field": _writable(fault.field), "message": _writable(fault.message)} for fault in errors],
    )
    told = _writable(order_id) if isinstance(order_id, str) else None
    return BatchRow(index=index, order_id=told, problem=problem)


def _writable(text: str) -> str:
    """Text with what UTF-8 cannot hold, such as half an emoji, replaced."""
    return text.encode("utf-8", "replace").decode()


def prediction_document(served: Served, row: int, with_features: bool) -> dict[str, Any]:
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
    missing = [name for name, status in zip(names, statuses, strict=True) if status in NOT_GIVEN]
    return missing, [name for name, status in zip(names, statuses, strict=True) if status == _STALE]


def _features(served: Served, row: int) -> dict[str, dict[str, Any]]:
    predictions = served.predictions
    as_of = served.orders[row].placed_at.timestamp()
    ages = {
        view.name: as_of - time  # negative: newer than the order
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

"""Problem documents as answers, and what else goes wrong with a request as problems."""

from __future__ import annotations

import json
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Scope

from serving.errors import FieldError, Problem, invalid_request

__all__ = ["PROBLEM_MEDIA_TYPE", "field_errors", "http_problem", "problem_of", "problem_response"]

PROBLEM_MEDIA_TYPE = "application/problem+json"

KINDS = {
    400: ("invalid-body", "The body cannot be read"),
    404: ("not-found", "There is no such address"),
    405: ("method-not-allowed", "This address does not take this method"),
    408: ("body-too-slow", "The body did not arrive in time"),
    413: ("body-too-large", "The body is too large"),
}


def problem_response(problem: Problem, scope: Scope) -> Response:
    """The answer of a problem, as `application/problem+json`."""
    document = problem.document(scope.get("state", {}).get("request_id"), scope.get("path"))
    # ASCII, because a rejected field's name may hold what UTF-8 cannot encode.
    body = json.dumps(document, ensure_ascii=True).encode()
    return Response(body, problem.status, problem.headers, media_type=PROBLEM_MEDIA_TYPE)


def problem_of(error: Problem | RequestValidationError | HTTPException) -> Problem:
    """What is told of an error that a request caused."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, HTTPException):
        problem = http_problem(error.status_code, error.detail)
        problem.headers.update(error.headers or {})
        return problem
    faults = error.errors()
    if any(fault["type"] == "json_invalid" for fault in faults):
        detail = f"The body is not JSON: {faults[0].get('ctx', {}).get('error', faults[0]['msg'])}"
        return http_problem(400, detail, [FieldError("body", detail)])
    return invalid_request(field_errors(faults))


def http_problem(status: int, detail: str, errors: list[FieldError] | None = None) -> Problem:
    """A problem that HTTP has a status for."""
    kind, title = KINDS.get(status, ("http", "The request failed"))
    return Problem(status=status, kind=kind, title=title, detail=detail, errors=errors or ())


def field_errors(faults: Any) -> list[FieldError]:
    """Pydantic's faults as fields and messages."""
    return [
        FieldError(
            ".".join(str(part) for part in fault["loc"] if part != "body") or "body",
            str(fault["msg"]).removeprefix("Value error, "),
        )
        for fault in faults
    ]

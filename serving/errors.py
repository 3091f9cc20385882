"""What can go wrong in serving, and how it is told to a caller (RFC 9457, `application/problem+json`).

The tree of exceptions::

    ServingError
      + Problem               an answer other than 2xx: status, title, detail, the fields at fault
      + ModelFault            a model predicts what is no number
      + BundleError           a model bundle that cannot be used; the message names the file and the field
      |   + StoreMismatch     a bundle of whose features the online store knows nothing
      + RegistryUnavailable   the model registry does not answer, or not with what it should
      + NoChampion            the registry answers, and no version has the alias
      + PredictionLogError    a file of the prediction log that cannot be read
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from config.urls import redacted

__all__ = [
    "BundleError",
    "FieldError",
    "ModelFault",
    "NoChampion",
    "PredictionLogError",
    "Problem",
    "RegistryUnavailable",
    "ServingError",
    "StoreMismatch",
    "invalid_request",
    "no_model",
    "outside_population",
]

PROBLEM_TYPE = "urn:delivery-eta:problem:"


class ServingError(Exception):
    """The root of serving's own exceptions; addresses in their messages are without passwords, as callers see them."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*(redacted(each) if isinstance(each, str) else each for each in arguments))


class BundleError(ServingError):
    """A model bundle is incomplete, inconsistent or fails its self-test."""


class StoreMismatch(BundleError):
    """The online store holds nothing of what a bundle needs; that may change."""


class ModelFault(ServingError):
    """A model predicts what is no number."""


class RegistryUnavailable(ServingError):
    """The model registry cannot be reached, or answers with something else than a model version."""


class NoChampion(ServingError):
    """The registry answers, but no model version is the champion."""


class PredictionLogError(ServingError):
    """A file of the prediction log is damaged."""


@dataclass(frozen=True, slots=True)
class FieldError:
    """One field at fault, by its path in the body (`orders.3.placed_at`), and what is wrong with it."""

    field: str
    message: str


@dataclass(eq=False)
class Problem(ServingError):
    """An answer other than 2xx.

    Parameters
    ----------
    status : int
        HTTP status.
    kind : str
        Short stable name, the last part of the problem's `type`.
    title : str
        What kind of problem it is: the same for every occurrence.
    detail : str
        What happened this time, and what to do.
    errors : sequence of FieldError
        The fields at fault, if the request is.
    extra : dict
        Further members of the problem document.
    headers : dict of str to str
        Further response headers.
    """

    status: int
    kind: str
    title: str
    detail: str
    errors: Sequence[FieldError] = ()
    extra: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        Exception.__init__(self, self.detail)

    def document(self, request_id: str | None, path: str | None = None) -> dict[str, Any]:
        """The JSON document of RFC 9457."""
        document: dict[str, Any] = {
            "type": PROBLEM_TYPE + self.kind,
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            **self.extra,
        }
        if self.errors:
            document["errors"] = [asdict(error) for error in self.errors]
        if path is not None:
            document["instance"] = path
        if request_id is not None:
            document["request_id"] = request_id
        return document


def no_model(reason: str) -> Problem:
    """503: there is nothing to predict with."""
    return Problem(
        status=503,
        kind="no-model",
        title="No model is loaded",
        detail=f"{reason}. Train and promote a model: make train",
        headers={"Retry-After": "10"},
    )


def invalid_request(errors: Sequence[FieldError]) -> Problem:
    """422: fields of the request are at fault."""
    return Problem(
        status=422,
        kind="invalid-request",
        title="The request is not valid",
        detail="; ".join(f"{fault.field}: {fault.message}" for fault in errors[:5]),
        errors=errors,
    )


def outside_population(fault: FieldError) -> Problem:
    """422: a valid order, of a kind that the model knows nothing of."""
    return Problem(
        status=422,
        kind="outside-population",
        title="The model does not answer for orders of this kind",
        detail=f"{fault.field}: {fault.message}",
        errors=[fault],
    )

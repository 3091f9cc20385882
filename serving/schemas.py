"""What is asked and what is answered, as documents: their fields, limits and descriptions."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from feature_repo.ids import LARGEST_EXACT, MAX_ID_LENGTH, NoId, read_id
from feature_repo.request_fields import FIELDS, REQUEST_FIELDS
from feature_repo.window import as_utc
from serving.predictor import Order

MAXIMUM_ROWS = 1_000
EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
LATEST = datetime(2100, 1, 1, tzinfo=UTC)


def _instant(value: object) -> datetime:
    if not isinstance(value, str):
        raise ValueError("an instant is ISO 8601 text with a time zone, for example 2026-05-01T12:00:00+00:00")
    try:
        instant = as_utc(value)
    except OverflowError as error:
        raise ValueError(f"{value} is out of range") from error
    if not EARLIEST <= instant < LATEST:
        raise ValueError(f"{value} is not between {EARLIEST:%Y} and {LATEST:%Y}")
    return instant


def _whole(value: object) -> object:
    """84.0 is an integer in JSON."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _id(value: object) -> object:
    """What is neither text nor a number is left for the type to refuse."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > LARGEST_EXACT:
        raise ValueError("a number beyond 2**53 may have lost digits on its way through JSON: send it as text")
    if not isinstance(value, str | int | float):
        return value
    try:
        return read_id(value)
    except NoId as error:
        raise ValueError(f"an id that {error}") from error


_INSTANT_SCHEMA = {"type": "string", "format": "date-time", "pattern": "^20[0-9]{2}-"}
Instant = Annotated[datetime, BeforeValidator(_instant), WithJsonSchema(_INSTANT_SCHEMA)]
_ID_SCHEMA = {"type": "string", "minLength": 1, "maxLength": MAX_ID_LENGTH}
Identifier = Annotated[str, BeforeValidator(_id), WithJsonSchema(_ID_SCHEMA)]
"""An id as every door reads it; a whole number is taken as its text."""


def _limits(name: str) -> Any:
    one = FIELDS[REQUEST_FIELDS.index(name)]
    told, infinite = f"{one.description}, {one.unit}", None if one.whole else False
    return Field(strict=True, ge=one.minimum, le=one.maximum, allow_inf_nan=infinite, description=told)


Distance = Annotated[float, _limits("distance_km")]
ItemCount = Annotated[int, _limits("item_count"), BeforeValidator(_whole)]
OrderValue = Annotated[float, _limits("order_value")]
Promise = Annotated[float, _limits("promised_minutes")]


class OrderRequest(BaseModel):
    """An order at the moment it is placed."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "order_id": "o-1001",
                    "restaurant_id": "r-17",
                    "customer_id": "c-2048",
                    "zone_id": "z-3",
                    "distance_km": 2.4,
                    "item_count": 3,
                    "order_value": 31.5,
                    "promised_minutes": 40,
                }
            ]
        },
    )

    restaurant_id: Identifier = Field(description="Who cooks.")
    order_id: Identifier | None = Field(
        default=None, description="Returned and logged, so that outcomes can be joined."
    )
    driver_id: Identifier | None = Field(default=None, description="Who drives, if that is known already.")
    customer_id: Identifier | None = None
    zone_id: Identifier | None = None
    placed_at: Instant | None = Field(
        default=None,
        description="When the order was placed, with a time zone; now if absent. Nothing newer is used. By default it "
        "lies at most 24 h before and 10 minutes after the server's clock; for earlier orders there is `?replay=true`.",
    )
    is_asap: bool = Field(
        default=True,
        strict=True,
        description="Whether it is for now; a scheduled order is outside of what the model was trained on.",
    )
    distance_km: Distance | None = None
    item_count: ItemCount | None = None
    order_value: OrderValue | None = None
    promised_minutes: Promise | None = None

    @model_validator(mode="before")
    @classmethod
    def _bounded(cls, given: Any) -> Any:
        """Each unknown field is an error of its own, and making thousands of them takes seconds."""
        if isinstance(given, dict) and len(given) > len(cls.model_fields):
            unknown = sorted(repr(name)[:40] for name in list(given)[:50] if name not in cls.model_fields)[:3]
            raise ValueError(f"an order has at most {len(cls.model_fields)} fields, and {', '.join(unknown)} are none")
        return given

    def order(self, now: datetime, replay: bool = False) -> Order:
        """The order to predict, placed now unless it says when."""
        asked_at = None if replay else now
        return Order(**{**self.__dict__, "placed_at": self.placed_at or now}, replay=replay, asked_at=asked_at)


class BatchRequest(BaseModel):
    """Up to 1,000 orders, each checked by itself: a bad row does not spoil the others."""

    model_config = ConfigDict(extra="forbid")

    orders: list[Any] = Field(min_length=1, max_length=MAXIMUM_ROWS)


class ModelName(BaseModel):
    """Which model answered."""

    name: str
    version: str
    alias: str
    variant: str


class FeatureValue(BaseModel):
    """An input of the model as it was used."""

    value: float | None = Field(description="null = the model was given a missing value.")
    status: Literal["present", "stale", "missing", "undecodable", "unavailable", "future", "outside"]
    age_seconds: float | None = Field(
        default=None, description="Of stored features: how old at `as_of`; negative if newer, which is not used."
    )


class Prediction(BaseModel):
    """Minutes from `placed_at` to delivery."""

    prediction_id: str
    order_id: str | None
    delivery_minutes: float = Field(ge=0)
    p10_minutes: float = Field(ge=0, description="One delivery in ten is expected to be quicker.")
    p90_minutes: float = Field(ge=0, description="One delivery in ten is expected to take longer.")
    status: Literal["ok", "degraded"]
    reasons: list[str] = Field(description="Why the answer is degraded; empty if it is not.")
    missing_features: list[str] = Field(description="Inputs that were not there; the model was given none.")
    stale_features: list[str] = Field(description="Inputs older than their time to live, treated as missing.")
    features: dict[str, FeatureValue] | None = Field(default=None, description="With `?features=true`.")
    as_of: datetime = Field(description="The instant of the prediction: the order's `placed_at`.")
    model: ModelName


class PredictResponse(Prediction):
    """A prediction, and the request that it answers."""

    request_id: str


class FeaturesResponse(BaseModel):
    """What the champion would be given for an order of these entities."""

    status: Literal["ok", "degraded"]
    reasons: list[str] = Field(description="Why an answer would be degraded; empty if it would not.")
    as_of: datetime = Field(description="The instant at which freshness was judged.")
    features: dict[str, FeatureValue]
    model: ModelName
    request_id: str


class RowProblem(BaseModel):
    """Why a row of a batch was not predicted."""

    title: str
    detail: str
    errors: list[dict[str, str]]


class BatchRow(BaseModel):
    """Prediction or problem of the row `index` of the request."""

    index: int
    order_id: str | None
    prediction: Prediction | None = None
    problem: RowProblem | None = None


class BatchResponse(BaseModel):
    """One element of `rows` per row of the request, in the same order."""

    rows: list[BatchRow]
    succeeded: int
    failed: int
    request_id: str


class Health(BaseModel):
    """The process answers."""

    status: Literal["ok"] = "ok"


class PartState(BaseModel):
    """A part of the service."""

    ok: bool
    detail: str


class Ready(BaseModel):
    """There is a model; `degraded` if another part, which an undegraded answer needs, is not well."""

    status: Literal["ready", "degraded"]
    parts: dict[str, PartState]


class ChallengerDescription(BaseModel):
    """The version with the alias `challenger`, and what part it takes."""

    version: str
    mode: Literal["off", "canary", "ab", "shadow"]
    share: float
    variant: str


class ModelDescription(BaseModel):
    """The model in use and where it comes from."""

    model_config = ConfigDict(protected_namespaces=())

    name: str
    version: str
    alias: str
    variant: str
    challenger: ChallengerDescription | None
    registry: Literal["not asked", "ok", "no champion", "unreachable"]
    registry_reason: str
    last_refusal: str | None = Field(description="Why the newest version that was refused was refused.")
    source: str
    project: str
    feature_service: str
    inputs: list[str]
    interval: dict[str, Any]
    metrics: dict[str, Any]
    baseline_minutes: float | None
    version_created_as_of: str | None
    definitions_hash: str | None
    request_function_version: str | None
    clock: dict[str, Any] | None = Field(description="Time zone and peak hours by which the model names hours.")
    dataset_hash: str | None
    seed: int | None


class ProblemDocument(BaseModel):
    """RFC 9457: what went wrong, with the fields at fault."""

    type: str = Field(examples=["urn:delivery-eta:problem:invalid-request"])
    title: str
    status: int
    detail: str
    errors: list[dict[str, str]] | None = Field(default=None, description="`field` and `message` of each fault.")
    instance: str | None = None
    request_id: str | None = None

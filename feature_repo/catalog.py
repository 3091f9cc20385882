"""What other rooms may ask about the definitions: views, fields, a model's inputs, and a hash of it all.

Nobody else lists feature names. Feast is imported inside the functions, so importing this module is cheap.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from feature_repo.window import HOUR

if TYPE_CHECKING:
    from feast import FeatureService, FeatureView, Field
    from feast.feature_view_projection import FeatureViewProjection

TRANSFORMS_FOLDER = Path(__file__).resolve().parent / "transforms"

Source = Literal["view", "on_demand", "request"]


@dataclass(frozen=True, slots=True)
class FieldInfo:
    """One feature of a view.

    Attributes
    ----------
    minimum, maximum : float or None
        Inclusive.
    allowed : tuple of str
        Empty where any word may occur.
    max_null_share : float or None
        How many of a run's rows may have no value.
    at_most : str
        Another feature of the view that this one cannot exceed; empty without one.
    implies : str
        Another feature of the view that has a value where this one has.
    """

    name: str
    dtype: str
    unit: str
    minimum: float | None
    maximum: float | None
    description: str = ""
    allowed: tuple[str, ...] = ()
    max_null_share: float | None = None
    at_most: str = ""
    implies: str = ""


@dataclass(frozen=True, slots=True)
class ViewInfo:
    """One batch view. `dtype` of a field is `Int64`, `Float64` or `String`, as polars and Feast call them.

    Its rows lie on multiples of `step`; less than an hour means that it is kept up to date between the hourly runs.
    """

    name: str
    join_key: str
    ttl: timedelta
    fields: tuple[FieldInfo, ...]
    step: timedelta = HOUR

    def field(self, name: str) -> FieldInfo:
        """The field of that name.

        Raises
        ------
        KeyError
            The view has no such field; the message lists those it has.
        """
        for info in self.fields:
            if info.name == name:
                return info
        raise KeyError(f"{self.name} has no field {name!r}, but {[info.name for info in self.fields]}")


@dataclass(frozen=True, slots=True)
class ModelInput:
    """One column of a training frame. `view` is None for fields of the request."""

    name: str
    source: Source
    view: str | None
    feature: str
    dtype: str
    unit: str
    minimum: float | None
    maximum: float | None


def batch_views() -> list[ViewInfo]:
    """The batch views, in the order of their definition."""
    from feature_repo import definitions

    return [_view_info(view) for view in definitions.BATCH_VIEWS]


def batch_view(name: str) -> ViewInfo:
    """The batch view of that name.

    Raises
    ------
    KeyError
        There is none; the message lists those there are.
    """
    views = {view.name: view for view in batch_views()}
    if name not in views:
        raise KeyError(f"no batch view {name!r}; there are {sorted(views)}")
    return views[name]


def model_inputs(service: str) -> list[ModelInput]:
    """What a model that is trained on a feature service takes, in order.

    Parameters
    ----------
    service : str
        Name of a feature service, for example `delivery_time_v1`.

    Returns
    -------
    list of ModelInput
        The features of the service's views in its order, then the fields of the request where the service has an
        on-demand view. The instant `placed_at` is no input: it is the time of the row.

    Raises
    ------
    KeyError
        There is no such service; the message lists those there are.
    """
    from feast.on_demand_feature_view import OnDemandFeatureView

    from feature_repo import definitions

    on_demand = {view.name: view for view in definitions.ON_DEMAND_VIEWS if isinstance(view, OnDemandFeatureView)}
    inputs: list[ModelInput] = []
    request: dict[str, ModelInput] = {}
    for projection in _service(service).feature_view_projections:
        if projection.name in on_demand:
            tagged = {field.name: field for field in definitions.ON_DEMAND_FIELDS[projection.name]}
            inputs += [_model_input(tagged[field.name], "on_demand", projection) for field in projection.features]
            request.update(_request_inputs(on_demand[projection.name]))
        else:
            inputs += [_model_input(field, "view", projection) for field in projection.features]
    return [*inputs, *request.values()]


@lru_cache
def definitions_hash() -> str:
    """SHA-256 of every definition and of the transforms' source text: changes when any feature may have changed."""
    from feature_repo import definitions

    content = {
        "entities": [[entity.name, entity.join_key] for entity in definitions.ENTITIES],
        "views": [_view_text(view) for view in definitions.BATCH_VIEWS],
        "on_demand": [_on_demand_text(view) for view in definitions.ON_DEMAND_VIEWS],
        "services": {service.name: _service_text(service) for service in definitions.SERVICES},
        "transforms": {
            path.relative_to(TRANSFORMS_FOLDER).as_posix(): path.read_text()
            for path in sorted(TRANSFORMS_FOLDER.rglob("*.py"))
        },
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _service(name: str) -> FeatureService:
    from feature_repo import definitions

    services = {service.name: service for service in definitions.SERVICES}
    if name not in services:
        raise KeyError(f"no feature service {name!r}; there are {sorted(services)}")
    return services[name]


def _view_info(view: FeatureView) -> ViewInfo:
    from feature_repo.transforms.views import TRANSFORMS

    if view.ttl is None or not view.ttl:
        raise ValueError(f"feature view {view.name} has no TTL: its values would never count as stale")
    # Not `view.schema`: Feast builds that from sets, so its order differs from process to process.
    fields = tuple(_field_info(field) for field in view.features)
    names = {info.name for info in fields}
    for info in fields:
        if unknown := sorted({info.at_most, info.implies} - names - {""}):
            raise ValueError(f"{view.name}.{info.name}: its tags name {unknown}, which the view does not have")
    step = TRANSFORMS[view.name].step if view.name in TRANSFORMS else HOUR
    return ViewInfo(name=view.name, join_key=view.join_keys[0], ttl=view.ttl, fields=fields, step=step)


def _field_info(field: Field) -> FieldInfo:
    allowed = field.tags.get("allowed", "")
    return FieldInfo(
        name=field.name,
        dtype=str(field.dtype),
        unit=field.tags["unit"],
        minimum=_number(field.tags.get("minimum")),
        maximum=_number(field.tags.get("maximum")),
        description=field.description,
        allowed=tuple(allowed.split(",")) if allowed else (),
        max_null_share=_number(field.tags.get("max_null_share")),
        at_most=field.tags.get("at_most", ""),
        implies=field.tags.get("implies", ""),
    )


def _number(text: str | None) -> float | None:
    return None if text is None else float(text)


def _model_input(field: Field, source: Source, projection: FeatureViewProjection | None = None) -> ModelInput:
    info = _field_info(field)
    return ModelInput(
        name=f"{projection.name}__{info.name}" if projection else info.name,
        source=source,
        view=projection.name if projection else None,
        feature=info.name,
        dtype=info.dtype,
        unit=info.unit,
        minimum=info.minimum,
        maximum=info.maximum,
    )


def _request_inputs(view: Any) -> dict[str, ModelInput]:
    fields = [field for request in view.source_request_sources.values() for field in request.schema]
    return {field.name: _model_input(field, "request") for field in fields if str(field.dtype) != "UnixTimestamp"}


def _view_text(view: FeatureView) -> dict[str, Any]:
    return {
        "name": view.name,
        "entities": list(view.entities),
        "ttl": view.ttl.total_seconds() if view.ttl else None,
        "fields": [_field_text(field) for field in view.features],
        "tags": view.tags,
    }


def _on_demand_text(view: Any) -> dict[str, Any]:
    from feature_repo import definitions

    return {
        "name": view.name,
        "fields": [_field_text(field) for field in definitions.ON_DEMAND_FIELDS[view.name]],
        "request": {name: [_field_text(f) for f in s.schema] for name, s in view.source_request_sources.items()},
        "function": view.feature_transformation.udf_string,
    }


def _service_text(service: FeatureService) -> list[list[str]]:
    return [[p.name, *(field.name for field in p.features)] for p in service.feature_view_projections]


def _field_text(field: Field) -> list[Any]:
    return [field.name, str(field.dtype), field.tags]

"""What a source that lacks columns of an order cannot give: rows of a view, values of a feature, inputs of a model.

Nobody lists it. An expression is evaluated on what it would be given if nothing of these columns was ever seen, so a
new feature is covered as soon as it is defined.
"""

from __future__ import annotations

import functools
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ibis

from feature_repo.transforms.facts import NEEDED_COLUMNS
from feature_repo.transforms.spec import Feature, Measure, Now, Running
from feature_repo.transforms.views import TRANSFORMS

if TYPE_CHECKING:
    from feast import Field
    from feast.on_demand_feature_view import OnDemandFeatureView
    from ibis.backends.duckdb import Backend

SEEN = 3
"""A running value where something was seen; a spread needs more than one."""


@dataclass(frozen=True, slots=True)
class Losses:
    """Inputs of a model that a source cannot give, in the model's order.

    Attributes
    ----------
    without_value : tuple of str
        They are missing in every row.
    poorer : tuple of str
        They are computed, as if what the source does not tell had never happened: no driver is ever on a shift, say.
    """

    without_value: tuple[str, ...]
    poorer: tuple[str, ...]


def views_without_rows(absent: Collection[str]) -> dict[str, str]:
    """The views that have no rows without these columns: name -> the key that is absent."""
    return {view: transform.key for view, transform in TRANSFORMS.items() if transform.key in absent}


def input_losses(service: str, absent: Collection[str]) -> Losses:
    """What a model that is trained on a feature service loses without these columns of an order.

    Raises
    ------
    KeyError
        There is no such service.
    """
    from feature_repo import catalog, definitions

    if not absent:
        return Losses((), ())
    on_demand = {view.name: _unanswered(view, absent) for view in definitions.ON_DEMAND_VIEWS}
    inputs = catalog.model_inputs(service)

    def is_without_value(one: catalog.ModelInput) -> bool:
        if one.source == "request":
            return one.feature in absent
        if one.source == "on_demand":
            return one.feature in on_demand[str(one.view)]
        return has_no_value(str(one.view), one.feature, absent)

    nothing = [one for one in inputs if is_without_value(one)]
    poorer = [one for one in inputs if one.source == "view" and one not in nothing and _uses(one, absent)]
    return Losses(tuple(one.name for one in nothing), tuple(one.name for one in poorer))


def has_no_value(view: str, feature: str, absent: Collection[str]) -> bool:
    """Whether a feature is null in every row without these columns of an order."""
    transform = TRANSFORMS[view]
    defined = transform.features[feature]
    return transform.key in absent or (_is_touched(defined, absent) and _finishes_empty(defined, absent))


def _uses(one: Any, absent: Collection[str]) -> bool:
    return _is_touched(TRANSFORMS[one.view].features[one.feature], absent)


def _is_touched(feature: Feature, absent: Collection[str]) -> bool:
    return any(_is_lost(use, absent) for use in feature.uses)


def _is_lost(use: Running | Now, absent: Collection[str]) -> bool:
    return isinstance(use, Running) and not _needed(use.partial.measure).isdisjoint(absent)


def _needed(measure: Measure) -> set[str]:
    parts = (measure.fact, measure.value or "")
    return {column for part in parts for column in NEEDED_COLUMNS.get(part, ())}


def _finishes_empty(feature: Feature, absent: Collection[str]) -> bool:
    return _finishes_null(feature, tuple(_is_lost(use, absent) for use in feature.uses))


@functools.cache
def _finishes_null(feature: Feature, lost: tuple[bool, ...]) -> bool:
    given = [ibis.literal(0 if one else SEEN).cast("int64") for one in lost]
    return bool(_database().execute(feature.finish(*given).isnull()))


@functools.cache
def _database() -> Backend:
    return ibis.duckdb.connect()


def _unanswered(view: OnDemandFeatureView, absent: Collection[str]) -> set[str]:
    """The features of an on-demand view that have no value for a request without these columns."""
    import pandas as pd

    asked = [field for source in view.source_request_sources.values() for field in source.schema]
    row: dict[str, Any] = {field.name: _answer(field.name in absent, str(field.dtype)) for field in asked}
    for view_of, field in _features_asked(view):
        row[field.name] = _answer(has_no_value(view_of, field.name, absent), str(field.dtype))
    answer = view.feature_transformation.udf(pd.DataFrame([row]))  # type: ignore[union-attr]
    return {str(name) for name in answer.columns if answer[name].isna().all()}


def _features_asked(view: OnDemandFeatureView) -> list[tuple[str, Field]]:
    projections = view.source_feature_view_projections.values()
    return [(projection.name, field) for projection in projections for field in projection.features]


def _answer(is_absent: bool, dtype: str) -> Any:
    import pandas as pd

    if dtype == "UnixTimestamp":
        return pd.Timestamp(0, tz="UTC")
    return float("nan") if is_absent else float(SEEN)

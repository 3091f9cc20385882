"""The tables that the transforms read and write, and the columns that all of them share."""

from __future__ import annotations

from datetime import timedelta

import polars as pl

from config import Settings
from feature_repo.lake import TIMESTAMP, PartitionedTable
from feature_repo.transforms.spec import FeatureType, ViewTransform
from feature_repo.window import HOUR, Moments, Window

EVENT_TIME = "event_timestamp"
"""The instant `T` of a feature row: it holds what was known strictly before."""
CREATED = "created"
"""When the row is promised to be online: training must not see it earlier."""
TILE_START = "tile_start"
"""When the step of time began in which a tile's facts became known."""
AS_OF = "as_of"
"""The midnight before which a state's tiles lie."""

_COMPUTE_AGAIN = "delete it and run `python -m feature_repo recompute {start} {end}`, then the hourly run"
_ROWS_AGAIN = _COMPUTE_AGAIN.replace("{start}", "{before}")
"""A day's first row is written by the hour before it."""

DTYPES: dict[FeatureType, pl.DataType] = {"int64": pl.Int64(), "float64": pl.Float64(), "string": pl.String()}


def publication_delay(step: timedelta, settings: Settings) -> timedelta:
    """How long after its instant a row is promised to be online, of a view whose rows lie on multiples of `step`."""
    return settings.live_publication_delay if step < HOUR else settings.publication_delay


def row_window(window: Window, transform: ViewTransform) -> Window:
    """The event times of the rows that a run over `window` writes: from its first step's end to its last one's."""
    return Moments(window.start + transform.step, window.end + transform.step)


def tile_table(transform: ViewTransform, settings: Settings) -> PartitionedTable:
    """The tiles of one view. Grain: one entity and one step of time in which something about it became known."""
    partials = {partial.column: pl.Int64() for partial in transform.partials}
    schema = {transform.key: pl.String(), TILE_START: TIMESTAMP, **partials}
    key = [TILE_START, transform.key]
    return PartitionedTable(settings.tiles / transform.view, TILE_START, schema, key, _COMPUTE_AGAIN)


def feature_table(transform: ViewTransform, settings: Settings) -> PartitionedTable:
    """The feature rows of one view. Grain: one entity and one instant at which a value may have changed."""
    features = {name: DTYPES[feature.dtype] for name, feature in transform.features.items()}
    schema = {transform.key: pl.String(), EVENT_TIME: TIMESTAMP, CREATED: TIMESTAMP, **features}
    key = [EVENT_TIME, transform.key]
    return PartitionedTable(settings.features / transform.view, EVENT_TIME, schema, key, _ROWS_AGAIN)


def state_table(transform: ViewTransform, settings: Settings) -> PartitionedTable:
    """Snapshots of one view's carried state. Grain: one entity and one midnight. A cache: see `state`."""
    partials = {running.partial.column: pl.Int64() for running in transform.lifetime}
    schema = {transform.key: pl.String(), AS_OF: TIMESTAMP, "last_tile": pl.Int64(), **partials}
    return PartitionedTable(settings.tiles / "_state" / transform.view, AS_OF, schema, [AS_OF, transform.key])

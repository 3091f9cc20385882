"""The entity frame: what is asked of which entity, as of which instants; given, or made of a range of time."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from numbers import Number
from typing import TYPE_CHECKING, Any

import pandas as pd
import polars as pl
from feast.errors import FeastEntityDFMissingColumnsError

from feature_repo.stores import parquet
from feature_repo.stores.history import History, read_files
from feature_repo.stores.parquet import TIMESTAMP, Period

if TYPE_CHECKING:
    from feast.on_demand_feature_view import OnDemandFeatureView

INSTANT_COLUMN = "event_timestamp"
"""What Feast calls the instants of an entity frame."""


def as_utc(instants: pd.Series) -> pd.Series:
    """Instants in UTC; naive ones and ISO 8601 texts without a zone are UTC, as in Feast.

    Raises
    ------
    ValueError
        They are numbers, whose unit nobody can know, or texts that are read differently in different countries.
    """
    if isinstance(instants.dtype, pd.DatetimeTZDtype) or instants.dtype.kind == "M":
        return pd.to_datetime(instants, utc=True)
    numbers = instants.dropna()[[isinstance(value, Number) for value in instants.dropna()]]
    if not numbers.empty:
        raise ValueError(
            f"{instants.name!r} of the entity frame holds the number {numbers.iloc[0]!r}: seconds, milliseconds and "
            "nanoseconds cannot be told apart, so convert it with pandas.to_datetime(..., unit=..., utc=True)"
        )
    try:
        return pd.to_datetime(instants, utc=True, format="ISO8601")
    except ValueError as error:
        raise ValueError(
            f"{instants.name!r} of the entity frame holds texts that are not times in ISO 8601 ({error}): write them "
            "as 2026-05-01T12:00:00Z, or convert them with pandas.to_datetime and the format that they have"
        ) from error


def check(entities: pd.DataFrame, instant_column: str, histories: Sequence[History]) -> None:
    """Refuse a frame that lacks a column, or has one twice or under a feature's name.

    Raises
    ------
    FeastEntityDFMissingColumnsError, ValueError
    """
    twice = sorted(set(entities.columns[entities.columns.duplicated()]))
    if twice:
        raise ValueError(f"the entity frame has columns {twice} twice: drop or rename one of each")
    needed = {column for history in histories for column in history.keys.values()} | {instant_column}
    missing = needed - set(entities.columns)
    if missing:
        raise FeastEntityDFMissingColumnsError(sorted(needed), sorted(missing))  # type: ignore[no-untyped-call]
    taken = [name for history in histories for name in history.features.values() if name in entities.columns]
    if taken:
        raise ValueError(f"columns {taken} of the entity frame have a feature's name: rename or drop them")


def of_period(
    histories: Sequence[History],
    on_demand: Sequence[OnDemandFeatureView],
    start: datetime,
    end: datetime,
    cutoff: bool,
    day_partitions: bool,
) -> pd.DataFrame:
    """Each key at each instant of the period at which one of its rows happened.

    With the knowledge cut-off that is when the row became known: the later of its event time and its created time.
    Answers are those that an entity frame of these keys and instants gets, so nothing is from the future.

    Raises
    ------
    ValueError
        The views have different join keys, or a feature needs request data.
    """
    _check_range(histories, on_demand)
    found = [_asked(history, Period(start, end), cutoff, day_partitions) for history in histories]
    frames = [frame for frame in found if frame is not None]
    keys = list(histories[0].keys.values()) if histories else []
    if not frames:
        return pd.DataFrame({name: [] for name in keys}).assign(**{INSTANT_COLUMN: pd.to_datetime([], utc=True)})
    return pl.concat(frames, how="vertical_relaxed").unique().sort(INSTANT_COLUMN, *keys).to_pandas()


def _check_range(histories: Sequence[History], on_demand: Sequence[OnDemandFeatureView]) -> None:
    needy = [view.name for view in on_demand if view.source_request_sources]
    if needy:
        raise ValueError(f"{needy} need request data, which a range of time does not have: give an entity_df")
    keys = {history.view: sorted(history.keys.values()) for history in histories}
    if len({tuple(names) for names in keys.values()}) > 1:
        raise ValueError(
            f"a range of time can be asked of views with the same join keys only, not of {keys}: give an entity_df"
        )


def _asked(history: History, period: Period, cutoff: bool, day_partitions: bool) -> pl.DataFrame | None:
    happened = pl.max_horizontal(history.times) if cutoff else pl.col(history.event)
    keys = [pl.col(column).alias(name) for column, name in sorted(history.keys.items(), key=lambda item: item[1])]

    def read(files: list[str]) -> pl.DataFrame:
        rows = parquet.scan(files, list(dict.fromkeys([*history.keys, *history.times])), history.times)
        asked = rows.select(*keys, happened.cast(TIMESTAMP).alias(INSTANT_COLUMN))
        return asked.filter(period.filter(INSTANT_COLUMN)).drop_nulls().unique().collect()

    return read_files(history.path, Period(None, period.end), read, day_partitions)


def python_instant(instant: Any) -> datetime | None:
    """A pandas time stamp as Python's; None for none."""
    return None if pd.isna(instant) else instant.to_pydatetime()

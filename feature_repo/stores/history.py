"""Where a feature view's rows are, and what of them answers the questions of an entity frame."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import polars as pl
import pyarrow as pa
from feast.infra.offline_stores.file_source import FileSource
from feast.types import FeastType, UnixTimestamp

from feature_repo.stores import parquet
from feature_repo.stores.declared import Place, arrow_type, as_read, plain
from feature_repo.stores.join import Columns, asof_join
from feature_repo.stores.parquet import TIMESTAMP, Period

if TYPE_CHECKING:
    from feast.data_source import DataSource
    from feast.feature_view import FeatureView

    from feature_repo.stores.asof import AsOfOfflineStoreConfig

DUMMY_KEY = "__dummy_id"
_AT = "__at"


@dataclass(frozen=True, slots=True)
class History:
    """Where one feature view's rows are, in terms of the source's own column names."""

    view: str
    path: str
    keys: dict[str, str]  # source column -> column of the entity frame
    features: dict[str, str]  # source column -> column of the result
    declared: dict[str, FeastType]  # source column of any key or feature of the view -> declared type
    names: dict[str, str]  # name in the view -> source column, where the source maps it
    event: str
    created: str | None
    ttl: timedelta | None

    @property
    def times(self) -> list[str]:
        return [self.event, *([self.created] if self.created else [])]

    @property
    def read(self) -> list[str]:
        """The columns to read, each once."""
        return list(dict.fromkeys([*self.keys, *self.features, *self.times]))

    def place(self, column: str, origin: str) -> Place:
        """What a message says of a source column."""
        return Place(self.view, column, origin, self.declared.get(column, UnixTimestamp))

    def nothing(self, rows: int) -> pa.Table:
        """So many rows of nulls in the declared types, for when there is no file to say."""
        kinds = {name: arrow_type(self.declared[column]) or pa.null() for column, name in self.features.items()}
        return pa.table({name: pa.nulls(rows, kind) for name, kind in kinds.items()})

    def as_read(self, answers: pl.DataFrame) -> pa.Table:
        """The values of the features in their declared types, under the result's names.

        Raises
        ------
        NotAsDeclared
            The source holds values that are not what the view declares.
        """
        table = answers.to_arrow(compat_level=pl.CompatLevel.oldest())
        origin = f"its source {self.path}"
        return pa.table(
            {name: as_read(table[column], self.place(column, origin)) for column, name in self.features.items()}
        )


def history_of(
    view: FeatureView, feature_refs: Sequence[str], full_feature_names: bool, repo_path: Path | None
) -> History:
    source = view.batch_source
    if source is None:
        raise ValueError(f"feature view {view.name} has no batch source to read from")
    column_of = {new: old for old, new in source.field_mapping.items()}
    prefix = f"{reference_of(view)}:"
    names = dict.fromkeys(ref.removeprefix(prefix) for ref in feature_refs if ref.startswith(prefix))
    base = view.projection.name_alias or view.name
    results = {name: f"{base}__{name}" if full_feature_names else name for name in names}
    fields = [field for field in [*view.entity_columns, *view.features] if field.name != DUMMY_KEY]
    keys = [field.name for field in view.entity_columns if field.name != DUMMY_KEY]
    created = source.created_timestamp_column
    return History(
        view=view.name,
        path=path_of(source, repo_path),
        keys={column_of.get(key, key): view.projection.join_key_map.get(key, key) for key in keys},
        features={column_of.get(name, name): result for name, result in results.items()},
        declared={column_of.get(field.name, field.name): field.dtype for field in fields},
        names=column_of,
        event=column_of.get(source.timestamp_field, source.timestamp_field),
        created=column_of.get(created, created) if created else None,
        ttl=view.ttl or None,
    )


def reference_of(view: FeatureView) -> str:
    """The name by which feature references mean this view."""
    return str(view.projection.name_to_use())  # type: ignore[no-untyped-call]


def path_of(source: DataSource, repo_path: Path | None) -> str:
    if not isinstance(source, FileSource):
        raise ValueError(f"AsOfOfflineStore reads Parquet files: {source.name} is a {type(source).__name__}")
    return FileSource.get_uri_for_file_path(repo_path, source.path.removeprefix("file://"))


def features_of(
    entities: pd.DataFrame,
    instant_column: str,
    histories: Sequence[History],
    cutoff: bool,
    options: AsOfOfflineStoreConfig,
) -> pa.Table:
    """The features of every history, a row for each row of the entity frame."""
    instants = pl.from_pandas(entities[instant_column].dt.floor("us")).cast(TIMESTAMP).alias(_AT)
    columns: dict[str, pa.ChunkedArray] = {}
    for history in histories:
        found = _answers(entities, instants, history, cutoff, options)
        columns |= dict(zip(found.column_names, found.columns, strict=True))
    return pa.table(columns)


def _answers(
    entities: pd.DataFrame, instants: pl.Series, history: History, cutoff: bool, options: AsOfOfflineStoreConfig
) -> pa.Table:
    def read(files: list[str]) -> pl.DataFrame:
        rows = parquet.scan(files, history.read, history.times)
        schema = rows.collect_schema()
        keys = [_key(entities[frame], schema[column], column, history) for column, frame in history.keys.items()]
        return asof_join(
            pl.DataFrame([*keys, instants]),
            rows.filter(period.filter(history.event)),
            Columns(list(history.keys), history.event, history.created, list(history.features)),
            at=_AT,
            ttl=history.ttl,
            cutoff=cutoff,
            memory_limit_mebibytes=options.memory_limit_mebibytes,
        )

    period = reach(instants, history.ttl)
    answers = read_files(history.path, period, read, options.day_partitions) if history.features else None
    if answers is None:
        return history.nothing(len(entities))
    return history.as_read(answers)


def reach(instants: pl.Series, ttl: timedelta | None) -> Period:
    """The event times that can matter to any of these instants."""
    first, last = instants.min(), instants.max()
    start = first - ttl if ttl and isinstance(first, datetime) else None
    return Period(start, last if isinstance(last, datetime) else None)


def _key(values: pd.Series, kind: pl.DataType, column: str, history: History) -> pl.Series:
    """A join key of the entity frame, in the source's type; what cannot be compared is refused, not guessed."""
    try:
        series = pl.from_pandas(values, nan_to_null=True).alias(column)
    except (TypeError, pa.ArrowException, pl.exceptions.PolarsError) as error:
        raise TypeError(f"{history.view}: entity column {values.name!r} has mixed types ({error})") from error
    if isinstance(series.dtype, pl.Categorical | pl.Enum):
        series = series.cast(pl.String)
    if series.dtype.is_float() and kind.is_integer() and (series.is_null() | (series == series.round())).all():
        series = series.cast(kind)  # pandas turns integers with a null into floats
    comparable = series.dtype == kind or series.dtype == pl.Null or (series.dtype.is_integer() and kind.is_integer())
    if not comparable:
        raise TypeError(
            f"{history.view}: entity column {values.name!r} is {series.dtype}, but {column!r} in {history.path} is "
            f"{kind}: cast it in the entity frame"
        )
    return series.cast(kind, strict=False)


def read_files(
    path: str, period: Period, read: Callable[[list[str]], pl.DataFrame], day_partitions: bool
) -> pl.DataFrame | None:
    """What `read` makes of the source's files; None when it has no file in the period."""
    return parquet.read_unchanged(
        lambda: parquet.files_of(path, period if day_partitions else None), lambda files: read(files) if files else None
    )


def plain_table(frame: pl.DataFrame) -> pa.Table:
    """One chunk, plain types: Feast 0.67 converts only the first chunk of a table when it materialises."""
    table = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
    return pa.table({name: plain(values) for name, values in zip(table.column_names, table.columns, strict=True)})

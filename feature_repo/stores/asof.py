"""A Feast offline store that answers "what was known of this entity at that instant" by an as-of join.

For every row of an entity frame, at its own time, and every feature view, the answer is found by `join.asof_join`. Rows
in = rows out, in the same order.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd
import polars as pl
import pyarrow as pa
from feast.errors import FeastEntityDFMissingColumnsError, SavedDatasetLocationAlreadyExists
from feast.infra.offline_stores.file_source import FileLoggingDestination, FileSource
from feast.infra.offline_stores.offline_store import OfflineStore, RetrievalJob, RetrievalMetadata
from feast.infra.offline_stores.offline_utils import infer_event_timestamp_from_entity_df
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import FeastConfigBaseModel, RepoConfig
from feast.types import from_feast_to_pyarrow_type
from pydantic import PositiveInt

from feature_repo.stores import parquet
from feature_repo.stores.join import Columns, asof_join
from feature_repo.stores.parquet import TIMESTAMP, Period

if TYPE_CHECKING:
    from feast.data_source import DataSource
    from feast.feature_logging import LoggingConfig, LoggingSource
    from feast.feature_view import FeatureView
    from feast.infra.registry.base_registry import BaseRegistry
    from feast.saved_dataset import SavedDatasetStorage, ValidationReference

_ROW, _AT = "__row", "__at"
_DUMMY_KEY = "__dummy_id"


class AsOfOfflineStoreConfig(FeastConfigBaseModel):
    """Options of the store in `feature_store.yaml`."""

    type: Literal["feature_repo.stores.asof.AsOfOfflineStore"] = "feature_repo.stores.asof.AsOfOfflineStore"

    knowledge_cutoff: bool = True
    """Hide a row from instants before its created time, so that a late correction does not leak into training."""

    day_partitions: bool = False
    """Promise that a file below `day=YYYY-MM-DD` holds only rows of that UTC day of event time; skip the others."""

    memory_limit_mebibytes: PositiveInt | None = 2048
    """What the keys and times of one view's history may take; of a longer one, some keys after others are joined."""


@dataclass(frozen=True, slots=True)
class History:
    """Where one feature view's rows are, in terms of the source's own column names."""

    view: str
    path: str
    keys: dict[str, str]  # source column -> column of the entity frame
    features: dict[str, str]  # source column -> column of the result
    types: dict[str, pa.DataType]  # column of the result -> type, for when there is no file to say
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


class AsOfRetrievalJob(RetrievalJob):
    """A query that runs when its result is asked for.

    Parameters
    ----------
    evaluate : callable
        Returns the result without on-demand features and the columns of `entities`, as an Arrow table.
    entities : pandas.DataFrame, optional
        Comes back in front of the result, untouched but for its index.
    """

    def __init__(
        self,
        evaluate: Callable[[], pa.Table],
        repo_path: Path | None,
        entities: pd.DataFrame | None = None,
        full_feature_names: bool = False,
        on_demand_feature_views: Sequence[OnDemandFeatureView] = (),
        metadata: RetrievalMetadata | None = None,
    ) -> None:
        self._evaluate = evaluate
        self._repo_path = repo_path
        self._entities = entities
        self._full_feature_names = full_feature_names
        self._on_demand_feature_views = list(on_demand_feature_views)
        self._metadata = metadata

    @property
    def full_feature_names(self) -> bool:
        return self._full_feature_names

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        return self._on_demand_feature_views

    @property
    def metadata(self) -> RetrievalMetadata | None:
        return self._metadata

    def to_df(
        self, validation_reference: ValidationReference | None = None, timeout: int | None = None
    ) -> pd.DataFrame:
        """The result as a data frame; without on-demand features, the entity frame does not go through Arrow."""
        if validation_reference or self._on_demand_feature_views:
            return super().to_df(validation_reference, timeout)
        return self._to_df_internal(timeout)

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        found = self._evaluate()
        if self._entities is None:
            return found
        table = pa.Table.from_pandas(self._entities, preserve_index=False)
        for name, values in zip(found.column_names, found.columns, strict=True):
            table = table.append_column(name, values)
        return table

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        found: pd.DataFrame = self._evaluate().to_pandas(split_blocks=True)
        return found if self._entities is None else pd.concat([self._entities.reset_index(drop=True), found], axis=1)

    def persist(self, storage: SavedDatasetStorage, allow_overwrite: bool = False, timeout: int | None = None) -> None:
        """Write the result, on-demand features included, to the storage's file or directory.

        Raises
        ------
        SavedDatasetLocationAlreadyExists
            Something is there, and `allow_overwrite` is false.
        """
        source = storage.to_data_source()
        target = Path(_path_of(source, self._repo_path))
        if target.exists() and not allow_overwrite:
            raise SavedDatasetLocationAlreadyExists(location=str(target))
        file = target if target.suffix == ".parquet" else target / "rows.parquet"
        parquet.write_atomically(self.to_arrow(timeout=timeout), file)


class AsOfOfflineStore(OfflineStore):
    """Feast offline store over Parquet files; see the module for what it answers."""

    supports_filter_by_created_timestamp = True

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | str | None,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
        **_: Any,
    ) -> RetrievalJob:
        """Features of each row of `entity_df` as of its time.

        Parameters
        ----------
        entity_df : pandas.DataFrame
            Join keys, request data, and a column of instants (`event_timestamp`, or the only time column). Naive
            instants are UTC, as in Feast.
        filter_by_created_timestamp : bool
            Feast's own name for the knowledge cut-off; it is on anyway unless the configuration turns it off.

        Raises
        ------
        ValueError
            `entity_df` is not a data frame, or one of its columns has a feature's name.
        FeastEntityDFMissingColumnsError
            It lacks a join key of a requested view.
        TypeError
            A join key's type cannot be compared with the source's.
        UnusableSource
            A source's file is damaged or unsuitable.
        """
        if not isinstance(entity_df, pd.DataFrame):
            what = "a SQL query" if isinstance(entity_df, str) else "a range of time alone"
            raise ValueError(f"entity_df must be a pandas DataFrame: {what} is not supported by AsOfOfflineStore")
        instant_column = infer_event_timestamp_from_entity_df(dict(entity_df.dtypes))
        entities = entity_df.assign(**{instant_column: _as_utc(entity_df[instant_column])})
        histories = [_history(view, feature_refs, full_feature_names, config.repo_path) for view in feature_views]
        _check_entity_frame(entities, instant_column, histories)
        cutoff = config.offline_store.knowledge_cutoff or filter_by_created_timestamp
        instants = entities[instant_column]
        return AsOfRetrievalJob(
            lambda: _features(entities, instant_column, histories, cutoff, config.offline_store),
            config.repo_path,
            entities,
            full_feature_names,
            OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry),
            RetrievalMetadata(
                features=feature_refs,
                keys=[name for name in entities.columns if name != instant_column],
                min_event_timestamp=_python_instant(instants.min()),
                max_event_timestamp=_python_instant(instants.max()),
            ),
        )

    @staticmethod
    def pull_latest_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None,
        start_date: datetime,
        end_date: datetime,
    ) -> RetrievalJob:
        """The row with the greatest (event time, created time) of each key, of those with event time in the period.

        Rows without a join key are left out: they belong to nobody.
        """
        times = [timestamp_field, *([created_timestamp_column] if created_timestamp_column else [])]
        columns = [*join_key_columns, *feature_name_columns, *times]
        wanted = [name for name in dict.fromkeys(columns) if name != _DUMMY_KEY]
        path, period = _path_of(data_source, config.repo_path), Period(start_date, end_date)

        def read(files: list[str]) -> pl.DataFrame:
            keys = [name for name in join_key_columns if name != _DUMMY_KEY]
            rows = parquet.scan(files, wanted, times).filter(period.filter(timestamp_field))
            latest = rows.drop_nulls(keys).sort(*_tie_safe(times), maintain_order=True, nulls_last=False)
            return (latest.unique(keys, keep="last", maintain_order=True) if keys else latest.tail(1)).collect()

        def evaluate() -> pa.Table:
            found = _read(path, period, read, config.offline_store.day_partitions)
            return _empty(columns, times) if found is None else _arrow(found)

        return AsOfRetrievalJob(evaluate, config.repo_path)

    @staticmethod
    def pull_all_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None = None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> RetrievalJob:
        """All rows with event time in the period, in file order."""
        times = [timestamp_field, *([created_timestamp_column] if created_timestamp_column else [])]
        columns = [*join_key_columns, *feature_name_columns, *times]
        wanted = [name for name in dict.fromkeys(columns) if name != _DUMMY_KEY]
        path, period = _path_of(data_source, config.repo_path), Period(start_date, end_date)

        def read(files: list[str]) -> pl.DataFrame:
            return parquet.scan(files, wanted, times).filter(period.filter(timestamp_field)).collect()

        def evaluate() -> pa.Table:
            found = _read(path, period, read, config.offline_store.day_partitions)
            return _empty(columns, times) if found is None else _arrow(found)

        return AsOfRetrievalJob(evaluate, config.repo_path)

    @staticmethod
    def offline_write_batch(
        config: RepoConfig, feature_view: FeatureView, table: pa.Table, progress: Callable[[int], Any] | None
    ) -> None:
        """Add rows to a view's source; the file or directory is made by the first write.

        Raises
        ------
        ValueError
            A column that the view reads is missing.
        """
        history = _history(feature_view, [], False, config.repo_path)
        wanted = [*history.keys, history.event, *([history.created] if history.created else [])]
        missing = [name for name in wanted if name not in table.column_names]
        if missing:
            raise ValueError(f"{feature_view.name}: the table to write has no columns {missing}")
        parquet.append(_in_microseconds(table), history.path, history.event, config.offline_store.day_partitions)
        if progress:
            progress(table.num_rows)

    @staticmethod
    def write_logged_features(
        config: RepoConfig,
        data: pa.Table | Path,
        source: LoggingSource,
        logging_config: LoggingConfig,
        registry: BaseRegistry,
    ) -> None:
        """Add logged features to the destination directory, as one new file for each call and partition.

        Raises
        ------
        ValueError
            The destination is not a directory of files.
        """
        destination = logging_config.destination
        if not isinstance(destination, FileLoggingDestination):
            raise ValueError(f"cannot log features to {type(destination).__name__}: use a FileLoggingDestination")
        import pyarrow.dataset as ds

        table = ds.dataset(data, format="parquet").to_table() if isinstance(data, Path) else data
        root = Path(FileSource.get_uri_for_file_path(config.repo_path, destination.path))
        for directory, part in _partitions(table, destination.partition_by or []):
            parquet.write_atomically(_in_microseconds(part), root / directory / f"log-{uuid.uuid4().hex}.parquet")

    def validate_data_source(self, config: RepoConfig, data_source: DataSource) -> None:
        """Accept a source that has no rows yet, without a warning: a new installation starts with none."""
        _path_of(data_source, config.repo_path)


def latest_known(
    view: FeatureView, features: Sequence[str], frame: pl.DataFrame, at: str, config: RepoConfig
) -> pl.DataFrame | None:
    """Every key's newest row at its instant within the view's TTL, whenever created: what should be online.

    Parameters
    ----------
    view : FeatureView
        A view over Parquet files.
    features : sequence of str
        Names of the view's features.
    frame : polars.DataFrame, n rows
        The view's join keys, and `at`.

    Returns
    -------
    polars.DataFrame, n rows, or None
        `features`, and `event` with the row's event time; null where there is no row. None without any file.
    """
    history = _history(view, [f"{_reference(view)}:{name}" for name in features], False, config.repo_path)
    period = _reach(frame[at], history.ttl)
    questions = frame.rename({name: column for column, name in history.keys.items()})
    columns = Columns(list(history.keys), history.event, history.created, [*history.features, history.event])

    def read(files: list[str]) -> pl.DataFrame:
        rows = parquet.scan(files, history.read, history.times).filter(period.filter(history.event))
        return asof_join(questions, rows, columns, at=at, ttl=history.ttl, cutoff=False)

    answers = _read(history.path, period, read, config.offline_store.day_partitions)
    return None if answers is None else answers.rename({**history.features, history.event: "event"})


def recent_keys(view: FeatureView, period: Period, config: RepoConfig) -> pl.DataFrame | None:
    """The distinct join keys of a view's rows with event time in `period`; None without any file."""
    history = _history(view, [], False, config.repo_path)

    def read(files: list[str]) -> pl.DataFrame:
        rows = parquet.scan(files, [*history.keys, history.event], [history.event])
        keys = rows.filter(period.filter(history.event)).select(list(history.keys))
        return keys.rename(history.keys).drop_nulls().unique().collect()

    return _read(history.path, period, read, config.offline_store.day_partitions)


def _features(
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

    period = _reach(instants, history.ttl)
    answers = _read(history.path, period, read, options.day_partitions) if history.features else None
    if answers is None:
        return pa.table({name: pa.nulls(len(entities), kind) for name, kind in history.types.items()})
    return _arrow(answers.rename(history.features))


def _reach(instants: pl.Series, ttl: timedelta | None) -> Period:
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


def _read(
    path: str, period: Period, read: Callable[[list[str]], pl.DataFrame], day_partitions: bool
) -> pl.DataFrame | None:
    """What `read` makes of the source's files; None when it has no file in the period."""
    return parquet.read_unchanged(
        lambda: parquet.files_of(path, period if day_partitions else None), lambda files: read(files) if files else None
    )


def _history(
    view: FeatureView, feature_refs: Sequence[str], full_feature_names: bool, repo_path: Path | None
) -> History:
    source = view.batch_source
    if source is None:
        raise ValueError(f"feature view {view.name} has no batch source to read from")
    column_of = {new: old for old, new in source.field_mapping.items()}
    prefix = f"{_reference(view)}:"
    names = dict.fromkeys(ref.removeprefix(prefix) for ref in feature_refs if ref.startswith(prefix))
    base = view.projection.name_alias or view.name
    results = {name: f"{base}__{name}" if full_feature_names else name for name in names}
    types = {field.name: field.dtype for field in view.features}
    keys = [field.name for field in view.entity_columns if field.name != _DUMMY_KEY]
    created = source.created_timestamp_column
    return History(
        view=view.name,
        path=_path_of(source, repo_path),
        keys={column_of.get(key, key): view.projection.join_key_map.get(key, key) for key in keys},
        features={column_of.get(name, name): result for name, result in results.items()},
        types={result: from_feast_to_pyarrow_type(types[name]) for name, result in results.items()},
        event=column_of.get(source.timestamp_field, source.timestamp_field),
        created=column_of.get(created, created) if created else None,
        ttl=view.ttl or None,
    )


def _reference(view: FeatureView) -> str:
    """The name by which feature references mean this view."""
    return str(view.projection.name_to_use())  # type: ignore[no-untyped-call]


def _path_of(source: DataSource, repo_path: Path | None) -> str:
    if not isinstance(source, FileSource):
        raise ValueError(f"AsOfOfflineStore reads Parquet files: {source.name} is a {type(source).__name__}")
    return FileSource.get_uri_for_file_path(repo_path, source.path.removeprefix("file://"))


def _check_entity_frame(entities: pd.DataFrame, instant_column: str, histories: Sequence[History]) -> None:
    needed = {column for history in histories for column in history.keys.values()} | {instant_column}
    missing = needed - set(entities.columns)
    if missing:
        raise FeastEntityDFMissingColumnsError(sorted(needed), sorted(missing))  # type: ignore[no-untyped-call]
    taken = [name for history in histories for name in history.features.values() if name in entities.columns]
    if taken:
        raise ValueError(f"columns {taken} of the entity frame have a feature's name: rename or drop them")


def _as_utc(instants: pd.Series) -> pd.Series:
    """Instants in UTC; naive ones are taken as UTC, as Feast does."""
    return pd.to_datetime(instants, utc=True)


def _python_instant(instant: Any) -> datetime | None:
    return None if pd.isna(instant) else instant.to_pydatetime()


def _tie_safe(times: Sequence[str]) -> list[pl.Expr]:
    return [pl.col(times[0]), *(pl.coalesce(name, times[0]) for name in times[1:])]


def _arrow(frame: pl.DataFrame) -> pa.Table:
    """One chunk, plain strings: Feast 0.67 converts only the first chunk of a table when it materialises."""
    table = frame.to_arrow(compat_level=pl.CompatLevel.oldest()).combine_chunks()
    kinds = [pa.string() if pa.types.is_large_string(field.type) else field.type for field in table.schema]
    return table.cast(pa.schema(zip(table.column_names, kinds, strict=True)))


def _empty(columns: Sequence[str], times: Sequence[str]) -> pa.Table:
    stamp = pa.timestamp("us", "UTC")
    return pa.table({name: pa.array([], stamp if name in times else pa.null()) for name in dict.fromkeys(columns)})


def _in_microseconds(table: pa.Table) -> pa.Table:
    """`table` with every time stamp as microseconds in UTC."""
    stamp = pa.timestamp("us", "UTC")
    fields = [field.with_type(stamp) if pa.types.is_timestamp(field.type) else field for field in table.schema]
    return table.cast(pa.schema(fields), safe=False)


def _partitions(table: pa.Table, columns: Sequence[str]) -> list[tuple[str, pa.Table]]:
    if not columns:
        return [("", table)]
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    parts = frame.with_row_index(_ROW).group_by(columns, maintain_order=True).agg(_ROW)
    names = ["/".join(f"{name}={row[name]}" for name in columns) for row in parts.iter_rows(named=True)]
    return [(name, table.take(pa.array(rows))) for name, rows in zip(names, parts[_ROW].to_list(), strict=True)]

"""A Feast offline store that answers "what was known of this entity at that instant" by an as-of join.

For every row of an entity frame, at its own time `t`, and every feature view, the answer is the row with the greatest
(event time, created time) among those with event time <= t and, with the knowledge cut-off, created time <= t; it is
null when that row is older than the view's TTL. Rows in = rows out, in the same order.

The join is not an inequality join. Put `known = max(event time, created time)`: a row can answer from `known` on. Going
through a key's rows in the order in which they became known, only those that set a new record of (event time, created
time) can ever be an answer, and the last record at or before `t` is the answer. That makes it one sort and one as-of
join on `known`, whose memory grows with the rows read and not with the pairs compared.

A row without a created time counts as created at its event time. Of rows that agree in both times the last one in file
order answers.
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

from feature_repo.stores import parquet
from feature_repo.stores.parquet import TIMESTAMP, Period

if TYPE_CHECKING:
    from feast.data_source import DataSource
    from feast.feature_logging import LoggingConfig, LoggingSource
    from feast.feature_view import FeatureView
    from feast.infra.registry.base_registry import BaseRegistry
    from feast.saved_dataset import SavedDatasetStorage

_ROW, _KEY, _AT = "__row", "__key", "__at"
_EVENT, _CREATED, _KNOWN, _RANK = "__event", "__created", "__known", "__rank"
_DUMMY_KEY = "__dummy_id"


class AsOfOfflineStoreConfig(FeastConfigBaseModel):
    """Options of the store in `feature_store.yaml`."""

    type: Literal["feature_repo.stores.asof.AsOfOfflineStore"] = "feature_repo.stores.asof.AsOfOfflineStore"

    knowledge_cutoff: bool = True
    """Hide a row from instants before its created time, so that a late correction does not leak into training."""

    day_partitions: bool = False
    """Promise that a file below `day=YYYY-MM-DD` holds only rows of that UTC day of event time; skip the others."""


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


class AsOfRetrievalJob(RetrievalJob):
    """A query that runs when its result is asked for.

    Parameters
    ----------
    evaluate : callable
        Returns the result without on-demand features, as an Arrow table.
    """

    def __init__(
        self,
        evaluate: Callable[[], pa.Table],
        repo_path: Path | None,
        full_feature_names: bool = False,
        on_demand_feature_views: Sequence[OnDemandFeatureView] = (),
        metadata: RetrievalMetadata | None = None,
    ) -> None:
        self._evaluate = evaluate
        self._repo_path = repo_path
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

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        return self._evaluate()

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        frame: pd.DataFrame = self._evaluate().to_pandas()
        return frame

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
        by_day = config.offline_store.day_partitions
        instants = entities[instant_column]
        return AsOfRetrievalJob(
            lambda: _with_features(entities, instant_column, histories, cutoff, by_day),
            config.repo_path,
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
        path, period = _path_of(data_source, config.repo_path), Period(start_date, end_date)

        def evaluate() -> pa.Table:
            rows = _rows(path, columns, times, period, config.offline_store.day_partitions)
            if rows is None:
                return _empty(columns, times)
            keys = [name for name in join_key_columns if name != _DUMMY_KEY]
            latest = rows.drop_nulls(keys).sort(*_tie_safe(times), maintain_order=True, nulls_last=False)
            latest = latest.unique(keys, keep="last", maintain_order=True) if keys else latest.tail(1)
            return _arrow(latest.collect())

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
        path, period = _path_of(data_source, config.repo_path), Period(start_date, end_date)

        def evaluate() -> pa.Table:
            rows = _rows(path, columns, times, period, config.offline_store.day_partitions)
            return _empty(columns, times) if rows is None else _arrow(rows.collect())

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


def asof_join(
    rows: pl.DataFrame,
    history: pl.LazyFrame,
    *,
    keys: Sequence[str],
    at: str,
    event: str,
    created: str | None,
    values: Sequence[str],
    ttl: timedelta | None,
    cutoff: bool,
) -> pl.DataFrame:
    """The values of each row's key as of its instant.

    Parameters
    ----------
    rows : polars.DataFrame, n rows
        `keys` (null where the entity is unknown) and `at`.
    history : polars.LazyFrame
        `keys` with the same names and types, `event`, `created` (may hold nulls) and `values`.
    ttl : timedelta, optional
        An answer whose event time is before `at - ttl` is null; one exactly at it is not.
    cutoff : bool
        Hide rows created after `at`.

    Returns
    -------
    polars.DataFrame, n rows
        `values`, in the order of `rows`.
    """
    left = rows.select(*keys, pl.col(at).alias(_AT)).with_row_index(_ROW)
    ids = left.select(*keys).unique().drop_nulls().with_row_index(_KEY) if keys else None
    left = left.with_columns(pl.lit(0, pl.UInt32).alias(_KEY)) if ids is None else left.join(ids, on=keys, how="left")
    records = _records(_numbered(history, ids, keys, event, created, values), cutoff and created is not None)
    answerable = left.filter(pl.col(_KEY).is_not_null() & pl.col(_AT).is_not_null()).select(_ROW, _KEY, _AT)
    joined = answerable.sort(_KEY, _AT).join_asof(
        records, left_on=_AT, right_on=_KNOWN, by=_KEY, strategy="backward", check_sortedness=False
    )
    if ttl:
        fresh = pl.col(_EVENT) >= pl.col(_AT) - ttl
        joined = joined.with_columns(pl.when(fresh).then(pl.col(name)).alias(name) for name in values)
    return left.select(_ROW).join(joined, on=_ROW, how="left").sort(_ROW).select(*values)


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
    times = [history.event, *([history.created] if history.created else [])]
    period = _reach(frame[at], history.ttl)
    columns = [*history.keys, *history.features, *times]
    rows = _rows(history.path, columns, times, period, config.offline_store.day_partitions)
    if rows is None:
        return None
    answers = asof_join(
        frame.rename({name: column for column, name in history.keys.items()}),
        rows,
        keys=list(history.keys),
        at=at,
        event=history.event,
        created=history.created,
        values=[*history.features, history.event],
        ttl=history.ttl,
        cutoff=False,
    )
    return answers.rename({**history.features, history.event: "event"})


def recent_keys(view: FeatureView, period: Period, config: RepoConfig) -> pl.DataFrame | None:
    """The distinct join keys of a view's rows with event time in `period`; None without any file."""
    history = _history(view, [], False, config.repo_path)
    columns = [*history.keys, history.event]
    rows = _rows(history.path, columns, [history.event], period, config.offline_store.day_partitions)
    return (
        None if rows is None else rows.select(list(history.keys)).rename(history.keys).drop_nulls().unique().collect()
    )


def _numbered(
    history: pl.LazyFrame,
    ids: pl.DataFrame | None,
    keys: Sequence[str],
    event: str,
    created: str | None,
    values: Sequence[str],
) -> pl.DataFrame:
    """Rows of the asked-for keys, with the key as a number, in the order in which they outrank each other."""
    numbered = (
        history.with_columns(pl.lit(0, pl.UInt32).alias(_KEY))
        if ids is None
        else history.join(ids.lazy(), on=list(keys), how="inner", maintain_order="left")
    )
    made = pl.coalesce(created, event) if created else pl.col(event)
    columns = [pl.col(_KEY), pl.col(event).alias(_EVENT), made.alias(_CREATED), *values]
    return numbered.select(columns).sort(_KEY, _EVENT, _CREATED, maintain_order=True).collect()


def _records(ranked: pl.DataFrame, cutoff: bool) -> pl.DataFrame:
    """Of rows ordered by (key, event, created): those that can answer, ordered by (key, known), no two alike in both.

    Ranks grow from key to key in both orders, so that one cumulative maximum over the whole frame is one for each key.
    """
    if cutoff:
        ranked = ranked.with_row_index(_RANK).with_columns(pl.max_horizontal(_EVENT, _CREATED).alias(_KNOWN))
        ranked = ranked.sort(_KEY, _KNOWN, _RANK).filter(pl.col(_RANK) == pl.col(_RANK).cum_max())
    else:
        ranked = ranked.with_columns(pl.col(_EVENT).alias(_KNOWN))
    is_last = (pl.struct(_KEY, _KNOWN) != pl.struct(_KEY, _KNOWN).shift(-1)).fill_null(True)
    return ranked.filter(is_last).drop(_CREATED)


def _with_features(
    entities: pd.DataFrame, instant_column: str, histories: Sequence[History], cutoff: bool, day_partitions: bool
) -> pa.Table:
    """The entity frame with the features of every history beside it."""
    table = pa.Table.from_pandas(entities, preserve_index=False)
    instants = pl.from_pandas(entities[instant_column].dt.floor("us")).cast(TIMESTAMP).alias(_AT)
    for history in histories:
        columns = _answers(entities, instants, history, cutoff, day_partitions)
        for name, values in zip(columns.column_names, columns.columns, strict=True):
            table = table.append_column(name, values)
    return table


def _answers(
    entities: pd.DataFrame, instants: pl.Series, history: History, cutoff: bool, day_partitions: bool
) -> pa.Table:
    times = [history.event, *([history.created] if history.created else [])]
    columns = list(dict.fromkeys([*history.keys, *history.features, *times]))
    period = _reach(instants, history.ttl)
    rows = _rows(history.path, columns, times, period, day_partitions) if history.features else None
    if rows is None:
        return pa.table({name: pa.nulls(len(entities), kind) for name, kind in history.types.items()})
    schema = rows.collect_schema()
    left = pl.DataFrame(
        [_key(entities[frame], schema[column], column, history) for column, frame in history.keys.items()]
    )
    answers = asof_join(
        left.with_columns(instants) if history.keys else instants.to_frame(),
        rows,
        keys=list(history.keys),
        at=_AT,
        event=history.event,
        created=history.created,
        values=list(history.features),
        ttl=history.ttl,
        cutoff=cutoff,
    )
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


def _rows(
    path: str, columns: Sequence[str], times: Sequence[str], period: Period, day_partitions: bool
) -> pl.LazyFrame | None:
    """The source's rows in a period of event time (`times[0]`); None when it has no file."""
    files = parquet.files_of(path, period if day_partitions else None)
    if not files:
        return None
    wanted = [name for name in dict.fromkeys(columns) if name != _DUMMY_KEY]
    return parquet.scan(files, wanted, times).filter(period.filter(times[0]))


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

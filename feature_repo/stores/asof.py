"""A Feast offline store that answers "what was known of this entity at that instant" by an as-of join.

For every row of an entity frame, at its own time, and every feature view, the answer is found by `join.asof_join`. Rows
in = rows out, in the same order.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd
import polars as pl
import pyarrow as pa
from feast.infra.offline_stores.file_source import FileLoggingDestination, FileSource
from feast.infra.offline_stores.offline_store import OfflineStore, RetrievalJob, RetrievalMetadata
from feast.infra.offline_stores.offline_utils import infer_event_timestamp_from_entity_df
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import FeastConfigBaseModel, RepoConfig
from feast.utils import compute_non_entity_date_range
from pydantic import PositiveInt

from feature_repo.stores import parquet, questions
from feature_repo.stores.history import (
    DUMMY_KEY,
    features_of,
    history_of,
    path_of,
    plain_table,
    reach,
    read_files,
    reference_of,
)
from feature_repo.stores.join import Columns, asof_join
from feature_repo.stores.parquet import Period
from feature_repo.stores.retrieval import AsOfRetrievalJob
from feature_repo.stores.writing import to_write

if TYPE_CHECKING:
    from feast.data_source import DataSource
    from feast.feature_logging import LoggingConfig, LoggingSource
    from feast.feature_view import FeatureView
    from feast.infra.registry.base_registry import BaseRegistry

_ROW = "__row"


class AsOfOfflineStoreConfig(FeastConfigBaseModel):
    """Options of the store in `feature_store.yaml`."""

    type: Literal["feature_repo.stores.asof.AsOfOfflineStore"] = "feature_repo.stores.asof.AsOfOfflineStore"

    knowledge_cutoff: bool = False
    """Hide a row from instants before its created time, so that a late correction does not leak into training. Off, as
    in Feast's stores, it can be asked for in each query (`filter_by_created_timestamp=True`)."""

    day_partitions: bool = False
    """Promise that a file below `day=YYYY-MM-DD` holds only rows of that UTC day of event time; skip the others."""

    memory_limit_mebibytes: PositiveInt | None = 2048
    """What the keys and times of one view's history may take; of a longer one, some keys after others are joined."""


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
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> RetrievalJob:
        """Features of each row of `entity_df` as of its time.

        Parameters
        ----------
        entity_df : pandas.DataFrame, optional
            Join keys, request data, and a column of instants (`event_timestamp`, or the only time column). Naive
            instants are UTC, as in Feast. Without it, see `questions.of_period`.
        filter_by_created_timestamp : bool
            Feast's own name for the knowledge cut-off; the configuration can turn it on for every query.
        start_date, end_date : datetime, optional
            Which instants are asked without an `entity_df`: by default one longest TTL, or 30 days, up to the end.

        Raises
        ------
        ValueError
            `entity_df` is a SQL query, its times are numbers, or one of its columns has a feature's name; or a range
            of time is asked of views that have different join keys.
        NotAsDeclared
            A source's values are not what the view declares.
        FeastEntityDFMissingColumnsError
            It lacks a join key of a requested view.
        TypeError
            A join key's type cannot be compared with the source's.
        UnusableSource
            A source's file is damaged or unsuitable.
        """
        if isinstance(entity_df, str):
            raise ValueError("entity_df must be a pandas DataFrame: a SQL query is not supported by AsOfOfflineStore")
        options = config.offline_store
        histories = [history_of(view, feature_refs, full_feature_names, config.repo_path) for view in feature_views]
        on_demand = OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry)
        cutoff = options.knowledge_cutoff or filter_by_created_timestamp
        if entity_df is None:
            period = compute_non_entity_date_range(feature_views, start_date, end_date)
            entity_df = questions.of_period(histories, on_demand, *period, cutoff, options.day_partitions)
        instant_column = infer_event_timestamp_from_entity_df(dict(entity_df.dtypes))
        questions.check(entity_df, instant_column, histories)
        instants = questions.as_utc(entity_df[instant_column])
        entities = entity_df.assign(**{instant_column: instants})
        return AsOfRetrievalJob(
            lambda: features_of(entities, instant_column, histories, cutoff, options),
            config.repo_path,
            entities,
            full_feature_names,
            on_demand,
            RetrievalMetadata(
                features=feature_refs,
                keys=[name for name in entities.columns if name != instant_column],
                min_event_timestamp=questions.python_instant(instants.min()),
                max_event_timestamp=questions.python_instant(instants.max()),
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
        wanted = [name for name in dict.fromkeys(columns) if name != DUMMY_KEY]
        path, period = path_of(data_source, config.repo_path), Period(start_date, end_date)

        def read(files: list[str]) -> pl.DataFrame:
            keys = [name for name in join_key_columns if name != DUMMY_KEY]
            rows = parquet.scan(files, wanted, times).filter(period.filter(timestamp_field))
            latest = rows.drop_nulls(keys).sort(*_tie_safe(times), maintain_order=True, nulls_last=False)
            return (latest.unique(keys, keep="last", maintain_order=True) if keys else latest.tail(1)).collect()

        def evaluate() -> pa.Table:
            found = read_files(path, period, read, config.offline_store.day_partitions)
            return _empty(columns, times) if found is None else plain_table(found)

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
        wanted = [name for name in dict.fromkeys(columns) if name != DUMMY_KEY]
        path, period = path_of(data_source, config.repo_path), Period(start_date, end_date)

        def read(files: list[str]) -> pl.DataFrame:
            return parquet.scan(files, wanted, times).filter(period.filter(timestamp_field)).collect()

        def evaluate() -> pa.Table:
            found = read_files(path, period, read, config.offline_store.day_partitions)
            return _empty(columns, times) if found is None else plain_table(found)

        return AsOfRetrievalJob(evaluate, config.repo_path)

    @staticmethod
    def offline_write_batch(
        config: RepoConfig, feature_view: FeatureView, table: pa.Table, progress: Callable[[int], Any] | None
    ) -> None:
        """Add rows to a view's source; the file or directory is made by the first write.

        Values become what the view declares, in the types that the source's files have; what would lose something is
        refused, and then nothing is written.

        Raises
        ------
        NotAsDeclared
            See `writing.to_write`.
        UnusableSource
            The source does not say where new rows belong, or its file is damaged.
        UnwritableSource
            The disk is full, or may not be written to.
        """
        history = history_of(feature_view, [], False, config.repo_path)
        by_day = config.offline_store.day_partitions
        parquet.append(lambda held: to_write(table, history, held), history.path, history.event, by_day)
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
            parquet.write_atomically(
                parquet.in_microseconds(part), root / directory / f"log-{uuid.uuid4().hex}.parquet"
            )

    def validate_data_source(self, config: RepoConfig, data_source: DataSource) -> None:
        """Accept a source that has no rows yet, without a warning: a new installation starts with none."""
        path_of(data_source, config.repo_path)


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
    history = history_of(view, [f"{reference_of(view)}:{name}" for name in features], False, config.repo_path)
    period = reach(frame[at], history.ttl)
    questions = frame.rename({name: column for column, name in history.keys.items()})
    columns = Columns(list(history.keys), history.event, history.created, [*history.features, history.event])

    def read(files: list[str]) -> pl.DataFrame:
        rows = parquet.scan(files, history.read, history.times).filter(period.filter(history.event))
        return asof_join(questions, rows, columns, at=at, ttl=history.ttl, cutoff=False)

    answers = read_files(history.path, period, read, config.offline_store.day_partitions)
    if answers is None:
        return None
    values = pl.from_arrow(history.as_read(answers))
    assert isinstance(values, pl.DataFrame)
    return values.with_columns(answers[history.event].alias("event"))


def recent_keys(view: FeatureView, period: Period, config: RepoConfig) -> pl.DataFrame | None:
    """The distinct join keys of a view's rows with event time in `period`; None without any file."""
    history = history_of(view, [], False, config.repo_path)

    def read(files: list[str]) -> pl.DataFrame:
        rows = parquet.scan(files, [*history.keys, history.event], [history.event])
        keys = rows.filter(period.filter(history.event)).select(list(history.keys))
        return keys.rename(history.keys).drop_nulls().unique().collect()

    return read_files(history.path, period, read, config.offline_store.day_partitions)


def _tie_safe(times: Sequence[str]) -> list[pl.Expr]:
    return [pl.col(times[0]), *(pl.coalesce(name, times[0]) for name in times[1:])]


def _empty(columns: Sequence[str], times: Sequence[str]) -> pa.Table:
    stamp = pa.timestamp("us", "UTC")
    return pa.table({name: pa.array([], stamp if name in times else pa.null()) for name in dict.fromkeys(columns)})


def _partitions(table: pa.Table, columns: Sequence[str]) -> list[tuple[str, pa.Table]]:
    if not columns:
        return [("", table)]
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    parts = frame.with_row_index(_ROW).group_by(columns, maintain_order=True).agg(_ROW)
    names = ["/".join(f"{name}={row[name]}" for name in columns) for row in parts.iter_rows(named=True)]
    return [(name, table.take(pa.array(rows))) for name, rows in zip(names, parts[_ROW].to_list(), strict=True)]

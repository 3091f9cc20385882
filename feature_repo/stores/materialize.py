"""A Feast batch engine that brings each entity's newest row online, in memory that does not grow with the source.

`feast materialize`, `FeatureStore.materialize` and the pipeline's step all call the engine that `feature_store.yaml`
names. Feast's own one loads every row of the period, and makes a Python object of every value of every row. This one

* reads the source's Parquet files row group by row group, and only those whose times can matter (`latest`);
* keeps, of what it has read so far, the row with the greatest (event time, created time) of each key; when that is more
  than memory should hold, it is written and forgotten, which the store allows: the latest value wins in any order;
* encodes columns and not values (`encoding`), and lets the store write them in bulk.

A view that needs more than that (a transformation, an aggregation, another kind of source or store) is materialised by
Feast's local engine, and a line in the log says why.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import polars as pl
import pyarrow as pa
from feast import FeatureView
from feast.data_format import ParquetFormat
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL
from feast.infra.common.materialization_job import MaterializationJobStatus, MaterializationTask
from feast.infra.compute_engines.local.compute import LocalComputeEngine
from feast.infra.compute_engines.local.job import LocalMaterializationJob
from feast.infra.offline_stores.file_source import FileSource
from feast.infra.online_stores.redis import _versioned_fv_name
from feast.repo_config import FeastConfigBaseModel, RepoConfig
from pydantic import Field

from feature_repo.stores import parquet
from feature_repo.stores.declared import PLAIN_TYPES, Place, as_declared
from feature_repo.stores.encoding import EncodedRows, encode_keys, encode_values, stamps
from feature_repo.stores.latest import CREATED, EVENT, Source, batches, newest
from feature_repo.stores.parquet import Period
from feature_repo.stores.redis_online import LatestWinsRedisOnlineStore, field_of

if TYPE_CHECKING:
    from feast import FeatureStore
    from feast.infra.registry.base_registry import BaseRegistry

logger = logging.getLogger(__name__)


class LatestRowsEngineConfig(FeastConfigBaseModel):
    """Options of the engine in `feature_store.yaml`."""

    type: Literal["feature_repo.stores.materialize.LatestRowsEngine"] = (
        "feature_repo.stores.materialize.LatestRowsEngine"
    )

    rows_in_memory: int = Field(default=500_000, ge=2)
    """So many rows are read before they are reduced to the newest of each key; if that leaves more than half of them,
    they are written and forgotten. A view with more entities than half of this writes some of them several times."""


class LatestRowsEngine(LocalComputeEngine):
    """See the module.

    Parameters
    ----------
    **options
        As in `LatestRowsEngineConfig`; Feast hands over those of `feature_store.yaml`.
    """

    def __init__(self, *, repo_config: RepoConfig, offline_store: Any, online_store: Any, **options: Any) -> None:
        super().__init__(repo_config=repo_config, offline_store=offline_store, online_store=online_store)
        self.options = LatestRowsEngineConfig(**options)

    def _materialize_one(
        self, registry: BaseRegistry, task: MaterializationTask, **kwargs: Any
    ) -> LocalMaterializationJob:
        """Bring the newest rows of the task's view online.

        Raises
        ------
        UnusableSource
            A file of the source is damaged, or lacks a column or a usable type. A file whose footer says so is found
            before anything is written.
        OnlineStoreUnavailable
            Redis is down or slow. What was written stays; materialising again completes it.
        """
        view = task.feature_view
        reason = _why_not_in_bulk(view, self.repo_config, self.online_store)
        if reason:
            logger.info("%s is materialised by Feast's local engine: %s", view.name, reason)
            return super()._materialize_one(registry, task, **kwargs)
        self._materialize_in_bulk(view, Period(task.start_time, task.end_time), task.tqdm_builder)
        job = f"{view.name}-{task.start_time}-{task.end_time}"
        return LocalMaterializationJob(job, MaterializationJobStatus.SUCCEEDED)

    def _materialize_in_bulk(self, view: FeatureView, period: Period, bar: Callable[[int], Any] | None) -> None:
        source, store = source_of(view, period, self.repo_config), self.online_store
        assert isinstance(store, LatestWinsRedisOnlineStore)
        size = self.repo_config.online_store.rows_per_round_trip
        keys = [field.name for field in view.entity_columns if field.name != DUMMY_ENTITY_ID]
        total, found, written = source.rows(period), 0, 0
        with _progress(bar, total, "rows read") as advance:
            for rows in newest(batches(source, period, advance), keys, self.options.rows_in_memory):
                found += rows.height
                with _progress(bar, rows.height, "keys written") as wrote:
                    encoded = (encoded_rows(chunk, view, self.repo_config) for chunk in rows.iter_slices(size))
                    written += store.write_encoded(self.repo_config, view, encoded, wrote)
        logger.info("%s: %d rows read, %d keys found, %d written", view.name, total, found, written)


def bring_online(rows: pl.DataFrame, view: FeatureView, store: FeatureStore) -> int:
    """Write rows that are in memory to the online store, in the same bytes; returns how many were not outranked.

    Parameters
    ----------
    rows : pl.DataFrame
        Keys, features, and the times under the names that the view's source has for them.
    view : FeatureView
    store : FeatureStore
        One whose online store is ours.

    Raises
    ------
    OnlineStoreUnavailable
        Redis is down or slow.
    """
    config, origin = store.config, view.batch_source
    online = store._get_provider().online_store
    assert isinstance(online, LatestWinsRedisOnlineStore)
    assert origin is not None
    named = rows.rename({origin.timestamp_field: EVENT, str(origin.created_timestamp_column): CREATED})
    slices = named.iter_slices(config.online_store.rows_per_round_trip)
    return online.write_encoded(config, view, (encoded_rows(part, view, config) for part in slices))


def _why_not_in_bulk(view: FeatureView, config: RepoConfig, online_store: Any) -> str | None:
    """What of the view or the configuration only Feast's own engine knows how to do; None if there is nothing."""
    source = view.batch_source
    unreadable = [
        field.name for field in view.features if field.vector_index or field.dtype.to_value_type() not in PLAIN_TYPES
    ]
    reasons = {
        f"it is a {type(view).__name__}": type(view) is not FeatureView,
        "it has source views, a transformation or aggregations": any(
            getattr(view, name, None) for name in ("source_views", "feature_transformation", "aggregations")
        ),
        "its rows are not only brought online": not view.online or view.offline or view.enable_validation,
        f"its source is a {type(source).__name__}": not isinstance(source, FileSource),
        "its source is not local Parquet": isinstance(source, FileSource) and not _is_local_parquet(source),
        f"features {unreadable} are of rare types": bool(unreadable),
        f"the online store is {type(online_store).__name__}": not isinstance(online_store, LatestWinsRedisOnlineStore),
        "entity keys are serialised as before version 3": config.entity_key_serialization_version < 3,
    }
    return next((reason for reason, applies in reasons.items() if applies), None)


def _is_local_parquet(source: FileSource) -> bool:
    is_parquet = source.file_format is None or isinstance(source.file_format, ParquetFormat)
    return is_parquet and "://" not in source.path.removeprefix("file://")


def source_of(view: FeatureView, period: Period, config: RepoConfig) -> Source:
    """The files of a view that may hold rows of a period, and which of their columns are what."""
    origin = view.batch_source
    assert isinstance(origin, FileSource)
    column_of = {new: old for old, new in origin.field_mapping.items()}
    path = FileSource.get_uri_for_file_path(config.repo_path, origin.path.removeprefix("file://"))
    by_day = getattr(config.offline_store, "day_partitions", False)
    names = [field.name for field in [*view.entity_columns, *view.features] if field.name != DUMMY_ENTITY_ID]
    created = origin.created_timestamp_column
    return Source(
        files=parquet.files_of(path, period if by_day else None),
        columns={name: column_of.get(name, name) for name in names},
        event=column_of.get(origin.timestamp_field, origin.timestamp_field),
        created=column_of.get(created, created) if created else None,
    )


def encoded_rows(rows: pl.DataFrame, view: FeatureView, config: RepoConfig) -> EncodedRows:
    """Rows of a view, with `EVENT` and `CREATED`, as Redis keeps them."""
    columns = {name: rows[name].to_arrow(compat_level=pl.CompatLevel.oldest()) for name in rows.columns}
    columns[DUMMY_ENTITY_ID] = pa.array([DUMMY_ENTITY_VAL] * rows.height, pa.string())
    fields = [*view.entity_columns, *view.features]
    kinds = {field.name: field.dtype.to_value_type() for field in fields}
    for field in fields:
        columns[field.name] = as_declared(columns[field.name], Place(view.name, field.name, "its source", field.dtype))
    name = _versioned_fv_name(view, config)
    return EncodedRows(
        keys=encode_keys({key: (columns[key], kinds[key]) for key in view.join_keys}, config.project),
        stamps=stamps(columns[EVENT], columns[CREATED]),
        fields=tuple(field_of(name, field.name) for field in view.features),
        values=tuple(encode_values(columns[field.name], kinds[field.name]) for field in view.features),
    )


@contextmanager
def _progress(bar: Callable[[int], Any] | None, total: int, what: str) -> Iterator[Callable[[int], Any]]:
    """A progress bar of Feast's kind, where Feast wants one."""
    if bar is None:
        yield lambda _: None
        return
    with bar(total) as shown:
        shown.set_description(what)
        yield shown.update

"""Feast's Redis online store, in which the latest value wins and an expired value is not served.

Keys, fields and values are Feast's own, so any Feast client reads them. What differs from the stock store:

* **Late data.** The row with the greatest (event time, created time) stays, in any order of arrival and under
  concurrent writers: a script compares and writes each key atomically, many keys a call. A row that agrees in both
  times is taken: that is a corrected re-run. The created time is kept in one more field of the hash, which stock
  clients ignore.
* **TTL.** A value older than its view's TTL is read as not found, with its event time.
* **Failure.** A Redis that is down is an error at once that names its address, not one after seven seconds of retries.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from feast.infra.online_stores.helpers import _redis_key
from feast.infra.online_stores.redis import RedisOnlineStore, RedisOnlineStoreConfig, RedisType, _versioned_fv_name
from feast.protos.feast.types.EntityKey_pb2 import EntityKey as EntityKeyProto
from feast.protos.feast.types.Value_pb2 import Value as ValueProto
from pydantic import Field, StrictStr
from redis import Redis, RedisCluster
from redis import asyncio as redis_asyncio
from redis.backoff import NoBackoff
from redis.retry import Retry

from feature_repo.stores.declared import PLAIN_TYPES, Place
from feature_repo.stores.encoding import EncodedRows, stamps
from feature_repo.stores.redis_client import connect, feast_connection_string
from feature_repo.stores.redis_errors import OnlineStoreUnavailable, reachable
from feature_repo.stores.redis_write import (
    WRITE_IF_LATEST,
    field_of,
    python_rows,
    script_head,
    stamp_field,
    write_one_by_one,
    write_pipelined,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from feast import FeatureView, RepoConfig

__all__ = [
    "LatestWinsRedisOnlineStore",
    "LatestWinsRedisOnlineStoreConfig",
    "OnlineStoreUnavailable",
    "feast_connection_string",
    "field_of",
    "stamp_field",
]

Row = tuple[EntityKeyProto, dict[str, ValueProto], datetime, datetime | None]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _redis_of_the_settings() -> str:
    from config import get_settings  # only where no address is given: the store works without this project

    return get_settings().redis_url


class LatestWinsRedisOnlineStoreConfig(RedisOnlineStoreConfig):
    """Feast's Redis options, and the ones of this store."""

    type: StrictStr = "feature_repo.stores.redis_online.LatestWinsRedisOnlineStore"  # type: ignore[assignment]

    connection_string: StrictStr = Field(default_factory=lambda: _redis_of_the_settings())
    """A Redis URL, or Feast's `host:port,option=value` form. Default: the settings' Redis."""

    connect_timeout_seconds: float = 1.0
    timeout_seconds: float = 10.0
    """How long one round trip may take; a bulk write of `rows_per_round_trip` rows is one."""

    remedy_when_down: str = "start it, or correct the connection string"
    """What the error of a Redis that does not answer advises."""

    rows_per_round_trip: int = Field(default=2000, ge=1)
    """Bounds the memory of a bulk write, whatever the number of rows."""

    rows_per_script: int = Field(default=200, ge=1)
    """Rows that one script call compares and writes, during which Redis answers nobody else: 200 take about 1 ms."""


class LatestWinsRedisOnlineStore(RedisOnlineStore):
    """See the module."""

    def __init__(self) -> None:
        self._ttl: dict[str, timedelta | None] = {}

    def online_write_batch(
        self, config: RepoConfig, table: FeatureView, data: list[Row], progress: Callable[[int], Any] | None
    ) -> None:
        """Write the rows that are the latest of their keys.

        Raises
        ------
        NotAsDeclared
            A value is of another type than the view declares; nothing has been written then.
        OnlineStoreUnavailable
            Redis is down, slow, or refuses. What was written stays; writing the same rows again completes it.
        """
        _check_kinds(table, data)
        size = config.online_store.rows_per_round_trip
        chunks = (data[start : start + size] for start in range(0, len(data), size))
        encoded = (rows for chunk in chunks for rows in _encoded(config, table, chunk))
        self.write_encoded(config, table, encoded, progress)

    def write_encoded(
        self,
        config: RepoConfig,
        table: FeatureView,
        chunks: Iterable[EncodedRows],
        progress: Callable[[int], Any] | None = None,
    ) -> int:
        """As `online_write_batch`, for rows that are encoded already; each chunk is one round trip.

        Chunks are taken one by one, and the next is made while Redis works on the one before.

        Returns
        -------
        int
            Rows written: those that were not outranked by what Redis held.
        """
        options = config.online_store
        view = _versioned_fv_name(table, config)
        with reachable(options):
            client = self._get_client(options)
            if isinstance(client, RedisCluster):  # a script there may touch one slot only
                return sum(write_one_by_one(client, rows, view, options, progress) for rows in chunks)
            return write_pipelined(client, chunks, view, options, progress)

    async def online_write_batch_async(
        self, config: RepoConfig, table: FeatureView, data: list[Row], progress: Callable[[int], Any] | None
    ) -> None:
        """As `online_write_batch`, one script call at a time."""
        _check_kinds(table, data)
        with reachable(config.online_store):
            client = await self._get_client_async(config.online_store)
            view = _versioned_fv_name(table, config)
            for rows in _encoded(config, table, data):
                head = script_head(rows, view, config.online_store)
                for key, *values in python_rows(rows):
                    await client.eval(WRITE_IF_LATEST, 1, key, *head, *values)
                    if progress:
                        progress(1)

    def delete_table(self, config: RepoConfig, table: FeatureView) -> None:
        """Delete a view's values, and the created times kept beside them."""
        options = config.online_store
        with reachable(options):
            super().delete_table(config, table)
            client = self._get_client(options)
            field = stamp_field(_versioned_fv_name(table, config))
            pattern = b"".join([_key_prefix(table.join_keys), b"*", config.project.encode()])
            keys = list(client.scan_iter(pattern, count=1000))
            if keys:
                with client.pipeline(transaction=False) as pipe:
                    for key in keys:
                        pipe.hdel(key, field)
                    pipe.execute()

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKeyProto],
        requested_features: list[str] | None = None,
    ) -> list[tuple[datetime | None, dict[str, ValueProto] | None]]:
        """Values of each key; none, but the event time, where they are older than the view's TTL."""
        self._remember_ttl(config, table)
        return super().online_read(config, table, entity_keys, requested_features)

    async def online_read_async(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKeyProto],
        requested_features: list[str] | None = None,
    ) -> list[tuple[datetime | None, dict[str, ValueProto] | None]]:
        """As `online_read`."""
        self._remember_ttl(config, table)
        with reachable(config.online_store):
            return await super().online_read_async(config, table, entity_keys, requested_features)

    def _read_features_per_fv(self, config: RepoConfig, grouped_refs: Any, *args: Any, **kwargs: Any) -> None:
        views = list(grouped_refs)
        for table, _ in views:
            self._remember_ttl(config, table)
        super()._read_features_per_fv(config, views, *args, **kwargs)

    async def _read_features_per_fv_async(
        self, config: RepoConfig, grouped_refs: Any, *args: Any, **kwargs: Any
    ) -> None:
        views = list(grouped_refs)
        for table, _ in views:
            self._remember_ttl(config, table)
        with reachable(config.online_store):
            await super()._read_features_per_fv_async(config, views, *args, **kwargs)

    def _read_hash_fields(self, config: RepoConfig, commands: list[Any]) -> list[Any]:
        with reachable(config.online_store):
            return super()._read_hash_fields(config, commands)

    def _remember_ttl(self, config: RepoConfig, table: FeatureView) -> None:
        """Feast's row decoder is given a view's name only, so its TTL is looked up by that."""
        self._ttl[_versioned_fv_name(table, config)] = getattr(table, "ttl", None)  # an on-demand view has none

    def _get_features_for_entity(
        self, values: Sequence[Any], feature_view: str, requested_features: list[str]
    ) -> tuple[datetime | None, dict[str, ValueProto] | None]:
        if values[-1] is None:  # the event time, which Feast asks for last; that of 1970 is empty, not absent
            return None, None
        timestamp, features = super()._get_features_for_entity(values, feature_view, requested_features)
        ttl = self._ttl.get(feature_view)
        if ttl and timestamp is not None and timestamp < self._now() - ttl:
            return timestamp, None
        return timestamp, features

    def _now(self) -> datetime:
        """The edge at which an online read meets the clock."""
        return datetime.now(UTC)

    def _get_client(self, online_store_config: Any) -> Any:
        if self._client is None:
            kind = RedisCluster if online_store_config.redis_type == RedisType.redis_cluster else Redis
            self._client = connect(kind, online_store_config, Retry(NoBackoff(), 0))
        return self._client if self._client is not None else super()._get_client(online_store_config)

    async def _get_client_async(self, online_store_config: Any) -> Any:
        if self._client_async is None:
            is_cluster = online_store_config.redis_type == RedisType.redis_cluster
            kind = redis_asyncio.RedisCluster if is_cluster else redis_asyncio.Redis
            self._client_async = connect(kind, online_store_config, redis_asyncio.retry.Retry(NoBackoff(), 0))
        if self._client_async is None:
            return await super()._get_client_async(online_store_config)
        return self._client_async


def _check_kinds(table: FeatureView, data: Sequence[Row]) -> None:
    """A value of another type than the declared one would be stored, and be read without a word."""
    for field in table.features:
        kind = field.dtype.to_value_type()
        wanted = (None, "null_val", f"{kind.name.lower()}_val")
        found = {values[field.name].WhichOneof("val") for _, values, *_ in data if field.name in values}
        others = sorted(str(one) for one in found.difference(wanted)) if kind in PLAIN_TYPES else []
        if others:
            place = Place(table.name, field.name, "the rows to write", field.dtype)
            raise place.refuse(f"has {', '.join(others)}", "write values of the declared type")


def _encoded(config: RepoConfig, table: FeatureView, data: Sequence[Row]) -> Iterator[EncodedRows]:
    """Feast's protobuf rows; consecutive ones with the same features together."""
    view, version = _versioned_fv_name(table, config), config.entity_key_serialization_version
    for names, group in groupby(data, key=lambda row: tuple(row[1])):
        rows = list(group)
        events = [event for *_, event, _ in rows]
        created = [created or event for *_, event, created in rows]
        yield EncodedRows(
            pa.array([_redis_key(config.project, key, version) for key, *_ in rows], pa.binary()),
            stamps(_instants(events), _instants(created)),
            tuple(field_of(view, name) for name in names),
            tuple(pa.array([row[1][name].SerializeToString() for row in rows], pa.binary()) for name in names),
        )


def _instants(times: Iterable[datetime]) -> pa.Array:
    return pa.array([_micros(time) for time in times], pa.int64()).cast(pa.timestamp("us"))


def _micros(instant: datetime) -> int:
    aware = instant if instant.tzinfo else instant.replace(tzinfo=UTC)  # naive is UTC, as in Feast
    return (aware - _EPOCH) // timedelta(microseconds=1)


def _key_prefix(join_keys: list[str]) -> bytes:
    from feast.infra.online_stores.helpers import _redis_key_prefix

    return bytes(_redis_key_prefix(join_keys))

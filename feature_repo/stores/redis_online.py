"""Feast's Redis online store, in which the latest value wins and an expired value is not served.

Keys, fields and values are Feast's own, so any Feast client reads them. What differs from the stock store:

* **Late data.** The row with the greatest (event time, created time) stays, in any order of arrival and under
  concurrent writers: each key is compared and written by one atomic script. A row that agrees in both times is taken:
  that is a corrected re-run. The created time is kept in one more field of the hash, which stock clients ignore.
* **TTL.** A value older than its view's TTL is read as not found, with its event time.
* **Failure.** A Redis that is down is an error at once that names its address, not one after seven seconds of retries.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from feast.infra.online_stores.helpers import _mmh3, _redis_key
from feast.infra.online_stores.redis import RedisOnlineStore, RedisOnlineStoreConfig, RedisType, _versioned_fv_name
from feast.protos.feast.types.EntityKey_pb2 import EntityKey as EntityKeyProto
from feast.protos.feast.types.Value_pb2 import Value as ValueProto
from google.protobuf.timestamp_pb2 import Timestamp
from pydantic import Field, StrictStr
from redis import Redis, RedisCluster
from redis import asyncio as redis_asyncio
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry
from sqlalchemy import URL, make_url

from config import get_settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from feast import FeatureView, RepoConfig

Row = tuple[EntityKeyProto, dict[str, ValueProto], datetime, datetime | None]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_BIAS = 1 << 63  # makes signed microseconds compare as unsigned big-endian bytes

_WRITE_IF_LATEST = """
local function greater(a, b)
  for i = 1, 16 do
    local x, y = a:byte(i), b:byte(i)
    if x ~= y then return x > y end
  end
  return false
end

local function varint(s, i)
  local value, scale, byte = 0, 1
  repeat
    byte = s:byte(i) or 0
    value = value + (byte % 128) * scale
    scale = scale * 128
    i = i + 1
  until byte < 128
  return value, i
end

local function rank_of_timestamp(ts)
  local seconds, nanos, i = 0, 0, 1
  while i <= #ts do
    local tag = ts:byte(i)
    local value, following = varint(ts, i + 1)
    if tag == 8 then seconds = value else nanos = value end
    i = following
  end
  local micros = seconds * 1000000 + math.floor(nanos / 1000)
  if micros >= 9007199254740992 then return string.rep('\\0', 16) end
  local bytes = {}
  for k = 8, 1, -1 do
    bytes[k] = string.char(micros % 256 + (k == 1 and 128 or 0))
    micros = math.floor(micros / 256)
  end
  return table.concat(bytes) .. string.rep('\\0', 8)
end

local stored = redis.call('HMGET', KEYS[1], ARGV[2], ARGV[4])
local ts, stamp = stored[1], stored[2]
if ts then
  local old
  if stamp and stamp:sub(17) == ts then old = stamp:sub(1, 16) else old = rank_of_timestamp(ts) end
  if greater(old, ARGV[5]) then return 0 end
end
redis.call('HSET', KEYS[1], unpack(ARGV, 2))
if ARGV[1] ~= '0' then redis.call('EXPIRE', KEYS[1], ARGV[1]) end
return 1
"""
# ARGV: key's life in seconds or 0; then field-value pairs, of which the first two are the event time in Feast's
# encoding and the stamp: (event time, created time) as 16 comparable bytes, then the event time again. A stamp whose
# event time is not the stored one was left by another client's later write, whose created time is unknown: lowest.


class OnlineStoreUnavailable(ConnectionError):
    """Redis cannot be reached, or did not answer in time; the message names its address and what to do."""


class LatestWinsRedisOnlineStoreConfig(RedisOnlineStoreConfig):
    """Feast's Redis options, and the ones of this store."""

    type: StrictStr = "feature_repo.stores.redis_online.LatestWinsRedisOnlineStore"  # type: ignore[assignment]

    connection_string: StrictStr = Field(default_factory=lambda: get_settings().redis_url)
    """A Redis URL, or Feast's `host:port,option=value` form. Default: the settings' Redis."""

    connect_timeout_seconds: float = 1.0
    timeout_seconds: float = 10.0
    """How long one round trip may take; a bulk write of `rows_per_round_trip` rows is one."""

    rows_per_round_trip: int = Field(default=2000, ge=1)
    """Bounds the memory of a bulk write, whatever the number of rows."""


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
        OnlineStoreUnavailable
            Redis is down or slow. What was written stays; writing the same rows again completes it.
        """
        options = config.online_store
        with _reachable(options):
            client = self._get_client(options)
            for start in range(0, len(data), options.rows_per_round_trip):
                chunk = data[start : start + options.rows_per_round_trip]
                commands = [self._command(config, table, row) for row in chunk]
                if isinstance(client, RedisCluster):  # its pipelines refuse scripts
                    for command in commands:
                        client.eval(_WRITE_IF_LATEST, 1, *command)
                else:
                    _execute(client, commands)
                if progress:
                    progress(len(chunk))

    async def online_write_batch_async(
        self, config: RepoConfig, table: FeatureView, data: list[Row], progress: Callable[[int], Any] | None
    ) -> None:
        """As `online_write_batch`, one script call at a time."""
        with _reachable(config.online_store):
            client = await self._get_client_async(config.online_store)
            for row in data:
                await client.eval(_WRITE_IF_LATEST, 1, *self._command(config, table, row))
                if progress:
                    progress(1)

    def delete_table(self, config: RepoConfig, table: FeatureView) -> None:
        """Delete a view's values, and the created times kept beside them."""
        options = config.online_store
        with _reachable(options):
            client = self._get_client(options)
            field = stamp_field(_versioned_fv_name(table, config))
            pattern = b"".join([_key_prefix(table.join_keys), b"*", config.project.encode()])
            with client.pipeline(transaction=False) as pipe:
                for key in client.scan_iter(pattern, count=1000):
                    pipe.hdel(key, field)
                pipe.execute()
            super().delete_table(config, table)

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
        with _reachable(config.online_store):
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
        with _reachable(config.online_store):
            await super()._read_features_per_fv_async(config, views, *args, **kwargs)

    def _read_hash_fields(self, config: RepoConfig, commands: list[Any]) -> list[Any]:
        with _reachable(config.online_store):
            return super()._read_hash_fields(config, commands)

    def _remember_ttl(self, config: RepoConfig, table: FeatureView) -> None:
        """Feast's row decoder is given a view's name only, so its TTL is looked up by that."""
        self._ttl[_versioned_fv_name(table, config)] = table.ttl

    def _get_features_for_entity(
        self, values: Sequence[Any], feature_view: str, requested_features: list[str]
    ) -> tuple[datetime | None, dict[str, ValueProto] | None]:
        if not values[-1]:  # the event time, which Feast asks for last
            return None, None
        timestamp, features = super()._get_features_for_entity(values, feature_view, requested_features)
        ttl = self._ttl.get(feature_view)
        if ttl and timestamp is not None and timestamp < self._now() - ttl:
            return timestamp, None
        return timestamp, features

    def _now(self) -> datetime:
        """The edge at which an online read meets the clock."""
        return datetime.now(UTC)

    def _command(self, config: RepoConfig, table: FeatureView, row: Row) -> list[Any]:
        """Key and arguments of the script for one row."""
        entity_key, values, event, created = row
        view = _versioned_fv_name(table, config)
        event_bytes, stamp = _encoded_times(event, created)
        command: list[Any] = [
            _redis_key(config.project, entity_key, config.entity_key_serialization_version),
            config.online_store.key_ttl_seconds or 0,
            f"_ts:{view}",
            event_bytes,
            stamp_field(view),
            stamp,
        ]
        for name, value in values.items():
            command.append(_field(view, name))
            command.append(value.SerializeToString())
        return command

    def _get_client(self, online_store_config: Any) -> Any:
        if self._client is None:
            kind = RedisCluster if online_store_config.redis_type == RedisType.redis_cluster else Redis
            self._client = _connect(kind, online_store_config, Retry(NoBackoff(), 0))
        return self._client if self._client is not None else super()._get_client(online_store_config)

    async def _get_client_async(self, online_store_config: Any) -> Any:
        if self._client_async is None:
            is_cluster = online_store_config.redis_type == RedisType.redis_cluster
            kind = redis_asyncio.RedisCluster if is_cluster else redis_asyncio.Redis
            self._client_async = _connect(kind, online_store_config, redis_asyncio.retry.Retry(NoBackoff(), 0))
        if self._client_async is None:
            return await super()._get_client_async(online_store_config)
        return self._client_async


def stamp_field(view: str) -> str:
    """Hash field that keeps (event time, created time) of a view's values; its name is not one a Feast client reads."""
    return f"_created:{view}"


def feast_connection_string(url: str) -> str:
    """A Redis URL in the form that a stock Feast client reads: `host:port,db=0,ssl=true,password=...`.

    Raises
    ------
    ValueError
        The password holds a comma, which that form cannot express.
    """
    parsed = make_url(url)
    parts = [f"{parsed.host}:{parsed.port or 6379}", f"db={parsed.database or 0}"]
    parts += ["ssl=true"] if parsed.drivername == "rediss" else []
    for name, value in (("username", parsed.username), ("password", parsed.password)):
        if value and "," in value:
            raise ValueError(f"the Redis {name} holds a comma, which Feast's connection string cannot express")
        parts += [f"{name}={value}"] if value else []
    return ",".join(parts)


def _connect(kind: Any, options: LatestWinsRedisOnlineStoreConfig, retry: Any) -> Any:
    """A client with short time-outs and no hidden retries; None where only the stock store knows how (Sentinel)."""
    if options.redis_type == RedisType.redis_sentinel:
        return None
    limits = {"socket_connect_timeout": options.connect_timeout_seconds, "socket_timeout": options.timeout_seconds}
    if "://" in options.connection_string:
        return kind.from_url(options.connection_string, retry=retry, **limits)
    nodes, given = RedisOnlineStore._parse_connection_string(options.connection_string)
    return kind(host=nodes[0]["host"], port=int(nodes[0]["port"]), retry=retry, **{**limits, **given})


def _execute(client: Redis, commands: Sequence[Sequence[Any]]) -> None:
    """Run the script once for each command, in one round trip, loading it first: a restarted Redis has forgotten it."""
    with client.pipeline(transaction=False) as pipe:
        pipe.script_load(_WRITE_IF_LATEST)
        digest = _script_digest()
        for command in commands:
            pipe.evalsha(digest, 1, *command)
        pipe.execute()


@lru_cache(maxsize=1)
def _script_digest() -> str:
    import hashlib

    return hashlib.sha1(_WRITE_IF_LATEST.encode(), usedforsecurity=False).hexdigest()


@lru_cache(maxsize=4096)
def _field(view: str, feature: str) -> bytes:
    return bytes(_mmh3(f"{view}:{feature}"))


@lru_cache(maxsize=4096)
def _encoded_times(event: datetime, created: datetime | None) -> tuple[bytes, bytes]:
    """The event time as Feast stores it, and the stamp. A row without a created time counts as created at its event."""
    micros = _micros(event)
    seconds, rest = divmod(micros, 1_000_000)
    event_bytes = Timestamp(seconds=seconds, nanos=rest * 1000).SerializeToString()
    known = micros if created is None else _micros(created)
    return event_bytes, struct.pack(">QQ", micros + _BIAS, known + _BIAS) + event_bytes


def _micros(instant: datetime) -> int:
    aware = instant if instant.tzinfo else instant.replace(tzinfo=UTC)  # naive is UTC, as in Feast
    return (aware - _EPOCH) // timedelta(microseconds=1)


def _key_prefix(join_keys: list[str]) -> bytes:
    from feast.infra.online_stores.helpers import _redis_key_prefix

    return bytes(_redis_key_prefix(join_keys))


def _address(connection_string: str) -> str:
    """Host and port only: a connection string may hold a password."""
    if "://" in connection_string:
        parsed: URL = make_url(connection_string)
        return f"{parsed.host}:{parsed.port or 6379}"
    return connection_string.split(",")[0]


@contextmanager
def _reachable(options: LatestWinsRedisOnlineStoreConfig) -> Iterator[None]:
    try:
        yield
    except (RedisConnectionError, RedisTimeoutError) as error:
        address = _address(options.connection_string)
        raise OnlineStoreUnavailable(
            f"Redis at {address} does not answer ({error}): start it (make up), or point ETA_REDIS_URL at one that runs"
        ) from error

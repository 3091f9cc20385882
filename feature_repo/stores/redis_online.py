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

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import groupby
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
from feast.infra.online_stores.helpers import _mmh3, _redis_key
from feast.infra.online_stores.redis import RedisOnlineStore, RedisOnlineStoreConfig, RedisType, _versioned_fv_name
from feast.protos.feast.types.EntityKey_pb2 import EntityKey as EntityKeyProto
from feast.protos.feast.types.Value_pb2 import Value as ValueProto
from pydantic import Field, StrictStr
from redis import Redis, RedisCluster
from redis import asyncio as redis_asyncio
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry
from sqlalchemy import URL, make_url

from feature_repo.stores.encoding import EncodedRows, join, stamps

if TYPE_CHECKING:
    from collections.abc import Callable

    from feast import FeatureView, RepoConfig

Row = tuple[EntityKeyProto, dict[str, ValueProto], datetime, datetime | None]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_WRITE_IF_LATEST = """
local call, unpacked = redis.call, struct.unpack
local ttl, width = ARGV[1], tonumber(ARGV[2])
local ts_field, stamp_field = ARGV[3], ARGV[4]

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

local function outranks(old, new)
  local a, b, c, d = unpacked('>I4I4I4I4', old)
  local e, f, g, h = unpacked('>I4I4I4I4', new)
  if a ~= e then return a > e end
  if b ~= f then return b > f end
  if c ~= g then return c > g end
  return d > h
end

local function is_outranked(key, ts, stamp)
  local old = call('HGET', key, stamp_field)
  if old == stamp then return false end
  if not old or old:sub(17) ~= ts then old = rank_of_timestamp(ts) end
  return outranks(old, stamp)
end

local row = {ts_field, '', stamp_field, ''}
for i = 1, width do row[3 + 2 * i] = ARGV[4 + i] end
local at, written = 5 + width, 0
for i = 1, #KEYS do
  local key, stamp = KEYS[i], ARGV[at]
  local ts = call('HGET', key, ts_field)
  if not (ts and is_outranked(key, ts, stamp)) then
    row[2], row[4] = stamp:sub(17), stamp
    for j = 1, width do row[4 + 2 * j] = ARGV[at + j] end
    call('HSET', key, unpack(row))
    if ttl ~= '0' then call('EXPIRE', key, ttl) end
    written = written + 1
  end
  at = at + width + 1
end
return written
"""
# KEYS: entities. ARGV: a key's life in seconds or 0; how many features; the fields of the event time, of the stamp and
# of each feature; then for each key its stamp and the values. A stamp is (event time, created time) as 16 comparable
# bytes, then the event time in Feast's encoding. A stamp whose event time is not the stored one was left by another
# client's later write, whose created time is unknown: lowest. Ranks are compared as numbers, because Lua compares
# strings in the collation order of the server's locale.


class OnlineStoreUnavailable(ConnectionError):
    """Redis cannot be reached, or did not answer in time; the message names its address and what to do."""


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
        OnlineStoreUnavailable
            Redis is down or slow. What was written stays; writing the same rows again completes it.
        """
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
        with _reachable(options):
            client = self._get_client(options)
            if isinstance(client, RedisCluster):  # a script there may touch one slot only
                return sum(_write_one_by_one(client, rows, view, options, progress) for rows in chunks)
            return _write_pipelined(client, chunks, view, options, progress)

    async def online_write_batch_async(
        self, config: RepoConfig, table: FeatureView, data: list[Row], progress: Callable[[int], Any] | None
    ) -> None:
        """As `online_write_batch`, one script call at a time."""
        with _reachable(config.online_store):
            client = await self._get_client_async(config.online_store)
            view = _versioned_fv_name(table, config)
            for rows in _encoded(config, table, data):
                head = _script_head(rows, view, config.online_store)
                for key, *values in _python_rows(rows):
                    await client.eval(_WRITE_IF_LATEST, 1, key, *head, *values)
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


def _write_pipelined(
    client: Redis,
    chunks: Iterable[EncodedRows],
    view: str,
    options: LatestWinsRedisOnlineStoreConfig,
    progress: Callable[[int], Any] | None,
) -> int:
    """Send each chunk's script calls at once, and read the replies after the next chunk has been sent.

    The script is loaded with every chunk: a restarted Redis has forgotten it.
    """
    connection: Any = client.connection_pool.get_connection()
    written, sent = 0, deque[EncodedRows]()

    def finish(rows: EncodedRows) -> int:
        connection.read_response()  # of SCRIPT LOAD
        replies = [connection.read_response() for _ in range(0, len(rows), options.rows_per_script)]
        if progress:
            progress(len(rows))
        return sum(replies)

    try:
        for rows in chunks:
            calls = _script_calls(rows, view, options)
            connection.send_packed_command([b"".join([_packed(["SCRIPT", "LOAD", _WRITE_IF_LATEST]), *calls])], False)
            sent.append(rows)
            if len(sent) > 1:
                written += finish(sent.popleft())
        while sent:
            written += finish(sent.popleft())
    except BaseException:
        connection.disconnect()  # replies that nobody read would answer the next command
        raise
    finally:
        client.connection_pool.release(connection)
    return written


def _script_calls(rows: EncodedRows, view: str, options: LatestWinsRedisOnlineStoreConfig) -> Iterator[Any]:
    """The script calls that write `rows`, in Redis's protocol, as pieces to be sent one after the other.

    redis-py packs a command in Python, argument by argument; here all rows' arguments are packed by a few Arrow
    kernels, and a call takes a slice of them.
    """
    keys = _Slices(_arguments([rows.keys]))
    values = _Slices(_arguments([rows.stamps, *rows.values]))
    head = _script_head(rows, view, options)
    packed_head = b"".join(_argument(one) for one in head)
    for start in range(0, len(rows), options.rows_per_script):
        end = min(start + options.rows_per_script, len(rows))
        count = end - start
        length = 3 + len(head) + count * (2 + len(rows.values))
        yield b"*%d\r\n" % length + b"".join(_argument(one) for one in ("EVALSHA", _script_digest(), count))
        yield keys.between(start, end)
        yield packed_head
        yield values.between(start, end)


def _script_head(rows: EncodedRows, view: str, options: LatestWinsRedisOnlineStoreConfig) -> list[Any]:
    return [options.key_ttl_seconds or 0, len(rows.fields), f"_ts:{view}", stamp_field(view), *rows.fields]


def _write_one_by_one(
    client: Any,
    rows: EncodedRows,
    view: str,
    options: LatestWinsRedisOnlineStoreConfig,
    progress: Callable[[int], Any] | None,
) -> int:
    head = _script_head(rows, view, options)
    written: int = sum(client.eval(_WRITE_IF_LATEST, 1, key, *head, *values) for key, *values in _python_rows(rows))
    if progress:
        progress(len(rows))
    return written


def _python_rows(rows: EncodedRows) -> Iterator[tuple[bytes, ...]]:
    """Key, stamp and values of each row."""
    return zip(*(column.to_pylist() for column in (rows.keys, rows.stamps, *rows.values)), strict=True)


class _Slices:
    """The bytes of consecutive elements of a binary array, without a copy."""

    def __init__(self, array: pa.BinaryArray) -> None:
        _, offsets, data = array.buffers()
        self._offsets = memoryview(offsets).cast("i")
        self._data = memoryview(data)

    def between(self, start: int, end: int) -> memoryview:
        return self._data[self._offsets[start] : self._offsets[end]]


def _arguments(columns: Sequence[pa.BinaryArray]) -> pa.BinaryArray:
    """Each row's elements as arguments in Redis's protocol: `$<length>`, a line's end, the bytes, a line's end."""
    parts: list[Any] = [b"$"]
    for column in columns:
        lengths = pc.binary_length(column).cast(pa.string()).cast(pa.binary())
        parts += [lengths, b"\r\n", column, b"\r\n$"]
    return join([*parts[:-1], b"\r\n"])


def _packed(command: Sequence[Any]) -> bytes:
    return b"*%d\r\n" % len(command) + b"".join(_argument(one) for one in command)


def _argument(value: bytes | str | int) -> bytes:
    raw = value if isinstance(value, bytes) else str(value).encode()
    return b"$%d\r\n%s\r\n" % (len(raw), raw)


@lru_cache(maxsize=1)
def _script_digest() -> str:
    return hashlib.sha1(_WRITE_IF_LATEST.encode(), usedforsecurity=False).hexdigest()


@lru_cache(maxsize=4096)
def field_of(view: str, feature: str) -> bytes:
    """Hash field of a feature's value."""
    return bytes(_mmh3(f"{view}:{feature}"))


def _instants(times: Iterable[datetime]) -> pa.Array:
    return pa.array([_micros(time) for time in times], pa.int64()).cast(pa.timestamp("us"))


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

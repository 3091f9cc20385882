"""Writing encoded rows to Redis so that the latest of a key stays: one script, sent in bulk."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
from feast.infra.online_stores.helpers import _mmh3
from redis import Redis

from feature_repo.stores.encoding import EncodedRows, join

if TYPE_CHECKING:
    from collections.abc import Callable

    from feature_repo.stores.redis_online import LatestWinsRedisOnlineStoreConfig

WRITE_IF_LATEST = """
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


def stamp_field(view: str) -> str:
    """Hash field that keeps (event time, created time) of a view's values; its name is not one a Feast client reads."""
    return f"_created:{view}"


@lru_cache(maxsize=4096)
def field_of(view: str, feature: str) -> bytes:
    """Hash field of a feature's value."""
    return bytes(_mmh3(f"{view}:{feature}"))


def write_pipelined(
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
            connection.send_packed_command([b"".join([_packed(["SCRIPT", "LOAD", WRITE_IF_LATEST]), *calls])], False)
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
    head = script_head(rows, view, options)
    packed_head = b"".join(_argument(one) for one in head)
    for start in range(0, len(rows), options.rows_per_script):
        end = min(start + options.rows_per_script, len(rows))
        count = end - start
        length = 3 + len(head) + count * (2 + len(rows.values))
        yield b"*%d\r\n" % length + b"".join(_argument(one) for one in ("EVALSHA", _script_digest(), count))
        yield keys.between(start, end)
        yield packed_head
        yield values.between(start, end)


def script_head(rows: EncodedRows, view: str, options: LatestWinsRedisOnlineStoreConfig) -> list[Any]:
    return [options.key_ttl_seconds or 0, len(rows.fields), f"_ts:{view}", stamp_field(view), *rows.fields]


def write_one_by_one(
    client: Any,
    rows: EncodedRows,
    view: str,
    options: LatestWinsRedisOnlineStoreConfig,
    progress: Callable[[int], Any] | None,
) -> int:
    head = script_head(rows, view, options)
    written: int = sum(client.eval(WRITE_IF_LATEST, 1, key, *head, *values) for key, *values in python_rows(rows))
    if progress:
        progress(len(rows))
    return written


def python_rows(rows: EncodedRows) -> Iterator[tuple[bytes, ...]]:
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
    return hashlib.sha1(WRITE_IF_LATEST.encode(), usedforsecurity=False).hexdigest()

"""Takes back what is online and should not be: rows that the offline store no longer has.

Latest-wins cannot see that the newest row it was given has since been replaced by none, or by an older one; nor that a
row was stamped in the future, and it then keeps every true one out. `reconcile` holds each key that Redis has of a view
against the offline answer, and where the two differ puts the offline row in the place of the other. It deletes a row
only where offline has none that is young enough to be served, so no reader finds nothing where there is something.

A row is changed only if it is, byte by byte, still the one that was judged: what another process has written since is
judged again. Keys are read and judged in batches; memory does not grow with their number.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import polars as pl
from feast.infra.online_stores.redis import _versioned_fv_name
from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp

from feature_repo.stores.encoding import encode_keys
from feature_repo.stores.held import held_keys
from feature_repo.stores.latest import batches, newest
from feature_repo.stores.materialize import encoded_rows, source_of
from feature_repo.stores.parquet import Period
from feature_repo.stores.redis_errors import reachable
from feature_repo.stores.redis_online import LatestWinsRedisOnlineStore
from feature_repo.stores.redis_write import field_of, stamp_field

if TYPE_CHECKING:
    from feast import FeatureStore, FeatureView

logger = logging.getLogger(__name__)

KEYS_PER_BATCH = 50_000
READS_PER_ROUND_TRIP = 2000
ATTEMPTS = 5
"""How often a key is judged that others keep changing; then it is left to them."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_KEY = "__key"
RANK_BYTES = 16
"""Of a stamp, after which the event time follows as Feast stores it: see `encoding.stamps`."""

_SET_IF_UNCHANGED = """
local call, width = redis.call, tonumber(ARGV[2])
for i = 1, width do
  local held = call('HGET', KEYS[1], ARGV[2 + i])
  if (held and '1' .. held or '0') ~= ARGV[2 + width + i] then return 0 end
end
if #ARGV == 2 + 2 * width then
  call('HDEL', KEYS[1], unpack(ARGV, 3, 2 + width))
  return 1
end
local row = {}
for i = 1, width do row[2 * i - 1], row[2 * i] = ARGV[2 + i], ARGV[2 + 2 * width + i] end
call('HSET', KEYS[1], unpack(row))
if ARGV[1] ~= '0' then call('EXPIRE', KEYS[1], ARGV[1]) end
return 1
"""
# KEYS: one entity. ARGV: a key's life in seconds or 0; how many fields; their names; what each is expected to hold, a 1
# before it, or a 0 for nothing; then what each is to hold, or nothing at all to delete them.

Fields = tuple[bytes | None, ...]
"""What a hash holds of a view: the event time, the stamp, and each feature's value."""


@dataclass(slots=True)
class Reconciled:
    """What was found of one view: keys `held` by Redis; of these, so many rows were `overwritten` and `removed`, and so
    many were `left` because others kept changing them."""

    held: int = 0
    overwritten: int = 0
    removed: int = 0
    left: int = 0


@dataclass(frozen=True, slots=True)
class _Judge:
    """Decides what a key should hold.

    Attributes
    ----------
    as_of : datetime
    alive_from : datetime or None
        Rows of before are not served.
    ahead_until : datetime
        Rows after `as_of` and up to here are taken to be of somebody who knows more.
    """

    as_of: datetime
    alive_from: datetime | None
    ahead_until: datetime

    def is_right(self, held: Fields, offline: Fields | None) -> bool:
        """Whether what Redis holds can stay, where the offline store answers with `offline`, or with nothing."""
        event = _event_micros(held[0])
        if event is not None and _micros(self.as_of) < event <= _micros(self.ahead_until):
            return True
        if offline is not None:
            return held == offline
        return event is not None and self.alive_from is not None and event < _micros(self.alive_from)


def reconcile(
    view: FeatureView, store: FeatureStore, as_of: datetime, ahead_until: Callable[[], datetime] | None = None
) -> Reconciled:
    """Make the rows that Redis holds of a view those of the offline store as of an instant.

    Rows that Redis lacks are not looked for: materialise first. Offline files must not change meanwhile.

    Parameters
    ----------
    view : FeatureView
        One over local Parquet files, with entities.
    store : FeatureStore
        One whose online store is ours; a single Redis, or a cluster.
    as_of : datetime
        The end of what has been computed: newer rows are of no row.
    ahead_until : callable, optional
        Of a live view: until when its rows may be a refresh's, which knows more than the offline store. It is asked
        after Redis has been read, as refreshes go on meanwhile. Default: none are.

    Raises
    ------
    UnusableSource
        A file of the source is damaged, or lacks a column or a usable type.
    OnlineStoreUnavailable
        Redis is down or slow. What was changed stays; doing it again completes it.
    """
    alive_from = as_of - view.ttl if view.ttl else None
    rows, total = _Rows(view, store), Reconciled()

    def reconcile_once(keys: Sequence[bytes]) -> tuple[int, list[bytes]]:
        held = rows.held(keys)
        judge = _Judge(as_of, alive_from, ahead_until() if ahead_until else as_of)
        return len(held), _correct(held, rows, judge, total)

    with reachable(store.config.online_store):
        for keys in held_keys(rows.client, view.join_keys, store.project, KEYS_PER_BATCH):
            held, changed = reconcile_once(keys)
            total.held += held
            for _ in range(ATTEMPTS - 1):
                _, changed = reconcile_once(changed)
            total.left += len(changed)
    logger.info("%s: %s", view.name, total)
    return total


def _correct(held: Mapping[bytes, Fields], rows: _Rows, judge: _Judge, total: Reconciled) -> list[bytes]:
    """Put right what is wrong; returns the keys that somebody has changed since they were read."""
    offline, changed = rows.offline(list(held), Period(judge.alive_from, judge.as_of)), []
    for key, found in held.items():
        new = offline.get(key)
        if judge.is_right(found, new):
            continue
        if not rows.exchange(key, found, new):
            changed.append(key)
        elif new is None:
            total.removed += 1
        else:
            total.overwritten += 1
    return changed


class _Rows:
    """One view's rows in both stores, as Redis keeps them."""

    def __init__(self, view: FeatureView, store: FeatureStore) -> None:
        online = store._get_provider().online_store
        assert isinstance(online, LatestWinsRedisOnlineStore)
        self.view, self.config = view, store.config
        self.client = online._get_client(self.config.online_store)
        name = _versioned_fv_name(view, self.config)
        features = [field_of(name, field.name) for field in view.features]
        self.fields = [f"_ts:{name}".encode(), stamp_field(name).encode(), *features]

    def held(self, keys: Sequence[bytes]) -> dict[bytes, Fields]:
        """What Redis holds, of those keys that it has a row of this view for."""
        found: dict[bytes, Fields] = {}
        for start in range(0, len(keys), READS_PER_ROUND_TRIP):
            part = keys[start : start + READS_PER_ROUND_TRIP]
            with self.client.pipeline(transaction=False) as pipe:
                for key in part:
                    pipe.hmget(key, self.fields)
                found |= {key: tuple(values) for key, values in zip(part, pipe.execute(), strict=True)}
        return {key: values for key, values in found.items() if any(value is not None for value in values)}

    def offline(self, keys: Sequence[bytes], period: Period) -> dict[bytes, Fields]:
        """The newest offline row of the period, of those keys that have one."""
        source, wanted = source_of(self.view, period, self.config), pl.Series(_KEY, keys, pl.Binary).to_frame()
        if not keys or not source.rows(period):
            return {}
        frames = (self._of_keys(frame, wanted) for frame in batches(source, period, lambda _: None))
        found: dict[bytes, Fields] = {}
        # So much memory that every key comes once.
        for rows in newest(frames, self.view.join_keys, 2 * KEYS_PER_BATCH + 2):
            encoded = encoded_rows(rows, self.view, self.config)
            columns = (column.to_pylist() for column in (encoded.keys, encoded.stamps, *encoded.values))
            found |= {key: (stamp[RANK_BYTES:], stamp, *values) for key, stamp, *values in zip(*columns, strict=True)}
        return found

    def exchange(self, key: bytes, held: Fields, new: Fields | None) -> bool:
        """Put `new`, or nothing, in the place of `held`, unless Redis holds something else by now."""
        expected = [b"0" if value is None else b"1" + value for value in held]
        life = self.config.online_store.key_ttl_seconds or 0
        arguments = [life, len(self.fields), *self.fields, *expected, *(new or ())]
        return bool(self.client.eval(_SET_IF_UNCHANGED, 1, key, *arguments))

    def _of_keys(self, frame: pl.DataFrame, wanted: pl.DataFrame) -> pl.DataFrame:
        kinds = {field.name: field.dtype.to_value_type() for field in self.view.entity_columns}
        keyed = frame.drop_nulls(self.view.join_keys)
        columns = {
            name: (keyed[name].to_arrow(compat_level=pl.CompatLevel.oldest()), kinds[name])
            for name in self.view.join_keys
        }
        raw = pl.Series(_KEY, encode_keys(columns, self.config.project))
        return keyed.with_columns(raw).join(wanted, on=_KEY, how="semi").drop(_KEY)


def _event_micros(raw: bytes | None) -> int | None:
    """An event time as Redis keeps it; None where there is none that can be read."""
    if raw is None:
        return None
    try:
        stamp = Timestamp.FromString(raw)
    except DecodeError:
        return None
    return int(stamp.seconds) * 1_000_000 + int(stamp.nanos) // 1000


def _micros(instant: datetime) -> int:
    return (instant - _EPOCH) // timedelta(microseconds=1)

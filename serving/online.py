"""Reads the newest features of a request straight from Redis, in Feast's key and value format.

One pipelined round trip for all rows and views of a request, no Feast and no pandas in the process. Every value has a
status: one that is older than its view's TTL, absent, or unreadable is never passed off as present.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import chain
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from redis.exceptions import RedisError

from serving.feast_bytes import (
    Key,
    Undecodable,
    Value,
    decode_event_time,
    decode_value,
    field_name,
    key_prefix,
    key_value,
)
from serving.status import FeatureStatus
from serving.wire import WirePool, at_once

_MICROSECOND = timedelta(microseconds=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DOUBLE = 0x29  # first byte of a serialized double
_UNPACK_DOUBLE = struct.Struct("<d").unpack_from
_NAN = math.nan


class StoreUnavailable(Exception):
    """Redis is down, slow, or refuses to answer; the message names its address and what to do."""


class BundleView(Protocol):
    """A view as a model bundle describes it."""

    @property
    def name(self) -> str: ...
    @property
    def join_key(self) -> str: ...
    @property
    def ttl_seconds(self) -> float | None: ...
    @property
    def features(self) -> Sequence[str]: ...


_PRESENT, _STALE, _MISSING = int(FeatureStatus.PRESENT), int(FeatureStatus.STALE), int(FeatureStatus.MISSING)
_UNDECODABLE, _FUTURE = int(FeatureStatus.UNDECODABLE), int(FeatureStatus.FUTURE)
LARGEST = 3.4028234663852886e38
"""The largest number of single precision, in which models compute; what is beyond is infinite to them."""
LAST_INSTANT = 4_102_444_800_000_000
"""2100, in microseconds: an event time at or beyond it, or before 1970, is in another unit or damaged."""


@dataclass(frozen=True, slots=True)
class OnlineView:
    """A feature view as the reader needs it.

    Parameters
    ----------
    name : str
        Its name in Feast.
    join_keys : tuple of str
        Columns of its key; integers are 64 bit, as Feast's `INT64` entities.
    features : tuple of str
        Wanted features, in order.
    ttl : timedelta, optional
        A value older than this is stale; None for never.
    """

    name: str
    join_keys: tuple[str, ...]
    features: tuple[str, ...]
    ttl: timedelta | None = None

    @classmethod
    def of(cls, entry: OnlineView | BundleView) -> OnlineView:
        """The view that an entry of a model bundle's `views` describes."""
        if isinstance(entry, OnlineView):
            return entry
        ttl = timedelta(seconds=entry.ttl_seconds) if entry.ttl_seconds else None
        return cls(entry.name, (entry.join_key,), tuple(entry.features), ttl)


@dataclass(frozen=True, slots=True)
class OnlineFeatures:
    """The answer for n rows, m features and v views.

    Parameters
    ----------
    names : tuple of str, length m
        `view__feature`, views and features in the reader's order.
    values : float64 array, (n, m)
        Numbers, booleans and time stamps (Unix seconds); NaN where not present.
    statuses : uint8 array, (n, m)
        Values of `FeatureStatus`; text, lists and what is no finite number of single precision are undecodable.
    event_times : float64 array, (n, v)
        Unix seconds of each view's row, stale or not; NaN where there is none.
    view_of : intp array, (m,)
        Column of `event_times` that belongs to each feature.
    """

    names: tuple[str, ...]
    values: npt.NDArray[np.float64]
    statuses: npt.NDArray[np.uint8]
    event_times: npt.NDArray[np.float64]
    view_of: npt.NDArray[np.intp]
    _parts: Sequence[Sequence[StoredRow]]

    @property
    def objects(self) -> list[list[Value | None]]:
        """The values as Python objects of their own types, (n, m); None where not present."""
        return [[value for part in row for value in part.objects()] for row in self._parts]

    def age_seconds(self, as_of: datetime) -> npt.NDArray[np.float64]:
        """Age of each feature's row at `as_of`, in seconds, (n, m); NaN where there is none."""
        ages = _micros(as_of) / 1e6 - self.event_times
        return ages[:, self.view_of]


class OnlineReader:
    """Reads features of many rows in one round trip; safe to share between threads, and reconnects by itself.

    Parameters
    ----------
    redis_url : str
        `redis://`, `rediss://` or `unix://` URL.
    project : str
        Feast's project name, which is part of every key.
    views : sequence of OnlineView or of a model bundle's views
        What to read.
    timeout : float
        Seconds for all of a read, a new connection included. There are no retries.
    """

    def __init__(
        self, redis_url: str, project: str, views: Sequence[OnlineView | BundleView], timeout: float = 0.05
    ) -> None:
        self.views = tuple(OnlineView.of(view) for view in views)
        self.names = tuple(f"{view.name}__{feature}" for view in self.views for feature in view.features)
        self._view_of = np.array([i for i, view in enumerate(self.views) for _ in view.features], dtype=np.intp)
        self._commands = [_command(view, project) for view in self.views]
        self._wires = WirePool(redis_url, timeout)
        self._absent = [StoredRow.without_values(len(view.features), FeatureStatus.MISSING) for view in self.views]
        self._ttls = [math.inf if view.ttl is None else view.ttl // _MICROSECOND for view in self.views]

    def read(self, rows: Sequence[Mapping[str, Key | None]], as_of: datetime) -> OnlineFeatures:
        """The features of each row.

        Parameters
        ----------
        rows : sequence of mapping, length n
            Join key to value; None or absent where the entity is not known, whose features are then missing.
        as_of : datetime
            The instant at which freshness is judged, with a time zone.

        Raises
        ------
        StoreUnavailable
            See the class.
        """
        parts = at_once(self.stored(rows, [as_of] * len(rows)))
        flat = [part for row in parts for part in row]
        shape = (len(rows), len(self.names))
        return OnlineFeatures(
            names=self.names,
            values=np.array(list(chain.from_iterable(part.values for part in flat)), np.float64).reshape(shape),
            statuses=np.array(bytearray().join(part.statuses for part in flat), np.uint8).reshape(shape),
            event_times=np.array([part.event for part in flat], np.float64).reshape(len(rows), len(self.views)),
            view_of=self._view_of,
            _parts=parts,
        )

    async def stored(
        self,
        rows: Sequence[Mapping[str, Key | None]],
        as_of: Sequence[datetime],
        asked_at: Sequence[datetime | None] | None = None,
    ) -> list[list[StoredRow]]:
        """The same as `read`, each row as of an instant of its own: a `StoredRow` for each row and view.

        Values are stale if they are too old at `asked_at`, where that is later than `as_of`. On an event loop others go
        on while Redis answers.
        """
        asked = [[command(row) for command in self._commands] for row in rows]
        views = {command: view for row in asked for view, command in enumerate(row) if command}
        try:
            replies = await self._wires.exchange(b"".join(views), len(views)) if views else []
        except RedisError as error:
            raise self._unavailable(error) from error
        found = {
            command: self._decode(view, reply) for (command, view), reply in zip(views.items(), replies, strict=True)
        }
        return [
            [
                found[command].as_of(placed, now, ttl) if command else absent
                for command, ttl, absent in zip(row, self._ttls, self._absent, strict=True)
            ]
            for row, (placed, now) in zip(asked, map(_instants, as_of, asked_at or [None] * len(rows)), strict=True)
        ]

    def ping(self) -> None:
        """Raise StoreUnavailable unless Redis answers in time."""
        try:
            at_once(self._wires.ping())
        except RedisError as error:
            raise self._unavailable(error) from error

    def close(self) -> None:
        """Close the idle connections."""
        self._wires.close()

    def _decode(self, view: int, stored: Any) -> StoredRow:
        if isinstance(stored, Exception):
            return _unreadable([b"?"] * len(self.views[view].features))
        if not any(stored):
            return self._absent[view]
        try:
            event = decode_event_time(stored[-1]) if stored[-1] else None
        except Undecodable:
            event = None
        if event is None or not 0 <= event < LAST_INSTANT:  # without its event time nothing is known to be fresh
            return _unreadable(stored[:-1])
        return _decoded(tuple(stored[:-1]), event)

    def _unavailable(self, error: Exception) -> StoreUnavailable:
        return StoreUnavailable(
            f"Redis at {self._wires.address} does not answer ({error}): start it (make up), "
            "or point ETA_REDIS_URL elsewhere"
        )


@dataclass(slots=True)
class StoredRow:
    """The features of one view for one key.

    Attributes
    ----------
    values : list of float
        Of each feature; NaN where not present.
    statuses : bytes
        A `FeatureStatus` each.
    event : float
        Unix seconds as of which the values hold; NaN = there are none.
    """

    values: list[float]
    statuses: bytes
    event: float
    micros: float = _NAN
    stored: Sequence[bytes | None] = ()

    @classmethod
    def typical(cls, values: list[float], status: int) -> StoredRow:
        """Values of one status that nobody has stored."""
        return cls(values, bytes([status] * len(values)), _NAN)

    @classmethod
    def without_values(cls, count: int, status: int) -> StoredRow:
        """As many features of one status."""
        return cls.typical([_NAN] * count, status)

    def as_of(self, placed: int, now: int, ttl: float) -> StoredRow:
        """The row at an instant, all in microseconds.

        With everything stale if it is older than `ttl` at `now`, and of the future if it is newer than `placed`.
        """
        if self.micros > placed:
            return self._without(_FUTURE)
        return self._without(_STALE) if now - self.micros > ttl else self

    def _without(self, status: int) -> StoredRow:
        statuses = bytes(status if data else _MISSING for data in self.stored)
        return StoredRow([_NAN] * len(statuses), statuses, self.event)

    def objects(self) -> list[Value | None]:
        """The values by their own types; None where not present."""
        if not self.stored:
            return [None] * len(self.values)
        present = (status == _PRESENT for status in self.statuses)
        return [
            decode_value(data) if there and data else None for there, data in zip(present, self.stored, strict=True)
        ]


@lru_cache(maxsize=8_192)  # who is asked about often is stored anew once an hour; the bytes say when they change
def _decoded(stored: tuple[bytes | None, ...], micros: int) -> StoredRow:
    """The values of one hash as of an instant; doubles, which most are, without a call."""
    values, statuses = [], bytearray(len(stored))  # all present
    for data in stored:
        if data and data[0] == _DOUBLE and len(data) == 9:
            value = _UNPACK_DOUBLE(data, 1)[0]
            if -LARGEST <= value <= LARGEST:
                values.append(value)
                continue
        number, status = _number(data) if data else (_NAN, _MISSING)
        statuses[len(values)] = status
        values.append(number)
    return StoredRow(values, bytes(statuses), micros / 1e6, micros, stored)


def _number(data: bytes) -> tuple[float, int]:
    """A value as a float, NaN if it is none, and its status."""
    return _short_number(data) if len(data) < 6 else _any_number(data)


@lru_cache(maxsize=16_384)
def _short_number(data: bytes) -> tuple[float, int]:
    """The same of counts, flags and the like, which recur."""
    return _any_number(data)


def _any_number(data: bytes) -> tuple[float, int]:
    try:
        value = decode_value(data)
    except Undecodable:
        return _NAN, _UNDECODABLE
    if value is None:
        return _NAN, _MISSING
    number = float(value) if isinstance(value, int | float) else _NAN
    return (number, _PRESENT) if -LARGEST <= number <= LARGEST else (_NAN, _UNDECODABLE)


def _unreadable(stored: Sequence[bytes | None]) -> StoredRow:
    statuses = bytes(_UNDECODABLE if data else _MISSING for data in stored)
    return StoredRow([_NAN] * len(stored), statuses, _NAN)


def _command(view: OnlineView, project: str) -> Callable[[Mapping[str, Key | None]], bytes | None]:
    """A function that gives the command which reads a view for a row, as it goes over the wire; None without a key."""
    fields = [*(field_name(view.name, feature) for feature in view.features), f"_ts:{view.name}".encode()]
    before = b"*%d\r\n$5\r\nHMGET\r\n$" % (len(fields) + 2)
    after = b"".join(b"\r\n$%d\r\n%s" % (len(field), field) for field in fields) + b"\r\n"
    prefix, names, last = key_prefix(view.join_keys), sorted(view.join_keys), project.encode()

    @lru_cache(maxsize=8_192)
    def packed(*values: Key | None) -> bytes | None:
        if None in values:
            return None
        key = prefix + b"".join([key_value(value) for value in values if value is not None]) + last
        return b"%s%d\r\n%s%s" % (before, len(key), key, after)

    return lambda row: packed(*[row.get(name) for name in names])


def _instants(as_of: datetime, asked_at: datetime | None) -> tuple[int, int]:
    """When an order was placed, and when it has to be fresh."""
    placed = _micros(as_of)
    return placed, placed if asked_at is None else max(placed, _micros(asked_at))


def _micros(instant: datetime) -> int:
    if instant.tzinfo is None:
        raise ValueError(f"as_of {instant!s} has no time zone: freshness cannot be judged without one")
    return (instant - _EPOCH) // _MICROSECOND

"""Feast's own bytes: the names of keys and fields in Redis, and the values that stand there."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import mmh3

__all__ = [
    "Key",
    "Undecodable",
    "Value",
    "decode_event_time",
    "decode_value",
    "field_name",
    "key_prefix",
    "key_value",
    "split_key",
]

Key = str | int | bytes
Scalar = str | int | float | bool | bytes
Value = Scalar | list[Any]

_STRING, _BYTES, _INT64 = 2, 1, 4  # feast.types.ValueType
_TYPE_AND_SIZE = struct.Struct("<II").pack


class Undecodable(ValueError):
    """Stored bytes are not a scalar or a list in Feast's encoding."""


def decode_value(data: bytes) -> Value | None:
    """The scalar or list in a serialized `feast.types.Value`; None for Feast's null.

    Raises
    ------
    Undecodable
        The bytes are damaged, or hold a set, a map or more than one value.
    """
    if not data:
        return None
    tag, at = _varint(data, 0)
    payload, at = _payload(data, at, tag & 7)
    if at < len(data):
        raise Undecodable(f"{len(data) - at} bytes after the value")
    number, wire = tag >> 3, tag & 7
    if number in _LISTS and isinstance(payload, bytes):
        return _list(payload, *_LISTS[number])
    return _scalar(number, wire, payload)


@lru_cache(maxsize=4096)  # rows of one hour share theirs
def decode_event_time(data: bytes) -> int:
    """Microseconds since 1970 of a serialized `google.protobuf.Timestamp`.

    Raises
    ------
    Undecodable
        The bytes are damaged.
    """
    seconds = nanos = at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        payload, at = _payload(data, at, tag & 7)
        if tag == 0x08 and isinstance(payload, int):
            seconds = _signed(payload)
        elif tag == 0x10 and isinstance(payload, int):
            nanos = _signed(payload)
        else:
            raise Undecodable(f"tag {tag} in an event time")
    return seconds * 1_000_000 + nanos // 1000


_F64 = struct.Struct("<d")
_F32 = struct.Struct("<f")


_LISTS = {11: (1, 2), 12: (2, 2), 13: (3, 0), 14: (4, 0), 15: (5, 1), 16: (6, 5), 17: (7, 0), 18: (8, 0)}
"""Field of each list in `feast.types.Value`: field and wire type of its elements as scalars."""


def _list(data: bytes, number: int, wire: int) -> list[Any]:
    """The elements of a list message: its one field, repeated or packed."""
    found: list[Any] = []
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        if tag >> 3 != 1:
            raise Undecodable(f"field {tag >> 3} in a list")
        payload, at = _payload(data, at, tag & 7)
        if tag & 7 == 2 and wire != 2:
            packed, inside = payload, 0
            while isinstance(packed, bytes) and inside < len(packed):
                element, inside = _payload(packed, inside, wire)
                found.append(_scalar(number, wire, element))
        else:
            found.append(_scalar(number, tag & 7, payload))
    return found


def _scalar(number: int, wire: int, payload: int | bytes) -> Scalar | None:
    """The value of one field of `feast.types.Value`."""
    match number, wire, payload:
        case (4 | 8, 0, int()):
            return _signed(payload)
        case 3, 0, int():
            if not -(2**31) <= _signed(payload) < 2**31:
                raise Undecodable(f"{_signed(payload)} does not fit into 32 bits")
            return _signed(payload)
        case 7, 0, int():
            return payload != 0
        case 19, 0, _:
            return None
        case 5, 1, bytes():
            return float(_F64.unpack(payload)[0])
        case 6, 5, bytes():
            return float(_F32.unpack(payload)[0])
        case 1, 2, bytes():
            return payload
        case (2 | 32 | 36 | 37 | 44, 2, bytes()):  # string, JSON, UUIDs, decimal
            try:
                return payload.decode()
            except UnicodeDecodeError as error:
                raise Undecodable(str(error)) from error
    raise Undecodable(f"field {number} with wire type {wire} is not a scalar")


def _payload(data: bytes, at: int, wire: int) -> tuple[int | bytes, int]:
    if wire == 0:
        return _varint(data, at)
    if wire == 2:
        size, at = _varint(data, at)
    else:
        size = {1: 8, 5: 4}.get(wire, len(data) + 1)
    end = at + size
    if end > len(data):
        raise Undecodable(f"cut off after {len(data)} bytes, or wire type {wire}")
    return data[at:end], end


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 70:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
        shift += 7
    raise Undecodable(f"number cut off after {len(data)} bytes")


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def key_prefix(join_keys: Sequence[str]) -> bytes:
    """Feast's entity key, serialization version 3, up to the values."""
    parts = [struct.pack("<I", len(join_keys))]
    for name in sorted(join_keys):
        parts.append(struct.pack("<II", _STRING, len(name.encode())) + name.encode())
    return b"".join(parts)


def key_value(value: Key) -> bytes:
    """One value of an entity key; integers are 64 bit."""
    if isinstance(value, str):
        data = value.encode()
        return _TYPE_AND_SIZE(_STRING, len(data)) + data
    if isinstance(value, bytes):
        return _TYPE_AND_SIZE(_BYTES, len(value)) + value
    return struct.pack("<IIq", _INT64, 8, value)


def split_key(key: bytes) -> tuple[tuple[str, ...], str]:
    """Names of the join keys, and the project, of a key in Redis.

    Raises
    ------
    Undecodable
        It is no key of Feast's.
    """
    try:
        (count,) = struct.unpack_from("<I", key)
        if not 0 < count <= len(key) // 16:
            raise Undecodable("no entity key")
        at, parts = 4, []
        for _ in range(2 * count):
            _, size = struct.unpack_from("<II", key, at)
            parts.append(key[at + 8 : at + 8 + size])
            at += 8 + size
        if at > len(key):
            raise Undecodable("the entity key is cut off")
        return tuple(name.decode() for name in parts[:count]), key[at:].decode()
    except (struct.error, UnicodeDecodeError) as error:
        raise Undecodable(str(error)) from error


def field_name(view: str, feature: str) -> bytes:
    """Feast's hash field of a feature: murmur3, little endian."""
    return struct.pack("<I", mmh3.hash(f"{view}:{feature}", signed=False))

"""The bytes that Feast's Redis format wants, made a column at a time.

Feast makes a Python protobuf object for every value and serialises it, which is half of the time of a materialisation.
A `Value` message on the wire is one tag, and a varint, eight bytes, or a length and bytes; that is written here into
Arrow arrays directly. What has a rarer type goes through Feast's own conversion, column by column, so the bytes are
Feast's in every case.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from feast.infra.key_encoding_utils import _serialize_val, serialize_entity_key_prefix
from feast.protos.feast.types.Value_pb2 import Value
from feast.type_map import python_values_to_proto_values
from feast.value_type import ValueType
from numpy.typing import NDArray

VARINT, EIGHT_BYTES, LENGTH_AND_BYTES, FOUR_BYTES = 0, 1, 2, 5
"""Protobuf's wire types."""

BIAS = 1 << 63
"""Makes signed microseconds compare as unsigned big-endian bytes."""

_NO_SEPARATOR = pa.scalar(b"", pa.binary())
_MICROS_PER_SECOND = 1_000_000


@dataclass(frozen=True, slots=True)
class EncodedRows:
    """Rows of one view as Redis keeps them.

    Attributes
    ----------
    keys : pyarrow.BinaryArray, n
        Redis keys.
    stamps : pyarrow.BinaryArray, n
        What `stamps` returns.
    fields : tuple of bytes, m
        Hash fields of the features.
    values : tuple of pyarrow.BinaryArray, m of n
        Serialised values of each feature; a null is empty.
    """

    keys: pa.BinaryArray
    stamps: pa.BinaryArray
    fields: tuple[bytes, ...]
    values: tuple[pa.BinaryArray, ...]

    def __len__(self) -> int:
        return len(self.keys)


def encode_values(column: pa.Array, kind: ValueType) -> pa.BinaryArray:
    """Each value as the bytes of Feast's `Value` message.

    Parameters
    ----------
    column : pyarrow.Array, n
        NaN counts as null, as in Feast.
    kind : ValueType
        The type that the feature is declared with.

    Returns
    -------
    pyarrow.BinaryArray, n
        Empty for a null, and no nulls.
    """
    arrow = column.type
    if kind == ValueType.DOUBLE and pa.types.is_float64(arrow):
        return _tagged_floats(column, "double_val", np.dtype("<f8"), EIGHT_BYTES)
    if kind == ValueType.FLOAT and (pa.types.is_float32(arrow) or pa.types.is_float64(arrow)):
        return _tagged_floats(column, "float_val", np.dtype("<f4"), FOUR_BYTES)
    if kind == ValueType.INT64 and _is_signed(arrow):
        return _tagged_integers(column, "int64_val")
    if kind == ValueType.INT32 and _is_signed(arrow):
        return _tagged_integers(column.cast(pa.int32()), "int32_val")
    if kind == ValueType.BOOL and pa.types.is_boolean(arrow):
        return _tagged_integers(column.cast(pa.uint8()), "bool_val")
    if kind == ValueType.UNIX_TIMESTAMP and pa.types.is_timestamp(arrow):
        return _tagged_integers(_unix_seconds(column), "unix_timestamp_val")
    if kind == ValueType.STRING and _is_text(arrow):
        return _tagged_bytes(column, "string_val")
    if kind == ValueType.BYTES and _is_bytes(arrow):
        return _tagged_bytes(column, "bytes_val")
    messages = python_values_to_proto_values(column.to_numpy(zero_copy_only=False), kind)
    return pa.array([message.SerializeToString() for message in messages], pa.binary())


def encode_keys(columns: Mapping[str, tuple[pa.Array, ValueType]], project: str) -> pa.BinaryArray:
    """Feast's serialised entity keys (version 3), each followed by the project's name.

    Parameters
    ----------
    columns : mapping of str to (pyarrow.Array of n, ValueType)
        By join key, in any order; without nulls.

    Raises
    ------
    ValueError
        A join key has a type that Feast cannot make keys of (a float, a truth value, ...).
    """
    names = sorted(columns)
    parts: list[Any] = [serialize_entity_key_prefix(names)]
    for name in names:
        parts += _key_parts(*columns[name])
    return join([*parts, project.encode()])


def stamps(event: pa.Array, created: pa.Array) -> pa.BinaryArray:
    """For each row 16 bytes that order as (event time, created time) do, then the event time as Feast stores it.

    Parameters
    ----------
    event, created : pyarrow.Array of timestamp in microseconds, n
        Without nulls.
    """
    micros = event.cast(pa.int64()).to_numpy()
    known = created.cast(pa.int64()).to_numpy()
    ranks = np.column_stack([micros, known]).astype(np.int64).view(np.uint64) + np.uint64(BIAS)
    seconds, rest = np.divmod(micros, _MICROS_PER_SECOND)
    parts = [_fixed(ranks.astype(">u8").view(np.uint8)), _timestamp_field(1, seconds)]
    if rest.any():
        parts.append(_timestamp_field(2, rest * 1000))
    return join(parts)


def join(parts: Sequence[Any]) -> pa.BinaryArray:
    """Binary arrays of one length and single `bytes`, put together row by row."""
    scalars = [pa.scalar(part, pa.binary()) if isinstance(part, bytes) else part for part in parts]
    return pc.binary_join_element_wise(*scalars, _NO_SEPARATOR)


def _key_parts(column: pa.Array, kind: ValueType) -> list[Any]:
    """What follows the names in a serialised entity key, for one join key: type, length and bytes of its value."""
    if (kind == ValueType.STRING and _is_text(column.type)) or (kind == ValueType.BYTES and _is_bytes(column.type)):
        raw = column.cast(pa.binary())
        lengths = pc.binary_length(raw).to_numpy().astype("<u4")
        return [struct.pack("<I", kind.value), _fixed(lengths[:, None].view(np.uint8)), raw]
    if kind == ValueType.INT64 and _is_signed(column.type):
        return _integer_key_parts(column.cast(pa.int64()).to_numpy().astype("<i8"), kind)
    if kind == ValueType.INT32 and _is_signed(column.type):
        return _integer_key_parts(column.cast(pa.int32()).to_numpy().astype("<i4"), kind)
    if kind == ValueType.UNIX_TIMESTAMP and pa.types.is_timestamp(column.type):
        return _integer_key_parts(_unix_seconds(column).to_numpy().astype("<i8"), kind)
    encoded = []
    for value in python_values_to_proto_values(column.to_numpy(zero_copy_only=False), kind):
        data, number = _serialize_val(value.WhichOneof("val"), value)
        encoded.append(struct.pack("<II", number, len(data)) + data)
    return [pa.array(encoded, pa.binary())]


def _integer_key_parts(values: NDArray[Any], kind: ValueType) -> list[Any]:
    return [struct.pack("<II", kind.value, values.itemsize), _fixed(values[:, None].view(np.uint8))]


def _tagged_floats(column: pa.Array, field: str, kind: np.dtype[Any], wire: int) -> pa.BinaryArray:
    values = column.to_numpy(zero_copy_only=False)  # null becomes NaN
    with np.errstate(over="ignore"):
        raw = values.astype(kind)[:, None].view(np.uint8)
    tagged = np.column_stack([np.full(len(raw), _tag(field, wire), np.uint8), raw])
    return _ragged(tagged, np.where(np.isnan(values), 0, tagged.shape[1]))


def _tagged_integers(column: pa.Array, field: str) -> pa.BinaryArray:
    present = column.is_valid().to_numpy(zero_copy_only=False)
    values = column.fill_null(0).to_numpy().astype(np.int64).view(np.uint64)
    return _tagged_varints(values, _tag(field, VARINT), present)


def _tagged_bytes(column: pa.Array, field: str) -> pa.BinaryArray:
    raw = column.cast(pa.binary())
    present = raw.is_valid().to_numpy(zero_copy_only=False)
    raw = raw.fill_null(b"")
    lengths = pc.binary_length(raw).to_numpy().astype(np.uint64)
    return join([_tagged_varints(lengths, _tag(field, LENGTH_AND_BYTES), present), raw])


def _timestamp_field(number: int, values: NDArray[Any]) -> pa.BinaryArray:
    """A field of a `Timestamp` message, which leaves out zeros."""
    return _tagged_varints(values.astype(np.int64).view(np.uint64), number << 3 | VARINT, values != 0)


def _tag(field: str, wire: int) -> int:
    return int(Value.DESCRIPTOR.fields_by_name[field].number) << 3 | wire


def _tagged_varints(values: NDArray[np.uint64], tag: int, present: NDArray[np.bool_]) -> pa.BinaryArray:
    """`tag` and the value in groups of seven bits, the lowest first, where it is present; else nothing."""
    largest = int(values.max()) if len(values) else 0
    width = max(1, -(-largest.bit_length() // 7))
    groups = values[:, None] >> np.arange(0, 7 * width, 7, dtype=np.uint64)
    lengths = np.maximum((groups != 0).sum(axis=1), 1)
    encoded = np.empty((len(values), 1 + width), np.uint8)
    encoded[:, 0] = tag
    encoded[:, 1:] = (groups & np.uint64(0x7F)) | np.uint64(0x80)
    encoded[np.arange(len(values)), lengths] &= 0x7F
    return _ragged(encoded, np.where(present, 1 + lengths, 0))


def _ragged(rows: NDArray[np.uint8], lengths: NDArray[Any]) -> pa.BinaryArray:
    """The first `lengths` bytes of each row."""
    kept = rows[np.arange(rows.shape[1]) < lengths[:, None]]
    offsets = np.zeros(len(rows) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    return pa.Array.from_buffers(pa.binary(), len(rows), [None, pa.py_buffer(offsets), pa.py_buffer(kept)])


def _fixed(rows: NDArray[np.uint8]) -> pa.BinaryArray:
    """Each row's bytes."""
    offsets = np.arange(len(rows) + 1, dtype=np.int32) * np.int32(rows.shape[1])
    data = pa.py_buffer(np.ascontiguousarray(rows))
    return pa.Array.from_buffers(pa.binary(), len(rows), [None, pa.py_buffer(offsets), data])


def _unix_seconds(column: pa.Array) -> pa.Array:
    """Whole seconds, rounded down as Feast does with columns of time stamps."""
    instants = column.to_numpy(zero_copy_only=False).astype("datetime64[s]")
    return pa.array(instants.astype(np.int64), mask=np.isnat(instants))


def _is_signed(kind: pa.DataType) -> bool:
    return bool(pa.types.is_signed_integer(kind))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))

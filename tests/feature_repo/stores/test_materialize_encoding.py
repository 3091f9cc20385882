"""The bytes made a column at a time are those of Feast's own conversion, value by value."""

from __future__ import annotations

import math
import struct
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from feast.infra.online_stores.helpers import _redis_key
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.type_map import python_values_to_proto_values
from feast.value_type import ValueType
from google.protobuf.timestamp_pb2 import Timestamp

from feature_repo.stores.encoding import BIAS, encode_keys, encode_values, stamps

INTEGERS = [0, 1, -1, 127, 128, 300, 16_383, 16_384, 2**31 - 1, -(2**31), None]
LONG = [*INTEGERS, 2**32, 2**53 + 1, 2**63 - 1, -(2**63)]
FLOATS = [0.0, -0.0, 1.5, -2.25, 1e300, math.inf, -math.inf, math.nan, None]
TEXTS = ["Ämter, 東京, 🍕", "", "x" * 127, "x" * 128, "x" * 20_000, "a\0b", None]
INSTANTS = [datetime(2026, 5, 1, 12, tzinfo=UTC), datetime(1970, 1, 1, tzinfo=UTC), datetime(1931, 5, 1, tzinfo=UTC)]
COLUMNS: dict[str, tuple[ValueType, pa.DataType, list[Any]]] = {
    "double": (ValueType.DOUBLE, pa.float64(), FLOATS),
    "float": (ValueType.FLOAT, pa.float32(), FLOATS),
    "float of doubles": (ValueType.FLOAT, pa.float64(), [0.1, 1e-50, None]),
    "int64": (ValueType.INT64, pa.int64(), LONG),
    "int64 of int32": (ValueType.INT64, pa.int32(), INTEGERS),
    "int64 of uint64": (ValueType.INT64, pa.uint64(), [1, 2**62]),
    "int64 of doubles": (ValueType.INT64, pa.float64(), [1.0, 2.0, None]),
    "int32": (ValueType.INT32, pa.int32(), INTEGERS),
    "int32 of int64": (ValueType.INT32, pa.int64(), INTEGERS),
    "bool": (ValueType.BOOL, pa.bool_(), [True, False, None]),
    "string": (ValueType.STRING, pa.string(), TEXTS),
    "large string": (ValueType.STRING, pa.large_string(), TEXTS),
    "string of integers": (ValueType.STRING, pa.int64(), [1, -5]),
    "bytes": (ValueType.BYTES, pa.binary(), [b"\0\xff", b"abc", b"", None]),
    "large bytes": (ValueType.BYTES, pa.large_binary(), [b"\0\xff", None]),
    "timestamp": (ValueType.UNIX_TIMESTAMP, pa.timestamp("us", "UTC"), [*INSTANTS, None]),
    "timestamp in ms": (ValueType.UNIX_TIMESTAMP, pa.timestamp("ms", "UTC"), INSTANTS),
    "list of doubles": (ValueType.DOUBLE_LIST, pa.list_(pa.float64()), [[1.0, 2.5], [], None]),
    "list of integers": (ValueType.INT64_LIST, pa.large_list(pa.int64()), [[1, -2], None]),
    "list of texts": (ValueType.STRING_LIST, pa.list_(pa.string()), [["a", "é"], None]),
    "list of truths": (ValueType.BOOL_LIST, pa.list_(pa.bool_()), [[True, False], None]),
    "uuid": (ValueType.UUID, pa.string(), ["6f9619ff-8b86-d011-b42d-00cf4fc964ff", None]),
    "json": (ValueType.JSON, pa.string(), ['{"a": 1}', None]),
    "nothing": (ValueType.DOUBLE, pa.null(), [None, None]),
    "no row": (ValueType.INT64, pa.int64(), []),
}  # fmt: skip


@pytest.mark.parametrize("name", COLUMNS)
def test_values_are_feasts_bytes(name: str) -> None:
    kind, arrow, values = COLUMNS[name]
    found = encode_values(pa.array(values, arrow), kind)
    expected = [message.SerializeToString() for message in python_values_to_proto_values(values, kind)]
    assert found.to_pylist() == expected
    assert found.type == pa.binary()


@pytest.mark.parametrize("name", ["int64", "double", "string", "bytes", "bool", "timestamp"])
def test_a_slice_of_a_column_is_encoded_as_such(name: str) -> None:
    kind, arrow, values = COLUMNS[name]
    whole = encode_values(pa.array(values, arrow), kind).to_pylist()
    assert encode_values(pa.array(values, arrow).slice(1, len(values) - 2), kind).to_pylist() == whole[1:-1]


def test_large_integers_beside_a_null_keep_their_last_digits() -> None:
    """Feast turns such a column into floats first."""
    (data, empty) = encode_values(pa.array([2**53 + 1, None]), ValueType.INT64).to_pylist()
    assert Value.FromString(data).int64_val == 2**53 + 1
    assert empty == b""


def test_fraction_of_a_second_before_1970_is_rounded_down_as_feast_does_with_columns() -> None:
    column = pa.array([datetime(1969, 12, 31, 23, 59, 59, 500_000, tzinfo=UTC)], pa.timestamp("us", "UTC"))
    expected = python_values_to_proto_values(column.to_numpy(zero_copy_only=False), ValueType.UNIX_TIMESTAMP)
    assert encode_values(column, ValueType.UNIX_TIMESTAMP).to_pylist() == [expected[0].SerializeToString()]


def test_integer_that_does_not_fit_is_refused() -> None:
    with pytest.raises(pa.ArrowInvalid, match="2147483648 not in range"):
        encode_values(pa.array([2**31]), ValueType.INT32)


def feasts_keys(columns: dict[str, tuple[pa.Array, ValueType]]) -> list[bytes]:
    values = [python_values_to_proto_values(column.to_pylist(), kind) for column, kind in columns.values()]
    return [
        _redis_key("shop", EntityKey(join_keys=list(columns), entity_values=row)) for row in zip(*values, strict=True)
    ]


KEYS: dict[str, dict[str, tuple[pa.Array, ValueType]]] = {
    "string": {"id": (pa.array(["a", "東京", ""], pa.large_string()), ValueType.STRING)},
    "int64": {"id": (pa.array([0, -1, 2**40]), ValueType.INT64)},
    "int64 of int32": {"id": (pa.array([0, -1], pa.int32()), ValueType.INT64)},
    "int32": {"id": (pa.array([5, -6], pa.int32()), ValueType.INT32)},
    "bytes": {"id": (pa.array([b"\0\xff"]), ValueType.BYTES)},
    "timestamp": {"id": (pa.array(INSTANTS, pa.timestamp("us", "UTC")), ValueType.UNIX_TIMESTAMP)},
    "string of integers": {"id": (pa.array([5, 6]), ValueType.STRING)},
    "composite": {
        "zone": (pa.array(["a", "bc"]), ValueType.STRING),
        "hour": (pa.array([5, 17], pa.int32()), ValueType.INT32),
        "restaurant": (pa.array([1, -2]), ValueType.INT64),
    },
}


@pytest.mark.parametrize("name", KEYS)
def test_keys_are_feasts_bytes(name: str) -> None:
    assert encode_keys(KEYS[name], "shop").to_pylist() == feasts_keys(KEYS[name])


def test_key_of_a_type_that_feast_cannot_make_keys_of_is_refused() -> None:
    with pytest.raises(ValueError, match="Value type not supported"):
        encode_keys({"id": (pa.array([1.5]), ValueType.DOUBLE)}, "shop")


def test_stamp_is_both_times_and_feasts_event_time() -> None:
    events = [*INSTANTS, INSTANTS[0] + timedelta(microseconds=1), INSTANTS[2] - timedelta(microseconds=1)]
    created = [instant + timedelta(minutes=10) for instant in events]
    kind = pa.timestamp("us", "UTC")
    for event, known, stamp in zip(
        events, created, stamps(pa.array(events, kind), pa.array(created, kind)).to_pylist(), strict=True
    ):
        proto = Timestamp()
        proto.FromDatetime(event)
        micros = [round((instant - INSTANTS[1]) / timedelta(microseconds=1)) + BIAS for instant in (event, known)]
        assert stamp == struct.pack(">QQ", *micros) + proto.SerializeToString()

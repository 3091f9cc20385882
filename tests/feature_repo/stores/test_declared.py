"""Which values fit to which declared types, and what is said of those that do not."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from feast.types import Array, Bool, Bytes, FeastType, Float32, Float64, Int32, Int64, Map, String, UnixTimestamp

from feature_repo.stores.declared import NotAsDeclared, Place, as_declared, as_read, without_nulls

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
ROUNDED = 4.111000061035156  # 4.111 in single precision


def place(declared: FeastType) -> Place:
    return Place("stats", "orders", "the table to write", declared)


@pytest.mark.parametrize(
    ("declared", "found", "kind", "values"),
    [
        (Int64, pa.array([1, None], pa.int32()), pa.int64(), [1, None]),
        (Int32, pa.array([7], pa.uint64()), pa.int32(), [7]),
        (Int64, pa.array([1.0, None, float("nan")]), pa.int64(), [1, None, None]),
        (Float64, pa.array([1, 2**53]), pa.float64(), [1.0, 2.0**53]),
        (Float64, pa.array([0.5], pa.float32()), pa.float64(), [0.5]),
        (Float32, pa.array([4.111, None]), pa.float32(), [ROUNDED, None]),
        (Float32, pa.array([float("inf")]), pa.float32(), [float("inf")]),
        (String, pa.array(["a", None]).dictionary_encode(), pa.string(), ["a", None]),
        (String, pa.array(["a"], pa.large_string()), pa.string(), ["a"]),
        (Bytes, pa.array([b"a"], pa.large_binary()), pa.binary(), [b"a"]),
        (Bool, pa.array([True, None]), pa.bool_(), [True, None]),
        (Int64, pa.array([None, None]), pa.int64(), [None, None]),
        (UnixTimestamp, pa.array([NOON.replace(tzinfo=None)], pa.timestamp("ns")), pa.timestamp("us", "UTC"), [NOON]),
        (UnixTimestamp, pa.array([NOON], pa.timestamp("s", "Asia/Tokyo")), pa.timestamp("us", "UTC"), [NOON]),
        (Array(Int32), pa.array([[1, 2], None, []]), pa.list_(pa.int32()), [[1, 2], None, []]),
        (Array(Int64), pa.array([[1, 2]], pa.list_(pa.int64(), 2)), pa.list_(pa.int64()), [[1, 2]]),
        (Array(Float32), pa.array([[], []]), pa.list_(pa.float32()), [[], []]),
        (Array(String), pa.array([["a"]], pa.large_list(pa.large_string())), pa.list_(pa.string()), [["a"]]),
        (Map, pa.array([{"a": "b"}]), pa.struct({"a": pa.string()}), [{"a": "b"}]),
        (Int64, pa.chunked_array([[1], [2]]), pa.int64(), [1, 2]),
        (Int64, pa.chunked_array([], pa.int16()), pa.int64(), []),
    ],
)  # fmt: skip
def test_values_that_lose_nothing_become_the_declared_type(
    declared: FeastType, found: Any, kind: pa.DataType, values: list[Any]
) -> None:
    result = as_declared(found, place(declared))
    assert (result.type, result.to_pylist()) == (kind, values)


@pytest.mark.parametrize(
    ("declared", "found", "message"),
    [
        (Int64, pa.array([1.0, 3.5]), r"has 3.5 \(double\) as value 1: write whole numbers, or declare Float64"),
        (Int64, pa.array([2.0**54]), "as value 0: write whole numbers"),
        (Int64, pa.array([float("inf")]), "has inf"),
        (Int64, pa.array(["1"]), "has string: write whole numbers"),
        (Int64, pa.array([True]), "has bool"),
        (Int32, pa.array([2**40]), "beyond it .*: declare a wider type"),
        (Int64, pa.array([2**63], pa.uint64()), "beyond it"),
        (Float64, pa.array([2**53 + 1]), r"9007199254740993 \(int64\) as value 0: .* not exact in it: declare Int64"),
        (Float64, pa.array([-(2**53) - 1]), "not exact in it"),
        (Float32, pa.array([1e300]), "beyond that type: declare Float64"),
        (Float64, pa.array([Decimal("1.5")]), "has decimal128"),
        (Float64, pa.array(["1.5"]), "has string: write numbers"),
        (String, pa.array([1]), "has int64: write texts"),
        (String, pa.array([b"a"]), "has binary: write texts"),
        (Bool, pa.array([1]), "has int64: write truth values"),
        (Bytes, pa.array(["a"]), "has string: write bytes"),
        (UnixTimestamp, pa.array([1_777_000_000]), "has int64: write time stamps"),
        (UnixTimestamp, pa.array([date(2026, 5, 1)]), "has date32"),
        (UnixTimestamp, pa.array([1], pa.timestamp("ns")), "as value 0: round to microseconds"),
        (Array(Int64), pa.array([1]), "has int64: write lists"),
        (Array(Int64), pa.array([[1.5]]), "has 1.5"),
        (Array(Int64), pa.array([[1, None]]), "a list with a null in it"),
    ],
)  # fmt: skip
def test_values_that_would_change_are_refused_by_name(declared: FeastType, found: Any, message: str) -> None:
    with pytest.raises(
        NotAsDeclared, match=r"stats: column 'orders' is declared .*, but the table to write .*" + message
    ):
        as_declared(found, place(declared))


@pytest.mark.parametrize(
    ("declared", "found", "kind", "value"),
    [
        (Float32, pa.array([4.111]), pa.float64(), ROUNDED),
        (Int32, pa.array([7]), pa.int64(), 7),
        (Int64, pa.array([7.0]), pa.int64(), 7),
        (Array(Float32), pa.array([[4.111]], pa.large_list(pa.float64())), pa.list_(pa.float64()), [ROUNDED]),
        (Array(Int32), pa.array([[7]]), pa.list_(pa.int64()), [7]),
    ],
)
def test_what_is_read_has_the_declared_values_in_the_width_of_the_file(
    declared: FeastType, found: Any, kind: pa.DataType, value: Any
) -> None:
    result = as_read(found, place(declared))
    assert (result.type, result.to_pylist()) == (kind, [value])


def test_null_that_no_row_may_have_is_counted_and_its_row_named() -> None:
    with pytest.raises(NotAsDeclared, match="lacks it in 2 of 3 rows, the first of them row 1: every row needs it"):
        without_nulls(pa.array([1, None, None]), place(Int64))

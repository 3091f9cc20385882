"""What a view declares decides what its stores hold: values are converted without loss, or refused.

The same rules apply wherever values pass: pushed or written offline, written online, materialised, read back. So a
value that is served online is the value that training reads, and a push never makes a source unreadable.

What is allowed: integers into another width that holds them, whole numbers into floats that hold them, floats that are
whole numbers (pandas makes floats of integers with a null) into integers, any time stamp into microseconds in UTC if it
loses nothing (naive is UTC, as in Feast), dictionaries and large types into plain ones, and doubles into `Float32`,
because whoever declares that wants rounded values, on both sides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from feast.types import Array, FeastType, from_feast_to_pyarrow_type
from feast.value_type import ValueType

_SCALARS = ("BYTES", "STRING", "INT32", "INT64", "DOUBLE", "FLOAT", "BOOL", "UNIX_TIMESTAMP")
PLAIN_TYPES = {ValueType[name] for name in _SCALARS} | {ValueType[f"{name}_LIST"] for name in _SCALARS}
"""The types that these stores convert and check by value; others go through Feast as they are."""

INSTANT = pa.timestamp("us", "UTC")
_WHOLE = {ValueType.INT32: pa.int32(), ValueType.INT64: pa.int64()}
_FLOATS = {ValueType.FLOAT: (pa.float32(), 1 << 24), ValueType.DOUBLE: (pa.float64(), 1 << 53)}
"""Type, and up to where every whole number is exact in it."""


class NotAsDeclared(ValueError):
    """Rows do not fit to what the view declares; the message names view, column, types, and what to do."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a column stands: what a message needs.

    Attributes
    ----------
    view, column : str
    origin : str
        The file, or what the rows are ("the rows to write").
    declared : FeastType
    """

    view: str
    column: str
    origin: str
    declared: FeastType

    def refuse(self, found: str, advice: str) -> NotAsDeclared:
        """The error that says so."""
        return NotAsDeclared(
            f"{self.view}: column {self.column!r} is declared {self.declared}, but {self.origin} {found}: {advice}"
        )


def as_declared(column: pa.Array | pa.ChunkedArray, place: Place) -> pa.Array:
    """`column` in the type that is declared.

    Parameters
    ----------
    column : pyarrow.Array or pyarrow.ChunkedArray, n
    place : Place

    Returns
    -------
    pyarrow.Array, n
        Types that Feast has no plain Arrow type for (maps, structures, sets, ...) come back as they are.

    Raises
    ------
    NotAsDeclared
        See the class.
    """
    values = plain(column)
    if pa.types.is_null(values.type):
        return pa.nulls(len(values), arrow_type(place.declared) or pa.null())
    if isinstance(place.declared, Array):
        return _list(values, place)
    convert = _CONVERSIONS.get(place.declared.to_value_type())
    return convert(values, place) if convert else values


def as_read(column: pa.Array | pa.ChunkedArray, place: Place) -> pa.Array:
    """As `as_declared`, but numbers keep the width in which a file holds them, as in Feast's stores."""
    values = as_declared(column, place)
    found = plain(column).type
    here, there = _element(values.type), _element(found)
    is_alike = any(test(here) and test(there) for test in (pa.types.is_signed_integer, pa.types.is_floating))
    return values.cast(found) if is_alike else values


def as_instants(column: pa.Array | pa.ChunkedArray, place: Place) -> pa.Array:
    """Time stamps of any unit and zone as microseconds in UTC; naive ones are UTC.

    Raises
    ------
    NotAsDeclared
        It is not of time stamps, or has finer ones than microseconds.
    """
    values = plain(column)
    if pa.types.is_null(values.type):
        return pa.nulls(len(values), INSTANT)
    if not pa.types.is_timestamp(values.type):
        raise place.refuse(f"has {values.type}", "write time stamps, in microseconds and UTC")
    if values.type.unit == "ns":
        _refuse_where(pc.not_equal(pc.nanosecond(values), 0), values, place, "round to microseconds")
    return values.cast(pa.timestamp("us", values.type.tz)).cast(INSTANT)


def without_nulls(column: pa.Array, place: Place) -> pa.Array:
    """`column`, which every row needs.

    Raises
    ------
    NotAsDeclared
        A row has none.
    """
    if column.null_count:
        row = pc.index(column.is_null(), True).as_py()
        found = f"lacks it in {column.null_count} of {len(column)} rows, the first of them row {row}"
        raise place.refuse(found, "every row needs it: fill it in, or leave the rows out")
    return column


def plain(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """One array without dictionaries, and with lists and texts of the usual width."""
    values = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(values, pa.ChunkedArray):
        values = pa.concat_arrays(values.chunks) if values.num_chunks else pa.array([], values.type)
    kind = _plain_type(values.type)
    return values if kind == values.type else values.cast(kind)


def arrow_type(declared: FeastType) -> pa.DataType | None:
    """The Arrow type of a declared one; None where Feast knows none."""
    try:
        return _plain_type(from_feast_to_pyarrow_type(declared))
    except ValueError:
        return pa.binary() if declared.to_value_type() == ValueType.BYTES else None


def _plain_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        return _plain_type(kind.value_type)
    if pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind):
        return pa.list_(_plain_type(kind.value_type))
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    return pa.binary() if pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind) else kind


def _element(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_list(kind) else kind


def _list(values: pa.Array, place: Place) -> pa.Array:
    assert isinstance(place.declared, Array)
    if arrow_type(place.declared) is None or not _is_primitive(place.declared):
        return values
    if not pa.types.is_list(values.type):
        raise place.refuse(f"has {values.type}", "write lists")
    elements = values.flatten()
    if not pa.types.is_null(elements.type) and elements.null_count:
        raise place.refuse("has a list with a null in it", "Feast can serve no such list: leave the null out")
    inner = as_declared(elements, Place(place.view, place.column, place.origin, place.declared.base_type))
    lengths = pc.fill_null(pc.list_value_length(values), 0).to_numpy()
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    return pa.ListArray.from_arrays(offsets, inner, mask=values.is_null())


def _is_primitive(declared: Array) -> bool:
    return declared.base_type.to_value_type() in _CONVERSIONS


def _whole(values: pa.Array, place: Place) -> pa.Array:
    target = _WHOLE[place.declared.to_value_type()]
    if values.type == target:
        return values
    if pa.types.is_floating(values.type):
        wide = values.cast(pa.float64())
        wide = pc.if_else(pc.is_nan(wide), pa.scalar(None, pa.float64()), wide)
        lossy = pc.or_(pc.not_equal(wide, pc.trunc(wide)), pc.greater(pc.abs(wide), float(1 << 53)))
        _refuse_where(lossy, values, place, "write whole numbers, or declare Float64")
        values = wide.cast(pa.int64())
    elif not pa.types.is_integer(values.type):
        raise place.refuse(f"has {values.type}", "write whole numbers, or change the declared type")
    try:
        return values.cast(target)
    except pa.ArrowInvalid as error:
        raise place.refuse(f"has a number beyond it ({error})", "declare a wider type") from error


def _float(values: pa.Array, place: Place) -> pa.Array:
    target, exact = _FLOATS[place.declared.to_value_type()]
    if values.type == target:
        return values
    if pa.types.is_integer(values.type):
        _refuse_where(_beyond(values, exact), values, place, "such a number is not exact in it: declare Int64")
        return values.cast(target)
    if not pa.types.is_floating(values.type):
        raise place.refuse(f"has {values.type}", "write numbers, or change the declared type")
    found = values.cast(target)
    overflown = pc.and_(pc.is_inf(found), pc.invert(pc.is_inf(values)))
    _refuse_where(overflown, values, place, "it is beyond that type: declare Float64")
    return found


def _beyond(values: pa.Array, exact: int) -> pa.Array:
    is_above = pc.greater(values, exact)
    return is_above if pa.types.is_unsigned_integer(values.type) else pc.or_(is_above, pc.less(values, -exact))


def _of(test: Callable[[pa.DataType], bool], target: pa.DataType, advice: str) -> Callable[[pa.Array, Place], pa.Array]:
    def convert(values: pa.Array, place: Place) -> pa.Array:
        if not test(values.type):
            raise place.refuse(f"has {values.type}", advice)
        return values.cast(target)

    return convert


def _refuse_where(condition: pa.Array, values: pa.Array, place: Place, advice: str) -> None:
    row: Any = pc.index(condition, True).as_py()
    if row >= 0:
        raise place.refuse(f"has {values[row]} ({values.type}) as value {row}", advice)


_CONVERSIONS: dict[ValueType, Callable[[pa.Array, Place], pa.Array]] = {
    ValueType.INT32: _whole,
    ValueType.INT64: _whole,
    ValueType.FLOAT: _float,
    ValueType.DOUBLE: _float,
    ValueType.BOOL: _of(pa.types.is_boolean, pa.bool_(), "write truth values, or change the declared type"),
    ValueType.STRING: _of(pa.types.is_string, pa.string(), "write texts, or change the declared type"),
    ValueType.BYTES: _of(pa.types.is_binary, pa.binary(), "write bytes, or change the declared type"),
    ValueType.UNIX_TIMESTAMP: as_instants,
}

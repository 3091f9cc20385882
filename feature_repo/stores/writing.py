"""Rows that somebody wants to add to a view's source, made what the view declares and the source's files hold."""

from __future__ import annotations

from collections import Counter

import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.stores.declared import NotAsDeclared, Place, as_declared, as_instants, plain, without_nulls
from feature_repo.stores.history import History

ORIGIN = "the table to write"
_INDEX = "__index_level_"
"""How pandas calls an index that became a column."""


def to_write(table: pa.Table, history: History, held: pa.Schema | None) -> pa.Table:
    """`table` with the columns and types in which the source's files hold them.

    Parameters
    ----------
    table : pyarrow.Table, n rows
        Its columns have the source's names, or the view's where the source maps them.
    history : History
    held : pyarrow.Schema, optional
        What the source's files hold; None if there is none yet, and then the declared types are.

    Returns
    -------
    pyarrow.Table, n rows

    Raises
    ------
    NotAsDeclared
        A column is missing, unknown or there twice, a key or an event time is null, or a value cannot be held without
        loss.
    """
    named = _in_the_sources_names(table, history)
    wanted = list(dict.fromkeys([*(held.names if held else []), *history.declared, *history.times]))
    _check_columns(named.column_names, wanted, history.view)
    columns = {}
    for name in wanted:
        values = _fitting(named[name], name, history)
        kind = held.field(name).type if held and name in held.names else values.type
        columns[name] = _held(values, kind, history.place(name, ORIGIN))
    return pa.table(columns)


def _in_the_sources_names(table: pa.Table, history: History) -> pa.Table:
    """Feast renames mapped columns before it hands them over, but the source's files have their own names."""
    kept = [name for name in table.column_names if not name.startswith(_INDEX)]
    names = [history.names.get(name, name) for name in kept]
    return pa.Table.from_arrays([table.column(table.column_names.index(name)) for name in kept], names=names)


def _check_columns(found: list[str], wanted: list[str], view: str) -> None:
    twice = sorted(name for name, times in Counter(found).items() if times > 1)
    missing = [name for name in wanted if name not in found]
    unknown = [name for name in found if name not in wanted]
    for what, names, advice in (
        ("has columns twice", twice, "name each once"),
        ("has no columns", missing, "add them, with nulls where nothing is known"),
        ("has columns that neither the view nor its source knows", unknown, "leave them out, or declare them"),
    ):
        if names:
            raise NotAsDeclared(f"{view}: {ORIGIN} {what}: {names}: {advice}. It needs {wanted}")


def _fitting(column: pa.ChunkedArray, name: str, history: History) -> pa.Array:
    place = history.place(name, ORIGIN)
    if name == history.event:
        return without_nulls(as_instants(column, place), place)
    if name == history.created:
        return as_instants(column, place)
    if name in history.keys:
        return without_nulls(as_declared(column, place), place)
    return as_declared(column, place) if name in history.declared else plain(column)


def _held(values: pa.Array, kind: pa.DataType, place: Place) -> pa.Array:
    """The values in the type that the source's files have, if that loses nothing."""
    if values.type == kind or pa.types.is_null(kind):
        return values
    if values.null_count == len(values):
        return pa.nulls(len(values), kind)
    try:
        held = values.cast(kind)
        is_same = _without_nan(held.cast(values.type)).equals(_without_nan(values))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise _not_held(place, values.type, kind) from error
    if not is_same:
        raise _not_held(place, values.type, kind)
    return held


def _not_held(place: Place, found: pa.DataType, kind: pa.DataType) -> NotAsDeclared:
    return NotAsDeclared(
        f"{place.view}: column {place.column!r} of {ORIGIN} is {found}, but the source's files hold {kind}, which "
        "would lose something: write the source again in the declared type first"
    )


def _without_nan(values: pa.Array) -> pa.Array:
    if not pa.types.is_floating(values.type):
        return values
    return pc.if_else(pc.is_nan(values), pa.scalar(None, values.type), values)

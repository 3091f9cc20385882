"""What a mapping's values are in SQL: a column, an expression or a constant, its type, and why it is none of them."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import duckdb

from feature_repo.ids import NoId, read_id
from feature_repo.orders.mapping_file import Mapping, MappingError, SQLValue, Version, suggest
from feature_repo.orders.schema import ID_COLUMNS
from feature_repo.orders.source import ROW, quoted, source_columns

NULL_KINDS = ("NULL", '"NULL"')
_NUMBER_KINDS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "DOUBLE", "FLOAT")
_NO_ID_KINDS = ("DATE", "TIME", "INTERVAL", "BLOB", "BIT", "STRUCT", "MAP")
_YAML_1_1_WORDS = frozenset(["y", "n", "yes", "no", "on", "off"])


@dataclass(frozen=True, slots=True)
class Source:
    """One canonical column of one version: its SQL over the source, and the type that this has."""

    sql: str
    kind: str
    can_fail: bool
    text: str
    view: str = "source"
    """Of the part of the source that it is a column of."""

    @property
    def is_null(self) -> bool:
        """Whether it is null in all rows."""
        return self.kind in NULL_KINDS

    @property
    def is_text_of_file(self) -> bool:
        """Whether it is text as the file has it: what an expression makes has SQL's own decimal point."""
        return self.kind == "VARCHAR" and not self.can_fail


def sources_of(
    connection: duckdb.DuckDBPyConnection, mapping: Mapping, version: Version, view: str = "source"
) -> dict[str, Source]:
    """The mapped columns of one version of the part that `source` shows, by canonical name.

    Raises
    ------
    MappingError
        One of them is no column and no expression, or a constant that cannot be what is meant.
    """
    chosen: dict[str, SQLValue] = {**mapping.columns, **dict.fromkeys(version.unknown), **version.columns}
    place = f"versions.{version.name}.columns" if version.name else "columns"
    return {
        name: replace(
            _resolve(connection, name, value, f"{place if name in version.columns else 'columns'}.{name}"), view=view
        )
        for name, value in chosen.items()
    }


def constant_ids(connection: duckdb.DuckDBPyConnection, columns: dict[str, Source]) -> dict[str, str]:
    """The id columns that are the same constant in every row, and this constant."""
    found = {name: _constant(connection, columns[name]) for name in ID_COLUMNS if name in columns}
    return {name: value for name, value in found.items() if value is not None}


def condition(connection: duckdb.DuckDBPyConnection, text: str, place: str) -> str:
    """A filter as SQL. A row on which it fails is kept: it must not vanish without a word."""
    sql = f"({text}\n)"
    if _type_of(connection, f"TRY{sql}", place, text) not in ("BOOLEAN", *NULL_KINDS):
        raise MappingError(f"{place}: {text!r} is no condition: it must be true or false for a row")
    return f"(coalesce(TRY{sql}, false) OR TRY(({text}\n) IS NULL) IS NULL)"


def _resolve(connection: duckdb.DuckDBPyConnection, name: str, value: SQLValue, place: str) -> Source:
    if value is None or isinstance(value, bool | int | float):
        sql = "NULL" if value is None else str(value).lower()
        source = Source(sql, "NULL" if value is None else _type_of(connection, sql, place), False, sql)
    else:
        source = _resolve_text(connection, value, place)
    if name in ID_COLUMNS and not source.is_null:
        _require_id(connection, name, source, place)
    if source.kind.endswith("]") or source.kind.startswith(("STRUCT(", "MAP(", "UNION(")):
        raise MappingError(
            f"{place}: {source.text!r} has type {source.kind}, which is more than one value: write an expression that "
            "takes one of them, such as column.field or column[1]"
        )
    return source


def _resolve_text(connection: duckdb.DuckDBPyConnection, value: str, place: str) -> Source:
    folded = {name.casefold(): name for name in source_columns(connection)}
    name = folded.get(value.strip().casefold())
    sql = quoted(name) if name is not None else f"({value}\n)"
    kind = _type_of(connection, sql if name is not None else f"TRY{sql}", place, value)
    return Source(sql, kind, name is None, value.strip())


def _require_id(connection: duckdb.DuckDBPyConnection, name: str, source: Source, place: str) -> None:
    """Refuse what is no id in any row."""
    if source.kind == "BOOLEAN":
        raise MappingError(f"{place}: {source.text!r} is true or false, which is no id")
    if source.kind.startswith(_NO_ID_KINDS) or source.kind.endswith("]"):
        raise MappingError(f"{place}: {source.text!r} has type {source.kind}, which is no id: make it text")
    try:
        constant = _constant(connection, source)
    except NoId as error:
        raise MappingError(f"{place}: the constant {source.text!r} {error}") from error
    if constant is None:
        return
    if name == "order_id":
        raise MappingError(f"{place}: {source.text!r} is the same in every row, and an order_id is of one order only")
    if source.kind.startswith(_NUMBER_KINDS) and source.text not in (constant, f"{constant}.0"):
        quotes = f"\"'{source.text}'\""
        raise MappingError(f"{place}: {source.text!r} as a number is {constant}: write {quotes} if it is meant as text")


def _constant(connection: duckdb.DuckDBPyConnection, source: Source) -> str | None:
    """The id that an expression gives without any row; None if it needs one. Raises `NoId`."""
    if not source.is_null and source.sql.startswith('"'):
        return None
    try:
        value = connection.execute(f"SELECT {source.sql}").fetchall()[0][0]
    except duckdb.Error:
        return None
    return None if value is None else read_id(value)


def _type_of(connection: duckdb.DuckDBPyConnection, sql: str, place: str, value: str | None = None) -> str:
    query = f"SELECT {sql} AS __value, {ROW} FROM source"
    try:
        if len(connection.extract_statements(query)) != 1:
            raise MappingError(f"{place}: {value!r} is more than one expression")
        return str(connection.execute(f"DESCRIBE {query}").fetchall()[0][1])
    except duckdb.Error as error:
        raise MappingError(f"{place}: {_explain(connection, str(error), value or sql)}") from error


def _explain(connection: duckdb.DuckDBPyConnection, error: str, value: str) -> str:
    columns = source_columns(connection)
    unknown = re.search(r'Referenced (?:column|table) "(.+?)" not found', error)
    if unknown:
        return _no_column(unknown.group(1), columns)
    if re.fullmatch(r"[\w .-]+", value) and "Parser Error" in error:
        hint = suggest(value, columns)
        return f"the source has no column {value!r}, and it is no SQL expression.{hint} It has {columns}"
    if any(sign in error for sign in ("window functions", "volatile", "GROUP BY", "aggregates are not allowed")):
        return f"{value!r} must give one value from one row: no aggregates, window functions or random values"
    said = " ".join(re.split(r"\s*\bLINE \d+:", error, maxsplit=1)[0].split())
    hint = (
        "; columns of a CSV file are text: write TRY_CAST(column AS DOUBLE)" if "No function matches" in error else ""
    )
    return f"{value!r} is no valid SQL expression: {said}{hint}"


def _no_column(name: str, columns: list[str]) -> str:
    truth = " (a truth value is written true or false)" if name.casefold() in _YAML_1_1_WORDS else ""
    hint = suggest(name, columns)
    return f"the source has no column {name!r}.{hint} It has {columns}. A constant is written \"'{name}'\"{truth}"

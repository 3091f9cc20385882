"""How an export of which nobody said anything has to be read."""

from __future__ import annotations

import glob
from pathlib import Path

import duckdb

from feature_repo.orders.mapping_file import MappingError, Read
from feature_repo.orders.source import hide_password, load_source, quoted, source_columns

_ENCODINGS = ("utf-8", "cp1252")
_NULL_WORDS = ("", "NULL", "null", "NA", "N/A", "None", "nan", "NaN", "-")


def load(connection: duckdb.DuckDBPyConnection, orders: str, table: str | None = None) -> Read:
    """Fill the scratch database with an export, and say how it was read.

    Raises
    ------
    MappingError
        There is no such export, or it is none that can be read; the message says what to do.
    """
    if table is not None or _is_database(orders):
        return _load_as(connection, orders, [Read(format="sql", table=table or _only_table(orders))])
    first = next(iter(sorted(glob.glob(orders))), orders)  # noqa: PTH207  as load_source finds them
    if first.endswith(".parquet") or _begins_with(first, b"PAR1"):
        return _load_as(connection, orders, [Read(format="parquet")])
    return _load_as(connection, orders, [Read(format="csv", encoding=name) for name in _ENCODINGS])


def null_words(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """Texts of the source that mean that nothing is known, the empty one first."""
    found = {""}
    for name in source_columns(connection):
        text = f"trim(CAST({quoted(name)} AS VARCHAR))"
        query = f"SELECT DISTINCT {text} FROM source WHERE {text} IN {_NULL_WORDS[1:]}"
        found |= {str(row[0]) for row in connection.execute(query).fetchall()}
    return [word for word in _NULL_WORDS if word in found]


def count_parts(connection: duckdb.DuckDBPyConnection) -> int:
    """How many kinds of rows the source has: files whose columns or types differ."""
    return int(connection.execute("SELECT count(DISTINCT part) FROM source_files").fetchall()[0][0])


def _load_as(connection: duckdb.DuckDBPyConnection, orders: str, ways: list[Read]) -> Read:
    """The first way in which all lines are text, else the last one."""
    for read in ways[:-1]:
        load_source(connection, orders, read)
        no_text = "SELECT count(*) FROM broken_lines WHERE contains(fault, 'encoding')"
        if not connection.execute(no_text).fetchall()[0][0]:
            return read
        _forget(connection)
    load_source(connection, orders, ways[-1])
    return ways[-1]


def _forget(connection: duckdb.DuckDBPyConnection) -> None:
    names = "SELECT table_name, table_type FROM information_schema.tables WHERE table_schema = 'main'"
    for name, kind in connection.execute(names).fetchall():
        connection.execute(f'DROP {"VIEW" if kind == "VIEW" else "TABLE"} IF EXISTS "{name}" CASCADE')


def _is_database(orders: str) -> bool:
    return "://" in orders or orders.endswith(".duckdb")


def _only_table(orders: str) -> str:
    tables = _tables(orders)
    if len(tables) == 1:
        return tables[0]
    raise MappingError(f"{hide_password(orders)} has the tables {tables}: say which one has the orders with TABLE=")


def _tables(orders: str) -> list[str]:
    path = orders.removeprefix("duckdb:///")
    if path.endswith(".duckdb"):
        if not Path(path).is_file():
            raise MappingError(f"ORDERS={path}: there is no such DuckDB file")
        with duckdb.connect(path, read_only=True) as connection:
            return sorted(str(row[0]) for row in connection.execute("SHOW TABLES").fetchall())
    from sqlalchemy import create_engine, inspect
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

    try:
        return sorted(inspect(create_engine(orders)).get_table_names())
    except (ArgumentError, NoSuchModuleError, ImportError, SQLAlchemyError) as error:
        raise MappingError(f"{hide_password(orders)} cannot be opened: {str(error).splitlines()[0]}") from error


def _begins_with(path: str, sign: bytes) -> bool:
    if not Path(path).is_file():
        return False
    with Path(path).open("rb") as file:
        return file.read(len(sign)) == sign

"""Database tables into the scratch database."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa

from feature_repo.orders.mapping_file import MappingError, Read
from feature_repo.orders.reading.parts import Parts
from feature_repo.orders.reading.sql import literal, quoted

if TYPE_CHECKING:
    from sqlalchemy import Engine

_FETCH_ROWS = 50_000
_EXACT = 2**53
"""Above it a float is not one whole number, so that it keeps its own form."""


def hide_password(orders: str) -> str:
    """`orders` for messages: a URL without its password."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(orders).render_as_string(hide_password=True)
    except ArgumentError:
        return orders


def load_database(connection: duckdb.DuckDBPyConnection, parts: Parts, orders: str, read: Read) -> None:
    """Add a table's or a query's rows to the source.

    Raises
    ------
    MappingError
        The database cannot be opened or read.
    """
    if orders.startswith("duckdb:///") or orders.endswith(".duckdb"):
        _load_duckdb(connection, parts, orders.removeprefix("duckdb:///"), read)
    else:
        _load_sqlalchemy(parts, orders, read)


def _load_duckdb(connection: duckdb.DuckDBPyConnection, parts: Parts, path: str, read: Read) -> None:
    if not Path(path).is_file():
        raise MappingError(f"ORDERS={path}: there is no such DuckDB file")
    try:
        connection.execute(f"ATTACH {literal(path)} AS origin (READ_ONLY)")
        connection.execute("USE origin")
        query = read.query or f"SELECT * FROM {_table_name(read.table or '')}"
        parts.add(query, path)
        connection.execute("USE scratch")
        connection.execute("DETACH origin")
    except duckdb.Error as error:
        raise MappingError(f"{path} cannot be read: {_told(error)}") from error


def _table_name(table: str) -> str:
    return ".".join(quoted(part) for part in table.split("."))


def _load_sqlalchemy(parts: Parts, orders: str, read: Read) -> None:
    from sqlalchemy import create_engine
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

    shown = hide_password(orders)
    try:
        engine = create_engine(orders)
        _require_sqlite_file(engine)
    except (ArgumentError, NoSuchModuleError, ImportError) as error:
        raise MappingError(
            f"ORDERS={shown} is no database that can be opened ({_told(error)}): write a SQLAlchemy URL such as "
            "postgresql+psycopg2://user@host/name, and install its driver"
        ) from error
    try:
        for chunk in _text_chunks(engine, read):
            parts.add_table(chunk, shown)
    except SQLAlchemyError as error:
        raise MappingError(f"{shown} cannot be read: {_told(error)}") from error
    finally:
        engine.dispose()


def _require_sqlite_file(engine: Engine) -> None:
    """SQLite would make an absent file, and then miss the table in it."""
    path = engine.url.database
    if engine.dialect.name == "sqlite" and path not in (None, "", ":memory:") and not Path(str(path)).is_file():
        raise MappingError(f"ORDERS={engine.url}: there is no such SQLite file")


def _text_chunks(engine: Engine, read: Read) -> Iterator[pa.Table]:
    from sqlalchemy import literal_column, select, table, text

    schema, _, name = (read.table or "").rpartition(".")
    statement: Any = (
        text(read.query) if read.query else select(literal_column("*")).select_from(table(name, schema=schema or None))
    )
    with engine.connect().execution_options(stream_results=True) as database:
        result = database.execute(statement)
        names = list(result.keys())
        yield _text_table(names, [])
        for chunk in result.partitions(_FETCH_ROWS):
            yield _text_table(names, chunk)


def _text_table(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> pa.Table:
    columns = [[_as_text(row[position]) for row in rows] for position in range(len(names))]
    return pa.table(columns, schema=pa.schema([(name, pa.string()) for name in names]))


def _as_text(value: Any) -> str | None:
    """A value's text, the same in whatever type a driver gives it: 1, 1.0 and Decimal("1.00") are one number."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Decimal) and not value.is_finite():
        return str(value)
    if isinstance(value, float | Decimal) and -_EXACT <= value <= _EXACT and value == int(value):
        return str(int(value))
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    return json.dumps(value, default=str) if isinstance(value, dict | list) else str(value)


def _told(error: BaseException) -> str:
    """A message of a driver or of the reader, whole: what to do often stands behind its first line."""
    return str(error).strip()

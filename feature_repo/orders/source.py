"""Anybody's orders, copied row by row into the table `source` of a scratch DuckDB database.

CSV files and SQLAlchemy databases arrive as text, so that no value is lost to a guessed type and the raw value can be
shown when it does not convert; Parquet and DuckDB tables keep their types.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa

from feature_repo.orders.mapping_file import MappingError, Read

if TYPE_CHECKING:
    from sqlalchemy import Engine

ROW = "__row"
"""Position of a row in its source, from 1. Also visible to expressions as `row_number`, unless the source has that."""

_FETCH_ROWS = 50_000


def load_source(connection: duckdb.DuckDBPyConnection, orders: str, read: Read) -> None:
    """Fill the table `source`.

    Parameters
    ----------
    connection : duckdb.DuckDBPyConnection
        The scratch database, whose name is `scratch`.
    orders : str
        A path, a glob, a SQLAlchemy URL, or a DuckDB file (`*.duckdb` or `duckdb:///path`).
    read : Read

    Raises
    ------
    MappingError
        The source is absent, empty or unreadable.
    """
    if read.format == "sql":
        _load_database(connection, orders, read)
    else:
        _load_files(connection, orders, read)
    if connection.execute("SELECT 1 FROM source LIMIT 1").fetchone() is None:
        raise MappingError(f"{hide_password(orders)} has no rows: nothing to bring in")


def source_columns(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """Names of the source's own columns, in order."""
    names = [str(row[0]) for row in connection.execute("DESCRIBE source").fetchall()]
    return [name for name in names if name != ROW]


def broken_lines(connection: duckdb.DuckDBPyConnection) -> list[tuple[str, int, str, str]]:
    """Lines that are no row of their CSV file: the file, the line's number, its text, what is wrong with it."""
    if not _has_table(connection, "reject_errors"):
        return []
    query = """
        SELECT file_path, line, any_value(csv_line), min(error_message)
        FROM reject_errors JOIN reject_scans USING (scan_id, file_id) GROUP BY scan_id, file_id, file_path, line
        ORDER BY scan_id, line"""
    rows = connection.execute(query).fetchall()
    return [(Path(path).name, int(line), str(text), str(message)) for path, line, text, message in rows]


def hide_password(orders: str) -> str:
    """`orders` for messages: a URL without its password."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(orders).render_as_string(hide_password=True)
    except ArgumentError:
        return orders


def quoted(name: str) -> str:
    """A name as a SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(value: str) -> str:
    """Text as a SQL string."""
    return "'" + value.replace("'", "''") + "'"


def _load_files(connection: duckdb.DuckDBPyConnection, orders: str, read: Read) -> None:
    for path in _existing_files(orders):
        reader = _csv_reader(path, read) if read.format == "csv" else f"read_parquet({literal(path)})"
        try:
            _append(connection, f"SELECT * FROM {reader}")
        except duckdb.Error as error:
            raise MappingError(f"{path} cannot be read as {read.format}: {_first_line(error)}") from error


def _existing_files(orders: str) -> list[str]:
    found = glob.glob(orders, recursive=True)  # noqa: PTH207  Path.glob takes no absolute pattern.
    files = sorted(name for name in found if Path(name).is_file())
    if not files:
        raise MappingError(f"ORDERS={orders}: no such file, and no file matches it as a pattern")
    empty = [name for name in files if Path(name).stat().st_size == 0]
    if empty:
        raise MappingError(f"{empty[0]} is an empty file: take it out, or write it again")
    return files


def _csv_reader(path: str, read: Read) -> str:
    options = {
        "header": "true",
        "all_varchar": "true",
        "store_rejects": "true",
        "rejects_limit": "0",
        "encoding": literal(read.encoding),
        "nullstr": "[" + ", ".join(literal(value) for value in read.null_values) + "]",
    }
    if read.delimiter is not None:
        options["delim"] = literal(read.delimiter)
    if read.quote is not None:
        options["quote"] = literal(read.quote)
    return f"read_csv({literal(path)}, {', '.join(f'{name} = {value}' for name, value in options.items())})"


def _append(connection: duckdb.DuckDBPyConnection, query: str) -> None:
    """Add a query's rows to `source` by column name, numbered on; a column that a file lacks is null in its rows."""
    described = connection.execute(f"DESCRIBE {query}").fetchall()
    names = {str(row[0]): str(row[1]) for row in described}
    exists = _has_table(connection, "source")
    before = _count_source(connection) if exists else 0
    number = f"row_number() OVER () + {before}"
    virtual = "" if "row_number" in map(str.casefold, names) else f", {number} AS row_number"
    rows = f"SELECT {number} AS {ROW}{virtual}, * FROM ({query})"
    if not exists:
        connection.execute(f"CREATE TABLE scratch.main.source AS {rows}")
        return
    for name, kind in names.items():
        connection.execute(f"ALTER TABLE source ADD COLUMN IF NOT EXISTS {quoted(name)} {kind}")
    connection.execute(f"INSERT INTO source BY NAME {rows}")


def _has_table(connection: duckdb.DuckDBPyConnection, name: str) -> bool:
    query = "SELECT 1 FROM duckdb_tables() WHERE table_name = ? AND (temporary OR database_name = 'scratch')"
    return connection.execute(query, [name]).fetchone() is not None


def _count_source(connection: duckdb.DuckDBPyConnection) -> int:
    return int(connection.execute("SELECT count(*) FROM source").fetchall()[0][0])


def _load_database(connection: duckdb.DuckDBPyConnection, orders: str, read: Read) -> None:
    if orders.startswith("duckdb:///") or orders.endswith(".duckdb"):
        _load_duckdb(connection, orders.removeprefix("duckdb:///"), read)
    else:
        _load_sqlalchemy(connection, orders, read)


def _load_duckdb(connection: duckdb.DuckDBPyConnection, path: str, read: Read) -> None:
    if not Path(path).is_file():
        raise MappingError(f"ORDERS={path}: there is no such DuckDB file")
    try:
        connection.execute(f"ATTACH {literal(path)} AS origin (READ_ONLY)")
        connection.execute("USE origin")
        query = read.query or f"SELECT * FROM {_table_name(read.table or '')}"
        _append(connection, query)
        connection.execute("USE scratch")
        connection.execute("DETACH origin")
    except duckdb.Error as error:
        raise MappingError(f"{path} cannot be read: {_first_line(error)}") from error


def _table_name(table: str) -> str:
    return ".".join(quoted(part) for part in table.split("."))


def _load_sqlalchemy(connection: duckdb.DuckDBPyConnection, orders: str, read: Read) -> None:
    from sqlalchemy import create_engine
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

    shown = hide_password(orders)
    try:
        engine = create_engine(orders)
        _require_sqlite_file(engine)
    except (ArgumentError, NoSuchModuleError, ImportError) as error:
        raise MappingError(
            f"ORDERS={shown} is no database that can be opened ({_first_line(error)}): write a SQLAlchemy URL such as "
            "postgresql+psycopg2://user@host/name, and install its driver"
        ) from error
    try:
        _copy_chunks(connection, _text_chunks(engine, read))
    except SQLAlchemyError as error:
        raise MappingError(f"{shown} cannot be read: {_first_line(error)}") from error
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
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime | date):
        return value.isoformat()
    return value.hex() if isinstance(value, bytes) else str(value)


def _copy_chunks(connection: duckdb.DuckDBPyConnection, chunks: Iterator[pa.Table]) -> None:
    for chunk in chunks:
        connection.register("chunk", chunk)
        _append(connection, "SELECT * FROM chunk")
        connection.unregister("chunk")


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0]

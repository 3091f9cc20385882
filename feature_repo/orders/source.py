"""Anybody's orders, copied row by row into a scratch DuckDB database, where `source` shows them.

CSV files and SQLAlchemy databases arrive as text, so that no value is lost to a guessed type and the raw value can be
shown when it does not convert; Parquet and DuckDB tables keep their types. Rows of different types are different parts
(`reading.parts`), and `source` shows one of them at a time.
"""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote

import duckdb

from feature_repo.orders.mapping_file import MappingError, Read
from feature_repo.orders.reading.csv_files import load_csv
from feature_repo.orders.reading.databases import hide_password, load_database
from feature_repo.orders.reading.parquet_files import load_parquet
from feature_repo.orders.reading.parts import ROW, Parts
from feature_repo.orders.reading.sql import literal, quoted

__all__ = [
    "ROW",
    "count_rows",
    "for_each_part",
    "hide_password",
    "literal",
    "load_source",
    "quoted",
    "reading_notes",
    "source_columns",
    "written_at",
]

_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"


def load_source(connection: duckdb.DuckDBPyConnection, orders: str, read: Read, int96: str | None = None) -> None:
    """Fill the scratch database with what `orders` has.

    Parameters
    ----------
    connection : duckdb.DuckDBPyConnection
        The scratch database, whose name is `scratch`.
    orders : str
        A path, a glob, a SQLAlchemy URL, or a DuckDB file (`*.duckdb` or `duckdb:///path`).
    read : Read
    int96 : str, optional
        What Parquet's old times are: `utc`, or of the `zone` of the session.

    Raises
    ------
    MappingError
        The source is absent, empty or unreadable.
    """
    parts = Parts(connection)
    if read.format == "sql":
        load_database(connection, parts, orders, read)
    else:
        headers: dict[Path, Sequence[str]] = {}
        for path in _existing_files(orders):
            extra = _path_columns(path)
            if read.format == "csv":
                headers[path] = load_csv(parts, path, read, extra)
            else:
                load_parquet(connection, parts, path, int96, extra)
        _require_common_columns(headers)
    parts.finish()
    if count_rows(connection) == 0 and not connection.execute("SELECT 1 FROM broken_lines LIMIT 1").fetchone():
        raise MappingError(f"{hide_password(orders)} has no rows: {_what_it_has(connection, read)}")


def source_columns(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """Names of the source's own columns, in order."""
    names = [str(row[0]) for row in connection.execute("DESCRIBE source").fetchall()]
    return [name for name in names if name != ROW]


def for_each_part(connection: duckdb.DuckDBPyConnection, action: Callable[[str], None]) -> None:
    """Do something with each part in turn, while `source` shows it; afterwards it shows the first again.

    Parameters
    ----------
    action : callable
        Gets the name of the part's own view.

    Raises
    ------
    MappingError
        The action raised one; where there are several parts, the message says of which files this is one.
    """
    numbers = [
        int(row[0]) for row in connection.execute("SELECT DISTINCT part FROM source_files ORDER BY 1").fetchall()
    ]
    for number in numbers:
        connection.execute(f"CREATE OR REPLACE VIEW scratch.main.source AS FROM scratch.main.source_{number}")
        try:
            action(f"source_{number}")
        except MappingError as error:
            others = "" if len(numbers) == 1 else f"\n{_whose_part(connection, number)}"
            raise MappingError(f"{error}{others}") from error
    connection.execute("CREATE OR REPLACE VIEW scratch.main.source AS FROM scratch.main.source_1")


def count_rows(connection: duckdb.DuckDBPyConnection) -> int:
    """Rows of all parts."""
    return int(connection.execute("SELECT coalesce(sum(rows), 0) FROM source_files").fetchall()[0][0])


def written_at(orders: str, read: Read) -> datetime | None:
    """When the newest of the orders' files was written; None of a database, which is read as it is now."""
    if read.format == "sql":
        return None
    return datetime.fromtimestamp(max(path.stat().st_mtime for path in _existing_files(orders)), UTC)


def reading_notes(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """What a person should know of how the files were read."""
    return [str(row[0]) for row in connection.execute("FROM notes").fetchall()]


def _whose_part(connection: duckdb.DuckDBPyConnection, number: int) -> str:
    """Which files have the types of a part, and which have others."""
    query = "SELECT min(file), count(DISTINCT file) FROM source_files WHERE (part = ?) = ?"
    (own, count), (other, others) = (connection.execute(query, [number, of]).fetchall()[0] for of in (True, False))
    return (
        f"This is so in {own}{f' and {count - 1} more files' if count > 1 else ''}, whose columns have other types "
        f"than those of {other}{f' and {others - 1} more' if others > 1 else ''}"
    )


def _what_it_has(connection: duckdb.DuckDBPyConnection, read: Read) -> str:
    if read.format != "csv":
        return "nothing to bring in"
    header = ", ".join(name for name in source_columns(connection) if name != "row_number")
    told = "".join(f". {note}" for note in reading_notes(connection))
    return f"nothing is below the header ({header}); if that is a row, write a header above it{told}"


def _existing_files(orders: str) -> list[Path]:
    found = [orders] if Path(orders).is_file() else glob.glob(orders, recursive=True)  # noqa: PTH207  Path.glob takes no absolute pattern.
    files = sorted(Path(name) for name in found if Path(name).is_file())
    if not files and Path(orders).is_dir():
        raise MappingError(f'ORDERS={orders} is a folder: write a pattern for the files in it, such as "{orders}/*"')
    if not files:
        raise MappingError(f"ORDERS={orders}: no such file, and no file matches it as a pattern")
    empty = [path for path in files if path.stat().st_size == 0]
    if empty:
        raise MappingError(f"{empty[0]} is an empty file: take it out, or write it again")
    return files


def _require_common_columns(headers: Mapping[Path, Sequence[str]]) -> None:
    """A file without a header loses its first row to it, and its columns are those of no other file."""
    counts = Counter(name.casefold() for names in headers.values() for name in names)
    alien = [path for path, names in headers.items() if all(counts[name.casefold()] == 1 for name in names)]
    if len(headers) > 1 and alien:
        other = next(path for path in headers if path != alien[-1])
        raise MappingError(
            f"{alien[-1]}: none of its columns {list(headers[alien[-1]])} is in another file ({other} has "
            f"{list(headers[other])}): if its first line is a row, write the header above it; if it is another kind of "
            "file, leave it out"
        )


def _path_columns(path: Path) -> dict[str, str | None]:
    """The columns that folders such as `zone=01` say. They are text: the names of all of them are not known here."""
    pairs = [folder.split("=", 1) for folder in path.parent.parts if "=" in folder.strip("=")]
    return {name: None if value == _NO_VALUE else unquote(value) for name, value in pairs}

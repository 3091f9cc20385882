"""Parquet files into the scratch database, each with the types that it has."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import duckdb

from feature_repo.orders.mapping_file import MappingError, Read
from feature_repo.orders.reading.kinds import HEAD_BYTES, recognise
from feature_repo.orders.reading.parts import Parts
from feature_repo.orders.reading.plain import packing
from feature_repo.orders.reading.sql import file_name, quoted

_MARK = b"PAR1"


def load_parquet(
    connection: duckdb.DuckDBPyConnection, parts: Parts, path: Path, read: Read, extra: Mapping[str, str | None]
) -> None:
    """Add a Parquet file's rows to the source.

    Raises
    ------
    MappingError
        The file is no Parquet file, is damaged, or has times of type INT96 whose zone nobody says.
    """
    _require_parquet(path)
    try:
        query = _query(connection, path, read)
        parts.add(query, str(path), extra=extra)
    except duckdb.Error as error:
        raise MappingError(f"{path} cannot be read as parquet: {str(error).strip()}") from error


def _require_parquet(path: Path) -> None:
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
        file.seek(-min(4, path.stat().st_size), 2)
        tail = file.read()
    if head.startswith(_MARK) and tail == _MARK:
        return
    packed = packing(head)
    kind = "is cut off" if head.startswith(_MARK) else recognise(path, head)
    kind = f"is packed by {packed}: unpack it first" if packed else kind
    raise MappingError(
        f"{path} cannot be read as parquet: it {kind or 'is text: if it is CSV, say `format: csv`'}"
        + (": write it again" if kind == "is cut off" else "")
    )


def _query(connection: duckdb.DuckDBPyConnection, path: Path, read: Read) -> str:
    reader = f"read_parquet({file_name(str(path))}, hive_partitioning = false)"
    old = [name for name, in connection.execute(
        f"SELECT name FROM parquet_schema({file_name(str(path))}) WHERE type = 'INT96'"
    ).fetchall()]  # fmt: skip
    zone = str(connection.execute("SELECT current_setting('TimeZone')").fetchall()[0][0])
    if not old or zone == "UTC" or read.int96 == "local":
        return f"SELECT * FROM {reader}"
    if read.int96 is None:
        raise MappingError(
            f"{path}: the times {old} have the type INT96, which does not say whether they are UTC, as Spark writes "
            f"them, or local times of {zone}: say `int96: utc` or `int96: local` under `read`"
        )
    replaced = ", ".join(f"timezone('UTC', {quoted(name)}) AS {quoted(name)}" for name in old)
    return f"SELECT * REPLACE ({replaced}) FROM {reader}"

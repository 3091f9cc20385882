"""Parquet files into the scratch database, each with the types that it has."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import duckdb

from feature_repo.orders.mapping_file import MappingError
from feature_repo.orders.reading.kinds import HEAD_BYTES, recognise
from feature_repo.orders.reading.parts import Parts
from feature_repo.orders.reading.plain import packing
from feature_repo.orders.reading.sql import file_name, quoted

_MARK = b"PAR1"


def load_parquet(
    connection: duckdb.DuckDBPyConnection, parts: Parts, path: Path, int96: str | None, extra: Mapping[str, str | None]
) -> None:
    """Add a Parquet file's rows to the source.

    Parameters
    ----------
    connection : duckdb.DuckDBPyConnection
        Its session time zone must be the mapping's.
    parts : Parts
    path : Path
    int96 : str, optional
        What times of this old type are: `utc`, or local times of the `zone`.
    extra : mapping of str to str or None
        Values of columns that the file's path says.

    Raises
    ------
    MappingError
        The file is no Parquet file, is damaged, or has INT96 times and nobody says what they are.
    """
    _require_parquet(path)
    try:
        parts.add(_query(connection, parts, path, int96), str(path), extra=extra)
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


def _query(connection: duckdb.DuckDBPyConnection, parts: Parts, path: Path, int96: str | None) -> str:
    reader = f"read_parquet({file_name(str(path))}, hive_partitioning = false)"
    schema = f"SELECT name FROM parquet_schema({file_name(str(path))}) WHERE type = 'INT96' ORDER BY name"
    old = [str(row[0]) for row in connection.execute(schema).fetchall()]
    if not old:
        return f"SELECT * FROM {reader}"
    zone = str(connection.execute("SELECT current_setting('TimeZone')").fetchall()[0][0])
    if int96 is None and zone != "UTC":
        raise MappingError(
            f"{path}: the columns {old} are INT96 times, which name no zone: Spark writes UTC, Hive and Impala local "
            f"time. Say which: `time: {{zone: {zone}, int96: utc}}`, or `int96: zone` if they are of {zone}"
        )
    parts.note(f"{path.name}: the INT96 times of {old} are taken to be of {'UTC' if int96 == 'utc' else zone}")
    replaced = ", ".join(f"timezone('UTC', {quoted(name)}) AS {quoted(name)}" for name in old)
    return f"SELECT *{f' REPLACE ({replaced})' if int96 == 'utc' else ''} FROM {reader}"

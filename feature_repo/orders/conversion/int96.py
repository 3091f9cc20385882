"""Parquet's old INT96 times, which name no zone: Spark writes UTC, Hive and Impala the local time of who wrote."""

from __future__ import annotations

import duckdb

from feature_repo.orders.mapping_file import Mapping, MappingError
from feature_repo.orders.source import literal, quoted, source_columns

_NAIVE_KINDS = ("TIMESTAMP", "TIMESTAMP_NS")


def settle_int96(connection: duckdb.DuckDBPyConnection, orders: str, mapping: Mapping) -> list[str]:
    """Make the INT96 columns of `source` what the mapping says that they are.

    Returns
    -------
    list of str
        What was decided, for a person; nothing if there are none.

    Raises
    ------
    MappingError
        There are some, the mapping has a zone other than UTC, and does not say whether they are of that zone.
    """
    columns = _int96_columns(connection, orders) if mapping.read.format == "parquet" else []
    if not columns:
        return []
    meant, zone = mapping.time.int96, mapping.time.zone
    if meant is None and zone != "UTC":
        raise MappingError(
            f"the columns {columns} are INT96 times, which name no zone: Spark writes UTC, Hive and Impala local time. "
            f"Say which: `time: {{zone: {zone}, int96: utc}}`, or `int96: zone` if they are of {zone}"
        )
    if meant == "utc":
        _make_utc(connection, columns)
    return [f"the INT96 times of {columns} are taken to be of {'UTC' if meant == 'utc' else zone}"]


def _make_utc(connection: duckdb.DuckDBPyConnection, columns: list[str]) -> None:
    """Give the columns the zone UTC in every part of the source that has them without one."""
    views = "SELECT view_name, sql FROM duckdb_views() WHERE view_name LIKE 'source_%'"
    for view, definition in connection.execute(views).fetchall():
        kinds = {str(row[0]): str(row[1]) for row in connection.execute(f"DESCRIBE {view}").fetchall()}
        naive = [
            quoted(name)
            for name in columns
            if kinds.get(name, "").startswith("TIMESTAMP") and "ZONE" not in kinds[name]
        ]
        if naive:
            query = definition.rstrip().rstrip(";").split(" AS ", 1)[1]
            made = ", ".join(f"timezone('UTC', {name}) AS {name}" for name in naive)
            connection.execute(
                f"CREATE OR REPLACE VIEW scratch.main.{view} AS SELECT * REPLACE ({made}) FROM ({query})"
            )
    connection.execute("CREATE OR REPLACE VIEW scratch.main.source AS FROM scratch.main.source_1")


def _int96_columns(connection: duckdb.DuckDBPyConnection, orders: str) -> list[str]:
    query = f"SELECT DISTINCT name FROM parquet_schema({literal(orders)}) WHERE type = 'INT96' ORDER BY name"
    known = set(source_columns(connection))
    return [name for (name,) in connection.execute(query).fetchall() if name in known]

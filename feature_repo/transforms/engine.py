"""The engine on which the Ibis expressions of this folder run: DuckDB in this process.

Everything that is particular to it is here, so that another Ibis backend needs another version of this file only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import polars as pl

from config import Settings
from feature_repo.lake import PartitionedTable
from feature_repo.window import Window

if TYPE_CHECKING:
    import ibis.expr.types as ir
    from ibis.backends.duckdb import Backend


@contextmanager
def engine(settings: Settings) -> Iterator[Backend]:
    """A connection of its own, in UTC as Ibis sets it, that spills into the staging directory."""
    import ibis

    spill = settings.staging / "_spill"
    spill.mkdir(parents=True, exist_ok=True)
    connection = ibis.duckdb.connect(temp_directory=str(spill))
    connection.raw_sql("CREATE MACRO unix_micros(instant) AS epoch_us(instant)")  # Spark's name for it
    connection.raw_sql("CREATE MACRO as_bigint(whole) AS CAST(whole AS BIGINT)")
    try:
        yield connection
    finally:
        connection.disconnect()


def scan(connection: Backend, table: PartitionedTable, window: Window | None) -> ir.Table:
    """The rows of a table in a window (all rows without one); only the files of its days are opened.

    Raises
    ------
    CorruptPartition
        A file is damaged or has another schema.
    """
    import ibis

    table.scan(window)  # checks every file and names the bad one
    files = table.files(window)
    if not files:
        return ibis.memtable(pl.DataFrame(schema=table.schema))
    rows = connection.read_parquet([str(path) for path in files], hive_partitioning=False)
    if window is None:
        return rows
    time = rows[table.time_column]
    return rows.filter(time >= window.start, time < window.end)


def keep(connection: Backend, table: ir.Table) -> ir.Table:
    """The rows of an expression, computed now, for use in several others. They go with the connection."""
    # Not `Table.cache`: to drop its table, Ibis 12 sends a statement that DuckDB 2.0 cannot parse.
    return connection.create_table("kept", table, temp=True)

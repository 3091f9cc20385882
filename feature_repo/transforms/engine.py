"""The engine on which the Ibis expressions of this folder run: DuckDB in this process, or Spark (`ETA_ENGINE=spark`).

Everything that is particular to an engine is here and in `spark`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from config import Settings
from feature_repo.lake import PartitionedTable, require_readable
from feature_repo.window import Window

if TYPE_CHECKING:
    import ibis.expr.types as ir
    from ibis.backends.duckdb import Backend

    from feature_repo.transforms.running import Accumulate


class EngineMissing(RuntimeError):
    """The engine of the settings is not installed; the message says what to install."""


@contextmanager
def engine(settings: Settings) -> Iterator[Any]:
    """A connection to the engine of the settings, in UTC, that spills into the staging directory.

    Raises
    ------
    EngineMissing
        Spark was asked for, and pyspark or Java is not there.
    CorruptPartition
        An expression failed, and a file that was scanned cannot be read.
    """
    spill = settings.staging / "_spill"
    spill.mkdir(parents=True, exist_ok=True)
    with (_spark if settings.engine == "spark" else _duckdb)(settings, spill) as connection:
        connection.scanned = []
        try:
            yield connection
        except Exception:
            # Engines do not name the file. Reading all of them again would be dear; after a failure it is not.
            require_readable(connection.scanned)
            raise


def scan(connection: Any, table: PartitionedTable, window: Window | None) -> ir.Table:
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
    connection.scanned += files
    if connection.name == "duckdb":
        rows = connection.read_parquet([str(path) for path in files], hive_partitioning=False)
    else:
        rows = connection.read_files(files)
    if window is None:
        return rows
    time = rows[table.time_column]
    return rows.filter(time >= window.start, time < window.end)


def keep(connection: Any, table: ir.Table) -> ir.Table:
    """The rows of an expression, computed now, for use in several others. They go with the connection."""
    if connection.name != "duckdb":
        kept: ir.Table = connection.keep(table)
        return kept
    # Not `Table.cache`: to drop its table, Ibis 12 sends a statement that DuckDB 2.0 cannot parse.
    made: ir.Table = connection.create_table("kept", table, temp=True)
    return made


def accumulate(connection: Any) -> Accumulate:
    """How this engine takes running sums: DuckDB hands the events over, in order, and gets the sums back."""
    import ibis

    from feature_repo.transforms.running import by_windows, in_one_pass

    def handed_over(events: ir.Table, sums: Sequence[str], maxima: Sequence[str]) -> ir.Table:
        return ibis.memtable(in_one_pass(connection.to_polars(events.order_by("key", "at")), sums, maxima))

    return handed_over if connection.name == "duckdb" else by_windows


@contextmanager
def _duckdb(settings: Settings, spill: Path) -> Iterator[Backend]:
    import ibis

    limit = {"memory_limit": f"{settings.engine_memory_gib}GiB"} if settings.engine_memory_gib else {}
    connection = ibis.duckdb.connect(temp_directory=str(spill), **limit)
    # Spark's name for it, and a cast that Ibis does not leave out (see `running.as_bigint`).
    connection.raw_sql("CREATE MACRO unix_micros(instant) AS epoch_us(instant)")
    connection.raw_sql("CREATE MACRO as_bigint(whole) AS CAST(whole AS BIGINT)")
    try:
        yield connection
    finally:
        connection.disconnect()


@contextmanager
def _spark(settings: Settings, spill: Path) -> Iterator[Any]:
    _require_java()
    try:
        from feature_repo.transforms.spark import spark
    except ImportError as error:
        raise EngineMissing(
            f"ETA_ENGINE=spark needs pyspark ({error}): install it with `pip install -e '.[spark]'`, or leave "
            "ETA_ENGINE at duckdb"
        ) from error
    with spark(settings, spill) as connection:
        yield connection


def _require_java() -> None:
    home = os.environ.get("JAVA_HOME")
    if (home and (Path(home) / "bin" / "java").exists()) or (not home and shutil.which("java")):
        return
    where = f"JAVA_HOME={home} has no bin/java" if home else "there is no `java` on the PATH, and JAVA_HOME is not set"
    raise EngineMissing(
        f"ETA_ENGINE=spark needs Java 17 or newer, but {where}: install it (Debian: `apt-get install "
        "openjdk-17-jre-headless`), or leave ETA_ENGINE at duckdb"
    )

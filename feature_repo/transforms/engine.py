"""The engine on which the Ibis expressions of this folder run: DuckDB in this process, or Spark (`ETA_ENGINE=spark`).

Everything that is particular to an engine is here and in `spark`.
"""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ibis
import ibis.expr.datatypes as dt
import ibis.expr.types as ir
import polars as pl
import pyarrow as pa

from config import Settings
from feature_repo.lake import PartitionedTable, require_readable
from feature_repo.transforms.running import by_windows, in_one_pass
from feature_repo.window import Window

if TYPE_CHECKING:
    from ibis.backends.duckdb import Backend

Build = Callable[..., ir.Table]
"""Makes an expression: called with the tables it is of, what it depends on else, and if it has bounds, with these."""
COMPILED_KEPT = 512


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


def scan(connection: Any, table: PartitionedTable, window: Window | None, name: str) -> ir.Table:
    """The rows of a table in a window (all rows without one), by a name; only the files of its days are opened.

    Raises
    ------
    CorruptPartition
        A file is damaged or has another schema.
    """
    table.scan(window)  # checks every file and names the bad one
    files = table.files(window)
    if not files:
        return hand_over(connection, pl.DataFrame(schema=table.schema), name)
    connection.scanned += files
    if connection.name != "duckdb":
        rows = connection.read_files(files)
        time = rows[table.time_column]
        return rows if window is None else rows.filter(time >= window.start, time < window.end)
    paths = ", ".join(_quoted(str(path)) for path in files)
    query = f"SELECT * FROM read_parquet([{paths}], hive_partitioning = false)"
    if window is not None:
        first, end = (f"TIMESTAMPTZ '{instant.isoformat()}'" for instant in (window.start, window.end))
        query += f' WHERE "{table.time_column}" >= {first} AND "{table.time_column}" < {end}'
    connection.raw_sql(f'CREATE TEMP VIEW "{name}" AS {query}')
    return ibis.table(ibis.Schema.from_polars(table.schema), name=name)


def hand_over(connection: Any, frame: pl.DataFrame, name: str) -> ir.Table:
    """A frame as a table of that name."""
    if connection.name != "duckdb":
        return ibis.memtable(frame)
    connection.con.register(name, frame.to_arrow())
    return ibis.table(ibis.Schema.from_polars(frame.schema), name=name)


def together(connection: Any, name: str, tables: Sequence[ir.Table]) -> ir.Table:
    """The rows of several tables of one schema, by a name."""
    if connection.name != "duckdb":
        # Of a file's instants Spark does not say that they are UTC, of a frame's it does.
        return ibis.union(*[table.cast(tables[0].schema()) for table in tables], distinct=False)
    union = " UNION ALL BY NAME ".join(f'FROM "{table.get_name()}"' for table in tables)
    connection.raw_sql(f'CREATE TEMP VIEW "{name}" AS {union}')
    return ibis.table(tables[0].schema(), name=name)


def evaluate(
    connection: Any,
    build: Build,
    tables: Sequence[ir.Table | None],
    *others: Hashable,
    bounds: tuple[int, int] | None = None,
) -> pl.DataFrame:
    """The rows of an expression.

    For DuckDB it is built and compiled once per process, which takes longer than to run it over the rows of an hour.

    Parameters
    ----------
    connection : Backend
    build : callable
        Called with the tables, the others and the bounds. It depends on nothing else.
    tables : sequence of ibis table
        As `scan`, `hand_over` and `keep` return them, or None in the place of one that is not there.
    *others : hashable
    bounds : tuple of int, optional
        The start and end of a window, as numbers.

    Returns
    -------
    polars.DataFrame
    """
    if connection.name != "duckdb":
        frame: pl.DataFrame = connection.to_polars(build(*tables, *others, *(bounds or ())))
        return frame
    sql, schema = _prepared(connection, build, tables, others, bounds)
    found = pl.from_arrow(connection.con.sql(sql).to_arrow_table().cast(schema))
    assert isinstance(found, pl.DataFrame)
    return found


def keep(
    connection: Any,
    name: str,
    build: Build,
    tables: Sequence[ir.Table | None],
    *others: Hashable,
    bounds: tuple[int, int] | None = None,
) -> ir.Table:
    """The rows of an expression, computed now, for use in several others. They go with the connection."""
    if connection.name != "duckdb":
        kept: ir.Table = connection.keep(build(*tables, *others, *(bounds or ())))
        return kept
    sql, schema = _prepared(connection, build, tables, others, bounds)
    connection.raw_sql(f'CREATE TEMP TABLE "{name}" AS {sql}')
    return ibis.table(ibis.Schema.from_pyarrow(schema), name=name)


def running_sums(
    connection: Any,
    events: Build,
    tables: Sequence[ir.Table | None],
    *others: Hashable,
    bounds: tuple[int, int],
    sums: Sequence[str],
    maxima: Sequence[str],
) -> ir.Table:
    """The running values (see `running`) of an expression's events: DuckDB hands them over and gets the sums back."""
    if connection.name != "duckdb":
        return by_windows(events(*tables, *others, *bounds), sums, maxima)
    found = evaluate(connection, events, tables, *others, bounds=bounds)
    return hand_over(connection, in_one_pass(found, sums, maxima), "sums")


@ibis.udf.scalar.builtin  # type: ignore[untyped-decorator]
def window_start() -> dt.int64:
    """The first of the bounds that an expression is evaluated with, so that the SQL is the same for all of them."""


@ibis.udf.scalar.builtin  # type: ignore[untyped-decorator]
def window_end() -> dt.int64:
    """The second one."""


def _prepared(
    connection: Any,
    build: Build,
    tables: Sequence[ir.Table | None],
    others: tuple[Hashable, ...],
    bounds: tuple[int, int] | None,
) -> tuple[str, pa.Schema]:
    for function, number in zip((window_start, window_end), bounds or (), strict=False):
        connection.raw_sql(f"CREATE OR REPLACE TEMP MACRO {function.__name__}() AS CAST({number} AS BIGINT)")
    kinds = tuple(None if table is None else (table.get_name(), table.schema()) for table in tables)
    return compiled(build, kinds, others, bounds is not None)


@functools.lru_cache(COMPILED_KEPT)
def compiled(
    build: Build, tables: tuple[tuple[str, ibis.Schema] | None, ...], others: tuple[Hashable, ...], bounded: bool
) -> tuple[str, pa.Schema]:
    """The SQL of an expression of tables with these names and columns, and the types of its rows."""
    named = [None if table is None else ibis.table(table[1], name=table[0]) for table in tables]
    expression = build(*named, *others, *((window_start(), window_end()) if bounded else ()))
    return str(ibis.to_sql(expression, dialect="duckdb")), expression.schema().to_pyarrow()


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


@contextmanager
def _duckdb(settings: Settings, spill: Path) -> Iterator[Backend]:
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

"""Spark as the engine.

Imported only under `ETA_ENGINE=spark` (see `engine`): it needs pyspark 4 and Java.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ibis.expr.operations as ops
import ibis.expr.types as ir
import polars as pl
from ibis.backends.pyspark import Backend
from pyspark.sql import SparkSession

from config import Settings


class SparkEngine(Backend):  # type: ignore[misc]
    """Ibis's backend, with frames going in and out as Arrow: by way of pandas, integers that may be null lose bits."""

    def to_polars(self, expr: ir.Expr, /, **_: Any) -> pl.DataFrame:
        """The rows of an expression."""
        frame = pl.from_arrow(self._frame(expr).toArrow())
        assert isinstance(frame, pl.DataFrame)
        return frame

    def read_files(self, files: Sequence[Path]) -> ir.Table:
        """The rows of Parquet files of one schema."""
        return self._named(self._session.read.parquet(*[str(path) for path in files]))

    def keep(self, table: ir.Table) -> ir.Table:
        """The rows of an expression, computed once for use in several others."""
        return self._named(self._frame(table).persist())

    def forget(self) -> None:
        """Let go of everything that was kept."""
        self._session.catalog.clearCache()

    def _frame(self, expr: ir.Expr) -> Any:
        self._run_pre_execute_hooks(expr)
        return self._session.sql(self.compile(expr))

    def _named(self, frame: Any) -> ir.Table:
        name = f"rows_{uuid.uuid4().hex}"
        frame.createOrReplaceTempView(name)
        return self.table(name)

    def _register_in_memory_table(self, op: ops.InMemoryTable) -> None:
        self._session.createDataFrame(op.data.to_pyarrow(op.schema)).createOrReplaceTempView(op.name)


@contextmanager
def spark(settings: Settings, spill: Path) -> Iterator[SparkEngine]:
    """The process's Spark session, as an engine. It goes on until the process ends: a start takes seconds."""
    # Spark 4 takes the host's name for its own address, which need not resolve.
    os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    builder = SparkSession.builder.master("local[*]").appName("delivery-eta").config("spark.local.dir", str(spill))
    options = {
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.shuffle.partitions": str(2 * (os.cpu_count() or 1)),
        "spark.sql.warehouse.dir": str(spill / "warehouse"),
        "spark.driver.memory": _memory(settings),
    }
    for name, value in options.items():
        builder = builder.config(name, value)
    session = builder.getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    session.sql("CREATE OR REPLACE TEMPORARY FUNCTION as_bigint(whole BIGINT) RETURNS BIGINT RETURN whole")
    SparkEngine.register_options()
    engine = SparkEngine().connect(session)
    try:
        yield engine
    finally:
        engine.forget()


def _memory(settings: Settings) -> str:
    return f"{round(1024 * (settings.engine_memory_gib or 4))}m"

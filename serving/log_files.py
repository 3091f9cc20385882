"""The files of the prediction log: written whole or not at all, and read back by when orders were placed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from feature_repo.files import replace_file
from feature_repo.window import Window
from serving.errors import PredictionLogError
from serving.log_rows import LATER_COLUMNS, PREDICTION_SCHEMA, no_rows

if TYPE_CHECKING:
    import polars as pl

    from config import Settings

__all__ = ["read_predictions", "write_table"]


def write_table(table: pa.Table, path: Path) -> None:
    """Write a table beside `path`, and rename it when the disk has it."""
    replace_file(path, lambda temporary: pq.write_table(table, temporary, compression="zstd"), durable=True)


def read_predictions(settings: Settings, window: Window) -> pl.DataFrame:
    """The logged predictions of the orders placed in the window, by `placed_at` and `prediction_id`.

    Files that are replaced meanwhile do no harm: each is opened once, and an open file stays what it was.

    Raises
    ------
    PredictionLogError
        A file is damaged; the message names it.
    """
    import polars as pl

    tables = [table for path in _files(settings.predictions) if (table := _read(path, window)) is not None]
    joined = pa.concat_tables(tables or [no_rows()])
    frame = pl.from_arrow(joined)
    assert isinstance(frame, pl.DataFrame)
    placed_in_window = pl.col("placed_at").is_between(window.start, window.end, closed="left")
    return frame.filter(placed_in_window).sort("placed_at", "prediction_id")


def _files(root: Path) -> list[Path]:
    return sorted(path for path in root.glob("day=*/*.parquet") if not path.name.startswith("."))


def _read(path: Path, window: Window) -> pa.Table | None:
    """The rows of a file, or None if it is gone or has none of the window."""
    try:
        with path.open("rb") as opened:
            file = pq.ParquetFile(opened)
            if not any(_may_hold(group, window) for group in _row_groups(file)):
                return None
            return _completed(file.read()).select(PREDICTION_SCHEMA.names).cast(PREDICTION_SCHEMA)
    except FileNotFoundError:  # removed between listing and opening
        return None
    except (OSError, pa.ArrowException, KeyError) as error:
        raise PredictionLogError(f"{path} cannot be read ({error}): move it away to go on without it") from error


def _completed(table: pa.Table) -> pa.Table:
    """A table with the columns that came later."""
    for name in LATER_COLUMNS - set(table.column_names):
        table = table.append_column(name, pa.nulls(table.num_rows, pa.string()))
    return table


def _row_groups(file: pq.ParquetFile) -> Iterator[Any]:
    position = file.schema_arrow.get_field_index("placed_at")
    if position < 0:
        raise KeyError("it has no column placed_at")
    for index in range(file.metadata.num_row_groups):
        yield file.metadata.row_group(index).column(position).statistics


def _may_hold(statistics: Any, window: Window) -> bool:
    if statistics is None or not statistics.has_min_max:
        return True
    return bool(statistics.min < window.end and statistics.max >= window.start)

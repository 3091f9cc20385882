"""Every prediction, with what it was made from, as Parquet: `day=YYYY-MM-DD/hour-HH-<process>-<part>.parquet`.

Written off the request path by one thread. A part file grows by being rewritten beside itself and renamed, once a
second, until it holds enough rows or the hour ends: readers see whole files only, a busy hour leaves a handful of
files instead of thousands, and a killed process loses at most its last second. The rows that wait in memory are
bounded; what does not fit is dropped and counted, never waited for.

Arrow arrays are built from buffers because `pyarrow.array` imports pandas.
"""

from __future__ import annotations

import logging
import math
import os
import tempfile
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache, partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic_core import to_json

from feature_repo.window import Window, floor_hour
from serving.errors import PredictionLogError
from serving.predictor import LABELS, Order, Predictions
from serving.worker import Worker

if TYPE_CHECKING:
    import polars as pl

    from config import Settings

__all__ = ["PREDICTION_SCHEMA", "LogEntry", "PredictionLog", "read_predictions", "to_table", "write_atomically"]

logger = logging.getLogger(__name__)

PAUSE_SECONDS = 0.001
FEW_ROWS = 32
"""So many rows are made when they are offered, which is after the answer; those of a batch, in the thread."""
TIMESTAMP = pa.timestamp("us", "UTC")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)

PREDICTION_SCHEMA = pa.schema(
    [
        ("prediction_id", pa.string()),
        ("order_id", pa.string()),
        ("placed_at", TIMESTAMP),
        ("predicted_at", TIMESTAMP),
        ("model_name", pa.string()),
        ("model_version", pa.string()),
        ("variant", pa.string()),
        ("source", pa.string()),
        ("status", pa.string()),
        ("delivery_minutes", pa.float64()),
        ("p10_minutes", pa.float64()),
        ("p90_minutes", pa.float64()),
        ("latency_ms", pa.float64()),
        ("restaurant_id", pa.string()),
        ("driver_id", pa.string()),
        ("customer_id", pa.string()),
        ("zone_id", pa.string()),
        ("inputs", pa.string()),
        ("statuses", pa.string()),
        ("event_times", pa.string()),
        ("request_id", pa.string()),
    ]
)
"""One row per prediction. `inputs`, `statuses` and `event_times` are JSON objects: the model's input -> value or null,
the model's input -> present, stale, missing, undecodable or unavailable, and the feature view -> instant or null."""


_Row = tuple[Any, ...]
_Waits = tuple[datetime, Callable[[], list[_Row]]]


IN_SAMPLE = "in sample"
"""The variant of predictions of orders whose outcome the model may have learnt: they say nothing of how good it is."""


@dataclass(slots=True)
class LogEntry:
    """The rows of one request, or of one batch.

    `prediction_ids`, `orders`, `latencies_ms` and `request_ids` have one element per row of `predictions`; the last two
    are None where nobody asked.
    """

    source: str
    model_name: str
    model_version: str
    variant: str
    input_names: Sequence[str]
    view_names: Sequence[str]
    prediction_ids: Sequence[str]
    orders: Sequence[Order]
    predictions: Predictions
    predicted_at: datetime
    latencies_ms: Sequence[float] | None = None
    request_ids: Sequence[str | None] | None = None


def to_table(entries: Sequence[LogEntry]) -> pa.Table:
    """The rows of entries, in `PREDICTION_SCHEMA`."""
    return _table([row for entry in entries for row in _rows(entry)])


def _table(rows: Sequence[_Row], pause_seconds: float = 0.0) -> pa.Table:
    """Rows as a table, with a pause after each column in which requests have the interpreter for themselves."""
    arrays = []
    for place, column in enumerate(PREDICTION_SCHEMA):
        arrays.append(_ARROW[str(column.type)]([row[place] for row in rows]))
        time.sleep(pause_seconds)
    return pa.Table.from_arrays(arrays, schema=PREDICTION_SCHEMA)


def _rows(entry: LogEntry) -> list[_Row]:
    """The rows of an entry, each with the columns of `PREDICTION_SCHEMA` in their order.

    Nothing in them refers to anything else, so that the garbage collector need not look into what waits.
    """
    found = entry.predictions
    names, views = tuple(entry.input_names), tuple(entry.view_names)
    none = [None] * len(found)
    return [
        (
            prediction_id,
            order.order_id,
            order.placed_at,
            entry.predicted_at,
            entry.model_name,
            entry.model_version,
            entry.variant,
            entry.source,
            "degraded" if reasons else "ok",
            *estimates,
            math.nan if latency is None else latency,
            order.restaurant_id,
            order.driver_id,
            order.customer_id,
            order.zone_id,
            to_json(dict(zip(names, inputs, strict=True)), inf_nan_mode="null").decode(),
            _labels(names, statuses),
            _instants(views, *event_times),
            request_id,
        )
        for prediction_id, order, reasons, estimates, latency, inputs, statuses, event_times, request_id in zip(
            entry.prediction_ids,
            entry.orders,
            found.reasons,
            zip(*found.estimates, strict=True),
            entry.latencies_ms or none,
            found.inputs,
            found.statuses,
            found.event_times,
            entry.request_ids or none,
            strict=True,
        )
    ]


def write_atomically(table: pa.Table, path: Path) -> None:
    """Write a table beside `path` and rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=".tmp", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            pq.write_table(table, file, compression="zstd")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


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
    joined = pa.concat_tables(tables or [_no_rows()])
    frame = pl.from_arrow(joined)
    assert isinstance(frame, pl.DataFrame)
    placed_in_window = pl.col("placed_at").is_between(window.start, window.end, closed="left")
    return frame.filter(placed_in_window).sort("placed_at", "prediction_id")


def _no_rows() -> pa.Table:
    return pa.Table.from_batches([], schema=PREDICTION_SCHEMA)  # empty_table() would import pandas


@dataclass
class _Part:
    """The file that is being grown."""

    path: Path
    hour: datetime
    table: pa.Table = field(default_factory=_no_rows)


class PredictionLog(Worker):
    """Collects entries and writes them in the background.

    Parameters
    ----------
    root : Path
        Where the files go.
    capacity : int
        Rows that may wait in memory. More are dropped and counted.
    flush_seconds, flush_rows
        Waiting rows are written after this time, or when there are this many.
    part_rows : int
        Rows of a file, after which the next one is begun.
    """

    def __init__(
        self,
        root: Path,
        *,
        capacity: int = 50_000,
        flush_seconds: float = 0.75,
        flush_rows: int = 5_000,
        part_rows: int = 5_000,
    ) -> None:
        super().__init__("prediction-log")
        self.root = root
        self.capacity = capacity
        self.flush_seconds = flush_seconds
        self.flush_rows = flush_rows
        self.part_rows = part_rows
        self.queued = 0
        self.written = 0
        self.dropped = 0
        self._process = uuid.uuid4().hex[:12]
        self._parts = 0
        self._part: _Part | None = None
        self._waiting: deque[_Waits] = deque()
        self._failing = False

    def offer(self, entry: LogEntry) -> bool:
        """Take an entry for writing; False and counted if there is no room. Never waits for the disk."""
        rows = len(entry.predictions)
        waits = (entry.predicted_at, partial(_rows, entry) if rows > FEW_ROWS else partial(list, _rows(entry)))
        with self._condition:
            if self._stopping or self.queued + rows > self.capacity:
                self.dropped += rows
                return False
            self._waiting.append(waits)
            self.queued += rows
            if self.queued >= self.flush_rows:
                self._condition.notify()
        return True

    def stop(self) -> None:
        """Write what waits, and end. What cannot be written then is counted as dropped."""
        super().stop()
        if self._waiting:
            self.flush()
        if self._waiting:
            self.dropped += self.queued
            logger.error("%d predictions could not be logged and are lost", self.queued)

    def flush(self) -> None:
        """Write what waits now. A disk that refuses is logged; the rows stay and are tried again."""
        with self._condition:
            waiting = list(self._waiting)
        try:
            for hour, group in groupby(waiting, key=lambda entry: floor_hour(entry[0])):
                self._write(hour, list(group))
        except OSError as error:
            if not self._failing:
                logger.error("predictions cannot be logged to %s (%s): up to %d wait", self.root, error, self.capacity)
            self._failing = True
        else:
            self._failing = False

    def _write(self, hour: datetime, entries: list[_Waits]) -> None:
        rows = [row for _, some in entries for row in some()]
        self._append(hour, _table(rows, PAUSE_SECONDS))
        with self._condition:
            for _ in entries:
                self._waiting.popleft()
            self.queued -= len(rows)
            self.written += len(rows)

    def _run(self) -> None:
        while True:
            with self._condition:
                enough = self.queued >= self.flush_rows and not self._failing
                if not self._stopping and not enough:
                    self._condition.wait(self.flush_seconds)
                stopping = self._stopping
            if self._waiting:
                self.flush()
            if stopping:
                return

    def _append(self, hour: datetime, table: pa.Table) -> None:
        part = self._part
        if part is None or part.hour != hour or part.table.num_rows >= self.part_rows:
            part = self._next_part(hour)
        grown = pa.concat_tables([part.table, table]).combine_chunks()
        write_atomically(grown, part.path)
        part.table = grown
        self._part = part

    def _next_part(self, hour: datetime) -> _Part:
        self._parts += 1
        name = f"hour-{hour:%H}-{self._process}-{self._parts:06d}.parquet"
        return _Part(self.root / f"day={hour:%Y-%m-%d}" / name, hour)


def _files(root: Path) -> list[Path]:
    return sorted(path for path in root.glob("day=*/*.parquet") if not path.name.startswith("."))


def _read(path: Path, window: Window) -> pa.Table | None:
    """The rows of a file, or None if it is gone or has none of the window."""
    try:
        with path.open("rb") as opened:
            file = pq.ParquetFile(opened)
            if not any(_may_hold(group, window) for group in _row_groups(file)):
                return None
            return file.read().select(PREDICTION_SCHEMA.names).cast(PREDICTION_SCHEMA)
    except FileNotFoundError:  # removed between listing and opening
        return None
    except (OSError, pa.ArrowException, KeyError) as error:
        raise PredictionLogError(f"{path} cannot be read ({error}): move it away to go on without it") from error


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


@lru_cache(maxsize=1_024)  # few combinations occur
def _labels(names: tuple[str, ...], statuses: bytes) -> str:
    return to_json({name: LABELS[status] for name, status in zip(names, statuses, strict=True)}).decode()


@lru_cache(maxsize=1_024)  # rows of one hour share theirs
def _instants(names: tuple[str, ...], *seconds: float) -> str:
    instants = [None if math.isnan(each) else datetime.fromtimestamp(each, UTC).isoformat() for each in seconds]
    return to_json(dict(zip(names, instants, strict=True))).decode()


def _validity(present: np.ndarray[Any, Any]) -> pa.Buffer:
    return pa.py_buffer(np.packbits(present, bitorder="little").tobytes())


def _arrow_strings(values: Sequence[str | None]) -> pa.Array:
    encoded = [b"" if value is None else value.encode() for value in values]
    offsets = np.zeros(len(encoded) + 1, dtype=np.int32)
    np.cumsum([len(text) for text in encoded], out=offsets[1:])
    present = np.array([value is not None for value in values], dtype=bool)
    buffers = [_validity(present), pa.py_buffer(offsets.tobytes()), pa.py_buffer(b"".join(encoded))]
    return pa.Array.from_buffers(pa.string(), len(encoded), buffers)


def _arrow_numbers(values: Sequence[float]) -> pa.Array:
    numbers = np.ascontiguousarray(values, dtype=np.float64)
    buffers = [_validity(~np.isnan(numbers)), pa.py_buffer(numbers.tobytes())]
    return pa.Array.from_buffers(pa.float64(), len(numbers), buffers)


def _arrow_instants(values: Sequence[datetime]) -> pa.Array:
    microseconds = np.array([(value - EPOCH) // MICROSECOND for value in values], dtype=np.int64)
    return pa.Array.from_buffers(TIMESTAMP, len(microseconds), [None, pa.py_buffer(microseconds.tobytes())])


_ARROW: dict[str, Callable[[Any], pa.Array]] = {
    str(pa.string()): _arrow_strings,
    str(pa.float64()): _arrow_numbers,
    str(TIMESTAMP): _arrow_instants,
}

"""What a row of the prediction log holds, and how rows become a table.

Arrow arrays are built from buffers because `pyarrow.array` imports pandas.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic_core import to_json

from serving.bundle import Estimates
from serving.predictor import Order, Predictions
from serving.status import LABELS

__all__ = ["PREDICTION_SCHEMA", "LogEntry", "Row", "no_rows", "rows_of", "table_of", "to_table"]

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
        ("reasons", pa.string()),
        ("request", pa.string()),
        ("caller", pa.string()),
    ]
)
"""One row per prediction. `inputs`, `statuses`, `event_times` and `request` are JSON objects: the model's input ->
value or null, the model's input -> its status, the feature view -> instant or null, and what was asked besides ids and
instant. `reasons` is a JSON list of why the answer is degraded; `caller` the name of the API key."""

IN_SAMPLE = "in sample"
"""The variant of predictions of orders whose outcome the model may have learnt: they say nothing of how good it is."""

LATER_COLUMNS = frozenset({"reasons", "request", "caller"})
"""Files of earlier versions lack them: they are null there."""

ASKED = tuple(name for name in Order._fields if name not in (*PREDICTION_SCHEMA.names, "replay", "asked_at"))

Row = tuple[Any, ...]


@dataclass(slots=True)
class LogEntry:
    """The rows of one request, or of one batch.

    `prediction_ids`, `orders`, `latencies_ms`, `request_ids` and `callers` have one element per row of `predictions`;
    the last three are None where nobody asked.
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
    callers: Sequence[str | None] | None = None

    def only(self, row: int) -> LogEntry:
        """The same of one row."""
        found = self.predictions
        return replace(
            self,
            prediction_ids=[self.prediction_ids[row]],
            orders=[self.orders[row]],
            predictions=Predictions(
                [found.inputs[row]],
                [found.statuses[row]],
                [found.event_times[row]],
                Estimates(*([each[row]] for each in found.estimates)),
                [found.reasons[row]],
            ),
            latencies_ms=self.latencies_ms and [self.latencies_ms[row]],
            request_ids=self.request_ids and [self.request_ids[row]],
            callers=self.callers and [self.callers[row]],
        )


def to_table(entries: Sequence[LogEntry]) -> pa.Table:
    """The rows of entries, in `PREDICTION_SCHEMA`."""
    return table_of([row for entry in entries for row in rows_of(entry)])


def table_of(rows: Sequence[Row], pause_seconds: float = 0.0) -> pa.Table:
    """Rows as a table, with a pause after each column in which requests have the interpreter for themselves."""
    arrays = []
    for place, column in enumerate(PREDICTION_SCHEMA):
        arrays.append(_ARROW[str(column.type)]([row[place] for row in rows]))
        time.sleep(pause_seconds)
    return pa.Table.from_arrays(arrays, schema=PREDICTION_SCHEMA)


def rows_of(entry: LogEntry) -> list[Row]:
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
            "replay" if order.replay and entry.source == "online" else entry.source,
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
            _reasons(reasons),
            to_json({name: getattr(order, name) for name in ASKED}).decode(),
            caller,
        )
        for prediction_id, order, reasons, estimates, latency, inputs, statuses, event_times, request_id, caller in zip(
            entry.prediction_ids,
            entry.orders,
            found.reasons,
            zip(*found.estimates, strict=True),
            entry.latencies_ms or none,
            found.inputs,
            found.statuses,
            found.event_times,
            entry.request_ids or none,
            entry.callers or none,
            strict=True,
        )
    ]


@lru_cache(maxsize=1_024)  # few combinations occur
def _labels(names: tuple[str, ...], statuses: bytes) -> str:
    return to_json({name: LABELS[status] for name, status in zip(names, statuses, strict=True)}).decode()


@lru_cache(maxsize=1_024)
def _reasons(reasons: tuple[str, ...]) -> str:
    return to_json(reasons).decode()


@lru_cache(maxsize=1_024)  # rows of one hour share theirs
def _instants(names: tuple[str, ...], *seconds: float) -> str:
    instants = [None if math.isnan(each) else datetime.fromtimestamp(each, UTC).isoformat() for each in seconds]
    return to_json(dict(zip(names, instants, strict=True))).decode()


def no_rows() -> pa.Table:
    """A table of no rows."""
    return pa.Table.from_batches([], schema=PREDICTION_SCHEMA)  # empty_table() would import pandas


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

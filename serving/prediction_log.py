"""Every prediction, with what it was made from, as Parquet: `day=YYYY-MM-DD/hour-HH-<process>-<part>.parquet`.

Written off the request path by one thread. A part file grows by being rewritten beside itself and renamed, once a
second, until it holds enough rows or the hour ends: readers see whole files only, a busy hour leaves a handful of
files instead of thousands, and a killed process loses at most its last second. The rows that wait in memory are
bounded; what does not fit is dropped and counted, never waited for. A row that cannot be written is set aside as JSON
in a directory of its own, and counted, so that it does not hold up the others.
"""

from __future__ import annotations

import json
import logging
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from feature_repo.window import floor_hour
from serving.log_files import read_predictions, write_table
from serving.log_rows import PREDICTION_SCHEMA, LogEntry, Row, no_rows, rows_of, table_of, to_table
from serving.worker import Worker

__all__ = ["PREDICTION_SCHEMA", "LogEntry", "PredictionLog", "read_predictions", "to_table", "write_table"]

logger = logging.getLogger(__name__)

PAUSE_SECONDS = 0.001
FEW_ROWS = 32
"""So many rows are made when they are offered, which is after the answer; those of a batch, in the thread."""


class _Waiting(NamedTuple):
    """What was offered: `make` gives its rows, `alone` those of one of them; both may raise."""

    at: datetime
    rows: int
    make: Callable[[], list[Row]]
    alone: Callable[[int], tuple[Mapping[str, Any], Callable[[], list[Row]]]] | None = None


@dataclass
class _Part:
    """The file that is being grown."""

    path: Path
    hour: datetime
    table: pa.Table = field(default_factory=no_rows)


class PredictionLog(Worker):
    """Collects entries and writes them in the background.

    Parameters
    ----------
    root : Path
        Where the files go; rows that cannot be written go to `<root>-aside`.
    capacity : int
        Rows that may wait in memory. More are dropped and counted.
    flush_seconds, flush_rows
        Waiting rows are written after this time, or when there are this many.
    part_rows : int
        Rows of a file, after which the next one is begun.

    Attributes
    ----------
    queued, written, dropped, aside : int
        Rows: that wait, that are in files, that are lost, and that were set aside.
    lost_at_end : int
        Those of `dropped` that were waiting when it was stopped.
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
        self.aside = 0
        self.lost_at_end = 0
        self._process = uuid.uuid4().hex[:12]
        self._parts = 0
        self._part: _Part | None = None
        self._waiting: deque[_Waiting] = deque()
        self._failing = False

    def offer(self, entry: LogEntry) -> bool:
        """Take an entry for writing; False and counted if there is no room. Never waits for the disk, never raises."""
        rows = len(entry.predictions)
        with self._condition:
            if self._stopping or self.queued + rows > self.capacity:
                self.dropped += rows
                return False
            self._waiting.append(_waiting(entry, rows))
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
            self.lost_at_end = self.queued
            self.dropped += self.queued
            logger.error("ALARM: %d predictions could not be logged and are lost", self.queued)

    def flush(self) -> None:
        """Write what waits now. A disk that refuses is logged; the rows stay and are tried again."""
        with self._condition:
            waiting = list(self._waiting)
        try:
            for hour, group in groupby(waiting, key=lambda waits: floor_hour(waits.at)):
                self._write(hour, list(group))
        except Exception as error:  # of the disk mostly; whatever it is, the next try begins with a new file
            self._part = None
            if not self._failing:
                logger.error(
                    "ALARM: predictions cannot be logged to %s (%s): up to %d wait", self.root, error, self.capacity
                )
            self._failing = True
        else:
            self._failing = False

    def _write(self, hour: datetime, waiting: list[_Waiting]) -> None:
        table, bad = _usable(waiting)
        if table.num_rows:
            self._append(hour, table)
        with self._condition:
            for waits in waiting:
                self._waiting.popleft()
                self.queued -= waits.rows
            self.written += table.num_rows
        if bad:
            self._set_aside(bad)

    def _set_aside(self, rows: Sequence[Mapping[str, Any]]) -> None:
        path = self.root.with_name(f"{self.root.name}-aside") / f"{self._process}.jsonl"
        self.aside += len(rows)
        logger.error("ALARM: %d predictions cannot be logged as rows (%s): see %s", len(rows), rows[0]["error"], path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="ascii") as file:
                file.writelines(json.dumps(row, default=repr) + "\n" for row in rows)
        except OSError:
            self.dropped += len(rows)
            logger.exception("nor can they be set aside")

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
        write_table(grown, part.path)
        part.table = grown
        self._part = part

    def _next_part(self, hour: datetime) -> _Part:
        self._parts += 1
        name = f"hour-{hour:%H}-{self._process}-{self._parts:06d}.parquet"
        return _Part(self.root / f"day={hour:%Y-%m-%d}" / name, hour)


def _waiting(entry: LogEntry, rows: int) -> _Waiting:
    if rows <= FEW_ROWS:
        try:
            # Rows refer to nothing else, so that the garbage collector need not look into what waits.
            return _Waiting(entry.predicted_at, rows, partial(list, rows_of(entry)))
        except Exception:  # told where it is set aside
            logger.debug("a row cannot be made", exc_info=True)

    def alone(row: int) -> tuple[Mapping[str, Any], Callable[[], list[Row]]]:
        part = entry.only(row)
        return _described(part), partial(rows_of, part)

    return _Waiting(entry.predicted_at, rows, partial(rows_of, entry), alone)


def _described(entry: LogEntry) -> Mapping[str, Any]:
    """All that is known of an entry of one row, for people."""
    return {name: getattr(entry, name) for name in entry.__slots__}


def _usable(waiting: Sequence[_Waiting]) -> tuple[pa.Table, list[Mapping[str, Any]]]:
    """The rows that can be written, and the others described, each with its `error`."""
    try:
        return table_of([row for waits in waiting for row in waits.make()], PAUSE_SECONDS), []
    except Exception:  # of one row, which has to be found
        good: list[Row] = []
        bad: list[Mapping[str, Any]] = []
    for described, make in _each(waiting):
        try:
            rows = make()
            table_of(rows)
            good += rows
        except Exception as error:
            bad.append({"error": f"{type(error).__name__}: {error}", **described})
    return table_of(good, PAUSE_SECONDS), bad


def _each(waiting: Sequence[_Waiting]) -> Iterator[tuple[Mapping[str, Any], Callable[[], list[Row]]]]:
    for waits in waiting:
        if waits.alone is not None:
            yield from map(waits.alone, range(waits.rows))
        else:
            for row in waits.make():
                yield dict(zip(PREDICTION_SCHEMA.names, row, strict=True)), partial(list, [row])

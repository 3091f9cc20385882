"""The newest row of each key of a view's Parquet files, in memory that does not grow with their size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from feature_repo.stores import parquet
from feature_repo.stores.parquet import TIMESTAMP, Period, UnusableSource

ROWS_PER_BATCH = 100_000
EVENT, CREATED = "__event", "__created"
_ROW = "__row"


@dataclass(frozen=True, slots=True)
class Source:
    """Files of one view, and which of their columns are what.

    Attributes
    ----------
    files : sequence of str
    columns : mapping of str to str
        Source column by join key or feature.
    event, created : str
        Source columns of the times; `created` may be absent.
    """

    files: Sequence[str]
    columns: Mapping[str, str]
    event: str
    created: str | None

    @property
    def times(self) -> list[str]:
        return [self.event, *([self.created] if self.created else [])]

    @property
    def read(self) -> list[str]:
        """The source columns that are needed, each once."""
        return list(dict.fromkeys([*self.columns.values(), *self.times]))

    def rows(self, period: Period) -> int:
        """How many rows `batches` has to look at, from the files' footers.

        Raises
        ------
        UnusableSource
            A file is damaged, lacks a column, or has a type that cannot be used; no file has been read then.
        """
        if self.files:
            parquet.scan(self.files, self.read, self.times)  # checks every file
        total = 0
        for file in self.files:
            with pq.ParquetFile(file) as opened:
                total += sum(opened.metadata.row_group(n).num_rows for n in _row_groups(opened, self.event, period))
        return total


def batches(source: Source, period: Period, looked_at: Callable[[int], Any]) -> Iterator[pl.DataFrame]:
    """The rows with event time in `period`, in file order, in frames of at most `ROWS_PER_BATCH` rows.

    A row group is in memory at a time. A row without a created time counts as created at its event time.

    Parameters
    ----------
    looked_at : callable
        Called with the number of rows that were read, those outside of the period included; they add up to
        `source.rows(period)`.

    Returns
    -------
    iterator of polars.DataFrame
        Join keys and features under the view's names, and `EVENT` and `CREATED`.

    Raises
    ------
    UnusableSource
        A file is damaged.
    """
    wanted = [pl.col(column).alias(name) for name, column in source.columns.items()]
    event = pl.col(source.event).cast(TIMESTAMP)
    created = pl.coalesce(pl.col(source.created).cast(TIMESTAMP), event) if source.created else event
    for file in source.files:
        try:
            with pq.ParquetFile(file) as opened:
                for number in _row_groups(opened, source.event, period):
                    for batch in opened.iter_batches(ROWS_PER_BATCH, row_groups=[number], columns=source.read):
                        frame = pl.from_arrow(batch)
                        assert isinstance(frame, pl.DataFrame)
                        frame = frame.select(*wanted, event.alias(EVENT), created.alias(CREATED))
                        looked_at(batch.num_rows)
                        yield _plain_strings(frame.filter(period.filter(EVENT)))
        except (pa.ArrowException, OSError) as error:
            raise UnusableSource(f"{file} cannot be read as Parquet ({error}): restore it or write it again") from error


def newest(frames: Iterator[pl.DataFrame], keys: Sequence[str], rows_in_memory: int) -> Iterator[pl.DataFrame]:
    """Of each key the row with the greatest (EVENT, CREATED), the last one of those that agree in both.

    Rows without a key are left out: they belong to nobody. If there are more than `rows_in_memory / 2` keys, a key may
    come more than once; each time with the newest row since the last time.
    """
    held: list[pl.DataFrame] = []
    for frame in frames:
        held.append(frame)
        if sum(part.height for part in held) >= rows_in_memory:
            reduced = _newest(pl.concat(held), keys)
            held = [reduced]
            if reduced.height > rows_in_memory / 2:
                yield reduced
                held = []
    if held:
        yield _newest(pl.concat(held), keys)


def _newest(rows: pl.DataFrame, keys: Sequence[str]) -> pl.DataFrame:
    ranked = rows.select(*keys, EVENT, CREATED).with_row_index(_ROW).drop_nulls(list(keys))
    ranked = ranked.sort(EVENT, CREATED, maintain_order=True)
    ranked = ranked.unique(list(keys), keep="last", maintain_order=True) if keys else ranked.tail(1)
    return rows[ranked[_ROW].sort()]


def _row_groups(opened: pq.ParquetFile, event: str, period: Period) -> list[int]:
    """The row groups that may hold an event time in `period`, by their statistics."""
    index = opened.schema_arrow.get_field_index(event)
    leaf = next(n for n in range(len(opened.schema)) if opened.schema.column(n).path == event) if index >= 0 else None
    return [
        number
        for number in range(opened.metadata.num_row_groups)
        if leaf is None or _may_touch(opened.metadata.row_group(number).column(leaf).statistics, period)
    ]


def _may_touch(statistics: pq.Statistics | None, period: Period) -> bool:
    if statistics is None or not statistics.has_min_max or not isinstance(statistics.min, datetime):
        return True
    first, last = (time if time.tzinfo else time.replace(tzinfo=UTC) for time in (statistics.min, statistics.max))
    return (period.start is None or last >= period.start) and (period.end is None or first <= period.end)


def _plain_strings(frame: pl.DataFrame) -> pl.DataFrame:
    dictionaries = [name for name, kind in frame.schema.items() if isinstance(kind, pl.Categorical | pl.Enum)]
    return frame.with_columns(pl.col(dictionaries).cast(pl.String)) if dictionaries else frame

"""Tables of Parquet files, one file per UTC day, in which a window of time is replaced atomically.

Everything that the pipelines keep (orders, quarantine, tiles, feature rows, predictions) is such a table, so that
idempotence, atomicity and pruning are solved once: `replace` writes beside and renames, and writing the same rows
twice gives the same content.
"""

from __future__ import annotations

import fcntl
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import polars as pl

from feature_repo.files import replace_file
from feature_repo.window import DAY, HOUR, Window

TIMESTAMP = pl.Datetime("us", "UTC")
"""Microseconds: with nanoseconds, the pandas default, Feast's materialisation raises."""

COMPRESSION_LEVEL = 1
"""Zstandard at its fastest: files a fifth larger than at level 3, written in three quarters of the time."""


class CorruptPartition(ValueError):
    """A partition file cannot be read or has another schema than its table; the message names the file."""


def require_readable(files: Sequence[Path], mend: str = "") -> None:
    """Read files to the last byte. Their schema is in the footer, so damage before it shows only then.

    Parameters
    ----------
    files : sequence of Path
    mend : str
        What to do about a damaged one, where it is not to be restored; see `PartitionedTable`.

    Raises
    ------
    CorruptPartition
        One cannot be read.
    """
    for path in files:
        try:
            pl.read_parquet(path, hive_partitioning=False)
        except (pl.exceptions.PolarsError, OSError) as error:
            raise CorruptPartition(f"{path} cannot be read ({error}): {_advice(path, mend)}") from error


def _advice(path: Path, mend: str) -> str:
    restore = "restore it from a copy"
    if not mend:
        return restore
    day = datetime.fromisoformat(path.parent.name.removeprefix("day=") + "T00:00+00:00")
    bounds = {"before": day - HOUR, "start": day, "end": day + DAY}
    return f"{restore}, or {mend.format(**{name: bound.isoformat() for name, bound in bounds.items()})}"


class PartitionedTable:
    """A directory of `day=YYYY-MM-DD/rows.parquet` files.

    Parameters
    ----------
    root : Path
        Its directory; made by the first write.
    time_column : str
        The column of type `TIMESTAMP` that decides a row's partition.
    schema : mapping of str to polars data type
        Names and types of all columns, in order.
    sort_by : sequence of str
        Columns that order the rows of a file; together they should identify a row.
    mend : str
        What makes a damaged file again, beside restoring it, with `{start}` and `{end}` for the bounds of its day and
        `{before}` for an hour before it.
    durable : bool
        Wait for the disk at each write: for what nothing can make again.
    """

    def __init__(
        self,
        root: Path,
        time_column: str,
        schema: Mapping[str, pl.DataType],
        sort_by: Sequence[str],
        mend: str = "",
        durable: bool = False,
    ) -> None:
        self.root = root
        self.time_column = time_column
        self.schema = pl.Schema(schema)
        self.sort_by = list(sort_by)
        self.mend, self.durable = mend, durable

    def file(self, day: datetime) -> Path:
        """Where the rows of one UTC day are kept."""
        return self.root / f"day={day:%Y-%m-%d}" / "rows.parquet"

    def files(self, window: Window | None = None) -> list[Path]:
        """The existing files, oldest first; only those of the days that `window` touches, if one is given."""
        if window is None:
            return sorted(self.root.glob("day=*/rows.parquet"))
        return [path for day in window.days() if (path := self.file(day)).exists()]

    def scan(self, window: Window | None = None) -> pl.LazyFrame:
        """The rows of `window` (all rows without one), lazily.

        Raises
        ------
        CorruptPartition
            A file is damaged or has another schema.
        """
        files = self.files(window)
        for path in files:
            self._check(path)
        frame = pl.scan_parquet(files, hive_partitioning=False) if files else pl.LazyFrame(schema=self.schema)
        if window is None:
            return frame
        return frame.filter(pl.col(self.time_column).is_between(window.start, window.end, closed="left"))

    def read(self, window: Window | None = None) -> pl.DataFrame:
        """The rows of `window` (all rows without one), ordered by `sort_by`."""
        try:
            return self.scan(window).sort(self.sort_by).collect()
        except pl.exceptions.PolarsError:
            require_readable(self.files(window), self.mend)
            raise

    def replace(self, window: Window, frame: pl.DataFrame) -> int:
        """Make `frame` the rows of `window`, and return their number. Rows outside of the window are untouched.

        Each day's file changes in one rename. A process killed between two days leaves whole files, old and new, and
        running the step again completes it.

        Raises
        ------
        ValueError
            A row of `frame` lies outside of the window, or a column is missing or has another type.
        """
        rows = self._conform(frame)
        times = rows[self.time_column]
        if rows.height and (times.null_count() or times.min() < window.start or times.max() >= window.end):  # type: ignore[operator]
            span = " to ".join(str(bound) for bound in (times.min(), times.max()))
            raise ValueError(
                f"{self.root.name}: rows from {span} ({times.null_count()} without a time) "
                f"do not fit into the window {window}"
            )
        # A stable sort of what is in order already, as computed rows are, costs next to nothing.
        rows = rows.sort(self.time_column, maintain_order=True)
        midnights = [*window.days()]
        bounds = pl.Series([*midnights, midnights[-1] + DAY], dtype=TIMESTAMP)
        first = rows[self.time_column].search_sorted(bounds, side="left")
        with self._locked():
            for number, day in enumerate(midnights):
                self._replace_day(day, window, rows[first[number] : first[number + 1]])
        return rows.height

    def would_change(self, window: Window, frame: pl.DataFrame) -> bool:
        """Whether `replace` would give the window another content; so it is where that cannot be read."""
        rows = self._conform(frame)
        try:
            return not self.read(window).sort(rows.columns).equals(rows.sort(rows.columns))
        except CorruptPartition:
            return True

    def forget_before(self, day: datetime) -> None:
        """Delete the rows of the days before this one."""
        with self._locked():
            for path in self.files():
                if path < self.file(day):
                    path.unlink()

    def content_hash(self, window: Window | None = None) -> str:
        """SHA-256 of the rows, whatever files they are in: equal if and only if the content is equal."""
        digest = hashlib.sha256()
        digest.update(repr(list(self.schema.items())).encode())
        for column in self.read(window).iter_columns():
            digest.update(column.rechunk().to_frame().write_ipc(None, compat_level=pl.CompatLevel.oldest()).getvalue())
        return digest.hexdigest()

    def _replace_day(self, day: datetime, window: Window, rows: pl.DataFrame) -> None:
        path = self.file(day)
        whole = window.start <= day and day + DAY <= window.end
        if path.exists() and not whole:
            inside = pl.col(self.time_column).is_between(window.start, window.end, closed="left")
            rows = pl.concat([self._load(path).filter(~inside), rows])
        if rows.height:
            self._write(path, rows.sort(self.sort_by, maintain_order=True))
        else:
            path.unlink(missing_ok=True)

    def _conform(self, frame: pl.DataFrame) -> pl.DataFrame:
        missing = [name for name in self.schema if name not in frame.columns]
        if missing:
            raise ValueError(f"{self.root.name}: columns {missing} are missing")
        rows = frame.select(list(self.schema))
        wrong = {name: (rows.schema[name], kind) for name, kind in self.schema.items() if rows.schema[name] != kind}
        if wrong:
            raise ValueError(f"{self.root.name}: wrong column types (found, expected): {wrong}")
        return rows

    def _check(self, path: Path) -> None:
        try:
            found = pl.read_parquet_schema(path)
        except (pl.exceptions.PolarsError, OSError) as error:
            raise CorruptPartition(f"{path} cannot be read ({error}): {_advice(path, self.mend)}") from error
        if dict(found) != dict(self.schema):
            wrong = {
                name: (found.get(name), self.schema.get(name))
                for name in [*self.schema, *found]
                if found.get(name) != self.schema.get(name)
            }
            raise CorruptPartition(
                f"{path} has another schema than its table (found, expected): {wrong}: {_advice(path, self.mend)}"
            )

    def _load(self, path: Path) -> pl.DataFrame:
        self._check(path)
        try:
            return pl.read_parquet(path, hive_partitioning=False).select(list(self.schema))
        except (pl.exceptions.PolarsError, OSError) as error:
            raise CorruptPartition(f"{path} cannot be read ({error}): {_advice(path, self.mend)}") from error

    def _write(self, path: Path, content: pl.DataFrame) -> None:
        def write(temporary: Path) -> None:
            content.write_parquet(temporary, compression="zstd", compression_level=COMPRESSION_LEVEL, statistics=True)

        replace_file(path, write, self.durable)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

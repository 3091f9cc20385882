"""Reading and writing the Parquet files behind a Feast `FileSource`: a directory, a glob, or one file.

What Feast's own stores pass over silently or fail on far from the cause (a damaged file, a naive time stamp, an absent
directory) is decided here, with the name of the file in the message.
"""

from __future__ import annotations

import fcntl
import glob
import os
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TypeVar

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

TIMESTAMP = pl.Datetime("us", "UTC")
DAY_DIRECTORY = "day="
ATTEMPTS = 5
Read = TypeVar("Read")


class UnusableSource(ValueError):
    """A source's file is damaged, lacks a column, or has a type that cannot be joined safely; the message names it."""


@dataclass(frozen=True, slots=True)
class Period:
    """The instants `start <= t <= end`, both inclusive as in Feast; None leaves a side open."""

    start: datetime | None = None
    end: datetime | None = None

    def touches(self, day: date) -> bool:
        """Whether any instant of this UTC day lies in the period."""
        after_start = self.start is None or day >= self.start.astimezone(UTC).date()
        return after_start and (self.end is None or day <= self.end.astimezone(UTC).date())

    def filter(self, column: str) -> pl.Expr:
        """The rows whose `column` lies in the period."""
        condition = pl.col(column).is_not_null()
        if self.start is not None:
            condition &= pl.col(column) >= self.start.astimezone(UTC)
        if self.end is not None:
            condition &= pl.col(column) <= self.end.astimezone(UTC)
        return condition


def files_of(path: str, period: Period | None = None) -> list[str]:
    """The Parquet files that a source's path stands for, in a fixed order.

    Parameters
    ----------
    path : str
        A file, a glob, a directory (searched at every depth; hidden names and `_names` are left out), or a remote URI,
        which is returned as it is.
    period : Period, optional
        Leave out files in a `day=YYYY-MM-DD` directory that the period does not touch.
    """
    if "://" in path:
        return [path]
    if glob.has_magic(path):
        found = sorted(glob.glob(path, recursive=True))  # noqa: PTH207 (absolute patterns)
    elif Path(path).is_dir():
        found = sorted(str(file) for file in Path(path).rglob("*.parquet") if not _is_hidden(file.relative_to(path)))
    else:
        found = [path] if Path(path).exists() else []
    return found if period is None else [file for file in found if _day_touches(file, period)]


def scan(files: Sequence[str], columns: Sequence[str], times: Sequence[str]) -> pl.LazyFrame:
    """Lazily read `columns` of `files`, with `times` among them as microseconds in UTC.

    Raises
    ------
    UnusableSource
        See the class.
    """
    schema: dict[str, pl.DataType] = {}
    for file in files:
        found = check_file(file, columns, times)
        changed = {name: (found[name], kind) for name, kind in schema.items() if found[name] != kind}
        if changed:
            raise UnusableSource(f"{file}: other column types than the files before it (found, before): {changed}")
        schema = found
    frame = pl.scan_parquet(list(files), hive_partitioning=False, extra_columns="ignore")
    return frame.select(list(columns)).with_columns(pl.col(name).cast(TIMESTAMP) for name in times)


def read_unchanged(list_files: Callable[[], list[str]], read: Callable[[list[str]], Read]) -> Read:
    """What `read` makes of the files, all of it from the same state of them.

    Files are replaced by renaming, so each is whole at any time; but who opens one twice, or several after each other,
    can see a run of the pipeline happen in between. Then everything is read again.

    Raises
    ------
    UnusableSource
        The files change faster than they can be read, or `read` says so.
    """
    for _ in range(ATTEMPTS):
        files = list_files()
        before = _states(files)
        try:
            found = read(files)
        except (UnusableSource, pl.exceptions.PolarsError, OSError):
            if _states(list_files()) == before:
                raise
            continue
        if _states(list_files()) == before:
            return found
    raise UnusableSource(
        f"{Path(files[0]).parent}: files changed {ATTEMPTS} times while they were read: try again later"
    )


def _states(files: Sequence[str]) -> dict[str, tuple[int, int, int] | None]:
    """What changes with a file's content, by file; nothing for remote ones, which are read as they are."""
    return {file: _state(file) for file in files if "://" not in file}


def _state(file: str) -> tuple[int, int, int] | None:
    try:
        found = Path(file).stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def check_file(file: str, columns: Sequence[str], times: Sequence[str]) -> dict[str, pl.DataType]:
    """The types of `columns` in one file, read from its footer.

    Raises
    ------
    UnusableSource
        See the class.
    """
    try:
        found = pl.read_parquet_schema(file)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise UnusableSource(f"{file} cannot be read as Parquet ({error}): restore it or write it again") from error
    missing = [name for name in columns if name not in found]
    if missing:
        raise UnusableSource(f"{file} has no columns {missing}, only {list(found)}: write it again")
    for name in times:
        _check_time(file, name, found[name])
    return {name: found[name] for name in columns}


def _check_time(file: str, name: str, kind: pl.DataType) -> None:
    if not isinstance(kind, pl.Datetime):
        raise UnusableSource(f"{file}: {name} is {kind}, not a time stamp: write it as microseconds in UTC")
    if kind.time_zone is None:
        raise UnusableSource(f"{file}: {name} has no time zone, so its instants are unknown: write it in UTC")
    if kind.time_unit == "ns":
        raise UnusableSource(f"{file}: {name} is in nanoseconds, which Feast cannot materialise: write microseconds")


def write_atomically(table: pa.Table, file: Path) -> None:
    """Write `table` beside `file` and rename it into place."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{file.name}-", suffix=".tmp", dir=file.parent)
    os.close(handle)
    try:
        pq.write_table(table, name, compression="zstd", coerce_timestamps="us", allow_truncated_timestamps=True)
        Path(name).replace(file)
    finally:
        Path(name).unlink(missing_ok=True)


def append(table: pa.Table, path: str, time_column: str, day_partitions: bool) -> None:
    """Add rows to a source: one new file in a directory, or the whole file again for a source of one file.

    Raises
    ------
    UnusableSource
        The path is a glob or remote, so it does not say where new rows belong.
    """
    if "://" in path or glob.has_magic(path):
        raise UnusableSource(f"{path} does not say where new rows belong: give the source a directory or one file")
    target = Path(path)
    if target.suffix == ".parquet":
        with _locked(target):
            kept = [pq.read_table(target, partitioning=None)] if target.exists() else []
            write_atomically(pa.concat_tables([*(part.cast(table.schema) for part in kept), table]), target)
        return
    name = f"batch-{uuid.uuid4().hex}.parquet"
    parts = _by_day(table, time_column) if day_partitions else {"": table}
    for directory, part in parts.items():
        write_atomically(part, target / directory / name)


def _by_day(table: pa.Table, time_column: str) -> Mapping[str, pa.Table]:
    times = pl.Series(table[time_column]).dt.convert_time_zone("UTC")
    days = times.dt.date()
    return {
        f"{DAY_DIRECTORY}{day}": table.filter(pa.array((days == day).to_list()))
        for day in days.unique().sort().to_list()
    }


def _is_hidden(relative: Path) -> bool:
    return any(part.startswith((".", "_")) for part in relative.parts)


def _day_touches(file: str, period: Period) -> bool:
    for part in Path(file).parts[:-1]:
        if part.startswith(DAY_DIRECTORY):
            try:
                return period.touches(date.fromisoformat(part.removeprefix(DAY_DIRECTORY)))
            except ValueError:
                return True
    return True


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.with_name(f".{file.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield

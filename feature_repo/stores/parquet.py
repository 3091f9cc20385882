"""Reading and writing the Parquet files behind a Feast `FileSource`: a directory, a glob, or one file.

What Feast's own stores pass over silently or fail on far from the cause (a damaged file, a naive time stamp, an absent
directory) is decided here, with the name of the file in the message.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import secrets
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

TIMESTAMP = pl.Datetime("us", "UTC")
DAY_DIRECTORY = "day="
ATTEMPTS = 5
Read = TypeVar("Read")


class UnusableSource(ValueError):
    """A source's file is damaged, lacks a column, or has a type that cannot be joined safely; the message names it."""


class UnwritableSource(OSError):
    """A source's file cannot be written (disk full, no permission, ...); what was there is as before."""


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
    """Lazily read `columns` of `files`, with `times` among them as microseconds in UTC; naive ones are UTC.

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
    if kind.time_unit == "ns":
        finer = pl.scan_parquet(file, hive_partitioning=False).select((pl.col(name).dt.nanosecond() % 1000 != 0).any())
        if finer.collect().item():
            raise UnusableSource(f"{file}: {name} is finer than microseconds, which all stores keep: round it to them")


def write_atomically(table: pa.Table, file: Path) -> None:
    """As `write_all`, for one file."""
    write_all({file: table})


def write_all(tables: Mapping[Path, pa.Table]) -> None:
    """Write each table beside its file, and rename them into place when all are written.

    Raises
    ------
    UnwritableSource
        See the class.
    """
    written: dict[Path, Path] = {}
    try:
        for file, table in tables.items():
            with _told(file):
                file.parent.mkdir(parents=True, exist_ok=True)
                written[file] = file.with_name(f".{file.name}-{secrets.token_hex(6)}.tmp")
                pq.write_table(table, written[file], compression="zstd")
        for file, beside in written.items():
            with _told(file):
                beside.replace(file)
    finally:
        for beside in written.values():
            beside.unlink(missing_ok=True)


def in_microseconds(table: pa.Table) -> pa.Table:
    """`table` with every time stamp as microseconds in UTC; what is finer is cut off."""
    stamp = pa.timestamp("us", "UTC")
    fields = [field.with_type(stamp) if pa.types.is_timestamp(field.type) else field for field in table.schema]
    return table.cast(pa.schema(fields), safe=False)


def append(fitted: Callable[[pa.Schema | None], pa.Table], path: str, time_column: str, day_partitions: bool) -> int:
    """Add rows to a source: one new file in a directory, or the whole file again for a source of one file.

    Parameters
    ----------
    fitted : callable
        Given the schema of the source's files, or None if there is none, the rows to add in that schema; raises if
        they do not fit, and then nothing is written.

    Returns
    -------
    int
        Rows added.

    Raises
    ------
    UnusableSource
        The path is a glob or remote, so it does not say where new rows belong; or the one file is damaged.
    UnwritableSource
        See the class.
    """
    if "://" in path or glob.has_magic(path):
        raise UnusableSource(f"{path} does not say where new rows belong: give the source a directory or one file")
    if Path(path).is_file() or (Path(path).suffix == ".parquet" and not Path(path).is_dir()):
        return _append_to_file(fitted, Path(path))
    first = next(iter(files_of(path)), None)
    table = fitted(_whole(first, pq.read_schema) if first else None)
    name = f"batch-{uuid.uuid4().hex}.parquet"
    parts = _by_day(table, time_column) if day_partitions else {"": table}
    if table.num_rows:
        write_all({Path(path) / directory / name: part for directory, part in parts.items()})
    return int(table.num_rows)


def _append_to_file(fitted: Callable[[pa.Schema | None], pa.Table], target: Path) -> int:
    with _locked(target):
        kept = _whole(str(target), partial(pq.read_table, partitioning=None)) if target.exists() else None
        added = fitted(kept.schema if kept is not None else None)
        if added.num_rows:
            parts = [added] if kept is None else [kept, added]
            write_atomically(pa.concat_tables(parts, promote_options="default"), target)
    return int(added.num_rows)


def _whole(file: str, read: Callable[[str], Any]) -> Any:
    try:
        return read(file)
    except (pa.ArrowException, OSError) as error:
        raise UnusableSource(f"{file} cannot be read as Parquet ({error}): restore it or write it again") from error


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
    with _told(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = file.with_name(f".{file.name}.lock").open("w")
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


_REMEDIES = {
    errno.ENOSPC: "free space there",
    errno.EDQUOT: "free space there, or raise the quota",
    errno.EACCES: "give this user the right to write there",
    errno.EPERM: "give this user the right to write there",
    errno.EROFS: "it is mounted read-only: write elsewhere, or mount it again",
    errno.ENOTDIR: "a part of that path is a file: move it away",
    errno.EEXIST: "a part of that path is a file: move it away",
}


@contextmanager
def _told(file: Path) -> Iterator[None]:
    try:
        yield
    except UnwritableSource:
        raise
    except OSError as error:
        number = error.errno or 0
        remedy = _REMEDIES.get(number, "look at the disk")
        cause = error.strerror or error
        message = (
            f"{file} cannot be written ({cause}): {remedy}, and write the same rows again; what was there is whole"
        )
        raise UnwritableSource(number, message) from error

"""Writing a file so that it is there whole or not at all, and stays: beside its place, to the disk, renamed.

What a killed writer leaves beside is removed by the next one in the same folder. A writer holds a lock on its own
temporary file, which the operating system frees with the process, so nobody removes what is still being written.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_SUFFIX = ".tmp"


class DiskFull(OSError):
    """There was no room for a file; the message says which, and what to do. Its place is as it was."""


def replace_file(path: Path, write: Callable[[Path], Any], durable: bool = False) -> None:
    """Write a file beside its place and rename it into place, with the permissions that the umask leaves.

    Parameters
    ----------
    path : Path
        Its folder is made if there is none.
    write : callable
        Gets the path of the temporary file, which exists and is empty, and fills it.
    durable : bool
        Wait until the content is on the disk, so that it is there after a power failure, too: for what nothing can
        make again.

    Raises
    ------
    DiskFull
        There is no room for it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path.parent)
    with _temporary(path) as (handle, temporary):
        try:
            write(temporary)
            if durable:
                os.fsync(handle)
        except Exception as error:
            if _is_full(error):
                raise DiskFull(
                    f"no room on the disk for {path} ({error}): it is as it was. Make room, then run the same again"
                ) from error
            raise
        temporary.replace(path)
    if durable:
        _sync_folder(path.parent)


def write_atomically(path: Path, text: str, durable: bool = False) -> None:
    """Write a text file with `replace_file`."""
    replace_file(path, lambda temporary: temporary.write_text(text), durable)


def forget_older(folder: Path, pattern: str, newest: str) -> None:
    """Delete the files of a folder whose names, in which time ascends, come before a name."""
    for path in folder.glob(pattern):
        if path.name < newest:
            path.unlink(missing_ok=True)


@contextmanager
def _temporary(path: Path) -> Iterator[tuple[int, Path]]:
    while True:
        temporary = path.with_name(f".{path.name}-{secrets.token_hex(6)}{_SUFFIX}")
        handle = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if temporary.exists():  # else it was taken for an abandoned one before it was locked
                yield handle, temporary
                return
        finally:
            temporary.unlink(missing_ok=True)
            os.close(handle)


def _remove_abandoned(folder: Path) -> None:
    """Remove temporary files that no living process writes."""
    for path in folder.glob(f".*-*{_SUFFIX}"):
        try:
            with path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink(missing_ok=True)
        except OSError:  # somebody writes it, or has just renamed it
            continue


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _is_full(error: Exception) -> bool:
    number = getattr(error, "errno", None)
    return number in (errno.ENOSPC, errno.EDQUOT) or os.strerror(errno.ENOSPC) in str(error)

"""One run at a time: a lock file per installation, with the name of whoever holds it."""

from __future__ import annotations

import fcntl
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from config import Settings

logger = logging.getLogger(__name__)

WAIT_SECONDS = 600.0
POLL_SECONDS = 0.2
_of_this_thread = threading.local()


class AnotherRunHolds(RuntimeError):
    """Another process has held the lock for too long; the message names it."""


@contextmanager
def exclusive(settings: Settings, name: str, purpose: str, wait_seconds: float = WAIT_SECONDS) -> Iterator[None]:
    """Hold a lock while the block runs. The operating system frees it when the process dies.

    A thread that holds it may ask for it again, so that several steps can be one for everybody else.

    Parameters
    ----------
    settings : Settings
    name : str
        Which lock; locks of different names are independent.
    purpose : str
        What this process does, for the message that another one shows while it waits.
    wait_seconds : float
        How long to wait for another holder.

    Raises
    ------
    AnotherRunHolds
        It still has the lock after that time.
    """
    path = settings.staging / f".{name}.lock"
    if path in _held():
        yield
        return
    settings.staging.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        _acquire(file, name, wait_seconds)
        file.truncate(0)
        file.write(f"process {os.getpid()}: {purpose}")
        file.flush()
        _held().add(path)
        try:
            yield
        finally:
            _held().remove(path)


def holder_of(settings: Settings, name: str) -> str | None:
    """Who holds a lock now, in words; None if nobody does."""
    path = settings.staging / f".{name}.lock"
    if not path.exists():
        return None
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return _holder(file)
    return None


def _held() -> set[Path]:
    """The locks that this thread holds."""
    if not hasattr(_of_this_thread, "held"):
        _of_this_thread.held = set()
    held: set[Path] = _of_this_thread.held
    return held


def _holder(file: TextIO) -> str:
    file.seek(0)
    return file.read() or "a process that has just started"


def _acquire(file: TextIO, name: str, wait_seconds: float) -> None:
    deadline = time.monotonic() + wait_seconds
    told = False
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(file)
        if time.monotonic() >= deadline:
            raise AnotherRunHolds(
                f"another run holds the {name} lock after {wait_seconds:.0f} s ({holder}): wait for it, or end it"
            )
        if not told:
            logger.warning("another run holds the %s lock (%s): waiting for it", name, holder)
            told = True
        time.sleep(POLL_SECONDS)

"""The one way in which tests wait for another thread or process: until a condition holds, never for a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

GENEROUS_SECONDS = 120.0
"""Far more than anything here takes, also on a machine whose cores are busy; only a failing test waits as long."""

T = TypeVar("T")


def wait_until(
    condition: Callable[[], T],
    why: str,
    *,
    seconds: float = GENEROUS_SECONDS,
    pause: float = 0.02,
    detail: Callable[[], object] = str,
) -> T:
    """Ask until the answer is true, and return it.

    Parameters
    ----------
    condition : callable
        What is asked; an exception of it ends the test.
    why : str
        What is waited for, as the failure says it.
    seconds, pause : float
        How long at most, and how long between two questions.
    detail : callable
        What a failure shows besides, such as a log.

    Raises
    ------
    AssertionError
        It was not true in time.
    """
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"after {seconds:.0f} s still waiting for: {why}\n{detail()}"
        time.sleep(pause)
    return found

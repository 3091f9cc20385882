"""A thread that works off what others leave for it."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod

__all__ = ["Worker"]


class Worker(ABC):
    """Starts and ends a thread of this name; `_condition` guards what is left for it and `_stopping`."""

    def __init__(self, name: str) -> None:
        self._condition = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def stop(self) -> None:
        """Finish what waits, and end."""
        with self._condition:
            self._stopping = True
            self._condition.notify()
        if self._thread.is_alive():
            self._thread.join()

    @abstractmethod
    def _run(self) -> None:
        """Work until `_stopping` is set and nothing waits any more."""

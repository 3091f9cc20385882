"""A thread that works off what others leave for it, and outlives what it runs into."""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod

__all__ = ["Worker"]

logger = logging.getLogger(__name__)

PAUSE_SECONDS = 1.0
"""After a fault, so that one that stays does not turn in a circle."""


class Worker(ABC):
    """Starts and ends a thread of this name; `_condition` guards what is left for it and `_stopping`."""

    def __init__(self, name: str) -> None:
        self._condition = threading.Condition()
        self._stopping = False
        self.faults = 0
        self._thread = threading.Thread(target=self._keep_running, name=name, daemon=True)

    @property
    def is_dead(self) -> bool:
        """Whether it was started and has ended without being told to."""
        return self._thread.ident is not None and not self._thread.is_alive() and not self._stopping

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

    def _keep_running(self) -> None:
        try:
            while True:
                try:
                    return self._run()
                except Exception:  # whatever it is, what comes after it must not be lost
                    self.faults += 1
                    logger.exception("ALARM: the thread %s ran into a fault and goes on", self._thread.name)
                with self._condition:
                    if self._stopping:
                        return
                    self._condition.wait(PAUSE_SECONDS)
        finally:
            if not self._stopping:
                logger.error("ALARM: the thread %s has ended: restart the process", self._thread.name)

    @abstractmethod
    def _run(self) -> None:
        """Work until `_stopping` is set and nothing waits any more."""

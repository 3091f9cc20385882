"""What can go wrong in the simulator; each message says what to do."""

from __future__ import annotations

__all__ = ["SimulatorBusy", "SimulatorError"]


class SimulatorError(Exception):
    """The request makes no sense for this landing folder: wrong instant, wrong owner, nothing to continue."""


class SimulatorBusy(SimulatorError):
    """Another simulator writes to the same landing folder now."""

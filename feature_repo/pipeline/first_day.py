"""Why there is nothing to do in a new installation, which is no fault; before anything has failed."""

from __future__ import annotations

from config import Settings
from feature_repo.window import Window


def nothing_landed(window: Window, settings: Settings) -> str | None:
    """Why the window has no orders and cannot have any: none have landed yet, or all of them later."""
    from feature_repo.transforms.coverage import landed_since, read_coverage

    if read_coverage(settings) is not None:
        return None
    begin = landed_since(settings)
    if begin is None:
        return "no orders have landed yet: bring some in with `make ingest`, or start the simulator"
    if begin >= window.end:
        return f"orders have landed since {begin.isoformat()} only: the run of the hour after computes them"
    return None


def nothing_computed(settings: Settings) -> str | None:
    """Why there are no features yet."""
    from feature_repo.transforms.coverage import read_coverage

    if read_coverage(settings) is None:
        return "no features have been computed yet: the first run of feature_pipeline does it, of all that has landed"
    return None

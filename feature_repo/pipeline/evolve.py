"""A view that is defined anew, and features that are new: computed for the hours that are covered."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial

import polars as pl

from config import Settings
from feature_repo.locking import exclusive
from feature_repo.pipeline.errors import Progress, Result, failures_of, stopped
from feature_repo.window import HOUR, Window

logger = logging.getLogger(__name__)


def rebuild(view: str, settings: Settings, progress: Progress = logger.info) -> Result:
    """Compute all covered hours of one view anew under the code's definition, and put them in place of its tables.

    The old tables are kept beside. Call `apply` and `materialize` afterwards.

    Raises
    ------
    BatchStopped
        Validation refused the new rows. The tables are as they were.
    """
    from feature_repo.transforms import evolution

    with exclusive(settings, "run", f"rebuilding {view}"), exclusive(settings, "tables", f"rebuilding {view}"):
        return evolution.rebuild(view, settings, _require_valid, progress)


def backfill_features(
    names: Sequence[str], start: datetime | None, settings: Settings, progress: Progress = logger.info
) -> list[Result]:
    """Compute new features, and nothing else, for the hours from `start` (all covered ones without) to the last.

    Parameters
    ----------
    names : sequence of str
        As `view.feature`.
    start : datetime or None
        A full hour. The rows before it have null there, as `versions.available_from` tells.
    settings : Settings
    progress : callable, optional

    Returns
    -------
    list of dict
        By view: `view`, `features`, `rows`, and where its former tables are `kept`.

    Raises
    ------
    BatchStopped
        Validation refused the new rows. The tables are as they were.
    DefinitionChanged
        More than these features differs.
    ValueError
        A name is not of that form.
    """
    from feature_repo.transforms import evolution

    views: dict[str, list[str]] = {}
    for name in names:
        view, dot, feature = name.partition(".")
        if not dot:
            raise ValueError(f"{name!r} does not name a feature: write it as VIEW.FEATURE")
        views.setdefault(view, []).append(feature)
    purpose = f"backfilling {', '.join(names)}"
    with exclusive(settings, "run", purpose), exclusive(settings, "tables", purpose):
        return [
            evolution.backfill_features(
                view, features, start, settings, _valid_from(view, features, start, settings), progress
            )
            for view, features in views.items()
        ]


def _valid_from(view: str, new: Sequence[str], start: datetime | None, settings: Settings) -> Callable[..., None]:
    """`_require_valid` for rows in which new features begin at `start`, and earlier ones where they once began."""
    from feature_repo.transforms import versions
    from feature_repo.transforms.views import TRANSFORMS

    known = TRANSFORMS[view].features if view in TRANSFORMS else {}
    begins = {name: versions.available_from(view, name, settings) for name in known if name not in new}
    if start is not None:
        begins |= dict.fromkeys(new, start + HOUR)
    return partial(_require_valid, available={name: at for name, at in begins.items() if at is not None})


def _require_valid(
    view: str,
    rows: pl.DataFrame,
    window: Window,
    settings: Settings,
    available: Mapping[str, datetime] | None = None,
) -> None:
    from feature_repo.quality import features as quality

    report = quality.validate_features(view, rows, window, settings, available)
    if report.stopped:
        raise stopped(f"features of {view}", window, rows.height, str(settings.data_dir), failures_of(report))

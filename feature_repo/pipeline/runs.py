"""All steps for a window, one after the other; and the windows that nobody has run."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from itertools import pairwise

from config import Settings
from feature_repo.locking import exclusive
from feature_repo.pipeline.errors import BatchStopped, LandingLost, Progress, Result, stopped
from feature_repo.pipeline.online import audit_online, materialize
from feature_repo.pipeline.steps import (
    accept_orders,
    compute_features,
    ingest_orders,
    publish_features,
    quarantine_batch,
    validate_features,
    validate_orders,
)
from feature_repo.window import HOUR, Window, as_utc

logger = logging.getLogger(__name__)


def run_window(window: Window, settings: Settings, progress: Progress = logger.info) -> Result:
    """Do all steps for one window, the online store included, as the hourly DAG does: the hours before it first.

    Raises
    ------
    BatchStopped
        Validation refused the orders or the features. The offline and online features are as they were.
    DefinitionChanged
        The rows on disk were made under other definitions. Nothing has been read.
    """
    close_gap(window, settings, progress)
    with exclusive(settings, "run", f"running {window}"):
        require_definitions(settings)
        results = _last_of(_run_pieces(window, settings, progress))
        results["materialize"] = materialize(window, settings)
        progress(f"{window}: {sum(results['materialize']['rows'].values())} entities online")
        results["audit"] = audit_online(window, settings)
    return results


def backfill(window: Window, settings: Settings, progress: Progress = logger.info, take_out: bool = False) -> Result:
    """Do all offline steps for a long window, a chunk of days at a time. Call `materialize` afterwards.

    Tiles and feature rows are exactly those that hourly runs would have made. An hour that validation would refuse by
    itself is refused here, too: the hours before it are complete then, those after it not begun.

    Parameters
    ----------
    window : Window
    settings : Settings
    progress : callable
    take_out : bool
        Versions of which the landing folder has none leave the lake. Without it they stay.

    Returns
    -------
    dict
        Sums over the chunks: `ingested`, which is `accepted` and `quarantined`; of these `found_late`, and `kept` that
        only the lake still had; `taken_out` of the lake; and `tiles`, `rows` by view.

    Raises
    ------
    BatchStopped
        Validation refused an hour, or a chunk. All before it is complete.
    DefinitionChanged
        The rows on disk were made under other definitions. Nothing has been read.
    """
    with exclusive(settings, "run", f"backfilling {window}"):
        return _fill(window, settings, progress, take_out)


def _fill(window: Window, settings: Settings, progress: Progress, take_out: bool = False) -> Result:
    from feature_repo.transforms.coverage import begin_anew, chunks

    counts = ("ingested", "accepted", "quarantined", "found_late", "kept", "taken_out")
    total: Result = {**dict.fromkeys(counts, 0), "tiles": {}, "rows": {}}
    with exclusive(settings, "tables", f"beginning with {window}"):
        begin_anew(window, settings)
    require_definitions(settings)
    for chunk in chunks(window):
        for results in _run_pieces(chunk, settings, progress, take_out):
            read, recorded = results["ingest_orders"], results["accept_orders"]
            total["ingested"] += read["rows"]
            for name in ("found_late", "kept", "taken_out"):
                total[name] += read[name]
            total["accepted"] += recorded["accepted"]
            total["quarantined"] += recorded["quarantined"]
            for kind in ("tiles", "rows"):
                for view, count in results["compute_features"][kind].items():
                    total[kind][view] = total[kind].get(view, 0) + count
    return total


def recompute_features(window: Window, settings: Settings, progress: Progress = logger.info) -> Result:
    """Compute and publish tiles and rows from the orders that are in the lake; the landing folder is not read."""
    from feature_repo.transforms.coverage import chunks

    total: Result = {"tiles": {}, "rows": {}}
    with exclusive(settings, "run", f"recomputing {window}"):
        for chunk in chunks(window):
            computed = _run_features(chunk, settings, progress)["compute_features"]
            for kind in ("tiles", "rows"):
                for view, count in computed[kind].items():
                    total[kind][view] = total[kind].get(view, 0) + count
    return total


def close_gap(window: Window, settings: Settings, progress: Progress = logger.info) -> Result:
    """Compute the hours before the window that no run has: after downtime, which Airflow skips, and on the first day.

    In an installation in which nothing has been computed, they are all that have landed. Each chunk of days counts as
    soon as it is done, so whoever is stopped under way goes on there the next time.

    Returns
    -------
    dict
        As `backfill`, and `gap`, the hours in words; empty when there are none.

    Raises
    ------
    BatchStopped
        Validation refused one of them, as it may have done before. Those before it are complete.
    CoverageLost
        Tables have rows, and nobody knows of which hours. Nothing has been read.
    DefinitionChanged
        The rows on disk were made under other definitions. Nothing has been read.
    RuleError
        The configuration names a rule or a severity that there is not.
    """
    from feature_repo.quality.rules import severities
    from feature_repo.transforms.coverage import left_out, not_computed_before, unpublished_before

    severities(settings)
    require_definitions(settings)
    if unused := left_out(settings):
        logger.warning(unused)
    if not_computed_before(window, settings) is None and not unpublished_before(window, settings):
        return {}
    with exclusive(settings, "run", f"computing the hours before {window}"):
        # Whoever held the lock may have computed them, or some.
        results: Result = {}
        for part in unpublished_before(window, settings):
            progress(f"{part}: its orders changed, its features were not published, which is done first")
            results = {"gap": str(part), **_fill(part, settings, progress)}
        if gap := not_computed_before(window, settings):
            progress(f"{gap}: not computed yet, which is done first")
            results = {"gap": str(gap), **_fill(gap, settings, progress)}
        return results


def refusals() -> tuple[type[Exception], ...]:
    """The errors of `close_gap` that a repetition cannot mend: a person has to."""
    from feature_repo.quality.rules import RuleError
    from feature_repo.transforms.coverage import CoverageLost
    from feature_repo.transforms.versions import DefinitionChanged

    return BatchStopped, CoverageLost, DefinitionChanged, LandingLost, RuleError


def require_definitions(settings: Settings) -> None:
    """Make sure that the code's definitions are those of the rows on disk.

    Raises
    ------
    DefinitionChanged
        They are not; the message says which, and what to do.
    """
    from feature_repo.transforms.evolution import settle

    with exclusive(settings, "tables", "looking at the definitions"):
        settle(settings)


def _run_pieces(window: Window, settings: Settings, progress: Progress, take_out: bool = False) -> Iterator[Result]:
    """Do the offline steps of a window, hours that are or were refused apart from the others."""
    from feature_repo.orders.refused import apart

    for piece in apart(window, settings):
        results: Result = {"ingest_orders": ingest_orders(piece, settings, take_out)}
        verdict = results["validate_orders"] = validate_orders(piece, settings)
        if not verdict["stopped"]:
            yield _run_offline(piece, results, settings, progress)
            continue
        hours = [Window(start, as_utc(start) + HOUR) for start in verdict["refused_hours"]]
        if not hours or piece == hours[0]:
            quarantined = quarantine_batch(piece, settings)
            raise stopped("orders", piece, quarantined["quarantined"], quarantined["where"], verdict["failures"])
        # Only the first matters: nothing is computed over a hole.
        for part in _around(hours[0], piece):
            yield from _run_pieces(part, settings, progress, take_out)


def _around(hour: Window, window: Window) -> list[Window]:
    bounds = sorted({window.start, hour.start, hour.end, window.end})
    return [Window(start, end) for start, end in pairwise(bounds)]


def _last_of(results: Iterable[Result]) -> Result:
    *_, last = results
    return last


def _run_offline(window: Window, results: Result, settings: Settings, progress: Progress) -> Result:
    """The steps after a validation that stopped nothing."""
    read, recorded = results["ingest_orders"], accept_orders(window, settings)
    results["accept_orders"] = recorded
    extra = {"found late": read["found_late"], "no longer landed, kept": read["kept"]}
    progress(
        f"{window}: {read['rows']} order versions = {recorded['accepted']} accepted + {recorded['quarantined']} "
        "quarantined" + "".join(f", {count} {what}" for what, count in extra.items() if count)
    )
    return results | _run_features(window, settings, progress)


def _run_features(window: Window, settings: Settings, progress: Progress) -> Result:
    results: Result = {"compute_features": compute_features(window, settings)}
    rows = sum(results["compute_features"]["rows"].values())
    verdict = results["validate_features"] = validate_features(window, settings)
    if verdict["stopped"]:
        raise stopped("features", window, rows, str(settings.staging / "features"), verdict["failures"])
    results["publish_features"] = publish_features(window, settings)
    progress(f"{window}: {rows} feature rows published")
    return results

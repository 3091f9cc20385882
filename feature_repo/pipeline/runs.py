"""All steps for a window, one after the other; and the windows that nobody has run."""

from __future__ import annotations

import logging

from config import Settings
from feature_repo.locking import exclusive
from feature_repo.pipeline.errors import Progress, Result, stopped
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
from feature_repo.window import Window

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
        results = _run_offline(window, settings, progress)
        results["materialize"] = materialize(window, settings)
        progress(f"{window}: {sum(results['materialize']['rows'].values())} entities online")
        results["audit"] = audit_online(window, settings)
    return results


def backfill(window: Window, settings: Settings, progress: Progress = logger.info) -> Result:
    """Do all offline steps for a long window, a chunk of days at a time. Call `materialize` afterwards.

    Tiles and feature rows are exactly those that hourly runs would have made.

    Returns
    -------
    dict
        Sums over the chunks: `ingested`, `found_late`, `accepted`, `quarantined`, and `tiles`, `rows` by view.

    Raises
    ------
    BatchStopped
        Validation refused a chunk. The chunks before it are complete.
    DefinitionChanged
        The rows on disk were made under other definitions. Nothing has been read.
    """
    with exclusive(settings, "run", f"backfilling {window}"):
        return _fill(window, settings, progress)


def _fill(window: Window, settings: Settings, progress: Progress) -> Result:
    from feature_repo.transforms.coverage import begin_anew, chunks

    total: Result = {"ingested": 0, "found_late": 0, "accepted": 0, "quarantined": 0, "tiles": {}, "rows": {}}
    with exclusive(settings, "tables", f"beginning with {window}"):
        begin_anew(window, settings)
    require_definitions(settings)
    for chunk in chunks(window):
        results = _run_offline(chunk, settings, progress)
        total["ingested"] += results["ingest_orders"]["rows"]
        total["found_late"] += results["ingest_orders"]["found_late"]
        total["accepted"] += results["accept_orders"]["accepted"]
        total["quarantined"] += results["accept_orders"]["quarantined"]
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
    CoverageLost
        Tables have rows, and nobody knows of which hours. Nothing has been read.
    DefinitionChanged
        The rows on disk were made under other definitions. Nothing has been read.
    RuleError
        The configuration names a rule or a severity that there is not.
    """
    from feature_repo.quality.rules import severities
    from feature_repo.transforms.coverage import left_out, not_computed_before

    severities(settings)
    require_definitions(settings)
    if unused := left_out(settings):
        logger.warning(unused)
    if not_computed_before(window, settings) is None:
        return {}
    with exclusive(settings, "run", f"computing the hours before {window}"):
        # Whoever held the lock may have computed them, or some.
        gap = not_computed_before(window, settings)
        if gap is None:
            return {}
        progress(f"{gap}: not computed yet, which is done first")
        return {"gap": str(gap), **_fill(gap, settings, progress)}


def refusals() -> tuple[type[Exception], ...]:
    """The errors of `close_gap` that a repetition cannot mend: a person has to."""
    from feature_repo.quality.rules import RuleError
    from feature_repo.transforms.coverage import CoverageLost
    from feature_repo.transforms.versions import DefinitionChanged

    return CoverageLost, DefinitionChanged, RuleError


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


def _run_offline(window: Window, settings: Settings, progress: Progress) -> Result:
    results: Result = {"ingest_orders": ingest_orders(window, settings)}
    verdict = results["validate_orders"] = validate_orders(window, settings)
    if verdict["stopped"]:
        quarantined = quarantine_batch(window, settings)
        raise stopped("orders", window, quarantined["quarantined"], quarantined["where"], verdict["failures"])
    progress(f"{window}: {verdict['accepted']} order versions accepted, {verdict['rejected']} quarantined")
    results["accept_orders"] = accept_orders(window, settings)
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

"""The steps of a window up to the offline store. Each can be run alone, and again."""

from __future__ import annotations

import polars as pl

from config import Settings
from feature_repo.locking import exclusive
from feature_repo.pipeline.errors import LandingLost, Result, failures_of
from feature_repo.pipeline.staging import (
    StagedViews,
    basis_file,
    forget_staged,
    load,
    note_basis,
    noted_basis,
    stage,
    staged_file,
)
from feature_repo.window import Window


def ingest_orders(window: Window, settings: Settings) -> Result:
    """Read the versions that the window brings in, and stage them.

    Raises
    ------
    SourceNotReady
        The landing folder is not complete up to the window's end.
    LandingLost
        It has nothing for a window of which the lake has orders: going on would delete them.
    RuleError
        The configuration names a rule or a severity that there is not.
    """
    from feature_repo.orders.landing import read_landing
    from feature_repo.quality.rules import severities

    severities(settings)

    forget_staged(window, settings)
    batch = read_landing(window, settings)
    if batch.is_empty():
        _require_nothing_in_lake(window, settings)
    staged = stage(batch, staged_file("orders", window, settings))
    return {"rows": batch.height, "found_late": int(batch["found_late"].sum()), "staged": str(staged)}


def validate_orders(window: Window, settings: Settings) -> Result:
    """Sort the staged versions into accepted and rejected ones, and say whether the batch as a whole is refused."""
    from feature_repo.quality import orders as quality
    from feature_repo.quality.datadocs import docs_index

    batch = load("orders", window, settings, made_by="ingest_orders")
    verdict = quality.validate_orders(batch, window, settings)
    stage(verdict.accepted, staged_file("accepted", window, settings))
    stage(verdict.rejected, staged_file("rejected", window, settings))
    if verdict.report.stopped:
        refused = quality.stopped_batch(batch, verdict.report, window)
        stage(refused, staged_file("refused", window, settings))
    return {
        "rows": batch.height,
        "accepted": verdict.accepted.height,
        "rejected": verdict.rejected.height,
        "stopped": bool(verdict.report.stopped),
        "failures": failures_of(verdict.report),
        "data_docs": str(docs_index(settings)),
    }


def accept_orders(window: Window, settings: Settings) -> Result:
    """Put accepted versions into the lake and rejected ones into quarantine, in place of the window's earlier ones."""
    from feature_repo.orders.schema import orders_table, quarantine_table

    accepted = load("accepted", window, settings, made_by="validate_orders")
    rejected = load("rejected", window, settings, made_by="validate_orders")
    with exclusive(settings, "tables", f"accepting orders of {window}"):
        quarantined = quarantine_table(settings).replace(window, rejected)
        rows = orders_table(settings).replace(window, accepted)
    return {"accepted": rows, "quarantined": quarantined}


def quarantine_batch(window: Window, settings: Settings) -> Result:
    """Put every version of a refused batch into quarantine, with the reason. The lake stays as it was."""
    from feature_repo.orders.schema import quarantine_table

    refused = load("refused", window, settings, made_by="validate_orders")
    with exclusive(settings, "tables", f"quarantining {window}"):
        rows = quarantine_table(settings).replace(window, refused)
    return {"quarantined": rows, "where": str(settings.quarantine / "orders")}


def compute_features(window: Window, settings: Settings) -> Result:
    """Compute the window's tiles and feature rows from the lake, and stage them.

    Raises
    ------
    DefinitionChanged
        The rows on disk were made under other definitions.
    HistoryMissing
        Hours before the window have not been computed.
    """
    from feature_repo.transforms import compute, publish
    from feature_repo.transforms.coverage import require_history
    from feature_repo.transforms.evolution import settle
    from feature_repo.transforms.versions import fingerprints

    forget_staged(window, settings)
    with exclusive(settings, "tables", f"computing features of {window}"):
        settle(settings)
        require_history(window, settings)
        # Without it nothing is published: a computation that fails half-way leaves views of two computations staged.
        basis_file(window, settings).unlink(missing_ok=True)
        seen = publish.rewrites(settings)
        tiles, heights = compute.compute_tiles(window, settings), {}
        for view, frame in tiles.items():
            # One view after the other: the rows of a chunk of a backfill need not fit into memory together.
            rows = compute.compute_rows(window, {view: frame}, settings)[view]
            heights[view] = rows.height
            stage(frame, staged_file(f"tiles/{view}", window, settings))
            stage(rows, staged_file(f"features/{view}", window, settings))
            del rows
    note_basis({"rewrites": seen, "definitions": fingerprints()}, window, settings)
    return {"tiles": {view: frame.height for view, frame in tiles.items()}, "rows": heights}


def validate_features(window: Window, settings: Settings) -> Result:
    """Check the staged feature rows against the definitions."""
    from feature_repo.quality import features as quality
    from feature_repo.quality.datadocs import docs_index
    from feature_repo.transforms.views import TRANSFORMS

    reports = {
        view: quality.validate_features(view, rows, window, settings)
        for view, rows in StagedViews("features", list(TRANSFORMS), window, settings).items()
    }
    failures = [{"view": view, **failure} for view, report in reports.items() for failure in failures_of(report)]
    stopped = any(report.stopped for report in reports.values())
    return {"stopped": stopped, "failures": failures, "data_docs": str(docs_index(settings))}


def publish_features(window: Window, settings: Settings) -> Result:
    """Make the staged tiles and rows the window's. Killed half-way, it is completed by running it again.

    Raises
    ------
    DefinitionChanged, HistoryMissing, HistoryChanged
        What the rows were computed from is no longer so: compute them again.
    """
    from feature_repo.transforms import publish, versions
    from feature_repo.transforms.evolution import settle
    from feature_repo.transforms.views import TRANSFORMS

    basis = noted_basis(window, settings)
    if basis["definitions"] != versions.fingerprints():
        raise versions.DefinitionChanged(
            f"the staged rows of {window} were computed under other definitions: run compute_features again"
        )

    tiles, rows = (StagedViews(kind, list(TRANSFORMS), window, settings) for kind in ("tiles", "features"))
    with exclusive(settings, "tables", f"publishing features of {window}"):
        settle(settings)
        versions.note_span(window, settings)
        heights = publish.publish(window, tiles, rows, settings, rewrites_seen=int(basis["rewrites"]))
    return {"rows": heights}


def _require_nothing_in_lake(window: Window, settings: Settings) -> None:
    from feature_repo.orders.schema import orders_table

    kept = orders_table(settings).scan(window).select(pl.len()).collect().item()
    if kept:
        raise LandingLost(
            f"the landing folder {settings.landing_orders} has no orders for {window}, but the lake has {kept}: "
            "restore the folder, or recompute features from the lake with "
            f"`python -m feature_repo recompute {window.start.isoformat()} {window.end.isoformat()}`"
        )

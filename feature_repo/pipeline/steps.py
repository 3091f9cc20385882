"""The steps of a window up to the offline store. Each can be run alone, and again."""

from __future__ import annotations

import logging

import polars as pl

from config import Settings
from feature_repo.locking import exclusive
from feature_repo.orders.landed import Landed
from feature_repo.pipeline.errors import LandingLost, Result, failures_of
from feature_repo.pipeline.staging import (
    StagedViews,
    basis_file,
    forget_staged,
    load,
    note_basis,
    note_reading,
    noted_basis,
    noted_reading,
    stage,
    staged_file,
)
from feature_repo.window import Window

logger = logging.getLogger(__name__)


def ingest_orders(window: Window, settings: Settings, take_out: bool = False) -> Result:
    """Read the versions that the window brings in, and stage them.

    Versions that the lake has, and the landing folder no longer, stay: the folder may be emptied of what has been
    accepted. They are counted as `kept`, and judged with the others.

    Parameters
    ----------
    window : Window
    settings : Settings
    take_out : bool
        Take them out of the lake instead; `taken_out` counts them.

    Raises
    ------
    SourceNotReady
        The landing folder is not complete up to the window's end.
    LandingLost
        It has no orders at all, and the lake has some of the window.
    RefusedBefore
        The window holds hours that were refused by themselves, beside others.
    RuleError
        The configuration names a rule or a severity that there is not.
    """
    from feature_repo.orders.landing import read_window
    from feature_repo.orders.recorded import no_longer_landed
    from feature_repo.orders.refused import require_alone
    from feature_repo.quality.rules import severities

    severities(settings)
    require_alone(window, settings)
    forget_staged(window, settings)
    reading = read_window(window, settings)
    held = no_longer_landed(reading.rows, window, settings)
    if held.height and not reading.landed.days:
        raise _landing_lost(window, held.height, settings)
    batch = reading.rows if take_out or held.is_empty() else pl.concat([reading.rows, held])
    if held.height:
        days = sorted({f"{day:%Y-%m-%d}" for day in held["known_at"].dt.date()})
        logger.warning(
            "%d versions that the lake has of %s are no longer in the landing folder (%s): %s",
            held.height,
            window,
            days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}",
            "they are taken out, as was asked for" if take_out else "they stay",
        )
    staged = stage(batch.sort("known_at", maintain_order=True), staged_file("orders", window, settings))
    note_reading(reading, window, settings)
    return {
        "rows": batch.height,
        "found_late": int(batch["found_late"].sum()),
        "kept": 0 if take_out else held.height,
        "taken_out": held.height if take_out else 0,
        "staged": str(staged),
    }


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
        "refused_hours": [hour.start.isoformat() for hour in verdict.refused_hours],
        "failures": failures_of(verdict.report),
        "data_docs": str(docs_index(settings)),
    }


def accept_orders(window: Window, settings: Settings) -> Result:
    """Put accepted versions into the lake and rejected ones into quarantine, in place of the window's earlier ones.

    Where that changes orders of which features have been computed, it is noted first (`coverage.note_unpublished`), so
    that no later run builds on features that do not follow from the orders.

    Raises
    ------
    ValueError
        The staged rows do not add up: accepted and rejected ones are not those that were read.
    """
    from feature_repo.orders.landed import note_read
    from feature_repo.orders.refused import note_accepted
    from feature_repo.orders.schema import orders_table, quarantine_table
    from feature_repo.transforms.coverage import note_unpublished

    accepted = load("accepted", window, settings, made_by="validate_orders")
    rejected = load("rejected", window, settings, made_by="validate_orders")
    batch = load("orders", window, settings, made_by="ingest_orders")
    read = noted_reading(window, settings)
    if accepted.height + rejected.height != batch.height:
        raise ValueError(
            f"of {batch.height} versions of {window}, {accepted.height} are accepted and {rejected.height} rejected, "
            "which does not add up: the staged files are of different runs. Run the window again from ingest_orders"
        )
    lake, quarantine = orders_table(settings), quarantine_table(settings)
    with exclusive(settings, "tables", f"accepting orders of {window}"):
        rejected = pl.concat([rejected, _evidence_of_pruned_days(read, batch, window, settings)])
        if lake.would_change(window, accepted):
            note_unpublished(window, settings)
        quarantined = quarantine.replace(window, rejected)
        rows = lake.replace(window, accepted)
        note_read(window, read, settings)
        note_accepted(window, settings)
    return {"accepted": rows, "quarantined": quarantined}


def quarantine_batch(window: Window, settings: Settings) -> Result:
    """Put every version of a refused batch into quarantine, with the reason. The lake stays as it was.

    The window is remembered as refused until it is accepted; see `orders.refused`.
    """
    from feature_repo.orders.refused import note_refused
    from feature_repo.orders.schema import orders_table, quarantine_table, row_text

    refused = load("refused", window, settings, made_by="validate_orders")
    with exclusive(settings, "tables", f"quarantining {window}"):
        # What the lake holds already is no evidence against anything: it stays there, and is not counted twice.
        held = orders_table(settings).read(window).select(row=row_text())
        fresh = refused.join(held, on="row", how="anti", maintain_order="left")
        rows = quarantine_table(settings).replace(window, fresh)
        reason = refused["reason"][0] if refused.height else "not one order version, which a rule does not allow"
        note_refused(window, reason, settings)
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


def _landing_lost(window: Window, kept: int, settings: Settings) -> LandingLost:
    return LandingLost(
        f"the landing folder {settings.landing_orders} has no orders at all, but the lake has {kept} of {window}: "
        "restore the folder, or recompute features from the lake with "
        f"`python -m feature_repo recompute {window.start.isoformat()} {window.end.isoformat()}`"
    )


def _evidence_of_pruned_days(read: Landed, batch: pl.DataFrame, window: Window, settings: Settings) -> pl.DataFrame:
    """What the quarantine holds of the window's days of which the landing folder holds nothing any more."""
    from feature_repo.orders.schema import quarantine_table, row_text

    held = quarantine_table(settings).read(window)
    days = pl.Series([day for day in window.days() if day not in read.days], dtype=held.schema["known_at"])
    pruned = held.filter(pl.col("known_at").dt.truncate("1d").is_in(days.implode()))
    judged = batch.select(row=pl.coalesce("source_row", row_text()))
    return pruned.join(judged, on="row", how="anti", maintain_order="left")

"""Making computed tiles and rows the ones that count, so that a kill at any point leaves nothing that misleads.

Every table changes file by file in single renames. What ties them together is the coverage: hours whose files are
being replaced by other content are taken out of it first and put back last.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace

import polars as pl

from config import Settings
from feature_repo.lake import CorruptPartition
from feature_repo.transforms.compute import forget_states, keep_states
from feature_repo.transforms.coverage import (
    Coverage,
    HistoryChanged,
    read_coverage,
    require_history,
    write_coverage,
)
from feature_repo.transforms.replaced import note_replaced
from feature_repo.transforms.tables import feature_table, row_window, tile_table
from feature_repo.transforms.views import TRANSFORMS
from feature_repo.window import Window

logger = logging.getLogger(__name__)


def publish(
    window: Window,
    tiles: Mapping[str, pl.DataFrame],
    rows: Mapping[str, pl.DataFrame],
    settings: Settings,
    rewrites_seen: int,
) -> dict[str, int]:
    """Replace the window's tiles and rows. One process at a time.

    Parameters
    ----------
    window : Window
    tiles, rows : mapping of str to polars.DataFrame
        By view, as `compute` returns them.
    settings : Settings
    rewrites_seen : int
        How often tiles had been rewritten when these rows were computed (`rewrites`).

    Returns
    -------
    dict of str to int
        By view, how many rows were written.

    Raises
    ------
    HistoryMissing
        Hours before the window are not computed any longer.
    HistoryChanged
        Earlier tiles were replaced by other ones since.
    """
    before = require_history(window, settings)
    if before is not None and any(hour < window.start for hour in before.rewritten[rewrites_seen:]):
        raise HistoryChanged(f"earlier tiles changed since the rows of {window} were computed: compute them again")
    changes = before is not None and _changes(window, before, tiles, settings)
    _note_replaced(window, before, changes, rows, settings)
    if before is None:
        # From here on there are rows, and a record that says that they do not count yet.
        write_coverage(Coverage(window.start, window.start), settings)
    elif changes:
        until = max(before.start, min(before.until, window.start))
        rewritten = (*before.rewritten, window.start)
        write_coverage(replace(before, until=until, rewritten=rewritten), settings)
        _warn_of_stale_rows(window, before)
    if changes or before is None or window.start >= before.until:
        forget_states(window, settings)
    written = {}
    for view, transform in TRANSFORMS.items():
        tile_table(transform, settings).replace(window, tiles[view])
        written[view] = feature_table(transform, settings).replace(row_window(window, transform), rows[view])
    keep_states(window, settings)
    write_coverage(_after(window, before, changes), settings)
    return written


def rewrites(settings: Settings) -> int:
    """How often tiles have been replaced by other ones so far."""
    coverage = read_coverage(settings)
    return len(coverage.rewritten) if coverage else 0


def _changes(window: Window, before: Coverage, tiles: Mapping[str, pl.DataFrame], settings: Settings) -> bool:
    """Whether tiles that are covered already get another content, or new ones come before them all."""
    if window.start < before.start:
        return True
    if window.start >= before.until:
        return False
    known = Window(window.start, min(window.end, before.until))
    for view, transform in TRANSFORMS.items():
        table = tile_table(transform, settings)
        if table.would_change(known, tiles[view].filter(pl.col(table.time_column) < known.end)):
            return True
    return False


def _note_replaced(
    window: Window, before: Coverage | None, changes: bool, rows: Mapping[str, pl.DataFrame], settings: Settings
) -> None:
    """Note the views of which rows that may be online are about to go, or do not follow from the tiles any longer."""
    views = [view for view in TRANSFORMS if changes or _loses_rows(view, window, rows, settings)]
    note_replaced(views, before.until if before else window.end, settings)


def _loses_rows(view: str, window: Window, rows: Mapping[str, pl.DataFrame], settings: Settings) -> bool:
    """Whether the window has a row that is not, bit by bit, among those that will be in its place."""
    span, table = row_window(window, TRANSFORMS[view]), feature_table(TRANSFORMS[view], settings)
    if not table.files(span):
        return False
    try:
        old = table.read(span)
    except CorruptPartition:
        return True
    return old.height > 0 and not old.join(rows[view], on=old.columns, how="anti", nulls_equal=True).is_empty()


def _after(window: Window, before: Coverage | None, changes: bool) -> Coverage:
    if before is None:
        return Coverage(window.start, window.end)
    start, unpublished = min(before.start, window.start), before.without(window)
    if changes:
        return Coverage(start, window.end, (*before.rewritten, window.start), unpublished)
    return Coverage(start, max(before.until, window.end), before.rewritten, unpublished)


def _warn_of_stale_rows(window: Window, before: Coverage) -> None:
    if window.end < before.until:
        logger.warning(
            "the tiles of %s change: the rows after them no longer follow from the tiles. Run "
            "`python -m feature_repo recompute %s %s`",
            window,
            window.end.isoformat(),
            before.until.isoformat(),
        )

"""Facts to tiles to rows, for one window of time and all views.

The same two functions serve an hourly run and a backfill. A tile depends only on the facts of its hour, and a row only
on the tiles before it, so any way to cut time into windows gives the same content.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import ibis
import ibis.expr.types as ir
import polars as pl

from config import Settings
from feature_repo.lake import TIMESTAMP, PartitionedTable
from feature_repo.orders.columns import absent_columns
from feature_repo.orders.schema import orders_table
from feature_repo.orders.watermark import corrections
from feature_repo.transforms import facts, fold, state, tiles, windows
from feature_repo.transforms.engine import engine, evaluate, hand_over, keep, running_sums, scan, together
from feature_repo.transforms.spec import ViewTransform
from feature_repo.transforms.tables import (
    AS_OF,
    CREATED,
    EVENT_TIME,
    TILE_START,
    feature_table,
    publication_delay,
    state_table,
    tile_table,
)
from feature_repo.transforms.views import TRANSFORMS
from feature_repo.window import HOUR, Moments, Window

BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
SNAPSHOTS_KEPT = 35
"""Re-running an hour of the last five weeks finds a snapshot; an older one is computed from the tiles."""


def compute_tiles(
    window: Window,
    settings: Settings,
    transforms: Mapping[str, ViewTransform] = TRANSFORMS,
    landed: pl.DataFrame | None = None,
) -> dict[str, pl.DataFrame]:
    """The tiles of the window.

    Parameters
    ----------
    window : Window
        Of time at which facts became known.
    settings : Settings
    transforms : mapping of str to ViewTransform, optional
        Those to compute, by view; all of them unless given.
    landed : polars.DataFrame, optional
        The order versions of the window (`LAKE_SCHEMA`), in place of those that the lake has for it.

    Returns
    -------
    dict of str to polars.DataFrame
        By view, in the schema of its tile table.
    """
    first, table = window.start - facts.lookback(settings.lateness_horizon), orders_table(settings)
    taken_back, absent = frozenset(corrections(settings)), frozenset(absent_columns(settings))
    with engine(settings) as connection:
        span = Moments(first, window.end if landed is None else window.start)
        read = [scan(connection, table, span, "versions")]
        if landed is not None:
            read.append(hand_over(connection, landed.select(list(table.schema)), "landed"))
        versions = together(connection, "all_versions", read)
        tangled = fold.tangled_orders(connection, versions)
        orders = None if tangled.is_empty() else hand_over(connection, tangled, "tangled")
        bounds = (int(window.start.timestamp()), int(window.end.timestamp()))
        known = keep(connection, "known", facts.facts, [versions, orders], taken_back, absent, bounds=bounds)
        return {
            view: _to_table(evaluate(connection, tiles.tiles, [known], transform), transform, settings)
            for view, transform in transforms.items()
        }


def compute_rows(
    window: Window,
    new: Mapping[str, pl.DataFrame],
    settings: Settings,
    transforms: Mapping[str, ViewTransform] = TRANSFORMS,
) -> dict[str, pl.DataFrame]:
    """The feature rows that the window's tiles lead to.

    Parameters
    ----------
    window : Window
        Rows get an `event_timestamp` in `(window.start, window.end]`.
    new : mapping of str to polars.DataFrame
        The window's tiles by view, as `compute_tiles` returns them; those before are read from the tile tables.
    settings : Settings
    transforms : mapping of str to ViewTransform, optional
        As `compute_tiles` takes it.

    Returns
    -------
    dict of str to polars.DataFrame
        By view, in the schema of its feature table.
    """
    return {view: _view_rows(transforms[view], window, frame, settings) for view, frame in new.items()}


def forget_states(window: Window, settings: Settings) -> None:
    """Delete the snapshots that the window's tiles belong into. Call it before these tiles change."""
    for transform in _with_state(TRANSFORMS):
        table = state_table(transform, settings)
        for midnight in _snapshots(table):
            if midnight > window.start:
                table.replace(Window(midnight, midnight + HOUR), pl.DataFrame(schema=table.schema))


def keep_states(window: Window, settings: Settings, transforms: Mapping[str, ViewTransform] = TRANSFORMS) -> None:
    """Snapshot the states as of the last midnight that the window reaches, from the tile tables."""
    midnight = window.end.replace(hour=0)
    if midnight <= window.start:
        return
    for transform in _with_state(transforms):
        table = state_table(transform, settings)
        with engine(settings) as connection:
            frame = evaluate(connection, state.advance, _state_at(connection, transform, midnight, settings), transform)
        stamped = frame.with_columns(pl.lit(midnight, dtype=TIMESTAMP).alias(AS_OF))
        table.replace(Window(midnight, midnight + HOUR), stamped.select(list(table.schema)))
        for old in _snapshots(table)[:-SNAPSHOTS_KEPT]:
            table.replace(Window(old, old + HOUR), pl.DataFrame(schema=table.schema))


def _view_rows(transform: ViewTransform, window: Window, new: pl.DataFrame, settings: Settings) -> pl.DataFrame:
    start, end = ((instant - BEGINNING) // transform.step for instant in (window.start, window.end))
    table = tile_table(transform, settings)
    with engine(settings) as connection:
        new_tiles = hand_over(connection, new, "new_tiles")
        first = windows.read_from(transform, start)
        before = Moments(BEGINNING + first * transform.step, window.start)
        old_tiles = scan(connection, table, before, "old_tiles") if first < start else None
        state_then = _state_at(connection, transform, window.start, settings) if transform.lifetime else (None, None)
        sums = running_sums(
            connection,
            _events,
            [new_tiles, old_tiles, *state_then],
            transform,
            bounds=(start, end),
            sums=windows.summed(transform),
            maxima=windows.maxima(transform),
        )
        frame = evaluate(connection, windows.rows, [sums], transform, bounds=(start, end))
    frame = frame.sort("at", maintain_order=True)
    at, delay = _instants("at", transform), publication_delay(transform.step, settings)
    stamped = frame.with_columns(at.alias(EVENT_TIME), (at + delay).alias(CREATED))
    return stamped.select(list(feature_table(transform, settings).schema))


def _events(
    new: ir.Table,
    old: ir.Table | None,
    snapshot: ir.Table | None,
    since: ir.Table | None,
    transform: ViewTransform,
    start: windows.Instant,
    end: windows.Instant,
) -> ir.Table:
    """The events of a window (see `windows`) of tables as they are stored."""
    base = None if since is None else state.advance(snapshot, since, transform)
    parts = [tiles.numbered(part, transform) for part in (new, old) if part is not None]
    return windows.events(ibis.union(*parts, distinct=False), base, transform, start, end)


def _state_at(
    connection: Any, transform: ViewTransform, instant: datetime, settings: Settings
) -> tuple[ir.Table | None, ir.Table]:
    """What the state as of `instant` follows from: the newest snapshot before it, and the tiles since, or all tiles."""
    snapshots = state_table(transform, settings)
    usable = [midnight for midnight in _snapshots(snapshots) if midnight <= instant]
    newest = usable[-1] if usable else None
    base = scan(connection, snapshots, Window(newest, newest + HOUR), "snapshot") if newest else None
    table = tile_table(transform, settings)
    since = newest or _first_day(table)
    span = Moments(since, instant) if since and since < instant else None
    if span is None:
        return base, hand_over(connection, pl.DataFrame(schema=table.schema), "tiles_since")
    return base, scan(connection, table, span, "tiles_since")


def _first_day(table: PartitionedTable) -> datetime | None:
    files = table.files()
    return _day(files[0].parent.name) if files else None


def _snapshots(table: PartitionedTable) -> list[datetime]:
    return [_day(path.parent.name) for path in table.files()]


def _day(directory: str) -> datetime:
    return datetime.strptime(directory.removeprefix("day="), "%Y-%m-%d").replace(tzinfo=UTC)


def _with_state(transforms: Mapping[str, ViewTransform]) -> list[ViewTransform]:
    return [transform for transform in transforms.values() if transform.lifetime]


def _to_table(frame: pl.DataFrame, transform: ViewTransform, settings: Settings) -> pl.DataFrame:
    stamped = frame.with_columns(_instants("tile", transform).alias(TILE_START))
    return stamped.select(list(tile_table(transform, settings).schema))


def _instants(number: str, transform: ViewTransform) -> pl.Expr:
    """The instants of a column of step numbers."""
    seconds = pl.col(number) * int(transform.step.total_seconds())
    return pl.from_epoch(seconds, time_unit="s").dt.replace_time_zone("UTC").cast(TIMESTAMP)

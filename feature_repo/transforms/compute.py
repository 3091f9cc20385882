"""Facts to tiles to rows, for one window of time and all views.

The same two functions serve an hourly run and a backfill. A tile depends only on the facts of its hour, and a row only
on the tiles before it, so any way to cut time into windows gives the same content.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import ibis
import ibis.expr.types as ir
import polars as pl
from ibis.backends.duckdb import Backend

from config import Settings
from feature_repo.lake import TIMESTAMP, PartitionedTable
from feature_repo.orders.schema import orders_table
from feature_repo.transforms import facts, state, tiles, windows
from feature_repo.transforms.engine import accumulate, engine, keep, scan
from feature_repo.transforms.spec import ViewTransform
from feature_repo.transforms.tables import AS_OF, CREATED, EVENT_TIME, TILE_HOUR, feature_table, state_table, tile_table
from feature_repo.transforms.views import TRANSFORMS
from feature_repo.window import HOUR, Window

BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
SNAPSHOTS_KEPT = 35
"""Re-running an hour of the last five weeks finds a snapshot; an older one is computed from the tiles."""


def compute_tiles(
    window: Window, settings: Settings, transforms: Mapping[str, ViewTransform] = TRANSFORMS
) -> dict[str, pl.DataFrame]:
    """The tiles of the window's hours.

    Parameters
    ----------
    window : Window
        Of time at which facts became known.
    settings : Settings
    transforms : mapping of str to ViewTransform, optional
        Those to compute, by view; all of them unless given.

    Returns
    -------
    dict of str to polars.DataFrame
        By view, in the schema of its tile table.
    """
    read = Window(window.start - facts.lookback(settings.lateness_horizon), window.end)
    with engine(settings) as connection:
        versions = scan(connection, orders_table(settings), read)
        tied = connection.to_polars(facts.tied_orders(versions))
        known = keep(connection, facts.facts(versions, window, tied))
        return {
            view: _to_table(connection.to_polars(tiles.tiles(known, transform)), tile_table(transform, settings))
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
        Rows get an `event_timestamp` in `[window.start + 1 h, window.end + 1 h)`.
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


def row_window(window: Window) -> Window:
    """The event times of the rows that a run over `window` writes."""
    return Window(window.start + HOUR, window.end + HOUR)


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
            frame = connection.to_polars(_state_at(connection, transform, midnight, settings))
        stamped = frame.with_columns(pl.lit(midnight, dtype=TIMESTAMP).alias(AS_OF))
        table.replace(Window(midnight, midnight + HOUR), stamped.select(list(table.schema)))
        for old in _snapshots(table)[:-SNAPSHOTS_KEPT]:
            table.replace(Window(old, old + HOUR), pl.DataFrame(schema=table.schema))


def _view_rows(transform: ViewTransform, window: Window, new: pl.DataFrame, settings: Settings) -> pl.DataFrame:
    start, end = _hour(window.start), _hour(window.end)
    table = tile_table(transform, settings)
    with engine(settings) as connection:
        parts = [_hours(ibis.memtable(new))]
        first = windows.read_from(transform, start)
        if first < start:
            parts.append(_hours(scan(connection, table, Window(_instant(first), window.start))))
        seen = ibis.union(*parts, distinct=False) if len(parts) > 1 else parts[0]
        base = _state_at(connection, transform, window.start, settings) if transform.lifetime else None
        frame: pl.DataFrame = connection.to_polars(
            windows.rows(seen, base, transform, start, end, accumulate(connection))
        )
    frame = frame.sort("at", maintain_order=True)
    at = pl.from_epoch(pl.col("at") * 3600, time_unit="s").dt.replace_time_zone("UTC").cast(TIMESTAMP)
    stamped = frame.with_columns(at.alias(EVENT_TIME), (at + settings.publication_delay).alias(CREATED))
    return stamped.select(list(feature_table(transform, settings).schema))


def _state_at(connection: Backend, transform: ViewTransform, instant: datetime, settings: Settings) -> ir.Table:
    """The state as of `instant`: the newest snapshot before it, and the tiles since; all tiles without a snapshot."""
    snapshots = state_table(transform, settings)
    usable = [midnight for midnight in _snapshots(snapshots) if midnight <= instant]
    newest = usable[-1] if usable else None
    base = scan(connection, snapshots, Window(newest, newest + HOUR)) if newest else None
    since = newest or _first_day(tile_table(transform, settings))
    span = Window(since, instant) if since and since < instant else None
    table = tile_table(transform, settings)
    recent = scan(connection, table, span) if span else ibis.memtable(pl.DataFrame(schema=table.schema))
    return state.advance(base, _hours(recent), transform)


def _first_day(table: PartitionedTable) -> datetime | None:
    files = table.files()
    return _day(files[0].parent.name) if files else None


def _snapshots(table: PartitionedTable) -> list[datetime]:
    return [_day(path.parent.name) for path in table.files()]


def _day(directory: str) -> datetime:
    return datetime.strptime(directory.removeprefix("day="), "%Y-%m-%d").replace(tzinfo=UTC)


def _with_state(transforms: Mapping[str, ViewTransform]) -> list[ViewTransform]:
    return [transform for transform in transforms.values() if transform.lifetime]


def _hours(stored: ir.Table) -> ir.Table:
    """Tiles with their hour as a number."""
    return stored.mutate(tile_hour=(facts.seconds(stored[TILE_HOUR]) // 3600).cast("int64"))


def _to_table(frame: pl.DataFrame, table: PartitionedTable) -> pl.DataFrame:
    hour = pl.from_epoch(pl.col(TILE_HOUR) * 3600, time_unit="s").dt.replace_time_zone("UTC").cast(TIMESTAMP)
    return frame.with_columns(hour.alias(TILE_HOUR)).select(list(table.schema))


def _hour(instant: datetime) -> int:
    return (instant - BEGINNING) // HOUR


def _instant(hour: int) -> datetime:
    return BEGINNING + timedelta(hours=hour)

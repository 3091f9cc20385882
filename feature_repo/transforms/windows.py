"""Feature rows: running sums over tiles that enter and leave the windows of a view.

A tile of hour `h` is known from `T = h + 1` on, and leaves a window of length `W` at `T = h + 1 + W`. Adding what
enters and taking off what leaves, in the order of `T`, gives every window's sum at every instant at which one changes;
as the sums are integers, they are exactly those of a sum from nothing.

All instants here are full hours since 1970.
"""

from __future__ import annotations

from collections.abc import Sequence

import ibis
import ibis.expr.types as ir

from feature_repo.transforms.spec import NOW, Now, Running, ViewTransform, hours

HOURS_PER_DAY = 24


def rows(tiles: ir.Table, base: ir.Table | None, transform: ViewTransform, start: int, end: int) -> ir.Table:
    """The rows of one view with `start < at <= end`.

    Parameters
    ----------
    tiles : ibis table
        The view's tiles with `start - longest window (or heartbeat, without a base) <= tile_hour < end`.
    base : ibis table or None
        The state as of `start` (see `state`); None for a view that carries none.
    transform : ViewTransform
    start, end : int

    Returns
    -------
    ibis table
        The key, `at`, and the features. There is a row where a tile enters or leaves a window, also when nothing is
        left in it (the online store would otherwise keep the last value), and every midnight while the entity's last
        tile is younger than the heartbeat.
    """
    parts = [_entering(tiles, transform, start)]
    parts += [_leaving(tiles, transform, hours(window), start, end) for window in transform.windows]
    if base is not None:
        parts.append(_carried(base, transform, start))
    parts += _heartbeats(parts, transform, start, end)
    sums = _accumulate(ibis.union(*parts, distinct=False), transform)
    alive = (sums.at % HOURS_PER_DAY == 0) & (sums.last_tile >= sums.at - hours(transform.heartbeat))
    kept = sums.filter(sums.at > start, (sums.changes > 0) | alive)
    return _finish(kept.mutate(**{NOW.column: kept.at * 3600}), transform)


def read_from(transform: ViewTransform, start: int) -> int:
    """The first tile hour that the rows after `start` depend on, beyond what the carried state tells."""
    spans = [hours(window) for window in transform.windows]
    if not transform.lifetime:
        spans.append(hours(transform.heartbeat))
    return start - max(spans, default=0)


def _entering(tiles: ir.Table, transform: ViewTransform, start: int) -> ir.Table:
    new = tiles.tile_hour >= start

    def value(running: Running) -> ir.Value:
        partial = tiles[running.partial.column]
        if running.window is None and running.partial.kind != "last":
            return new.ifelse(partial, 0)  # older tiles are in the base already
        return partial

    return tiles.select(
        key=tiles[transform.key],
        at=ibis.greatest(tiles.tile_hour + 1, start),
        changes=_whole(1),
        last_tile=tiles.tile_hour,
        **{running.column: value(running) for running in transform.running},
    )


def _leaving(tiles: ir.Table, transform: ViewTransform, window: int, start: int, end: int) -> ir.Table:
    gone = tiles.filter(tiles.tile_hour + 1 + window <= end)

    def value(running: Running) -> ir.Value:
        if running.partial.kind == "last":
            return ibis.null("int64")
        leaves = running.window is not None and hours(running.window) == window
        return -gone[running.partial.column] if leaves else _whole(0)

    return gone.select(
        key=gone[transform.key],
        at=ibis.greatest(gone.tile_hour + 1 + window, start),
        changes=_whole(1),
        last_tile=gone.tile_hour,
        **{running.column: value(running) for running in transform.running},
    )


def _carried(base: ir.Table, transform: ViewTransform, start: int) -> ir.Table:
    def value(running: Running) -> ir.Value:
        return base[running.partial.column] if running.window is None else _whole(0)

    return base.select(
        key=base[transform.key],
        at=_whole(start),
        changes=_whole(0),
        last_tile=base.last_tile,
        **{running.column: value(running) for running in transform.running},
    )


def _heartbeats(parts: Sequence[ir.Table], transform: ViewTransform, start: int, end: int) -> list[ir.Table]:
    midnights = [at for at in range(start + 1, end + 1) if at % HOURS_PER_DAY == 0]
    if not midnights:
        return []
    keys = ibis.union(*[part.select("key") for part in parts], distinct=True)
    both = keys.cross_join(ibis.memtable({"at": midnights}, schema={"at": "int64"}))
    return [
        both.select(
            key=both["key"],
            at=both["at"],
            changes=_whole(0),
            last_tile=ibis.null("int64"),
            **{
                running.column: ibis.null("int64") if running.partial.kind == "last" else _whole(0)
                for running in transform.running
            },
        )
    ]


def _accumulate(events: ir.Table, transform: ViewTransform) -> ir.Table:
    """One row per key and instant, with everything that entered or left up to it."""
    moments = events.group_by("key", "at").agg(
        changes=events.changes.sum(),
        last_tile=events.last_tile.max(),
        **{r.column: _combine(events[r.column], r) for r in transform.running},
    )
    so_far = ibis.cumulative_window(group_by="key", order_by="at")
    return moments.select(
        "key",
        "at",
        "changes",
        last_tile=moments.last_tile.max().over(so_far),
        **{r.column: _combine(moments[r.column], r).over(so_far) for r in transform.running},
    )


def _combine(column: ir.Value, running: Running) -> ir.Value:
    return column.max() if running.partial.kind == "last" else column.sum()


def _finish(sums: ir.Table, transform: ViewTransform) -> ir.Table:
    def value(use: Running | Now) -> ir.Value:
        return sums[use.column]

    return sums.select(
        sums["key"].name(transform.key),
        sums["at"],
        **{
            name: feature.finish(*[value(use) for use in feature.uses]).cast(feature.dtype)
            for name, feature in transform.features.items()
        },
    )


def _whole(value: int) -> ir.Value:
    return ibis.literal(value, type="int64")

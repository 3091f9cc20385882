"""Feature rows: running sums over tiles that enter and leave the windows of a view.

A tile of step `h` is known from `T = h + 1` on, and leaves a window of length `W` at `T = h + 1 + W`. Adding what
enters and taking off what leaves, in the order of `T`, gives every window's sum at every instant at which one changes;
as the sums are integers, they are exactly those of a sum from nothing.

All instants and lengths here are numbers of the view's steps, instants counted from 1970.
"""

from __future__ import annotations

from typing import TypeAlias

import ibis
import ibis.expr.types as ir

from feature_repo.transforms.spec import FIRST_BEAT, NOW, Running, ViewTransform

Instant: TypeAlias = int | ir.IntegerScalar


def events(tiles: ir.Table, base: ir.Table | None, transform: ViewTransform, start: Instant, end: Instant) -> ir.Table:
    """What enters and what leaves the windows of one view up to `end`, ordered by `key` and `at`.

    Parameters
    ----------
    tiles : ibis table
        The view's tiles with `start - longest window (or heartbeat, without a base) <= tile < end`.
    base : ibis table or None
        The state as of `start` (see `state`); None for a view that carries none.
    transform : ViewTransform
    start, end : int or ibis integer

    Returns
    -------
    ibis table
        As `running` takes them, with the columns `summed` and `maxima` of the view.
    """
    parts = [_standing(tiles, transform, start), _entering(tiles, transform, start)]
    parts += [_leaving(tiles, transform, transform.steps(window), start, end) for window in transform.windows]
    if base is not None:
        parts.append(_carried(base, transform, start))
    return ibis.union(*parts, distinct=False).order_by("key", "at")


def summed(transform: ViewTransform) -> list[str]:
    """Columns of the events that add up."""
    return [running.column for running in transform.running if running.partial.kind != "last"]


def maxima(transform: ViewTransform) -> list[str]:
    """Columns of the events of which the highest counts."""
    return ["last_tile", *(running.column for running in transform.running if running.partial.kind == "last")]


def rows(sums: ir.Table, transform: ViewTransform, start: Instant, end: Instant) -> ir.Table:
    """The rows of one view with `start < at <= end`.

    Parameters
    ----------
    sums : ibis table
        The running values of the view's events.
    transform : ViewTransform
    start, end : int or ibis integer

    Returns
    -------
    ibis table
        The key, `at`, and the features. There is a row where a tile enters or leaves a window, also when nothing is
        left in it (the online store would otherwise keep the last value), and at every beat while the entity's last
        tile is younger than the heartbeat.
    """
    rows = _with_heartbeats(sums, transform, end)
    return _finish(rows.filter(rows.at > start), transform)


def read_from(transform: ViewTransform, start: Instant) -> int:
    """The first tile that the rows after `start` depend on, beyond what the carried state tells."""
    spans = [transform.steps(window) for window in transform.windows]
    if not transform.lifetime:
        spans.append(transform.steps(transform.heartbeat))
    return start - max(spans, default=0)


def _standing(tiles: ir.Table, transform: ViewTransform, start: Instant) -> ir.Table:
    """What the tiles before `start` add up to then, in one row per key: the windows begin with it."""
    old = tiles.filter(tiles.tile < start)

    def value(running: Running) -> ir.Value:
        partial = old[running.partial.column]
        if running.partial.kind == "last":
            return partial.max()
        if running.window is None:
            return _whole(0)  # in the base already
        return ibis.coalesce(partial.sum(where=old.tile + 1 + transform.steps(running.window) > start), 0)

    return old.group_by(key=old[transform.key]).agg(
        at=_whole(start),
        last_tile=old.tile.max(),
        **{running.column: value(running) for running in transform.running},
    )


def _entering(tiles: ir.Table, transform: ViewTransform, start: Instant) -> ir.Table:
    new = tiles.filter(tiles.tile >= start)
    return new.select(
        key=new[transform.key],
        at=new.tile + 1,
        last_tile=new.tile,
        **{running.column: new[running.partial.column] for running in transform.running},
    )


def _leaving(tiles: ir.Table, transform: ViewTransform, window: int, start: Instant, end: Instant) -> ir.Table:
    out = tiles.tile + 1 + window
    gone = tiles.filter(out > start, out <= end)

    def value(running: Running) -> ir.Value:
        if running.partial.kind == "last":
            return ibis.null("int64")
        leaves = running.window is not None and transform.steps(running.window) == window
        return -gone[running.partial.column] if leaves else _whole(0)

    return gone.select(
        key=gone[transform.key],
        at=gone.tile + 1 + window,
        last_tile=gone.tile,
        **{running.column: value(running) for running in transform.running},
    )


def _carried(base: ir.Table, transform: ViewTransform, start: Instant) -> ir.Table:
    def value(running: Running) -> ir.Value:
        return base[running.partial.column] if running.window is None else _whole(0)

    return base.select(
        key=base[transform.key],
        at=_whole(start),
        last_tile=base.last_tile,
        **{running.column: value(running) for running in transform.running},
    )


def _with_heartbeats(sums: ir.Table, transform: ViewTransform, end: Instant) -> ir.Table:
    """Each row again at every beat at which it still holds and its entity is alive."""
    beat, first = transform.steps(transform.beat), int(FIRST_BEAT.timestamp() // transform.step.total_seconds())
    next_beat = ((sums.at - first) // beat + 1) * beat + first
    until = ibis.coalesce(sums.until, _whole(end + 1))
    beyond = ibis.least(until, sums.last_tile + transform.steps(transform.heartbeat) + 1)
    beats = ibis.range(next_beat, ibis.greatest(beyond, next_beat), beat)
    # By key while there are few rows: all of them then need to be sorted by the instant only.
    return sums.order_by("key").mutate(at=ibis.array([sums.at]).concat(beats).unnest())


def finished(sums: ir.Table, transform: ViewTransform) -> ir.Table:
    """The features alone, of running values."""
    return sums.select(**_features(sums, transform))


def _finish(sums: ir.Table, transform: ViewTransform) -> ir.Table:
    sums = sums.mutate(**{NOW.column: sums.at * int(transform.step.total_seconds())})
    return sums.select(sums["key"].name(transform.key), sums["at"], **_features(sums, transform))


def _features(sums: ir.Table, transform: ViewTransform) -> dict[str, ir.Value]:
    return {
        name: feature.finish(*[sums[use.column] for use in feature.uses]).cast(feature.dtype)
        for name, feature in transform.features.items()
    }


def _whole(value: Instant) -> ir.Value:
    return ibis.literal(value, type="int64") if isinstance(value, int) else value

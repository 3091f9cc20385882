"""Carried state: what all tiles before an instant add up to, for features that look back over all time.

It follows from the tiles, so a snapshot of it is only a cache, kept so that an hourly run need not read all history.
"""

from __future__ import annotations

import ibis
import ibis.expr.types as ir

from feature_repo.transforms.spec import ViewTransform
from feature_repo.transforms.tiles import numbered


def advance(base: ir.Table | None, tiles: ir.Table, transform: ViewTransform) -> ir.Table:
    """The state after more tiles.

    Parameters
    ----------
    base : ibis table or None
        State as of the first of these tiles; None for "nothing yet".
    tiles : ibis table
        As they are stored.
    transform : ViewTransform

    Returns
    -------
    ibis table
        The key, `last_tile` (the step of the entity's last tile) and the lifetime partials, one row per entity.
    """
    columns = [running.partial.column for running in transform.lifetime]
    tiles = numbered(tiles, transform)
    parts = [tiles.select(transform.key, *columns, last_tile=tiles.tile)]
    if base is not None:
        parts.append(base.select(transform.key, *columns, "last_tile"))
    both = ibis.union(*parts, distinct=False) if len(parts) > 1 else parts[0]
    return both.group_by(transform.key).agg(
        last_tile=both.last_tile.max(),
        **{
            running.partial.column: both[running.partial.column].max()
            if running.partial.kind == "last"
            else both[running.partial.column].sum()
            for running in transform.lifetime
        },
    )

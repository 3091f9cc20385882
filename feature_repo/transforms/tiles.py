"""Tiles: what the facts of one step of time add up to, per entity. Integers only: sums are exact, equal in any order.

Grain of a view's tile table: one row per entity and step in which a fact that the view uses became known.
"""

from __future__ import annotations

import functools
import operator

import ibis
import ibis.expr.types as ir

from feature_repo.transforms.fold import seconds
from feature_repo.transforms.spec import Partial, ViewTransform
from feature_repo.transforms.tables import TILE_START


def tiles(facts: ir.Table, transform: ViewTransform) -> ir.Table:
    """The tiles that facts make for one view.

    Parameters
    ----------
    facts : ibis table
        As `facts.facts` returns them. Facts without the view's entity (no driver yet) make no tile.
    transform : ViewTransform

    Returns
    -------
    ibis table
        The key, `tile` (its step, counted from 1970) and one int64 column per partial.
    """
    used = sorted({partial.measure.fact for partial in transform.partials})
    any_used = functools.reduce(operator.or_, [facts[name] for name in used])
    relevant = facts.filter(facts[transform.key].notnull(), any_used)
    step = int(transform.step.total_seconds())
    number = (relevant.known_second // step).cast("int64")
    return relevant.group_by(relevant[transform.key], tile=number).agg(
        **{partial.column: _reduce(relevant, partial) for partial in transform.partials}
    )


def numbered(stored: ir.Table, transform: ViewTransform) -> ir.Table:
    """Stored tiles, with their step as a number, `tile`, in place of the instant."""
    step = int(transform.step.total_seconds())
    return stored.mutate(tile=(seconds(stored[TILE_START]) // step).cast("int64")).drop(TILE_START)


def _reduce(facts: ir.Table, partial: Partial) -> ir.Value:
    counts = facts[partial.measure.fact]
    if partial.measure.value is None:
        if partial.kind != "count":
            raise ValueError(
                f"{partial.column}: measure {partial.measure.name} has no value to take a {partial.kind} of"
            )
        return facts.count(where=counts)
    value = facts[partial.measure.value]
    match partial.kind:
        case "count":
            return facts.count(where=counts & value.notnull())
        case "sum":
            return ibis.coalesce(value.sum(where=counts), 0)
        case "squares":
            return ibis.coalesce((value * value).sum(where=counts), 0)
        case "last":
            return value.max(where=counts)

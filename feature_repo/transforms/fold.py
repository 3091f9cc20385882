"""`orders.fold` on the engines: each order as it stood after each of its versions, as they became known.

Of most orders every version tells all that the ones before it told. Those that do are left as they are; finding the
others costs one aggregate, and only those are laid over each other.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Collection
from typing import Any

import ibis
import ibis.expr.datatypes as dt
import ibis.expr.types as ir
import polars as pl

from feature_repo.orders.fold import FOLDED, MAY_BE_UNKNOWN, RECORD_ORDER, STATUS_RANK
from feature_repo.orders.identity import SAME_PLACING
from feature_repo.transforms.engine import evaluate, hand_over

TOLD = ("restaurant_id", "placed_at", "status", *MAY_BE_UNKNOWN)
"""Columns of a version that the fold gives back."""
KNOWN_ORDER = ("known_at", *(name for name in RECORD_ORDER if name != "known_at"))
_ONE_PLACING = SAME_PLACING.total_seconds() * 1e6
_FURTHER = 1 << 32
"""More than an order has versions."""
_WIDTH = 1 << 16
"""More than `_told` and `_rank` together can be."""


@ibis.udf.scalar.builtin  # type: ignore[untyped-decorator]
def unix_micros(instant: dt.Timestamp(timezone="UTC")) -> dt.int64:  # type: ignore[valid-type]
    """Microseconds since 1970, a function of both engines (see `engine`).

    What Ibis has for the purpose goes through the calendar of the session's time zone, fifty times slower on DuckDB.
    """


def seconds(instant: ir.Value) -> ir.Value:
    """Unix seconds of a timestamp, rounded down."""
    return (unix_micros(instant) // 1_000_000).cast("int64")


def tangled_orders(connection: Any, versions: ir.Table) -> pl.DataFrame:
    """`order_id` of each order whose versions are not in order by themselves.

    That is: two became known in the same microsecond, or in another order than they were recorded, one lacks what
    another told, or the id stands for several orders.
    """
    suspects = evaluate(connection, _suspects, [versions])
    if suspects.is_empty():
        return suspects
    return evaluate(connection, _tangled, [versions, hand_over(connection, suspects, "suspects")])


def states(versions: ir.Table, tangled: ir.Table | None, corrections: Collection[str] = ()) -> ir.Table:
    """Each order as it was known after each of its versions.

    Parameters
    ----------
    versions : ibis table
        `LAKE_SCHEMA`, in any order.
    tangled : ibis table or None
        What `tangled_orders` says of them; None if it names no order.
    corrections : collection of str, optional
        Columns that a later version may take back.

    Returns
    -------
    ibis table
        One row per version: `order_id` (of its own for each order that shares an id), `known_at`, the columns in
        `TOLD`, and `position`, an integer by which an order's rows are ordered as they became known.
    """
    columns = ["order_id", "known_at", *TOLD]
    if tangled is None:
        return versions.select(*columns, position=unix_micros(versions.known_at))
    alone = versions.anti_join(tangled, "order_id")
    apart = _fold(_numbered(_one_placing(versions.semi_join(tangled, "order_id"))), corrections)
    return ibis.union(
        alone.select(*columns, position=unix_micros(alone.known_at)),
        apart.select(*columns, "position"),
        distinct=False,
    )


def _suspects(versions: ir.Table) -> ir.Table:
    """Orders that may be tangled: of two versions it is seen at once, with more it takes a second look."""
    v = versions
    placed = unix_micros(v.placed_at)
    found = v.group_by("order_id").agg(
        versions=v.count(),
        late=(v.known_at != v.updated_at).any(),
        placed_within=placed.max() - placed.min(),
        first=(seconds(v.known_at) * _WIDTH + _told(v) * 4 + _rank(v)).min(),
        last=(seconds(v.known_at) * _WIDTH + _told(v) * 4 + _rank(v)).max(),
    )
    first, last = ((found[name] % _WIDTH) // 4 for name in ("first", "last"))
    doubts = (
        found.versions > 2,
        found.late,
        found.placed_within > _ONE_PLACING,
        found.first // _WIDTH == found.last // _WIDTH,
        (first & last) != first,
        found.first % 4 > found.last % 4,
    )
    return found.filter(found.versions > 1, functools.reduce(operator.or_, doubts)).select("order_id")


def _tangled(versions: ir.Table, suspects: ir.Table) -> ir.Table:
    versions = versions.semi_join(suspects, "order_id")
    v = versions.mutate(told=_told(versions), rank=_rank(versions), placed=unix_micros(versions.placed_at))
    as_known = ibis.window(group_by="order_id", order_by=v.known_at)
    names = ("known_at", "updated_at", "told", "rank")
    v = v.mutate(
        **{f"before_{name}": v[name].lag().over(as_known) for name in names},
        placed_within=(v.placed.max() - v.placed.min()).over(ibis.window(group_by="order_id")),
    )
    reasons = (
        v.known_at == v.before_known_at,
        v.updated_at < v.before_updated_at,
        (v.before_told & v.told) != v.before_told,
        v["rank"] < v.before_rank,
        v.placed_within > _ONE_PLACING,
    )
    return v.filter(functools.reduce(operator.or_, reasons)).select("order_id").distinct()


def _told(versions: ir.Table) -> ir.Value:
    """Which columns are known, as the bits of an integer."""
    bits = [versions[name].notnull().ifelse(1 << place, 0) for place, name in enumerate(MAY_BE_UNKNOWN)]
    return functools.reduce(operator.add, bits).cast("int64")


def _rank(versions: ir.Table) -> ir.Value:
    cases = [(versions.status == status, rank) for status, rank in STATUS_RANK.items()]
    return ibis.cases(*cases, else_=0).cast("int64")


def _one_placing(versions: ir.Table) -> ir.Table:
    """Give each of the orders that share an id one of its own."""
    by_placing = [ibis.asc(versions[name], nulls_first=True) for name in ("placed_at", *RECORD_ORDER)]
    placed = versions.mutate(
        place=ibis.row_number().over(group_by="order_id", order_by=by_placing), placed=unix_micros(versions.placed_at)
    )
    before = placed.placed.lag().over(group_by="order_id", order_by="place")
    new = placed.mutate(another=(placed.placed - before > _ONE_PLACING).fill_null(False).cast("int64"))
    number = new.another.sum().over(group_by="order_id", order_by="place", rows=(None, 0))
    return new.mutate(order_id=new.order_id + "\x1f" + number.cast("string"))


def _numbered(versions: ir.Table) -> ir.Table:
    """Add the places of an order's versions as they became known and as they were recorded."""

    def place(names: tuple[str, ...]) -> ir.Value:
        order = [ibis.asc(versions[name], nulls_first=True) for name in names]
        return ibis.row_number().over(group_by="order_id", order_by=order).cast("int64")

    return versions.mutate(position=place(KNOWN_ORDER), record=place(RECORD_ORDER), rank=_rank(versions))


def _fold(numbered: ir.Table, corrections: Collection[str]) -> ir.Table:
    after = numbered.select("order_id", "known_at", "position")
    told = numbered.select(
        "record",
        "rank",
        told_order="order_id",
        told_position="position",
        **{f"told_{name}": name for name in (*FOLDED, "status")},
    )
    pairs = after.join(told, [after.order_id == told.told_order, told.told_position <= after.position])
    furthest = pairs.record if "status" in corrections else pairs["rank"] * _FURTHER + pairs.record
    return pairs.group_by("order_id", "known_at", "position").agg(
        status=pairs.told_status.argmax(furthest),
        **{name: _last_told(pairs, name, name in corrections) for name in FOLDED},
    )


def _last_told(pairs: ir.Table, name: str, may_be_taken_back: bool) -> ir.Value:
    value = pairs[f"told_{name}"]
    known = value.argmax(pairs.record, where=value.notnull())
    if not may_be_taken_back:
        return known
    return (pairs.record.max(where=value.notnull()) == pairs.record.max()).ifelse(known, ibis.null(value.type()))

"""Facts: what became known about orders, each once, in the hour in which it first became known.

Grain: one row per order and fact. An order version shows facts (it was placed, accepted, delivered ...); a fact belongs
to the first version that shows it, with that version's values. Later corrections change labels, never history, so no
hour ever has to be computed again.
"""

from __future__ import annotations

from datetime import timedelta

import ibis
import ibis.expr.types as ir

from feature_repo.transforms.spec import DAY
from feature_repo.window import Window

PLACED = "placed"
ACCEPTED = "accepted"
DECLINED = "declined"
"""Cancelled without ever having been accepted."""
PICKED_UP = "picked_up"
DELIVERED = "delivered"
CANCELLED = "cancelled"
CLOSED = "closed"
"""Delivered or cancelled, within `OPEN_AT_MOST` of being placed."""
ABANDONED = "abandoned"
"""Open for `OPEN_AT_MOST`: no end of it has become known, so it is not counted as open any longer."""

OPEN_AT_MOST = DAY
"""Every placed order ends, once: closed, or abandoned after this time. So placed - closed - abandoned is exactly the
number of open orders, lost closings do not pile up, and the count can never fall below zero."""

ENTITY_KEYS = ("restaurant_id", "driver_id", "customer_id", "zone_id")
VALUES = (
    "placed_second",
    "value_cents",
    "distance_metres",
    "delivery_seconds",
    "preparation_seconds",
    "on_time",
    "too_slow",
)
"""Integer columns of a fact, null where the version does not tell. The two durations are null for scheduled orders:
how long those take says when they were wanted."""

_TIE_BREAKERS = (
    "updated_at",
    "status",
    "placed_at",
    "accepted_at",
    "picked_up_at",
    "delivered_at",
    "cancelled_at",
    *ENTITY_KEYS,
    "is_asap",
    "distance_km",
    "item_count",
    "order_value",
    "promised_minutes",
)


def lookback(lateness_horizon: timedelta) -> timedelta:
    """How far before a window versions must be read so that its facts are exact.

    An accepted version is known at most the horizon after its order was placed, so a fact's first version is no further
    back than that; and whether an order is open depends on a placing of up to `OPEN_AT_MOST` earlier.
    """
    return lateness_horizon + OPEN_AT_MOST


def facts(versions: ir.Table, window: Window) -> ir.Table:
    """The facts that first became known in a window.

    Parameters
    ----------
    versions : ibis table
        Order versions (`LAKE_SCHEMA`) known in `[window.start - lookback, window.end)`, in any order.
    window : Window

    Returns
    -------
    ibis table
        `fact`, `known_hour` (full hours since 1970), `ENTITY_KEYS` and `VALUES`.
    """
    ranked = _rank(_measure(versions))
    first_known = [
        ranked.filter(ranked["rank"] == ranked[f"first_{fact}"]).mutate(fact=ibis.literal(fact))
        for fact in _shown(versions)
    ]
    ends = _ends(ranked)
    columns = ["fact", "known_second", *ENTITY_KEYS, *VALUES]
    known = ibis.union(*[part.select(columns) for part in (*first_known, *ends)], distinct=False)
    start, end = int(window.start.timestamp()), int(window.end.timestamp())
    inside = known.filter(known.known_second >= start, known.known_second < end)
    return inside.mutate(known_hour=(inside.known_second // 3600).cast("int64")).drop("known_second")


def seconds(instant: ir.Value) -> ir.Value:
    """Unix seconds of a timestamp, rounded down.

    The cut to whole seconds comes first: on DuckDB the cast alone rounds, which moves 12:59:59.7 into the next hour.
    """
    return instant.truncate("s").epoch_seconds().cast("int64")


def _shown(versions: ir.Table) -> dict[str, ir.Value]:
    cancelled = versions.status == CANCELLED
    return {
        PLACED: ibis.literal(True),
        ACCEPTED: versions.accepted_at.notnull(),
        DECLINED: cancelled & versions.accepted_at.isnull(),
        PICKED_UP: versions.picked_up_at.notnull(),
        DELIVERED: (versions.status == DELIVERED) & versions.delivered_at.notnull(),
        CANCELLED: cancelled,
    }


def _measure(versions: ir.Table) -> ir.Table:
    """Add the integer values and, as `shows_*`, the facts that each version shows."""
    v = versions
    delivery = seconds(v.delivered_at) - seconds(v.placed_at)
    late = delivery > _whole(v.promised_minutes * 60)
    return v.mutate(
        known_second=seconds(v.known_at),
        placed_second=seconds(v.placed_at),
        value_cents=_whole(v.order_value * 100),
        distance_metres=_whole(v.distance_km * 1000),
        delivery_seconds=v.is_asap.ifelse(delivery, ibis.null("int64")),
        preparation_seconds=v.is_asap.ifelse(seconds(v.picked_up_at) - seconds(v.accepted_at), ibis.null("int64")),
        on_time=ibis.cases((late, ibis.null("int64")), (~late, 1)),
        too_slow=ibis.cases((late, 1), (~late, ibis.null("int64"))),
        **{f"shows_{fact}": shown for fact, shown in _shown(v).items()},
    )


def _rank(measured: ir.Table) -> ir.Table:
    """Number each order's versions as they became known, and note the first one that shows each fact."""
    in_order = ibis.window(
        group_by="order_id",
        order_by=[ibis.asc(measured[name], nulls_first=True) for name in ("known_at", *_TIE_BREAKERS)],
    )
    ranked = measured.mutate(rank=ibis.row_number().over(in_order))
    order = ibis.window(group_by="order_id")
    firsts = {f"first_{fact}": ranked["rank"].min(where=ranked[f"shows_{fact}"]).over(order) for fact in _shown(ranked)}
    over = ranked.shows_delivered | ranked.shows_cancelled
    return ranked.mutate(end_second=ranked.known_second.min(where=over).over(order), **firsts)


def _ends(ranked: ir.Table) -> list[ir.Table]:
    """How each order stopped being open. With the ids of its placing, so that it is taken off where it was added."""
    placed = ranked.filter(ranked["rank"] == ranked.first_placed)
    limit = placed.known_second + int(OPEN_AT_MOST.total_seconds())
    in_time = (placed.end_second < limit).fill_null(False)
    closed = placed.filter(in_time).mutate(fact=ibis.literal(CLOSED), known_second=placed.end_second)
    abandoned = placed.filter(~in_time).mutate(fact=ibis.literal(ABANDONED), known_second=limit)
    return [closed, abandoned]


def _whole(value: ir.Value) -> ir.Value:
    return value.round().cast("int64")

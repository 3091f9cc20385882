"""Facts: what became known about orders, each once, at the instant at which it first became known.

Grain: one row per order version that shows something new, one per order's end, and one per begin and end of a driver's
shift. An order, as it is known after a version (see `fold`), shows facts: it was placed, accepted, delivered ... A fact
belongs to the first version after which the order shows it, with the values that were known then. Later corrections
change labels, never history, so no hour ever has to be computed again.
"""

import functools
import operator
from collections.abc import Collection, Mapping
from datetime import timedelta

import ibis
import ibis.expr.types as ir

from feature_repo.orders import identity
from feature_repo.transforms.fold import seconds, states
from feature_repo.window import DAY, HOUR

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

SHIFT_BEGAN = "shift_began"
"""A driver's first delivery in a zone after none there for `SHIFT_ENDS_AFTER`."""
SHIFT_ENDED = "shift_ended"
"""No further delivery of a driver in a zone for `SHIFT_ENDS_AFTER`."""

SHOWN = (PLACED, ACCEPTED, DECLINED, PICKED_UP, DELIVERED, CANCELLED)
"""Facts that a version shows."""
ENDS = (CLOSED, ABANDONED)
"""Facts that follow from the time that passed."""
SHIFTS = (SHIFT_BEGAN, SHIFT_ENDED)
"""Facts about a driver in a zone. Begun - ended is exactly the number of drivers who delivered there within that time:
of how many different ones there were, sums over tiles could not tell."""
FACTS = (*SHOWN, *ENDS, *SHIFTS)

OPEN_AT_MOST = DAY
"""Every placed order ends, once: closed, or abandoned after this time. So placed - closed - abandoned is exactly the
number of open orders, lost closings do not pile up, and the count can never fall below zero."""

SHIFT_ENDS_AFTER = 2 * HOUR

ENTITY_KEYS = ("restaurant_id", "driver_id", "customer_id", "zone_id")
VALUES = (
    "placed_second",
    "value_cents",
    "distance_metres",
    "delivery_seconds",
    "preparation_seconds",
    "on_time",
    "too_slow",
    "asap",
)
"""Integer columns of a fact, null where the version does not tell. The two durations are null for scheduled orders:
how long those take says when they were wanted. `asap` is 1 for the others."""


NEEDED_COLUMNS: Mapping[str, tuple[str, ...]] = {
    ACCEPTED: ("accepted_at",),
    DECLINED: ("accepted_at",),
    PICKED_UP: ("picked_up_at",),
    DELIVERED: ("delivered_at",),
    SHIFT_BEGAN: ("delivered_at", "driver_id", "zone_id"),
    SHIFT_ENDED: ("delivered_at", "driver_id", "zone_id"),
    "value_cents": ("order_value",),
    "distance_metres": ("distance_km",),
    "delivery_seconds": ("delivered_at",),
    "preparation_seconds": ("accepted_at", "picked_up_at"),
    "on_time": ("delivered_at", "promised_minutes"),
    "too_slow": ("delivered_at", "promised_minutes"),
}
"""By fact or value: the columns of an order without each of which no source tells it."""


def lookback(lateness_horizon: timedelta) -> timedelta:
    """How far before a window versions must be read so that its facts are exact.

    A fact's first version is no further back than that of its order (see `identity.lookback`); and whether an order is
    open depends on a placing of up to `OPEN_AT_MOST` earlier. Whether a driver is on a shift depends on a delivery of
    up to `SHIFT_ENDS_AFTER` earlier, which is less.
    """
    return identity.lookback(lateness_horizon) + OPEN_AT_MOST


def facts(
    versions: ir.Table,
    tangled: ir.Table | None,
    corrections: Collection[str],
    absent: Collection[str],
    start: int | ir.IntegerScalar,
    end: int | ir.IntegerScalar,
) -> ir.Table:
    """The facts that first became known in a window.

    Parameters
    ----------
    versions : ibis table
        Order versions (`LAKE_SCHEMA`) known in `[start - lookback, end)`, in any order.
    tangled : ibis table or None
        What `fold.tangled_orders` says of these versions; None if it names no order.
    corrections : collection of str
        Columns that a later version may take back.
    absent : collection of str
        Columns that the source does not have. A fact that needs one is never shown: where nobody tells whether an
        order was accepted, a cancelled one was not declined.
    start, end : int or ibis integer
        Unix seconds.

    Returns
    -------
    ibis table
        `known_second` (Unix), `ENTITY_KEYS`, `VALUES`, and one boolean column per fact, named after it.
        Several facts that became known together share a row; a fact is true in at most one row of its order.
    """
    firsts = _first_shown(
        _measure(states(versions, tangled, corrections), absent), back_to=start - int(OPEN_AT_MOST.total_seconds())
    )
    shown = firsts.mutate(**_none_of(*ENDS, *SHIFTS))
    columns = ["known_second", *ENTITY_KEYS, *VALUES, *FACTS]
    known = ibis.union(*[part.select(columns) for part in (shown, _ends(firsts), _shifts(firsts))], distinct=False)
    anything = functools.reduce(operator.or_, [known[fact] for fact in FACTS])
    return known.filter(known.known_second >= start, known.known_second < end, anything)


def _shown(known: ir.Table, absent: Collection[str]) -> dict[str, ir.Value]:
    shown = _shown_by_all_columns(known)
    untold = [fact for fact in shown if not set(absent).isdisjoint(NEEDED_COLUMNS.get(fact, ()))]
    return shown | _none_of(*untold)


def _shown_by_all_columns(versions: ir.Table) -> dict[str, ir.Value]:
    cancelled = versions.status == CANCELLED
    return {
        PLACED: ibis.literal(True),
        ACCEPTED: versions.accepted_at.notnull(),
        DECLINED: cancelled & versions.accepted_at.isnull(),
        PICKED_UP: versions.picked_up_at.notnull(),
        DELIVERED: (versions.status == DELIVERED) & versions.delivered_at.notnull(),
        CANCELLED: cancelled,
    }


def _measure(known: ir.Table, absent: Collection[str]) -> ir.Table:
    """Add the integer values and, as `shows_*`, the facts that an order shows after each version."""
    v = known.mutate(is_asap=known.is_asap.fill_null(True))
    delivery = seconds(v.delivered_at) - seconds(v.placed_at)
    late = delivery > _whole(v.promised_minutes * 60)
    measured = v.mutate(
        known_second=seconds(v.known_at),
        placed_second=seconds(v.placed_at),
        value_cents=_whole(v.order_value * 100),
        distance_metres=_whole(v.distance_km * 1000),
        delivery_seconds=v.is_asap.ifelse(delivery, ibis.null("int64")),
        preparation_seconds=v.is_asap.ifelse(seconds(v.picked_up_at) - seconds(v.accepted_at), ibis.null("int64")),
        on_time=ibis.cases((late, ibis.null("int64")), (~late, 1)),
        too_slow=ibis.cases((late, 1), (~late, ibis.null("int64"))),
        asap=ibis.cases((v.is_asap, 1), else_=ibis.null("int64")),
        **{f"shows_{fact}": shown for fact, shown in _shown(v, absent).items()},
    )
    shows = [f"shows_{fact}" for fact in SHOWN]
    return measured.select("order_id", "position", "known_second", *ENTITY_KEYS, *VALUES, *shows)


def _first_shown(ordered: ir.Table, back_to: int) -> ir.Table:
    """The versions known since `back_to`, with the facts of which each is the first, and when its order ended."""
    over = ordered.shows_delivered | ordered.shows_cancelled
    firsts = ordered.group_by("order_id").agg(
        end_second=ordered.known_second.min(where=over),
        **{f"first_{fact}": ordered.position.min(where=ordered[f"shows_{fact}"]) for fact in SHOWN},
    )
    recent = ordered.filter(ordered.known_second >= back_to)
    both = recent.join(firsts, "order_id")
    return both.mutate(**{fact: (both.position == both[f"first_{fact}"]).fill_null(False) for fact in SHOWN})


def _ends(firsts: ir.Table) -> ir.Table:
    """How each order stopped being open. With the ids of its placing, so that it is taken off where it was added."""
    placed = firsts.filter(firsts[PLACED])
    limit = placed.known_second + int(OPEN_AT_MOST.total_seconds())
    in_time = (placed.end_second < limit).fill_null(False)
    return placed.mutate(
        known_second=in_time.ifelse(placed.end_second, limit),
        **_none_of(*SHOWN, *SHIFTS),
        **{CLOSED: in_time, ABANDONED: ~in_time},
    )


def _shifts(firsts: ir.Table) -> ir.Table:
    """Begins and ends of the times in which a driver delivers in a zone."""
    span = int(SHIFT_ENDS_AFTER.total_seconds())
    made = firsts.filter(firsts[DELIVERED], firsts.driver_id.notnull(), firsts.zone_id.notnull())
    there = ibis.window(group_by=["driver_id", "zone_id"], order_by=["known_second", "order_id"])
    made = made.mutate(
        before=made.known_second.lag().over(there),
        after=made.known_second.lead().over(there),
        **{name: ibis.null("int64") for name in VALUES},
        **_none_of(*SHOWN, *ENDS),
    )
    begins = made.before.isnull() | (made.known_second - made.before > span)
    ends = made.after.isnull() | (made.after - made.known_second > span)
    return ibis.union(
        made.mutate(**{SHIFT_BEGAN: begins, SHIFT_ENDED: ibis.literal(False)}),
        made.mutate(known_second=made.known_second + span, **{SHIFT_BEGAN: ibis.literal(False), SHIFT_ENDED: ends}),
        distinct=False,
    )


def _none_of(*facts: str) -> dict[str, ir.Value]:
    return {fact: ibis.literal(False) for fact in facts}


def _whole(value: ir.Value) -> ir.Value:
    return value.round().cast("int64")

"""The features by brute force, in plain Python, from the order versions alone: slow, and simple enough to believe.

Of the definitions it takes what a view is about (its key, its facts, windows and beats), so that a new feature needs
nothing here. What the values must be, it knows by itself; a feature that it does not know has its rows checked only.
"""

from __future__ import annotations

import bisect
import statistics
from collections import defaultdict
from collections.abc import Container, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from feature_repo.transforms.spec import FIRST_BEAT
from feature_repo.transforms.views import TRANSFORMS

Version = dict[str, Any]
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
FIELDS_IN_TIE_ORDER = [
    "known_at",
    "updated_at",
    "status",
    "placed_at",
    "accepted_at",
    "picked_up_at",
    "delivered_at",
    "cancelled_at",
    "restaurant_id",
    "driver_id",
    "customer_id",
    "zone_id",
    "is_asap",
    "distance_km",
    "item_count",
    "order_value",
    "promised_minutes",
]
RANKS = {"placed": 0, "accepted": 1, "picked_up": 2, "delivered": 3, "cancelled": 3}
SHIFT = 2 * HOUR


@dataclass(frozen=True)
class Fact:
    kind: str
    known_at: datetime
    version: Version


def facts_of(versions: Iterable[Version], until: datetime) -> list[Fact]:
    """Every fact, once, as it stands when everything known before `until` is known."""
    under_one_id: dict[str, list[Version]] = defaultdict(list)
    for version in versions:
        if version["known_at"] < until:
            under_one_id[version["order_id"]].append(version)
    orders = [order for found in under_one_id.values() for order in orders_of(found)]
    of_orders = [fact for history in orders for fact in _order_facts(history, until)]
    return [*of_orders, *_shifts(of_orders, until)]


def orders_of(versions: list[Version]) -> list[list[Version]]:
    """The orders among versions of one id: a new one begins where the next time of placing is over a minute away."""
    found: list[list[Version]] = []
    for version in sorted(versions, key=lambda version: version["placed_at"]):
        if not found or version["placed_at"] - found[-1][-1]["placed_at"] > timedelta(minutes=1):
            found.append([])
        found[-1].append(version | {"order_id": f"{version['order_id']} #{len(found)}"})
    return found


def states(history: list[Version], corrections: Container[str] = ()) -> list[Version]:
    """An order as it was known after each of its versions, as these became known."""
    ordered = _sorted(history, FIELDS_IN_TIE_ORDER)
    return [
        state(ordered[: place + 1], corrections) | {"known_at": now["known_at"]} for place, now in enumerate(ordered)
    ]


def state(versions: Iterable[Version], corrections: Container[str] = ()) -> Version:
    """What versions of an order add up to: nulls and earlier statuses take nothing back, except in some columns."""
    found: Version = {}
    for version in _sorted(versions, ["updated_at", "known_at", *FIELDS_IN_TIE_ORDER[2:]]):
        for name, value in version.items():
            known = found.get(name)
            if name in corrections:
                found[name] = value
            elif name == "status" and known is not None:
                found[name] = value if RANKS[value] >= RANKS[known] else known
            else:
                found[name] = known if value is None else value
    return found | {"is_asap": found["is_asap"] is not False}


def _sorted(versions: Iterable[Version], names: list[str]) -> list[Version]:
    return sorted(versions, key=lambda version: [(version[name] is not None, version[name]) for name in names])


def features(view: str, entity: str, at: datetime, facts: list[Fact]) -> dict[str, Any]:
    """The features of one entity at one instant, from what was known strictly before."""
    mine = [fact for fact in facts if fact.version[TRANSFORMS[view].key] == entity and fact.known_at < at]
    by_view = {
        "restaurant_stats": _restaurant,
        "driver_stats": _driver,
        "customer_stats": _customer,
        "zone_stats": _zone,
        "zone_live": _zone_live,
    }
    return by_view[view](mine, at) if view in by_view else {}


def row_instants(view: str, start: datetime, end: datetime, facts: list[Fact]) -> set[tuple[str, datetime]]:
    """The entities and instants in `(start, end]` at which there must be a row, and no others."""
    hours: dict[str, set[datetime]] = defaultdict(set)
    transform = TRANSFORMS[view]
    step, kinds = transform.step, {partial.measure.fact for partial in transform.partials}
    for fact in facts:
        entity = fact.version[transform.key]
        if entity is not None and fact.kind in kinds:
            midnight = fact.known_at.replace(hour=0, minute=0, second=0, microsecond=0)
            hours[entity].add(midnight + (fact.known_at - midnight) // step * step)
    expected = set()
    for entity, tiles in hours.items():
        for tile in tiles:
            changes = [tile + step, *(tile + step + window for window in transform.windows)]
            expected |= {(entity, at) for at in changes if start < at <= end}
        at, ordered = start.replace(hour=0), sorted(tiles)
        while at <= end:
            beat = (at - FIRST_BEAT) % transform.beat == timedelta()
            before = bisect.bisect_left(ordered, at)
            if beat and at > start and before and ordered[before - 1] >= at - transform.heartbeat:
                expected.add((entity, at))
            at += min(transform.beat, DAY)
    return expected


def _order_facts(history: list[Version], until: datetime) -> list[Fact]:
    ordered = states(history)
    shows = {
        "placed": lambda v: True,
        "accepted": lambda v: v["accepted_at"] is not None,
        "declined": lambda v: v["status"] == "cancelled" and v["accepted_at"] is None,
        "picked_up": lambda v: v["picked_up_at"] is not None,
        "delivered": lambda v: v["status"] == "delivered" and v["delivered_at"] is not None,
        "cancelled": lambda v: v["status"] == "cancelled",
    }
    found = []
    for kind, test in shows.items():
        first = next((version for version in ordered if test(version)), None)
        if first is not None:
            found.append(Fact(kind, first["known_at"], first))
    placed = found[0]
    ends = [fact.known_at for fact in found if fact.kind in ("delivered", "cancelled")]
    gives_up = _whole_second(placed.known_at) + DAY
    if ends and _whole_second(min(ends)) < gives_up:
        found.append(Fact("closed", min(ends), placed.version))
    elif gives_up < until:
        found.append(Fact("abandoned", gives_up, placed.version))
    return found


def _shifts(facts: list[Fact], until: datetime) -> list[Fact]:
    delivered: dict[tuple[str, str], list[Fact]] = defaultdict(list)
    for fact in facts:
        driver, zone = fact.version["driver_id"], fact.version["zone_id"]
        if fact.kind == "delivered" and driver is not None and zone is not None:
            delivered[driver, zone].append(fact)
    found = []
    for made in delivered.values():
        made.sort(key=lambda fact: fact.known_at)
        for before, fact, after in zip([None, *made], made, [*made[1:], None], strict=False):
            at = _whole_second(fact.known_at)
            if before is None or at - _whole_second(before.known_at) > SHIFT:
                found.append(Fact("shift_began", at, fact.version))
            if (after is None or _whole_second(after.known_at) - at > SHIFT) and at + SHIFT < until:
                found.append(Fact("shift_ended", at + SHIFT, fact.version))
    return found


def _restaurant(facts: list[Fact], at: datetime) -> dict[str, Any]:
    week, month = at - 7 * DAY, at - 28 * DAY
    accepted, declined = len(_since(facts, "accepted", week)), len(_since(facts, "declined", week))
    return {
        "order_count_7d": len(_since(facts, "placed", week)),
        "delivery_minutes_mean_7d": _mean(_delivery_minutes(_since(facts, "delivered", week))),
        "delivery_minutes_mean_28d": _mean(_delivery_minutes(_since(facts, "delivered", month))),
        "delivery_minutes_std_28d": _std(_delivery_minutes(_since(facts, "delivered", month))),
        "preparation_minutes_mean_7d": _mean(_preparation_minutes(_since(facts, "picked_up", week))),
        "preparation_minutes_mean_28d": _mean(_preparation_minutes(_since(facts, "picked_up", month))),
        "preparation_minutes_std_28d": _std(_preparation_minutes(_since(facts, "picked_up", month))),
        "order_value_mean_28d": _mean(_values(_since(facts, "placed", month))),
        "acceptance_rate_7d": accepted / (accepted + declined) if accepted + declined else None,
    }


def _driver(facts: list[Fact], at: datetime) -> dict[str, Any]:
    delivered = _since(facts, "delivered", at - 28 * DAY)
    promised = [fact.version for fact in delivered if fact.version["promised_minutes"] is not None]
    on_time = [v for v in promised if _seconds(v, "placed_at", "delivered_at") <= round(v["promised_minutes"] * 60)]
    distances = [f.version["distance_km"] for f in delivered if f.version["distance_km"] is not None]
    return {
        "delivered_count_28d": len(delivered),
        "delivery_minutes_mean_28d": _mean(_delivery_minutes(delivered)),
        "distance_km_mean_28d": _mean(distances),
        "on_time_rate_28d": len(on_time) / len(promised) if promised else None,
    }


def _customer(facts: list[Fact], at: datetime) -> dict[str, Any]:
    ever = [fact for fact in facts if fact.kind == "placed"]
    month = _since(facts, "placed", at - 30 * DAY)
    last = max(_whole_second(fact.version["placed_at"]) for fact in ever)
    if len(month) >= 8:
        segment = "vip"
    elif len(month) >= 3:
        segment = "regular"
    else:
        segment = "new" if len(ever) <= 1 else "occasional"
    return {
        "order_count_30d": len(month),
        "order_value_sum_30d": _sum(month),
        "order_value_mean_30d": _mean(_values(month)),
        "days_since_last_order": (at - last) / DAY,
        "order_count_lifetime": len(ever),
        "order_value_sum_lifetime": _sum(ever),
        "segment": segment,
    }


def _zone(facts: list[Fact], at: datetime) -> dict[str, Any]:
    return {
        "order_count_1h": len(_since(facts, "placed", at - HOUR)),
        "order_count_7d": len(_since(facts, "placed", at - 7 * DAY)),
        "delivered_count_1h": len(_since(facts, "delivered", at - HOUR)),
        "delivery_minutes_mean_1h": _mean(_delivery_minutes(_since(facts, "delivered", at - HOUR))),
        "delivery_minutes_mean_24h": _mean(_delivery_minutes(_since(facts, "delivered", at - DAY))),
        "delivery_minutes_mean_7d": _mean(_delivery_minutes(_since(facts, "delivered", at - 7 * DAY))),
        "open_order_count": _open(facts),
    }


def _zone_live(facts: list[Fact], at: datetime) -> dict[str, Any]:
    # Not from the begins and ends of shifts, but from what they are meant to count.
    recent = [fact for fact in facts if fact.kind == "delivered" and _whole_second(fact.known_at) + SHIFT >= at]
    drivers = len({fact.version["driver_id"] for fact in recent} - {None})
    asap = _open([fact for fact in facts if fact.version["is_asap"]])
    delivered = len(_since(facts, "delivered", at - HOUR))
    return {
        "order_count_60m": len(_since(facts, "placed", at - HOUR)),
        "delivery_minutes_mean_60m": _mean(_delivery_minutes(_since(facts, "delivered", at - HOUR))),
        "open_order_count": _open(facts),
        "open_asap_order_count": asap,
        "active_driver_count": drivers,
        "open_asap_orders_per_driver": asap / max(drivers, 1),
        "delivered_per_driver_60m": delivered / max(drivers, 1),
    }


def _open(facts: list[Fact]) -> int:
    placed = {fact.version["order_id"] for fact in facts if fact.kind == "placed"}
    ended = {fact.version["order_id"] for fact in facts if fact.kind in ("closed", "abandoned")}
    return len(placed - ended)


def _since(facts: list[Fact], kind: str, start: datetime) -> list[Fact]:
    return [fact for fact in facts if fact.kind == kind and fact.known_at >= start]


def _delivery_minutes(facts: list[Fact]) -> list[float]:
    return [_seconds(f.version, "placed_at", "delivered_at") / 60 for f in facts if f.version["is_asap"]]


def _preparation_minutes(facts: list[Fact]) -> list[float]:
    asap = [f.version for f in facts if f.version["is_asap"] and f.version["accepted_at"] is not None]
    return [_seconds(version, "accepted_at", "picked_up_at") / 60 for version in asap]


def _values(facts: list[Fact]) -> list[float]:
    return [fact.version["order_value"] for fact in facts if fact.version["order_value"] is not None]


def _sum(facts: list[Fact]) -> float | None:
    if not facts:
        return 0.0
    return sum(_values(facts)) if _values(facts) else None


def _mean(values: list[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _std(values: list[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


def _seconds(version: Version, start: str, end: str) -> int:
    return int((_whole_second(version[end]) - _whole_second(version[start])).total_seconds())


def _whole_second(instant: datetime) -> datetime:
    return instant.replace(microsecond=0)

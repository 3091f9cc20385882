"""Random histories of order versions, with everything that makes time hard: late and repeated versions, ties, closings
that never come, drivers that change, events that tell one thing only, ids that come back, instants exactly on the hour
and a microsecond before it."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl

from config import Settings
from feature_repo.orders.schema import LAKE_SCHEMA, orders_table
from feature_repo.window import HOUR, Window, floor_hour

Version = dict[str, Any]
START = datetime(2026, 3, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


def random_history(seed: int, days: int = 40, orders: int = 80) -> list[Version]:
    """Versions of some orders, in random order."""
    dice = random.Random(seed)
    versions = [version for number in range(orders) for version in _order(dice, number, days)]
    dice.shuffle(versions)
    return versions


def write_lake(versions: list[Version], settings: Settings) -> Window:
    """Put versions into the lake's order table; returns a window over all of them, from midnight to midnight."""
    frame = pl.DataFrame(versions, schema=LAKE_SCHEMA)
    known = [version["known_at"] for version in versions]
    start = min(known).replace(hour=0, minute=0, second=0, microsecond=0)
    window = Window(start, floor_hour(max(known)).replace(hour=0) + timedelta(days=1))
    orders_table(settings).replace(window, frame)
    return window


def _order(dice: random.Random, number: int, days: int) -> list[Version]:
    placed = START + timedelta(seconds=dice.uniform(0, days * 86_400))
    if dice.random() < 0.3:
        placed = floor_hour(placed) - dice.choice([timedelta(0), MICROSECOND])
    accepted = placed + timedelta(seconds=dice.uniform(1, 900))
    picked_up = accepted + timedelta(seconds=dice.uniform(60, 3_600))
    delivered = picked_up + timedelta(seconds=dice.uniform(60, 5_400))
    base: Version = {
        "order_id": f"order-{number % 70}",  # some ids come back for another order
        "restaurant_id": f"restaurant-{dice.randrange(3)}",
        "driver_id": None,
        "customer_id": dice.choice(["ann", "bob", "cleo", None]),
        "zone_id": dice.choice(["north", "south", None]),
        "placed_at": placed,
        "accepted_at": None,
        "picked_up_at": None,
        "delivered_at": None,
        "cancelled_at": None,
        "status": "placed",
        "is_asap": dice.random() < 0.8,
        "distance_km": dice.choice([None, round(dice.uniform(0, 9), 3)]),
        "item_count": dice.choice([None, dice.randrange(1, 9)]),
        "order_value": dice.choice([None, round(dice.uniform(5, 90), 2)]),
        "promised_minutes": dice.choice([None, 30.0, 45.5]),
    }
    driver = f"driver-{dice.randrange(3)}"
    stages = [
        (placed, {}),
        (accepted, {"status": "accepted", "accepted_at": accepted}),
        (picked_up, {"status": "picked_up", "picked_up_at": picked_up, "driver_id": driver}),
        (delivered, {"status": "delivered", "delivered_at": delivered, "driver_id": driver}),
    ]
    ending = dice.random()
    if ending < 0.15:
        stages = [*stages[: dice.randrange(1, 3)], (delivered, {"status": "cancelled", "cancelled_at": delivered})]
    elif ending < 0.3:
        stages = stages[:-1]  # its end never becomes known
    return _as_they_arrive(dice, base, stages)


def _as_they_arrive(dice: random.Random, base: Version, stages: list[tuple[datetime, dict[str, Any]]]) -> list[Version]:
    versions, shown = [], dict(base)
    for updated, change in stages:
        shown = {**shown, **change}
        if dice.random() < 0.25:
            continue  # this version never reaches us; a later one shows its facts too
        known = max(updated, floor_hour(updated) + HOUR) if dice.random() < 0.2 else updated
        if dice.random() < 0.15:
            known = updated + timedelta(hours=dice.uniform(0, 60))
        version = {**_forgetting(dice, shown), "updated_at": updated, "known_at": known}
        versions.append(version)
        if dice.random() < 0.15:
            versions.append(dict(version))  # delivered twice
        if dice.random() < 0.15:
            versions.append(_corrected(dice, version))
    return versions


def _forgetting(dice: random.Random, shown: Version) -> Version:
    """Now and then a version tells only a part of what is known, as an event does."""
    if dice.random() < 0.7:
        return shown
    needed = {"order_id", "restaurant_id", "placed_at", "status", f"{shown['status']}_at"}
    return {name: None if name not in needed and dice.random() < 0.5 else value for name, value in shown.items()}


def _corrected(dice: random.Random, version: Version) -> Version:
    """Another version with other content: known at the same instant, or later."""
    later = dice.choice([timedelta(0), timedelta(0), timedelta(hours=dice.uniform(0, 5))])
    return {
        **version,
        "order_value": round(dice.uniform(5, 90), 2),
        "zone_id": dice.choice(["north", "south"]),
        "updated_at": version["updated_at"] + dice.choice([timedelta(0), later]),
        "known_at": version["known_at"] + later,
    }

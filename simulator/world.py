"""The world hour by hour: weather, arrivals, queues, and what becomes of every order.

Each hour is a pure function of (seed, hour number): its random numbers come from a counter-based generator with that
pair as its key, and whatever depends on the past (weather, queues) is recomputed from the hours that it depends on. So
it does not matter how a run is cut into calls, and nothing but the seed has to be remembered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from simulator.clock import HOUR_US, MINUTE_US
from simulator.drills import DRIFT_DISTANCE, DRIFT_PREPARATION, Drill, drift_factor
from simulator.market import MINUTES_PER_KM, Floats, Ints, Market

__all__ = ["LONGEST_HOURS", "NEVER", "Columns", "Status", "World"]

T = TypeVar("T")
Columns = dict[str, NDArray]  # type: ignore[type-arg]

NEVER = np.iinfo(np.int64).min
"""Stands for "has not happened" among microseconds; as a NumPy datetime it is NaT."""

LONGEST_HOURS = 112
"""No version of an order becomes known later than this after the order was placed (outages aside)."""

MEMORY_HOURS = 72
WEATHER_DECAY, SHOCK_DECAY = 0.93, 0.85
RAIN_DEMAND, SHOCK_DEMAND = 0.18, 0.3
RAIN_SLOWS = 0.13
LONGEST_ASAP_MINUTES = 240.0
TOO_LATE_HOURS = (73.0, 92.0)


class Status(IntEnum):
    """How an order ends."""

    DELIVERED = 0
    CANCELLED = 1


class _Stream(IntEnum):
    WEATHER = 0
    ARRIVALS = 1
    ORDERS = 2
    RECORDS = 3


@dataclass(frozen=True)
class _Arrivals:
    """Orders of one hour in the order of their instants; `key` is their (zone, instant) in one sorted number."""

    placed: Ints
    zone: Ints
    key: Ints


class World:
    """The orders of every hour since 1970.

    Parameters
    ----------
    seed : int
        Two worlds with the same seed, demand and drills are equal.
    orders_per_day : float
        Expected demand over a whole week, per day.
    drills : sequence of Drill
        Those of kind `drift` change the orders themselves.
    """

    def __init__(self, seed: int, orders_per_day: float, drills: Sequence[Drill] = ()) -> None:
        self.seed = seed
        self.market = Market.draw(seed, orders_per_day)
        self.drills = tuple(drills)
        self._zones = len(self.market.zones.names)
        self._key = int(np.random.SeedSequence([seed, 1]).generate_state(1, np.uint64)[0])
        self._innovations: dict[int, Floats] = {}
        self._skies: dict[int, tuple[Floats, Floats]] = {}
        self._arrivals: dict[int, _Arrivals] = {}
        self._weights = (_memory(WEATHER_DECAY), _memory(SHOCK_DECAY))

    def orders(self, hour: int) -> Columns:
        """Every order placed in the hour number `hour`, with all that will ever be recorded about it.

        Times are microseconds since 1970 (`NEVER` where it does not happen), durations minutes, participants
        positions in the market (-1 where the source forgot them).
        """
        arrivals = self._arrivals_of(hour)
        rain, _ = self._weather(hour)
        draws = _Draws(self._generator(hour, _Stream.ORDERS), len(arrivals.placed))
        order = self._request(hour, arrivals, draws)
        order |= self._durations(hour, order, rain[arrivals.zone], self._load(hour, arrivals), draws)
        order |= _schedule(order, draws)
        order |= _outcome(order, self.market.restaurants.decline[order["restaurant"]], draws)
        return _records(order, _Draws(self._generator(hour, _Stream.RECORDS), len(arrivals.placed)))

    def weather(self, hour: int) -> Floats:
        """Rain of each zone in the hour: 0 (dry, half of the time) to about 3."""
        return self._weather(hour)[0]

    def load(self, hour: int) -> Floats:
        """Orders of the last 60 minutes over the drivers' capacity, at the instant of each of the hour's orders."""
        return self._load(hour, self._arrivals_of(hour))

    def _generator(self, hour: int, stream: _Stream) -> np.random.Generator:
        key = np.array([self._key, (hour * 16 + stream) % 2**64], dtype=np.uint64)
        return np.random.Generator(np.random.Philox(key=key))

    def _innovation(self, hour: int) -> Floats:
        def draw() -> Floats:
            return self._generator(hour, _Stream.WEATHER).standard_normal(2 * self._zones + 1)

        return _remember(self._innovations, hour, 4 * MEMORY_HOURS, draw)

    def _weather(self, hour: int) -> tuple[Floats, Floats]:
        """Rain, and the logarithm of an unforeseen change in demand, of each zone."""
        return _remember(self._skies, hour, 4, lambda: self._draw_weather(hour))

    def _draw_weather(self, hour: int) -> tuple[Floats, Floats]:
        past = np.stack([self._innovation(hour - lag) for lag in range(MEMORY_HOURS)])
        city, local, shock = past[:, :1], past[:, 1 : self._zones + 1], past[:, self._zones + 1 :]
        weather_weights, shock_weights = self._weights
        sky = (weather_weights * (0.85 * city + 0.53 * local)).sum(axis=0)
        return np.maximum(sky, 0.0), (shock_weights * shock).sum(axis=0)

    def _arrivals_of(self, hour: int) -> _Arrivals:
        return _remember(self._arrivals, hour, 4, lambda: self._draw_arrivals(hour))

    def _draw_arrivals(self, hour: int) -> _Arrivals:
        rng = self._generator(hour, _Stream.ARRIVALS)
        rain, shock = self._weather(hour)
        demand = np.exp(RAIN_DEMAND * rain - 0.078 + SHOCK_DEMAND * shock - SHOCK_DEMAND**2 / 2)
        counts = rng.poisson(self.market.hourly_orders(hour) * demand)
        zone = np.repeat(np.arange(self._zones), counts)
        placed = hour * HOUR_US + rng.integers(0, HOUR_US // 1000, len(zone)) * 1000
        by_time = np.argsort(placed, kind="stable")
        placed, zone = placed[by_time], zone[by_time]
        return _Arrivals(placed, zone, np.sort(_zone_key(zone, placed, hour)))

    def _load(self, hour: int, arrivals: _Arrivals) -> Floats:
        before = self._arrivals_of(hour - 1)
        so_far = _count_from(arrivals.key, arrivals.zone, hour * HOUR_US, arrivals.placed, hour)
        hour_ago = arrivals.placed - HOUR_US
        earlier = _count_from(before.key, arrivals.zone, hour_ago, np.full_like(hour_ago, hour * HOUR_US), hour - 1)
        zones = self.market.zones
        return (so_far + earlier) / (zones.capacity * zones.tide.at(hour / 24))[arrivals.zone]

    def _request(self, hour: int, arrivals: _Arrivals, draws: _Draws) -> Columns:
        """What the customer's app knows when it asks for a prediction."""
        market, zone = self.market, arrivals.zone
        restaurant = market.restaurants.pick(zone, draws.luck())
        items = 1 + np.minimum(-2.2 * np.log1p(-draws.luck()), 14).astype(np.int64)
        dear = np.exp(0.25 * draws.normal() - 0.03)
        distance = 2.7 * market.restaurants.reach[restaurant] * np.exp(0.5 * draws.normal())
        distance = np.clip(distance, 0.2, 15.0) * drift_factor(self.drills, arrivals.placed, DRIFT_DISTANCE)
        return {
            "number": np.arange(len(zone)),
            "placed": arrivals.placed,
            "zone": zone,
            "restaurant": restaurant,
            "customer": market.customers.pick_on(hour // 24, zone, draws.luck()),
            "driver": market.drivers.pick(zone, draws.luck()),
            "items": items,
            "distance": np.round(distance, 2),
            "value": np.round(market.restaurants.price[restaurant] * items**0.8 * dear + 2.5, 2),
            "asap": draws.luck() >= 0.08,
        }

    def _durations(self, hour: int, order: Columns, rain: Floats, load: Floats, draws: _Draws) -> Columns:
        """Minutes of each stage, and their expectations: `expected` without knowing the driver and with."""
        market, day, zone = self.market, hour / 24, order["zone"]
        queue = np.maximum(load - 0.45, 0.0)
        kitchen = market.restaurants.preparation[order["restaurant"]] + 0.9 * (order["items"] - 1)
        kitchen *= market.restaurants.pace.at(day, order["restaurant"]) * (1 + 0.12 * np.minimum(queue, 2))
        kitchen *= drift_factor(self.drills, order["placed"], DRIFT_PREPARATION)
        waiting = 1.5 + 10.0 * queue
        road = 1.5 + MINUTES_PER_KM * order["distance"] * market.zones.slowness[zone] * (1 + RAIN_SLOWS * rain)
        driver = market.drivers.slowness * market.drivers.skill.at(day)
        accepting, handover, mishap = 1.0 + 0.5 * queue, 2.5, 0.015 * 18.0
        fixed = accepting + kitchen + waiting + handover + mishap
        unlucky = np.where(draws.luck() < 0.015, -18.0 * np.log1p(-draws.luck()), 0.0)
        return {
            "load": load,
            "expected": fixed + road * market.drivers.mean_slowness(day)[zone],
            "expected_with_driver": fixed + road * driver[order["driver"]],
            "accepting": accepting * -np.log1p(-draws.luck()),
            "preparing": kitchen * _around_one(draws, market.restaurants.spread[order["restaurant"]])
            + waiting * _around_one(draws, 0.4),
            "driving": road * driver[order["driver"]] * _around_one(draws, 0.18)
            + handover * _around_one(draws, 0.5)
            + unlucky,
            "promised": 5.0 * np.ceil((14.0 + market.restaurants.preparation[order["restaurant"]]) / 5)
            + 5.0 * np.round(3.5 * order["distance"] / 5),
        }


class _Draws:
    """Random numbers for `size` orders, one array a call."""

    def __init__(self, rng: np.random.Generator, size: int) -> None:
        self._rng = rng
        self._size = size

    def luck(self) -> Floats:
        """Uniform in [0, 1)."""
        return self._rng.random(self._size)

    def normal(self) -> Floats:
        """Standard normal."""
        return self._rng.standard_normal(self._size)


def _memory(decay: float) -> Floats:
    """Weights of the past hours, a column; the weighted sum of unit noise has unit variance."""
    weights = decay ** np.arange(MEMORY_HOURS)
    return np.asarray(weights / np.sqrt((weights**2).sum()))[:, None]


def _remember(cache: dict[int, T], hour: int, size: int, make: Callable[[], T]) -> T:
    if hour not in cache:
        while len(cache) >= size:
            del cache[next(iter(cache))]
        cache[hour] = make()
    return cache[hour]


def _zone_key(zone: Ints, placed: Ints, hour: int) -> Ints:
    return zone * (2 * HOUR_US) + (placed - hour * HOUR_US)


def _count_from(key: Ints, zone: Ints, start: Ints | int, end: Ints, hour: int) -> Ints:
    """How many of the hour's arrivals (given by their sorted `key`) lie in `zone` and in [start, end)."""
    first = np.asarray(zone * 0 + start)
    return np.searchsorted(key, _zone_key(zone, end, hour)) - np.searchsorted(key, _zone_key(zone, first, hour))


def _around_one(draws: _Draws, spread: Floats | float) -> Floats:
    """Lognormal with mean 1."""
    return np.asarray(np.exp(spread * draws.normal() - np.square(spread) / 2))


def _later(start: Ints, minutes: Floats) -> Ints:
    """`start` plus `minutes`, to the millisecond."""
    return start + np.round(minutes * 60_000).astype(np.int64) * 1000


def _schedule(order: Columns, draws: _Draws) -> Columns:
    """The instants of acceptance, pick-up and delivery if all goes well; scheduled orders aim at their slot."""
    asap, placed = order["asap"], order["placed"]
    slot = np.round(60 + 420 * draws.luck())
    accepted = _later(placed, np.minimum(order["accepting"], 30.0))
    picked_up = _later(accepted, order["preparing"])
    delivered = _later(picked_up, order["driving"])
    delivered = np.minimum(delivered, _later(placed, np.full(len(placed), LONGEST_ASAP_MINUTES)))
    picked_up = np.minimum(picked_up, delivered - MINUTE_US)
    planned = _later(placed, slot + 6.0 * draws.normal())
    planned_pick_up = np.maximum(_later(planned, -order["driving"]), accepted + MINUTE_US)
    planned = np.maximum(planned, planned_pick_up + MINUTE_US)
    return {
        "accepted": accepted,
        "picked_up": np.where(asap, picked_up, planned_pick_up),
        "delivered": np.where(asap, delivered, planned),
        "promised": np.where(asap, order["promised"], slot),
        "expected": np.where(asap, order["expected"], slot),
        "expected_with_driver": np.where(asap, order["expected_with_driver"], slot),
    }


def _outcome(order: Columns, decline: Floats, draws: _Draws) -> Columns:
    """Declines by the restaurant (never accepted) and cancellations by the customer (after acceptance)."""
    overload = np.clip(order["load"] - 1.0, 0.0, 2.0)
    declined = draws.luck() < decline * (1 + overload)
    cancelled = ~declined & (draws.luck() < 0.025 + 0.02 * overload)
    patience = (draws.luck() * (order["picked_up"] - order["accepted"]) // 1000 * 1000).astype(np.int64)
    ended = declined | cancelled
    return {
        "status": np.where(ended, Status.CANCELLED, Status.DELIVERED),
        "cancelled": np.where(declined, order["accepted"], np.where(cancelled, order["accepted"] + patience, NEVER)),
        "accepted": np.where(declined, NEVER, order["accepted"]),
        "picked_up": np.where(ended, NEVER, order["picked_up"]),
        "delivered": np.where(ended, NEVER, order["delivered"]),
        "driver": np.where(declined, -1, order["driver"]),
    }


def _records(order: Columns, draws: _Draws) -> Columns:
    """How the source records the order: gaps, dirt, and when each version is written, arrives and is sent again."""
    order |= {
        "driver": np.where(draws.luck() < 0.01, -1, order["driver"]),
        "customer": np.where(draws.luck() < 0.01, -1, order["customer"]),
        "zone": np.where(draws.luck() < 0.005, -1, order["zone"]),
        "distance": np.where(draws.luck() < 0.01, np.nan, order["distance"]),
    }
    final = np.where(order["status"] == Status.DELIVERED, order["delivered"], order["cancelled"])
    order |= _dirt(order, draws)
    written = np.full(len(final), NEVER)
    for version, event in (("first", order["placed"]), ("last", final)):
        # A source that is late with the first version is not earlier with the last one.
        written = np.maximum(_later(event, 0.05 * draws.luck()), written + 1000)
        late, hold_up = draws.luck(), np.clip(25 * np.exp(1.1 * draws.normal()), 2, 660)
        written = np.where(late < 0.003, _later(written, hold_up), written)
        lost = 60 * (TOO_LATE_HOURS[0] + (TOO_LATE_HOURS[1] - TOO_LATE_HOURS[0]) * draws.luck())
        arrived = np.where(late < 0.0102, _later(written, np.where(late < 0.010, hold_up, lost)), NEVER)
        arrived = np.where(late < 0.003, NEVER, arrived)
        order |= {f"{version}_updated": written, f"{version}_arrived": arrived}
        order |= {f"{version}_{what}": draws.luck() for what in ("twice", "again", "luck")}
    return order


def _dirt(order: Columns, draws: _Draws) -> Columns:
    """One order in a thousand is impossible in one of four ways."""
    dirty, kind = draws.luck() < 0.001, (draws.luck() * 4).astype(np.int64)
    backwards = dirty & (kind == 0) & (order["status"] == Status.DELIVERED)
    return {
        "delivered": np.where(backwards, order["placed"] - 7 * MINUTE_US, order["delivered"]),
        "distance": np.where(dirty & (kind == 1), 5000.0, order["distance"]),
        "value": np.where(dirty & (kind == 2), -order["value"], order["value"]),
        "items": np.where(dirty & (kind == 3), 0, order["items"]),
    }

"""Who takes part in the marketplace: zones, restaurants, drivers and customers, drawn once from the seed.

Everything about a participant is a function of the seed, the market's size and the instant: slow changes (a kitchen
that gets slower, a driver who learns, a customer who leaves for a season) are waves in time, so no state is carried.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

__all__ = ["BASE_ORDERS_PER_DAY", "Customers", "Drivers", "Market", "Pool", "Restaurants", "Wave", "Zones"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

BASE_ORDERS_PER_DAY = 250_000 / 120
"""Up to this demand the market has its base size; above it, the numbers of participants grow in proportion."""

ZONES, RESTAURANTS, DRIVERS, CUSTOMERS = 12, 400, 300, 20_000
WEEKDAYS = np.array([0.88, 0.88, 0.92, 0.98, 1.18, 1.22, 0.94])
MINUTES_PER_KM = 3.3


@dataclass(frozen=True)
class Wave:
    """A factor around 1 that swings slowly: `1 + amplitude * sin(2 pi * day / period + phase)`."""

    amplitude: Floats
    period: Floats
    phase: Floats

    @classmethod
    def draw(cls, rng: np.random.Generator, size: int, amplitude: float, days: tuple[float, float]) -> Wave:
        """`size` waves with amplitudes up to `amplitude` and periods between the two numbers of `days`."""
        return cls(rng.uniform(0.25, 1, size) * amplitude, rng.uniform(*days, size), rng.uniform(0, 2 * np.pi, size))

    def at(self, day: float, index: Ints | slice = slice(None)) -> Floats:
        """The factors of the participants `index` at the (fractional) `day` since 1970."""
        turn = 2 * np.pi * day / self.period[index] + self.phase[index]
        return np.asarray(1 + self.amplitude[index] * np.sin(turn))


@dataclass(frozen=True)
class Pool:
    """Participants ordered by zone, from which one can be drawn in proportion to its weight within a zone."""

    names: list[str]
    zone: Ints
    weight: Floats

    @cached_property
    def edges(self) -> Ints:
        """Position of each zone's first participant, and the total number at the end."""
        return np.searchsorted(self.zone, np.arange(int(self.zone[-1]) + 2))

    @cached_property
    def _cumulative(self) -> Floats:
        return _cumulative(self.weight)

    def pick(self, zone: Ints, luck: Floats) -> Ints:
        """One participant for each `zone`, by `luck` in [0, 1)."""
        return self._pick(self._cumulative, zone, luck)

    def _pick(self, cumulative: Floats, zone: Ints, luck: Floats) -> Ints:
        low, high = cumulative[self.edges[zone]], cumulative[self.edges[zone + 1]]
        found = np.searchsorted(cumulative, low + luck * (high - low), side="right") - 1
        return np.clip(found, self.edges[zone], self.edges[zone + 1] - 1)


def _cumulative(weight: Floats) -> Floats:
    return np.concatenate([[0.0], np.cumsum(weight)])


@dataclass(frozen=True)
class Zones:
    """Parts of the city: how much they order, when, and how fast one gets through them."""

    names: list[str]
    share: Floats
    shape: Floats
    """Orders per hour relative to the day's mean hour, [hour of day, zone]."""
    capacity: Floats
    """Orders per hour that the zone's drivers carry without a queue."""
    slowness: Floats
    tide: Wave
    """How the drivers' capacity swings over weeks."""


@dataclass(frozen=True)
class Restaurants(Pool):
    """Kitchens with their own preparation times and prices."""

    preparation: Floats
    """Mean minutes for one item at a quiet hour."""
    spread: Floats
    """Standard deviation of the logarithm of the preparation time."""
    pace: Wave
    price: Floats
    decline: Floats
    reach: Floats


@dataclass(frozen=True)
class Drivers(Pool):
    """Couriers with a home zone."""

    slowness: Floats
    skill: Wave

    def mean_slowness(self, day: float) -> Floats:
        """Expected slowness of each zone's driver, who is not known when the order is placed."""
        slowness = self.weight * self.slowness * self.skill.at(day)
        starts = self.edges[:-1]
        return np.asarray(np.add.reduceat(slowness, starts) / np.add.reduceat(self.weight, starts))


@dataclass(frozen=True)
class Customers(Pool):
    """People with very unequal appetites, who come and go for seasons."""

    period: Floats
    phase: Floats
    presence: Floats
    _by_week: dict[int, Floats] = field(default_factory=dict, compare=False, repr=False)

    def pick_on(self, day: int, zone: Ints, luck: Floats) -> Ints:
        """One customer for each `zone`, mostly among those who use the service in the week of `day`."""
        return self._pick(self._cumulative_in(day // 7), zone, luck)

    def _cumulative_in(self, week: int) -> Floats:
        if week not in self._by_week:
            if len(self._by_week) > 1:
                self._by_week.clear()
            away = ((7 * week + self.phase) / self.period) % 1.0 > self.presence
            self._by_week[week] = _cumulative(np.where(away, 0.03 * self.weight, self.weight))
        return self._by_week[week]


@dataclass(frozen=True)
class Market:
    """All participants."""

    orders_per_day: float
    zones: Zones
    restaurants: Restaurants
    drivers: Drivers
    customers: Customers

    @classmethod
    def draw(cls, seed: int, orders_per_day: float) -> Market:
        """The market of `seed`, large enough for `orders_per_day`."""
        scale = max(1.0, orders_per_day / BASE_ORDERS_PER_DAY)
        streams = [np.random.default_rng(part) for part in np.random.SeedSequence(seed).spawn(4)]
        zones = _draw_zones(streams[0], round(ZONES * scale**0.5), orders_per_day)
        return cls(
            orders_per_day,
            zones,
            _draw_restaurants(streams[1], round(RESTAURANTS * scale), zones),
            _draw_drivers(streams[2], round(DRIVERS * scale), zones),
            _draw_customers(streams[3], round(CUSTOMERS * scale), zones),
        )

    def hourly_orders(self, hour: int) -> Floats:
        """Expected orders of each zone in the hour number `hour`, before weather and chance."""
        day, hour_of_day = divmod(hour, 24)
        week = WEEKDAYS[(day + 3) % 7]  # 1970-01-01 was a Thursday
        return np.asarray(self.orders_per_day / 24 * week * self.zones.share * self.zones.shape[hour_of_day])


def _names(letter: str, rng: np.random.Generator, size: int) -> list[str]:
    width = max(4, len(str(size)))
    return [f"{letter}{number:0{width}d}" for number in (rng.permutation(size) + 1).tolist()]


def _draw_zones(rng: np.random.Generator, size: int, orders_per_day: float) -> Zones:
    share = rng.uniform(0.5, 1.8, size)
    share /= share.sum()
    hours = np.arange(24)[:, None] + 0.5
    lunch = rng.uniform(0.7, 1.3, size) * np.exp(-0.5 * ((hours - 12.5) / 1.3) ** 2)
    dinner = 1.25 * rng.uniform(0.8, 1.2, size) * np.exp(-0.5 * ((hours - 19.5) / 1.5) ** 2)
    shape = lunch + dinner + np.where((hours > 8) & (hours < 23), 0.17, 0.05)
    shape /= shape.mean(axis=0)
    return Zones(
        names=[f"z{number:02d}" for number in range(1, size + 1)],
        share=share,
        shape=shape,
        capacity=orders_per_day / 24 * share * shape.max(axis=0) * rng.uniform(0.75, 1.2, size),
        slowness=rng.uniform(0.8, 1.25, size),
        tide=Wave.draw(rng, size, 0.2, (20, 60)),
    )


def _spread_over_zones(rng: np.random.Generator, size: int, zones: Zones) -> Ints:
    everywhere = np.repeat(np.arange(len(zones.names)), 3)
    rest = rng.choice(len(zones.names), size - len(everywhere), p=zones.share)
    return np.sort(np.concatenate([everywhere, rest]))


def _draw_restaurants(rng: np.random.Generator, size: int, zones: Zones) -> Restaurants:
    return Restaurants(
        names=_names("r", rng, size),
        zone=_spread_over_zones(rng, size, zones),
        weight=rng.lognormal(0, 0.8, size),
        preparation=np.clip(13.0 * rng.lognormal(0, 0.42, size), 4, 40),
        spread=rng.uniform(0.15, 0.32, size),
        pace=Wave.draw(rng, size, 0.22, (25, 80)),
        price=rng.choice([7.0, 11.0, 16.0, 25.0], size, p=[0.3, 0.4, 0.22, 0.08]) * rng.lognormal(0, 0.1, size),
        decline=rng.beta(1.2, 50, size),
        reach=rng.lognormal(0, 0.2, size),
    )


def _draw_drivers(rng: np.random.Generator, size: int, zones: Zones) -> Drivers:
    experience = rng.uniform(0, 1, size)
    return Drivers(
        names=_names("d", rng, size),
        zone=_spread_over_zones(rng, size, zones),
        weight=rng.gamma(2.0, 1.0, size) + 0.1,
        slowness=(1.12 - 0.24 * experience) * rng.lognormal(0, 0.1, size),
        skill=Wave.draw(rng, size, 0.06, (40, 120)),
    )


def _draw_customers(rng: np.random.Generator, size: int, zones: Zones) -> Customers:
    return Customers(
        names=_names("c", rng, size),
        zone=_spread_over_zones(rng, size, zones),
        weight=rng.pareto(1.6, size) + 0.05,
        period=rng.uniform(60, 400, size),
        phase=rng.uniform(0, 400, size),
        presence=rng.uniform(0.4, 1.1, size),
    )

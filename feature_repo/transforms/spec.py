"""The words in which a view's transform is written: measures of facts, summed over windows, finished into features.

A *measure* turns facts into integers that add up; tiles, an hour wide or less, keep the sums. A *running value* is one
such sum over a window that ends now, or over all time. A *feature* is a finishing expression of running values. So
`mean(VALUE, WEEK)` says both what the tiles must keep and how to read it.

Examples
--------
>>> week_mean = mean(Measure("delivery", "delivered", "delivery_seconds", per_unit=60), timedelta(days=7))
>>> [running.column for running in week_mean.uses]
['delivery_count_168h', 'delivery_sum_168h']
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import ibis
import ibis.expr.types as ir

from feature_repo.window import DAY, HOUR, MINUTE

Kind = Literal["count", "sum", "squares", "last"]
FeatureType = Literal["int64", "float64", "string"]

WEEK = 7 * DAY
LIVE_STEP = 2 * MINUTE
"""Width of the tiles of live views."""
FIRST_BEAT = datetime(1970, 1, 5, tzinfo=UTC)
"""A Monday, so that weekly rows are those of Monday, 00:00 UTC."""
LIFETIME = None
"""The window that nothing leaves."""


@dataclass(frozen=True, slots=True)
class Partial:
    """One integer column of a tile: a count, sum, sum of squares or maximum over the facts of one step of time."""

    measure: Measure
    kind: Kind

    @property
    def column(self) -> str:
        return f"{self.measure.name}_{self.kind}"


@dataclass(frozen=True, slots=True)
class Running:
    """A partial, added up over the tiles of a window that ends at the row's instant."""

    partial: Partial
    window: timedelta | None

    def __post_init__(self) -> None:
        if self.window is None:
            return
        if self.partial.kind == "last":
            raise ValueError(f"{self.partial.column}: a maximum cannot leave a window, only LIFETIME can have one")
        if self.window < MINUTE or self.window % MINUTE:
            raise ValueError(f"{self.partial.column}: window {self.window} is not a number of full minutes")

    @property
    def column(self) -> str:
        return f"{self.partial.column}_{'ever' if self.window is None else span_text(self.window)}"


@dataclass(frozen=True, slots=True)
class Now:
    """The row's own instant, in Unix seconds."""

    column: str = "now_second"


NOW = Now()


@dataclass(frozen=True, slots=True)
class Measure:
    """What is counted or added up.

    Parameters
    ----------
    name : str
        Prefix of its columns in the tiles.
    fact : str
        The fact (see `facts`) whose rows count.
    value : str, optional
        Integer column of the facts; rows in which it is null do not count. Without one, facts are counted.
    per_unit : int
        How many of the integer's units make one unit of the feature: 60 for seconds in minutes.
    """

    name: str
    fact: str
    value: str | None = None
    per_unit: int = 1

    def count(self, window: timedelta | None) -> Running:
        return Running(Partial(self, "count"), window)

    def sum(self, window: timedelta | None) -> Running:
        return Running(Partial(self, "sum"), window)

    def squares(self, window: timedelta | None) -> Running:
        return Running(Partial(self, "squares"), window)

    def last(self) -> Running:
        return Running(Partial(self, "last"), LIFETIME)


@dataclass(frozen=True, slots=True)
class Feature:
    """A column of a view: `finish` gets the columns of `uses`, in order, and returns an Ibis expression."""

    dtype: FeatureType
    uses: tuple[Running | Now, ...]
    finish: Callable[..., ir.Value]


@dataclass(frozen=True)
class ViewTransform:
    """How the rows of one view come about.

    Parameters
    ----------
    view : str
        Name of the feature view.
    key : str
        Column of the facts that identifies the entity.
    features : mapping of str to Feature
        By name, in the order of the view's fields.
    heartbeat : timedelta
        An entity is alive as long as it had a tile in this last stretch of time. At least the longest finite window, so
        that no value in use ever outlives its TTL.
    beat : timedelta, optional
        A live entity gets a row this often at least, every midnight unless given, counted from `FIRST_BEAT`. The view's
        time to live has to be longer.
    step : timedelta, optional
        Tiles are so wide, and rows lie on its multiples: an hour, or less for a view that is kept up to date between
        the hourly runs (see `live`).

    Raises
    ------
    ValueError
        The heartbeat is shorter than a window; or a span is not a number of steps, or an hour is not.
    """

    view: str
    key: str
    features: Mapping[str, Feature]
    heartbeat: timedelta
    beat: timedelta = DAY
    step: timedelta = HOUR

    def __post_init__(self) -> None:
        if self.step < MINUTE or HOUR % self.step:
            raise ValueError(f"{self.view}: an hour is not a number of steps of {self.step}")
        for what, span in (("beat", self.beat), ("heartbeat", self.heartbeat), *(("window", w) for w in self.windows)):
            if span < self.step or span % self.step:
                raise ValueError(f"{self.view}: the {what} {span} is not a number of full steps of {self.step}")
        if self.windows and self.heartbeat < self.windows[-1]:
            raise ValueError(f"{self.view}: the heartbeat {self.heartbeat} is shorter than window {self.windows[-1]}")

    def __hash__(self) -> int:
        return hash((self.view, self.key, tuple(self.features.items()), self.heartbeat, self.beat, self.step))

    @property
    def running(self) -> list[Running]:
        """All running values that the features use, each once."""
        used = [use for feature in self.features.values() for use in feature.uses if isinstance(use, Running)]
        return list(dict.fromkeys(used))

    @property
    def partials(self) -> list[Partial]:
        """The integer columns of the tiles, each once."""
        return list(dict.fromkeys(running.partial for running in self.running))

    @property
    def windows(self) -> list[timedelta]:
        """The finite windows, shortest first."""
        return sorted({running.window for running in self.running if running.window is not None})

    @property
    def is_live(self) -> bool:
        """Whether its rows come more often than the hourly run."""
        return self.step < HOUR

    def steps(self, span: timedelta) -> int:
        """A span in steps."""
        return span // self.step

    @property
    def lifetime(self) -> list[Running]:
        """The running values that nothing leaves: the state that is carried from day to day."""
        return [running for running in self.running if running.window is None]


def span_text(span: timedelta) -> str:
    """A span as part of a column's name: `168h`, `30m`."""
    return f"{span // MINUTE}m" if span % HOUR else f"{span // HOUR}h"


def count(measure: Measure, window: timedelta | None) -> Feature:
    """How many there were: 0, never null."""
    return Feature("int64", (measure.count(window),), lambda n: n)


def total(measure: Measure, among: Measure, window: timedelta | None) -> Feature:
    """The sum of a measure: 0 when there was nothing in `among`, null when there was but without a value."""
    return Feature(
        "float64",
        (measure.sum(window), measure.count(window), among.count(window)),
        lambda s, n, orders: ibis.cases((n > 0, s / measure.per_unit), (orders == 0, 0.0), else_=_null_float()),
    )


def mean(measure: Measure, window: timedelta | None) -> Feature:
    """The arithmetic mean, null without values."""
    return Feature(
        "float64",
        (measure.count(window), measure.sum(window)),
        lambda n, s: (n > 0).ifelse(s / (_at_least_one(n) * measure.per_unit), _null_float()),
    )


def std(measure: Measure, window: timedelta | None) -> Feature:
    r"""The sample standard deviation (divisor n - 1), null with fewer than two values.

    Notes
    -----
    The textbook form n * sum(x^2) - sum(x)^2 cancels, and overflows 64 bits. As the sums are integers, they can be
    shifted exactly by any integer q near the mean: sum((x - q)^2) = sum(x^2) - q * (2 * sum(x) - n * q), and with
    r = sum(x) - n * q the variance is (sum((x - q)^2) - r^2 / n) / (n - 1), in which nothing large cancels.
    """

    def finish(n: Any, s: Any, squares: Any) -> ir.Value:
        divisor = _at_least_one(n)
        shift = (s / divisor).round().cast("int64")
        rest = s - n * shift
        spread = squares - shift * (2 * s - n * shift)
        variance = (spread - rest * rest / divisor) / _at_least_one(n - 1)
        return (n > 1).ifelse(ibis.greatest(variance, 0.0).sqrt() / measure.per_unit, _null_float())

    return Feature("float64", (measure.count(window), measure.sum(window), measure.squares(window)), finish)


def share(part: Measure, rest: Measure, window: timedelta | None) -> Feature:
    """`part` among `part` and `rest`, by count; null without either."""
    return Feature(
        "float64",
        (part.count(window), rest.count(window)),
        lambda a, b: (a + b > 0).ifelse(a / _at_least_one(a + b), _null_float()),
    )


def _at_least_one(n: Any) -> Any:
    # Engines differ in what x / 0 is, even in a branch that is not taken.
    return ibis.greatest(n, 1)


def _null_float() -> ir.Value:
    return ibis.null("float64")

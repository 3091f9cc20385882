"""Whether a batch of orders is distributed as those of the weeks before were, and whether its source is fresh.

A difference counts when it is beyond chance *and* matters: more than `SIGMAS` standard errors, which grow as a batch
gets smaller, and more than a bound of its own, which keeps large batches from being told for trifles.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import polars as pl

from config import Settings
from feature_repo.orders.schema import orders_table
from feature_repo.quality.baseline import (
    AGES,
    DISTINCT_COLUMNS,
    MEAN_COLUMNS,
    MIN_DAYS,
    NULL_COLUMNS,
    Baseline,
    Level,
    newest_by_hour,
    orders_by_hour,
    statistics,
)
from feature_repo.quality.results import RuleResult
from feature_repo.quality.rules import Severities
from feature_repo.quality.suite import Expectation, run_suite
from feature_repo.window import DAY, Window

SIGMAS = 6.0
"""Some 30 columns are compared every hour: at 6 standard errors chance alone alarms less than once in years."""
MEAN_BOUND = 0.25
"""In standard deviations between orders."""
NULL_BOUND = 0.05
"""In points: 5 of 100 orders."""
NULL_COUNT_BOUND = 5
"""As many orders, too: the normal distribution says nothing about two or three rare nulls."""
DISTINCT_BOUND = 0.2
"""As a share of the distinct values that are expected."""
MIN_ORDERS = 10
"""The mean of fewer is not near enough to a normal distribution for a standard error to mean much."""
MIN_HOURS = 5
"""An hour of the day that had orders on fewer days is not compared."""

AGE_FACTOR = 4.0
MIN_AGE_MINUTES = 15.0
AGE_WITHOUT_BASELINE = 24 * 60.0
LOOK_BACK = 3 * DAY

_COLUMNS = {"mean": MEAN_COLUMNS, "null": NULL_COLUMNS, "distinct": DISTINCT_COLUMNS}
_NAMES = {"mean": "the mean of", "null": "the share of nulls of", "distinct": "the number of distinct values of"}
_SOURCE_RULES = {"known_at": "source_silent", "updated_at": "source_stale"}


@dataclass(frozen=True, slots=True)
class Comparison:
    """One statistic of a batch beside its baseline. Without `low` and `high` there was nothing to compare."""

    rule: str
    reported_as: str
    observed: float
    low: float | None
    high: float | None
    reason: str

    @property
    def threshold(self) -> str:
        """The bounds, for people."""
        return "none" if self.low is None or self.high is None else f"{self.low:.4g} to {self.high:.4g}"


def reported_names() -> dict[str, str]:
    """The names under which shifts are reported, with their rules."""
    return {f"{column}_{kind}_shift": f"{kind}_shift" for kind, columns in _COLUMNS.items() for column in columns}


def compare(
    accepted: pl.DataFrame, landed: pl.DataFrame, window: Window, baseline: Baseline | None, settings: Settings
) -> list[Comparison]:
    """Compare a batch with a baseline.

    Parameters
    ----------
    accepted : pl.DataFrame
        Accepted versions, columns of `LAKE_SCHEMA`: those are what the baseline is made of.
    landed : pl.DataFrame
        All versions that came, for the freshness of their source.
    window : Window
    baseline : Baseline or None
        None passes all shifts, and says so.
    settings : Settings
    """
    found = statistics(orders_by_hour(accepted))
    shifts = [
        _shift(kind, column, found.filter(kind=kind, column=column), baseline)
        for kind, columns in _COLUMNS.items()
        for column in columns
    ]
    return [*shifts, *_freshness(landed, window, baseline, settings)]


def judge(comparisons: list[Comparison], severities: Severities, kept: list[Any] | None = None) -> list[RuleResult]:
    """Have Great Expectations hold the statistics, as one row, against their bounds; `kept` as in `run_suite`."""
    row = pl.DataFrame({one.reported_as: [float(one.observed)] for one in comparisons if one.low is not None})
    expectations = [
        Expectation(
            one.reported_as,
            "ExpectColumnValuesToBeBetween",
            {"column": one.reported_as, "min_value": one.low, "max_value": one.high},
        )
        for one in comparisons
        if one.low is not None
    ]
    outcomes = run_suite("orders_shift", row, expectations, kept) if expectations else {}
    return [_result(one, one.low is None or outcomes[one.reported_as].passed, severities) for one in comparisons]


def _result(one: Comparison, passed: bool, severities: Severities) -> RuleResult:
    severity = severities.of(one.rule, "orders", one.reported_as)
    observed = round(one.observed, 4) if math.isfinite(one.observed) else "none"
    return RuleResult(one.reported_as, one.rule, severity, passed, observed, one.threshold, 0, one.reason)


def _shift(kind: str, column: str, found: pl.DataFrame, baseline: Baseline | None) -> Comparison:
    rule, name = f"{kind}_shift", f"{column}_{kind}_shift"
    if baseline is None:
        return Comparison(rule, name, math.nan, None, None, f"no baseline yet: it takes {MIN_DAYS} days of orders")
    pairs = list(_pairs(kind, column, found, baseline))
    orders = sum(rows for rows, _, _ in pairs)
    if orders < MIN_ORDERS:
        reason = f"{orders} orders to compare {column} of; it takes {MIN_ORDERS}"
        return Comparison(rule, name, math.nan, None, None, reason)
    between = baseline.statistics[kind, column].between
    measure = _distinct if kind == "distinct" else _average
    observed, expected, error, bound = measure(kind, column, pairs, between, baseline)
    allowed = max(SIGMAS * error, bound)
    sigmas = (observed - expected) / error if error else math.inf * (observed != expected)
    reason = (
        f"{_NAMES[kind]} {column} is {observed:.4g} in {orders} orders; {expected:.4g} is usual "
        f"({sigmas:+.1f} standard errors, {allowed:.4g} either way are allowed)"
    )
    return Comparison(rule, name, observed, expected - allowed, expected + allowed, reason)


def _pairs(kind: str, column: str, found: pl.DataFrame, baseline: Baseline) -> Iterator[tuple[int, float, Level]]:
    """Orders and value of each hour of the batch, with the level of its hour of the day."""
    known = baseline.statistics.get((kind, column))
    for hour, rows, value in found.select(pl.col("hour").dt.hour(), "rows", "value").rows():
        level = known.levels.get(hour) if known else None
        if level is not None and level.hours >= MIN_HOURS:
            yield rows, value, level


def _average(
    kind: str, column: str, pairs: list[tuple[int, float, Level]], between: float, baseline: Baseline
) -> tuple[float, float, float, float]:
    """Observed, expected, standard error and bound of a mean or a share over the batch's orders."""
    total = sum(rows for rows, _, _ in pairs)
    shares = [rows / total for rows, _, _ in pairs]
    observed = sum(share * value for share, (_, value, _) in zip(shares, pairs, strict=True))
    expected = sum(share * level.value for share, (_, _, level) in zip(shares, pairs, strict=True))
    within = sum(share * level.within for share, (_, _, level) in zip(shares, pairs, strict=True))
    of_baseline = sum(
        share**2 * (level.within / level.rows + between / level.hours)
        for share, (_, _, level) in zip(shares, pairs, strict=True)
    )
    # What moves one hour of a day moves the others too: the variance between hours does not shrink with their number.
    error = math.sqrt(within / total + between + of_baseline)
    trifle = MEAN_BOUND * math.sqrt(within) or 0.01 * abs(expected)
    bound = max(NULL_BOUND, NULL_COUNT_BOUND / total) if kind == "null" else trifle
    return observed, expected, error, bound


def _distinct(
    kind: str, column: str, pairs: list[tuple[int, float, Level]], between: float, baseline: Baseline
) -> tuple[float, float, float, float]:
    """The same of the number of distinct values, summed over the hours."""
    draws = [baseline.draws(column, rows) for rows, _, _ in pairs]
    observed = sum(value for _, value, _ in pairs)
    expected = sum(level.value * usual for (_, _, level), (usual, _) in zip(pairs, draws, strict=True))
    noise = sum(variance for _, variance in draws)
    error = math.sqrt(noise + between * sum(usual for usual, _ in draws) ** 2)
    return observed, expected, error, DISTINCT_BOUND * expected


def _freshness(
    landed: pl.DataFrame, window: Window, baseline: Baseline | None, settings: Settings
) -> Iterator[Comparison]:
    newest = _newest(landed, window, settings)
    for column, rule in _SOURCE_RULES.items():
        usual = baseline.ages.get((column, (window.end.hour - 1) % 24)) if baseline else None
        limit = AGE_WITHOUT_BASELINE if usual is None else max(MIN_AGE_MINUTES, AGE_FACTOR * usual)
        at = newest[column]
        if at is None:
            reason = f"no version in the window, none in the {LOOK_BACK.days} days before"
            # Before the first order there is no source to be silent; `no_rows` tells of it.
            low, high = (None, None) if baseline is None else (0.0, limit)
            yield Comparison(rule, rule, math.inf, low, high, reason)
            continue
        age = max(0.0, (window.end - at).total_seconds() / 60)
        reason = f"the newest {column} is {at:%Y-%m-%d %H:%M}, {age:.0f} minutes before the window's end"
        reason += "; no baseline yet" if usual is None else f"; at this hour it is usually at most {usual:.0f} minutes"
        yield Comparison(rule, rule, age, 0.0, limit, reason)


def _newest(landed: pl.DataFrame, window: Window, settings: Settings) -> Mapping[str, datetime | None]:
    # A time beyond the window is a wrong clock, which rules of its own tell, and no proof of freshness.
    rows = landed.filter(pl.col("updated_at") <= window.end)
    if rows.is_empty():
        before = Window(window.start - LOOK_BACK, window.start)
        rows = orders_table(settings).scan(before).select(AGES).collect()
    return newest_by_hour(rows).select(pl.col(AGES).max()).to_dicts()[0]

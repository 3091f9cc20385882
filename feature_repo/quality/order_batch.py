"""The rules on a batch of order versions as a whole."""

from __future__ import annotations

import math
from dataclasses import dataclass

import polars as pl

from config import Settings
from feature_repo.orders.schema import orders_table
from feature_repo.quality.results import RuleResult
from feature_repo.quality.rules import Severities
from feature_repo.quality.suite import Expectation, Outcome
from feature_repo.window import DAY, HOUR, Window, floor_hour

MAX_REJECTED_SHARE = 0.2
MIN_REJECTED_TO_STOP = 10
"""A quiet hour with one bad row out of three is no reason to refuse the hour."""
HISTORY_WEEKS = 4
ROW_COUNT_FACTOR = 4.0
"""A window may have a quarter to four times as many rows as the same hours of the weeks before."""
WEEK = 7 * DAY
_SHOWN = 3
"""Hours that a reason names."""
SMALLEST_SHARE = 1e-9
"""As `mostly`: fails only when no row at all holds the expectation."""


@dataclass(frozen=True, slots=True)
class BatchRule:
    """A rule on the batch as a whole. `applies` is false where there is nothing to compare with."""

    expectation: Expectation
    observed: float | int
    threshold: str
    failed_rows: int
    reason: str
    applies: bool = True

    @property
    def name(self) -> str:
        """The rule's name."""
        return self.expectation.rule

    def result(self, outcome: Outcome, grave: Severities) -> RuleResult:
        """What the report says of it."""
        passed = outcome.passed or not self.applies
        failed = 0 if passed else self.failed_rows
        severity = grave.of(self.name)
        return RuleResult(self.name, self.name, severity, passed, self.observed, self.threshold, failed, self.reason)


def batch_rules(marked: pl.DataFrame, window: Window, settings: Settings) -> list[BatchRule]:
    """The rules on the rows that `mark_hours` has looked at."""
    return [_rejected_share(marked), _no_rows(marked, window), _row_count(marked, window, settings)]


def mark_hours(marked: pl.DataFrame, settings: Settings) -> pl.DataFrame:
    """Add `trusted`: whether the share of rejected rows is bearable in the row's hour, and in the batch as a whole.

    A long window is thus refused for each hour that would be refused by itself. Rows that were found so late that
    nothing of them could be accepted say nothing about the hour in which they were found, and are not counted.
    """
    too_late = pl.col("known_at") > pl.col("placed_at") + settings.lateness_horizon
    counted = ~(pl.col("found_late") & too_late.fill_null(False))
    bad, hour = counted & ~pl.col("unsuspicious").fill_null(False), pl.col("known_at").dt.truncate("1h")
    counts = marked.with_columns(counted=counted, bad=bad, hour=hour).with_columns(
        rows_of_hour=pl.col("counted").sum().over("hour"), bad_of_hour=pl.col("bad").sum().over("hour")
    )
    by_hour, whole = (
        (bad >= MIN_REJECTED_TO_STOP) & (bad > MAX_REJECTED_SHARE * rows)
        for bad, rows in (
            (pl.col("bad_of_hour"), pl.col("rows_of_hour")),
            (pl.col("bad").sum(), pl.col("counted").sum()),
        )
    )
    return counts.with_columns(trusted=~by_hour & ~whole, hour_is_bad=by_hour)


def refused_hours(marked: pl.DataFrame) -> list[Window]:
    """The hours that would be refused by themselves for their share of rejected rows, in order."""
    found = marked.filter("hour_is_bad")["hour"].unique().sort()
    return [Window(hour, hour + HOUR) for hour in found]


def _rejected_share(marked: pl.DataFrame) -> BatchRule:
    bad, counted = int(marked["bad"].sum()), int(marked["counted"].sum())
    arguments = {"column": "trusted", "value_set": [True]}
    worst = marked.filter("hour_is_bad").select("hour", "bad_of_hour", "rows_of_hour").unique().sort("hour").rows()
    hours = [f"{count} of {rows} in the hour of {hour:%Y-%m-%d %H:%M}" for hour, count, rows in worst]
    left_out = marked.height - counted
    return BatchRule(
        Expectation("rejected_share", "ExpectColumnValuesToBeInSet", arguments),
        round(bad / counted, 4) if counted else 0.0,
        f"at most {MAX_REJECTED_SHARE:g} of the batch and of each hour, from {MIN_REJECTED_TO_STOP} rejected rows on",
        bad,
        f"{bad} of {counted} rows are rejected (repeated versions not counted)"
        + (
            f": {', '.join(hours[:_SHOWN])}{' and others' if len(hours) > _SHOWN else ''}"
            if hours and marked["hour"].n_unique() > 1
            else ""
        )
        + (f"; {left_out} that were found too late to be accepted are not counted" if left_out else "")
        + (f"; fewer than {MIN_REJECTED_TO_STOP} stop nothing" if bad < MIN_REJECTED_TO_STOP else ""),
        applies=marked.height > 0,
    )


def not_all_null(marked: pl.DataFrame, column: str) -> BatchRule:
    """A column that every order has is there in some row."""
    nulls = marked[column].null_count()
    arguments = {"column": column, "mostly": SMALLEST_SHARE}
    return BatchRule(
        Expectation(f"{column}_not_all_null", "ExpectColumnValuesToNotBeNull", arguments),
        nulls,
        "not null in every row",
        nulls,
        f"{column} is null in {nulls} of {marked.height} rows; a source that lacks it cannot be used",
    )


def _no_rows(marked: pl.DataFrame, window: Window) -> BatchRule:
    reason = f"{marked.height} rows" if marked.height else f"not one order version became known in {window}"
    arguments = {"min_value": 1}
    return BatchRule(
        Expectation("no_rows", "ExpectTableRowCountToBeBetween", arguments),
        marked.height,
        "at least 1",
        0,
        reason,
    )


def _row_count(marked: pl.DataFrame, window: Window, settings: Settings) -> BatchRule:
    usual = trailing_row_count(window, settings)
    if usual is None:
        low, high, reason = 0.0, float(marked.height), "no history yet: nothing to compare the number of rows with"
    else:
        low, high = usual / ROW_COUNT_FACTOR, usual * ROW_COUNT_FACTOR
        reason = f"{marked.height} rows, usual in these hours of the week are {usual:.1f}"
    arguments = {"min_value": math.ceil(low), "max_value": math.floor(high)}
    threshold = "none" if usual is None else f"{low:.1f} to {high:.1f}"
    return BatchRule(
        Expectation("row_count", "ExpectTableRowCountToBeBetween", arguments),
        marked.height,
        threshold,
        0,
        reason,
    )


def trailing_row_count(window: Window, settings: Settings) -> float | None:
    """How many versions the lake has in the same hours of the week, as the mean of up to four weeks before.

    Weeks that lie before the lake's first version are left out, and so are those that overlap the window itself.

    Returns
    -------
    float or None
        None when no such week is left.
    """
    table = orders_table(settings)
    files = table.files()
    if not files:
        return None
    first = pl.scan_parquet(files[0], hive_partitioning=False).select(pl.col("known_at").min()).collect().item()
    before = [Window(window.start - WEEK * back, window.end - WEEK * back) for back in range(1, HISTORY_WEEKS + 1)]
    usable = [past for past in before if past.end <= window.start and past.start >= floor_hour(first)]
    counts = [int(table.scan(past).select(pl.len()).collect().item()) for past in usable]
    return sum(counts) / len(counts) if counts else None


def found_late(batch: pl.DataFrame, grave: Severities) -> RuleResult:
    """How many versions came after their hour had been run."""
    late = int(batch["found_late"].sum())
    reason = f"{late} versions were put into hours of the landing folder that had been run" if late else "none"
    return RuleResult("found_late", "found_late", grave.of("found_late"), not late, late, "0", 0, reason)

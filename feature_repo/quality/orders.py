"""The rules for order versions: what is rejected row by row, what stops a batch, what is only worth a warning.

A row rule is its name, the expectation that Great Expectations evaluates, and the words for a row that fails. What a
breach of it means is in `rules.RULES`, from which the report and the docs take it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import polars as pl

from config import Settings
from feature_repo.orders.history import order_versions
from feature_repo.orders.schema import (
    BATCH_SCHEMA,
    EVENT_TIMES,
    LAKE_SCHEMA,
    ORDER_SCHEMA,
    QUARANTINE_SCHEMA,
    REQUIRED_COLUMNS,
    STAGE_TIMES,
    STATUSES,
    orders_table,
    row_text,
)
from feature_repo.quality import shift
from feature_repo.quality.baseline import baseline_for
from feature_repo.quality.datadocs import write_page
from feature_repo.quality.results import RuleResult, ValidationReport
from feature_repo.quality.rules import Severities, severities
from feature_repo.quality.suite import Expectation, Outcome, run_suite
from feature_repo.window import DAY, Window, floor_hour

logger = logging.getLogger(__name__)

SUITE = "orders"
ID_COLUMNS = tuple(name for name in ORDER_SCHEMA if name.endswith("_id"))
VERSION_KEY = ("order_id", "updated_at")

MAX_DELIVERY_MINUTES = 24 * 60
"""For ASAP orders. A scheduled order's duration says when it was wanted; it is bounded by the lateness horizon."""
MAX_DISTANCE_KM = 100.0
MAX_REJECTED_SHARE = 0.2
MIN_REJECTED_TO_STOP = 10
"""A quiet hour with one bad row out of three is no reason to refuse the hour."""
HISTORY_WEEKS = 4
ROW_COUNT_FACTOR = 4.0
"""A window may have a quarter to four times as many rows as the same hours of the weeks before."""
WEEK = 7 * DAY
MICROSECOND = timedelta(microseconds=1)
SMALLEST_SHARE = 1e-9
"""As `mostly`: fails only when no row at all holds the expectation."""


@dataclass(frozen=True, slots=True)
class RowRule:
    """One rule that each row must keep, or go to the quarantine.

    Attributes
    ----------
    expectation : Expectation
        Its name, and what Great Expectations evaluates. Most rules are a boolean column of the rule's name.
    threshold : str
        What is allowed, in words.
    reason : pl.Expr
        Text for a row that fails.
    holds : pl.Expr, optional
        The boolean column; null counts as true. None where the expectation reads order columns itself.
    """

    expectation: Expectation
    threshold: str
    reason: pl.Expr
    holds: pl.Expr | None = None

    @property
    def name(self) -> str:
        """The rule's name."""
        return self.expectation.rule


CONVERTED = RowRule(
    Expectation("converted", "ExpectColumnValuesToBeNull", {"column": "refused_rule"}),
    "the source row converts",
    pl.col("refused_reason"),
)
"""Broken by rows that `bring_in` or the landing refused. These are quarantined under the rule that they were given
there; the other rules do not apply to them."""


@dataclass(frozen=True, slots=True)
class OrdersVerdict:
    """What became of a batch of order versions.

    Attributes
    ----------
    accepted : pl.DataFrame
        Columns of `LAKE_SCHEMA`.
    rejected : pl.DataFrame
        Columns of `QUARANTINE_SCHEMA`. Together with `accepted`, as many rows as came in.
    report : ValidationReport
    """

    accepted: pl.DataFrame
    rejected: pl.DataFrame
    report: ValidationReport


def validate_orders(frame: pl.DataFrame, window: Window, settings: Settings) -> OrdersVerdict:
    """Judge the versions that one window brought in, and keep the report.

    Parameters
    ----------
    frame : pl.DataFrame
        Columns of `LAKE_SCHEMA`; those of `BATCH_SCHEMA` beyond it may be absent.
    window : Window
    settings : Settings

    Returns
    -------
    OrdersVerdict
        When `report.stopped`, nothing of the batch should be used: see `stopped_batch`.

    Raises
    ------
    ValueError
        A column of `LAKE_SCHEMA` is missing or has another type.
    RuleError
        The configuration names a rule or a severity that there is not.
    """
    grave = severities(settings)
    batch, clean = _sorted_apart(frame)
    rules, filled = row_rules(window, settings), [_not_all_null(clean, column) for column in REQUIRED_COLUMNS]
    kept: list[Any] = []
    outcomes = run_suite(SUITE, _with_columns(clean, rules), _expectations(rules, filled), kept)
    marked = _mark_repetitions(batch, _positions(outcomes[rule.name] for rule in rules), window, settings)
    again, whole = [CONVERTED, *repetition_rules()], _batch_rules(marked, window, settings)
    columns = marked.select("refused_rule", "unsuspicious", *(rule.name for rule in repetition_rules()))
    outcomes |= run_suite(f"{SUITE}_batch", columns, _expectations(again, whole), kept)
    rejected = _rejected(marked, [*rules, *again], outcomes, window)
    accepted = _without(batch, _positions(outcomes[rule.name] for rule in (*rules, *again)))
    results = [_row_result(rule, outcomes[rule.name], marked, grave) for rule in (*rules, *again)]
    results += [rule.result(outcomes[rule.name], grave) for rule in (*filled, *whole)]
    results.append(_found_late(batch, grave))
    compared = shift.compare(accepted, clean, window, baseline_for(window, settings), settings)
    results += shift.judge(compared, grave, kept)
    report = ValidationReport(SUITE, window.slug, batch.height, rejected.height, results)
    report.write(settings)
    write_page(report, kept, settings)
    _log(report, window)
    return OrdersVerdict(accepted, rejected, report)


def acceptable_orders(frame: pl.DataFrame, window: Window, settings: Settings) -> pl.DataFrame:
    """The versions that keep every rule on a row, as `validate_orders` would accept them; no report is kept.

    For values that must not wait for the hourly run, which judges the same versions again, as a batch too.

    Parameters
    ----------
    frame : pl.DataFrame
        As `validate_orders` takes it.
    window : Window
    settings : Settings

    Returns
    -------
    pl.DataFrame
        Columns of `LAKE_SCHEMA`.
    """
    batch, clean = _sorted_apart(frame)
    rules = row_rules(window, settings)
    outcomes = run_suite(SUITE, _with_columns(clean, rules), _expectations(rules, []))
    marked = _mark_repetitions(batch, _positions(outcomes.values()), window, settings)
    return marked.filter("is_good", *(rule.name for rule in repetition_rules())).select(list(LAKE_SCHEMA))


def stopped_batch(frame: pl.DataFrame, report: ValidationReport, window: Window) -> pl.DataFrame:
    """A refused batch as rows for the quarantine, under the rule `batch_stopped`.

    Returns
    -------
    pl.DataFrame
        Columns of `QUARANTINE_SCHEMA`, one row per row of `frame`.
    """
    reasons = "; ".join(result.reason for result in report.failures if result.severity == "stop")
    rule, reason = pl.lit("batch_stopped"), pl.lit(f"the whole batch was refused: {reasons}")
    return _quarantine_rows(_conform(frame).with_columns(rule=rule, reason=reason), window)


def row_rules(window: Window, settings: Settings) -> list[RowRule]:
    """The rules on one row by itself, in the order in which a rejected row is given its rule."""
    return [
        *(_not_null(column) for column in REQUIRED_COLUMNS),
        _rule(
            "blank_id",
            pl.all_horizontal((pl.col(name).str.strip_chars() != "").fill_null(True) for name in ID_COLUMNS),
            "no empty text",
            pl.format("one of {} is an empty text; an unknown one is null", pl.lit(", ".join(ID_COLUMNS))),
        ),
        RowRule(
            Expectation("status", "ExpectColumnValuesToBeInSet", {"column": "status", "value_set": list(STATUSES)}),
            f"one of {', '.join(STATUSES)}",
            pl.format("status {} is none of {}", _shown("status"), pl.lit(", ".join(STATUSES))),
        ),
        *_time_rules(window, settings.lateness_horizon),
        *_stage_rules(),
        *_value_rules(),
    ]


def _not_null(column: str) -> RowRule:
    return RowRule(
        Expectation(f"{column}_not_null", "ExpectColumnValuesToNotBeNull", {"column": column}),
        "not null",
        pl.lit(f"{column} is null; every order has one"),
    )


def _time_rules(window: Window, horizon: timedelta) -> list[RowRule]:
    hours = horizon.total_seconds() / 3600
    return [
        _rule(
            "known_in_window",
            pl.col("known_at").is_between(window.start, window.end, closed="left"),
            f"in {window}",
            pl.format("known at {}, outside of the window {}", _shown("known_at"), pl.lit(str(window))),
        ),
        _rule(
            "placed_in_future",
            pl.col("placed_at") <= pl.col("known_at"),
            "placed_at <= known_at",
            pl.format("placed_at {} is after {}, when the order became known", _shown("placed_at"), _shown("known_at")),
        ),
        _rule(
            "too_late",
            pl.col("known_at") <= pl.col("placed_at") + horizon,
            f"known within {hours:g} h of placed_at",
            pl.format(
                "became known at {}, more than {} h after it was placed at {}",
                _shown("known_at"),
                pl.lit(f"{hours:g}"),
                _shown("placed_at"),
            ),
        ),
    ]


def _stage_rules() -> list[RowRule]:
    newest = pl.max_horizontal(EVENT_TIMES)
    minutes = (pl.col("delivered_at") - pl.col("placed_at")).dt.total_seconds() / 60
    return [
        RowRule(
            Expectation(
                "delivered_before_placed",
                "ExpectColumnPairValuesAToBeGreaterThanB",
                {
                    "column_A": "delivered_at",
                    "column_B": "placed_at",
                    "or_equal": True,
                    "ignore_row_if": "either_value_is_missing",
                },
            ),
            "delivered_at >= placed_at",
            pl.format("delivered_at {} is before placed_at {}", _shown("delivered_at"), _shown("placed_at")),
        ),
        _rule("stage_order", pl.all_horizontal(_in_order()), " <= ".join(STAGE_TIMES), _disorder()),
        _rule(
            "cancelled_before_placed",
            pl.col("cancelled_at") >= pl.col("placed_at"),
            "cancelled_at >= placed_at",
            pl.format("cancelled_at {} is before placed_at {}", _shown("cancelled_at"), _shown("placed_at")),
        ),
        _rule(
            "delivered_without_time",
            (pl.col("status") != "delivered") | pl.col("delivered_at").is_not_null(),
            "status delivered has delivered_at",
            pl.lit("status is delivered, but delivered_at is null"),
        ),
        _rule(
            "delivery_minutes",
            ~pl.col("is_asap").fill_null(True) | (minutes <= MAX_DELIVERY_MINUTES),
            f"at most {MAX_DELIVERY_MINUTES} minutes for ASAP orders",
            pl.format("an ASAP order took {} minutes, more than {}", minutes.round(1), pl.lit(MAX_DELIVERY_MINUTES)),
        ),
        _rule(
            "updated_before_event",
            pl.col("updated_at") >= newest,
            "updated_at >= every event's time",
            pl.format("updated_at {} is before the newest event at {}", _shown("updated_at"), _time_text(newest)),
        ),
    ]


def _value_rules() -> list[RowRule]:
    floats = [name for name, kind in ORDER_SCHEMA.items() if kind == pl.Float64()]
    return [
        _rule(
            "finite_numbers",
            pl.all_horizontal(pl.col(name).is_finite().fill_null(True) for name in floats),
            "no NaN, no infinity",
            pl.format("one of {} is NaN or infinite; an unknown value is null", pl.lit(", ".join(floats))),
        ),
        _range("distance_km", 0, MAX_DISTANCE_KM),
        _range("order_value", 0, None),
        _range("item_count", 1, None),
        _range("promised_minutes", 0, None),
    ]


def _rule(name: str, holds: pl.Expr, threshold: str, reason: pl.Expr) -> RowRule:
    return RowRule(Expectation.holds(name), threshold, reason, holds)


def _range(column: str, minimum: float, maximum: float | None) -> RowRule:
    arguments = {"column": column, "min_value": minimum, "max_value": maximum}
    threshold = f"at least {minimum:g}" if maximum is None else f"{minimum:g} to {maximum:g}"
    reason = pl.format("{} {} is not {}", pl.lit(column), pl.col(column), pl.lit(threshold))
    return RowRule(Expectation(column, "ExpectColumnValuesToBeBetween", arguments), threshold, reason)


def _in_order() -> list[pl.Expr]:
    """For each stage after the first: its time is not before that of any earlier stage that is present."""
    return [
        (pl.col(stage) >= pl.max_horizontal(STAGE_TIMES[:place])).fill_null(True)
        for place, stage in enumerate(STAGE_TIMES)
        if place
    ]


def _disorder() -> pl.Expr:
    parts = [
        pl.when(~holds).then(
            pl.format("{} {} is before an earlier stage at {}", pl.lit(stage), _shown(stage), _time_text(earlier))
        )
        for holds, stage, earlier in zip(
            _in_order(),
            STAGE_TIMES[1:],
            [pl.max_horizontal(STAGE_TIMES[:place]) for place in range(1, len(STAGE_TIMES))],
            strict=True,
        )
    ]
    return pl.concat_str(parts, separator="; ", ignore_nulls=True)


def repetition_rules() -> list[RowRule]:
    """The rules on a row beside the other versions of its order; only rows that keep all `row_rules` take part."""
    at = _shown("updated_at")
    return [
        _rule(
            "conflicting_version",
            ~pl.col("repeated") | pl.col("same_content"),
            "one version per order_id and updated_at",
            pl.format("another version with the same updated_at {} and other values came first", at),
        ),
        _rule(
            "duplicate_version",
            ~pl.col("repeated") | ~pl.col("same_content"),
            "each version once",
            pl.format("the same version, updated_at {}, came before", at),
        ),
    ]


def _shown(column: str) -> pl.Expr:
    if BATCH_SCHEMA[column] == pl.String():
        return pl.col(column).fill_null("null")
    return _time_text(pl.col(column))


def _time_text(time: pl.Expr) -> pl.Expr:
    return time.dt.strftime("%Y-%m-%d %H:%M:%S").fill_null("null")


def _conform(frame: pl.DataFrame) -> pl.DataFrame:
    wrong = {
        name: (frame.schema.get(name), kind) for name, kind in LAKE_SCHEMA.items() if frame.schema.get(name) != kind
    }
    if wrong:
        raise ValueError(f"a batch of orders needs the columns of the lake; wrong (found, expected): {wrong}")
    absent = [pl.lit(None, dtype=kind).alias(name) for name, kind in BATCH_SCHEMA.items() if name not in frame.columns]
    return frame.with_columns(absent).select(list(BATCH_SCHEMA)).with_columns(pl.col("found_late").fill_null(False))


def _sorted_apart(frame: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The batch with the rows that were refused before at its end, and the batch without them."""
    batch = _conform(frame).sort(pl.col("refused_rule").is_not_null(), maintain_order=True)
    return batch, batch.filter(pl.col("refused_rule").is_null())


def _with_columns(batch: pl.DataFrame, rules: Sequence[RowRule]) -> pl.DataFrame:
    """The columns that a suite needs. What is unknown breaks no boolean rule."""
    booleans = [rule.holds.fill_null(True).alias(rule.name) for rule in rules if rule.holds is not None]
    used = {
        str(value) for rule in rules for key, value in rule.expectation.arguments.items() if key.startswith("column")
    }
    return batch.select(*[name for name in batch.columns if name in used], *booleans)


def _expectations(rows: Sequence[RowRule], batch: Sequence[BatchRule]) -> list[Expectation]:
    return [*(rule.expectation for rule in rows), *(rule.expectation for rule in batch)]


def _positions(outcomes: Iterable[Outcome]) -> pl.Series:
    rows = sorted({row for outcome in outcomes for row in outcome.rows})
    return pl.Series("position", rows, dtype=pl.UInt32)


def _without(batch: pl.DataFrame, positions: pl.Series) -> pl.DataFrame:
    kept = batch.with_row_index("position").join(positions.to_frame(), on="position", how="anti", maintain_order="left")
    return kept.select(list(LAKE_SCHEMA))


def _mark_repetitions(batch: pl.DataFrame, broken: pl.Series, window: Window, settings: Settings) -> pl.DataFrame:
    """Add the columns of `repetition_rules`, and `unsuspicious`: neither broken nor in conflict with another version.

    A version is repeated when its `(order_id, updated_at)` came before, in the lake or in this batch. Broken rows do
    not take part, so that a broken version does not shut out a good one, whatever windows the two come in.
    """
    rows = batch.with_row_index("position").with_columns(
        is_good=pl.col("refused_rule").is_null() & ~pl.col("position").is_in(broken.implode()),
        content=_hash(ORDER_SCHEMA),
        key=_hash(VERSION_KEY),
    )
    recent = Window(window.start - settings.lateness_horizon, window.start)
    lake = order_versions(settings, recent).select(
        *VERSION_KEY, key=_hash(VERSION_KEY), first_content=_hash(ORDER_SCHEMA)
    )
    marked = rows.join(_repetitions(rows, lake.collect()), on="position", how="left", maintain_order="left")
    marked = marked.with_columns(pl.col("repeated", "same_content").fill_null(False))
    booleans = [rule.holds.alias(rule.name) for rule in repetition_rules() if rule.holds is not None]
    return marked.with_columns(booleans).with_columns(unsuspicious=pl.col("is_good") & pl.col("conflicting_version"))


def _repetitions(rows: pl.DataFrame, lake: pl.DataFrame) -> pl.DataFrame:
    """`position`, `repeated` and `same_content` of the rows that may be repeated: those whose hashed key recurs."""
    good = rows.filter("is_good")
    suspects = good.filter(pl.col("key").is_duplicated() | pl.col("key").is_in(lake["key"].unique().implode()))
    ordered = suspects.sort("known_at", "position").select("position", *VERSION_KEY, "content")
    before = lake.unique(VERSION_KEY).drop("key")
    return ordered.join(before, on=VERSION_KEY, how="left", maintain_order="left").select(
        "position",
        repeated=(pl.int_range(pl.len()).over(VERSION_KEY) > 0) | pl.col("first_content").is_not_null(),
        same_content=pl.col("content") == pl.coalesce("first_content", pl.col("content").first().over(VERSION_KEY)),
    )


def _hash(columns: Iterable[str]) -> pl.Expr:
    return pl.struct(list(columns)).hash()


def _rejected(
    marked: pl.DataFrame, rules: Sequence[RowRule], outcomes: Mapping[str, Outcome], window: Window
) -> pl.DataFrame:
    """Each failing row once, under the first rule that it breaks; the reason names the others."""
    failing = pl.concat(
        [_failing(marked, rule, outcomes[rule.name]) for rule in rules if outcomes[rule.name].rows]
        or [_failing(marked, rules[0], Outcome(True, [], None))]
    )
    by_row = failing.group_by("position", maintain_order=True).agg(
        pl.col("rule").first(), pl.col("reason").first(), others=pl.col("rule").slice(1).str.join(", ")
    )
    reason = pl.when(pl.col("others") == "").then("reason").otherwise(pl.format("{} (also: {})", "reason", "others"))
    rows = by_row.with_columns(reason=reason).sort("position").join(marked, on="position", maintain_order="left")
    return _quarantine_rows(rows, window)


def _failing(marked: pl.DataFrame, rule: RowRule, outcome: Outcome) -> pl.DataFrame:
    name = pl.coalesce("refused_rule", pl.lit(rule.name))
    rows = marked[outcome.rows].select("position", rule=name, reason=rule.reason)
    return rows.cast({"rule": pl.String, "reason": pl.String})


def _quarantine_rows(rows: pl.DataFrame, window: Window) -> pl.DataFrame:
    """`rows` with `rule` and `reason` as the quarantine keeps them: with the row itself, as it came."""
    return rows.select(
        pl.col("known_at").fill_null(window.start).clip(window.start, window.end - MICROSECOND),
        "order_id",
        "rule",
        "reason",
        row=pl.coalesce("source_row", row_text()),
        window=pl.lit(window.slug),
    ).cast(pl.Schema(QUARANTINE_SCHEMA))


def _row_result(rule: RowRule, outcome: Outcome, marked: pl.DataFrame, grave: Severities) -> RuleResult:
    count = len(outcome.rows)
    example = _failing(marked, rule, Outcome(False, outcome.rows[:1], None))["reason"].to_list()
    reason = f"{count} of {marked.height} rows, for example: {example[0]}" if count else "no row breaks it"
    return RuleResult(rule.name, rule.name, grave.of(rule.name), not count, count, rule.threshold, count, reason)


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
        return self.expectation.rule

    def result(self, outcome: Outcome, grave: Severities) -> RuleResult:
        passed = outcome.passed or not self.applies
        failed = 0 if passed else self.failed_rows
        severity = grave.of(self.name)
        return RuleResult(self.name, self.name, severity, passed, self.observed, self.threshold, failed, self.reason)


def _batch_rules(marked: pl.DataFrame, window: Window, settings: Settings) -> list[BatchRule]:
    return [_rejected_share(marked), _no_rows(marked, window), _row_count(marked, window, settings)]


def _rejected_share(marked: pl.DataFrame) -> BatchRule:
    bad = marked.height - int(marked["unsuspicious"].sum())
    share = bad / marked.height if marked.height else 0.0
    arguments = {"column": "unsuspicious", "value_set": [True], "mostly": 1 - MAX_REJECTED_SHARE}
    few = bad < MIN_REJECTED_TO_STOP
    return BatchRule(
        Expectation("rejected_share", "ExpectColumnValuesToBeInSet", arguments),
        round(share, 4),
        f"at most {MAX_REJECTED_SHARE:g}, from {MIN_REJECTED_TO_STOP} rejected rows on",
        bad,
        f"{bad} of {marked.height} rows are rejected (repeated versions not counted)"
        + (f"; fewer than {MIN_REJECTED_TO_STOP} stop nothing" if few else ""),
        applies=not few,
    )


def _not_all_null(marked: pl.DataFrame, column: str) -> BatchRule:
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


def _found_late(batch: pl.DataFrame, grave: Severities) -> RuleResult:
    late = int(batch["found_late"].sum())
    reason = f"{late} versions were put into hours of the landing folder that had been run" if late else "none"
    return RuleResult("found_late", "found_late", grave.of("found_late"), not late, late, "0", 0, reason)


def _log(report: ValidationReport, window: Window) -> None:
    for result in report.failures:
        level = logging.ERROR if result.severity == "stop" else logging.WARNING
        logger.log(level, "orders of %s: %s (%s): %s", window, result.rule, result.severity, result.reason)

"""The verdict on a batch of order versions: what is accepted, what goes to the quarantine, what stops the batch.

The rules themselves are in `order_rows`, `order_history` and `order_batch`; what a breach means is in `rules.RULES`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import polars as pl

from config import Settings
from feature_repo.orders.schema import BATCH_SCHEMA, LAKE_SCHEMA, QUARANTINE_SCHEMA, REQUIRED_COLUMNS, row_text
from feature_repo.orders.watermark import corrections
from feature_repo.quality import shift, withdrawn
from feature_repo.quality.baseline import baseline_for
from feature_repo.quality.datadocs import write_page
from feature_repo.quality.order_batch import (
    BatchRule,
    batch_rules,
    found_late,
    mark_hours,
    not_all_null,
    refused_hours,
)
from feature_repo.quality.order_history import earlier, history_rules, mark_history
from feature_repo.quality.order_rows import CONVERTED, RowRule, row_rules
from feature_repo.quality.results import RuleResult, ValidationReport
from feature_repo.quality.rules import Severities, severities
from feature_repo.quality.suite import Expectation, Outcome, run_suite
from feature_repo.window import Window

logger = logging.getLogger(__name__)

SUITE = "orders"
MICROSECOND = timedelta(microseconds=1)


class TooManyRejected(ValueError):
    """So many rows of a batch are rejected that the others cannot be trusted either."""


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
    refused_hours : list of Window
        Where the batch is stopped: the hours that would be by themselves, for their share of rejected rows, in order.
    """

    accepted: pl.DataFrame
    rejected: pl.DataFrame
    report: ValidationReport
    refused_hours: list[Window]


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
    rules, filled = row_rules(window, settings), [not_all_null(clean, column) for column in REQUIRED_COLUMNS]
    kept: list[Any] = []
    outcomes = run_suite(SUITE, _with_columns(clean, rules), _expectations(rules, filled), kept)
    marked = mark_history(batch, _positions(outcomes[rule.name] for rule in rules), window, settings)
    marked = mark_hours(marked, settings)
    again, whole = [CONVERTED, *history_rules()], batch_rules(marked, window, settings)
    columns = marked.select("refused_rule", "trusted", *(rule.name for rule in history_rules()))
    outcomes |= run_suite(f"{SUITE}_batch", columns, _expectations(again, whole), kept)
    rejected = _rejected(marked, [*rules, *again], outcomes, window)
    accepted = _without(batch, _positions(outcomes[rule.name] for rule in (*rules, *again)))
    results = [_row_result(rule, outcomes[rule.name], marked, grave) for rule in (*rules, *again)]
    results += [rule.result(outcomes[rule.name], grave) for rule in (*filled, *whole)]
    results.append(found_late(batch, grave))
    held = earlier(accepted, window, settings)
    results.append(withdrawn.judge(accepted, held, corrections(settings), grave))
    compared = shift.compare(accepted, clean, window, baseline_for(window, settings), settings)
    results += shift.judge(compared, grave, kept)
    report = ValidationReport(SUITE, window.slug, batch.height, rejected.height, results)
    report.write(settings)
    write_page(report, kept, settings)
    _log(report, window)
    by_share = any(result.rule == "rejected_share" for result in report.failures if result.severity == "stop")
    return OrdersVerdict(accepted, rejected, report, refused_hours(marked) if by_share else [])


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
    return _acceptable(_marked(frame, window, settings))


def trusted_orders(frame: pl.DataFrame, window: Window, settings: Settings) -> pl.DataFrame:
    """As `acceptable_orders`, of a batch that would not be refused for its share of rejected rows.

    Raises
    ------
    TooManyRejected
        It would be.
    """
    marked = mark_hours(_marked(frame, window, settings), settings)
    if not marked["trusted"].all() and severities(settings).of("rejected_share") == "stop":
        bad, counted = int(marked["bad"].sum()), int(marked["counted"].sum())
        raise TooManyRejected(
            f"{bad} of {counted} order versions of {window} are rejected: none of them can be trusted"
        )
    return _acceptable(marked)


def _marked(frame: pl.DataFrame, window: Window, settings: Settings) -> pl.DataFrame:
    batch, clean = _sorted_apart(frame)
    rules = row_rules(window, settings)
    outcomes = run_suite(SUITE, _with_columns(clean, rules), _expectations(rules, []))
    return mark_history(batch, _positions(outcomes.values()), window, settings)


def _acceptable(marked: pl.DataFrame) -> pl.DataFrame:
    return marked.filter("is_good", *(rule.name for rule in history_rules())).select(list(LAKE_SCHEMA))


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


def _log(report: ValidationReport, window: Window) -> None:
    for result in report.failures:
        level = logging.ERROR if result.severity == "stop" else logging.WARNING
        logger.log(level, "orders of %s: %s (%s): %s", window, result.rule, result.severity, result.reason)

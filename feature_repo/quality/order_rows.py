"""The rules on one order version by itself: what breaks one goes to the quarantine.

A row rule is its name, the expectation that Great Expectations evaluates, and the words for a row that fails. What a
breach of it means is in `rules.RULES`, from which the report and the docs take it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import polars as pl

from config import Settings
from feature_repo.orders.schema import (
    BATCH_SCHEMA,
    EVENT_TIMES,
    ORDER_SCHEMA,
    REQUIRED_COLUMNS,
    STAGE_TIMES,
    STATUSES,
)
from feature_repo.quality.suite import Expectation
from feature_repo.request_fields import FIELDS, RequestField
from feature_repo.window import Window

ID_COLUMNS = tuple(name for name in ORDER_SCHEMA if name.endswith("_id"))

MAX_DELIVERY_MINUTES = 24 * 60
"""For ASAP orders. A scheduled order's duration says when it was wanted; it is bounded by the lateness horizon."""


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


def row_rules(window: Window, settings: Settings) -> list[RowRule]:
    """The rules on one row by itself, in the order in which a rejected row is given its rule."""
    return [
        *(_not_null(column) for column in REQUIRED_COLUMNS),
        flag(
            "blank_id",
            pl.all_horizontal((pl.col(name).str.strip_chars() != "").fill_null(True) for name in ID_COLUMNS),
            "no empty text",
            pl.format("one of {} is an empty text; an unknown one is null", pl.lit(", ".join(ID_COLUMNS))),
        ),
        RowRule(
            Expectation("status", "ExpectColumnValuesToBeInSet", {"column": "status", "value_set": list(STATUSES)}),
            f"one of {', '.join(STATUSES)}",
            pl.format("status {} is none of {}", shown("status"), pl.lit(", ".join(STATUSES))),
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
        flag(
            "known_in_window",
            pl.col("known_at").is_between(window.start, window.end, closed="left"),
            f"in {window}",
            pl.format("known at {}, outside of the window {}", shown("known_at"), pl.lit(str(window))),
        ),
        flag(
            "placed_in_future",
            pl.col("placed_at") <= pl.col("known_at"),
            "placed_at <= known_at",
            pl.format("placed_at {} is after {}, when the order became known", shown("placed_at"), shown("known_at")),
        ),
        flag(
            "too_late",
            pl.col("known_at") <= pl.col("placed_at") + horizon,
            f"known within {hours:g} h of placed_at",
            pl.format(
                "became known at {}, more than {} h after it was placed at {}",
                shown("known_at"),
                pl.lit(f"{hours:g}"),
                shown("placed_at"),
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
            pl.format("delivered_at {} is before placed_at {}", shown("delivered_at"), shown("placed_at")),
        ),
        flag("stage_order", pl.all_horizontal(_in_order()), " <= ".join(STAGE_TIMES), _disorder()),
        flag(
            "cancelled_before_placed",
            pl.col("cancelled_at") >= pl.col("placed_at"),
            "cancelled_at >= placed_at",
            pl.format("cancelled_at {} is before placed_at {}", shown("cancelled_at"), shown("placed_at")),
        ),
        flag(
            "delivered_without_time",
            (pl.col("status") != "delivered") | pl.col("delivered_at").is_not_null(),
            "status delivered has delivered_at",
            pl.lit("status is delivered, but delivered_at is null"),
        ),
        flag(
            "delivery_minutes",
            ~pl.col("is_asap").fill_null(True) | (minutes <= MAX_DELIVERY_MINUTES),
            f"at most {MAX_DELIVERY_MINUTES} minutes for ASAP orders",
            pl.format("an ASAP order took {} minutes, more than {}", minutes.round(1), pl.lit(MAX_DELIVERY_MINUTES)),
        ),
        flag(
            "updated_before_event",
            pl.col("updated_at") >= newest,
            "updated_at >= every event's time",
            pl.format("updated_at {} is before the newest event at {}", shown("updated_at"), _time_text(newest)),
        ),
    ]


def _value_rules() -> list[RowRule]:
    floats = [name for name, kind in ORDER_SCHEMA.items() if kind == pl.Float64()]
    return [
        flag(
            "finite_numbers",
            pl.all_horizontal(pl.col(name).is_finite().fill_null(True) for name in floats),
            "no NaN, no infinity",
            pl.format("one of {} is NaN or infinite; an unknown value is null", pl.lit(", ".join(floats))),
        ),
        *[_range(field) for field in FIELDS],
    ]


def flag(name: str, holds: pl.Expr, threshold: str, reason: pl.Expr) -> RowRule:
    """A rule that is a boolean column of its name."""
    return RowRule(Expectation.holds(name), threshold, reason, holds)


def _range(field: RequestField) -> RowRule:
    arguments = {"column": field.name, "min_value": field.minimum, "max_value": field.maximum}
    reason = pl.format("{} {} is not {}", pl.lit(field.name), pl.col(field.name), pl.lit(field.bounds))
    return RowRule(Expectation(field.name, "ExpectColumnValuesToBeBetween", arguments), field.bounds, reason)


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
            pl.format("{} {} is before an earlier stage at {}", pl.lit(stage), shown(stage), _time_text(earlier))
        )
        for holds, stage, earlier in zip(
            _in_order(),
            STAGE_TIMES[1:],
            [pl.max_horizontal(STAGE_TIMES[:place]) for place in range(1, len(STAGE_TIMES))],
            strict=True,
        )
    ]
    return pl.concat_str(parts, separator="; ", ignore_nulls=True)


def shown(column: str) -> pl.Expr:
    """An id or a time as text for a reason."""
    if BATCH_SCHEMA[column] == pl.String():
        return pl.col(column).fill_null("null")
    return _time_text(pl.col(column))


def _time_text(time: pl.Expr) -> pl.Expr:
    return time.dt.strftime("%Y-%m-%d %H:%M:%S").fill_null("null")

"""The rules on an order version beside the other versions of its order, in the lake and in its batch."""

from __future__ import annotations

from collections.abc import Iterable

import polars as pl

from config import Settings
from feature_repo.orders.history import order_versions
from feature_repo.orders.schema import ORDER_SCHEMA
from feature_repo.quality.order_rows import RowRule, flag, shown
from feature_repo.window import Window

VERSION_KEY = ("order_id", "updated_at")


def repetition_rules() -> list[RowRule]:
    """The rules on a row beside the other versions of its order; only rows that keep all `row_rules` take part."""
    at = shown("updated_at")
    return [
        flag(
            "conflicting_version",
            ~pl.col("repeated") | pl.col("same_content"),
            "one version per order_id and updated_at",
            pl.format("another version with the same updated_at {} and other values came first", at),
        ),
        flag(
            "duplicate_version",
            ~pl.col("repeated") | ~pl.col("same_content"),
            "each version once",
            pl.format("the same version, updated_at {}, came before", at),
        ),
    ]


def mark_repetitions(batch: pl.DataFrame, broken: pl.Series, window: Window, settings: Settings) -> pl.DataFrame:
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

"""The rules on an order version beside the other versions of its order, in the lake and in its batch.

An order's versions are judged one after the other, as they became known. So a verdict depends on what was accepted
within a fixed time before the version, and not on the window that the version happens to be read in.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import NamedTuple

import polars as pl

from config import Settings
from feature_repo.orders import identity
from feature_repo.orders.history import order_versions
from feature_repo.orders.schema import ORDER_SCHEMA
from feature_repo.quality.order_rows import RowRule, flag, shown
from feature_repo.window import Moments, Window

VERSION_KEY = ("order_id", "updated_at")
_MARKS = {"position": pl.UInt32, "repeated": pl.Boolean, "same_content": pl.Boolean, "changed_from": pl.String}


def history_rules() -> list[RowRule]:
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
        flag(
            identity.RULE,
            pl.col("changed_from").is_null(),
            "restaurant_id and placed_at of the order's first version",
            pl.format(
                "restaurant_id {} and placed_at {}, but {}; {}",
                shown("restaurant_id"),
                shown("placed_at"),
                "changed_from",
                pl.lit(identity.ADVICE),
            ),
        ),
    ]


def mark_history(batch: pl.DataFrame, broken: pl.Series, window: Window, settings: Settings) -> pl.DataFrame:
    """Add the columns of `history_rules`, and `unsuspicious`: neither broken nor in conflict with another version.

    A version is repeated when its `(order_id, updated_at)` came before, in the lake or in this batch. Broken rows do
    not take part, so that a broken version does not shut out a good one, whatever windows the two come in.
    """
    rows = batch.with_row_index("position").with_columns(
        is_good=pl.col("refused_rule").is_null() & ~pl.col("position").is_in(broken.implode()),
        content=_hash(ORDER_SCHEMA),
    )
    good, reach = rows.filter("is_good"), identity.lookback(settings.lateness_horizon)
    lake = earlier(good, window, settings).with_columns(content=_hash(ORDER_SCHEMA))
    columns = ["order_id", "restaurant_id", "placed_at"]
    apart = pl.col("order_id").is_in(identity.several(pl.concat([good[columns], lake[columns]])).implode())
    marks = pl.concat(
        [_repetitions(good.filter(~apart), lake), _one_by_one(good.filter(apart), lake.filter(apart), reach)]
    )
    marked = rows.join(marks, on="position", how="left", maintain_order="left")
    marked = marked.with_columns(pl.col("repeated", "same_content").fill_null(False))
    booleans = [rule.holds.alias(rule.name) for rule in history_rules() if rule.holds is not None]
    unsuspicious = pl.all_horizontal("is_good", "conflicting_version", identity.RULE)
    return marked.with_columns(booleans).with_columns(unsuspicious=unsuspicious)


def earlier(versions: pl.DataFrame, window: Window, settings: Settings) -> pl.DataFrame:
    """What the lake holds, from before the window, of the orders of some versions, as it became known."""
    ids = versions.select("order_id").unique().lazy()
    span = Moments(window.start - identity.lookback(settings.lateness_horizon), window.start)
    return order_versions(settings, span).join(ids, on="order_id", how="semi").sort("known_at", "updated_at").collect()


def _repetitions(good: pl.DataFrame, lake: pl.DataFrame) -> pl.DataFrame:
    """`_MARKS` of the rows that may be repeated: those whose hashed key recurs."""
    key = _hash(VERSION_KEY)
    known = lake.unique(VERSION_KEY).select(*VERSION_KEY, first_content="content")
    recurs = key.is_duplicated() | key.is_in(known.select(key.unique()).to_series().implode())
    ordered = good.filter(recurs).sort("known_at", "position").select("position", *VERSION_KEY, "content")
    return ordered.join(known, on=VERSION_KEY, how="left", maintain_order="left").select(
        "position",
        repeated=(pl.int_range(pl.len()).over(VERSION_KEY) > 0) | pl.col("first_content").is_not_null(),
        same_content=pl.col("content") == pl.coalesce("first_content", pl.col("content").first().over(VERSION_KEY)),
        changed_from=pl.lit(None, pl.String),
    )


class _Seen(NamedTuple):
    updated_at: datetime
    restaurant_id: str
    placed_at: datetime
    known_at: datetime
    content: int

    def differs(self, other: _Seen) -> bool:
        """Whether they are versions of two orders."""
        away = abs(self.placed_at - other.placed_at)
        return self.restaurant_id != other.restaurant_id or away > identity.SAME_PLACING

    def told(self) -> str:
        at, placed = (f"{time:%Y-%m-%d %H:%M:%S}" for time in (self.updated_at, self.placed_at))
        return f"the order's first version, updated_at {at}, has {self.restaurant_id} and {placed}"


def _one_by_one(good: pl.DataFrame, lake: pl.DataFrame, reach: timedelta) -> pl.DataFrame:
    """`_MARKS` of rows whose id is used for several orders: only what was accepted before counts for the next."""
    accepted: dict[str, list[_Seen]] = defaultdict(list)
    for order, *seen in lake.select("order_id", *_Seen._fields).iter_rows():
        accepted[order].append(_Seen(*seen))
    marks = []
    for position, order, *seen in (
        good.sort("known_at", "position").select("position", "order_id", *_Seen._fields).iter_rows()
    ):
        marks.append((position, *_judge(_Seen(*seen), accepted[order], reach)))
    return pl.DataFrame(marks, schema=_MARKS, orient="row")


def _judge(version: _Seen, accepted: list[_Seen], reach: timedelta) -> tuple[bool, bool, str | None]:
    """`_MARKS` of one version; it joins the accepted ones unless it breaks a rule."""
    recent = [one for one in accepted if one.known_at >= version.known_at - reach]
    same = next((one for one in recent if one.updated_at == version.updated_at), None)
    if same is not None:
        return True, same.content == version.content, None
    if recent and version.differs(recent[0]):
        return False, False, recent[0].told()
    accepted.append(version)
    return False, False, None


def _hash(columns: Iterable[str]) -> pl.Expr:
    return pl.struct(list(columns)).hash()

"""Versions that lack what an earlier version of their order told: kept as they came, and told.

Reading the lake takes nothing back for them (`orders.fold`). But a source whose newest record knows less than an older
one may send its events in the wrong order, or mean a correction that it has to declare.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Collection

import polars as pl

from feature_repo.orders.fold import MAY_BE_UNKNOWN, rank
from feature_repo.quality.results import RuleResult
from feature_repo.quality.rules import Severities

RULE = "fact_withdrawn"


def judge(accepted: pl.DataFrame, lake: pl.DataFrame, corrections: Collection[str], grave: Severities) -> RuleResult:
    """The result of the rule on a batch.

    Parameters
    ----------
    accepted : pl.DataFrame
        The batch's accepted versions, columns of `LAKE_SCHEMA`.
    lake : pl.DataFrame
        What the lake holds of their orders, in the same columns.
    corrections : collection of str
        Columns in which the source takes back on purpose: told, but no fault.
    grave : Severities
    """
    found = withdrawn(accepted, lake)
    counts = {name: int(found[name].sum()) for name in found.columns}
    meant = {name: count for name, count in counts.items() if count and name in corrections}
    lost = {name: count for name, count in counts.items() if count and name not in corrections}
    rows = int(found.select(pl.any_horizontal(pl.lit(False), *lost)).to_series().sum()) if found.height else 0
    parts = [f"{rows} versions lack what an earlier one told ({_listed(lost)}): what was known is kept"] if lost else []
    parts += [f"taken back, as the source's corrections allow: {_listed(meant)}"] if meant else []
    return RuleResult(RULE, RULE, grave.of(RULE), not rows, rows, "0", 0, "; ".join(parts) or "none")


def withdrawn(accepted: pl.DataFrame, lake: pl.DataFrame) -> pl.DataFrame:
    """For each version that lacks something, which columns an earlier one told: a boolean column for each.

    Earlier is what became known before, and was not recorded after.
    """
    names = ["order_id", "updated_at", "known_at", "status", *MAY_BE_UNKNOWN]
    parts = (lake.select(names, own=pl.lit(False)), accepted.select(names, own=pl.lit(True)))
    versions = pl.concat(parts).filter(pl.col("order_id").is_duplicated()).sort("order_id", "known_at", "updated_at")
    less = functools.reduce(operator.or_, [_less(pl.col(name).is_not_null()) for name in MAY_BE_UNKNOWN])
    same_order = pl.col("order_id") == pl.col("order_id").shift()
    suspects = versions.filter(same_order & (less | _less(rank(pl.col("status")))))["order_id"].unique()
    order = versions.filter(pl.col("order_id").is_in(suspects.implode()))
    newest = pl.col("updated_at") >= pl.col("updated_at").cum_max().over("order_id")
    told = {name: pl.col(name).is_not_null().cast(pl.Int8) for name in MAY_BE_UNKNOWN} | {
        "status": rank(pl.col("status"))
    }
    flags = [(newest & (now < now.cum_max().over("order_id"))).alias(name) for name, now in told.items()]
    return order.select("own", *flags).filter("own").drop("own")


def _less(now: pl.Expr) -> pl.Expr:
    return now < now.shift()


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())

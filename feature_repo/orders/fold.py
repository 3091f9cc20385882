"""How the versions of an order add up to what is known of it: what was known stays known.

A version is what its source wrote down at `updated_at`; an event log writes down one thing at a time. So an order, as
known at an instant, is its versions known by then, in the order in which they were *recorded* (`updated_at`), laid over
each other: of each column the last value that is not null, and of `status` the last of those that are furthest along.
A later value corrects an earlier one; a null, or an earlier status, takes nothing back, except in columns of which the
source says so (`corrections`, in a mapping or in the watermark): of these the last version tells, whatever it tells.

`transforms.fold` is the same for facts, on the engines; a test holds both against a brute-force search.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import duckdb
import polars as pl

from feature_repo.orders.identity import SAME_PLACING
from feature_repo.orders.schema import EVENT_TIMES, LAKE_SCHEMA

STATUS_RANK = {"placed": 0, "accepted": 1, "picked_up": 2, "delivered": 3, "cancelled": 3}
"""How far along an order is. Of delivered and cancelled, which both end it, the one that was recorded last holds."""
_OTHERS = ("order_id", "status", "updated_at", "known_at", *EVENT_TIMES)
FOLDED = (*EVENT_TIMES, *(name for name in LAKE_SCHEMA if name not in _OTHERS))
"""Columns of which the last known value holds."""
MAY_BE_UNKNOWN = tuple(name for name in FOLDED if name not in ("restaurant_id", "placed_at"))
CORRECTABLE = ("status", *MAY_BE_UNKNOWN)
"""Columns that a source may take back. Restaurant and time of placing are what makes the order (see `identity`)."""
RECORD_ORDER = ("updated_at", "known_at", "status", *FOLDED)
"""By which an order's versions are sorted as they were recorded; the rest decides between versions of one instant."""


def correctable(names: bool | Iterable[str]) -> tuple[str, ...]:
    """The columns that a source says it may take back, all of them for True.

    Raises
    ------
    ValueError
        One of them cannot be taken back.
    """
    chosen = (CORRECTABLE if names else ()) if isinstance(names, bool) else tuple(names)
    if wrong := sorted(set(chosen) - set(CORRECTABLE)):
        raise ValueError(f"{wrong} cannot be taken back, only {list(CORRECTABLE)} (true means all of them)")
    return chosen


def count_withdrawn(connection: duckdb.DuckDBPyConnection, corrections: Collection[str], columns: Iterable[str]) -> int:
    """Of how many orders a version of the table `versions` lacks what one recorded before told, in these columns."""
    good = "refused_rule IS NULL AND NOT duplicate AND order_id IS NOT NULL"
    several = f"SELECT order_id FROM versions WHERE {good} GROUP BY order_id HAVING count(*) > 1"
    ranks = " ".join(f"WHEN '{status}' THEN {rank}" for status, rank in STATUS_RANK.items())
    kept = [name for name in MAY_BE_UNKNOWN if name in columns and name not in corrections]
    tests = [(f"{name} IS NULL", f"{name} IS NOT NULL") for name in kept]
    if "status" not in corrections:
        tests += [(f"CASE status {ranks} END < {rank}", f"CASE status {ranks} END >= {rank}") for rank in (1, 2, 3)]
    back = [f"max(updated_at) FILTER ({lacks}) > min(updated_at) FILTER ({told})" for lacks, told in tests]
    query = f"""
        SELECT count(*) FROM (SELECT order_id FROM versions WHERE {good} AND order_id IN ({several}) GROUP BY order_id
        HAVING {" OR ".join(back) or "false"})"""
    return int(connection.execute(query).fetchall()[0][0])


def latest(versions: pl.LazyFrame, corrections: Collection[str] = ()) -> pl.LazyFrame:
    """Each order as these versions tell it.

    Parameters
    ----------
    versions : pl.LazyFrame
        Columns of `LAKE_SCHEMA`, in any order.
    corrections : collection of str, optional
        Columns that a later version may take back.

    Returns
    -------
    pl.LazyFrame
        Columns of `LAKE_SCHEMA`, one row per `order_id`, in no particular order. `updated_at` is the last version's.
        `known_at` is when the last of the row's values became known. `is_asap` is true where no version tells.

    Notes
    -----
    Most orders' last version says all that is known; only the others are folded. An id that has come back for another
    order, long after the first (see `identity`), gives the last of its orders.
    """
    ordered = versions.with_columns(rank=rank(pl.col("status"))).sort("updated_at", "known_at")
    ends = ordered.group_by("order_id").agg(
        pl.col([*LAKE_SCHEMA.keys() - {"order_id"}]).last(),
        forgets=pl.any_horizontal(
            pl.lit(False), *(_forgotten(name) for name in MAY_BE_UNKNOWN if name not in corrections)
        ),
        goes_back=(pl.col("rank").last() < pl.col("rank").max()) & ("status" not in corrections),
        tied=(pl.col("updated_at") == pl.col("updated_at").last()).sum() > 1,
        spread=pl.col("placed_at").max() - pl.col("placed_at").min(),
    )
    needs_fold = pl.any_horizontal("forgets", "goes_back", "tied", pl.col("spread") > SAME_PLACING)
    last_placed = ends.filter(needs_fold).select("order_id", last_placed="placed_at")
    folded = _folded(ordered.join(last_placed, on="order_id"), corrections)
    columns = list(LAKE_SCHEMA)
    rows = pl.concat([ends.filter(~needs_fold).select(columns), folded.select(columns)])
    return rows.with_columns(pl.col("is_asap").fill_null(True))


def rank(status: pl.Expr) -> pl.Expr:
    """How far along a status is."""
    return status.replace_strict(STATUS_RANK, default=None, return_dtype=pl.Int8)


def _forgotten(name: str) -> pl.Expr:
    return pl.col(name).last().is_null() & (pl.col(name).count() > 0)


def _folded(versions: pl.LazyFrame, corrections: Collection[str]) -> pl.LazyFrame:
    own = (pl.col("placed_at") - pl.col("last_placed")).abs() <= SAME_PLACING
    furthest = pl.lit(True) if "status" in corrections else pl.col("rank") == pl.col("rank").max()
    kept = [name for name in FOLDED if name not in corrections]
    known = [pl.col("known_at").filter(pl.col(name).is_not_null()).last().alias(f"{name}_known") for name in kept]
    folded = (
        versions.filter(own)
        .sort(RECORD_ORDER)
        .group_by("order_id")
        .agg(
            *[pl.col(name).drop_nulls().last() if name in kept else pl.col(name).last() for name in FOLDED],
            pl.col("status").filter(furthest).last(),
            pl.col("updated_at", "known_at").last(),
            *known,
            status_known=pl.col("known_at").filter(furthest).last(),
        )
    )
    since = pl.max_horizontal("known_at", "status_known", *(f"{name}_known" for name in kept))
    return folded.with_columns(known_at=since)

"""Running sums: what the events of each key add up to, in one row per key and instant.

The step that costs most, so it exists twice. `by_windows` is an expression, for any engine. `in_one_pass` is for events
that fit into this process, as those of one chunk do: DuckDB evaluates a window function for every row and column anew,
by a tree of partial sums; over rows in order one addition is enough.

Both go from events, the names of the columns to add up, and of those to take the maximum of, to their running values.
Events have a string `key`, an int64 `at`, and int64 columns. The result has the same columns, one row per key and `at`,
each column over all events of the key up to then (a maximum ignores nulls), and `until`, the key's next `at` or null.
"""

from __future__ import annotations

from collections.abc import Sequence

import ibis
import ibis.expr.datatypes as dt
import ibis.expr.types as ir
import polars as pl


def by_windows(events: ir.Table, sums: Sequence[str], maxima: Sequence[str]) -> ir.Table:
    """Running values as an expression."""
    moments = events.group_by("key", "at").agg(
        **{name: as_bigint(events[name].sum()) for name in sums}, **{name: events[name].max() for name in maxima}
    )
    so_far = ibis.cumulative_window(group_by="key", order_by="at")
    return moments.select(
        "key",
        "at",
        until=moments["at"].lead().over(ibis.window(group_by="key", order_by="at")),
        **{name: moments[name].sum().over(so_far) for name in sums},
        **{name: moments[name].max().over(so_far) for name in maxima},
    )


def in_one_pass(events: pl.DataFrame, sums: Sequence[str], maxima: Sequence[str]) -> pl.DataFrame:
    """Running values of a frame that is ordered by `key` and `at`.

    Sums run on from key to key; what they were before a key's first event is taken off. Integers wrap around on both
    ways alike, so that is exact even where all keys together leave 64 bits.
    """
    begins = pl.col("key").ne_missing(pl.col("key").shift(1))
    ends = pl.col("key").ne_missing(pl.col("key").shift(-1))

    def running_sum(name: str) -> pl.Expr:
        total = pl.col(name).cum_sum()
        before = pl.when("begins").then(total - pl.col(name)).forward_fill()
        return (total - before).alias(name)

    marked = events.with_columns(
        begins=begins, number=begins.cum_sum(), next=pl.when(~ends).then(pl.col("at").shift(-1))
    )
    return (
        marked.with_columns(
            *[running_sum(name) for name in sums],
            *[pl.col(name).cum_max().forward_fill().over("number") for name in maxima],
        )
        .filter(pl.col("at").ne_missing(pl.col("next")))
        .select("key", "at", pl.col("next").alias("until"), *sums, *maxima)
    )


@ibis.udf.scalar.builtin  # type: ignore[untyped-decorator]
def as_bigint(whole: dt.int64) -> dt.int64:
    """A cast that Ibis does not leave out: DuckDB's sums have 128 bits, and summing those up again is half as fast."""

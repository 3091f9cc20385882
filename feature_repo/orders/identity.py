"""What makes two versions those of one order: the same id, the same restaurant, the same time of placing.

An `order_id` alone does not: a till that numbers its tickets from 1 every morning uses each id for many orders.
"""

from __future__ import annotations

from datetime import timedelta

import duckdb
import polars as pl

from feature_repo.window import MINUTE

SAME_PLACING = MINUTE
"""Times of placing that differ by no more are one: a source may record them to the second first and to the minute
later. Nobody places the next order under the same id at the same restaurant within it."""
RULE = "order_changed"
ADVICE = "an order keeps both: map an order_id that no two orders share"


def lookback(lateness_horizon: timedelta) -> timedelta:
    """How long before a version the first version of its order may have become known.

    A version is known at most the horizon after its placing, and none before its own; the placings differ by up to
    `SAME_PLACING`.
    """
    return lateness_horizon + SAME_PLACING


def refuse_changed(connection: duckdb.DuckDBPyConnection, row: str) -> None:
    """Refuse, in the table `versions`, versions whose restaurant or time of placing is not that of their order's first.

    The first is, over the whole source, the one that became known first; of several, the one recorded first, then that
    of the first row. Refused and repeated versions take no part.

    Parameters
    ----------
    connection : duckdb.DuckDBPyConnection
        Of the scratch database; see `conversion`.
    row : str
        The column that numbers the source's rows.
    """
    good = "versions.refused_rule IS NULL AND NOT versions.duplicate AND versions.order_id IS NOT NULL"
    away = f"INTERVAL {round(SAME_PLACING.total_seconds())} SECOND"
    connection.execute(f"""
        CREATE TEMP TABLE changed AS SELECT * FROM (
            SELECT {row}, order_id, known_at, updated_at, restaurant_id, placed_at,
                first_value({row}) OVER same AS first_row,
                first_value(restaurant_id) OVER same AS first_restaurant,
                first_value(placed_at) OVER same AS first_placed
            FROM versions WHERE {good} AND order_id IN (
                SELECT order_id FROM versions WHERE {good} GROUP BY order_id
                HAVING min(restaurant_id) <> max(restaurant_id) OR max(placed_at) - min(placed_at) > {away})
            WINDOW same AS (PARTITION BY order_id ORDER BY known_at, updated_at, {row}))
        WHERE restaurant_id <> first_restaurant OR abs(epoch_us(placed_at) - epoch_us(first_placed)) >
            {round(SAME_PLACING.total_seconds() * 1e6)}""")
    connection.execute(f"""
        UPDATE versions SET refused_rule = '{RULE}', refused_reason = concat('order_id "', versions.order_id,
            '": row ', changed.{row}, ' of the source has restaurant_id ', changed.restaurant_id, ' and placed_at ',
            {_utc("changed.placed_at")}, ', its first version (row ', first_row, ') has ', first_restaurant, ' and ',
            {_utc("first_placed")}, '; {ADVICE}')
        FROM changed WHERE versions.{row} = changed.{row} AND versions.updated_at = changed.updated_at
            AND versions.known_at = changed.known_at AND {good}""")
    connection.execute("DROP TABLE changed")


def _utc(time: str) -> str:
    return f"strftime(timezone('UTC', {time}), '%Y-%m-%d %H:%M:%S')"


def several(versions: pl.DataFrame) -> pl.Series:
    """The ids under which more than one order is found: columns `order_id`, `restaurant_id` and `placed_at`."""
    found = versions.group_by("order_id").agg(
        restaurants=pl.col("restaurant_id").n_unique(), placed=pl.col("placed_at").max() - pl.col("placed_at").min()
    )
    return found.filter((pl.col("restaurants") > 1) | (pl.col("placed") > SAME_PLACING))["order_id"]

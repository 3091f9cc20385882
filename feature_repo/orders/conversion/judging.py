"""The last step of a conversion: versions that convert, but cannot be taken as they are, are refused with a rule."""

from __future__ import annotations

from datetime import datetime

from feature_repo.orders.schema import LANDING_SCHEMA, ORDER_SCHEMA
from feature_repo.orders.source import ROW, literal


def first_rule(now: datetime | None, aside: str = "false") -> str:
    """SQL: the first rule that a row of `typed` with `known_at` breaks by itself.

    Parameters
    ----------
    now : datetime, optional
        What is known after it is refused.
    aside : str
        SQL of the versions that lie apart from all others; see `feature_repo.orders.span`.
    """
    late = f"known_at > TIMESTAMPTZ {literal(now.isoformat())}" if now is not None else "false"
    return f"""CASE
        WHEN problem IS NOT NULL THEN problem_rule
        WHEN updated_at IS NULL THEN 'no_time'
        WHEN {late} THEN 'known_in_future'
        WHEN {aside} THEN 'out_of_span' END"""


def judged(now: datetime | None, aside: str) -> str:
    """SQL: the table `typed` with `refused_rule`, `refused_reason` and `duplicate`."""
    content = ", ".join(ORDER_SCHEMA)
    names = ", ".join(LANDING_SCHEMA)
    return f"""
        WITH first AS (
            SELECT *, hash({content}) AS content, {first_rule(now, aside)} AS rule FROM typed
        ), ranked AS (
            SELECT *, row_number() OVER same AS place, first_value(content) OVER same AS first_content,
                   first_value({ROW}) OVER same AS first_row
            FROM first WINDOW same AS (
                PARTITION BY order_id, updated_at, (rule IS NOT NULL OR order_id IS NULL)
                ORDER BY known_at, {ROW}, prefix)
        ), judged AS (
            SELECT *, rule IS NULL AND order_id IS NOT NULL AND place > 1 AS repeated FROM ranked
        )
        SELECT {names}, {ROW}, known_at, repeated AND content = first_content AS duplicate,
            CASE WHEN repeated AND content <> first_content THEN 'duplicate_order_id' ELSE rule END AS refused_rule,
            CASE WHEN refused_rule = problem_rule THEN concat(prefix, problem) ELSE CASE refused_rule
                WHEN 'no_time' THEN concat(prefix, 'the row has no time of its last change (updated_at)')
                WHEN 'known_in_future' THEN concat(prefix, 'known at ', {_moment("known_at")},
                    ', which is in the future')
                WHEN 'out_of_span' THEN concat(prefix, 'known at ', {_moment("known_at")},
                    ', placed at ', {_moment("placed_at")},
                    ': far from all other orders (ALLOW=out-of-span if it is meant)')
                WHEN 'duplicate_order_id' THEN concat(prefix, 'another row (', first_row, ' of the source) has the ',
                    'same order_id and updated_at, but other values') END END AS refused_reason
        FROM judged"""


def _moment(name: str) -> str:
    return f"strftime(timezone('UTC', {name}), '%Y-%m-%d %H:%M:%S UTC')"

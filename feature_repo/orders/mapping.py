"""`make ingest`: bring anybody's orders into the landing folder through a mapping file."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

import duckdb

from config import Settings
from feature_repo.orders import identity
from feature_repo.orders import span as spans
from feature_repo.orders.conversion import convert, count_filtered, judge
from feature_repo.orders.conversion.judging import first_rule
from feature_repo.orders.decisions import Allowed
from feature_repo.orders.fold import count_withdrawn
from feature_repo.orders.landing_files import place_refused, write_days
from feature_repo.orders.mapping_file import Mapping, MappingError, load_mapping
from feature_repo.orders.ownership import Record, landing_lock, require_own_landing, write_record
from feature_repo.orders.report import IngestReport
from feature_repo.orders.source import (
    count_rows,
    hide_password,
    literal,
    load_source,
    reading_notes,
    written_at,
)
from feature_repo.orders.watermark import Watermark, write_watermark
from feature_repo.window import HOUR, MINUTE, as_utc, floor, floor_hour

__all__ = ["IngestReport", "bring_in"]

_MEMORY_LIMIT = "2GB"
"""Of the scratch database; what does not fit goes to its file, beside the landing folder."""
_NOTHING_ALLOWED = Allowed()
_EXAMPLES = 2
"""Reasons that are shown of each rule."""


def bring_in(
    orders: str, mapping: Path, settings: Settings, now: datetime | None = None, allowed: Allowed = _NOTHING_ALLOWED
) -> IngestReport:
    """Convert somebody's orders and put them into the landing folder.

    Parameters
    ----------
    orders : str
        A path or glob of CSV or Parquet files, a SQLAlchemy URL, or a DuckDB file.
    mapping : Path
        The mapping file; docs/orders.md has its reference.
    settings : Settings
    now : datetime, optional
        The present. Versions known after it are refused, and the watermark vouches for nothing of after it; None
        checks nothing.
    allowed : Allowed
        What a person decided, where the orders alone cannot say what is meant.

    Returns
    -------
    IngestReport

    Raises
    ------
    MappingError
        The mapping or the source cannot be used, too large a share of the versions does not convert, or the landing
        folder belongs to another source. Nothing has landed then.

    Notes
    -----
    What does not convert is not dropped: it lands with the reason, and the run of its hour moves it to the quarantine.
    Running the same ingestion again lands nothing new; a killed one is completed by running it again.
    """
    plan, moment = load_mapping(mapping), as_utc(now) if now is not None else None
    with landing_lock(settings), _scratch(settings, plan) as connection:
        earlier, record = require_own_landing(plan, settings)
        load_source(connection, orders, plan.read, plan.time.int96)
        converted = convert(connection, plan, allowed, record.formats)
        _judge(connection, settings, moment, allowed, _landed(earlier, record))
        broken = _add_broken_lines(connection)
        span = _require_enough(connection, plan, orders)
        place_refused(connection, span)
        written = write_days(connection, plan, settings, earlier)
        watermark = _advance(earlier, plan, span, moment, written_at(orders, plan.read))
        record = record.after(converted.formats, allowed.words, written.landed)
        write_record(settings, record)
        write_watermark(settings, watermark)
        return IngestReport(
            mapping=plan.name,
            orders=hide_password(orders),
            rows_read=count_rows(connection) + broken,
            rows_filtered=count_filtered(connection, plan),
            landed=written.landed,
            duplicates=_count(connection, "versions WHERE duplicate"),
            already_landed=_count(connection, "versions WHERE NOT duplicate") - written.landed - written.refused,
            refused=_refused_counts(connection),
            examples=_examples(connection),
            first_known=span[0],
            last_known=span[1],
            complete_until=watermark.complete_until,
            market_clock=_market_clock(plan, settings),
            behind_watermark=written.behind,
            withdrawn=count_withdrawn(connection, plan.corrections, _told(plan)),
            files=[str(path) for path in written.files],
            told=[*reading_notes(connection), *converted.told],
            allowed=record.allowed,
        )


def _market_clock(plan: Mapping, settings: Settings) -> str:
    if settings.market_zone:
        return f"{settings.market_zone} (ETA_MARKET_ZONE)"
    return f"{plan.market_zone} ({'time.market_zone' if plan.time.market_zone else 'time.zone; no time.market_zone'})"


def _told(plan: Mapping) -> set[str]:
    return {*plan.mapped, *(name for version in plan.versions for name in version.unknown)}


def _landed(earlier: Watermark | None, record: Record) -> spans.Landed | None:
    if earlier is None:
        return None
    last = earlier.complete_until - timedelta(microseconds=1)
    return spans.Landed(earlier.started_at.date(), last.date(), record.landed)


def _judge(
    connection: duckdb.DuckDBPyConnection,
    settings: Settings,
    now: datetime | None,
    allowed: Allowed,
    landed: spans.Landed | None,
) -> None:
    """Refuse what cannot be taken, outliers in time among it, and make the table `versions`."""
    if allowed.out_of_span:
        judge(connection, now)
        return
    groups = spans.groups_of(spans.days_of(connection, first_rule(now)), settings.span_gap_days)
    aside = spans.set_aside(groups, landed, settings)
    kept = [group for group in groups if group not in aside]
    spans.require_no_void(kept, landed, settings)
    judge(connection, now, spans.outside(kept, aside, settings.span_gap_days))


@contextmanager
def _scratch(settings: Settings, plan: Mapping) -> Iterator[duckdb.DuckDBPyConnection]:
    """A DuckDB database of its own, on disk so that memory stays bounded, removed at the end."""
    settings.staging.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="ingest-", dir=settings.staging) as directory,
        duckdb.connect(str(Path(directory) / "scratch.duckdb")) as connection,
    ):
        connection.execute(f"SET memory_limit = {literal(_MEMORY_LIMIT)}")
        connection.execute(f"SET TimeZone = {literal(plan.time.zone)}")
        # It takes a repeated part of expressions out of the TRY around it, whose errors then end the whole query.
        connection.execute("SET disabled_optimizers = 'common_subexpressions'")
        yield connection


def _add_broken_lines(connection: duckdb.DuckDBPyConnection) -> int:
    reason = "concat('line ', line, ' of ', file, ' is no row of this CSV file: ', fault)"
    row = "CAST(to_json({'file': file, 'line': line, 'text': text}) AS VARCHAR)"
    connection.execute(
        "INSERT INTO versions (refused_rule, refused_reason, source_row, duplicate) "
        f"SELECT 'unparsable', {reason}, {row}, false FROM broken_lines"
    )
    return _count(connection, "broken_lines")


def _require_enough(connection: duckdb.DuckDBPyConnection, plan: Mapping, orders: str) -> tuple[datetime, datetime]:
    """The span of `known_at` of the versions that converted."""
    total, refused, first, last = connection.execute(
        "SELECT count(*), count(refused_rule), min(known_at) FILTER (refused_rule IS NULL), "
        "max(known_at) FILTER (refused_rule IS NULL) FROM versions"
    ).fetchall()[0]
    if total == 0:
        raise MappingError(f"{hide_password(orders)}: the filters of mapping {plan.name!r} leave no row: check `where`")
    if first is None or refused > plan.quarantine.max_share * total:
        counts = ", ".join(f"{count:,} {rule}" for rule, count in _refused_counts(connection).items())
        raise MappingError(
            f"{refused:,} of {total:,} order versions do not convert ({counts}), more than the share of "
            f"{plan.quarantine.max_share:g} that may go to the quarantine; nothing has landed. For example:\n  "
            + "\n  ".join(_examples(connection))
            + _restarts(connection, plan)
            + "\nCorrect the mapping, or raise quarantine.max_share in it"
        )
    return as_utc(first), as_utc(last)


def _restarts(connection: duckdb.DuckDBPyConnection, plan: Mapping) -> str:
    """What to do about ids that several orders share; nothing when there are none."""
    if identity.RULE not in _refused_counts(connection):
        return ""
    unique = f"concat({plan.columns['order_id']}, ' ', {plan.columns['placed_at']})"
    return f"\nThe numbers seem to restart: make order_id unique in the mapping, for example `order_id: {unique}`"


def _advance(
    earlier: Watermark | None,
    plan: Mapping,
    span: tuple[datetime, datetime],
    now: datetime | None,
    written: datetime | None,
) -> Watermark:
    """The new watermark: the end of the last version's hour, but nothing of after the orders were exported.

    That was before now, and before their files were written; unless a file is older than what it holds, since it was
    copied or unpacked with a time that says nothing.
    """
    first, until = floor_hour(span[0]), floor_hour(span[1]) + HOUR
    if now is not None:
        exported = min(now, written) if written is not None and written >= span[1] else now
        until = min(until, floor(exported, MINUTE))
    if earlier is not None:
        first, until = min(first, earlier.started_at), max(until, earlier.complete_until)
    return Watermark(until, plan.name, first, plan.corrections)


def _count(connection: duckdb.DuckDBPyConnection, what: str) -> int:
    return int(connection.execute(f"SELECT count(*) FROM {what}").fetchall()[0][0])


def _refused_counts(connection: duckdb.DuckDBPyConnection) -> dict[str, int]:
    query = "SELECT refused_rule, count(*) FROM versions WHERE refused_rule IS NOT NULL GROUP BY 1 ORDER BY 2 DESC, 1"
    return {str(rule): int(count) for rule, count in connection.execute(query).fetchall()}


def _examples(connection: duckdb.DuckDBPyConnection) -> list[str]:
    query = f"""
        SELECT refused_reason FROM (SELECT DISTINCT refused_rule, refused_reason FROM versions
                                    WHERE refused_rule IS NOT NULL)
        QUALIFY row_number() OVER (PARTITION BY refused_rule ORDER BY refused_reason) <= {_EXAMPLES}
        ORDER BY refused_rule, refused_reason"""
    return [str(reason) for (reason,) in connection.execute(query).fetchall()]

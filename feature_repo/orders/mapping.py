"""`make ingest`: bring anybody's orders into the landing folder through a mapping file."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import polars as pl

from config import Settings
from feature_repo.lake import TIMESTAMP
from feature_repo.orders import identity
from feature_repo.orders.conversion import convert, count_filtered
from feature_repo.orders.fold import count_withdrawn
from feature_repo.orders.landing import Watermark, read_watermark, write_atomically, write_watermark
from feature_repo.orders.mapping_file import Mapping, MappingError, load_mapping
from feature_repo.orders.schema import LANDING_SCHEMA, REFUSAL_SCHEMA
from feature_repo.orders.source import count_rows, hide_password, literal, load_source, reading_notes
from feature_repo.window import HOUR, as_utc, floor_hour

logger = logging.getLogger(__name__)

_FILE_SCHEMA = {**LANDING_SCHEMA, **REFUSAL_SCHEMA}
_SHOWN_NOTES = 10
_MEMORY_LIMIT = "2GB"
"""Of the scratch database; what does not fit goes to its file, beside the landing folder."""


@dataclass(frozen=True, slots=True)
class IngestReport:
    """What one ingestion did. Counts of versions, unless they say rows.

    Attributes
    ----------
    mapping, orders : str
        Name of the mapping; where the orders came from, without a password.
    rows_read, rows_filtered : int
        Rows of the source; rows that the mapping's `where` left out.
    landed : int
        New versions written to the landing folder, refused ones not included.
    duplicates, already_landed : int
        Identical versions within the source (one of each was kept); versions that an earlier ingestion landed.
    refused : dict of str to int
        Versions that go to the quarantine, by rule.
    examples : list of str
        The first reasons.
    first_known, last_known : datetime
        Span of the versions' `known_at`, UTC.
    complete_until : datetime
        The new watermark.
    behind_watermark : int
        Landed versions that were known before the watermark of an earlier ingestion: hours that may have been run.
    withdrawn : int
        Orders of which a later version lacks what an earlier one told; what was known is kept (see `fold`).
    files : list of str
        Files written.
    notes : list of str
        How files were read, where that had to be decided: titles left out, comments, signs that a file names.
    """

    mapping: str
    orders: str
    rows_read: int
    rows_filtered: int
    landed: int
    duplicates: int
    already_landed: int
    refused: dict[str, int]
    examples: list[str]
    first_known: datetime
    last_known: datetime
    complete_until: datetime
    behind_watermark: int
    withdrawn: int
    files: list[str] = field(repr=False)
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """The report with JSON types."""
        return {key: value.isoformat() if isinstance(value, datetime) else value for key, value in asdict(self).items()}

    def summary(self) -> str:
        """The report for a person to read."""
        lines = [
            f"{self.mapping}: {self.rows_read:,} rows read from {self.orders}",
            f"  landed            {self.landed:,} order versions in {len(self.files)} files",
            f"  known             {self.first_known:%Y-%m-%d %H:%M} to {self.last_known:%Y-%m-%d %H:%M} UTC",
            f"  complete until    {self.complete_until:%Y-%m-%d %H:%M} UTC",
        ]
        counts = {
            "rows filtered": self.rows_filtered,
            "duplicates": self.duplicates,
            "already landed": self.already_landed,
            **{f"refused: {rule}": count for rule, count in self.refused.items()},
        }
        lines += [f"  {name:<17} {count:,}" for name, count in counts.items() if count]
        lines += [f"    for example: {example}" for example in self.examples]
        lines += [f"  note: {note}" for note in self.notes[:_SHOWN_NOTES]]
        if len(self.notes) > _SHOWN_NOTES:
            lines.append(f"  note: and {len(self.notes) - _SHOWN_NOTES} more of this kind")
        if self.withdrawn:
            lines.append(
                f"  {self.withdrawn:,} orders have a later row that lacks what an earlier one told: what was known is "
                "kept; if such rows are corrections, say so with `corrections`"
            )
        if self.behind_watermark:
            lines.append(
                f"  {self.behind_watermark:,} versions lie before the earlier watermark: the next hourly run finds"
                f" those within the lateness horizon; backfill the older ones from {self.first_known:%Y-%m-%d %H:%M}"
            )
        return "\n".join(lines)


def bring_in(orders: str, mapping: Path, settings: Settings, now: datetime | None = None) -> IngestReport:
    """Convert somebody's orders and put them into the landing folder.

    Parameters
    ----------
    orders : str
        A path or glob of CSV or Parquet files, a SQLAlchemy URL, or a DuckDB file.
    mapping : Path
        The mapping file; docs/orders.md has its reference.
    settings : Settings
    now : datetime, optional
        Versions known after this instant are refused; None checks nothing.

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
    plan = load_mapping(mapping)
    with _landing_lock(settings), _scratch(settings, plan) as connection:
        earlier = _require_own_landing(plan, settings)
        load_source(connection, orders, plan.read)
        convert(connection, plan, as_utc(now) if now is not None else None)
        broken = _add_broken_lines(connection)
        span = _require_enough(connection, plan, orders)
        _place_refused(connection, span)
        written = _write_days(connection, plan, settings, earlier)
        watermark = _advance(earlier, plan, span)
        write_atomically(_mapping_record(settings), json.dumps({"name": plan.name, "hash": _plan_hash(plan)}) + "\n")
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
            behind_watermark=written.behind,
            withdrawn=count_withdrawn(connection, plan.corrections, _mapped(plan)),
            files=[str(path) for path in written.files],
            notes=reading_notes(connection),
        )


def _mapped(plan: Mapping) -> set[str]:
    return {*plan.columns, *(name for version in plan.versions for name in (*version.columns, *version.unknown))}


@dataclass(slots=True)
class _Written:
    landed: int = 0
    refused: int = 0
    behind: int = 0
    files: list[Path] = field(default_factory=list)


@contextmanager
def _landing_lock(settings: Settings) -> Iterator[None]:
    settings.landing_orders.mkdir(parents=True, exist_ok=True)
    with (settings.landing_orders / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise MappingError(
                f"another ingestion writes to {settings.landing_orders}: wait until it has ended, and run this again"
            ) from error
        yield


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


def _mapping_record(settings: Settings) -> Path:
    return settings.landing_orders / "_mapping.json"


def _plan_hash(plan: Mapping) -> str:
    """Identifies what the mapping makes of a row; where rows are read from does not matter."""
    meaning = plan.model_dump(mode="json", include={"columns", "time", "where", "versions"})
    meaning |= plan.read.model_dump(include={"decimal", "thousands"}, exclude_defaults=True)
    if plan.corrections:
        meaning["corrections"] = sorted(plan.corrections)
    return hashlib.sha256(json.dumps(meaning, sort_keys=True).encode()).hexdigest()


def _require_own_landing(plan: Mapping, settings: Settings) -> Watermark | None:
    watermark = read_watermark(settings)
    other = f"use another data directory (ETA_DATA_DIR=...), or remove {settings.data_dir} to start anew"
    if watermark is not None and watermark.source != plan.name:
        raise MappingError(
            f"{settings.landing_orders} belongs to the source {watermark.source!r}, orders of {plan.name!r} must not "
            f"be mixed into it: {other}"
        )
    foreign = _foreign_file(plan, settings) if watermark is None else None
    if foreign is not None:
        raise MappingError(
            f"{foreign} lies in the landing folder without a watermark: another source is writing there, or was "
            f"interrupted; {other}"
        )
    record = _mapping_record(settings)
    if record.exists() and json.loads(record.read_text())["hash"] != _plan_hash(plan):
        raise MappingError(
            f"the mapping {plan.name!r} has changed since orders were landed in {settings.landing_orders}; the same "
            f"orders would come in a second time with other values: {other}"
        )
    return watermark


def _foreign_file(plan: Mapping, settings: Settings) -> Path | None:
    """A file that no ingestion with this mapping has written. Those of a killed one are taken for granted."""
    files = sorted(settings.landing_orders.glob("day=*/*.parquet"))
    return next((path for path in files if not path.name.startswith((".", f"{plan.name}-"))), None)


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


def _place_refused(connection: duckdb.DuckDBPyConnection, span: tuple[datetime, datetime]) -> None:
    """Give refused versions a place in time within the span, so that some run takes them to the quarantine.

    Only the id is kept of what did convert: the whole row is in `source_row`.
    """
    emptied = ", ".join(f"{name} = NULL" for name in LANDING_SCHEMA if name not in ("order_id", "arrived_at"))
    events = "coalesce(known_at, greatest(placed_at, accepted_at, picked_up_at, delivered_at, cancelled_at), $last)"
    place = f"least(greatest({events}, $first), $last)"
    connection.execute(
        f"UPDATE versions SET arrived_at = {place}, known_at = {place}, {emptied} WHERE refused_rule IS NOT NULL",
        {"first": span[0], "last": span[1]},
    )


def _write_days(
    connection: duckdb.DuckDBPyConnection, plan: Mapping, settings: Settings, earlier: Watermark | None
) -> _Written:
    connection.execute(
        "CREATE TABLE days AS SELECT *, CAST(timezone('UTC', known_at) AS DATE) AS day FROM versions "
        "WHERE NOT duplicate ORDER BY known_at, order_id, source_row"
    )
    written = _Written()
    for (day,) in connection.execute("SELECT DISTINCT day FROM days ORDER BY day").fetchall():
        folder = settings.landing_orders / f"day={day:%Y-%m-%d}"
        rows = _not_landed_yet(_day_rows(connection, str(day)), folder)
        if rows.is_empty():
            continue
        good = rows.filter(pl.col("refused_rule").is_null())
        known = good.select(pl.max_horizontal("updated_at", "arrived_at")).to_series()
        written.files.append(_write_file(rows, folder, plan.name))
        written.landed += good.height
        written.refused += rows.height - good.height
        written.behind += int((known < earlier.complete_until).sum()) if earlier else 0
    return written


def _day_rows(connection: duckdb.DuckDBPyConnection, day: str) -> pl.DataFrame:
    names = ", ".join(_FILE_SCHEMA)
    frame: pl.DataFrame = connection.sql(f"SELECT {names} FROM days WHERE day = CAST(? AS DATE)", params=[day]).pl()
    times = [name for name, kind in _FILE_SCHEMA.items() if kind == TIMESTAMP]
    return frame.with_columns(pl.col(times).dt.convert_time_zone("UTC")).cast(pl.Schema(_FILE_SCHEMA))


def _not_landed_yet(rows: pl.DataFrame, folder: Path) -> pl.DataFrame:
    files = sorted(path for path in folder.glob("*.parquet") if not path.name.startswith("."))
    if not files:
        return rows
    landed = pl.concat([pl.read_parquet(path, hive_partitioning=False) for path in files], how="diagonal")
    return rows.join(landed, on=list(_FILE_SCHEMA), how="anti", nulls_equal=True, maintain_order="left")


def _write_file(rows: pl.DataFrame, folder: Path, name: str) -> Path:
    content = hashlib.sha256(rows.write_ipc(None, compat_level=pl.CompatLevel.oldest()).getvalue()).hexdigest()
    path = folder / f"{name}-{content[:12]}.parquet"
    folder.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=".ingest-", suffix=".tmp", dir=folder)
    os.close(handle)
    try:
        rows.write_parquet(temporary, compression="zstd", statistics=True)
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)
    return path


def _advance(earlier: Watermark | None, plan: Mapping, span: tuple[datetime, datetime]) -> Watermark:
    first, until = floor_hour(span[0]), floor_hour(span[1]) + HOUR
    if earlier is not None:
        first, until = min(first, earlier.started_at), max(until, earlier.complete_until)
    return Watermark(until, plan.name, first, plan.corrections)


def _count(connection: duckdb.DuckDBPyConnection, what: str) -> int:
    return int(connection.execute(f"SELECT count(*) FROM {what}").fetchall()[0][0])


def _refused_counts(connection: duckdb.DuckDBPyConnection) -> dict[str, int]:
    query = "SELECT refused_rule, count(*) FROM versions WHERE refused_rule IS NOT NULL GROUP BY 1 ORDER BY 2 DESC, 1"
    return {str(rule): int(count) for rule, count in connection.execute(query).fetchall()}


def _examples(connection: duckdb.DuckDBPyConnection) -> list[str]:
    query = "SELECT min(refused_reason) FROM versions WHERE refused_rule IS NOT NULL GROUP BY refused_rule ORDER BY 1"
    return [str(reason) for (reason,) in connection.execute(query).fetchall()]

"""SQL that turns the table `source` into canonical order versions, refusing what does not convert.

Steps, each a table of the scratch database:

* *odd_ids*: what becomes of the texts in id columns that are not plainly ids (`ids`);
* *typed*: each mapped value in its canonical type; what was there and does not convert is named as the row's problem
  (`typed`, with `expressions`, `times`, `clocks`, `formats`, `values`);
* *versions*: what converts, but cannot be taken, is refused too, identical duplicates are marked (`judging`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

import duckdb

from feature_repo.lake import TIMESTAMP
from feature_repo.orders.conversion import clocks, ids, typed
from feature_repo.orders.conversion.expressions import Source, condition, constant_ids, sources_of
from feature_repo.orders.conversion.formats import Decision, Evidence, Pair, decide, weigh
from feature_repo.orders.conversion.judging import judged
from feature_repo.orders.conversion.times import Times
from feature_repo.orders.decisions import Allowed
from feature_repo.orders.mapping_file import Mapping, Version
from feature_repo.orders.schema import ID_COLUMNS, LANDING_SCHEMA
from feature_repo.orders.source import ROW, for_each_part, quoted, source_columns

__all__ = ["Converted", "convert", "count_filtered", "judge"]

_Versions = list[tuple[Version, dict[str, Source]]]


@dataclass(frozen=True, slots=True)
class Converted:
    """What was decided for a whole source.

    Attributes
    ----------
    told : list of str
        Sentences for a person, one for each decision and each kind of value that was put into another form.
    formats : list of pairs of str
        (meant, other) formats, for later ingestions of the source.
    """

    told: list[str] = field(default_factory=list)
    formats: list[Pair] = field(default_factory=list)


def convert(
    connection: duckdb.DuckDBPyConnection, mapping: Mapping, allowed: Allowed, earlier: Sequence[Pair] = ()
) -> Converted:
    """Make the table `typed` from `source`.

    Parameters
    ----------
    connection : duckdb.DuckDBPyConnection
        Its session time zone must be the mapping's.
    mapping : Mapping
    allowed : Allowed
        What a person decided for this ingestion.
    earlier : sequence of pairs of str
        `Converted.formats` of earlier ingestions.

    Raises
    ------
    MappingError
        An expression names an unknown column, is no valid SQL, or has a type that cannot be converted.
    """
    evidence: list[Evidence] = []
    if len(mapping.time.formats) > 1:
        for_each_part(connection, lambda: evidence.extend(_evidence(connection, mapping)))
    decisions = decide(evidence, allowed.formats, earlier)
    times = _times(mapping, allowed, decisions)
    if times.has_odd_hours:
        clocks.note_odd_hours(connection, times.zone)
    constants: dict[str, str] = {}
    for_each_part(connection, lambda: constants.update(_add_typed(connection, mapping, times)))
    marked = typed.count_marks(connection)
    told = [decision.told() for decision in decisions if decision.meant]
    told += [
        *(f"{name} is {value!r} in every row: a constant of the mapping" for name, value in constants.items()),
        *_settle_zone(connection, mapping, marked),
        *_tell_odd_hours(times, marked),
        *_tell_ids(connection, marked),
    ]
    return Converted(told, [decision.kept() for decision in decisions if decision.meant])


def judge(connection: duckdb.DuckDBPyConnection, now: datetime | None, aside: str = "false") -> None:
    """Make the table `versions` from `typed`.

    Its columns are those of `LANDING_SCHEMA`, `known_at`, `refused_rule`, `refused_reason`, `source_row` (JSON, of
    refused versions) and `duplicate` (an identical version came earlier in the source).

    Parameters
    ----------
    now : datetime, optional
        Versions known after it are refused; None checks nothing.
    aside : str
        SQL of the versions that are refused because they lie apart from all others.
    """
    connection.execute(f"CREATE TABLE versions AS {judged(now, aside)}")
    connection.execute("DROP TABLE typed")
    connection.execute("ALTER TABLE versions ADD COLUMN source_row VARCHAR")
    for_each_part(connection, lambda: _add_source_rows(connection))


def count_filtered(connection: duckdb.DuckDBPyConnection, mapping: Mapping) -> int:
    """How many source rows the mapping's `where` leaves out."""
    if mapping.where is None:
        return 0
    counts: list[int] = []
    for_each_part(connection, lambda: counts.append(_count_left_out(connection, str(mapping.where))))
    return sum(counts)


def _count_left_out(connection: duckdb.DuckDBPyConnection, where: str) -> int:
    kept = condition(connection, where, "where")
    return int(connection.execute(f"SELECT count(*) FROM source WHERE NOT {kept}").fetchall()[0][0])


def _versions(connection: duckdb.DuckDBPyConnection, mapping: Mapping) -> _Versions:
    """What the mapping means in the part that `source` shows."""
    return [(version, sources_of(connection, mapping, version)) for version in mapping.versions or [Version(name="")]]


def _add_typed(connection: duckdb.DuckDBPyConnection, mapping: Mapping, times: Times) -> dict[str, str]:
    """Add the versions of the part that `source` shows to the table `typed`; return its constant ids."""
    versions = _versions(connection, mapping)
    odd = ids.note_odd(connection, _ids_of(versions))
    parts = [typed.select(connection, mapping, version, columns, times, odd) for version, columns in versions]
    rows = " UNION ALL BY NAME ".join(parts)
    connection.execute(f"CREATE TABLE IF NOT EXISTS typed AS FROM ({rows}) LIMIT 0")
    connection.execute(f"INSERT INTO typed BY NAME {rows}")
    return {name: value for _, columns in versions for name, value in constant_ids(connection, columns).items()}


def _add_source_rows(connection: duckdb.DuckDBPyConnection) -> None:
    columns = ", ".join(quoted(name) for name in source_columns(connection))
    connection.execute(f"""
        UPDATE versions SET source_row = kept.row_text FROM (
            SELECT {ROW}, CAST(to_json(row_of) AS VARCHAR) AS row_text FROM (
                SELECT {ROW}, struct_pack({columns}) AS row_of FROM source
                WHERE {ROW} IN (SELECT {ROW} FROM versions WHERE refused_rule IS NOT NULL))
        ) AS kept WHERE versions.{ROW} = kept.{ROW} AND refused_rule IS NOT NULL""")


def _evidence(connection: duckdb.DuckDBPyConnection, mapping: Mapping) -> list[Evidence]:
    """How the formats read the times of the part that `source` shows."""
    texts = [
        f"TRY{source.sql}" if source.can_fail else source.sql
        for _, columns in _versions(connection, mapping)
        for name, source in columns.items()
        if LANDING_SCHEMA[name] == TIMESTAMP and source.kind == "VARCHAR"
    ]
    where = "true" if mapping.where is None else condition(connection, mapping.where, "where")
    return weigh(connection, mapping.time.formats, texts, where) if texts else []


def _times(mapping: Mapping, allowed: Allowed, decisions: Sequence[Decision]) -> Times:
    """How times are read, with the format that is meant before any other that reads the same text."""
    formats = list(mapping.time.formats)
    for meant, other in (decision.kept() for decision in decisions if decision.meant):
        if formats.index(meant) > formats.index(other):
            formats.remove(meant)
            formats.insert(formats.index(other), meant)
    return Times(
        zone=mapping.time.zone,
        formats=tuple(formats),
        undecided=tuple(decision.pair for decision in decisions if not decision.meant),
        choices={
            clocks.AMBIGUOUS: allowed.ambiguous or mapping.time.ambiguous,
            clocks.NONEXISTENT: allowed.nonexistent or mapping.time.nonexistent,
        },
    )


def _ids_of(versions: _Versions) -> list[Source]:
    return [source for _, columns in versions for name, source in columns.items() if name in ID_COLUMNS]


def _settle_zone(connection: duckdb.DuckDBPyConnection, mapping: Mapping, marked: dict[str, int]) -> list[str]:
    """Say in which zone naive times are meant; without a zone in the mapping they are refused beside zoned ones."""
    naive, zoned, zone = marked["naive"], marked["zoned"], mapping.time.zone
    if not naive:
        return []
    if "zone" in mapping.time.model_fields_set:
        beside = f"{naive:,} rows have times without a zone beside {zoned:,} with one: taken to be of {zone}"
        return [beside] if zoned else []
    if not zoned:
        return ["no time names its zone, and neither does the mapping: all are taken to be UTC"]
    typed.refuse_naive(connection)
    return []


def _tell_odd_hours(times: Times, marked: dict[str, int]) -> list[str]:
    happens = {clocks.AMBIGUOUS: "have twice", clocks.NONEXISTENT: "skip"}
    clocks_of = f"local times that the clocks of {times.zone}"
    return [
        f"{marked[rule]:,} rows have {clocks_of} {happens[rule]}: taken to be the {choice}"
        for rule, choice in times.choices.items()
        if choice != "refuse" and marked[rule]
    ]


def _tell_ids(connection: duckdb.DuckDBPyConnection, marked: dict[str, int]) -> list[str]:
    changed = [f"{name} in {marked[name]:,} rows" for name in ID_COLUMNS if marked[name]]
    example = ids.changed_example(connection) if changed else ""
    return [f"ids were put into their one form: {', '.join(changed)}{example}"] if changed else []

"""SQL that turns the table `source` into canonical order versions, refusing what does not convert.

Three steps, each a table or a CTE of the scratch database:

* *raw*: each canonical column's expression, and whether it failed on the row (`TRY` keeps the query going);
* *typed*: the raw values in canonical types; what was there and does not convert is named as the row's problem;
* *judged*: rows without any time and conflicting duplicates are refused too, identical duplicates are marked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping as MappingOf
from dataclasses import dataclass
from datetime import datetime

import duckdb
import polars as pl

from feature_repo.lake import TIMESTAMP
from feature_repo.orders.identity import refuse_changed
from feature_repo.orders.mapping_file import UNIX_FORMATS, Mapping, MappingError, SQLValue, Time, Version, suggest
from feature_repo.orders.reading.numbers import number_advice, number_of
from feature_repo.orders.schema import EVENT_TIMES, LANDING_SCHEMA, ORDER_SCHEMA
from feature_repo.orders.source import ROW, for_each_part, literal, quoted, source_columns

_SQL_TYPES = {
    pl.String(): "VARCHAR",
    TIMESTAMP: "TIMESTAMPTZ",
    pl.Boolean(): "BOOLEAN",
    pl.Float64(): "DOUBLE",
    pl.Int64(): "BIGINT",
}
_KINDS = {"TIMESTAMPTZ": "time", "BOOLEAN": "true/false value", "DOUBLE": "number", "BIGINT": "whole number"}
_EARLIEST = "TIMESTAMPTZ '1970-01-01 00:00:00+00'"
"""A time before it is a parsing accident, and as the first of all would start a backfill decades ago."""


@dataclass(frozen=True, slots=True)
class _Source:
    """One canonical column of one version: its SQL over the source, and the type that this has."""

    sql: str
    kind: str
    can_fail: bool
    text: str


def convert(connection: duckdb.DuckDBPyConnection, mapping: Mapping, now: datetime | None) -> None:
    """Make the table `versions` from `source`.

    Its columns are those of `LANDING_SCHEMA`, `known_at`, `refused_rule`, `refused_reason`, `source_row` (JSON, of
    refused versions) and `duplicate` (an identical version came earlier in the source).

    Parameters
    ----------
    connection : duckdb.DuckDBPyConnection
        Its session time zone must be the mapping's.
    mapping : Mapping
    now : datetime, optional
        Versions known after it are refused; None checks nothing.

    Raises
    ------
    MappingError
        An expression names an unknown column, is no valid SQL, or has a type that cannot be converted.
    """
    for_each_part(connection, lambda: _add_typed(connection, mapping))
    connection.execute(f"CREATE TABLE judged AS {_judged(now)}")
    connection.execute("DROP TABLE typed")
    refuse_changed(connection, ROW)
    connection.execute(f"CREATE TABLE refused_rows ({ROW} BIGINT, source_row VARCHAR)")
    for_each_part(connection, lambda: _add_refused_rows(connection))
    connection.execute(f"""
        CREATE TABLE versions AS SELECT judged.* EXCLUDE ({ROW}), source_row
        FROM judged LEFT JOIN refused_rows ON judged.{ROW} = refused_rows.{ROW} AND refused_rule IS NOT NULL""")
    connection.execute("DROP TABLE judged")


def _add_typed(connection: duckdb.DuckDBPyConnection, mapping: Mapping) -> None:
    """Add the versions of the part that `source` shows to the table `typed`."""
    versions = [_typed(connection, mapping, version) for version in mapping.versions or [Version(name="")]]
    rows = " UNION ALL BY NAME ".join(versions)
    connection.execute(f"CREATE TABLE IF NOT EXISTS typed AS FROM ({rows}) LIMIT 0")
    connection.execute(f"INSERT INTO typed BY NAME {rows}")


def _add_refused_rows(connection: duckdb.DuckDBPyConnection) -> None:
    columns = ", ".join(quoted(name) for name in source_columns(connection))
    connection.execute(f"""
        INSERT INTO refused_rows SELECT {ROW}, CAST(to_json(row_of) AS VARCHAR) FROM (
            SELECT {ROW}, struct_pack({columns}) AS row_of FROM source
            WHERE {ROW} IN (SELECT {ROW} FROM judged WHERE refused_rule IS NOT NULL))""")


def count_filtered(connection: duckdb.DuckDBPyConnection, mapping: Mapping) -> int:
    """How many source rows the mapping's `where` leaves out."""
    if mapping.where is None:
        return 0
    counts: list[int] = []
    for_each_part(connection, lambda: counts.append(_count_left_out(connection, str(mapping.where))))
    return sum(counts)


def _count_left_out(connection: duckdb.DuckDBPyConnection, where: str) -> int:
    kept = _condition(connection, where, "where")
    return int(connection.execute(f"SELECT count(*) FROM source WHERE NOT {kept}").fetchall()[0][0])


def _typed(connection: duckdb.DuckDBPyConnection, mapping: Mapping, version: Version) -> str:
    """SQL: one version of each row, typed. In layers, because the engine evaluates what is written twice twice."""
    columns = _sources(connection, mapping, version)
    conditions = [
        _condition(connection, text, place)
        for text, place in ((mapping.where, "where"), (version.where, f"versions.{version.name}.where"))
        if text is not None
    ]
    raw = ", ".join(_raw(name, source) for name, source in columns.items())
    texts = ", ".join(f"nullif(trim(CAST(raw_{name} AS VARCHAR)), '') AS text_{name}" for name in columns)
    parsed = ", ".join(f"{_parsed(name, source, mapping)} AS parsed_{name}" for name, source in columns.items())
    values = ", ".join(f"{_guarded(name)} AS {name}" for name in columns)
    problems = ", ".join(_problem(name, source, mapping) for name, source in columns.items())
    prefix = f"version {version.name}: " if version.name else ""
    return f"""
        SELECT {ROW}, {_complete(values, columns)}, nullif(concat_ws('; ', {problems}), '') AS problem,
               {literal(prefix)} AS prefix
        FROM (SELECT *, {parsed} FROM (SELECT *, {texts} FROM (
            SELECT {ROW}, {raw} FROM source WHERE {" AND ".join(conditions) or "true"})))"""


def _sources(connection: duckdb.DuckDBPyConnection, mapping: Mapping, version: Version) -> dict[str, _Source]:
    chosen: dict[str, SQLValue] = {**mapping.columns, **dict.fromkeys(version.unknown), **version.columns}
    place = f"versions.{version.name}.columns" if version.name else "columns"
    return {
        name: _resolve(connection, value, f"{place if name in version.columns else 'columns'}.{name}")
        for name, value in chosen.items()
    }


def _resolve(connection: duckdb.DuckDBPyConnection, value: SQLValue, place: str) -> _Source:
    if value is None or isinstance(value, bool | int | float):
        sql = "NULL" if value is None else str(value).lower()
        return _Source(sql, "NULL" if value is None else _type_of(connection, sql, place), False, sql)
    folded = {name.casefold(): name for name in source_columns(connection)}
    name = folded.get(value.strip().casefold())
    sql = quoted(name) if name is not None else f"({value}\n)"
    kind = _type_of(connection, sql if name is not None else f"TRY{sql}", place, value)
    return _one_value(_Source(sql, kind, name is None, value.strip()), place)


def _one_value(source: _Source, place: str) -> _Source:
    """The source, if it is one value: bytes are read as text, lists and structures have to be taken apart."""
    if source.kind == "BLOB":
        return _Source(f"(decode({source.sql}))", "VARCHAR", True, source.text)
    if source.kind.endswith("]") or source.kind.startswith(("STRUCT(", "MAP(", "UNION(")):
        raise MappingError(
            f"{place}: {source.text!r} has type {source.kind}, which is more than one value: write an expression that "
            "takes one of them, such as column.field or column[1]"
        )
    return source


def _type_of(connection: duckdb.DuckDBPyConnection, sql: str, place: str, value: str | None = None) -> str:
    query = f"SELECT {sql} AS value, {ROW} FROM source"
    try:
        if len(connection.extract_statements(query)) != 1:
            raise MappingError(f"{place}: {value!r} is more than one expression")
        return str(connection.execute(f"DESCRIBE {query}").fetchall()[0][1])
    except duckdb.Error as error:
        raise MappingError(f"{place}: {_explain(connection, str(error), value or sql)}") from error


def _explain(connection: duckdb.DuckDBPyConnection, error: str, value: str) -> str:
    columns = source_columns(connection)
    unknown = re.search(r'Referenced (?:column|table) "(.+?)" not found', error)
    if unknown:
        name = unknown.group(1)
        return f"the source has no column {name!r}.{suggest(name, columns)} It has {columns}"
    if re.fullmatch(r"[\w .-]+", value) and "Parser Error" in error:
        hint = suggest(value, columns)
        return f"the source has no column {value!r}, and it is no SQL expression.{hint} It has {columns}"
    if any(sign in error for sign in ("window functions", "volatile", "GROUP BY", "aggregates are not allowed")):
        return f"{value!r} must give one value from one row: no aggregates, window functions or random values"
    first = error.strip().splitlines()[0]
    hint = (
        "; columns of a CSV file are text: write TRY_CAST(column AS DOUBLE)" if "No function matches" in error else ""
    )
    return f"{value!r} is no valid SQL expression: {first}{hint}"


def _condition(connection: duckdb.DuckDBPyConnection, text: str, place: str) -> str:
    """A filter as SQL. A row on which it fails is kept: it must not vanish without a word."""
    sql = f"({text}\n)"
    if _type_of(connection, f"TRY{sql}", place, text) not in ("BOOLEAN", "NULL", '"NULL"'):
        raise MappingError(f"{place}: {text!r} is no condition: it must be true or false for a row")
    return f"(coalesce(TRY{sql}, false) OR TRY(({text}\n) IS NULL) IS NULL)"


def _raw(name: str, source: _Source) -> str:
    if not source.can_fail:
        return f"{source.sql} AS raw_{name}, false AS failed_{name}"
    return f"TRY{source.sql} AS raw_{name}, TRY({source.sql} IS NULL) IS NULL AS failed_{name}"


def _parsed(name: str, source: _Source, mapping: Mapping) -> str:
    wanted = _SQL_TYPES[LANDING_SCHEMA[name]]
    if source.kind in ("NULL", '"NULL"'):
        return f"CAST(NULL AS {wanted})"
    if wanted == "VARCHAR":
        return _text(name, source.kind)
    if wanted == "TIMESTAMPTZ":
        return _time(name, source, mapping.time)
    if wanted == "BOOLEAN":
        return f"TRY_CAST({'text' if source.kind == 'VARCHAR' else 'raw'}_{name} AS BOOLEAN)"
    return number_of(f"text_{name}", mapping.read) if _is_text_of_file(source) else f"TRY_CAST(text_{name} AS DOUBLE)"


def _is_text_of_file(source: _Source) -> bool:
    """Whether a value is as the file has it: what an expression makes has SQL's own decimal point."""
    return source.kind == "VARCHAR" and not source.can_fail


def _guarded(name: str) -> str:
    """SQL: the parsed value, null where the type would take what no order has."""
    wanted, value = _SQL_TYPES[LANDING_SCHEMA[name]], f"parsed_{name}"
    if wanted == "TIMESTAMPTZ":
        return f"CASE WHEN isfinite({value}) AND {value} >= {_EARLIEST} THEN {value} END"
    if wanted == "DOUBLE":
        return f"CASE WHEN isfinite({value}) THEN {value} END"
    if wanted == "BIGINT":
        return f"CASE WHEN {value} = trunc({value}) THEN TRY_CAST({value} AS BIGINT) END"
    return value


def _text(name: str, kind: str) -> str:
    value, raw = f"text_{name}", f"raw_{name}"
    if kind in ("DOUBLE", "FLOAT"):
        # Ids that passed through a table with gaps come as 42.0.
        value = f"CASE WHEN {raw} = trunc({raw}) THEN CAST(TRY_CAST({raw} AS HUGEINT) AS VARCHAR) ELSE {value} END"
    return f"lower({value})" if name == "status" else value


def _time(name: str, source: _Source, time: Time) -> str:
    if source.kind.startswith(("TIMESTAMP", "DATE")):
        return f"CAST(raw_{name} AS TIMESTAMPTZ)"
    unix = [form for form in time.formats if form in UNIX_FORMATS]
    text = f"text_{name}"
    if source.kind == "VARCHAR":
        parsed = [_unix(text, form) if form in unix else _parse(text, form) for form in time.formats]
        return f"coalesce({', '.join(parsed)})" if parsed else f"TRY_CAST({text} AS TIMESTAMPTZ)"
    if unix and source.kind in ("BIGINT", "INTEGER", "DOUBLE", "HUGEINT", "UBIGINT", "UINTEGER"):
        return _unix(f"raw_{name}", unix[0])
    raise MappingError(
        f"columns.{name}: {source.text!r} has type {source.kind}, which is no time; if these are seconds or "
        "milliseconds since 1970, add `time: {formats: [unix]}` or `[unix_ms]`"
    )


def _parse(text: str, form: str) -> str:
    return f"CAST(try_strptime({text}, {literal(form)}) AS TIMESTAMPTZ)"


def _unix(value: str, form: str) -> str:
    factor = 1_000_000 if form == "unix" else 1_000
    return f"make_timestamptz(TRY_CAST(round(TRY_CAST({value} AS DOUBLE) * {factor}) AS BIGINT))"


def _problem(name: str, source: _Source, mapping: Mapping) -> str:
    """SQL: what is wrong with a value, null if nothing is."""
    kind = _KINDS.get(_SQL_TYPES[LANDING_SCHEMA[name]], "text")
    formats = mapping.time.formats
    expected = f" in the formats {formats}" if kind == "time" and formats else ""
    advice = number_advice(f"text_{name}", mapping.read) if "number" in kind and _is_text_of_file(source) else "''"
    failure = literal(f"column {name}: the expression {source.text} fails on this row")
    before, after = literal(f'column {name}: "'), literal(f'" is no {kind}{expected}')
    return (
        f"CASE WHEN failed_{name} THEN {failure} "
        f"WHEN text_{name} IS NOT NULL AND {name} IS NULL THEN concat({before}, left(text_{name}, 80), {after}, {advice}) END"
    )


def _complete(values: str, columns: MappingOf[str, _Source]) -> str:
    """The typed columns and the defaults of those that the mapping leaves out."""
    absent = {name: f"CAST(NULL AS {_SQL_TYPES[kind]})" for name, kind in LANDING_SCHEMA.items() if name not in columns}
    times = ", ".join(EVENT_TIMES)
    defaults = {
        "is_asap": "true",
        "updated_at": f"greatest({times})",
        "status": "CASE WHEN cancelled_at IS NOT NULL THEN 'cancelled' WHEN delivered_at IS NOT NULL THEN 'delivered' "
        "WHEN picked_up_at IS NOT NULL THEN 'picked_up' WHEN accepted_at IS NOT NULL THEN 'accepted' ELSE 'placed' END",
    }
    return ", ".join([values, *(f"{defaults.get(name, null)} AS {name}" for name, null in absent.items())])


def _judged(now: datetime | None) -> str:
    late = f"known_at > TIMESTAMPTZ {literal(now.isoformat())}" if now is not None else "false"
    content = ", ".join(ORDER_SCHEMA)
    names = ", ".join(LANDING_SCHEMA)
    return f"""
        WITH known AS (
            SELECT *, greatest(updated_at, arrived_at) AS known_at, hash({content}) AS content FROM typed
        ), first AS (
            SELECT *, CASE
                WHEN problem IS NOT NULL THEN 'unparsable'
                WHEN updated_at IS NULL THEN 'no_time'
                WHEN {late} THEN 'known_in_future' END AS rule
            FROM known
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
            CASE refused_rule
                WHEN 'unparsable' THEN concat(prefix, problem)
                WHEN 'no_time' THEN concat(prefix, 'the row has no time of its last change (updated_at)')
                WHEN 'known_in_future' THEN concat(prefix, 'known at ',
                    strftime(timezone('UTC', known_at), '%Y-%m-%d %H:%M:%S'), ' UTC, which is in the future')
                WHEN 'duplicate_order_id' THEN concat(prefix, 'another row (', first_row, ' of the source) has the ',
                    'same order_id and updated_at, but other values') END AS refused_reason
        FROM judged"""

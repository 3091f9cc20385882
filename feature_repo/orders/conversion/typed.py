"""SQL of one version of each source row, typed. In layers, because the engine evaluates what is written twice twice."""

from __future__ import annotations

from collections.abc import Mapping as MappingOf
from collections.abc import Sequence

import duckdb
import polars as pl

from feature_repo.lake import TIMESTAMP
from feature_repo.orders.conversion import clocks, ids, times, values
from feature_repo.orders.conversion.expressions import Source, condition
from feature_repo.orders.conversion.times import Times
from feature_repo.orders.mapping_file import Mapping, Read, Version
from feature_repo.orders.reading.numbers import number_advice
from feature_repo.orders.schema import EVENT_TIMES, ID_COLUMNS, LANDING_SCHEMA
from feature_repo.orders.source import ROW, literal

MARKS = ("naive", "zoned", clocks.AMBIGUOUS, clocks.NONEXISTENT, *ID_COLUMNS)
"""What is counted of the rows, a bit of the column `marks` for each: some time is naive, some is not, some lies in an
odd hour, the id was put into another form."""
NO_ZONE = "no_time_zone"
_SQL_TYPES = {
    pl.String(): "VARCHAR",
    TIMESTAMP: "TIMESTAMPTZ",
    pl.Boolean(): "BOOLEAN",
    pl.Float64(): "DOUBLE",
    pl.Int64(): "BIGINT",
}
_KINDS = {"BOOLEAN": "true/false value", "DOUBLE": "number", "BIGINT": "whole number", "VARCHAR": "text"}
_Columns = MappingOf[str, Source]


def select(
    connection: duckdb.DuckDBPyConnection,
    mapping: Mapping,
    version: Version,
    columns: _Columns,
    rules: Times,
    odd: Sequence[str],
) -> str:
    """SQL: the version's rows with the columns of `LANDING_SCHEMA`, `known_at`, `problem`, `problem_rule`, `marks`."""
    prefix = f"version {version.name}: " if version.name else ""
    raw = ", ".join(_raw(name, source) for name, source in columns.items())
    rows = f"SELECT {ROW}, {raw} FROM source WHERE {_conditions(connection, mapping, version)}"
    rows = _layer(rows, {f"text_{name}": f"nullif(trim(CAST(raw_{name} AS VARCHAR)), '')" for name in columns})
    rows = _layer(rows, _ids(columns, odd), ids.joins(columns.items(), odd))
    for layer, joins in _times(columns, rules):
        rows = _layer(rows, layer, joins)
    rows = _layer(rows, _values(columns, mapping.read))
    rows = _layer(rows, {name: _guarded(name) for name in columns})
    rows = f"SELECT {ROW}, {_complete(columns)}, {_judgement(columns, rules, mapping.read)} FROM ({rows})"
    return f"SELECT *, greatest(updated_at, arrived_at) AS known_at, {literal(prefix)} AS prefix FROM ({rows})"


def count_marks(connection: duckdb.DuckDBPyConnection) -> dict[str, int]:
    """How many rows of `typed` that are not refused have each of `MARKS`."""
    counts = ", ".join(f"count(*) FILTER (marks & {1 << bit} > 0)" for bit in range(len(MARKS)))
    found = connection.execute(f"SELECT {counts} FROM typed WHERE problem IS NULL").fetchall()[0]
    return dict(zip(MARKS, found, strict=True))


def refuse_naive(connection: duckdb.DuckDBPyConnection) -> None:
    """Refuse the rows of `typed` that have a time without a zone."""
    reason = (
        "a time of this row names no zone, others of the source do, and the mapping does not say which zone is meant: "
        "add `time: {zone: ...}`, UTC or another"
    )
    connection.execute(
        "UPDATE typed SET problem_rule = ?, problem = ? WHERE problem IS NULL AND marks & 1 > 0", [NO_ZONE, reason]
    )


def _layer(rows: str, columns: MappingOf[str, str], joins: str = "") -> str:
    added = "".join(f", {sql} AS {name}" for name, sql in columns.items())
    return f"SELECT below.*{added} FROM ({rows}) AS below{joins}" if added else rows


def _conditions(connection: duckdb.DuckDBPyConnection, mapping: Mapping, version: Version) -> str:
    given = ((mapping.where, "where"), (version.where, f"versions.{version.name}.where"))
    return " AND ".join(condition(connection, text, place) for text, place in given if text is not None) or "true"


def _raw(name: str, source: Source) -> str:
    if not source.can_fail:
        return f"{source.sql} AS raw_{name}, false AS failed_{name}"
    return f"TRY{source.sql} AS raw_{name}, TRY({source.sql} IS NULL) IS NULL AS failed_{name}"


def _ids(columns: _Columns, odd: Sequence[str]) -> dict[str, str]:
    found = {name: source for name, source in columns.items() if name in ID_COLUMNS and not source.is_null}
    layer = {f"parsed_{name}": ids.parsed(name, source, odd) for name, source in found.items()}
    return layer | {f"fault_{name}": ids.fault(name, source, odd) for name, source in found.items()}


def _times(columns: _Columns, rules: Times) -> list[tuple[dict[str, str], str]]:
    """The layers that make instants, each with what it needs joined."""
    found = {name: source for name, source in columns.items() if _type(name) == "TIMESTAMPTZ" and not source.is_null}
    units = {name: times.is_number_of_units(name, source, rules) for name, source in found.items()}
    local = {f"local_{name}": times.local(name, source, rules) for name, source in found.items()}
    odd = list(found) if rules.has_odd_hours else []
    hours = {f"hour_{name}": clocks.rule_of(name) for name in odd}
    hours |= {f"width_{name}": clocks.width_of(name) for name in odd}
    parsed = {f"parsed_{name}": times.instant(name, source, rules, units[name]) for name, source in found.items()}
    return [(local, ""), (hours, clocks.joins(odd)), (parsed, "")]


def _values(columns: _Columns, read: Read) -> dict[str, str]:
    """What is neither an id nor a time, and what is null throughout."""
    layer = {}
    for name, source in columns.items():
        if source.is_null:
            layer[f"parsed_{name}"] = f"CAST(NULL AS {_type(name)})"
        elif name not in ID_COLUMNS and _type(name) != "TIMESTAMPTZ":
            layer[f"parsed_{name}"] = _value(name, source, read)
    return layer


def _value(name: str, source: Source, read: Read) -> str:
    if _type(name) == "VARCHAR":
        return f"lower(text_{name})"
    return values.truth(name, source) if _type(name) == "BOOLEAN" else values.number(name, source, read)


def _guarded(name: str) -> str:
    """SQL: the parsed value, null where the type would take what no order has."""
    wanted, value = _type(name), f"parsed_{name}"
    if wanted == "TIMESTAMPTZ":
        return f"CASE WHEN {times.is_possible(value)} THEN {value} END"
    if wanted == "DOUBLE":
        return f"CASE WHEN isfinite({value}) THEN {value} END"
    if wanted == "BIGINT":
        return f"CASE WHEN {value} = trunc({value}) THEN TRY_CAST({value} AS BIGINT) END"
    return value


def _judgement(columns: _Columns, rules: Times, read: Read) -> str:
    """SQL: `problem`, `problem_rule` and `marks` of a row."""
    found = {name: source for name, source in columns.items() if source.can_fail or not source.is_null}
    problems = ", ".join(_problem(name, source, rules, read) for name, source in found.items())
    broken = ", ".join(_broken(name, source, rules) for name, source in found.items())
    marks = [f"CASE WHEN {sql} THEN {1 << MARKS.index(mark)} ELSE 0 END" for mark, sql in _marked(columns, rules)]
    return (
        f"nullif(concat_ws('; ', {problems}), '') AS problem, coalesce({broken}, NULL) AS problem_rule, "
        f"{' + '.join(marks) or '0'} AS marks"
    )


def _broken(name: str, source: Source, rules: Times) -> str:
    return f"CASE WHEN {_fails(name)} THEN {_rule(name, source, rules)} END"


def _fails(name: str) -> str:
    blank = f" AND fault_{name} IS NOT NULL" if name in ID_COLUMNS else ""
    return f"failed_{name} OR (text_{name} IS NOT NULL AND {name} IS NULL{blank})"


def _rule(name: str, source: Source, rules: Times) -> str:
    if name in ID_COLUMNS:
        return f"CASE WHEN failed_{name} THEN 'unparsable' ELSE '{ids.RULE}' END"
    if _type(name) == "TIMESTAMPTZ":
        return f"CASE WHEN failed_{name} THEN 'unparsable' ELSE {times.rule(name, source, rules)} END"
    return "'unparsable'"


def _problem(name: str, source: Source, rules: Times, read: Read) -> str:
    """SQL: what is wrong with a value, null if nothing is."""
    failure = literal(f"column {name}: the expression {source.text} fails on this row")
    before, after = literal(f'column {name}: "'), _reason(name, source, rules, read)
    value = f"concat({before}, left(text_{name}, 80), '\"', {after})"
    return f"CASE WHEN failed_{name} THEN {failure} WHEN {_fails(name)} THEN {value} END"


def _reason(name: str, source: Source, rules: Times, read: Read) -> str:
    if name in ID_COLUMNS:
        return f"concat(' ', fault_{name})"
    if _type(name) == "TIMESTAMPTZ":
        return times.reason(name, source, rules)
    plain = literal(f" is no {_KINDS[_type(name)]}")
    is_number = _type(name) in ("DOUBLE", "BIGINT") and values.is_text_of_file(source)
    return f"concat({plain}, {number_advice(f'text_{name}', read)})" if is_number else plain


def _marked(columns: _Columns, rules: Times) -> list[tuple[str, str]]:
    """The marks that a row may have, with the SQL of whether it has them."""
    instants = [name for name, source in columns.items() if _type(name) == "TIMESTAMPTZ" and not source.is_null]
    marks = {
        "naive": [f"local_{name} IS NOT NULL" for name in instants],
        "zoned": [f"local_{name} IS NULL AND {name} IS NOT NULL" for name in instants],
    }
    if rules.has_odd_hours:
        for rule in rules.choices:
            marks[rule] = [f"coalesce(hour_{name} = '{rule}', false)" for name in instants]
    for name in ID_COLUMNS:
        if name in columns and not columns[name].is_null:
            marks[name] = [ids.changed(name, columns[name])]
    return [(mark, " OR ".join(conditions)) for mark, conditions in marks.items() if conditions]


def _complete(columns: _Columns) -> str:
    """The typed columns and the defaults of those that the mapping leaves out."""
    absent = {name: f"CAST(NULL AS {_type(name)})" for name in LANDING_SCHEMA if name not in columns}
    stages = ", ".join(EVENT_TIMES)
    defaults = {
        "is_asap": "true",
        "updated_at": f"greatest({stages})",
        "status": "CASE WHEN cancelled_at IS NOT NULL THEN 'cancelled' WHEN delivered_at IS NOT NULL THEN 'delivered' "
        "WHEN picked_up_at IS NOT NULL THEN 'picked_up' WHEN accepted_at IS NOT NULL THEN 'accepted' ELSE 'placed' END",
    }
    return ", ".join([*columns, *(f"{defaults.get(name, null)} AS {name}" for name, null in absent.items())])


def _type(name: str) -> str:
    return _SQL_TYPES[LANDING_SCHEMA[name]]

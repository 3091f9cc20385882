"""A mapping file to start from, in which what is only guessed is marked, and nothing is guessed silently."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations

import duckdb

from feature_repo.orders.mapping_file import REQUIRED_IN_MAPPING, Read
from feature_repo.orders.reading.sql import literal, quoted
from feature_repo.orders.schema import LANDING_SCHEMA, STAGE_TIMES
from stack.profile.columns import Column
from stack.profile.roles import Guess, assign

_UNKNOWN_WHEN_PLACED = ("driver_id", "accepted_at", "picked_up_at", "delivered_at", "cancelled_at")
_MILE, _METRE = 1.609344, 0.001
_ORDERLY = 0.95


@dataclass(slots=True)
class Proposal:
    """A mapping, as far as an export tells it.

    Attributes
    ----------
    name : str
    read : Read
    nulls : list of str
    guesses : list of Guess
    columns : dict of str to str
        Canonical column -> source column or expression.
    formats : list of str
    versions : bool
        Whether a row is an order's final state, which stands for two versions.
    questions : list of str
        What a person has to decide.
    """

    name: str
    read: Read
    nulls: list[str]
    guesses: list[Guess]
    columns: dict[str, str] = field(default_factory=dict)
    formats: list[str] = field(default_factory=list)
    versions: bool = False
    questions: list[str] = field(default_factory=list)

    @property
    def is_complete(self) -> bool:
        """Whether it can be tried."""
        return all(name in self.columns for name in REQUIRED_IN_MAPPING)


def propose(
    connection: duckdb.DuckDBPyConnection, name: str, read: Read, nulls: list[str], columns: Sequence[Column]
) -> Proposal:
    """Make a mapping of what the columns, of which `look` has left the sample in the database, seem to be."""
    found = assign(columns)
    made = Proposal(name, read, nulls, [*found])
    by_role = {guess.role: guess.column for guess in found}
    for guess in found:
        made.columns[guess.role] = _expression(guess, made, by_role)
    made.columns = {role: text for role, text in made.columns.items() if text}
    if read.encoding != "utf-8":
        made.questions.append(f"read.encoding: the text is not UTF-8; {read.encoding} is a guess, look at its accents")
    _ask_for_what_is_missing(made, columns)
    _ask_for_formats(made, [guess.column for guess in found if guess.column.is_time])
    _ask_for_the_zone(made, [guess.column for guess in found if guess.role in STAGE_TIMES])
    _ask_for_versions(made, by_role)
    _ask_for_the_course(connection, made, by_role)
    return made


def render(made: Proposal, columns: Sequence[Column]) -> str:
    """The mapping as YAML, with what is unsure as comments beside it."""
    sure = {guess.role: guess for guess in made.guesses}
    lines = [f"name: {made.name}", "read:", f"  format: {made.read.format}"]
    if made.read.format == "csv":
        lines += [f"  encoding: {made.read.encoding}"] * (made.read.encoding != "utf-8")
        lines += [f"  null_values: {json.dumps(made.nulls)}"] * (made.nulls != [""])
        lines += ['  decimal: ","'] * any(guess.column.decimal_comma for guess in made.guesses)
    if made.read.table:
        lines.append(f"  table: {_yaml(made.read.table)}")
    lines.append("columns:")
    for role in (role for role in LANDING_SCHEMA if role in made.columns):
        marked = "" if role not in sure or sure[role].confidence == "sure" else "  # likely; check it"
        lines.append(f"  {role}: {_yaml(made.columns[role])}{marked}")
    lines += [f"  # {role}: ?" for role in REQUIRED_IN_MAPPING if role not in made.columns]
    lines += ["time:", "  zone: UTC", "  # market_zone: ?"]
    lines += [f"  formats: {json.dumps(made.formats)}"] * bool(made.formats)
    if made.versions:
        hidden = [name for name in _UNKNOWN_WHEN_PLACED if name in made.columns]
        placed = _yaml(made.columns["placed_at"])
        lines += ["versions:", "  - name: placed", f"    unknown: [{', '.join(hidden)}]"]
        lines += ["    columns:", """      status: "'placed'\"""", f"      updated_at: {placed}", "  - name: ended"]
    used = {guess.column.name for guess in made.guesses}
    rest = [column for column in columns if column.name not in used]
    lines += ["# Columns that are not used:"] * bool(rest)
    lines += [f"#   {' '.join(column.name.split())}: {_what(column)}" for column in rest]
    return "\n".join(lines)


def _expression(guess: Guess, made: Proposal, by_role: dict[str, Column]) -> str:
    column, name = guess.column, guess.column.name
    number = f"CAST({quoted(name)} AS DOUBLE)"
    match guess.role:
        case "distance_km":
            unit = _unit(name, {"km": 1.0, "kilomet": 1.0, "mile": _MILE, "mi": _MILE, "m": _METRE, "met": _METRE})
            if unit is None:
                unit = _METRE if (column.median or 0) > 100 else 1.0
                made.questions.append(
                    f"distance_km: {name} names no unit (median {column.median:g}); it is taken for "
                    f"{'metres' if unit == _METRE else 'kilometres'}"
                )
            return name if unit == 1.0 else f"{number} * {unit:g}"
        case "order_value":
            cents = re.search(r"cent|pence|minor", name.casefold()) is not None
            if not cents and column.whole and (column.median or 0) >= 500:
                made.questions.append(
                    f"order_value: {name} has whole numbers around {column.median:,.0f}: if these are cents, write "
                    f"{number} / 100"
                )
            return f"{number} / 100" if cents else name
        case "promised_minutes":
            return _promised(column, made, by_role)
    return name


def _promised(column: Column, made: Proposal, by_role: dict[str, Column]) -> str:
    if column.is_number and not column.is_time:
        unit = _unit(column.name, {"min": 1.0, "sec": 1 / 60, "hour": 60.0, "duration": 0.0})
        if unit is None or unit == 0.0:
            unit = 1 / 60 if (column.median or 0) > 240 else 1.0
            made.questions.append(
                f"promised_minutes: {column.name} names no unit (median {column.median:g}); it is taken for "
                f"{'seconds' if unit != 1.0 else 'minutes'} from placing to delivery"
            )
        return column.name if unit == 1.0 else f"CAST({quoted(column.name)} AS DOUBLE) * {unit:.10g}"
    made.questions.append(
        f"promised_minutes: {column.name} is an instant: write the minutes between placing and it, for example "
        f"date_diff('second', placed, {quoted(column.name)}) / 60.0 of both as times"
    )
    return ""


def _unit(name: str, units: dict[str, float]) -> float | None:
    words = re.split(r"[^a-z]+", name.casefold())
    return next((factor for unit, factor in units.items() if any(word.startswith(unit) for word in words[1:])), None)


def _ask_for_what_is_missing(made: Proposal, columns: Sequence[Column]) -> None:
    if "order_id" not in made.columns:
        made.columns["order_id"] = "row_number"
        made.questions.append(
            "order_id: no column seems to be it, so the row's number stands in: then each row is an order of its own, "
            "and the file must not be reordered between two ingestions"
        )
    made.questions += [
        f"{name}: no column seems to be it; every order needs one"
        for name in REQUIRED_IN_MAPPING
        if name not in made.columns
    ]
    undated = [column.name for column in columns if column.undated]
    if undated and not {"placed_at", "delivered_at"} <= set(made.columns):
        made.questions.append(
            f"{undated} seem to be times without a whole date: make instants of them with expressions, as "
            "examples/delivery_case_study.yaml does"
        )
    if "delivered_at" not in made.columns:
        made.questions.append("delivered_at: no column seems to be it; without it no delivery time can be learnt")


def _ask_for_formats(made: Proposal, columns: Sequence[Column]) -> None:
    read = [form for column in columns for form in column.formats if form not in ("iso", "typed")]
    shared = dict.fromkeys(read)
    for column in columns:
        own = [form for form in column.formats if form in shared]
        for first, second in combinations(own, 2):
            if _swapped(first, second):
                made.questions.append(
                    f"time.formats: {column.name}, such as {column.examples[0]!r}, fits {first!r} and {second!r} in "
                    "all rows of the sample: leave the one that is meant"
                )
    if read and any("iso" in column.formats for column in columns):
        made.questions.append("time.formats: some columns of times are ISO 8601 and some are not: write expressions")
    made.formats = [*shared]


def _swapped(first: str, second: str) -> bool:
    return first != second and first.replace("%d", "%?").replace("%m", "%d").replace("%?", "%m") == second


def _ask_for_the_zone(made: Proposal, columns: Sequence[Column]) -> None:
    naive = [column.name for column in columns if column.is_time and not column.zoned]
    if naive:
        made.questions.append(
            f"time.zone: {naive} name no zone; UTC is a guess, write the one of the clock they are of"
        )
    made.questions.append(
        "time.market_zone: by which clock do people order, as 'Europe/Paris'? Peak hours and weekdays are named by it; "
        "without it, time.zone is taken"
    )


def _ask_for_versions(made: Proposal, by_role: dict[str, Column]) -> None:
    order = by_role.get("order_id")
    if order is not None and not order.unique:
        made.questions.append(
            f"{order.name} comes in several rows: each is a version of its order if updated_at says when it was "
            "recorded; if a row is an item of an order, aggregate first"
        )
    elif {"placed_at", "delivered_at"} <= set(made.columns):
        made.versions = "updated_at" not in made.columns
        if made.versions:
            made.questions.append(
                "versions: a row seems to be an order's final state; it stands for the order as placed, and as it ended"
            )


def _ask_for_the_course(connection: duckdb.DuckDBPyConnection, made: Proposal, by_role: dict[str, Column]) -> None:
    """Stage times that are not in their order in most rows are mapped the wrong way round, or are no stages."""
    stages = [(name, by_role[name]) for name in STAGE_TIMES if name in by_role]
    for (before, first), (after, second) in combinations(stages, 2):
        both = [_instant(column) for column in (first, second)]
        known, orderly = connection.execute(
            f"SELECT count(*) FILTER ({both[0]} IS NOT NULL AND {both[1]} IS NOT NULL), "
            f"count(*) FILTER ({both[0]} <= {both[1]}) FROM looked_at"
        ).fetchall()[0]
        if known and orderly < _ORDERLY * known:
            made.questions.append(
                f"{before}, {after}: {first.name} is after {second.name} in {known - orderly:,} of {known:,} rows of "
                "the sample: are they what they seem to be?"
            )


def _instant(column: Column) -> str:
    name = quoted(column.name)
    form = column.formats[0]
    if form in ("iso", "typed"):
        return f"TRY_CAST({name} AS TIMESTAMP)"
    if "%" not in form:
        return f"TRY_CAST({name} AS DOUBLE)"
    return f"try_strptime(trim({name}), {literal(form)})"


def _yaml(text: str) -> str:
    plain = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*(?: [A-Za-z0-9_]+)*", text)
    return text if plain and text.casefold() not in ("true", "false", "null") else json.dumps(text, ensure_ascii=False)


def _what(column: Column) -> str:
    if not column.examples:
        return "empty"
    shown = " ".join(", ".join(column.examples).split())[:60]
    return f"{column.distinct:,} values such as {shown}" + f"; {column.null_share:.0%} empty" * (column.null_share > 0)

"""Ids in SQL: what `feature_repo.ids.read_id` makes of them, asked only for texts that are not plainly ids."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import duckdb
import pyarrow as pa

from feature_repo import ids
from feature_repo.ids import NoId, read_id
from feature_repo.orders.conversion.expressions import Source
from feature_repo.orders.schema import ID_COLUMNS
from feature_repo.orders.source import literal

TABLE = "odd_ids"
"""`text`, as it is after `trim`; `id`, null where it is none; `fault`, null where it is one or is blank."""
RULE = "bad_id"
_FLOATS = ("DOUBLE", "FLOAT")
_FLOAT_LIMITS = {"DOUBLE": ids.LARGEST_EXACT, "FLOAT": ids.SINGLE_EXACT}
_FETCH_ROWS = 50_000


def note_odd(connection: duckdb.DuckDBPyConnection, columns: Iterable[Source]) -> list[str]:
    """Add to the table `odd_ids` the texts in these columns that are not plainly ids.

    Returns
    -------
    list of str
        The SQL of the columns that have some: only they need the table.
    """
    connection.execute(f"CREATE TABLE IF NOT EXISTS {TABLE} (text VARCHAR, id VARCHAR, fault VARCHAR)")
    texts = {source.sql: source for source in columns if not source.is_null and _is_text(source)}
    return [sql for sql, source in texts.items() if _note_column(connection, source)]


def joins(columns: Iterable[tuple[str, Source]], odd: Sequence[str]) -> str:
    """SQL: what to join to rows with `text_<name>`, so that `parsed` and `fault` can be asked."""
    return "".join(
        f" LEFT JOIN {TABLE} AS odd_{name} ON odd_{name}.text = text_{name}"
        for name, source in columns
        if name in ID_COLUMNS and source.sql in odd
    )


def parsed(name: str, source: Source, odd: Sequence[str]) -> str:
    """SQL: the id, null if it is none."""
    if source.kind in _FLOATS or source.kind.startswith("DECIMAL"):
        return f"CASE WHEN {_float_fault(name, source)} IS NULL THEN CAST(CAST(raw_{name} AS HUGEINT) AS VARCHAR) END"
    if source.sql in odd:
        return f"CASE WHEN odd_{name}.text IS NULL THEN text_{name} ELSE odd_{name}.id END"
    return f"text_{name}"


def fault(name: str, source: Source, odd: Sequence[str]) -> str:
    """SQL: why it is none, null if it is one or is blank."""
    if source.kind in _FLOATS or source.kind.startswith("DECIMAL"):
        return _float_fault(name, source)
    return f"odd_{name}.fault" if source.sql in odd else "NULL"


def changed(name: str, source: Source) -> str:
    """SQL: whether the id is not what was written."""
    return f"coalesce({name} <> {'raw' if source.kind == 'VARCHAR' else 'text'}_{name}, false)"


def changed_example(connection: duckdb.DuckDBPyConnection) -> str:
    """A text that was put into its one form, in words; empty if none was."""
    query = f"SELECT text, id FROM {TABLE} WHERE id <> text ORDER BY text LIMIT 1"
    found = connection.execute(query).fetchall()
    return f", for example {found[0][0]!a} is {found[0][1]!r}" if found else ""


def _is_text(source: Source) -> bool:
    return source.kind == "VARCHAR" or source.kind.startswith("ENUM")


def _float_fault(name: str, source: Source) -> str:
    value, limit = f"raw_{name}", _FLOAT_LIMITS.get(source.kind)
    finite = f"WHEN NOT isfinite({value}) THEN {literal(ids.NOT_FINITE)} " if limit else ""
    large = f"WHEN abs({value}) > {limit} THEN {literal(ids.TOO_LARGE)} " if limit else ""
    return f"CASE {finite}WHEN {value} <> trunc({value}) THEN {literal(ids.FRACTION)} {large}END"


def _note_column(connection: duckdb.DuckDBPyConnection, source: Source) -> bool:
    words = ", ".join(literal(word) for word in sorted(ids.NOT_IDS))
    value = f"TRY{source.sql}" if source.can_fail else source.sql
    query = f"""
        SELECT DISTINCT text FROM (SELECT trim(CAST({value} AS VARCHAR)) AS text FROM source)
        WHERE text <> '' AND (NOT regexp_full_match(text, {literal(ids.PLAIN_PATTERN)}) OR text IN ({words}))"""
    texts = [row[0] for row in connection.execute(query).fetchall()]
    for start in range(0, len(texts), _FETCH_ROWS):
        connection.register("some_odd", _read(texts[start : start + _FETCH_ROWS]))
        connection.execute(f"INSERT INTO {TABLE} FROM some_odd WHERE text NOT IN (SELECT text FROM {TABLE})")
        connection.unregister("some_odd")
    return bool(texts)


def _read(texts: Sequence[str]) -> pa.Table:
    read = [_id_and_fault(text) for text in texts]
    columns = {"text": texts, "id": [found for found, _ in read], "fault": [reason for _, reason in read]}
    return pa.table(columns, schema=pa.schema([(name, pa.string()) for name in columns]))


def _id_and_fault(text: str) -> tuple[str | None, str | None]:
    try:
        return read_id(text), None
    except NoId as error:
        return None, None if str(error) == ids.BLANK else str(error)

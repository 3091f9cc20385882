"""What the columns of an export hold, each by itself: found by trying, on a sample of its rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import duckdb

from feature_repo.orders.mapping_file import UNIX_FORMATS
from feature_repo.orders.reading.sql import literal, quoted
from feature_repo.orders.source import source_columns

SAMPLE_ROWS = 50_000
FITS = 0.98
"""A column is of a kind that at least this share of its values is of, or all but one: the others are dirt."""
_EXAMPLES = 3
ROW_NUMBER = "row_number"
"""The column that `load_source` adds."""

_DAYS = ("%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%m-%d-%Y", "%Y/%m/%d", "%Y%m%d", "%d %b %Y", "%b %d, %Y")
_CLOCKS = ("%H:%M:%S", "%H:%M", "%H:%M:%S.%f", "%I:%M %p", "%I:%M:%S %p")
FORMATS = (*(f"{day} {clock}" for day in _DAYS for clock in _CLOCKS), *UNIX_FORMATS)
ISO = r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?\s*(?:[zZ]|UTC|GMT|[+-]\d\d(?::?\d\d)?)?"
_TRUTH = ("true", "false", "yes", "no", "0", "1", "t", "f", "y", "n")


@dataclass(frozen=True, slots=True)
class Column:
    """A column of an export.

    Attributes
    ----------
    name, kind : str
        `kind` is its SQL type; VARCHAR in CSV files.
    null_share : float
    distinct : int
        In the sample.
    unique : bool
        Whether no value of the sample comes twice.
    examples : tuple of str
    formats : tuple of str
        Time formats that fit its values; `iso` for ISO 8601, `typed` for a column of times.
    zoned : bool
        Whether its times name their zone.
    median : float or None
        Of a column of numbers.
    whole, decimal_comma, truth : bool
        Whether its numbers are whole, whether they are written with a comma, whether its values are truth values.
    undated : bool
        Whether its values are times of day, without a date or with the day of the month alone.
    """

    name: str
    kind: str
    null_share: float
    distinct: int
    unique: bool
    examples: tuple[str, ...]
    formats: tuple[str, ...] = ()
    zoned: bool = False
    median: float | None = None
    whole: bool = False
    decimal_comma: bool = False
    truth: bool = False
    undated: bool = False

    @property
    def is_time(self) -> bool:
        """Whether its values are instants."""
        return bool(self.formats)

    @property
    def is_number(self) -> bool:
        """Whether its values are numbers."""
        return self.median is not None


def look(connection: duckdb.DuckDBPyConnection, nulls: Sequence[str]) -> list[Column]:
    """Describe each column of the source. A value that is one of `nulls` counts as none."""
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE looked_at AS SELECT * FROM source USING SAMPLE reservoir({SAMPLE_ROWS} ROWS) "
        "REPEATABLE (1)"
    )
    kinds = {str(row[0]): str(row[1]) for row in connection.execute("DESCRIBE looked_at").fetchall()}
    return [_column(connection, name, kinds[name], nulls) for name in source_columns(connection) if name != ROW_NUMBER]


def _column(connection: duckdb.DuckDBPyConnection, name: str, kind: str, nulls: Sequence[str]) -> Column:
    words = ", ".join(literal(word) for word in nulls)
    text = f"trim(CAST({quoted(name)} AS VARCHAR))"
    value = f"CASE WHEN {text} NOT IN ({words}) THEN {text} END"
    connection.execute(f"CREATE OR REPLACE TEMP VIEW looked_at_values AS SELECT {value} AS value FROM looked_at")
    rows, known, distinct = _one(connection, "count(*), count(value), count(DISTINCT value)")
    often = "SELECT value FROM looked_at_values WHERE value IS NOT NULL GROUP BY 1 ORDER BY count(*) DESC, 1"
    examples = tuple(str(row[0]) for row in connection.execute(f"{often} LIMIT {_EXAMPLES}").fetchall())
    empty = 1 - known / rows if rows else 1.0
    if not known:
        return Column(name, kind, empty, 0, False, ())
    formats, zoned = _times(connection, kind, known)
    median, whole, comma = (None, False, False) if formats and not _only_unix(formats) else _numbers(connection, known)
    truth = distinct <= 2 and _share(connection, f"lower(value) IN {_TRUTH}", known) == 1
    unique = distinct == known
    undated = not formats and _fits(connection, r"regexp_full_match(value, '(\d{1,2} )?\d{1,2}:\d\d(:\d\d)?')", known)
    return Column(name, kind, empty, distinct, unique, examples, formats, zoned, median, whole, comma, truth, undated)


def _times(connection: duckdb.DuckDBPyConnection, kind: str, known: int) -> tuple[tuple[str, ...], bool]:
    if kind.startswith("TIMESTAMP"):
        return ("typed",), "ZONE" in kind or "TZ" in kind
    units = _units(connection, known)
    if kind != "VARCHAR" or units:
        return (units,) if units else (), bool(units)
    if _fits(connection, f"regexp_full_match(value, {literal(ISO)})", known):
        named = r"(?:[zZ]|UTC|GMT|[+-]\d\d(?::?\d\d)?)$"
        return ("iso",), _share(connection, rf"regexp_matches(value, ':\d\d.*{named}')", known) >= FITS
    tries = [form for form in FORMATS if form not in UNIX_FORMATS]
    counted = ", ".join(f"count(try_strptime(value, {literal(form)}))" for form in tries)
    counts = dict(zip(tries, _one(connection, counted), strict=True))
    alone = tuple(form for form in tries if _enough(counts[form], known))
    if any(counts[form] == known for form in alone):
        return alone, False
    return (_together(connection, counts, known) or alone), False


def _together(connection: duckdb.DuckDBPyConnection, counts: dict[str, int], known: int) -> tuple[str, ...]:
    """A column in two formats: the commonest, and with it those that fit most of the others."""
    used = sorted((form for form in counts if counts[form] > 0.05 * known), key=lambda form: -counts[form])
    for first in used[:2]:
        for second in used:
            fits = (
                f"coalesce(try_strptime(value, {literal(first)}), try_strptime(value, {literal(second)})) IS NOT NULL"
            )
            if first != second and _fits(connection, fits, known):
                return first, second
    return ()


def _units(connection: duckdb.DuckDBPyConnection, known: int) -> str | None:
    """The unit of numbers since 1970, of the years 2000 to 2100, which the units have no number of in common."""
    first, last = 946_684_800, 4_102_444_800
    for form, factor in zip(UNIX_FORMATS, (1, 10**3, 10**6, 10**9), strict=True):
        number = "TRY_CAST(value AS DOUBLE)"
        if _fits(connection, f"{number} BETWEEN {first * factor} AND {last * factor}", known):
            return form
    return None


def _only_unix(formats: tuple[str, ...]) -> bool:
    return set(formats) <= set(UNIX_FORMATS)


def _numbers(connection: duckdb.DuckDBPyConnection, known: int) -> tuple[float | None, bool, bool]:
    comma = r"regexp_full_match(value, '[-+]?\d+,\d+')"
    for text, by_comma in (("value", False), ("replace(replace(value, '.', ''), ',', '.')", True)):
        number = f"TRY_CAST({text} AS DOUBLE)"
        count, middle, broken = _one(
            connection, f"count({number}), median({number}), count(*) FILTER ({number} <> round({number}))"
        )
        if _enough(count, known) and (not by_comma or _share(connection, comma, known) > 0):
            return float(middle), not broken, by_comma
    return None, False, False


def _fits(connection: duckdb.DuckDBPyConnection, condition: str, known: int) -> bool:
    return _enough(_one(connection, f"count(*) FILTER (value IS NOT NULL AND {condition})")[0], known)


def _enough(count: int, known: int) -> bool:
    return count >= FITS * known or (count >= 3 and known - count == 1)


def _share(connection: duckdb.DuckDBPyConnection, condition: str, known: int) -> float:
    return float(_one(connection, f"count(*) FILTER (value IS NOT NULL AND {condition})")[0]) / known


def _one(connection: duckdb.DuckDBPyConnection, what: str) -> tuple[int, ...]:
    return tuple(connection.execute(f"SELECT {what} FROM looked_at_values").fetchall()[0])

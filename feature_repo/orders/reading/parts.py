"""What has been read, as parts: tables of the scratch database, each of rows whose columns have the same types.

Files whose types differ are never forced into one table, where the first file's types would be those of all: each part
is converted with its own types, so that a file gives the same orders with others and alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import duckdb
import pyarrow as pa

from feature_repo.orders.mapping_file import MappingError
from feature_repo.orders.reading.sql import literal, quoted

ROW = "__row"
"""Position of a row in its source, from 1. Also visible to expressions as `row_number`, unless the source has that."""

_BROKEN = ("file", "line", "text", "fault")
UNTYPED = ('"NULL"', "NULL")
"""The type of a column that has no value and never had one."""


@dataclass(slots=True)
class _Part:
    table: str
    columns: dict[str, tuple[str, str]] = field(default_factory=dict)
    """By folded name: the name as first written, and its type."""
    exists: bool = False

    def takes(self, typed: Mapping[str, str]) -> bool:
        """Whether it has no column of another type, and numbers its rows in the same way."""
        folded = {name.casefold(): kind for name, kind in typed.items()}
        same = all(self.columns.get(name, ("", kind))[1] == kind for name, kind in folded.items())
        return same and ("row_number" in self.columns) == ("row_number" in folded)

    def column(self, folded: str, name: str, kind: str) -> str:
        """SQL of a column of the source, whether this part has it or not."""
        if folded in self.columns:
            return f"{quoted(self.columns[folded][0])} AS {quoted(name)}"
        return f"{f'CAST(NULL AS {kind})' if kind else 'NULL'} AS {quoted(name)}"


class Parts:
    """Collects rows into the tables `part_N` and says in the end what is in them.

    Parameters
    ----------
    connection : duckdb.DuckDBPyConnection
        The scratch database.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        self._parts: list[_Part] = []
        self._untyped: dict[str, str] = {}
        self._rows = 0
        self._last = ""
        connection.execute("CREATE TABLE scratch.main.source_files (part INT, file VARCHAR, rows BIGINT)")
        connection.execute("CREATE TABLE scratch.main.notes (note VARCHAR)")
        connection.execute(
            "CREATE TABLE scratch.main.broken_lines (file VARCHAR, line BIGINT, text VARCHAR, fault VARCHAR)"
        )

    def add(self, query: str, file: str, *, extra: Mapping[str, str | None] | None = None) -> int:
        """Add a query's rows, numbered on, to the part of their types.

        Parameters
        ----------
        query : str
        file : str
            Where they come from, for messages.
        extra : mapping of str to str or None, optional
            Values of columns that the rows do not have themselves.

        Returns
        -------
        int
            How many rows were added.

        Raises
        ------
        MappingError
            Two columns have the same name but for case and white space.
        """
        selected = self._named(query, file, extra or {})
        typed = {name: kind for name, kind, _ in selected if kind not in UNTYPED}
        self._untyped |= {name.casefold(): name for name, kind, _ in selected if kind in UNTYPED}
        part = self._part_of(typed)
        columns = ", ".join(f"{sql} AS {quoted(name)}" for name, kind, sql in selected if kind not in UNTYPED)
        number = f"row_number() OVER () + {self._rows} AS {ROW}"
        added = self._insert(part, f"SELECT {', '.join(filter(None, [number, columns]))} FROM ({query})", typed)
        self._rows += added
        self._last = part.table
        values = [int(part.table.removeprefix("part_")), file, added]
        self._connection.execute("INSERT INTO scratch.main.source_files VALUES (?, ?, ?)", values)
        return added

    @property
    def folder(self) -> Path:
        """Where the scratch database lies, and other scratch files may."""
        query = "SELECT path FROM duckdb_databases() WHERE database_name = 'scratch'"
        return Path(str(self._connection.execute(query).fetchall()[0][0])).parent

    def add_table(self, table: pa.Table, file: str, *, extra: Mapping[str, str | None] | None = None) -> int:
        """`add` the rows of an Arrow table."""
        self._connection.register("chunk", table)
        try:
            return self.add("FROM chunk", file, extra=extra)
        finally:
            self._connection.unregister("chunk")

    def add_broken(self, lines: Sequence[tuple[str, int, str, str]]) -> None:
        """Keep lines that are no rows: the file, the line's number, its text, what is wrong with it."""
        columns = list(zip(*lines, strict=True)) or [()] * 4
        texts = [text.encode("utf-8", "backslashreplace").decode() for text in columns[2]]
        table = pa.table([columns[0], pa.array(columns[1], pa.int64()), texts, columns[3]], names=_BROKEN)
        self._connection.register("chunk", table)
        self._connection.execute("INSERT INTO scratch.main.broken_lines FROM chunk")
        self._connection.unregister("chunk")

    def occurrences(self, count: int, names: Sequence[str], signs: Sequence[str]) -> tuple[int, ...]:
        """How often each sign is in the text columns of the rows that were added last."""
        sums = [
            " + ".join(
                f"coalesce(sum(length({quoted(name)}) - length(replace({quoted(name)}, {literal(sign)}, ''))), 0)"
                for name in names
            )
            for sign in signs
        ]
        query = f"SELECT {', '.join(sums)} FROM scratch.main.{self._last} WHERE {ROW} > {self._rows - count}"
        return tuple(int(value) for value in self._connection.execute(query).fetchall()[0])

    def take_back(self, file: str, count: int) -> None:
        """Remove the rows of the file that was added last."""
        self._rows -= count
        for part in self._parts:
            self._connection.execute(f"DELETE FROM scratch.main.{part.table} WHERE {ROW} > {self._rows}")
        self._connection.execute("DELETE FROM scratch.main.source_files WHERE file = ?", [file])

    def note(self, text: str) -> None:
        """Keep something for the report that a person should know of how a file was read."""
        self._connection.execute("INSERT INTO scratch.main.notes VALUES (?)", [text])

    def finish(self) -> None:
        """Make the views `source_N`, one a part, which all have the same columns, and `source`, the first of them."""
        names: dict[str, tuple[str, str]] = {}
        for part in self._parts:
            names |= {folded: column for folded, column in part.columns.items() if folded not in names}
        names |= {folded: (name, "") for folded, name in self._untyped.items() if folded not in names}
        virtual = [] if "row_number" in names else [f"{ROW} AS row_number"]
        for part in self._parts:
            columns = ", ".join([ROW, *virtual, *(part.column(folded, *names[folded]) for folded in names)])
            view = part.table.replace("part_", "source_")
            self._connection.execute(f"CREATE VIEW scratch.main.{view} AS SELECT {columns} FROM {part.table}")
        if self._parts:
            self._connection.execute("CREATE VIEW scratch.main.source AS FROM scratch.main.source_1")

    def _named(self, query: str, file: str, extra: Mapping[str, str | None]) -> list[tuple[str, str, str]]:
        """Name, type and SQL of a query's columns."""
        described = self._connection.execute(f"DESCRIBE {query}").fetchall()
        columns = [_column(str(row[0]), str(row[1])) for row in described]
        own = [name.casefold() for name, _, _ in columns]
        for name in own:
            if own.count(name) > 1 or name == ROW:
                raise MappingError(
                    f"{file} has more than one column {name!r} (case and blanks do not count): rename it"
                )
        values = {name: "NULL" if value is None else literal(value) for name, value in extra.items()}
        return columns + [
            (name, "VARCHAR", f"CAST({value} AS VARCHAR)")
            for name, value in values.items()
            if name.casefold() not in own
        ]

    def _part_of(self, typed: Mapping[str, str]) -> _Part:
        part = next((part for part in self._parts if part.takes(typed)), None)
        if part is None:
            part = _Part(f"part_{len(self._parts) + 1}")
            self._parts.append(part)
        return part

    def _insert(self, part: _Part, query: str, typed: Mapping[str, str]) -> int:
        new = {name.casefold(): (name, kind) for name, kind in typed.items() if name.casefold() not in part.columns}
        part.columns |= new
        if not part.exists:
            created = self._connection.execute(f"CREATE TABLE scratch.main.{part.table} AS {query}").fetchall()
            part.exists = True
            return int(created[0][0])
        for name, kind in new.values():
            self._connection.execute(f"ALTER TABLE scratch.main.{part.table} ADD COLUMN {quoted(name)} {kind}")
        inserted = self._connection.execute(f"INSERT INTO scratch.main.{part.table} BY NAME {query}").fetchall()
        return int(inserted[0][0])


def _column(name: str, kind: str) -> tuple[str, str, str]:
    """Name, type and SQL of a column. Of zoned nanoseconds the engine converts little: microseconds will do."""
    if kind == "TIMESTAMPTZ_NS":
        return name.strip(), "TIMESTAMPTZ", f"CAST({quoted(name)} AS TIMESTAMPTZ)"
    return name.strip(), kind, quoted(name)

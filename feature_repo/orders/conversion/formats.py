"""Which of several time formats is meant, where two read a value differently: decided by the whole source, or not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import combinations

import duckdb

from feature_repo.orders.conversion.times import read_by
from feature_repo.orders.source import literal

Pair = tuple[str, str]
_SAMPLES = [datetime(2001, 1, 1) + timedelta(days=37 * day, seconds=7919 * day) for day in range(600)]  # noqa: DTZ001


@dataclass(frozen=True, slots=True)
class Evidence:
    """How two formats read the values of a source: one of them alone, or both, but as different instants."""

    pair: Pair
    first_alone: int
    second_alone: int
    differ: int
    example: str | None


@dataclass(frozen=True, slots=True)
class Decision:
    """The format that is meant where two read a value differently, and why in words; `meant` is None if nothing says.

    Attributes
    ----------
    differ : int
        Values that they read differently.
    why : str
    example : str
        The first of these values.
    """

    pair: Pair
    meant: str | None
    differ: int
    why: str
    example: str | None

    def told(self) -> str:
        """The decision for a person to read."""
        meant, other = self.kept()
        return (
            f"{self.differ:,} times such as {self.example!r} fit both {meant!r} and {other!r}, and were read by "
            f"{meant!r}: {self.why}"
        )

    def kept(self) -> Pair:
        """The format that is meant, and the other one."""
        meant = self.meant or self.pair[0]
        return meant, _other(self.pair, meant)


def weigh(
    connection: duckdb.DuckDBPyConnection, formats: Sequence[str], texts: Iterable[str], where: str
) -> list[Evidence]:
    """How each two formats that can read a text differently read those of the source.

    Parameters
    ----------
    texts : iterable of str
        SQL of the texts that are times. All of them together decide: they come from one writer.
    where : str
        SQL of the rows that count.
    """
    pairs = [pair for pair in combinations(formats, 2) if _can_differ(connection, pair)]
    return [_evidence(connection, pair, list(texts), where) for pair in pairs]


def decide(evidence: Iterable[Evidence], preferred: Sequence[str] = (), earlier: Sequence[Pair] = ()) -> list[Decision]:
    """One decision for each pair of formats that read some value of the source differently.

    Parameters
    ----------
    evidence : iterable of Evidence
        Of one pair as much as there is: it is summed.
    preferred : sequence of str
        What a person said is meant.
    earlier : sequence of pairs of str
        (meant, other) as earlier ingestions of this source decided; followed unless this source speaks against it.
    """
    whole: dict[Pair, Evidence] = {}
    for found in evidence:
        whole[found.pair] = _sum(whole[found.pair], found) if found.pair in whole else found
    return [_decide(pair, found, preferred, earlier) for pair, found in whole.items() if found.differ]


def _sum(one: Evidence, other: Evidence) -> Evidence:
    return Evidence(
        one.pair,
        one.first_alone + other.first_alone,
        one.second_alone + other.second_alone,
        one.differ + other.differ,
        one.example or other.example,
    )


def _decide(pair: Pair, evidence: Evidence, preferred: Sequence[str], earlier: Sequence[Pair]) -> Decision:
    alone = {pair[0]: evidence.first_alone, pair[1]: evidence.second_alone}
    meant, why = None, f"{alone[pair[0]]:,} fit the first alone, {alone[pair[1]]:,} the second"
    said = [form for form in pair if form in preferred]
    fitting = [form for form in pair if alone[form] and not alone[_other(pair, form)]]
    before = [form for form in pair if (form, _other(pair, form)) in earlier and not alone[_other(pair, form)]]
    if len(said) == 1:
        meant, why = said[0], "that was allowed"
    elif fitting:
        meant, why = (
            fitting[0],
            f"{alone[fitting[0]]:,} others of the source fit it alone, none the other alone",
        )
    elif before:
        meant, why = before[0], "an earlier ingestion of this source decided so"
    return Decision(pair, meant, evidence.differ, why, evidence.example)


def _other(pair: Pair, form: str) -> str:
    return pair[pair[0] == form]


def _can_differ(connection: duckdb.DuckDBPyConnection, pair: Pair) -> bool:
    """Whether there is a text that both formats read, but as different instants: found by trying."""
    return any(_differs_on_samples(connection, written, pair) for written in pair if "%" in written)


def _differs_on_samples(connection: duckdb.DuckDBPyConnection, written: str, pair: Pair) -> bool:
    instants = ", ".join(f"TIMESTAMP '{sample}'" for sample in _SAMPLES)
    first, second = (read_by("text", form) for form in pair)
    query = f"""
        SELECT count(*) FROM (SELECT {first} AS first, {second} AS second FROM (
            SELECT strftime(instant, {literal(written)}) AS text FROM (SELECT unnest([{instants}]) AS instant)))
        WHERE first <> second"""
    return bool(connection.execute(query).fetchall()[0][0])


def _evidence(connection: duckdb.DuckDBPyConnection, pair: Pair, texts: Sequence[str], where: str) -> Evidence:
    first, second = (read_by("text", form) for form in pair)
    columns = " UNION ALL ".join(
        f"SELECT trim(CAST({text} AS VARCHAR)) AS text FROM source WHERE {where}" for text in dict.fromkeys(texts)
    )
    query = f"""
        SELECT count(*) FILTER (second IS NULL AND first IS NOT NULL),
               count(*) FILTER (first IS NULL AND second IS NOT NULL),
               count(*) FILTER (first <> second), min(text) FILTER (first <> second)
        FROM (SELECT text, {first} AS first, {second} AS second FROM ({columns}))"""
    return Evidence(pair, *connection.execute(query).fetchall()[0])

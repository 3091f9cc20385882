"""The as-of join: what was known of a key at an instant.

For a question (a key and an instant `t`) the answer is the row of that key with the greatest (event time, created time)
among those with event time <= t and, with the knowledge cut-off, created time <= t; it is nothing when that row is
older than the time to live.

This is not done as an inequality join. Put `known = max(event time, created time)`: a row can answer from `known` on.
Going through a key's rows in the order in which they became known, only those that set a new record of (event time,
created time) can ever be an answer, and the last record at or before `t` is the answer. That makes it one as-of join on
`known`, whose memory grows with the rows read and not with the pairs compared.

History is read twice. First keys and times only, with which the join finds the number of the row that answers each
question; then the values, of which only the rows that answer anything are kept. Wide rows are never sorted or joined.

A row without a created time counts as created at its event time. Of rows that agree in both times the last one answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

import polars as pl

BYTES_PER_ROW = 100
"""What a row of history costs while its key and times are sorted and joined, measured generously."""

_QUESTION, _KEY, _AT = "__question", "__key", "__at"
_ROW, _EVENT, _CREATED, _KNOWN, _RANK = "__row", "__event", "__created", "__known", "__rank"


@dataclass(frozen=True, slots=True)
class Columns:
    """What the columns of a history mean.

    Parameters
    ----------
    keys : sequence of str
        Together the entity's key; none if the history is about one thing only.
    event, created : str
        Instants in microseconds and UTC; `created` may hold nulls, and may be None.
    values : sequence of str
        The columns that are asked for.
    """

    keys: Sequence[str]
    event: str
    created: str | None
    values: Sequence[str]


def asof_join(
    questions: pl.DataFrame,
    history: pl.LazyFrame,
    columns: Columns,
    *,
    at: str,
    ttl: timedelta | None,
    cutoff: bool,
    memory_limit_mebibytes: int | None = None,
) -> pl.DataFrame:
    """The values of each question's key as of its instant.

    Parameters
    ----------
    questions : polars.DataFrame, n rows
        The key columns (null where the entity is unknown) and `at`.
    history : polars.LazyFrame
        Its rows must come in the same order each time that it is read.
    columns : Columns
        Of the history; keys have the same names and types as in `questions`.
    ttl : timedelta, optional
        An answer whose event time is before `at - ttl` is null; one exactly at it is not.
    cutoff : bool
        Hide rows created after `at`.
    memory_limit_mebibytes : int, optional
        Read the history once for every so much of keys and times, instead of once.

    Returns
    -------
    polars.DataFrame, n rows
        `columns.values`, in the order of `questions`.
    """
    asked = questions.select(*columns.keys, pl.col(at).alias(_AT)).with_row_index(_QUESTION)
    parts = _parts(asked, history, columns, memory_limit_mebibytes)
    found = [_answering_rows(part, history, columns, ttl, cutoff) for part in parts]
    rows = asked.select(_QUESTION).join(pl.concat(found), on=_QUESTION, how="left", maintain_order="left")[_ROW]
    return _values(rows, history, columns.values)


def _parts(asked: pl.DataFrame, history: pl.LazyFrame, columns: Columns, limit: int | None) -> Iterator[pl.DataFrame]:
    """The questions that can have an answer, in groups of whole keys whose history fits into the limit."""
    keys = list(columns.keys)
    answerable = asked.drop_nulls([*keys, _AT])
    count = 1
    if limit and keys:
        rows = history.select(pl.len()).collect().item()
        count = max(1, -(-rows * BYTES_PER_ROW // (limit << 20)))
    if count == 1:
        yield answerable
        return
    ids = answerable.select(keys).unique(maintain_order=True)
    size = max(1, -(-ids.height // count))
    for start in range(0, ids.height, size) or [0]:
        yield answerable.join(ids.slice(start, size), on=keys, how="semi")


def _answering_rows(
    asked: pl.DataFrame, history: pl.LazyFrame, columns: Columns, ttl: timedelta | None, cutoff: bool
) -> pl.DataFrame:
    """`_QUESTION` and `_ROW`, the number of the history's row that answers it, for the questions with an answer."""
    ids = asked.select(columns.keys).unique().with_row_index(_KEY) if columns.keys else None
    left = _with_key(asked.lazy(), ids, columns.keys).select(_QUESTION, _KEY, _AT).collect()
    records = _records(_ranked(history, ids, columns), cutoff and columns.created is not None)
    joined = left.sort(_AT).join_asof(
        records, left_on=_AT, right_on=_KNOWN, by=_KEY, strategy="backward", check_sortedness=False
    )
    fresh = pl.col(_EVENT) >= pl.col(_AT) - ttl if ttl else pl.lit(True)
    return joined.filter(pl.col(_ROW).is_not_null() & fresh).select(_QUESTION, _ROW)


def _with_key(rows: pl.LazyFrame, ids: pl.DataFrame | None, keys: Sequence[str]) -> pl.LazyFrame:
    """The rows whose key is in `ids`, in their order, with its number as `_KEY`."""
    if ids is None:
        return rows.with_columns(pl.lit(0, pl.UInt32).alias(_KEY))
    return rows.join(ids.lazy(), on=list(keys), how="inner", maintain_order="left")


def _ranked(history: pl.LazyFrame, ids: pl.DataFrame | None, columns: Columns) -> pl.DataFrame:
    """Keys and times of the asked-for keys' rows, in the order in which a key's rows outrank each other."""
    event = pl.col(columns.event).alias(_EVENT)
    created = pl.coalesce(columns.created, columns.event).alias(_CREATED) if columns.created else event.alias(_CREATED)
    narrow = history.select(*columns.keys, event, created).with_row_index(_ROW)
    ranked = _with_key(narrow, ids, columns.keys).select(_KEY, _ROW, _EVENT, _CREATED).collect(engine="streaming")
    if not _in_rank_order(ranked):
        ranked = ranked.sort(_EVENT, _CREATED, maintain_order=True)
    return ranked


def _in_rank_order(rows: pl.DataFrame) -> bool:
    """Whether the rows are ordered by (event, created) already, as those of day files that were written sorted are."""
    before = pl.col(_EVENT).shift(), pl.col(_CREATED).shift()
    later = pl.col(_EVENT) > before[0]
    same = (pl.col(_EVENT) == before[0]) & (pl.col(_CREATED) >= before[1])
    return bool(rows.select((later | same).fill_null(True).all()).item())


def _records(ranked: pl.DataFrame, cutoff: bool) -> pl.DataFrame:
    """Those of the ranked rows that can answer, ordered by `_KNOWN`; of a key's rows alike in it, the last answers."""
    if not cutoff:
        return ranked.select(_KEY, _ROW, _EVENT, pl.col(_EVENT).alias(_KNOWN)).set_sorted(_KNOWN)
    known = ranked.select(_KEY, _ROW, _EVENT, pl.max_horizontal(_EVENT, _CREATED).alias(_KNOWN))
    if not known[_KNOWN].is_sorted():
        known = known.with_row_index(_RANK).sort(_KNOWN, maintain_order=True)
        known = known.filter(pl.col(_RANK) == pl.col(_RANK).cum_max().over(_KEY)).drop(_RANK)
    return known.set_sorted(_KNOWN)


def _values(rows: pl.Series, history: pl.LazyFrame, values: Sequence[str]) -> pl.DataFrame:
    """`values` of the history's rows with these numbers; null where there is no number."""
    wanted = pl.DataFrame({_ROW: rows.drop_nulls().unique()})
    kept = (
        history.select(values)
        .with_row_index(_ROW)
        .join(wanted.lazy(), on=_ROW, how="semi", maintain_order="left")
        .drop(_ROW)
        .collect(engine="streaming")
        .rechunk()
    )
    position = rows.rank("dense") - 1
    return kept.select(pl.all().gather(position)) if kept.width else pl.DataFrame(height=len(rows))

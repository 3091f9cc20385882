"""The parts of a set of rows that a spec names."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from training.spec import SliceSpec

SMALLEST_SLICE = 50
"""Rows; below it, the error of a slice says nothing."""
MOST_VALUES = 50
"""Of a column that slices are made by; the values of most rows are kept."""


def parts(rows: pl.DataFrame, part: SliceSpec) -> Iterator[tuple[str, pl.DataFrame]]:
    """Name and rows of a slice; of one made by a column, of each of its values.

    Raises
    ------
    polars.exceptions.ColumnNotFoundError
        The rows lack a column that the slice is made by.
    """
    if part.where is not None:
        yield part.name, rows.filter(pl.sql_expr(part.where))
        return
    assert part.by is not None  # a slice has one of the two
    known = rows.with_columns(_group=pl.sql_expr(part.by)).filter(pl.col("_group").is_not_null())
    if not known.height:
        yield part.name, known
    counts = known.group_by("_group").len().sort(["len", "_group"], descending=[True, False]).head(MOST_VALUES)
    for value in counts["_group"].sort():
        yield f"{part.name} {value}", known.filter(pl.col("_group") == value)

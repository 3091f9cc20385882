"""Ids of landing files that other programs wrote: read by the same rule as those of every other door."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import polars as pl

from feature_repo import ids
from feature_repo.ids import SINGLE_EXACT, NoId, read_id
from feature_repo.orders.schema import ID_COLUMNS, row_text

logger = logging.getLogger(__name__)

RULE = "bad_id"
_READ = pl.Struct({"id": pl.String, "fault": pl.String})
_PLAIN = f"^(?:{ids.PLAIN_PATTERN})$"


def can_hold_ids(kind: pl.DataType) -> bool:
    """Whether a column of this type may hold ids; which of its values are some is asked row by row."""
    return kind.is_integer() or kind.is_float() or kind.is_decimal() or isinstance(kind, pl.Categorical | pl.Enum)


def read_ids(rows: pl.LazyFrame, path: Path) -> pl.LazyFrame:
    """The rows of a landing file with each id in its one form; a row with a value that is none is refused.

    Parameters
    ----------
    rows : pl.LazyFrame
        Columns of `LANDING_SCHEMA` and `REFUSAL_SCHEMA`; ids may have any type that `can_hold_ids` allows.
    path : Path
        The file, for messages.

    Returns
    -------
    pl.LazyFrame
        The same columns; ids are text, null in rows where they are none. `source_row` keeps what was written.
    """
    read = [
        pl.col(name).map_batches(lambda values: _read(values, path), return_dtype=_READ).alias(f"__{name}")
        for name in ID_COLUMNS
    ]
    noted = rows.with_columns(read).with_columns(pl.col(ID_COLUMNS).cast(pl.String))
    faults = [_reason(name) for name in ID_COLUMNS]
    refused = pl.any_horizontal(fault.is_not_null() for fault in faults) & pl.col("refused_rule").is_null()
    reason = pl.concat_str(faults, separator="; ", ignore_nulls=True)
    return noted.with_columns(
        **{name: pl.col(f"__{name}").struct.field("id") for name in ID_COLUMNS},
        refused_rule=pl.when(refused).then(pl.lit(RULE)).otherwise("refused_rule"),
        refused_reason=pl.when(refused).then(reason).otherwise("refused_reason"),
        source_row=pl.when(refused).then(row_text()).otherwise("source_row"),
    ).drop(f"__{name}" for name in ID_COLUMNS)


def _reason(name: str) -> pl.Expr:
    fault = pl.col(f"__{name}").struct.field("fault")
    text = pl.format('column {}: "{}" {}', pl.lit(name), pl.col(name).str.slice(0, 80), fault)
    return pl.when(fault.is_not_null()).then(text)


def _read(values: pl.Series, path: Path) -> pl.Series:
    """`id` and `fault` of each value."""
    texts = values if values.dtype == pl.String else None
    if values.dtype.is_integer() or isinstance(values.dtype, pl.Categorical | pl.Enum):
        texts = values.cast(pl.String)
    if texts is not None and _are_plain(texts):
        return _struct(texts, pl.Series("fault", [None] * len(texts), dtype=pl.String))
    source = values if texts is None else texts
    distinct = source.unique().drop_nulls()
    exact = SINGLE_EXACT if values.dtype == pl.Float32 else None
    pairs = [_id_and_fault(value, exact) for value in distinct.to_list()]
    found = pl.DataFrame(
        {"value": distinct, "id": [pair[0] for pair in pairs], "fault": [pair[1] for pair in pairs]},
        schema={"value": source.dtype, "id": pl.String, "fault": pl.String},
    )
    joined = source.to_frame("value").join(found, on="value", how="left", maintain_order="left")
    _tell(joined, values.name, path)
    return _struct(joined["id"], joined["fault"])


def _are_plain(texts: pl.Series) -> bool:
    plain = texts.str.contains(_PLAIN) & ~texts.is_in(list(ids.NOT_IDS))
    return bool(plain.fill_null(True).all())


def _struct(found: pl.Series, faults: pl.Series) -> pl.Series:
    return pl.DataFrame({"id": found, "fault": faults}).to_struct("read")


def _id_and_fault(value: Any, exact: int | None) -> tuple[str | None, str | None]:
    if exact is not None and exact < abs(value) < float("inf"):
        return None, ids.TOO_LARGE
    try:
        return read_id(value), None
    except NoId as error:
        return None, None if str(error) == ids.BLANK else str(error)


def _tell(read: pl.DataFrame, name: str, path: Path) -> None:
    written = pl.col("value").cast(pl.String)
    changed = read.filter(pl.col("id").ne_missing(written) & pl.col("fault").is_null()).height
    if changed:
        logger.warning("%s: %s was put into its one form in %d rows", path, name, changed)

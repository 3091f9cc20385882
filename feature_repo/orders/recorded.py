"""What has become of landed versions: each landed row is recorded once, in the lake or in the quarantine.

The two do not name the row that they came from, so rows and records of the same content are counted against each other:
the first row is the first record, and so on. A row beyond the last record is one that no run has taken yet. So of a
version that lands twice both rows are recorded, the second as a duplicate, however late it comes.
"""

from __future__ import annotations

from collections.abc import Iterable

import polars as pl

from config import Settings
from feature_repo.orders.schema import (
    BATCH_SCHEMA,
    LAKE_SCHEMA,
    ORDER_SCHEMA,
    orders_table,
    quarantine_table,
    row_text,
)
from feature_repo.window import Moments, Window

_CONTENT = ("order_id", "updated_at", "content")
"""By these two versions are the same. The other columns are a hash: it tells apart versions of one order with the same
time, not millions of rows."""


def recorded_at(landed: pl.DataFrame, around: Iterable[Window], settings: Settings) -> pl.Series:
    """When the lake or the quarantine recorded each landed row.

    Parameters
    ----------
    landed : pl.DataFrame
        Columns of `LANDING_SCHEMA`, `source_row`, and `known_at` as the landing folder has it.
    around : iterable of Window
        Of the records that are looked at; they may overlap.
    settings : Settings

    Returns
    -------
    pl.Series
        Named `recorded_at`, one instant per row; null where no record is left for the row.
    """
    rows = landed.select(
        "order_id", "updated_at", "known_at", "source_row", _content(), *ORDER_SCHEMA.keys() - set(_CONTENT)
    ).with_row_index("position")
    spans = _joined(around)
    records = pl.concat(
        [part for span in spans for part in (_accepted(span, settings), _quarantined(rows, span, settings))]
    )
    numbered = _numbered(rows.select("position", *_CONTENT, "known_at"))
    pairs = numbered.join(
        _numbered(records).rename({"known_at": "recorded_at"}), on=[*_CONTENT, "place"], how="left", nulls_equal=True
    )
    return pairs.sort("position")["recorded_at"]


def _joined(spans: Iterable[Window]) -> list[Window]:
    """The spans in order, those that touch or overlap made one, so that no record is counted twice."""
    joined: list[Window] = []
    for span in sorted(spans, key=lambda one: one.start):
        if joined and span.start <= joined[-1].end:
            joined[-1] = Moments(joined[-1].start, max(joined[-1].end, span.end))
        else:
            joined.append(Moments(span.start, span.end))
    return joined


def _accepted(around: Window, settings: Settings) -> pl.DataFrame:
    versions = orders_table(settings).scan(around).with_columns(source_row=pl.lit(None, pl.String))
    return versions.select("order_id", "updated_at", _content(), "known_at").collect()


def _quarantined(rows: pl.DataFrame, around: Window, settings: Settings) -> pl.DataFrame:
    """The records in the quarantine of those orders that have landed, with the content of the row that they keep."""
    kept = quarantine_table(settings).scan(around).select("order_id", "row", "known_at").collect()
    suspects = rows.join(kept.select("order_id").unique(), on="order_id", how="semi", nulls_equal=True)
    texts = suspects.with_columns(row=pl.coalesce("source_row", row_text())).select(*_CONTENT, "row").unique()
    return texts.join(kept.select("row", "known_at"), on="row").select(*_CONTENT, "known_at")


def _numbered(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows of the same content with their place among them, in the order of time."""
    return rows.sort("known_at", maintain_order=True).with_columns(place=pl.int_range(pl.len()).over(_CONTENT))


def _content() -> pl.Expr:
    return pl.struct([*ORDER_SCHEMA, "source_row"]).hash().alias("content")


def no_longer_landed(landed: pl.DataFrame, window: Window, settings: Settings) -> pl.DataFrame:
    """The lake's versions of a window of which the landing folder has none, whatever its values: they stay.

    Parameters
    ----------
    landed : pl.DataFrame
        What the window read: columns of `BATCH_SCHEMA`.
    window : Window
    settings : Settings

    Returns
    -------
    pl.DataFrame
        Columns of `BATCH_SCHEMA`, at the `known_at` that the lake has.
    """
    key = ["order_id", "updated_at"]
    held = orders_table(settings).read(window).join(landed.select(key), on=key, how="anti", maintain_order="left")
    beside = {name: pl.lit(None, dtype=kind) for name, kind in BATCH_SCHEMA.items() if name not in LAKE_SCHEMA}
    return held.with_columns(**beside | {"found_late": pl.lit(False)}).select(list(BATCH_SCHEMA))

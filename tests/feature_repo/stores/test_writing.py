"""Rows that are written offline: they become what the view declares, or nothing is written."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import FeatureView, Field, FileSource
from feast.types import Array, Float32, Int64, String

from feature_repo.stores.asof import AsOfOfflineStore
from feature_repo.stores.declared import NotAsDeclared
from feature_repo.stores.parquet import UnusableSource, UnwritableSource
from tests.feature_repo.stores.helpers import (
    AS_OF,
    at,
    entity_frame,
    history,
    repo_config,
    restaurant,
    store,
    view,
    write,
)

ROWS = history([("a", 0, 0, 1), ("b", 0, 0, 2)])
PLACES = ["one.parquet", "directory"]


def add(directory: Path, item: FeatureView, rows: pl.DataFrame | pa.Table, **offline: Any) -> None:
    table = rows if isinstance(rows, pa.Table) else rows.to_arrow()
    config = repo_config(directory, offline={**AS_OF, **offline})
    AsOfOfflineStore.offline_write_batch(config, item, table, None)


def files(path: Path) -> dict[str, bytes]:
    """Every file that a reader sees, with its bytes."""
    found = [path] if path.is_file() else sorted(path.rglob("[!.]*.parquet"))
    return {str(file): file.read_bytes() for file in found}


def orders(directory: Path, item: FeatureView, *keys: str) -> list[float]:
    opened = store(directory / "registry", [item])
    frame = opened.get_historical_features(entity_frame([(key, 9) for key in keys]), [f"{item.name}:orders"])
    return list(frame.to_df()["orders"])


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (pl.col("orders") + 0.5, "'orders' is declared Int64, but the table to write has 1.5"),
        (pl.col("orders").cast(pl.String), "'orders' is declared Int64, but the table to write has string"),
        (pl.col("minutes").cast(pl.String), "'minutes' is declared Float64"),
        (pl.lit(None, pl.String).alias("restaurant_id"), "'restaurant_id' .* lacks it in 2 of 2 rows"),
        (pl.lit(7).alias("restaurant_id"), "'restaurant_id' is declared String, but .* has int"),
        (pl.lit(None).cast(pl.Datetime("us", "UTC")).alias("event_timestamp"), "'event_timestamp' .* lacks it"),
        (pl.col("event_timestamp").dt.epoch("s"), "'event_timestamp' .* has int64: write time stamps"),
        (pl.col("created").cast(pl.String), "'created' .* has string: write time stamps"),
        (pl.lit(1).alias("extra"), r"has columns that neither the view nor its source knows: \['extra'\]"),
    ],
)
def test_rows_that_do_not_fit_are_refused_and_nothing_is_written(
    tmp_path: Path, name: str, change: pl.Expr, message: str
) -> None:
    item, path = view(tmp_path / name), tmp_path / name
    for is_empty in (True, False):
        before = files(path) if path.exists() else {}
        with pytest.raises(NotAsDeclared, match=rf"restaurant_stats: .*{message}"):
            add(tmp_path, item, ROWS.with_columns(change))
        assert (files(path) if path.exists() else {}) == before
        if is_empty:
            add(tmp_path, item, ROWS)
    assert orders(tmp_path, item, "a", "b") == [1, 2]


@pytest.mark.parametrize("name", PLACES)
def test_rows_in_other_types_that_lose_nothing_are_read_back(tmp_path: Path, name: str) -> None:
    item = view(tmp_path / name)
    add(tmp_path, item, ROWS)
    times = [pl.col("event_timestamp").dt.replace_time_zone(None).dt.cast_time_unit("ns"), pl.col("created")]
    numbers = [pl.col("orders").cast(pl.Float64) + 10, pl.col("minutes").cast(pl.Float32)]
    add(tmp_path, item, ROWS.with_columns(*times, *numbers, pl.col("restaurant_id") + "2"))
    assert orders(tmp_path, item, "a", "b", "a2", "b2") == [1, 2, 11, 12]
    assert len({str(pl.read_parquet_schema(file)) for file in files(tmp_path / name)}) == 1


def test_rows_of_a_file_stay_as_they_are_when_others_are_added(tmp_path: Path) -> None:
    """4.111 became 4.111000061 when single-precision rows were pushed into the same file."""
    rows = ROWS.with_columns(minutes=pl.Series([4.111, None]))
    item = view(write(rows, tmp_path / "one.parquet"))
    add(tmp_path, item, history([("c", 0, 0, 3)]).with_columns(pl.col("minutes").cast(pl.Float32)))
    kept = pl.read_parquet(tmp_path / "one.parquet")
    assert kept.schema["minutes"] == pl.Float64
    assert kept["minutes"].to_list() == [4.111, None, 1.5]


def test_columns_of_the_file_that_the_view_does_not_know_are_kept_and_wanted(tmp_path: Path) -> None:
    item = view(write(ROWS.with_columns(note=pl.lit("x")), tmp_path / "one.parquet"))
    with pytest.raises(NotAsDeclared, match=r"has no columns: \['note'\]"):
        add(tmp_path, item, ROWS)
    add(tmp_path, item, ROWS.with_columns(note=pl.lit("y")))
    assert pl.read_parquet(tmp_path / "one.parquet")["note"].to_list() == ["x", "x", "y", "y"]


def test_file_narrower_than_the_declared_type_is_told(tmp_path: Path) -> None:
    item = view(write(ROWS.with_columns(pl.col("minutes").cast(pl.Float32)), tmp_path / "one.parquet"))
    with pytest.raises(NotAsDeclared, match=r"'minutes' .* is double, but the source's files hold float, .* write the"):
        add(tmp_path, item, ROWS.with_columns(minutes=pl.lit(4.111)))


def test_column_twice_is_refused(tmp_path: Path) -> None:
    table = ROWS.to_arrow()
    with pytest.raises(NotAsDeclared, match=r"has columns twice: \['orders'\]: name each once"):
        add(tmp_path, view(tmp_path / "rows"), table.append_column("orders", table["orders"]))


@pytest.mark.parametrize("name", PLACES)
def test_no_rows_write_no_file(tmp_path: Path, name: str) -> None:
    add(tmp_path, view(tmp_path / name), ROWS.clear())
    assert not (tmp_path / name).exists()


def test_index_of_a_data_frame_is_no_column(tmp_path: Path) -> None:
    item = view(write(ROWS, tmp_path / "one.parquet"))
    opened = store(tmp_path / "registry", [item])
    frame = history([("c", 0, 0, 3)]).to_pandas().set_index(pd.Index([7]))
    opened.write_to_offline_store("restaurant_stats", frame)
    assert orders(tmp_path, item, "c") == [3]


def test_mapped_columns_are_written_under_the_files_names(tmp_path: Path) -> None:
    rows = ROWS.rename({"orders": "n_ord"})
    item = view(write(rows, tmp_path / "one.parquet"), field_mapping={"n_ord": "orders"})
    add(tmp_path, item, history([("c", 0, 0, 3)]))  # Feast hands over the view's names
    add(tmp_path, item, history([("d", 0, 0, 4)]).rename({"orders": "n_ord"}))
    assert orders(tmp_path, item, "a", "c", "d") == [1, 3, 4]


def test_lists_are_written_as_the_view_declares_them(tmp_path: Path) -> None:
    item = FeatureView(
        name="lists", entities=[restaurant],
        schema=[Field(name="restaurant_id", dtype=String), Field(name="orders", dtype=Array(Int64))],
        source=FileSource(path=str(tmp_path / "rows"), timestamp_field="event_timestamp"),
    )  # fmt: skip
    columns = {"restaurant_id": ["a", "b", "c"], "event_timestamp": [at(0)] * 3}
    add(tmp_path, item, pa.table({**columns, "orders": [[1.0, 2.0], [], None]}))
    with pytest.raises(NotAsDeclared, match=r"'orders' .* has string"):
        add(tmp_path, item, pa.table({**columns, "orders": [["x"], [], None]}))
    found = orders(tmp_path, item, "a", "b", "c")
    assert [None if value is None else list(value) for value in found] == [[1, 2], [], None]


def test_single_precision_is_the_same_number_online_and_offline(tmp_path: Path) -> None:
    item = FeatureView(
        name="single", entities=[restaurant],
        schema=[Field(name="restaurant_id", dtype=String), Field(name="orders", dtype=Float32)],
        source=FileSource(path=str(tmp_path / "r.parquet"), timestamp_field="event_timestamp"),
    )  # fmt: skip
    write(ROWS.with_columns(orders=pl.lit(4.111)), tmp_path / "r.parquet")
    assert orders(tmp_path, item, "a") == [4.111000061035156]


def test_values_of_a_source_that_are_not_as_declared_are_refused_by_name(tmp_path: Path) -> None:
    item = view(write(ROWS.with_columns(orders=pl.lit(3.5)), tmp_path / "r.parquet"))
    with pytest.raises(NotAsDeclared, match=r"'orders' is declared Int64, but its source .*r\.parquet has 3\.5"):
        orders(tmp_path, item, "a")


@pytest.mark.parametrize(
    ("number", "advice"), [(errno.ENOSPC, "free space there"), (errno.EACCES, "give this user the right")]
)
@pytest.mark.parametrize("name", PLACES)
def test_disk_that_takes_nothing_is_told_and_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, number: int, advice: str
) -> None:
    item = view(tmp_path / name)
    add(tmp_path, item, ROWS)
    before = files(tmp_path / name)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(number, "no")

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(UnwritableSource, match=rf"{tmp_path}.* cannot be written \(no\): {advice}") as error:
        add(tmp_path, item, ROWS)
    assert error.value.errno == number
    assert files(tmp_path / name) == before
    assert not list(tmp_path.rglob("*.tmp"))


def test_directory_below_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UnwritableSource, match=r"cannot be written .* a part of that path is a file"):
        add(tmp_path, view(tmp_path / "file" / "rows"), ROWS)


def test_batch_of_several_days_is_there_as_a_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, real = [], pq.write_table

    def second_fails(*arguments: Any, **options: Any) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "no")
        real(*arguments, **options)

    monkeypatch.setattr(pq, "write_table", second_fails)
    with pytest.raises(UnwritableSource):
        add(tmp_path, view(tmp_path / "rows"), history([("a", 0, 0, 1), ("a", 24 * 60, 0, 2)]), day_partitions=True)
    assert files(tmp_path / "rows") == {}


def test_damaged_file_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "one.parquet").write_text("damaged")
    with pytest.raises(UnusableSource, match=r"one\.parquet cannot be read as Parquet"):
        add(tmp_path, view(tmp_path / "one.parquet"), ROWS)
    assert (tmp_path / "one.parquet").read_text() == "damaged"

"""Partitioned tables: a window is replaced whole, twice is once, and a killed write leaves no trace."""

from __future__ import annotations

import multiprocessing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from feature_repo.lake import TIMESTAMP, CorruptPartition, PartitionedTable
from feature_repo.window import HOUR, Window

MIDNIGHT = datetime(2026, 5, 2, tzinfo=UTC)
SCHEMA = {"key": pl.String(), "at": TIMESTAMP, "value": pl.Int64()}


def table(root: Path) -> PartitionedTable:
    return PartitionedTable(root / "things", "at", SCHEMA, ["at", "key"])


def rows(*values: tuple[str, datetime, int | None]) -> pl.DataFrame:
    return pl.DataFrame(values, schema=SCHEMA, orient="row")


def window(hours_before: int, hours_after: int) -> Window:
    return Window(MIDNIGHT - hours_before * HOUR, MIDNIGHT + hours_after * HOUR)


def test_rows_come_back_in_order_whatever_the_partition(tmp_path: Path) -> None:
    things = table(tmp_path)
    content = rows(("b", MIDNIGHT, 2), ("a", MIDNIGHT - HOUR, 1), ("a", MIDNIGHT, None))
    assert things.replace(window(1, 1), content) == 3
    assert things.read().rows() == [("a", MIDNIGHT - HOUR, 1), ("a", MIDNIGHT, None), ("b", MIDNIGHT, 2)]
    assert [path.parent.name for path in things.files()] == ["day=2026-05-01", "day=2026-05-02"]


def test_replacing_a_window_leaves_the_rest_alone(tmp_path: Path) -> None:
    things = table(tmp_path)
    things.replace(window(2, 2), rows(("a", MIDNIGHT - 2 * HOUR, 1), ("a", MIDNIGHT - HOUR, 2), ("a", MIDNIGHT, 3)))
    things.replace(window(1, 0), rows(("z", MIDNIGHT - HOUR, 9)))
    assert things.read()["key"].to_list() == ["a", "z", "a"]


def test_writing_the_same_twice_is_writing_it_once(tmp_path: Path) -> None:
    things = table(tmp_path)
    content = rows(("a", MIDNIGHT - HOUR, 1), ("a", MIDNIGHT, 2))
    things.replace(window(1, 1), content)
    before = things.content_hash()
    things.replace(window(1, 1), content.reverse())
    assert things.content_hash() == before


def test_the_hash_does_not_depend_on_how_the_rows_were_written(tmp_path: Path) -> None:
    whole, parts = table(tmp_path / "whole"), table(tmp_path / "parts")
    first, second = rows(("a", MIDNIGHT - HOUR, 1)), rows(("a", MIDNIGHT, 2))
    whole.replace(window(1, 1), pl.concat([first, second]))
    parts.replace(window(0, 1), second)
    parts.replace(window(1, 0), first)
    assert whole.content_hash() == parts.content_hash()


def test_the_hash_changes_with_one_value(tmp_path: Path) -> None:
    one, other = table(tmp_path / "one"), table(tmp_path / "other")
    one.replace(window(0, 1), rows(("a", MIDNIGHT, 1)))
    other.replace(window(0, 1), rows(("a", MIDNIGHT, None)))
    assert one.content_hash() != other.content_hash()


def test_an_emptied_window_leaves_no_file(tmp_path: Path) -> None:
    things = table(tmp_path)
    things.replace(window(0, 1), rows(("a", MIDNIGHT, 1)))
    things.replace(window(0, 1), rows())
    assert things.files() == []
    assert things.read().schema == pl.Schema(SCHEMA)


@pytest.mark.parametrize("at", [MIDNIGHT - timedelta(microseconds=1), MIDNIGHT + HOUR])
def test_a_row_outside_of_the_window_is_refused(tmp_path: Path, at: datetime) -> None:
    with pytest.raises(ValueError, match=r"things: rows from .* do not fit into the window"):
        table(tmp_path).replace(window(0, 1), rows(("a", at, 1)))


def test_a_row_without_a_time_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="1 without a time"):
        table(tmp_path).replace(window(0, 1), rows(("a", None, 1), ("b", MIDNIGHT, 1)))  # type: ignore[arg-type]


def test_a_wrong_type_is_refused_by_name(tmp_path: Path) -> None:
    wrong = rows(("a", MIDNIGHT, 1)).with_columns(pl.col("value").cast(pl.Float64))
    with pytest.raises(ValueError, match=r"wrong column types .*'value'"):
        table(tmp_path).replace(window(0, 1), wrong)


def test_a_missing_column_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"columns \['value'\] are missing"):
        table(tmp_path).replace(window(0, 1), rows(("a", MIDNIGHT, 1)).drop("value"))


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    things = table(tmp_path)
    things.replace(window(0, 1), rows(("a", MIDNIGHT, 1)))
    path = things.files()[0]
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(CorruptPartition, match=str(path)):
        things.read()


def test_a_file_with_another_schema_is_named(tmp_path: Path) -> None:
    things = table(tmp_path)
    things.replace(window(0, 1), rows(("a", MIDNIGHT, 1)))
    nanoseconds = things.read().with_columns(pl.col("at").cast(pl.Datetime("ns", "UTC")))
    nanoseconds.write_parquet(things.files()[0])
    with pytest.raises(CorruptPartition, match="has another schema than its table"):
        things.read()


def test_a_write_killed_half_way_is_invisible_and_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    things = table(tmp_path)
    things.replace(window(1, 1), rows(("a", MIDNIGHT - HOUR, 1), ("a", MIDNIGHT, 1)))
    before = things.content_hash(window(0, 1))
    write = PartitionedTable._write

    def killed_at_the_second_day(self: PartitionedTable, path: Path, content: pl.DataFrame) -> None:
        if path == self.file(MIDNIGHT):
            (path.parent / ".rows-half.tmp").write_bytes(b"PAR1 half")
            raise KeyboardInterrupt
        write(self, path, content)

    content = rows(("a", MIDNIGHT - HOUR, 2), ("a", MIDNIGHT, 2))
    monkeypatch.setattr(PartitionedTable, "_write", killed_at_the_second_day)
    with pytest.raises(KeyboardInterrupt):
        things.replace(window(1, 1), content)
    assert things.content_hash(window(0, 1)) == before
    monkeypatch.undo()
    things.replace(window(1, 1), content)
    assert things.read()["value"].to_list() == [2, 2]


def _write_hours(root: Path, name: str, hours: range) -> None:
    for hour in hours:
        at = MIDNIGHT + hour * HOUR
        table(root).replace(Window(at, at + HOUR), rows((name, at, hour)))


def test_two_writers_of_one_day_lose_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [
        context.Process(target=_write_hours, args=(tmp_path, name, hours))
        for name, hours in (("even", range(0, 24, 2)), ("odd", range(1, 24, 2)))
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert table(tmp_path).read()["value"].to_list() == list(range(24))

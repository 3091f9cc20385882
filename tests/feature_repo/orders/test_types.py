"""Types are of each file: in any order, together or one by one, files give the same orders."""

from __future__ import annotations

import datetime as dt
import itertools
import sqlite3
from decimal import Decimal

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sqlalchemy import create_engine, text

from feature_repo.orders.mapping_file import MappingError

ZONED = dt.datetime(2026, 5, 4, 12, 40, tzinfo=dt.UTC)
PLACED = ZONED.replace(tzinfo=None)
COLUMNS = {"zone_id": "zone", "distance_km": "km", "item_count": "items", "delivered_at": "done", "is_asap": "asap"}
ALL = ["order_id", "restaurant_id", "zone_id", "placed_at", "delivered_at", "is_asap", "distance_km", "item_count"]


def file(intake, name, order="1", **arrays):
    """One order, some of whose columns have the types given."""
    usual = {"order": [order], "shop": ["r1"], "placed": pa.array([ZONED], pa.timestamp("us", "UTC")), "total": [1.5]}
    more = {"zone": ["z"], "km": [2.5], "items": [3], "done": pa.array([ZONED], pa.timestamp("us", "UTC"))}
    path = intake.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({**usual, **more, "asap": [True], **arrays}), path)
    return path


def landed(intake):
    return intake.landed.select([*ALL, "order_value"]).rows()


KINDS = [
    ("total", pa.array([21]), pa.array([21.5])),
    ("total", pa.array([21], pa.int32()), pa.array([Decimal("21.55")])),
    ("total", pa.array([21.25], pa.float32()), pa.array(["21.5"])),
    ("total", pa.array([21.5], pa.float16()), pa.array([2**53 + 1])),
    ("zone", pa.array([1]), pa.array(["01"])),
    ("zone", pa.array([1.0]), pa.array(["01"])),
    ("zone", pa.array([1.0]), pa.array([1])),
    ("zone", pa.array([2**53 + 1]), pa.array([1.0])),
    ("zone", pa.array([2**64 - 1], pa.uint64()), pa.array([-1])),
    ("zone", pa.array(["a"]).dictionary_encode(), pa.array([7], pa.int8())),
    ("zone", pa.array(["a"], pa.large_string()), pa.nulls(1)),
    ("km", pa.nulls(1), pa.array([2.25])),
    ("km", pa.nulls(1), pa.array(["2.25"])),
    ("km", pa.nulls(1), pa.nulls(1)),
    ("items", pa.array([3.0]), pa.array([4])),
    ("done", pa.nulls(1), pa.array([ZONED], pa.timestamp("us", "UTC"))),
    ("done", pa.nulls(1), pa.nulls(1)),
    ("done", pa.array([PLACED], pa.timestamp("us")), pa.array([ZONED], pa.timestamp("ms", "Asia/Tokyo"))),
    ("done", pa.array([PLACED], pa.timestamp("ns")), pa.array(["2026-05-04T13:00:00+02:00"])),
    ("done", pa.array([ZONED], pa.timestamp("ns", "UTC")), pa.array([ZONED], pa.timestamp("s", "UTC"))),
    ("asap", pa.array([True]), pa.array(["false"])),
]


@pytest.mark.parametrize(("column", "first", "second"), KINDS)
def test_two_files_give_the_same_orders_together_in_any_order_and_one_by_one(intake, settings, column, first, second):
    results = []
    for patterns in (["first-*.parquet"], ["second-*.parquet"], ["first-1.parquet", "first-2.parquet"]):
        intake.settings = settings.model_copy(update={"data_dir": settings.data_dir / str(len(results))})
        for (place, order), array in zip((("first-1", "1"), ("first-2", "2")), (first, second), strict=True):
            file(intake, f"{place}.parquet", order, **{column: array})
            file(intake, f"second-{3 - int(order)}.parquet", order, **{column: array})
        for pattern in patterns:
            # The zone is said: times without one would be refused beside times with one.
            intake.bring(intake.folder / pattern, {"format": "parquet"}, COLUMNS, time={"zone": "UTC"})
            assert intake.report.refused == {}
        results.append(landed(intake))
    assert len(results[0]) == 2
    assert results == [results[0]] * 3


def test_values_keep_what_their_own_file_says(intake):
    file(intake, "1.parquet", "1", zone=[1], total=[21], done=pa.array([PLACED], pa.timestamp("ns")), km=pa.nulls(1))
    file(intake, "2.parquet", "2", zone=["01"], total=[21.5])
    file(intake, "3.parquet", "3", zone=[1.0], total=["22.5"], km=["4.5"])
    intake.bring(intake.folder / "*.parquet", {"format": "parquet"}, COLUMNS, time={"zone": "UTC"})
    assert intake.rows("order_id", "zone_id", "order_value", "delivered_at", "distance_km") == [
        ("1", "1", 21.0, ZONED, None),
        ("2", "01", 21.5, ZONED, 2.5),
        ("3", "1", 22.5, ZONED, 4.5),
    ]


def test_an_expression_that_does_not_fit_one_file_s_types_names_it_and_the_others(intake):
    file(intake, "1.parquet", "1", total=[21])
    file(intake, "2.parquet", "2", total=["21"])
    with pytest.raises(
        MappingError, match=r"(?s)order_value.*This is so in .*2.parquet, whose .* than those of .*1.parq"
    ):
        intake.bring(intake.folder / "*.parquet", {"format": "parquet"}, {"order_value": "total * 2"})


def test_a_filter_and_a_refused_row_know_every_file(intake):
    file(intake, "1.parquet", "1", zone=[1], items=[2.5])
    file(intake, "2.parquet", "2", zone=["x"])
    file(intake, "3.parquet", "3", zone=["01"], items=["many"])
    file(intake, "4.parquet", "4")
    where = "CAST(zone AS VARCHAR) <> 'x'"
    intake.bring(intake.folder / "*.parquet", {"format": "parquet"}, {**COLUMNS, "zone_id": "zone"}, where=where)
    assert (intake.report.rows_read, intake.report.rows_filtered) == (4, 1)
    rows = intake.landed.select("order_id", "source_row").rows()
    assert [order for order, _ in rows] == ["1", "3", "4"]
    assert '"items":2.5' in rows[0][1]
    assert '"items":"many"' in rows[1][1]


def test_column_names_differ_in_case_and_white_space_between_files(intake):
    for number, names in enumerate((["order", "Shop", "placed"], ["ORDER ", "shop", " Placed"]), 1):
        table = pa.table([[str(number)], ["r1"], pa.array([ZONED], pa.timestamp("us", "UTC"))], names=names)
        intake.folder.mkdir(exist_ok=True)
        pq.write_table(table, intake.folder / f"{number}.parquet")
    intake.bring(intake.folder / "*.parquet", {"format": "parquet"}, {"order_value": None})
    assert intake.rows("order_id", "restaurant_id") == [("1", "r1"), ("2", "r1")]


def test_two_columns_that_differ_in_case_only_are_refused(intake):
    intake.folder.mkdir()
    pq.write_table(pa.table([["1"], ["2"]], names=["Shop", " shop"]), intake.folder / "1.parquet")
    with pytest.raises(
        MappingError, match=r"1.parquet has more than one column 'shop' \(case and blanks do not count\)"
    ):
        intake.bring(intake.folder / "1.parquet", {"format": "parquet"})


@pytest.mark.parametrize("format", ["csv", "parquet"])
def test_folder_names_are_text_whatever_they_look_like(intake, format):
    for number, zone in enumerate(("zone=01", "zone=a%20b", "zone=__HIVE_DEFAULT_PARTITION__"), 1):
        if format == "csv":
            intake.write(f"order,shop,placed,total\n{number},r1,2026-05-04 12:40,1\n", f"{zone}/{number}.csv")
        else:
            file(intake, f"{zone}/{number}.parquet", str(number))
            table = pq.read_table(intake.folder / zone / f"{number}.parquet", partitioning=None)
            pq.write_table(table.drop_columns("zone"), intake.folder / zone / f"{number}.parquet")
    for orders in ("zone=01/*", "zone*/*"):
        intake.bring(intake.folder / orders, {"format": format}, {"zone_id": "zone"})
    assert intake.rows("order_id", "zone_id") == [("1", "01"), ("2", "a b"), ("3", None)]


def test_a_column_of_the_file_counts_more_than_its_folder(intake):
    file(intake, "zone=01/1.parquet", zone=["07"])
    intake.bring(intake.folder / "zone=01/1.parquet", {"format": "parquet"}, {"zone_id": "zone"})
    assert intake.rows("zone_id") == [("07",)]


@pytest.mark.parametrize(
    "array",
    [pa.array([["r1"]]), pa.array([{"id": "r1"}]), pa.array([[("a", "r1")]], pa.map_(pa.string(), pa.string()))],
)
def test_a_nested_column_is_no_value(intake, array):
    path = file(intake, "1.parquet", total=array)
    with pytest.raises(MappingError, match=r"columns.order_value: 'total' has type .*, which is more than one value"):
        intake.bring(path, {"format": "parquet"})


def test_csv_files_lack_columns_and_use_their_own_signs_in_any_order(intake, settings):
    contents = {
        "a.csv": "order,shop,placed,total\n1,r1,2026-05-04 12:00,NA\n",
        "b.csv": "total;PLACED;order;shop;extra\n2;2026-05-04 12:00;2;NA;x\n",
        "c.csv": "order\tshop\tplaced\n3\tr3\t2026-05-04 12:00\n",
    }
    results = []
    for number, names in enumerate(itertools.permutations(contents)):
        intake.settings = settings.model_copy(update={"data_dir": settings.data_dir / str(number)})
        for place, name in enumerate(names):
            intake.write(contents[name], f"{number}/{place}.csv")
        intake.bring(intake.folder / str(number) / "*.csv", {"null_values": ["", "NA"]})
        results.append(intake.rows())
    assert results == [[("1", "r1", None), ("2", None, 2.0), ("3", "r3", None)]] * 6


def test_a_database_s_numbers_are_the_same_ids_in_whatever_type_they_come(intake):
    intake.folder.mkdir()
    with sqlite3.connect(intake.folder / "shop.db") as database:
        database.execute('CREATE TABLE orders ("order", shop, placed, total)')
        for number, shop in enumerate((7, 7.0, "7", "07", 7.5, b"7"), 1):
            database.execute("INSERT INTO orders VALUES (?, ?, '2026-05-04 12:00', 1)", (number, shop))
    intake.bring(f"sqlite:///{intake.folder / 'shop.db'}", {"format": "sql", "table": "orders"})
    assert [shop for (shop,) in intake.rows("restaurant_id")] == ["7", "7", "7", "07", "7.5", "37"]


def test_a_duckdb_table_keeps_its_types(intake):
    import duckdb

    intake.folder.mkdir()
    with duckdb.connect(str(intake.folder / "shop.duckdb")) as database:
        database.execute(
            "CREATE TABLE orders AS SELECT 1.0::DOUBLE AS \"order\", '01' AS shop, NULL AS total, NULL AS done, "
            "TIMESTAMP_NS '2026-05-04 12:40:00' AS placed"
        )
    read = {"format": "sql", "table": "orders"}
    intake.bring(intake.folder / "shop.duckdb", read)
    assert intake.rows() == [("1", "01", None)]


def test_the_database_s_own_words_are_shown_whole(intake):
    intake.folder.mkdir()
    create_engine(f"sqlite:///{intake.folder / 'shop.db'}").connect().execute(text("CREATE TABLE t (a)"))
    read = {"format": "sql", "query": "SELECT other\nFROM t"}
    with pytest.raises(MappingError, match=r"(?s)no such column: other.*\[SQL: SELECT other\nFROM t\]"):
        intake.bring(f"sqlite:///{intake.folder / 'shop.db'}", read)


def test_many_rows_of_several_files_are_numbered_on(intake):
    for number, zone in enumerate(([1], ["a"], [2], ["b"]), 1):
        file(intake, f"{number}.parquet", "same", zone=zone)
    intake.bring(
        intake.folder / "*.parquet", {"format": "parquet"}, {"order_id": "'n' || row_number", "zone_id": "zone"}
    )
    assert intake.rows("order_id", "zone_id") == [("n1", "1"), ("n2", "a"), ("n3", "2"), ("n4", "b")]
    assert isinstance(intake.landed, pl.DataFrame)

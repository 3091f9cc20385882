"""The same id through every door: CSV, Parquet, DuckDB, SQLite and the landing folder give one text, or one refusal."""

from __future__ import annotations

import sqlite3
from typing import Any

import duckdb
import polars as pl
import pytest
import yaml

from feature_repo.ids import BLANK, NoId, read_id
from feature_repo.orders import LandingError, read_landing
from feature_repo.orders.mapping_file import MappingError
from feature_repo.window import HOUR, Window
from tests.feature_repo.orders.bringing import bring, landed, outcomes, reasons
from tests.feature_repo.orders.builders import NOON, complete, land, placed
from tests.feature_repo.test_ids import CHANGED, REFUSED, SAME

PLACED = "2026-05-04 12:00:00"
_UNWRITABLE = set('\r\n\x00\x85\u2028\ud800"')
WRITABLE = [text for text in (*SAME, *CHANGED, *REFUSED) if not set(text) & _UNWRITABLE and text != "x" * 129]
FLOATS = [1.0, 42.0, -0.0, 2.0**53 - 1, 2.0**53, 1e17, 1.5, float("nan"), float("inf"), None]
SINGLES = [7.0, 2.0**24 - 1, 2.0**24, 0.5, None]
INTEGERS = [0, 5, -3, 2**62, None]


def expected(value: Any) -> str | None:
    """What the rule says: the id, `bad_id`, or None where there is none."""
    if value is None:
        return None
    try:
        return read_id(value)
    except NoId as error:
        return None if str(error) == BLANK else "bad_id"


def frame(values: list, dtype: Any = None) -> pl.DataFrame:
    numbers = [str(number) for number in range(100, 100 + len(values))]
    return pl.DataFrame({"id": numbers, "shop": "r1", "placed": PLACED, "zone": pl.Series(values, dtype=dtype)})


def by_order(values: list) -> dict[str, str | None]:
    return {str(100 + number): expected(value) for number, value in enumerate(values)}


def through_landing(settings, values: pl.Series) -> dict[str, str | None]:
    path = land(settings, *[placed(str(100 + number)) for number in range(len(values))], name="by-hand")
    pl.read_parquet(path).with_columns(zone_id=values).write_parquet(path)
    complete(settings, NOON + HOUR)
    batch = read_landing(Window(NOON, NOON + HOUR), settings).select("order_id", "zone_id", "refused_rule")
    return {order: rule or zone for order, zone, rule in batch.rows()}


def test_texts_of_a_csv_file(settings):
    report = bring(
        ["id,shop,placed,zone", *(f'{row[0]},r1,{PLACED},"{row[3]}"' for row in frame(WRITABLE).rows())],
        settings,
        columns={"zone_id": "zone"},
    )
    assert outcomes(settings, "zone_id") == by_order(WRITABLE)
    assert any("ids were put into their one form: zone_id in" in sentence for sentence in report.told)
    assert "1.23E+11" in " ".join(reasons(settings).values())


def test_texts_of_a_parquet_file(settings, tmp_path):
    values = [text for text in (*SAME, *CHANGED, *REFUSED) if "\ud800" not in text]
    frame(values).write_parquet(tmp_path / "o.parquet")
    bring(tmp_path / "o.parquet", settings, columns={"zone_id": "zone"})
    assert outcomes(settings, "zone_id") == by_order(values)


@pytest.mark.parametrize(
    ("values", "dtype"),
    [(FLOATS, pl.Float64), (SINGLES, pl.Float32), (INTEGERS, pl.Int64), (["a", "nan", None], pl.Categorical)],
)
def test_types_of_a_parquet_file_and_of_the_landing_folder(settings, tmp_path, values, dtype):
    rows = frame(values, dtype)
    rows.write_parquet(tmp_path / "o.parquet")
    bring(tmp_path / "o.parquet", settings, columns={"zone_id": "zone"})
    wanted = by_order(values)
    if dtype == pl.Float32:
        wanted["102"] = "bad_id"  # 2**24 and 2**24 + 1 are one number in single precision
    assert outcomes(settings, "zone_id") == wanted
    other = settings.model_copy(update={"data_dir": tmp_path / "by-hand"})
    assert through_landing(other, rows["zone"]) == wanted


def test_texts_in_the_landing_folder(settings, caplog):
    values = [text for text in (*SAME, *CHANGED, *REFUSED) if "\ud800" not in text]
    assert through_landing(settings, pl.Series(values)) == by_order(values)
    assert "by-hand.parquet: zone_id was put into its one form in" in caplog.text


def test_what_a_landing_file_said_is_kept_with_the_refusal(settings):
    path = land(settings, placed("o1"), placed("o2"))
    pl.read_parquet(path).with_columns(driver_id=pl.Series(["d1", "undefined"])).write_parquet(path)
    complete(settings, NOON + HOUR)
    kept = read_landing(Window(NOON, NOON + HOUR), settings).filter(order_id="o2").to_dicts()[0]
    assert (kept["refused_rule"], kept["driver_id"]) == ("bad_id", None)
    assert kept["refused_reason"].startswith('column driver_id: "undefined" is how programs write')
    assert '"driver_id":"undefined"' in kept["source_row"]


def test_truth_values_are_no_ids_anywhere(settings, tmp_path):
    rows = frame([True, False])
    rows.write_parquet(tmp_path / "o.parquet")
    with pytest.raises(MappingError, match=r"columns.zone_id: 'zone' is true or false, which is no id"):
        bring(tmp_path / "o.parquet", settings, columns={"zone_id": "zone"})
    with pytest.raises(LandingError, match=r"column zone_id has type Boolean"):
        through_landing(settings, rows["zone"])


def test_databases_give_what_files_give(settings, tmp_path):
    values = ["r\u00a01", "nan", "42.0", "042"]
    rows = [(str(100 + number), "r1", PLACED, value) for number, value in enumerate(values)]
    with sqlite3.connect(tmp_path / "shop.db") as lite, duckdb.connect(str(tmp_path / "shop.duckdb")) as duck:
        for database in (lite, duck):
            database.execute("CREATE TABLE o (id TEXT, shop TEXT, placed TEXT, zone TEXT)")
            database.executemany("INSERT INTO o VALUES (?, ?, ?, ?)", rows)
    for number, url in enumerate((f"sqlite:///{tmp_path}/shop.db", f"duckdb:///{tmp_path}/shop.duckdb")):
        own = settings.model_copy(update={"data_dir": tmp_path / str(number)})
        bring(url, own, read={"format": "sql", "table": "o"}, columns={"zone_id": "zone"})
        assert outcomes(own, "zone_id") == by_order(values)


@pytest.mark.parametrize("column", ["order_id", "restaurant_id", "driver_id", "customer_id", "zone_id"])
def test_every_id_column_is_read_by_the_rule(settings, column):
    lines = ["id,shop,placed,odd", f"1,r1,{PLACED},nan", f"2,r1,{PLACED},x\u00a01", f"3,r1,{PLACED},"]
    report = bring(lines, settings, columns={column: "odd"})
    assert report.refused == {"bad_id": 1}
    assert landed(settings)[column].drop_nulls().is_in(["x 1", "r1", "1", "2", "3"]).all()
    assert f'column {column}: "nan" is how programs write' in report.examples[0]
    assert any(f"{column} in 1 rows, for example 'x\\xa01' is 'x 1'" in sentence for sentence in report.told)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("order_id", 7, r"order_id: '7' is the same in every row"),
        ("order_id", "'a' || 'b'", r"order_id: .* is the same in every row, and an order_id is of one order only"),
        ("zone_id", True, r"zone_id: 'true' is true or false"),
        ("zone_id", "id = '1'", r"is true or false, which is no id"),
        ("zone_id", 1.5, r"zone_id: the constant '1.5' is a fraction"),
        ("zone_id", 1e17, r"zone_id: the constant '1e\+17' is a floating-point number so large"),
        ("zone_id", "'nan'", r"zone_id: the constant \"'nan'\" is how programs write that there is none"),
        ("zone_id", "Berlin", r"no column 'Berlin'.*A constant is written \"'Berlin'\""),
        ("zone_id", "No", r"no column 'No'"),
        ("zone_id", "010", r"zone_id: '010' as a number is 10: write \"'010'\" if it is meant as text"),
        ("zone_id", "1_000", r"'1_000' as a number is 1000"),
        ("zone_id", "2026-05-01", r"'2026-05-01' as a number is 2020"),
        ("zone_id", "DATE '2026-05-01'", r"has type DATE, which is no id"),
        ("zone_id", "[1, 2]", r"has type INTEGER\[\], which is no id"),
    ],
)
def test_a_constant_that_is_no_id_is_told_at_once(settings, column, value, message):
    with pytest.raises(MappingError, match=message):
        bring(["id,shop,placed", f"1,r1,{PLACED}"], settings, columns={column: value})


@pytest.mark.parametrize(("value", "zone"), [(7, "7"), (1.0, "1"), ("'Berlin'", "Berlin"), ("'010'", "010")])
def test_a_constant_is_told(settings, value, zone):
    report = bring(["id,shop,placed", f"1,r1,{PLACED}"], settings, columns={"zone_id": value})
    assert landed(settings)["zone_id"].to_list() == [zone]
    assert f"zone_id is {zone!r} in every row: a constant of the mapping" in report.summary()


def test_the_words_of_yaml_1_1_are_text(settings, tmp_path):
    mapping = tmp_path / "m.yaml"
    mapping.write_text(
        "name: shop\nread: {format: csv, null_values: ['', No, ~no, 010]}\n"
        "columns: {order_id: On, restaurant_id: Yes, zone_id: No, customer_id: y, placed_at: 12:30:00}\n"
    )
    from feature_repo.orders.mapping_file import load_mapping

    plan = load_mapping(mapping)
    assert [*plan.columns.values()] == ["On", "Yes", "No", "y", "12:30:00"]
    assert plan.read.null_values == ["", "No", "~no", "010"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("7", 7),
        ("-7", -7),
        ("1.5", 1.5),
        (".5", 0.5),
        *((word, word) for word in ["yes", "No", "ON", "off", "y", "N"]),
        *(
            (word, word)
            for word in ["010", "0x10", "0o7", "1_000", "12:30:00", "2026-05-01", "1e3", ".inf", ".nan", "="]
        ),
    ],
)
def test_plain_words_of_a_mapping_are_what_yaml_1_2_says(text, value):
    from feature_repo.orders.mapping_file import _StrictLoader

    assert yaml.load(f"a: {text}", _StrictLoader) == {"a": value}

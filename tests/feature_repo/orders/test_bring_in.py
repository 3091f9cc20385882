"""Bringing in other people's orders: what lands, what is refused and why, and what is no usable mapping."""

from __future__ import annotations

import os
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import polars as pl
import pytest
import yaml

from feature_repo.orders import orders_table, read_landing, read_watermark
from feature_repo.orders.__main__ import main
from feature_repo.orders.mapping import bring_in
from feature_repo.orders.mapping_file import MappingError
from feature_repo.orders.schema import LAKE_SCHEMA
from feature_repo.orders.watermark import Watermark, write_watermark
from feature_repo.window import Window
from tests.feature_repo.orders.builders import NOON, land, placed

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
HEADER = "id,shop,placed,delivered,km,items,value"
ROW = "1,r1,2026-05-04 12:00:00,2026-05-04 12:30:00,2.5,2,20.5"
COLUMNS = {
    "order_id": "id",
    "restaurant_id": "shop",
    "placed_at": "placed",
    "delivered_at": "delivered",
    "distance_km": "km",
    "item_count": "items",
    "order_value": "value",
}


@pytest.fixture
def ingest(tmp_path, settings):
    """Bring in CSV lines (or other orders) with the mapping above, changed by keyword."""

    def run(*lines, orders=None, columns=None, now=None, **changes):
        content = {"name": "shop", "read": {"format": "csv"}, "columns": {**COLUMNS, **(columns or {})}, **changes}
        mapping = tmp_path / "mapping.yaml"
        mapping.write_text(yaml.safe_dump(content))
        if orders is None:
            orders = tmp_path / "orders.csv"
            orders.write_text("\n".join([HEADER, *lines]) + "\n")
        return bring_in(str(orders), mapping, settings, now=now)

    return run


def landed(settings):
    files = sorted(settings.landing_orders.glob("day=*/*.parquet"))
    return pl.concat([pl.read_parquet(path) for path in files]).sort("order_id", "updated_at") if files else None


def good(settings):
    return landed(settings).filter(pl.col("refused_rule").is_null())


def refused(settings):
    return landed(settings).filter(pl.col("refused_rule").is_not_null())


def utc(text):
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def test_a_row_becomes_a_version_with_defaults_for_what_is_not_mapped(ingest, settings):
    report = ingest(ROW)
    row = good(settings).to_dicts()[0]
    assert row["placed_at"] == NOON
    assert (row["order_id"], row["restaurant_id"], row["distance_km"], row["item_count"]) == ("1", "r1", 2.5, 2)
    assert (row["status"], row["is_asap"], row["driver_id"]) == ("delivered", True, None)
    assert row["updated_at"] == row["delivered_at"] == utc("2026-05-04 12:30")
    assert (report.rows_read, report.landed, report.refused) == (1, 1, {})
    assert read_watermark(settings) == Watermark(utc("2026-05-04 13:00"), "shop", NOON)


def test_the_landed_orders_can_be_read_as_a_window(ingest, settings):
    ingest(ROW, "2,r1,2026-05-04 23:50:00,2026-05-05 00:20:00,1,1,9")
    assert sorted(path.parent.name for path in settings.landing_orders.glob("day=*/*")) == [
        "day=2026-05-04",
        "day=2026-05-05",
    ]
    batch = read_landing(Window(NOON, utc("2026-05-05 01:00")), settings)
    assert batch["order_id"].to_list() == ["1", "2"]


@pytest.mark.parametrize(
    ("until", "complete"), [("12:59:59.999999", "13:00"), ("13:00:00", "14:00"), ("12:30:00", "13:00")]
)
def test_the_watermark_is_the_full_hour_after_the_last_version(ingest, settings, until, complete):
    ingest(f"1,r1,2026-05-04 12:00:00,2026-05-04 {until},1,1,1")
    assert read_watermark(settings).complete_until == utc(f"2026-05-04 {complete}")


@pytest.mark.parametrize(
    ("text", "time", "expected"),
    [
        ("2026-05-04 14:00:00", {"zone": "Europe/Paris"}, "2026-05-04 12:00"),
        ("2026-05-04T14:00:00+02:00", {"zone": "Asia/Tokyo"}, "2026-05-04 12:00"),
        ("04/05/2026 14.00", {"zone": "Europe/Paris", "formats": ["%d/%m/%Y %H.%M"]}, "2026-05-04 12:00"),
        ("2026-01-04 13:00", {"zone": "Europe/Paris", "formats": ["%Y", "%Y-%m-%d %H:%M"]}, "2026-01-04 12:00"),
        ("2026-05-04 14:00 +0200", {"formats": ["%Y-%m-%d %H:%M %z"]}, "2026-05-04 12:00"),
        ("1777896000", {"formats": ["unix"]}, "2026-05-04 12:00"),
        ("1777896000000", {"formats": ["unix_ms"]}, "2026-05-04 12:00"),
    ],
)
def test_times_are_read_in_the_mapping_s_zone_and_formats(ingest, settings, text, time, expected):
    ingest(f"1,r1,{text},,1,1,1", time=time)
    assert good(settings)["placed_at"].item() == utc(expected)


@pytest.mark.parametrize(
    ("column", "row", "reason"),
    [
        ("placed_at", "2,r1,yesterday,2026-05-04 12:30:00,1,1,1", 'column placed_at: "yesterday" is no time'),
        ("placed_at", "2,r1,1869-05-04 12:00:00,2026-05-04 12:30:00,1,1,1", '"1869-05-04 12:00:00" is no time'),
        ("distance_km", "2,r1,2026-05-04 12:00:00,,far,1,1", 'column distance_km: "far" is no number'),
        ("distance_km", "2,r1,2026-05-04 12:00:00,,inf,1,1", 'column distance_km: "inf" is no number'),
        ("item_count", "2,r1,2026-05-04 12:00:00,,1,2.5,1", 'column item_count: "2.5" is no whole number'),
    ],
)
def test_a_value_that_does_not_convert_refuses_the_row_and_is_named(ingest, settings, column, row, reason):
    report = ingest(*[ROW] * 5, row, quarantine={"max_share": 0.5})
    kept = refused(settings).to_dicts()[0]
    assert (kept["order_id"], kept["refused_rule"], kept[column]) == ("2", "unparsable", None)
    assert reason in kept["refused_reason"]
    assert row.split(",")[2] in kept["source_row"]
    assert report.refused == {"unparsable": 1}
    assert reason in report.examples[0]


def test_empty_values_are_null_and_no_reason_to_refuse(ingest, settings):
    ingest("1,r1,2026-05-04 12:00:00,,,  ,")
    row = good(settings).to_dicts()[0]
    assert (row["delivered_at"], row["distance_km"], row["item_count"]) == (None, None, None)
    assert row["status"] == "placed"


def test_an_expression_that_fails_on_a_row_refuses_that_row_only(ingest, settings):
    columns = {"distance_km": "CAST(km AS DOUBLE) / 1000", "promised_minutes": "CAST(km AS DOUBLE) / 1000"}
    ingest(ROW, "2,r1,2026-05-04 12:00:00,,far,1,1", columns=columns, quarantine={"max_share": 0.5})
    assert good(settings)["distance_km"].to_list() == [0.0025]
    assert (
        "column distance_km: the expression CAST(km AS DOUBLE) / 1000 fails"
        in refused(settings)["refused_reason"].item()
    )


def test_a_refused_row_reaches_the_quarantine_through_the_run_of_its_hour(ingest, settings):
    from feature_repo.quality import validate_orders

    ingest(*[ROW] * 5, "2,r1,soon,2026-05-04 12:30:00,1,1,1", quarantine={"max_share": 0.5})
    window = Window(NOON, utc("2026-05-04 13:00"))
    verdict = validate_orders(read_landing(window, settings), window, settings)
    row = verdict.rejected.to_dicts()[0]
    assert (row["order_id"], row["rule"], row["known_at"]) == ("2", "unparsable", utc("2026-05-04 12:30"))
    assert '"placed":"soon"' in row["row"]


def test_a_line_that_is_no_csv_row_is_refused_with_its_number(ingest, settings):
    report = ingest(ROW, "2,r1,too,many,columns,in,this,line,by,far", quarantine={"max_share": 0.5})
    kept = refused(settings).to_dicts()[0]
    assert "line 3 of orders.csv is no row of this CSV file" in kept["refused_reason"]
    assert "by,far" in kept["source_row"]
    assert report.rows_read == 2


def test_identical_rows_are_kept_once_and_counted(ingest, settings):
    report = ingest(ROW, ROW, ROW)
    assert (report.landed, report.duplicates, report.refused) == (1, 2, {})


def test_rows_that_contradict_each_other_are_refused_but_the_first(ingest, settings):
    report = ingest(*[ROW] * 4, ROW.replace("20.5", "99"))
    assert good(settings)["order_value"].to_list() == [20.5]
    assert refused(settings)["refused_rule"].to_list() == ["duplicate_order_id"]
    assert "another row (1 of the source) has the same order_id" in refused(settings)["refused_reason"].item()
    assert (report.duplicates, report.refused) == (3, {"duplicate_order_id": 1})


def test_later_states_of_an_order_are_versions_and_no_duplicates(ingest, settings):
    ingest("1,r1,2026-05-04 12:00:00,,1,1,1", ROW)
    assert good(settings)["status"].to_list() == ["placed", "delivered"]


def test_a_row_without_any_time_is_refused(ingest, settings):
    ingest(*[ROW] * 5, "2,r1,,,1,1,1")
    assert refused(settings).select("refused_rule", "arrived_at").row(0) == ("no_time", utc("2026-05-04 12:30"))


def test_versions_from_the_future_are_refused_and_do_not_move_the_watermark(ingest, settings):
    report = ingest(*[ROW] * 5, "2,r1,2096-05-04 12:00:00,,1,1,1", now=utc("2026-06-01"))
    assert report.refused == {"known_in_future": 1}
    assert "known at 2096-05-04 12:00:00 UTC, which is in the future" in report.examples[0]
    assert report.complete_until == utc("2026-05-04 13:00")


def test_filtered_rows_are_counted(ingest, settings):
    report = ingest(ROW, "2,test,2026-05-04 12:00:00,,1,1,1", where="shop <> 'test'")
    assert (report.rows_read, report.rows_filtered, report.landed) == (2, 1, 1)


def test_one_row_can_stand_for_several_versions(ingest, settings):
    versions = [
        {"name": "placed", "unknown": ["delivered_at"], "columns": {"updated_at": "placed"}},
        {"name": "delivered", "where": "delivered IS NOT NULL"},
    ]
    ingest(ROW, "2,r1,2026-05-04 12:10:00,,1,1,1", versions=versions)
    assert good(settings).select("order_id", "status", "updated_at").rows() == [
        ("1", "placed", NOON),
        ("1", "delivered", utc("2026-05-04 12:30")),
        ("2", "placed", utc("2026-05-04 12:10")),
    ]


def test_a_version_that_does_not_convert_is_named_and_leaves_the_others(ingest, settings):
    versions = [
        {"name": "placed", "unknown": ["delivered_at"], "columns": {"updated_at": "placed"}},
        {"name": "delivered"},
    ]
    ingest("1,r1,2026-05-04 12:00:00,late,1,1,1", versions=versions, quarantine={"max_share": 0.5})
    assert good(settings)["status"].to_list() == ["placed"]
    assert refused(settings)["refused_reason"].item() == 'version delivered: column delivered_at: "late" is no time'


def test_constants_and_row_numbers_can_be_mapped(ingest, settings):
    ingest(ROW, ROW, columns={"order_id": "'x' || row_number", "is_asap": False, "promised_minutes": 35})
    rows = good(settings).select("order_id", "is_asap", "promised_minutes").rows()
    assert rows == [("x1", False, 35.0), ("x2", False, 35.0)]


def test_an_expression_sees_source_columns_not_canonical_ones(ingest, tmp_path, settings):
    path = tmp_path / "same.csv"
    path.write_text("order_id,restaurant_id,placed_at,zone_id\n1,r1,2026-05-04 12:00:00,Z\n")
    columns = {"order_id": "lower(zone_id) || order_id", "restaurant_id": "restaurant_id", "zone_id": "'q'"}
    columns |= {"placed_at": "placed_at", **dict.fromkeys(["delivered_at", "distance_km", "item_count", "order_value"])}
    ingest(orders=path, columns=columns)
    assert good(settings).select("order_id", "zone_id").row(0) == ("z1", "q")


def test_running_again_lands_nothing_new(ingest, settings):
    ingest(ROW, *["2,r1,later,,1,1,1"], quarantine={"max_share": 0.5})
    before = {path: path.read_bytes() for path in settings.landing_orders.rglob("*.parquet")}
    report = ingest(ROW, *["2,r1,later,,1,1,1"], quarantine={"max_share": 0.5})
    assert (report.landed, report.already_landed, report.files) == (0, 2, [])
    assert {path: path.read_bytes() for path in settings.landing_orders.rglob("*.parquet")} == before


def test_a_killed_ingestion_is_completed_by_running_it_again(ingest, settings):
    rows = [ROW, "2,r1,2026-05-05 12:00:00,2026-05-05 12:30:00,1,1,1"]
    ingest(*rows)
    whole = landed(settings)
    next(settings.landing_orders.glob("day=2026-05-05/*.parquet")).unlink()
    (settings.landing_orders / "_watermark.json").unlink()
    assert ingest(*rows).landed == 1
    assert landed(settings).equals(whole)


@pytest.mark.parametrize(
    ("now", "written", "complete"),
    [
        ("12:30:20", None, "12:30"),  # exported within the hour of its last version
        ("18:00:00", None, "13:00"),  # the shop has closed since
        ("18:00:00", "12:40:30", "12:40"),  # brought in later than it was exported
        ("18:00:00", "11:00:00", "13:00"),  # its time is that of something else
        ("12:30:20", "11:00:00", "12:30"),
    ],
)
def test_the_watermark_vouches_for_no_time_that_had_not_come(ingest, settings, tmp_path, now, written, complete):
    orders = tmp_path / "export.csv"
    orders.write_text(f"{HEADER}\n{ROW}\n")
    if written:
        os.utime(orders, (utc(f"2026-05-04 {written}").timestamp(),) * 2)
    ingest(orders=orders, now=utc(f"2026-05-04 {now}"))
    assert read_watermark(settings).complete_until == utc(f"2026-05-04 {complete}")


def test_more_orders_move_the_watermark_and_earlier_ones_do_not_move_it_back(ingest, settings):
    ingest(ROW)
    ingest("2,r1,2026-05-06 12:00:00,,1,1,1")
    assert read_watermark(settings).complete_until == utc("2026-05-06 13:00")
    report = ingest("3,r1,2026-05-01 12:00:00,,1,1,1")
    assert report.behind_watermark == 1
    assert "1 versions lie before the earlier watermark" in report.summary()
    assert read_watermark(settings) == Watermark(utc("2026-05-06 13:00"), "shop", utc("2026-05-01 12:00"))


def test_a_glob_reads_all_files_by_column_name(ingest, tmp_path, settings):
    (tmp_path / "part-1.csv").write_text(f"{HEADER}\n{ROW}\n")
    (tmp_path / "part-2.csv").write_text(
        "shop,id,placed,items,value,km,delivered,extra\nr2,2,2026-05-04 13:00:00,1,1,1,,x\n"
    )
    report = ingest(orders=tmp_path / "part-*.csv")
    assert good(settings).select("order_id", "restaurant_id").rows() == [("1", "r1"), ("2", "r2")]
    assert report.rows_read == 2


def parquet_rows():
    return pl.DataFrame(
        {
            "id": [1.0, 2.0],
            "shop": [7, 8],
            "placed": pl.Series([NOON, NOON]).dt.convert_time_zone("Asia/Tokyo"),
            "delivered": pl.Series([None, None], dtype=pl.Datetime("ns")),
            "km": [1.5, None],
            "items": [1, 2],
            "value": ["3.5", "4.5"],
        }
    )


def test_parquet_keeps_its_types(ingest, tmp_path, settings):
    parquet_rows().write_parquet(tmp_path / "orders.parquet")
    ingest(orders=tmp_path / "orders.parquet", read={"format": "parquet"})
    rows = good(settings).select("order_id", "restaurant_id", "placed_at", "distance_km", "order_value").rows()
    assert rows == [("1", "7", NOON, 1.5, 3.5), ("2", "8", NOON, None, 4.5)]


def test_a_database_table_is_read_through_sqlalchemy(ingest, tmp_path, settings):
    with sqlite3.connect(tmp_path / "shop.db") as database:
        database.execute(
            "CREATE TABLE orders (id INTEGER, shop TEXT, placed TEXT, delivered TEXT, km REAL, items, value)"
        )
        database.execute("INSERT INTO orders VALUES (1, 'r1', '2026-05-04 12:00:00', NULL, 1.5, 2, 3.25)")
    report = ingest(orders=f"sqlite:///{tmp_path / 'shop.db'}", read={"format": "sql", "table": "orders"})
    assert good(settings).select("order_id", "distance_km", "item_count", "order_value").row(0) == ("1", 1.5, 2, 3.25)
    assert report.landed == 1


def test_a_database_query_is_read_from_duckdb(ingest, tmp_path, settings):
    with duckdb.connect(str(tmp_path / "shop.duckdb")) as database:
        database.execute(
            "CREATE TABLE o AS SELECT 1 AS id, 'r1' AS shop, TIMESTAMP '2026-05-04 14:00' AS placed, "
            "NULL::TIMESTAMP AS delivered, 1.5 AS km, 2 AS items, 3.25::DECIMAL(9,2) AS value"
        )
    read = {"format": "sql", "query": "SELECT * FROM o WHERE id > 0"}
    ingest(orders=tmp_path / "shop.duckdb", read=read, time={"zone": "Europe/Paris"})
    assert good(settings).select("order_id", "placed_at", "order_value").row(0) == ("1", NOON, 3.25)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"columns": {"resturant_id": "shop"}},
            r"'resturant_id' is not a canonical column. Did you mean 'restaurant_id'\?",
        ),
        ({"columns": {"order_id": None}}, r"columns: \['order_id'\] must be mapped"),
        ({"time": {"zone": "Europe/Pari"}}, r"time.zone: 'Europe/Pari' is no time zone"),
        (
            {"time": {"market_zone": "Kolkatta"}},
            r"time.market_zone: 'Kolkatta' is no time zone; write one like .*Did you mean 'Asia/Kolkata'\?",
        ),
        ({"time": {"zone": "localtime"}}, r"time.zone: 'localtime' is no time zone"),
        ({"time": {"zone": "right/Europe/Paris"}}, r"time.zone: 'right/Europe/Paris' is no time zone"),
        ({"time": {"formats": ["iso"]}}, r"time.formats.0: 'iso' is no time format"),
        ({"colums": {}}, r"colums: unknown field. Did you mean 'columns'\?"),
        ({"read": {"format": "csv", "delimeter": ";"}}, r"read.delimeter: unknown field. Did you mean 'delimiter'\?"),
        ({"read": {"format": "sql"}}, r"read: format sql needs either `table` or `query`"),
        ({"read": {"format": "xml"}}, r"read.format: Input should be 'csv', 'parquet' or 'sql'"),
        ({"name": "my shop"}, r"name: String should match pattern"),
        ({"name": "simulator"}, r"'simulator' is taken"),
        ({"versions": [{"name": "a", "unknown": ["driver"]}]}, r"'driver' is not a canonical column"),
    ],
)
def test_a_faulty_mapping_names_its_file_and_field(ingest, changes, message):
    with pytest.raises(MappingError, match=rf"(?s)mapping.yaml is not a usable mapping.*{message}"):
        ingest(ROW, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"columns": {"zone_id": "Shopp"}},
            r"columns.zone_id: the source has no column 'Shopp'. Did you mean 'shop'\?",
        ),
        (
            {"columns": {"zone_id": "upper(shp)"}},
            r"columns.zone_id: the source has no column 'shp'. Did you mean 'shop'",
        ),
        ({"columns": {"zone_id": "upper(shop"}}, r"columns.zone_id: 'upper\(shop' is no valid SQL expression"),
        ({"columns": {"zone_id": "my zone"}}, r"columns.zone_id: the source has no column 'my zone'"),
        ({"columns": {"zone_id": "nofunc(shop)"}}, r"nofunc does not exist"),
        ({"columns": {"distance_km": "km * 2"}}, r"columns of a CSV file are text: write TRY_CAST"),
        ({"columns": {"zone_id": "max(shop)"}}, r"'max\(shop\)' must give one value from one row"),
        ({"columns": {"zone_id": "random()"}}, r"must give one value from one row"),
        (
            {"columns": {"zone_id": "1) FROM source; SELECT (1"}},
            r"columns.zone_id: .* is more than one expression|no valid",
        ),
        (
            {"columns": {"placed_at": "CAST(items AS INTEGER)"}},
            r"columns.placed_at: .* has type INTEGER, which is no time",
        ),
        ({"where": "shopp = 'a'"}, r"where: the source has no column 'shopp'. Did you mean 'shop'"),
        ({"where": "shop"}, r"where: 'shop' is no condition"),
        ({"where": "shop = 'none'"}, r"filters of mapping 'shop' leave no row"),
        ({"versions": [{"name": "a", "columns": {"zone_id": "zz"}}]}, r"versions.a.columns.zone_id: .* no column 'zz'"),
        ({"versions": [{"name": "a", "where": "zz = 1"}]}, r"versions.a.where: the source has no column 'zz'"),
        (
            {"read": {"format": "csv", "delimiter": ";"}},
            r"the source has no column 'delivered'. It has .*'id,shop,placed",
        ),
        ({"orders": "nowhere/*.csv"}, r"ORDERS=nowhere/\*.csv: no such file"),
        ({"orders": "sqlite:///nowhere.db", "read": {"format": "sql", "table": "t"}}, r"there is no such SQLite file"),
        ({"orders": "nowhere.duckdb", "read": {"format": "sql", "table": "t"}}, r"there is no such DuckDB file"),
        ({"orders": "what is this", "read": {"format": "sql", "table": "t"}}, r"write a SQLAlchemy URL"),
        (
            {"orders": "nodb://me:secret@host/x", "read": {"format": "sql", "table": "t"}},
            r"ORDERS=nodb://me:\*\*\*@host/x",
        ),
    ],
)
def test_a_mapping_that_does_not_fit_its_source_says_where_and_lands_nothing(ingest, settings, changes, message):
    with pytest.raises(MappingError, match=message):
        ingest(ROW, **changes)
    assert landed(settings) is None
    assert read_watermark(settings) is None


def test_a_missing_table_is_named(ingest, tmp_path):
    with sqlite3.connect(tmp_path / "shop.db") as database:
        database.execute("CREATE TABLE other (id INTEGER)")
    with pytest.raises(MappingError, match=r"shop.db cannot be read: .*no such table: orders"):
        ingest(orders=f"sqlite:///{tmp_path / 'shop.db'}", read={"format": "sql", "table": "orders"})


def test_an_empty_file_and_a_file_without_rows_are_named(ingest, tmp_path):
    with pytest.raises(MappingError, match=r"orders.csv has no rows"):
        ingest()
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(MappingError, match=r"empty.csv is an empty file"):
        ingest(orders=tmp_path / "empty.csv")


def test_a_file_that_is_no_parquet_is_named(ingest, tmp_path):
    (tmp_path / "x.parquet").write_text("no parquet at all")
    with pytest.raises(MappingError, match=r"x.parquet cannot be read as parquet"):
        ingest(orders=tmp_path / "x.parquet", read={"format": "parquet"})


def test_too_many_unreadable_rows_land_nothing(ingest, settings):
    bad = "2,r1,2026-05-04 12:00:00,,far,1,1"
    with pytest.raises(MappingError, match=r'(?s)2 of 9 .*\(2 unparsable\).*share of 0.2 .*"far" is no number'):
        ingest(*[f"{number}{ROW}" for number in range(7)], bad, bad.replace("2,", "3,", 1))
    assert landed(settings) is None


def test_a_wrong_time_format_is_told_at_once(ingest):
    with pytest.raises(
        MappingError, match=r"(?s)1 of 1 order versions do not convert .*no time in the formats \['%d/%m/%Y'\]"
    ):
        ingest(ROW, time={"formats": ["%d/%m/%Y"]})


def test_the_landing_of_another_source_is_refused(ingest, settings):
    write_watermark(settings, Watermark(NOON, "simulator", NOON))
    with pytest.raises(
        MappingError, match=r"belongs to the source 'simulator'.*use another data directory \(ETA_DATA_DIR"
    ):
        ingest(ROW)


def test_files_of_an_unknown_writer_are_refused(ingest, settings):
    land(settings, placed())
    with pytest.raises(MappingError, match=r"orders.parquet lies in the landing folder without a watermark"):
        ingest(ROW)


def test_a_changed_mapping_is_refused_but_reading_from_elsewhere_is_not(ingest, settings):
    ingest(ROW)
    ingest(ROW, read={"format": "csv", "delimiter": ","})
    with pytest.raises(MappingError, match=r"the mapping 'shop' has changed since orders were landed"):
        ingest(ROW, columns={"order_value": "km"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", r"cannot be read as YAML"),
        ("- a", r"holds no mapping"),
        ("name: a\nname: b\n", r"the keys \['name'\] are repeated"),
    ],
)
def test_a_file_that_is_no_mapping_is_named(tmp_path, settings, text, message):
    path = tmp_path / "odd.yaml"
    path.write_text(text)
    with pytest.raises(MappingError, match=rf"odd.yaml.*{message}"):
        bring_in("x.csv", path, settings)


def test_an_absent_mapping_is_named(settings):
    with pytest.raises(MappingError, match=r"nowhere.yaml: there is no such mapping file"):
        bring_in("x.csv", Path("nowhere.yaml"), settings)


def test_the_small_example_comes_in_as_its_readme_says(settings, capsys):
    code = main([str(EXAMPLES / "berlin_orders.csv"), str(EXAMPLES / "berlin_orders.yaml")])
    shown = capsys.readouterr().out.replace(f"{EXAMPLES}/", "examples/")
    assert code == 0
    assert shown in (EXAMPLES / "README.md").read_text()
    cancelled = good(settings).filter(order_id="B-1003").to_dicts()[0]
    assert (cancelled["status"], cancelled["placed_at"]) == ("cancelled", utc("2026-05-01 16:11"))
    assert good(settings).filter(order_id="B-1004")["is_asap"].to_list() == [False]
    assert good(settings)["distance_km"].to_list() == [2.35, 4.1, 1.2, None, 3.3]


def test_the_command_line_prints_errors_and_fails(settings, capsys):
    assert main(["nowhere.csv", str(EXAMPLES / "berlin_orders.yaml")]) == 2
    assert "error: ORDERS=nowhere.csv: no such file" in capsys.readouterr().err


CASE_STUDY = Path(__file__).resolve().parents[4] / "shared" / "data" / "delivery_case_study.csv"


@pytest.mark.skipif(not CASE_STUDY.exists(), reason=f"the case study's data set is not at {CASE_STUDY}")
def test_the_case_study_comes_in_whole_and_loses_28_versions_to_the_quarantine(settings):
    from feature_repo.quality import validate_orders

    report = bring_in(str(CASE_STUDY), EXAMPLES / "delivery_case_study.yaml", settings)
    assert (report.rows_read, report.landed, report.refused, report.duplicates) == (18_079, 36_158, {}, 0)
    watermark = read_watermark(settings)
    window = Window(watermark.started_at, watermark.complete_until)
    verdict = validate_orders(read_landing(window, settings), window, settings)
    counts = dict(verdict.rejected.group_by("rule").len().rows())
    assert counts == {"too_late": 15, "stage_order": 10, "placed_in_future": 2, "delivery_minutes": 1}
    delivered = verdict.accepted.filter(status="delivered")
    minutes = (delivered["delivered_at"] - delivered["placed_at"]).dt.total_seconds() / 60
    assert minutes.min() > 0
    orders_table(settings).replace(window, verdict.accepted.select(list(LAKE_SCHEMA)))

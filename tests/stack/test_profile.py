"""A mapping is proposed from an export alone; what is only guessed is asked, and what it allows is told."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from config import Settings, get_settings
from feature_repo.orders.mapping_file import load_mapping
from stack.profile.__main__ import main
from stack.profile.roles import words_of

FIRST = datetime(2026, 5, 11, 11, 20, tzinfo=UTC)


def orders(number: int = 40, form: str = "%Y-%m-%d %H:%M:%S", **others: object) -> list[dict[str, object]]:
    rows = []
    for at in range(number):
        placed = FIRST + at * timedelta(hours=5, minutes=7)
        delivered = placed + timedelta(minutes=25 + at % 30)
        row: dict[str, object] = {"Order ID": f"#{at}", "store_id": f"s{at % 4}"}
        row |= {"createdAt": f"{placed:{form}}", "actual_delivery_time": f"{delivered:{form}}"}
        rows.append(row | {name: value(at) if callable(value) else value for name, value in others.items()})
    return rows


def write(path: Path, rows: list[dict[str, object]], delimiter: str = ",", encoding: str = "utf-8") -> str:
    lines = [list(rows[0]), *[list(row.values()) for row in rows]]
    path.write_text("".join(delimiter.join(map(str, line)) + "\n" for line in lines), encoding=encoding)
    return str(path)


@pytest.fixture
def proposed(tmp_path: Path, settings: Settings, capsys: pytest.CaptureFixture[str]):
    """Profiles an export: the exit status, what it said, and the mapping that it proposes."""

    def run(source: str, *arguments: str):
        status = main([*arguments, source])
        told = capsys.readouterr().out
        (tmp_path / "proposed.yaml").write_text(told)
        return status, told, load_mapping(tmp_path / "proposed.yaml") if status == 0 else None

    return run


def questions(told: str) -> str:
    return "\n".join(line for line in told.splitlines() if line.startswith("# QUESTION"))


def test_what_is_printed_is_a_mapping_by_which_the_orders_come_in(tmp_path, proposed):
    source = write(tmp_path / "may.csv", orders(**{"Courier": lambda at: f"c{at % 3}", "Total": lambda at: 9.5 + at}))
    status, told, mapping = proposed(source)
    assert status == 0
    assert mapping.name == "may"
    assert mapping.columns == {
        "order_id": "Order ID",
        "restaurant_id": "store_id",
        "driver_id": "Courier",
        "placed_at": "createdAt",
        "delivered_at": "actual_delivery_time",
        "order_value": "Total",
    }
    assert [version.name for version in mapping.versions] == ["placed", "ended"]
    assert mapping.versions[0].unknown == ["driver_id", "delivered_at"]
    assert "landed            80 order versions" in told
    assert "40 in 9 days, 40 delivered in 1 to 180 minutes" in told
    assert "delivery_time can be trained" in told
    assert "customer_churn cannot be trained: the source has no customer_id" in told
    assert "time.zone: ['createdAt', 'actual_delivery_time'] name no zone" in questions(told)


@pytest.mark.parametrize(
    ("form", "formats"),
    [
        ("%d.%m.%Y %H:%M", ["%d.%m.%Y %H:%M"]),
        ("%m/%d/%Y %I:%M %p", ["%m/%d/%Y %I:%M %p"]),
        ("%Y-%m-%dT%H:%M:%SZ", []),
    ],
)
def test_times_are_read_by_the_formats_that_fit_them(form, formats, tmp_path, proposed):
    status, told, mapping = proposed(write(tmp_path / "x.csv", orders(form=form)))
    assert status == 0
    assert mapping.time.formats == formats
    assert ("name no zone" in questions(told)) != form.endswith("Z")
    assert "time.market_zone: by which clock do people order" in questions(told)
    assert "\n  zone: UTC\n  # market_zone: ?\n" in told


def test_days_and_months_that_can_be_exchanged_are_asked_and_not_brought_in(tmp_path, proposed):
    rows = [row | {"createdAt": f"0{at % 9 + 1}/05/2026 12:00"} for at, row in enumerate(orders(9))]
    rows = [row | {"actual_delivery_time": str(row["createdAt"]).replace("12:00", "12:40")} for row in rows]
    status, told, _ = proposed(write(tmp_path / "x.csv", rows))
    assert status == 1
    assert "fits '%d/%m/%Y %H:%M' and '%m/%d/%Y %H:%M' in all rows of the sample" in questions(told)
    assert "nothing could be brought in" in told


@pytest.mark.parametrize(
    ("unit", "factor", "form"), [("s", 1, "unix"), ("ms", 1_000, "unix_ms"), ("us", 1_000_000, "unix_us")]
)
def test_numbers_since_1970_have_the_unit_that_their_size_shows(unit, factor, form, tmp_path, proposed):
    rows = [
        row | {name: int(datetime.fromisoformat(f"{row[name]}+00:00").timestamp()) * factor for name in list(row)[2:]}
        for row in orders()
    ]
    status, told, mapping = proposed(write(tmp_path / "x.csv", rows))
    assert status == 0
    assert mapping.time.formats == [form]
    assert "name no zone" not in told


@pytest.mark.parametrize(
    ("column", "value", "role", "expected", "asked"),
    [
        ("distance_km", 2.5, "distance_km", "distance_km", ""),
        ("Distance (m)", 2500, "distance_km", 'CAST("Distance (m)" AS DOUBLE) * 0.001', ""),
        ("distance", 2500, "distance_km", 'CAST("distance" AS DOUBLE) * 0.001', "names no unit (median 2501)"),
        ("total_cents", 1950, "order_value", 'CAST("total_cents" AS DOUBLE) / 100', ""),
        ("subtotal", 1950, "order_value", "subtotal", "if these are cents"),
        ("promised_minutes", 35, "promised_minutes", "promised_minutes", ""),
        ("estimated_delivery_seconds", 2100, "promised_minutes", None, ""),
        ("estimated_driving_time", 600, "promised_minutes", "", ""),
        ("tip_amount", 2.5, "order_value", "", ""),
    ],
)
def test_a_unit_is_of_the_name_or_it_is_asked(column, value, role, expected, asked, tmp_path, proposed):
    source = write(tmp_path / "x.csv", orders(**{column: lambda at: value + (at % 3) * (1 if value > 99 else 0.5)}))
    status, told, mapping = proposed(source)
    assert status == 0
    found = mapping.columns.get(role, "")
    assert found == expected or (expected is None and "0.01666666667" in found)
    assert asked in questions(told)
    assert bool(expected or expected is None) or f"#   {column}: " in told, "a column that is not used is listed"


def test_stages_that_run_backwards_are_asked(tmp_path, proposed):
    times = ("createdAt", "actual_delivery_time")
    rows = [row | dict(zip(times, [row[name] for name in times[::-1]], strict=True)) for row in orders()]
    status, told, _ = proposed(write(tmp_path / "x.csv", rows))
    assert "createdAt is after actual_delivery_time in 40 of 40 rows" in questions(told)
    assert status == 1


def test_without_an_order_id_the_rows_number_stands_in_and_that_is_asked(tmp_path, proposed):
    rows = [{name: value for name, value in row.items() if name != "Order ID"} for row in orders()]
    status, told, mapping = proposed(write(tmp_path / "x.csv", rows))
    assert (status, mapping.columns["order_id"]) == (0, "row_number")
    assert "order_id: no column seems to be it" in questions(told)


def test_what_every_order_needs_and_no_column_is_is_asked_and_nothing_is_tried(tmp_path, proposed):
    rows = [{"Order ID": at, "when": f"{at % 28 + 1:02} 12:{at:02}:00"} for at in range(40)]
    status, told, _ = proposed(write(tmp_path / "x.csv", rows))
    assert status == 1
    assert "restaurant_id: no column seems to be it; every order needs one" in questions(told)
    assert "['when'] seem to be times without a whole date" in questions(told)
    assert "# restaurant_id: ?" in told
    assert "not tried" in told


def test_decimal_commas_other_encodings_and_words_for_nothing_become_options(tmp_path, proposed):
    extra = {"Betrag": lambda at: f"{9 + at},50", "Zone": lambda at: "NULL" if at % 5 == 0 else f"Küste{at % 3}"}
    source = write(tmp_path / "x.csv", orders(**extra), delimiter=";", encoding="cp1252")
    status, told, mapping = proposed(source)
    assert status == 0, told
    assert (mapping.read.encoding, mapping.read.decimal, mapping.read.null_values) == ("cp1252", ",", ["", "NULL"])
    assert "3 zones" in told
    assert "read.encoding: the text is not UTF-8; cp1252 is a guess" in questions(told)


def test_names_and_values_of_any_kind_leave_it_a_mapping(tmp_path, proposed):
    lines = ['order-id,"store ""id""","placed\nat",delivered_at,"a note\r\nin lines"']
    for at, row in enumerate(orders()):
        lines.append(f'{at},s{at % 3},{row["createdAt"]},{row["actual_delivery_time"]},"one\n# two: three"')
    (tmp_path / "x.csv").write_text("\n".join(lines) + "\n")
    status, told, mapping = proposed(str(tmp_path / "x.csv"))
    assert status == 0, told
    assert mapping.columns["order_id"] == "order-id"
    assert mapping.columns["placed_at"] == "placed\nat"
    assert "# two: three" in told


def test_files_of_several_kinds_are_told_as_one_of_them_was_looked_at(tmp_path, proposed):
    times = pl.col("createdAt", "actual_delivery_time").str.to_datetime(time_zone="UTC")
    frame = pl.DataFrame(orders()).with_columns(times)
    frame.head(20).write_parquet(tmp_path / "1.parquet")
    frame.tail(20).with_columns(pl.col("store_id").str.slice(1).cast(pl.Int64)).write_parquet(tmp_path / "2.parquet")
    status, told, _ = proposed(str(tmp_path / "*.parquet"))
    assert "2 kinds of files" in questions(told)
    assert status == 0


def test_parquet_keeps_its_types(tmp_path, proposed):
    instants = pl.col("createdAt", "actual_delivery_time").str.to_datetime(time_zone="UTC")
    pl.DataFrame(orders()).with_columns(instants).write_parquet(tmp_path / "x.parquet")
    status, told, mapping = proposed(str(tmp_path / "x.parquet"))
    assert (status, mapping.read.format, mapping.time.formats) == (0, "parquet", [])
    assert "name no zone" not in told


def test_of_a_database_with_several_tables_one_has_to_be_named(tmp_path, proposed, capsys):
    rows = orders()
    with sqlite3.connect(tmp_path / "shop.db") as connection:
        connection.execute("CREATE TABLE deliveries (order_id, store_id, created_at, delivered_at)")
        connection.execute("CREATE TABLE staff (name)")
        connection.executemany("INSERT INTO deliveries VALUES (?, ?, ?, ?)", [list(row.values()) for row in rows])
    url = f"sqlite:///{tmp_path / 'shop.db'}"
    assert main([url]) == 2
    assert "has the tables ['deliveries', 'staff']: say which one" in capsys.readouterr().err
    status, _, mapping = proposed(url, "--table", "deliveries")
    assert (status, mapping.read.table) == (0, "deliveries")


def test_a_noisy_market_gets_thresholds_that_a_constant_would_reach(tmp_path, proposed):
    def delivered(at: int) -> str:
        return f"{FIRST + at * timedelta(hours=5, minutes=7) + timedelta(minutes=20 + at * 37 % 100):%Y-%m-%d %H:%M:%S}"

    noisy = [row | {"actual_delivery_time": delivered(at)} for at, row in enumerate(orders())]
    status, told, mapping = proposed(write(tmp_path / "noisy.csv", noisy))
    assert status == 0
    assert mapping.gate_thresholds == {"delivery_time": {"validation_mae": 25.1, "slices": 3.1}}
    assert "to be beaten      25.1 min" in told
    assert proposed(write(tmp_path / "calm.csv", orders()))[2].gate_thresholds == {}


def test_a_file_that_is_none_is_refused_as_an_ingestion_would(tmp_path, settings, capsys):
    assert main([str(tmp_path / "absent.csv")]) == 2
    assert "absent.csv" in capsys.readouterr().err


def test_with_a_mapping_it_says_what_the_orders_allow_and_lands_nothing(tmp_path, settings, proposed, capsys):
    source = write(tmp_path / "x.csv", orders())
    assert proposed(source)[0] == 0
    assert main([source, str(tmp_path / "proposed.yaml")]) == 0
    told = capsys.readouterr().out
    assert "no rows           customer_stats: the source has no customer_id" in told
    assert "delivery time     median" in told
    assert not get_settings().landing_orders.exists()
    assert not list(get_settings().staging.iterdir())


@pytest.mark.parametrize("name", ["OrderID", "Order Id", "order-id", "order_id", "ORDER ID"])
def test_names_are_compared_by_their_words(name):
    assert words_of(name) == "order_id"

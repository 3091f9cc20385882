"""Bad orders in the landing folder: a clear error that names the file, or the quarantine; no row is ever lost."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import polars as pl
import pytest

from config import Settings
from feature_repo import pipeline
from feature_repo.orders.schema import LAKE_SCHEMA, orders_table, quarantine_table
from feature_repo.orders.watermark import LandingError
from feature_repo.window import DAY, HOUR, Window
from tests.feature_repo.orders.builders import NOON, complete, land, landing_frame, minutes, placed, version

WINDOW = Window(NOON, NOON + HOUR)


def run(settings: Settings, window: Window = WINDOW) -> dict[str, int]:
    """The orders' part of an hourly run; makes sure that rows in are rows accepted and rows quarantined."""
    complete(settings, window.end)
    read = pipeline.ingest_orders(window, settings)["rows"]
    assert not pipeline.validate_orders(window, settings)["stopped"]
    result = pipeline.accept_orders(window, settings)
    assert result["accepted"] + result["quarantined"] == read
    assert orders_table(settings).read(window).height == result["accepted"]
    assert quarantine_table(settings).read(window).height == result["quarantined"]
    return {"read": read, **result}


def refused(settings: Settings) -> dict[str, str]:
    """The rule by order."""
    return dict(quarantine_table(settings).read().select("order_id", "rule").rows())


BAD = {
    "delivered before placed": ({"delivered_at": NOON - minutes(5)}, "delivered_before_placed"),
    "placed in the future": ({"placed_at": NOON + minutes(55), "updated_at": NOON + minutes(50)}, "placed_in_future"),
    "a clock a day ahead": ({"updated_at": NOON + DAY, "arrived_at": NOON}, "wrong_day"),
    "seconds read as microseconds": ({"placed_at": datetime.fromtimestamp(NOON.timestamp() / 1e6, UTC)}, "too_late"),
    "the first day there is": ({"placed_at": datetime(1, 1, 1, tzinfo=UTC)}, "too_late"),
    "the last day there is": ({"delivered_at": datetime(9999, 12, 31, tzinfo=UTC)}, "delivery_minutes"),
    "no times": (dict.fromkeys(("placed_at", "accepted_at", "delivered_at")), "placed_at_not_null"),
    "not a number": ({"order_value": float("nan")}, "finite_numbers"),
    "an endless distance": ({"distance_km": float("inf")}, "finite_numbers"),
    "an empty restaurant": ({"restaurant_id": ""}, "restaurant_id_not_null"),
}


def test_every_bad_order_is_quarantined_under_its_rule_and_the_good_ones_go_on(settings):
    bad = [version(name, **({"updated_at": NOON + minutes(40)} | changes)) for name, (changes, _) in BAD.items()]
    good = [version(f"good {number}") for number in range(60)]
    land(settings, *bad, *good, day="2026-05-04")
    assert run(settings) == {"read": len(bad) + 60 - 1, "accepted": 60, "quarantined": len(bad) - 1}
    # The row with the clock ahead is read with the last hour of its folder's day.
    assert run(settings, Window(NOON + 11 * HOUR, NOON + 12 * HOUR))["quarantined"] == 1
    assert refused(settings) == {name: rule for name, (_, rule) in BAD.items()}


def test_a_blank_id_is_none_as_in_every_other_file_and_told(settings, caplog):
    land(settings, version("1", driver_id=" "), version("2", driver_id="\u00a0"), version("3", driver_id="d3"))
    assert run(settings) == {"read": 3, "accepted": 3, "quarantined": 0}
    assert orders_table(settings).read().sort("order_id")["driver_id"].to_list() == [None, None, "d3"]
    assert "driver_id was put into its one form in 2 rows" in caplog.text


def test_the_quarantine_has_the_row_as_it_came(settings):
    land(settings, version(delivered_at=NOON - minutes(5)))
    run(settings)
    kept = quarantine_table(settings).read().to_dicts()[0]
    assert json.loads(kept["row"])["delivered_at"] == "2026-05-04T11:55:00.000000Z"
    assert "delivered_at 2026-05-04 11:55:00 is before placed_at 2026-05-04 12:00:00" in kept["reason"]


def test_duplicated_orders_come_in_once_and_all_are_counted(settings):
    rows = [version(f"o{number}") for number in range(20)]
    land(settings, *rows, *rows, name="first")
    land(settings, *rows, name="again")
    assert run(settings) == {"read": 60, "accepted": 20, "quarantined": 40}
    assert set(quarantine_table(settings).read()["rule"]) == {"duplicate_version"}


def test_times_of_another_zone_are_the_same_instants(settings):
    path = land(settings, version(), name="utc")
    berlin = pl.read_parquet(path).with_columns(
        pl.col("^.*_at$").dt.convert_time_zone("Europe/Berlin"), order_id=pl.lit("berlin")
    )
    berlin.write_parquet(path.with_name("berlin.parquet"))
    run(settings)
    rows = orders_table(settings).read()
    assert rows.schema == pl.Schema(LAKE_SCHEMA)
    assert rows["placed_at"].to_list() == [NOON, NOON]
    assert NOON.astimezone(ZoneInfo("Europe/Berlin")).hour == 14


@pytest.mark.parametrize("unit", ["ms", "ns"])
def test_another_time_unit_is_the_same_instant(unit, settings):
    path = land(settings, version())
    pl.read_parquet(path).with_columns(pl.col("^.*_at$").dt.cast_time_unit(unit)).write_parquet(path)
    run(settings)
    assert orders_table(settings).read().select("placed_at", "delivered_at").row(0) == (NOON, NOON + minutes(30))


WRONG = {
    "naive": (pl.col("placed_at").dt.replace_time_zone(None), "placed_at has type Datetime.*times with a time zone"),
    "epoch": (pl.col("placed_at").dt.epoch("s"), "placed_at has type Int64"),
    "text": (pl.col("placed_at").dt.to_string(), "placed_at has type String"),
    "date": (pl.col("placed_at").dt.date(), "placed_at has type Date"),
    "float": (pl.col("item_count").cast(pl.Float64), "item_count has type Float64, not Int64"),
    "flag": (pl.col("is_asap").cast(pl.Int8), "is_asap has type Int8, not Boolean"),
    "list": (pl.concat_list("order_id").alias("order_id"), r"order_id has type List\(String\), not String"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_column_in_the_wrong_type_names_its_file_and_lands_nothing(name, settings):
    change, message = WRONG[name]
    path = land(settings, version(), name="wrong")
    pl.read_parquet(path).with_columns(change).write_parquet(path)
    with pytest.raises(LandingError, match=rf"wrong\.parquet: column {message}"):
        run(settings)
    assert not (settings.staging / "orders").exists()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def garble(path: Path) -> None:
    """Damage the values and leave the footer whole: the schema can be read, the rows cannot."""
    content = bytearray(path.read_bytes())
    content[4:400] = b"\xff" * 396
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    "damage", [cut, garble, lambda path: path.write_bytes(b""), lambda path: path.write_text("a,b")]
)
def test_a_damaged_file_is_named_with_what_to_do_and_lands_nothing(damage, settings):
    land(settings, *(placed(f"o{number}") for number in range(500)), name="whole")
    path = land(settings, *(placed(f"p{number}") for number in range(500)), name="broken")
    damage(path)
    with pytest.raises(LandingError, match=r"broken\.parquet cannot be read .*write it again, or take it out"):
        run(settings)
    assert not (settings.staging / "orders").exists()
    path.unlink()
    assert run(settings)["accepted"] == 500


def test_a_file_without_rows_is_no_fault(settings):
    land(settings, version(), name="full")
    path = settings.landing_orders / "day=2026-05-04" / "none.parquet"
    landing_frame().write_parquet(path)
    assert run(settings)["accepted"] == 1


def test_an_order_from_a_clock_an_hour_ahead_counts_when_its_time_has_come(settings):
    land(settings, placed("ahead", placed_at=NOON + minutes(70), arrived_at=NOON + minutes(10)))
    assert run(settings)["read"] == 0
    assert run(settings, Window(NOON + HOUR, NOON + 2 * HOUR))["accepted"] == 1


def test_rows_in_are_rows_out_over_hours_of_late_and_repeated_versions(settings):
    rows = [
        version(
            f"o{number}", placed_at=at, updated_at=at + minutes(31), arrived_at=at + minutes(31 + 97 * (number % 3))
        )
        for number in range(90)
        for at in [NOON + number * minutes(3)]
    ]
    land(settings, *rows, *rows[::4], *(row | {"item_count": 0} for row in rows[::5]))
    total = {"read": 0, "accepted": 0, "quarantined": 0}
    for hour in Window(NOON, NOON + 9 * HOUR).hours():
        for name, count in run(settings, hour).items():
            total[name] += count
    assert total["read"] == total["accepted"] + total["quarantined"] == len(rows) + len(rows[::4]) + len(rows[::5])
    assert orders_table(settings).read()["order_id"].n_unique() == total["accepted"] == len(rows)

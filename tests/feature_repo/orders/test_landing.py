"""What a window reads from the landing folder: on time, late, twice, misplaced."""

from __future__ import annotations

from datetime import timedelta

import polars as pl
import pytest

from feature_repo.orders import (
    LandingError,
    SourceNotReady,
    Watermark,
    landing,
    orders_table,
    read_landing,
    read_watermark,
)
from feature_repo.orders.landed import note_read
from feature_repo.orders.landing import read_window
from feature_repo.orders.schema import BATCH_SCHEMA, LAKE_SCHEMA, LANDING_SCHEMA, quarantine_table, row_text
from feature_repo.orders.watermark import watermark_file, write_watermark
from feature_repo.window import DAY, HOUR, Window
from tests.feature_repo.orders.builders import NOON, complete, land, landing_frame, minutes, placed, version

WINDOW = Window(NOON, NOON + HOUR)
NEXT = Window(NOON + HOUR, NOON + 2 * HOUR)


def run(settings, window):
    """Read a window and accept all of it, as the pipeline does."""
    reading = read_window(window, settings)
    orders_table(settings).replace(window, reading.rows.select(list(LAKE_SCHEMA)))
    note_read(window, reading.landed, settings)
    return reading.rows


def refuse(settings, window):
    """Read a window and quarantine all of it."""
    reading = read_window(window, settings)
    batch = reading.rows
    rows = batch.select(
        "known_at", "order_id", rule=pl.lit("test"), reason=pl.lit("test"), row=row_text(), window=pl.lit(window.slug)
    )
    quarantine_table(settings).replace(window, rows)
    note_read(window, reading.landed, settings)
    return batch


def test_a_window_reads_the_versions_known_in_it_and_no_others(settings):
    land(
        settings,
        placed("before", placed_at=NOON - minutes(1), updated_at=NOON - timedelta(microseconds=1)),
        placed("first", placed_at=NOON),
        placed("last", placed_at=NOON, updated_at=NOON + HOUR - timedelta(microseconds=1)),
        placed("after", placed_at=NOON, updated_at=NOON + HOUR),
        placed("arrived", placed_at=NOON - HOUR, arrived_at=NOON + minutes(5)),
    )
    complete(settings, NOON + HOUR)
    batch = read_landing(WINDOW, settings)
    assert batch["order_id"].to_list() == ["first", "arrived", "last"]
    assert batch.schema == pl.Schema(BATCH_SCHEMA)
    assert batch.filter(order_id="arrived")["known_at"].item() == NOON + minutes(5)
    assert not batch["found_late"].any()


def test_absent_columns_are_null_and_narrow_types_are_widened(settings):
    path = land(settings, placed())
    pl.read_parquet(path).select(
        pl.lit(7, pl.Int32).alias("order_id"),
        "placed_at",
        pl.col("updated_at").dt.cast_time_unit("ns").dt.convert_time_zone("Europe/Paris"),
        pl.lit(3, pl.Int8).alias("item_count"),
    ).write_parquet(path)
    complete(settings, WINDOW.end)
    row = read_landing(WINDOW, settings).to_dicts()[0]
    assert (row["order_id"], row["restaurant_id"], row["item_count"]) == ("7", None, 3)
    assert row["updated_at"] == row["known_at"] == NOON


def test_an_empty_hour_is_an_empty_batch(settings):
    complete(settings, WINDOW.end)
    batch = read_landing(WINDOW, settings)
    assert (batch.height, batch.schema) == (0, pl.Schema(BATCH_SCHEMA))


def test_nothing_landed_yet_says_how_to_bring_orders_in(settings):
    assert read_watermark(settings) is None
    with pytest.raises(SourceNotReady, match=r"no orders have landed in .*make ingest ORDERS"):
        read_landing(WINDOW, settings)


def test_an_incomplete_landing_says_until_when_it_is_complete(settings):
    land(settings, placed())
    complete(settings, WINDOW.end - timedelta(seconds=1), source="shop")
    with pytest.raises(
        SourceNotReady, match=r"'shop' are complete until 2026-05-04T12:59:59\+00:00.*until 2026-05-04T13"
    ):
        read_landing(WINDOW, settings)


def test_a_watermark_survives_a_round_trip(settings):
    written = Watermark(NOON, "shop", NOON - 3 * HOUR)
    write_watermark(settings, written)
    assert read_watermark(settings) == written


def test_a_damaged_watermark_names_its_file(settings):
    watermark_file(settings).parent.mkdir(parents=True)
    watermark_file(settings).write_text("{")
    with pytest.raises(LandingError, match=r"_watermark.json is damaged"):
        read_watermark(settings)


def test_a_version_found_late_is_known_when_it_is_found(settings):
    land(settings, placed("on time"))
    complete(settings, NEXT.end)
    run(settings, WINDOW)
    land(settings, placed("late", updated_at=NOON + minutes(3)), name="more")
    batch = run(settings, NEXT)
    assert batch.select("order_id", "known_at", "found_late").rows() == [("late", NEXT.start, True)]
    assert read_landing(NEXT, settings).equals(batch), "the same again when the window is run again"
    assert read_landing(WINDOW, settings)["order_id"].to_list() == ["on time"], "and not a second time in its own hour"


@pytest.mark.parametrize("days", [1, 3, 4, 40])
def test_a_version_is_found_however_late_it_lands_and_counted_once(settings, days):
    early, late = Window(NOON - HOUR, NOON), Window(NOON + days * DAY, NOON + days * DAY + HOUR)
    land(settings, placed("on time", placed_at=NOON - minutes(30)))
    complete(settings, late.end + 6 * HOUR)
    run(settings, early)
    run(settings, Window(NOON, late.start))
    land(settings, placed("late", placed_at=NOON + minutes(1)), name="more")
    batch = run(settings, late)
    assert batch.select("order_id", "known_at", "found_late").rows() == [("late", late.start, True)]
    assert read_landing(late, settings).equals(batch), "the same again when the window is run again"
    for after in Window(late.end, late.end + 2 * HOUR).hours():
        assert run(settings, after).is_empty()
    assert read_landing(Window(NOON, NOON + HOUR), settings).is_empty(), "and not a second time in its own hour"
    long = read_landing(Window(early.start, late.end), settings)
    assert long.select("order_id", "known_at").rows() == [
        ("on time", NOON - minutes(30)),
        ("late", late.start),
    ]


def test_what_lands_far_behind_again_is_counted_again_and_a_restored_file_is_not(settings):
    land(settings, placed("on time", placed_at=NOON - minutes(30)))
    complete(settings, NOON + 30 * DAY)
    run(settings, Window(NOON - HOUR, NOON + 9 * DAY))
    path = land(settings, placed("late", placed_at=NOON + minutes(1)), name="more")
    first = Window(NOON + 9 * DAY, NOON + 9 * DAY + HOUR)
    assert refuse(settings, first).height == 1
    content = path.read_bytes()
    path.unlink()
    assert run(settings, Window(first.end, first.end + HOUR)).is_empty()
    path.write_bytes(content)
    assert run(settings, Window(first.end + HOUR, first.end + 2 * HOUR)).is_empty()
    path.with_name("again.parquet").write_bytes(content)
    assert run(settings, Window(first.end + 2 * HOUR, first.end + 3 * HOUR)).height == 1


def test_what_comes_to_days_before_the_first_hour_is_late_but_what_was_there_is_left_out(settings):
    """The watermark says that there is nothing before noon; so nobody else would tell of it."""
    old = NOON - 9 * DAY
    land(settings, placed("was there", placed_at=old))
    complete(settings, NOON + 9 * HOUR)
    assert run(settings, WINDOW).is_empty()
    land(settings, placed("came later", placed_at=old + minutes(1)), name="more")
    land(settings, placed("of another day", placed_at=old - 2 * DAY))
    batch = run(settings, NEXT)
    assert batch.select("order_id", "known_at", "found_late").rows() == [
        ("came later", NEXT.start, True),
        ("of another day", NEXT.start, True),
    ]
    assert run(settings, NEXT).equals(batch)
    assert run(settings, Window(NEXT.end, NEXT.end + HOUR)).is_empty()


def test_an_earlier_history_that_the_watermark_tells_waits_for_its_backfill(settings):
    land(settings, placed("now"))
    complete(settings, NOON + 9 * HOUR)
    run(settings, WINDOW)
    old = NOON - 9 * DAY
    land(settings, placed("history", placed_at=old))
    write_watermark(settings, Watermark(NOON + 9 * HOUR, "test", old))
    assert run(settings, NEXT).is_empty()
    assert run(settings, Window(old, old + HOUR))["known_at"].to_list() == [old]


def test_an_old_day_is_opened_only_when_its_files_change(settings, monkeypatch):
    land(settings, placed("old", placed_at=NOON))
    complete(settings, NOON + 30 * DAY)
    run(settings, Window(NOON, NOON + 9 * DAY))
    opened = []
    real = landing._read_days
    monkeypatch.setattr(landing, "_read_days", lambda days, *given: opened.extend(days) or real(days, *given))
    run(settings, Window(NOON + 9 * DAY, NOON + 9 * DAY + HOUR))
    assert opened == []
    land(settings, placed("new", placed_at=NOON), name="more")
    run(settings, Window(NOON + 9 * DAY + HOUR, NOON + 9 * DAY + 2 * HOUR))
    assert opened == [NOON.replace(hour=0)]


@pytest.mark.parametrize("name", ["day=2026-5-4", "day=20260504", "today"])
def test_files_in_a_folder_that_nobody_reads_are_named(settings, name):
    path = land(settings, placed())
    path.parent.rename(path.parent.with_name(name))
    complete(settings, WINDOW.end)
    with pytest.raises(LandingError, match=f"{name} holds Parquet files, but its name is no day.*day=YYYY-MM-DD"):
        read_landing(WINDOW, settings)


def test_a_file_beside_the_folders_of_days_is_named(settings):
    path = land(settings, placed())
    path.rename(settings.landing_orders / "orders.parquet")
    complete(settings, WINDOW.end)
    with pytest.raises(LandingError, match=r"orders/orders.parquet is in no folder of a day, where nobody reads it"):
        read_landing(WINDOW, settings)


def test_a_quarantined_version_is_not_found_again(settings):
    land(settings, placed())
    complete(settings, NEXT.end)
    first = refuse(settings, WINDOW)
    assert read_landing(NEXT, settings).height == 0
    assert read_landing(WINDOW, settings).equals(first)


def test_the_history_before_the_first_run_is_not_late(settings):
    land(settings, placed("history", placed_at=NOON - HOUR), placed("now"))
    complete(settings, NEXT.end)
    assert run(settings, WINDOW)["order_id"].to_list() == ["now"]
    assert read_landing(NEXT, settings).height == 0


def test_a_version_delivered_twice_comes_in_each_time_it_arrives(settings):
    land(settings, placed(), placed(arrived_at=NOON + HOUR))
    complete(settings, NEXT.end)
    assert run(settings, WINDOW).height == 1
    assert refuse(settings, NEXT).height == 1
    assert read_landing(WINDOW, settings).height == 1
    assert read_landing(NEXT, settings).height == 1


def test_a_row_in_the_folder_of_another_day_is_refused_not_lost(settings):
    land(settings, placed("misplaced", placed_at=NOON - timedelta(days=9)), day="2026-05-04")
    midnight = Window(NOON - 12 * HOUR, NOON - 11 * HOUR)
    complete(settings, midnight.end)
    row = read_landing(midnight, settings).to_dicts()[0]
    assert (row["order_id"], row["refused_rule"], row["known_at"]) == ("misplaced", "wrong_day", midnight.start)
    assert "known at 2026-04-25 12:00:00, but landed in the folder day=2026-05-04" in row["refused_reason"]


def test_a_row_without_any_time_is_read_on_the_day_of_its_folder(settings):
    land(settings, placed("timeless", updated_at=None), day="2026-05-04")
    midnight = Window(NOON - 12 * HOUR, NOON - 11 * HOUR)
    complete(settings, midnight.end)
    assert read_landing(midnight, settings)["known_at"].to_list() == [midnight.start]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (pl.lit("x").alias("resturant_id"), r"more.parquet has columns that no order has: \['resturant_id'\]"),
        (pl.lit("3").alias("item_count"), r"more.parquet: column item_count has type String, not Int64"),
        (pl.col("placed_at").dt.replace_time_zone(None), r"column placed_at has type Datetime.*times with a time zone"),
    ],
)
def test_a_file_of_another_form_is_named_with_its_column(settings, change, message):
    path = land(settings, placed(), name="more")
    landing_frame(placed()).with_columns(change).write_parquet(path)
    complete(settings, WINDOW.end)
    with pytest.raises(LandingError, match=message):
        read_landing(WINDOW, settings)


def test_a_damaged_file_is_named(settings):
    land(settings, placed(), name="more").write_bytes(b"PAR1 but not really")
    complete(settings, WINDOW.end)
    with pytest.raises(LandingError, match=r"more.parquet cannot be read"):
        read_landing(WINDOW, settings)


def test_half_written_files_are_not_read(settings):
    land(settings, version(), name=".half")
    complete(settings, WINDOW.end)
    assert read_landing(WINDOW, settings).height == 0
    assert set(LANDING_SCHEMA) >= {"arrived_at"}


def test_a_damaged_note_of_what_was_read_names_its_file_and_without_it_nothing_is_counted_twice(settings):
    land(settings, placed("old", placed_at=NOON))
    complete(settings, NOON + 30 * DAY)
    run(settings, Window(NOON, NOON + 9 * DAY))
    note = settings.orders / "_landed.json"
    note.write_text("{")
    later = Window(NOON + 9 * DAY, NOON + 9 * DAY + HOUR)
    with pytest.raises(LandingError, match=r"_landed.json is damaged .*delete it; all days are then read once more"):
        read_landing(later, settings)
    note.unlink()
    assert run(settings, later).is_empty()

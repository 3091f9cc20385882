"""What a window reads from the landing folder: on time, late, twice, misplaced."""

from __future__ import annotations

from datetime import timedelta

import polars as pl
import pytest

from feature_repo.orders import LandingError, SourceNotReady, Watermark, orders_table, read_landing, read_watermark
from feature_repo.orders.landing import watermark_file, write_watermark
from feature_repo.orders.schema import BATCH_SCHEMA, LAKE_SCHEMA, LANDING_SCHEMA, quarantine_table, row_text
from feature_repo.window import HOUR, Window
from tests.feature_repo.orders.builders import NOON, complete, land, landing_frame, minutes, placed, version

WINDOW = Window(NOON, NOON + HOUR)
NEXT = Window(NOON + HOUR, NOON + 2 * HOUR)


def run(settings, window):
    """Read a window and accept all of it, as the pipeline does."""
    batch = read_landing(window, settings)
    orders_table(settings).replace(window, batch.select(list(LAKE_SCHEMA)))
    return batch


def refuse(settings, window):
    """Read a window and quarantine all of it."""
    batch = read_landing(window, settings)
    rows = batch.select(
        "known_at", "order_id", rule=pl.lit("test"), reason=pl.lit("test"), row=row_text(), window=pl.lit(window.slug)
    )
    quarantine_table(settings).replace(window, rows)
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


def test_a_version_is_late_only_within_the_horizon(settings):
    late = Window(NOON + settings.lateness_horizon, NOON + settings.lateness_horizon + HOUR)
    land(settings, placed("on time", placed_at=NOON - HOUR))
    complete(settings, late.end)
    run(settings, Window(NOON - HOUR, NOON))
    land(settings, placed("too old", placed_at=NOON - minutes(1)), placed("just inside"), name="more")
    assert read_landing(late, settings)["order_id"].to_list() == ["just inside"]


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

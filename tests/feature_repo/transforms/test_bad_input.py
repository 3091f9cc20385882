"""Damaged, foreign, empty and repeated input: an error that names the file, or the right rows."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from config import Settings
from feature_repo.lake import CorruptPartition
from feature_repo.orders.schema import LAKE_SCHEMA, orders_table
from feature_repo.transforms import compute, publish
from feature_repo.transforms.tables import feature_table, tile_table
from feature_repo.transforms.views import TRANSFORMS
from feature_repo.window import DAY, HOUR, Window
from tests.feature_repo.transforms import histories


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data")


def run(window: Window, settings: Settings) -> dict[str, pl.DataFrame]:
    tiles = compute.compute_tiles(window, settings)
    rows = compute.compute_rows(window, tiles, settings)
    publish.publish(window, tiles, rows, settings, publish.rewrites(settings))
    return rows


def content(settings: Settings) -> list[str]:
    tables = [table(one, settings) for one in TRANSFORMS.values() for table in (tile_table, feature_table)]
    return [table.content_hash() for table in tables]


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def overwritten(path: Path) -> None:
    """Whole at both ends: the footer, with the schema, is as it was."""
    content = path.read_bytes()
    path.write_bytes(content[:8] + b"\xff" * 600 + content[608:])


def in_another_schema(path: Path) -> None:
    pl.read_parquet(path).drop("known_at" if "orders" in str(path) else "tile_start").write_parquet(path)


def in_nanoseconds(path: Path) -> None:
    pl.read_parquet(path).with_columns(pl.selectors.datetime().dt.cast_time_unit("ns")).write_parquet(path)


def without_a_time_zone(path: Path) -> None:
    pl.read_parquet(path).with_columns(pl.selectors.datetime().dt.replace_time_zone(None)).write_parquet(path)


DAMAGES = [emptied, cut_off, overwritten, in_another_schema, in_nanoseconds, without_a_time_zone]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_partition_of_orders_is_named_and_nothing_is_computed(
    settings: Settings, damage: Callable[[Path], None]
) -> None:
    window = histories.write_lake(histories.random_history(seed=4, days=3, orders=150), settings)
    path = orders_table(settings).files()[1]
    damage(path)
    with pytest.raises(CorruptPartition, match=str(path)):
        compute.compute_tiles(window, settings)
    assert not settings.tiles.exists()


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_partition_of_tiles_is_named_and_what_was_published_stays(
    settings: Settings, damage: Callable[[Path], None]
) -> None:
    whole = histories.write_lake(histories.random_history(seed=4, days=3, orders=600), settings)
    first, second = Window(whole.start, whole.start + 2 * DAY), Window(whole.start + 2 * DAY, whole.end)
    run(first, settings)
    before = {table.root: table.files() for table in (feature_table(one, settings) for one in TRANSFORMS.values())}
    tiles = compute.compute_tiles(second, settings)
    path = tile_table(TRANSFORMS["zone_stats"], settings).files()[0]
    damage(path)
    with pytest.raises(CorruptPartition, match=str(path)):
        compute.compute_rows(second, tiles, settings)
    assert before == {root: sorted(root.glob("day=*/rows.parquet")) for root in before}


def test_a_view_without_data_has_no_rows_and_stops_no_other(settings: Settings) -> None:
    versions = [
        {**version, "driver_id": None, "customer_id": None}
        for version in histories.random_history(seed=4, days=3, orders=40)
    ]
    whole = histories.write_lake(versions, settings)
    first, second = Window(whole.start, whole.start + 2 * DAY), Window(whole.start + 2 * DAY, whole.end)
    for window in (first, second):
        rows = run(window, settings)
        assert rows["driver_stats"].is_empty()
        assert rows["customer_stats"].is_empty()
        assert rows["restaurant_stats"].height > 0
        for view, transform in TRANSFORMS.items():
            assert rows[view].schema == feature_table(transform, settings).schema


def test_hours_without_orders_still_write_the_rows_of_leaving_and_midnight(settings: Settings) -> None:
    whole = histories.write_lake(histories.random_history(seed=4, days=2, orders=40), settings)
    run(whole, settings)
    empty = Window(whole.end, whole.end + DAY + HOUR)
    rows = run(empty, settings)
    assert tile_table(TRANSFORMS["restaurant_stats"], settings).read(empty).is_empty()
    midnights = rows["restaurant_stats"].filter(pl.col("event_timestamp") == whole.end + DAY)
    assert midnights.height == 3


def test_nothing_at_all_gives_empty_tables(settings: Settings) -> None:
    window = Window(histories.START, histories.START + DAY)
    rows = run(window, settings)
    assert all(frame.is_empty() for frame in rows.values())


def test_orders_that_arrived_twice_count_once(settings: Settings, tmp_path: Path) -> None:
    versions = histories.random_history(seed=6, days=3, orders=60)
    twice = Settings(data_dir=tmp_path / "twice")
    window = histories.write_lake(versions, settings)
    histories.write_lake([*versions, *[dict(version) for version in versions]], twice)
    expected, found = run(window, settings), run(window, twice)
    for view in TRANSFORMS:
        key = TRANSFORMS[view].key
        assert_frame_equal(found[view].sort("event_timestamp", key), expected[view].sort("event_timestamp", key))
    assert content(twice) == content(settings)


def test_an_order_repeated_later_with_a_later_knowledge_counts_when_it_was_first_known(settings: Settings) -> None:
    versions = histories.random_history(seed=6, days=3, orders=60)
    window = histories.write_lake(versions, settings)
    expected = compute.compute_tiles(window, settings)

    def later(version: dict[str, object]) -> dict[str, object]:
        known = version["known_at"]
        assert isinstance(known, datetime)
        return {**version, "known_at": min(known + 3 * HOUR, window.end - HOUR)}

    again = pl.DataFrame([*versions, *map(later, versions)], schema=LAKE_SCHEMA)
    known_first = again.sort("known_at", maintain_order=True)
    orders_table(settings).replace(window, known_first)
    found = compute.compute_tiles(window, settings)
    for view, transform in TRANSFORMS.items():
        order = tile_table(transform, settings).sort_by
        assert_frame_equal(found[view].sort(order), expected[view].sort(order))

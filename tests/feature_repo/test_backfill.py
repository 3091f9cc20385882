"""However time is cut into runs, and whatever happens to them on the way, the tables end up the same."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest

from config import Settings, get_settings
from feature_repo import pipeline
from feature_repo.lake import PartitionedTable
from feature_repo.transforms import compute
from feature_repo.transforms.coverage import HistoryChanged, HistoryMissing, read_coverage
from feature_repo.transforms.publish import publish
from feature_repo.transforms.tables import feature_table, state_table, tile_table
from feature_repo.transforms.views import TRANSFORMS
from feature_repo.window import DAY, HOUR, Window
from tests.feature_repo.transforms import histories

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def versions() -> list[histories.Version]:
    return histories.random_history(seed=11, days=36)


@pytest.fixture(scope="module")
def baseline(versions, tmp_path_factory) -> Baseline:
    """What one run over the whole history makes."""
    settings = Settings(data_dir=tmp_path_factory.mktemp("baseline"))
    window = histories.write_lake(versions, settings)
    run(window, settings)
    return Baseline(window, hashes(settings))


@pytest.fixture
def zones_only(monkeypatch) -> None:
    """One view, the one with every kind of state, where a test is about the tables and not about the features."""
    for view in set(TRANSFORMS) - {"zone_stats"}:
        monkeypatch.delitem(TRANSFORMS, view)


@pytest.fixture
def make_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator:
    """Settings of several installations, each with a data directory of its own."""

    def make(name: str) -> Settings:
        monkeypatch.setenv("ETA_DATA_DIR", str(tmp_path / name))
        get_settings.cache_clear()
        return get_settings()

    yield make
    get_settings.cache_clear()


@dataclass(frozen=True)
class Baseline:
    window: Window
    hashes: dict[str, tuple[str, str]]


def run(window: Window, settings: Settings) -> None:
    pipeline.compute_features(window, settings)
    pipeline.publish_features(window, settings)


def hashes(settings: Settings) -> dict[str, tuple[str, str]]:
    return {
        view: (
            tile_table(transform, settings).content_hash(),
            feature_table(transform, settings).content_hash(),
        )
        for view, transform in TRANSFORMS.items()
    }


def cut(window: Window, cuts: list[int]) -> list[Window]:
    """The window in pieces that end `cuts` hours after its start."""
    bounds = [window.start, *(window.start + hours * HOUR for hours in cuts), window.end]
    return [Window(start, end) for start, end in pairwise(bounds)]


def assert_equal_to(baseline: Baseline, settings: Settings) -> None:
    assert hashes(settings) == {view: baseline.hashes[view] for view in TRANSFORMS}


def test_hourly_runs_after_chunks_of_any_length_equal_one_backfill(versions, baseline, make_settings):
    settings = make_settings("pieces")
    window = histories.write_lake(versions, settings)
    total = (window.end - window.start) // HOUR
    dice = random.Random(5)
    around_midnight = [total - hours for hours in (26, 25, 24, 23)]
    for piece in cut(window, sorted({*dice.sample(range(1, total - 30), 2), *around_midnight})):
        run(piece, settings)
    assert_equal_to(baseline, settings)
    assert all(feature_table(transform, settings).read().height for transform in TRANSFORMS.values())


def test_rows_do_not_depend_on_what_becomes_known_later(versions, baseline, make_settings):
    settings = make_settings("now")
    middle = baseline.window.start + 20 * DAY
    histories.write_lake([version for version in versions if version["known_at"] < middle], settings)
    run(Window(baseline.window.start, middle), settings)
    histories.write_lake(versions, settings)
    run(Window(middle, baseline.window.end), settings)
    assert_equal_to(baseline, settings)


@pytest.mark.usefixtures("zones_only")
def test_a_second_run_changes_nothing_and_leaves_the_later_hours_valid(versions, baseline, make_settings):
    settings = make_settings("twice")
    window = histories.write_lake(versions, settings)
    run(window, settings)
    coverage = read_coverage(settings)
    run(Window(window.start + 5 * DAY, window.start + 5 * DAY + HOUR), settings)
    run(window, settings)
    assert_equal_to(baseline, settings)
    assert read_coverage(settings) == coverage


@pytest.mark.usefixtures("zones_only")
@pytest.mark.parametrize("steps", [0, 1, 2, 3])
def test_a_publication_killed_half_way_is_completed_by_the_next(steps, versions, baseline, make_settings, monkeypatch):
    settings = make_settings("killed")
    first, second = cut(histories.write_lake(versions, settings), [30 * 24])
    run(first, settings)
    pipeline.compute_features(second, settings)
    replace, calls = PartitionedTable.replace, iter(range(100))

    def fail_after(self, *arguments):
        if next(calls) == steps:
            raise KeyboardInterrupt
        return replace(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(PartitionedTable, "replace", fail_after)
        with pytest.raises(KeyboardInterrupt) if steps < 3 else nullcontext():
            pipeline.publish_features(second, settings)
    pipeline.publish_features(second, settings)
    assert_equal_to(baseline, settings)


@pytest.mark.usefixtures("zones_only")
def test_a_rewrite_killed_half_way_cannot_be_built_upon(versions, baseline, make_settings, monkeypatch):
    settings = make_settings("rewrite")
    run(histories.write_lake(versions[:-40], settings), settings)
    window = histories.write_lake(versions, settings)
    pipeline.compute_features(window, settings)
    with monkeypatch.context() as patched:
        patched.setattr(PartitionedTable, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            pipeline.publish_features(window, settings)
    coverage = read_coverage(settings)
    assert coverage is not None
    assert coverage.until == window.start
    pipeline.publish_features(window, settings)
    assert_equal_to(baseline, settings)


@pytest.mark.usefixtures("zones_only")
def test_tiles_that_change_invalidate_what_was_built_on_them(versions, baseline, make_settings, caplog):
    settings = make_settings("changed")
    run(histories.write_lake(versions[:-40], settings), settings)
    first, middle, last = cut(histories.write_lake(versions, settings), [30 * 24, 31 * 24])
    pipeline.compute_features(last, settings)
    run(first, settings)
    assert "the rows after them no longer follow from the tiles" in caplog.text
    with pytest.raises(HistoryMissing, match="not all hours before the window are computed"):
        pipeline.publish_features(last, settings)
    run(middle, settings)
    with pytest.raises(HistoryChanged, match=r"earlier tiles changed since the rows of .* were computed"):
        pipeline.publish_features(last, settings)
    run(last, settings)
    assert_equal_to(baseline, settings)


@pytest.mark.usefixtures("zones_only")
def test_without_a_snapshot_the_state_comes_from_the_tiles(versions, baseline, make_settings):
    settings = make_settings("without")
    first, second = cut(histories.write_lake(versions, settings), [33 * 24])
    run(first, settings)
    for path in state_table(TRANSFORMS["zone_stats"], settings).files():
        path.unlink()
    run(second, settings)
    assert_equal_to(baseline, settings)


@pytest.mark.usefixtures("zones_only")
def test_a_hole_before_the_window_is_refused(versions, make_settings):
    settings = make_settings("hole")
    window = histories.write_lake(versions, settings)
    with pytest.raises(HistoryMissing, match="orders have been known since before the tiles begin") as caught:
        pipeline.compute_features(Window(window.start + 3 * DAY, window.end), settings)
    assert f"backfill {window.start.isoformat()[:10]}" in str(caught.value)
    run(Window(window.start, window.start + DAY), settings)
    with pytest.raises(HistoryMissing, match="not all hours before the window are computed"):
        pipeline.compute_features(Window(window.start + 2 * DAY, window.start + 3 * DAY), settings)


@pytest.mark.usefixtures("zones_only")
def test_an_hour_without_orders_still_empties_the_windows(make_settings):
    settings = make_settings("empty")
    versions = [{**version, "zone_id": "north"} for version in histories.random_history(seed=1, days=1, orders=1)]
    histories.write_lake(versions, settings)
    first = min(version["known_at"] for version in versions).replace(minute=0, second=0, microsecond=0)
    run(Window(first, first + 4 * DAY), settings)
    zone = feature_table(TRANSFORMS["zone_stats"], settings).read().sort("event_timestamp")
    assert zone["order_count_1h"].max() == 1
    assert zone["order_count_1h"][-1] == 0
    assert zone["open_order_count"][-1] == 0
    assert zone["delivery_minutes_mean_1h"][-1] is None
    hour = Window(first + 4 * DAY, first + 4 * DAY + HOUR)
    assert pipeline.compute_features(hour, settings)["tiles"] == {"zone_stats": 0}
    assert pipeline.publish_features(hour, settings)["rows"]["zone_stats"] in (0, 1)


def test_without_any_orders_the_tables_are_empty(make_settings):
    settings = make_settings("nothing")
    run(Window(histories.START, histories.START + 2 * DAY), settings)
    for transform in TRANSFORMS.values():
        assert feature_table(transform, settings).read().is_empty()


def test_two_processes_at_once_leave_the_tables_of_one(versions, baseline, make_settings):
    settings = make_settings("both")
    window = histories.write_lake(versions, settings)
    program = (
        "import sys; from config import get_settings; from feature_repo import pipeline\n"
        "from feature_repo.window import Window\n"
        "window, settings = Window(sys.argv[1], sys.argv[2]), get_settings()\n"
        "pipeline.compute_features(window, settings); pipeline.publish_features(window, settings)\n"
    )
    command = [sys.executable, "-c", program, window.start.isoformat(), window.end.isoformat()]
    environment = {**os.environ, "ETA_DATA_DIR": str(settings.data_dir)}
    processes = [subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE) for _ in range(2)]
    errors = [process.communicate()[1].decode() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    assert_equal_to(baseline, settings)


@pytest.mark.usefixtures("zones_only")
def test_rows_outside_of_the_window_are_left_alone(versions, make_settings):
    settings = make_settings("outside")
    window = histories.write_lake(versions, settings)
    run(window, settings)
    table = feature_table(TRANSFORMS["zone_stats"], settings)
    part = Window(window.start + 9 * DAY, window.start + 10 * DAY)
    inside = pl.col("event_timestamp").is_between(part.start + HOUR, part.end + HOUR, closed="left")
    kept = table.read().filter(~inside)
    tiles = compute.compute_tiles(part, settings)
    publish(part, tiles, {"zone_stats": kept.clear()}, settings, rewrites_seen=0)
    assert kept.height
    assert table.read().equals(kept)


@pytest.mark.usefixtures("zones_only")
def test_snapshots_do_not_pile_up(versions, make_settings, monkeypatch):
    monkeypatch.setattr(compute, "SNAPSHOTS_KEPT", 2)
    settings = make_settings("few")
    window = histories.write_lake(versions, settings)
    for piece in cut(window, [5 * 24, 10 * 24, 15 * 24]):
        run(piece, settings)
    assert len(state_table(TRANSFORMS["zone_stats"], settings).files()) == 2

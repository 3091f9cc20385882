"""Tables that are taken to another definition are those that the new definition makes from nothing; none is lost."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl
import pytest

from config import Settings
from config.settings import ROOT
from feature_repo import pipeline
from feature_repo.lake import PartitionedTable
from feature_repo.transforms import compute, evolution, facts, measures, versions
from feature_repo.transforms.coverage import HistoryMissing
from feature_repo.transforms.spec import LIFETIME, NOW, Feature, Measure, ViewTransform, count, mean
from feature_repo.transforms.tables import feature_table, tile_table
from feature_repo.transforms.views import TRANSFORMS
from feature_repo.window import DAY, HOUR, Window
from tests.feature_repo.transforms import histories

CANCELLED = Measure("cancelled", facts.CANCELLED)
PICKED_UP = Measure("picked_up", facts.PICKED_UP)
LAST_CANCELLED = Feature(
    "float64", (NOW, Measure("cancelled_second", facts.CANCELLED, "placed_second").last()), lambda now, at: now - at
)

# What is new, and why it is hard.
ADDED = {
    "same_tiles_and_windows": ("restaurant_stats", "order_count_28d", count(measures.PLACED, 28 * DAY)),
    "new_window": ("restaurant_stats", "order_value_mean_36h", mean(measures.ORDER_VALUE, 36 * HOUR)),
    "new_fact": ("restaurant_stats", "cancelled_count_7d", count(CANCELLED, 7 * DAY)),
    "new_entities": ("driver_stats", "picked_up_count_2d", count(PICKED_UP, 2 * DAY)),
    "beside_values_of_the_instant": ("customer_stats", "cancelled_count_5d", count(CANCELLED, 5 * DAY)),
    "first_state": ("driver_stats", "picked_up_count_lifetime", count(PICKED_UP, LIFETIME)),
    "more_state": ("zone_stats", "cancelled_count_lifetime", count(CANCELLED, LIFETIME)),
    "value_of_the_instant": ("customer_stats", "seconds_since_cancelled_order", LAST_CANCELLED),
}


@dataclass(frozen=True)
class Installation:
    """Computed tables, ready to be copied."""

    settings: Settings
    window: Window

    def copy(self, directory: Path) -> Settings:
        # Links do: whatever writes a table puts a new file into the place of the old one.
        shutil.copytree(self.settings.data_dir, directory, copy_function=os.link)
        return Settings(data_dir=directory)


@pytest.fixture(scope="module")
def computed(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    settings = Settings(data_dir=tmp_path_factory.mktemp("computed"))
    window = histories.write_lake(histories.random_history(seed=21, days=34), settings)
    run(window, settings)
    return Installation(settings, window)


@pytest.fixture
def define(monkeypatch: pytest.MonkeyPatch) -> Callable[..., ViewTransform]:
    """Gives a view features it had not, or other ones; None takes one away. From then on it is the only view."""

    def change(view: str, features: dict[str, Feature | None], **others: object) -> ViewTransform:
        for other in set(TRANSFORMS) - {view}:
            monkeypatch.delitem(TRANSFORMS, other)
        merged = {**TRANSFORMS[view].features, **features}
        kept = {name: feature for name, feature in merged.items() if feature is not None}
        changed = replace(TRANSFORMS[view], features=kept, **others)
        monkeypatch.setitem(TRANSFORMS, view, changed)
        return changed

    return change


def run(window: Window, settings: Settings) -> None:
    pipeline.compute_features(window, settings)
    pipeline.publish_features(window, settings)


def accept(*_: object) -> None:
    """Judges nothing: the rules have tests of their own."""


def backfill(view: str, names: list[str], settings: Settings, start=None) -> dict:
    return evolution.backfill_features(view, names, start, settings, accept, lambda _: None)


def rebuild(view: str, settings: Settings) -> dict:
    return evolution.rebuild(view, settings, accept, lambda _: None)


def hashes(view: str, settings: Settings) -> tuple[str, str]:
    transform = TRANSFORMS[view]
    return tile_table(transform, settings).content_hash(), feature_table(transform, settings).content_hash()


@pytest.fixture(scope="module")
def from_nothing(computed: Installation, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Settings]:
    """Gives an installation with the same orders, computed under the definitions as they are now. Read only."""
    made: dict[str, Settings] = {}

    def fresh() -> Settings:
        definitions = json.dumps(versions.fingerprints())
        if definitions not in made:
            made[definitions] = Settings(data_dir=tmp_path_factory.mktemp("fresh"))
            shutil.copytree(computed.settings.orders, made[definitions].orders, copy_function=os.link)
            run(computed.window, made[definitions])
        return made[definitions]

    return fresh


@pytest.mark.parametrize("case", ADDED)
def test_a_backfilled_feature_equals_a_computation_from_nothing(case, computed, define, from_nothing, tmp_path):
    view, name, feature = ADDED[case]
    settings = computed.copy(tmp_path / "copy")
    old = feature_table(TRANSFORMS[view], settings).read()
    define(view, {name: feature})
    done = backfill(view, [name], settings)
    assert done["features"] == [name]
    fresh = from_nothing()
    assert hashes(view, settings) == hashes(view, fresh)
    rows = feature_table(TRANSFORMS[view], settings).read()
    assert rows[name].n_unique() > 1
    again = rows.select(old.columns).join(old, on=old.columns[:2], how="semi")
    assert again.sort(old.columns[1::-1]).equals(old.sort(old.columns[1::-1]))


@pytest.mark.parametrize("case", ["new_entities", "more_state", "value_of_the_instant"])
def test_hourly_runs_go_on_from_a_backfilled_feature(case, computed, define, from_nothing, tmp_path):
    view, name, feature = ADDED[case]
    settings = Settings(data_dir=tmp_path / "some")
    shutil.copytree(computed.settings.orders, settings.orders)
    middle = computed.window.end - 3 * DAY - 5 * HOUR
    run(Window(computed.window.start, middle), settings)
    define(view, {name: feature})
    backfill(view, [name], settings)
    for hours in Window(middle, middle + 4 * HOUR).hours():
        run(hours, settings)
    run(Window(middle + 4 * HOUR, computed.window.end), settings)
    fresh = from_nothing()
    assert hashes(view, settings) == hashes(view, fresh)


def test_only_the_new_sums_are_computed(computed, define, tmp_path, monkeypatch):
    settings = computed.copy(tmp_path / "copy")
    others = {view: transform for view, transform in TRANSFORMS.items() if view != "restaurant_stats"}
    before = {view: hashes(view, settings) for view in others}
    define("restaurant_stats", {"cancelled_count_7d": count(CANCELLED, 7 * DAY)})
    for view, transform in others.items():
        monkeypatch.setitem(TRANSFORMS, view, transform)
    asked: list[tuple[str, list[str], list[str]]] = []
    tiles, rows = compute.compute_tiles, compute.compute_rows

    def watch(kind, function):
        def call(*arguments):
            (transform,) = arguments[-1].values()
            columns = transform.partials if kind == "tiles" else transform.running
            asked.append((kind, [transform.view], [column.column for column in columns]))
            return function(*arguments)

        return call

    monkeypatch.setattr(compute, "compute_tiles", watch("tiles", tiles))
    monkeypatch.setattr(compute, "compute_rows", watch("rows", rows))
    backfill("restaurant_stats", ["cancelled_count_7d"], settings)
    assert {kind: (views, columns) for kind, views, columns in asked} == {
        "tiles": (["restaurant_stats"], ["cancelled_count"]),
        "rows": (["restaurant_stats"], ["cancelled_count_168h"]),
    }
    assert {view: hashes(view, settings) for view in others} == before


def test_a_feature_of_known_sums_reads_no_orders(computed, define, tmp_path):
    settings = computed.copy(tmp_path / "copy")
    shutil.rmtree(settings.orders)
    define("restaurant_stats", {"order_count_28d": count(measures.PLACED, 28 * DAY)})
    assert backfill("restaurant_stats", ["order_count_28d"], settings)["rows"] > 0


def test_a_span_leaves_null_before_it_and_is_on_record(computed, define, from_nothing, tmp_path):
    settings = computed.copy(tmp_path / "copy")
    name, feature = "order_value_mean_36h", mean(measures.ORDER_VALUE, 36 * HOUR)
    assert versions.available_from("restaurant_stats", "order_count_7d", settings) == computed.window.start + HOUR
    define("restaurant_stats", {name: feature})
    assert versions.available_from("restaurant_stats", name, settings) is None
    start = computed.window.start + 20 * DAY + 7 * HOUR
    backfill("restaurant_stats", [name], settings, start)
    assert versions.available_from("restaurant_stats", name, settings) == start + HOUR
    record = versions.read_record("restaurant_stats", settings)
    assert record is not None
    assert record.features[name].since == computed.window.end
    table = feature_table(TRANSFORMS["restaurant_stats"], settings)
    assert table.read(Window(computed.window.start, start + HOUR))[name].is_null().all()
    whole = feature_table(TRANSFORMS["restaurant_stats"], from_nothing())
    later = Window(start + HOUR, computed.window.end + HOUR)
    assert table.content_hash(later) == whole.content_hash(later)
    backfill("restaurant_stats", [name], settings)
    assert table.content_hash() == whole.content_hash()
    assert versions.available_from("restaurant_stats", name, settings) == computed.window.start + HOUR


def test_a_second_backfill_of_a_feature_does_nothing(computed, define, tmp_path):
    settings = computed.copy(tmp_path / "copy")
    define("zone_stats", {"cancelled_count_lifetime": count(CANCELLED, LIFETIME)})
    backfill("zone_stats", ["cancelled_count_lifetime"], settings)
    before = hashes("zone_stats", settings)
    assert backfill("zone_stats", ["cancelled_count_lifetime"], settings) == {
        "view": "zone_stats",
        "features": [],
        "rows": 0,
    }
    assert hashes("zone_stats", settings) == before


def test_a_changed_view_is_rebuilt_and_the_old_rows_are_kept(computed, define, from_nothing, tmp_path):
    settings = computed.copy(tmp_path / "copy")
    old = feature_table(TRANSFORMS["zone_stats"], settings).read()
    define("zone_stats", {"order_count_1h": count(measures.PLACED, 3 * HOUR)})
    with pytest.raises(versions.DefinitionChanged, match=r"zone_stats\.order_count_1h has changed"):
        evolution.settle(settings)
    done = rebuild("zone_stats", settings)
    evolution.settle(settings)
    fresh = from_nothing()
    assert hashes("zone_stats", settings) == hashes("zone_stats", fresh)
    kept = Settings(data_dir=Path(done["kept"]))
    assert feature_table(TRANSFORMS["zone_stats"], kept).read().equals(old)
    again = rebuild("zone_stats", settings)
    assert again["kept"] != done["kept"]
    assert Path(done["kept"]).exists()


def test_a_removed_feature_goes_by_itself_and_is_new_when_it_comes_back(computed, define, tmp_path, caplog):
    settings = computed.copy(tmp_path / "copy")
    view, name, feature = "restaurant_stats", "acceptance_rate_7d", TRANSFORMS["restaurant_stats"].features
    before = hashes(view, settings)
    define(view, {name: None})
    evolution.settle(settings)
    assert "restaurant_stats no longer defines acceptance_rate_7d" in caplog.text
    assert name not in feature_table(TRANSFORMS[view], settings).read().columns
    run(Window(computed.window.end, computed.window.end + HOUR), settings)
    define(view, {name: feature[name]})
    with pytest.raises(versions.DefinitionChanged, match=r"restaurant_stats\.acceptance_rate_7d: new"):
        evolution.settle(settings)
    backfill(view, [name], settings)
    table = feature_table(TRANSFORMS[view], settings)
    assert table.content_hash(Window(computed.window.start, computed.window.end + HOUR)) == before[1]


@pytest.mark.parametrize("exchange", [True, False], ids=["exchange", "rename"])
@pytest.mark.parametrize("killed_at", range(9))
def test_killed_anywhere_a_backfill_is_ended_by_running_it_again(
    exchange, killed_at, computed, define, from_nothing, tmp_path, monkeypatch
):
    settings = computed.copy(tmp_path / "copy")
    view, name, feature = ADDED["new_fact"]
    old = hashes(view, settings)
    before = TRANSFORMS[view]
    define(view, {name: feature})
    steps = iter(range(1000))

    def dying(function):
        def call(*arguments, **options):
            if next(steps) == killed_at:
                raise KeyboardInterrupt
            return function(*arguments, **options)

        return call

    with monkeypatch.context() as patched:
        if not exchange:
            patched.setattr(evolution, "_exchanged", lambda *_: False)
        patched.setattr(PartitionedTable, "replace", dying(PartitionedTable.replace))
        patched.setattr(versions, "write_record", dying(versions.write_record))
        patched.setattr(evolution, "_change_places", dying(evolution._change_places))
        patched.setattr(Path, "rename", dying(Path.rename))
        with pytest.raises(KeyboardInterrupt):
            backfill(view, [name], settings)
    if not (settings.features.parent / "_evolving" / view / evolution.READY).exists():
        now = TRANSFORMS[view]
        monkeypatch.setitem(TRANSFORMS, view, before)
        assert hashes(view, settings) == old
        evolution.settle(settings)
        monkeypatch.setitem(TRANSFORMS, view, now)
    backfill(view, [name], settings)
    evolution.settle(settings)
    fresh = from_nothing()
    assert hashes(view, settings) == hashes(view, fresh)
    assert not (settings.features.parent / "_evolving" / view).exists()


def test_a_replacement_that_was_killed_is_ended_by_the_next_run(computed, define, tmp_path, monkeypatch):
    settings = computed.copy(tmp_path / "copy")
    define("zone_stats", {"order_count_1h": count(measures.PLACED, 3 * HOUR)})
    with monkeypatch.context() as patched:
        patched.setattr(evolution, "_end_replacement", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        patched.setattr(evolution, "_begin", lambda view, settings: evolution._beside(view, settings))
        with pytest.raises(KeyboardInterrupt):
            rebuild("zone_stats", settings)
    # Nothing of it was ready: the run refuses, as the definition is still another one.
    with pytest.raises(versions.DefinitionChanged):
        evolution.settle(settings)


def test_two_at_once_take_turns(computed, tmp_path):
    settings = computed.copy(tmp_path / "copy")
    before = hashes("zone_stats", settings)
    command = [sys.executable, "-m", "feature_repo", "rebuild", "zone_stats"]
    environment = {**os.environ, "ETA_DATA_DIR": str(settings.data_dir)}
    processes = [subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE) for _ in range(2)]
    errors = [process.communicate()[1].decode() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    assert hashes("zone_stats", settings) == before
    assert len(list((settings.features.parent / "_superseded").glob("zone_stats-*"))) == 2


def test_what_cannot_be_evolved_is_told(computed, define, tmp_path):
    settings = computed.copy(tmp_path / "copy")
    with pytest.raises(KeyError, match="no view 'nothing_stats'; there are"):
        rebuild("nothing_stats", settings)
    with pytest.raises(KeyError, match=r"zone_stats has no features \['nothing'\], but"):
        backfill("zone_stats", ["nothing"], settings)
    with pytest.raises(HistoryMissing, match="nothing has been computed yet"):
        rebuild("zone_stats", Settings(data_dir=tmp_path / "empty"))
    with pytest.raises(HistoryMissing, match="is not within the computed hours"):
        backfill("zone_stats", ["order_count_1h"], settings, computed.window.end)
    define("zone_stats", {"a": count(CANCELLED, DAY), "b": count(CANCELLED, DAY)})
    with pytest.raises(versions.DefinitionChanged, match=r"zone_stats\.b: new, not in the rows on disk"):
        backfill("zone_stats", ["a"], settings)
    define("zone_stats", {"order_count_1h": count(measures.PLACED, 2 * HOUR), "b": None})
    with pytest.raises(versions.DefinitionChanged, match=r"zone_stats\.order_count_1h has changed"):
        backfill("zone_stats", ["a"], settings)


def test_rows_that_are_refused_change_nothing(computed, define, tmp_path):
    settings = computed.copy(tmp_path / "copy")
    before = hashes("zone_stats", settings)

    def refuse(view: str, rows: pl.DataFrame, window: Window, _settings: Settings) -> None:
        raise ValueError(f"{rows.height} rows of {view} in {window}")

    with pytest.raises(ValueError, match="rows of zone_stats in"):
        evolution.rebuild("zone_stats", settings, refuse, lambda _: None)
    assert hashes("zone_stats", settings) == before
    evolution.settle(settings)

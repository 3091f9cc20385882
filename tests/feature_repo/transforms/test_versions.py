"""A definition's fingerprint says what it means; tables made under another one are refused, with what to do."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import ibis
import pytest

from config import Settings
from config.settings import ROOT
from feature_repo import pipeline
from feature_repo.pipeline import evolve
from feature_repo.transforms import compute, facts, versions
from feature_repo.transforms.measures import DECLINED, DELIVERY_MINUTES, ORDER_VALUE, PLACED
from feature_repo.transforms.spec import Feature, Measure, ViewTransform, count, mean, share
from feature_repo.transforms.tables import EVENT_TIME, TILE_START, feature_table
from feature_repo.transforms.versions import DefinitionChanged, fingerprint
from feature_repo.transforms.views import TRANSFORMS
from feature_repo.window import DAY, HOUR, Window
from tests.feature_repo.transforms import histories

WEEK = 7 * DAY
RESULTS = {1: "27cedc8f5f107a79", 2: "e00c9d10c9196fba"}
"""What a view makes of a fixed history, by `versions.LOGIC_VERSION`."""


@pytest.fixture
def zones(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Feature | None], None]:
    """Only the view of the zones; called, it defines one of its features otherwise, or not at all."""
    for view in set(TRANSFORMS) - {"zone_stats"}:
        monkeypatch.delitem(TRANSFORMS, view)

    def define(name: str, feature: Feature | None) -> None:
        features = {**TRANSFORMS["zone_stats"].features, name: feature}
        kept = {name: feature for name, feature in features.items() if feature is not None}
        monkeypatch.setitem(TRANSFORMS, "zone_stats", replace(TRANSFORMS["zone_stats"], features=kept))

    return define


@pytest.fixture(scope="module")
def computed_once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, Window]:
    """The view of the zones, computed from a small history. Read only."""
    settings = Settings(data_dir=tmp_path_factory.mktemp("computed") / "data")
    window = histories.write_lake(histories.random_history(seed=2, days=3, orders=20), settings)
    with pytest.MonkeyPatch.context() as patched:
        for view in set(TRANSFORMS) - {"zone_stats"}:
            patched.delitem(TRANSFORMS, view)
        run(window, settings)
    return settings, window


@pytest.fixture
def computed(computed_once, zones, tmp_path) -> tuple[Settings, Window]:
    """A copy of it, and no other view."""
    settings, window = computed_once
    shutil.copytree(settings.data_dir, tmp_path / "data")
    return Settings(data_dir=tmp_path / "data"), window


def run(window: Window, settings: Settings) -> None:
    pipeline.compute_features(window, settings)
    pipeline.publish_features(window, settings)


def written(settings: Settings) -> dict[Path, int]:
    """When each file was last written, without the locks."""
    files = [path for path in settings.data_dir.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {path: path.stat().st_mtime_ns for path in files}


def finished(finish: Callable[..., object]) -> Feature:
    return Feature("float64", (PLACED.count(WEEK), ORDER_VALUE.sum(WEEK)), finish)


def test_fingerprints_are_those_of_every_process():
    program = (
        "import json; from feature_repo.transforms.versions import fingerprints; print(json.dumps(fingerprints()))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "5"}
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert json.loads(done.stdout) == versions.fingerprints(), done.stderr


def test_how_an_expression_is_written_does_not_matter():
    def documented(number, value):
        """The mean value."""
        doubled = value * 2  # a comment
        return doubled / number

    assert fingerprint(finished(documented)) == fingerprint(finished(lambda n, v: v * 2 / n))


@pytest.mark.parametrize(
    "changed",
    [
        mean(ORDER_VALUE, 8 * DAY),
        mean(DELIVERY_MINUTES, WEEK),
        mean(replace(ORDER_VALUE, per_unit=1), WEEK),
        mean(replace(ORDER_VALUE, fact=facts.DELIVERED), WEEK),
        replace(mean(ORDER_VALUE, WEEK), dtype="int64"),
        replace(mean(ORDER_VALUE, WEEK), finish=lambda n, s: s / n),
        count(ORDER_VALUE, WEEK),
        share(PLACED, DECLINED, WEEK),
    ],
    ids=["window", "value", "unit", "fact", "dtype", "finish", "kind", "sums"],
)
def test_every_part_of_a_meaning_changes_the_fingerprint(changed):
    assert fingerprint(changed) != fingerprint(mean(ORDER_VALUE, WEEK))


def test_a_constant_that_an_expression_closes_over_changes_the_fingerprint():
    def above(limit: int) -> Feature:
        return finished(lambda n, v: (n > limit).ifelse(v / 1.0, ibis.null("float64")))

    assert fingerprint(above(3)) == fingerprint(above(3))
    assert fingerprint(above(3)) != fingerprint(above(4))


def test_a_function_that_cannot_be_seen_into_is_refused():
    @ibis.udf.scalar.python
    def secret(n: int) -> float:
        return n / 2

    with pytest.raises(ValueError, match="is a function that Ibis cannot see into"):
        fingerprint(finished(lambda n, v: secret(n)))


@pytest.mark.parametrize(
    ("name", "feature", "message"),
    [
        (
            "order_count_1h",
            count(PLACED, 2 * HOUR),
            r"zone_stats\.order_count_1h has changed \(its rows were made under",
        ),
        (
            "order_count_1h",
            replace(count(PLACED, HOUR), finish=lambda n: n + 1),
            r"zone_stats\.order_count_1h has changed",
        ),
        ("order_count_1h", replace(count(PLACED, HOUR), dtype="float64"), "give the changed feature a name of its own"),
        (
            "order_count_2h",
            count(PLACED, 2 * HOUR),
            r"run `python -m feature_repo backfill-feature zone_stats\.order_c",
        ),
    ],
    ids=["window", "finish", "dtype", "added"],
)
def test_a_changed_or_new_feature_is_refused_before_anything_is_written(name, feature, message, zones, computed):
    settings, window = computed
    pipeline.compute_features(Window(window.end, window.end + HOUR), settings)
    files = written(settings)
    zones(name, feature)
    after = Window(window.end, window.end + HOUR)
    for step in (pipeline.compute_features, pipeline.run_window, pipeline.backfill, pipeline.close_gap):
        with pytest.raises(DefinitionChanged, match=message):
            step(after, settings)
    with pytest.raises(DefinitionChanged, match="computed under other definitions: run compute_features again"):
        pipeline.publish_features(after, settings)
    assert written(settings) == files


def test_both_fingerprints_are_named(zones, computed):
    settings, _ = computed
    old = versions.fingerprints()["zone_stats"]["order_count_1h"]
    zones("order_count_1h", count(PLACED, 2 * HOUR))
    new = versions.fingerprints()["zone_stats"]["order_count_1h"]
    with pytest.raises(DefinitionChanged, match=rf"made under {old}, the code says {new}\): .*\(order_count_1h_v2\)"):
        versions.require_current(settings)


@pytest.mark.parametrize("change", ["logic", "heartbeat", "beat", "key"])
def test_other_shared_logic_or_rows_are_refused(change, computed, monkeypatch):
    settings, _ = computed
    if change == "logic":
        monkeypatch.setattr(versions, "LOGIC_VERSION", versions.LOGIC_VERSION + 1)
    else:
        changed = {"heartbeat": {"heartbeat": 9 * DAY}, "beat": {"beat": 2 * DAY}, "key": {"key": "restaurant_id"}}[
            change
        ]
        monkeypatch.setitem(TRANSFORMS, "zone_stats", replace(TRANSFORMS["zone_stats"], **changed))
    with pytest.raises(
        DefinitionChanged, match="zone_stats has another key, heartbeat, beat, step or shared logic"
    ) as caught:
        versions.require_current(settings)
    assert "python -m feature_repo rebuild zone_stats" in str(caught.value)


def test_views_of_two_computations_are_not_published(computed, monkeypatch):
    settings, window = computed
    after = Window(window.end, window.end + HOUR)
    pipeline.compute_features(after, settings)
    real = compute.compute_rows

    def failing(window, tiles, *rest):
        if "zone_stats" in tiles:
            raise MemoryError("no memory left")
        return real(window, tiles, *rest)

    monkeypatch.setattr(compute, "compute_rows", failing)
    with pytest.raises(MemoryError):
        pipeline.compute_features(after, settings)
    with pytest.raises(pipeline.StepMissing, match="run compute_features for"):
        pipeline.publish_features(after, settings)


def test_rows_that_were_staged_under_another_definition_are_not_published(zones, computed):
    settings, window = computed
    after = Window(window.end, window.end + HOUR)
    pipeline.compute_features(after, settings)
    staged = next((settings.staging / "features").glob(f"{after.slug}.json"))
    basis = json.loads(staged.read_text())
    basis["definitions"]["zone_stats"]["order_count_1h"] = "0" * 16
    staged.write_text(json.dumps(basis))
    with pytest.raises(DefinitionChanged, match=r"the staged rows of .* were computed under other definitions"):
        pipeline.publish_features(after, settings)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is damaged"),
        ("[]", "is damaged"),
        ('{"view": "zone_stats", "build": 1, "rows": "x"}', "is damaged"),
        ('{"view": "driver_stats", "build": 1, "rows": "x", "features": {}}', "is that of driver_stats"),
        ('{"view": "zone_stats", "build": 7, "rows": "x", "features": {}}', "build 7, but its tiles are of build 1"),
        (None, "do not say under which definition their rows were made"),
    ],
)
def test_a_record_that_is_damaged_or_missing_is_refused_and_mended_by_a_rebuild(
    content, message, computed, monkeypatch
):
    settings, window = computed
    before = feature_table(TRANSFORMS["zone_stats"], settings).content_hash()
    path = settings.features / "zone_stats" / versions.FILE
    path.write_text(content) if content else path.unlink()
    with pytest.raises(DefinitionChanged, match=message) as caught:
        pipeline.compute_features(window, settings)
    assert "rebuild zone_stats" in str(caught.value)
    monkeypatch.setattr(evolve, "_require_valid", lambda *_: None)
    pipeline.rebuild("zone_stats", settings)
    run(Window(window.end, window.end + HOUR), settings)
    table = feature_table(TRANSFORMS["zone_stats"], settings)
    assert table.content_hash(Window(window.start, window.end + HOUR)) == before


def test_a_view_that_is_new_beside_computed_ones_is_refused(computed, monkeypatch):
    settings, _ = computed
    added = ViewTransform("new_stats", "zone_id", {"orders_1h": count(PLACED, HOUR)}, heartbeat=DAY)
    monkeypatch.setitem(TRANSFORMS, "new_stats", added)
    with pytest.raises(DefinitionChanged, match=r"tables of new_stats do not say .* rebuild new_stats"):
        versions.require_current(settings)


def test_any_definition_may_begin_where_nothing_is_computed(zones, tmp_path):
    settings = Settings(data_dir=tmp_path / "data")
    window = Window(histories.START, histories.START + HOUR)
    versions.note_span(window, settings)
    zones("order_count_1h", count(PLACED, 2 * HOUR))
    versions.require_current(settings)
    run(window, settings)
    versions.require_current(settings)
    assert versions.available_from("zone_stats", "order_count_1h", settings) == window.start + HOUR


def test_hours_before_the_first_make_a_feature_available_earlier(computed):
    settings, window = computed
    assert versions.available_from("zone_stats", "order_count_1h", settings) == window.start + HOUR
    run(Window(window.start - DAY, window.start), settings)
    assert versions.available_from("zone_stats", "order_count_1h", settings) == window.start - DAY + HOUR
    with pytest.raises(KeyError, match="zone_stats has no feature 'nothing', but"):
        versions.available_from("zone_stats", "nothing", settings)


def test_the_shared_logic_is_that_of_its_version(tmp_path):
    """If this fails, facts, tiles or windows now mean something else: raise LOGIC_VERSION, and note the new result."""
    settings = Settings(data_dir=tmp_path)
    window = histories.write_lake(histories.random_history(seed=17, days=33), settings)
    features = {f"{fact}_week": count(Measure(fact, fact), WEEK) for fact in facts.FACTS}
    for value in facts.VALUES:
        measure = Measure(f"{value}_delivered", facts.DELIVERED, value)
        uses = (measure.sum(DAY), measure.count(None), measure.last())
        features[value] = Feature("int64", uses, lambda total, number, last: total + number + last.fill_null(-1))
    some = {"some": ViewTransform("some", "zone_id", features, heartbeat=8 * DAY)}
    tiles = compute.compute_tiles(window, settings, some)
    rows = compute.compute_rows(window, tiles, settings, some)
    digest = hashlib.sha256(tiles["some"].sort("zone_id", TILE_START).write_csv().encode())
    digest.update(rows["some"].sort("zone_id", EVENT_TIME).write_csv().encode())
    assert RESULTS[versions.LOGIC_VERSION] == digest.hexdigest()[:16]

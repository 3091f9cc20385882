from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from serving import live_keys
from serving.bundle import Bundle
from serving.champion import Champion
from serving.errors import NoChampion, RegistryUnavailable
from serving.predictor import Order, Predictor
from serving.registry_client import BundleCache, DirectoryRegistry, ModelRef
from serving.wire import at_once
from tests.serving.conftest import NOON, BundleMaker
from tests.serving.test_predictor import NoStore
from tests.waiting import GENEROUS_SECONDS, wait_until


class FakeRegistry:
    """A registry whose alias a test moves; `champion` may be a directory, or an error to raise."""

    def __init__(self, champion: Path | Exception) -> None:
        self.champion = champion
        self.version = 1

    def move(self, champion: Path | Exception) -> None:
        self.champion = champion
        self.version += 1

    def resolve(self, name: str, alias: str) -> ModelRef:
        if isinstance(self.champion, Exception):
            raise self.champion
        return ModelRef(name, str(self.version), alias, str(self.champion), "0")

    def fetch(self, ref: ModelRef, directory: Path) -> None:
        DirectoryRegistry(Path(ref.source)).fetch(ref, directory)


class Desk:
    """A champion, its registry, and what it reported."""

    def __init__(self, champion: Path | Exception, root: Path) -> None:
        self.registry = FakeRegistry(champion)
        self.outcomes: list[str] = []
        self.champion = Champion(
            self.registry, BundleCache(root), lambda bundle: Predictor(bundle, NoStore()), self.outcomes.append
        )

    def version(self) -> str | None:
        return self.champion.current.ref.version if self.champion.current else None


@pytest.fixture
def desk(tmp_path: Path) -> Callable[[Path | Exception], Desk]:
    return lambda champion: Desk(champion, tmp_path / "models")


def test_a_moved_alias_is_followed_and_the_running_request_keeps_its_model(
    desk: Callable[..., Desk], make_bundle: BundleMaker
):
    it = desk(make_bundle())
    it.champion.refresh()
    before = it.champion.current
    it.registry.move(make_bundle(shift=5.0))
    it.champion.refresh()

    assert before is not None
    assert it.champion.current is not None
    order = Order("r1", NOON)
    answers = (at_once(model.predictor.predict([order])) for model in (before, it.champion.current))
    old, new = (answer.estimates.minutes[0] for answer in answers)
    assert new == pytest.approx(old + 5, abs=1e-4)
    assert (it.version(), it.outcomes) == ("2", ["switched", "switched"])


def test_an_alias_that_stays_is_not_loaded_again(desk: Callable[..., Desk], bundle_dir: Path):
    it = desk(bundle_dir)
    for _ in range(3):
        it.champion.refresh()

    assert it.outcomes == ["switched"]


def test_a_version_that_fails_its_self_test_is_refused_once_and_the_old_one_stays(
    desk: Callable[..., Desk], make_bundle: BundleMaker, caplog: pytest.LogCaptureFixture
):
    it = desk(make_bundle())
    it.champion.refresh()
    bad = make_bundle()
    (bad / "model.onnx").write_bytes((make_bundle(shift=9.0) / "model.onnx").read_bytes())
    it.registry.move(bad)

    for _ in range(3):
        it.champion.refresh()

    assert (it.version(), it.outcomes) == ("1", ["switched", "refused"])
    assert "delivery_time version 2 was refused: self-test row" in (it.champion.refusal or "")
    assert "ALARM: delivery_time version 2 was refused" in caplog.text
    assert "version 1 stays" in caplog.text
    assert not (it.champion.cache.root / "delivery_time-2").exists()

    it.registry.move(make_bundle(shift=1.0))
    it.champion.refresh()
    assert it.version() == "3"


def test_a_bundle_of_another_model_is_refused(desk: Callable[..., Desk], make_bundle: BundleMaker):
    it = desk(make_bundle(model="customer_churn"))
    it.champion.refresh()

    assert it.version() is None
    assert "a bundle of the model customer_churn, not of delivery_time" in it.champion.why_none


def test_a_model_that_would_degrade_every_answer_replaces_none_but_is_better_than_nothing(
    desk: Callable[..., Desk], make_bundle: BundleMaker
):
    other = make_bundle(request_function_version="older")
    it = desk(make_bundle())
    it.champion.refresh()
    it.registry.move(other)
    it.champion.refresh()
    assert it.version() == "1"
    assert "all its answers would be degraded here (request-time features" in (it.champion.refusal or "")

    alone = desk(other)
    alone.champion.refresh()
    assert alone.version() == "1"


def test_without_a_champion_the_reason_is_kept_and_one_that_comes_is_loaded(
    desk: Callable[..., Desk], bundle_dir: Path
):
    it = desk(NoChampion("no version of the model delivery_time has the alias champion"))
    assert it.champion.why_none == "the registry has not been asked yet"
    it.champion.refresh()
    assert (it.version(), it.champion.registry_state) == (None, "no champion")
    assert it.champion.why_none == "no version of the model delivery_time has the alias champion"

    it.registry.move(bundle_dir)
    it.champion.refresh()
    assert (it.version(), it.champion.registry_state) == ("2", "ok")


@pytest.mark.parametrize("error", [NoChampion("removed"), RegistryUnavailable("down")])
def test_a_loaded_model_survives_its_registry(desk: Callable[..., Desk], bundle_dir: Path, error: Exception):
    it = desk(bundle_dir)
    it.champion.refresh()
    it.registry.move(error)
    it.champion.refresh()

    assert it.version() == "1"
    assert it.champion.registry_reason == str(error)


def test_a_restart_without_registry_serves_the_last_champion_unless_its_files_are_damaged(
    desk: Callable[..., Desk], bundle_dir: Path, caplog: pytest.LogCaptureFixture
):
    desk(bundle_dir).champion.refresh()

    restarted = desk(RegistryUnavailable("down"))
    restarted.champion.refresh()
    assert (restarted.version(), restarted.champion.registry_state) == ("1", "unreachable")

    (restarted.champion.cache.root / "delivery_time-1" / "model.onnx").write_bytes(b"damaged")
    again = desk(RegistryUnavailable("down"))
    again.champion.refresh()
    assert again.version() is None
    assert "delivery_time-1 is not as it was downloaded, and is not served" in caplog.text


@pytest.mark.parametrize("file", ["model.onnx", "bundle.json", "source.json"])
def test_a_damaged_file_of_the_cache_is_downloaded_again_at_once(
    desk: Callable[..., Desk], bundle_dir: Path, file: str
):
    desk(bundle_dir).champion.refresh()
    again = desk(bundle_dir)
    path = again.champion.cache.root / "delivery_time-1" / file
    path.write_bytes(path.read_bytes()[:100])

    again.champion.refresh()

    assert (again.version(), again.champion.refusal) == ("1", None)


def test_a_champion_that_is_the_challenger_too_is_found_without_registry(desk: Callable[..., Desk], bundle_dir: Path):
    it = desk(bundle_dir)
    it.champion.refresh()
    ref = it.registry.resolve("delivery_time", "challenger")
    directory = it.champion.cache.obtain(it.registry, ref)
    assert directory.name == "delivery_time-1"

    restarted = desk(RegistryUnavailable("down"))
    restarted.champion.refresh()

    assert restarted.version() == "1"


def test_files_of_the_cache_are_on_the_disk_before_they_have_their_names(
    desk: Callable[..., Desk], bundle_dir: Path, monkeypatch: pytest.MonkeyPatch
):
    steps: list[str] = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda file: (steps.append("synced"), fsync(file))[1])
    monkeypatch.setattr(Path, "replace", lambda self, to: (steps.append("named"), replace(self, to))[1])

    desk(bundle_dir).champion.refresh()

    assert steps == ["synced"] * 4 + ["named", "synced", "named"]


def test_a_version_that_the_store_holds_nothing_of_waits_until_it_does(
    make_bundle: BundleMaker, store: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    it = Desk(make_bundle(), tmp_path / "models")
    it.champion.require = lambda bundle: live_keys.require(store, bundle.document, GENEROUS_SECONDS)
    it.champion.refresh()
    it.registry.move(make_bundle(project="elsewhere"))
    for _ in range(3):
        it.champion.refresh()

    assert (it.version(), it.outcomes) == ("1", ["switched", "refused"])
    assert (it.champion.refusal or "").startswith(
        "delivery_time version 2 waits: Redis holds nothing of the Feast project"
    )
    assert caplog.text.count("ALARM: delivery_time version 2 waits") == 1

    client = redis.Redis.from_url(store)
    for key in list(client.scan_iter()):
        client.rename(key, key.replace(b"delivery_eta", b"elsewhere"))
    it.champion.refresh()

    assert (it.version(), it.champion.refusal) == ("2", None)


def test_a_fresh_machine_without_registry_has_no_model(desk: Callable[..., Desk]):
    it = desk(RegistryUnavailable("the registry at x does not answer"))
    it.champion.refresh()

    assert (it.version(), it.champion.why_none) == (None, "the registry at x does not answer")


def test_the_thread_follows_the_alias_and_outlives_a_fault(
    desk: Callable[..., Desk], make_bundle: BundleMaker, caplog: pytest.LogCaptureFixture
):
    it = desk(make_bundle())
    it.champion.refresh()
    it.champion.start(0.01)
    it.registry.move(RuntimeError("a fault nobody thought of"))
    wait_until(lambda: "asking for the champion failed" in caplog.text, "the fault is told")
    it.registry.move(make_bundle(shift=2.0))
    wait_until(lambda: it.version() == "3", "the version after the fault")
    it.champion.stop()

    assert it.version() == "3"
    assert "asking for the champion failed" in caplog.text
    assert not [thread for thread in threading.enumerate() if thread.name == "champion-poll"]


def test_bundles_load_from_the_cache_directory(desk: Callable[..., Desk], bundle_dir: Path):
    it = desk(bundle_dir)
    it.champion.refresh()

    assert Bundle.load(it.champion.cache.root / "delivery_time-1").verify() < 1e-3

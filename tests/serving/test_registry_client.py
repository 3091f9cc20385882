from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from config import Settings
from serving.bundle import BUNDLE_FILES, Bundle
from serving.errors import BundleError, NoChampion, RegistryUnavailable
from serving.registry_client import BundleCache, DirectoryRegistry, MlflowRegistry, ModelRef, registry_from
from tests.conftest import free_port
from tests.serving.conftest import BundleMaker, ServingProcess
from tests.waiting import wait_until

NAME = "delivery_time"


class MlflowServer:
    """A real MLflow server with four versions: good, good (source by run), without a model file, with a wrong one."""

    def __init__(self, root: Path, bundles: list[Path]) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.root = root
        self.bundles = bundles
        self.versions: list[list[str]] = []

    def register(self) -> None:
        script = Path(__file__).with_name("register_bundles.py")
        command = [sys.executable, str(script), self.url, NAME, *map(str, self.bundles)]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        self.versions = json.loads(printed.splitlines()[-1])

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--backend-store-uri", f"sqlite:///{self.root / 'mlflow.db'}", "--serve-artifacts"]
        command += ["--artifacts-destination", str(self.root / "artifacts"), "--workers", "1"]
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self.root / "server.log").open("ab") as log:
            # A session of its own: the server's worker has to stop with it.
            self.process = subprocess.Popen(
                command, cwd=self.root, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        wait_until(self._answers, "MLflow's server", seconds=300, pause=0.1, detail=self._log)

    def _log(self) -> str:
        return (self.root / "server.log").read_text()

    def _answers(self) -> bool:
        assert self.process.poll() is None, self._log()
        try:
            return httpx.get(f"{self.url}/health", trust_env=False).is_success
        except httpx.TransportError:
            return False

    def stop(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def set_alias(self, version: str, alias: str = "champion") -> None:
        self.post("registered-models/alias", {"name": NAME, "alias": alias, "version": version})

    def tag(self, version: str, **tags: str) -> None:
        for key, value in tags.items():
            self.post("model-versions/set-tag", {"name": NAME, "version": version, "key": key, "value": value})

    def post(self, path: str, body: dict) -> None:
        httpx.post(f"{self.url}/api/2.0/mlflow/{path}", json=body, trust_env=False).raise_for_status()


@pytest.fixture(scope="module")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory, make_bundle: BundleMaker) -> Iterator[MlflowServer]:
    incomplete, wrong = make_bundle(), make_bundle()
    (incomplete / "model.onnx").unlink()
    (wrong / "model.onnx").write_bytes((make_bundle(shift=50.0) / "model.onnx").read_bytes())
    bundles = [make_bundle(), make_bundle(shift=5.0), incomplete, wrong]
    server = MlflowServer(tmp_path_factory.mktemp("mlflow"), bundles)
    try:
        server.start()
        server.register()
        yield server
    finally:
        server.stop()


@pytest.fixture
def cache(tmp_path: Path) -> BundleCache:
    return BundleCache(tmp_path / "models")


def test_the_alias_of_a_real_server_leads_to_a_bundle(mlflow_server: MlflowServer, cache: BundleCache):
    version, source = mlflow_server.versions[0]
    mlflow_server.set_alias(version)
    registry = MlflowRegistry(mlflow_server.url)

    ref = registry.resolve(NAME, "champion")
    directory = cache.obtain(registry, ref)

    assert (ref.name, ref.version, ref.alias, ref.source) == (NAME, version, "champion", source)
    assert source.startswith("mlflow-artifacts:/")
    assert directory == cache.root / f"delivery_time-{version}"
    assert sorted(path.name for path in directory.iterdir()) == ["bundle.json", "model.onnx", "source.json"]
    assert Bundle.load(directory).verify() < 1e-3


def test_a_source_that_names_a_run_is_followed(mlflow_server: MlflowServer, cache: BundleCache):
    version, source = mlflow_server.versions[1]
    mlflow_server.set_alias(version)
    registry = MlflowRegistry(mlflow_server.url)

    directory = cache.obtain(registry, registry.resolve(NAME, "champion"))

    assert source.startswith("runs:/")
    assert Bundle.load(directory).verify() < 1e-3


def test_a_version_without_a_bundle_says_what_it_has(mlflow_server: MlflowServer, cache: BundleCache):
    version, _ = mlflow_server.versions[2]
    mlflow_server.set_alias(version)
    registry = MlflowRegistry(mlflow_server.url)

    with pytest.raises(BundleError, match=r"version 3: .* has no \['model.onnx'\], only \['bundle.json'\]"):
        cache.obtain(registry, registry.resolve(NAME, "champion"))
    assert list(cache.root.iterdir()) == []


@pytest.mark.parametrize(("name", "alias"), [(NAME, "nobody"), ("unknown_model", "champion")])
def test_an_unknown_model_or_alias_is_no_champion(mlflow_server: MlflowServer, name: str, alias: str):
    with pytest.raises(NoChampion, match=f"no version of the model {name} has the alias {alias}"):
        MlflowRegistry(mlflow_server.url).resolve(name, alias)


def test_a_live_server_follows_the_alias_refuses_a_bad_version_and_survives_its_registry(
    mlflow_server: MlflowServer, store: str, serve: Callable[..., Any]
):
    """The last test of the MLflow server: it stops it for good."""
    environment = {"ETA_MLFLOW_TRACKING_URI": mlflow_server.url, "ETA_CHAMPION_POLL_SECONDS": "0.2"}
    mlflow_server.set_alias("1")

    def model(server: ServingProcess) -> dict:
        return server.client.get("/model").json()

    with serve(**environment) as server:
        assert (model(server)["version"], model(server)["registry"]) == ("1", "ok")
        before = server.client.post("/predict", json={"restaurant_id": "r1"}).json()

        mlflow_server.set_alias("2")
        server.wait_for(lambda: model(server)["version"] == "2", "version 2")
        after = server.client.post("/predict", json={"restaurant_id": "r1"}).json()
        assert after["model"] == {"name": NAME, "version": "2", "alias": "champion", "variant": "champion"}
        assert after["delivery_minutes"] == pytest.approx(before["delivery_minutes"] + 5, abs=0.1)

        mlflow_server.tag("1", traffic="ab", traffic_share="1", traffic_variant="old")
        mlflow_server.set_alias("1", "challenger")
        server.wait_for(lambda: model(server)["challenger"] is not None, "a challenger")
        tried = server.client.post("/predict", json={"restaurant_id": "r1"}).json()
        assert tried["model"] == {"name": NAME, "version": "1", "alias": "challenger", "variant": "old"}
        assert tried["delivery_minutes"] == pytest.approx(before["delivery_minutes"], abs=0.1)
        mlflow_server.tag("1", traffic_share="0")
        server.wait_for(lambda: model(server)["challenger"]["share"] == 0, "no share")
        assert server.client.post("/predict", json={"restaurant_id": "r1"}).json()["model"]["version"] == "2"

        mlflow_server.set_alias("4")
        server.wait_for(lambda: model(server)["last_refusal"] is not None, "the refusal of version 4")
        assert model(server)["version"] == "2"
        assert "delivery_time version 4 was refused: self-test row" in model(server)["last_refusal"]
        server.wait_for_log("ALARM: delivery_time version 4 was refused")

        mlflow_server.stop()
        server.wait_for(lambda: model(server)["registry"] == "unreachable", "the registry is missed")
        assert server.client.post("/predict", json={"restaurant_id": "r1"}).json()["model"]["version"] == "2"

    with serve(**environment) as restarted:
        assert (model(restarted)["version"], model(restarted)["registry"]) == ("2", "unreachable")
        assert restarted.client.post("/predict", json={"restaurant_id": "r1"}).status_code == 200


def test_a_server_that_is_down_is_unavailable():
    url = f"http://127.0.0.1:{free_port()}"

    with pytest.raises(RegistryUnavailable, match=f"the registry at {url} does not answer"):
        MlflowRegistry(url).resolve(NAME, "champion")


def answering(response: httpx.Response) -> MlflowRegistry:
    registry = MlflowRegistry("http://registry.invalid")
    transport = httpx.MockTransport(lambda request: response)
    registry.client = httpx.Client(base_url=registry.url, transport=transport)
    return registry


@pytest.mark.parametrize(
    ("response", "message"),
    [
        (httpx.Response(403, text="Invalid Host header"), "answers 403 to .*/alias: Invalid Host header"),
        (httpx.Response(500, text="boom"), "answers 500 to .*: boom"),
        (httpx.Response(400, json={"error_code": "INVALID_PARAMETER_VALUE", "message": "bad"}), "answers 400"),
        (httpx.Response(200, text="<html>"), "something else than JSON: is it MLflow"),
        (httpx.Response(200, json=[]), "something else than a JSON object: is it MLflow"),
    ],
)
def test_an_unexpected_answer_is_unavailable_not_a_missing_champion(response: httpx.Response, message: str):
    with pytest.raises(RegistryUnavailable, match=message):
        answering(response).resolve(NAME, "champion")


def test_a_run_that_is_gone_behind_a_version_is_named(tmp_path: Path):
    gone = {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "Run with id=abc not found"}
    ref = ModelRef(NAME, "7", "champion", "runs:/abc/serving", "1")
    with pytest.raises(BundleError, match=r"the run abc of runs:/abc/serving is gone from .*promote another version"):
        answering(httpx.Response(404, json=gone)).fetch(ref, tmp_path)


def test_a_file_that_is_gone_is_named_with_its_version(tmp_path: Path):
    def answer(request: httpx.Request) -> httpx.Response:
        listed = {"files": [{"path": f"serving/{name}"} for name in BUNDLE_FILES]}
        return httpx.Response(200, json=listed) if "path" in request.url.params else httpx.Response(404)

    registry = MlflowRegistry("http://mlflow.test")
    registry.client = httpx.Client(base_url="http://mlflow.test", transport=httpx.MockTransport(answer))
    with pytest.raises(
        BundleError, match=f"{NAME} version 7: {BUNDLE_FILES[0]} is gone from mlflow-artifacts:/1/serving"
    ):
        registry.fetch(ModelRef(NAME, "7", "champion", "mlflow-artifacts:/1/serving", "1"), tmp_path)


def test_a_source_outside_of_the_artifact_proxy_says_what_to_do(tmp_path: Path):
    ref = ModelRef(NAME, "1", "champion", "s3://bucket/serving", "0")

    with pytest.raises(BundleError, match="start the MLflow server with --serve-artifacts"):
        answering(httpx.Response(200, json={})).fetch(ref, tmp_path)


def test_a_directory_is_a_registry_whose_version_is_its_content(bundle_dir: Path, make_bundle: BundleMaker):
    registry = DirectoryRegistry(bundle_dir)

    first, again = registry.resolve(NAME, "champion"), registry.resolve(NAME, "champion")
    other = DirectoryRegistry(make_bundle(seed=8)).resolve(NAME, "champion")

    assert first == again
    assert first.version.startswith("local-")
    assert other.version != first.version


def test_an_empty_directory_has_no_champion(tmp_path: Path):
    with pytest.raises(NoChampion, match=r"has no bundle\.json"):
        DirectoryRegistry(tmp_path).resolve(NAME, "champion")


def test_a_cached_version_is_not_fetched_again_unless_the_registry_means_another_one(
    bundle_dir: Path, make_bundle: BundleMaker, cache: BundleCache
):
    ref = ModelRef(NAME, "1", "champion", "somewhere", "10")
    cache.obtain(DirectoryRegistry(bundle_dir), ref)
    other = make_bundle(seed=99)

    cached = cache.obtain(DirectoryRegistry(other), ref)
    assert (cached / "bundle.json").read_bytes() == (bundle_dir / "bundle.json").read_bytes()

    # A registry that was made anew counts versions from 1 again.
    renewed = cache.obtain(DirectoryRegistry(other), ModelRef(NAME, "1", "champion", "somewhere", "20"))
    assert (renewed / "bundle.json").read_bytes() == (other / "bundle.json").read_bytes()


def test_a_failed_download_leaves_nothing_behind(cache: BundleCache, tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        cache.obtain(DirectoryRegistry(tmp_path / "nowhere"), ModelRef(NAME, "1", "champion", "x", "1"))

    assert list(cache.root.iterdir()) == []


def test_only_a_remembered_version_that_is_still_there_is_found(cache: BundleCache, bundle_dir: Path):
    ref = ModelRef(NAME, "1", "champion", "x", "1")
    assert cache.remembered(NAME, "champion") is None

    directory = cache.obtain(DirectoryRegistry(bundle_dir), ref)
    cache.remember(ref)
    assert cache.remembered(NAME, "champion") == (ref, directory)

    cache.forget(ref)
    assert cache.remembered(NAME, "champion") is None


def test_the_settings_choose_the_registry(settings: Settings, bundle_dir: Path):
    local = settings.model_copy(update={"model_dir_override": bundle_dir})
    remote = settings.model_copy(update={"mlflow_tracking_uri_override": "http://127.0.0.1:5050"})

    assert isinstance(registry_from(local), DirectoryRegistry)
    assert isinstance(registry_from(remote), MlflowRegistry)
    with pytest.raises(RegistryUnavailable, match="set ETA_MLFLOW_TRACKING_URI to the address of an MLflow server"):
        registry_from(settings).resolve(NAME, "champion")


def test_the_model_directory_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch, bundle_dir: Path):
    monkeypatch.setenv("ETA_MODEL_DIR", str(bundle_dir))

    assert Settings().model_dir_override == bundle_dir

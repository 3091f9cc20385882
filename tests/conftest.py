"""What every room's tests share: settings that point into a temporary directory, and a real Redis."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from config import Settings, get_settings
from stack.ports import free_port
from tests import progress
from tests.servers import RedisServer, redis_server_binary
from tests.waiting import wait_until

__all__ = ["free_port", "redis_server_binary", "wait_until"]

# The same examples in every run, however slow the machine is: what they find today they find tomorrow.
hypothesis_settings.register_profile(
    "suite", derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
hypothesis_settings.load_profile("suite")


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Say how far the tests are."""
    progress.register(config)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest."""
    progress.longest_first(items)


def pytest_collection_finish() -> None:
    """What is imported by now stays: looking through it again and again takes a tenth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Two processes, as most of the time goes into work of one core; none besides this one for a file or two."""
    files = {file for argument in config.args for file in _test_files(Path(str(argument).partition("::")[0]))}
    return 0 if len(files) <= FILES_IN_PROCESS else 2


FILES_IN_PROCESS = 3
"""Another two processes take seconds to begin, which so few files seldom repay."""
PATIENT_MS = "60000"
"""A store that answers later than in 50 ms, on a busy machine, is what only those tests are about that say so."""


def _test_files(path: Path) -> list[Path]:
    return sorted(path.rglob("test_*.py")) if path.is_dir() else [path]


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes are no part of a case's name: packed ones hold the time at which they were packed."""
    return argname if isinstance(val, bytes) else None


@pytest.fixture(autouse=True)
def _mlflow_leaves_no_address_behind() -> Iterator[None]:
    """MLflow notes its server's address in the environment, where the next test's settings would find it."""
    before = os.environ.get("MLFLOW_TRACKING_URI")
    yield
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    if before is not None:
        os.environ["MLFLOW_TRACKING_URI"] = before


@pytest.fixture(scope="session")
def redis_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A real Redis that lives as long as the test session."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.kill()


@pytest.fixture(scope="session")
def redis_server(redis_process: RedisServer) -> str:
    """URL of the session's Redis."""
    return redis_process.url


@pytest.fixture
def redis_url(redis_server: str) -> str:
    """URL of the session's Redis, emptied for this test."""
    import redis

    with redis.Redis.from_url(redis_server) as client:
        client.flushall()
    return redis_server


@pytest.fixture
def settings(tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """Settings of an installation of its own: an empty data directory and an empty Redis, also in the environment."""
    monkeypatch.setenv("ETA_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("ETA_REDIS_URL", redis_url)
    monkeypatch.setenv("ETA_MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setenv("ETA_ONLINE_TIMEOUT_MS", PATIENT_MS)
    get_settings.cache_clear()
    yield get_settings()
    get_settings.cache_clear()

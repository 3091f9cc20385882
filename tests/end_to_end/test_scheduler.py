"""The real thing: Airflow's own scheduler takes an hour of orders from the landing to Redis."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest

from config import Settings, get_settings
from feature_repo.window import DAY, HOUR, Window, floor_hour
from stack.airflow import airflow_login, airflow_service
from tests.conftest import free_port
from tests.waiting import GENEROUS_SECONDS, wait_until

LIMIT_SECONDS = 900
OTHERS = ("training_pipeline", "monitoring", "batch_scoring")
RUNS = "/dags/feature_pipeline/dagRuns"


@pytest.fixture
def installation(tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """A data directory with ten simulated days, features computed up to the last hour."""
    monkeypatch.setenv("ETA_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("ETA_REDIS_URL", redis_url)
    monkeypatch.setenv("ETA_AIRFLOW_PORT", str(free_port()))
    monkeypatch.setenv("ETA_MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    get_settings.cache_clear()
    yield get_settings()
    get_settings.cache_clear()


def test_the_scheduler_takes_the_last_hour_from_landing_to_redis_by_itself(installation: Settings) -> None:
    from feature_repo import pipeline
    from feature_repo.store import apply
    from simulator.generate import write_history

    now = floor_hour(datetime.now(UTC))
    # Orders until an hour from now: the test may run over the full hour.
    write_history(installation.landing_orders, now + HOUR, days=10, orders=4_000, seed=3)
    apply(installation)
    pipeline.backfill(Window.last(7 * DAY, now - HOUR), installation, lambda _: None)
    with airflow_service(installation), _api(installation) as airflow:
        _wait(lambda: all(airflow.get(f"/dags/{dag}").is_success for dag in OTHERS), "the DAGs are parsed")
        for dag in OTHERS:
            airflow.patch(f"/dags/{dag}", json={"is_paused": True}).raise_for_status()
        run = _wait(lambda: _ended_run(airflow), "a scheduled run has ended")
        tasks = _task_states(airflow, run["dag_run_id"])
    assert (run["state"], run["run_type"]) == ("success", "scheduled"), tasks
    assert tasks["audit_online"] == "success"
    assert tasks["quarantine_batch"] == "skipped"
    rows = pl.scan_parquet(installation.features / "zone_stats" / "day=*/rows.parquet", hive_partitioning=False)
    end = datetime.fromisoformat(run["data_interval_end"])
    assert rows.filter(pl.col("event_timestamp") == end).collect().height > 0


def _ended_run(airflow: httpx.Client) -> dict[str, Any] | None:
    runs: list[dict[str, Any]] = airflow.get(RUNS).raise_for_status().json()["dag_runs"]
    return next((run for run in runs if run["state"] in {"success", "failed"}), None)


def _task_states(airflow: httpx.Client, run: str) -> dict[str, str]:
    answer = airflow.get(f"{RUNS}/{run}/taskInstances").raise_for_status().json()
    return {task["task_id"]: task["state"] for task in answer["task_instances"]}


def _api(settings: Settings) -> httpx.Client:
    login = airflow_login(settings)
    credentials = {"username": login.user, "password": login.password}
    patient: dict[str, Any] = {"timeout": GENEROUS_SECONDS, "trust_env": False}
    token = httpx.post(f"{settings.airflow_url}/auth/token", json=credentials, **patient)
    headers = {"Authorization": f"Bearer {token.raise_for_status().json()['access_token']}"}
    return httpx.Client(base_url=f"{settings.airflow_url}/api/v2", headers=headers, **patient)


def _wait(probe: Callable[[], Any], what: str) -> Any:
    return wait_until(probe, what, seconds=LIMIT_SECONDS, pause=0.5)

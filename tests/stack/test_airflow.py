"""Airflow's configuration and its supervisor; the real scheduler runs in tests/end_to_end."""

from __future__ import annotations

import os
import sys

import pytest

from config import Settings
from config.settings import ROOT
from stack import airflow
from stack.airflow import airflow_environment, airflow_health, airflow_login, airflow_service
from tests.waiting import wait_until


def test_keys_and_password_are_made_once_and_kept_private(own_settings: Settings) -> None:
    first, login = airflow_environment(own_settings), airflow_login(own_settings)
    assert airflow_environment(own_settings) == first
    assert airflow_login(own_settings) == login
    assert len(first["AIRFLOW__API_AUTH__JWT_SECRET"]) >= 64
    for name in ("keys.json", "admin-password.json"):
        assert (own_settings.airflow_home / name).stat().st_mode & 0o077 == 0


def test_two_installations_have_different_keys(own_settings: Settings) -> None:
    other = own_settings.model_copy(update={"data_dir": own_settings.data_dir / "other"})
    name = "AIRFLOW__API_AUTH__JWT_SECRET"
    assert airflow_environment(own_settings)[name] != airflow_environment(other)[name]


def test_the_configuration_is_ours(own_settings: Settings) -> None:
    environment = airflow_environment(own_settings)
    expected = {
        "AIRFLOW_HOME": str(own_settings.airflow_home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(own_settings.airflow_port),
        "ETA_DATA_DIR": str(own_settings.data_dir),
    }
    assert {name: environment[name] for name in expected} == expected


def test_no_part_opens_a_log_server(own_settings: Settings) -> None:
    assert "--skip-serve-logs" in airflow.PARTS["scheduler"]
    assert "--skip-serve-logs" in airflow.PARTS["triggerer"]
    assert airflow_service(own_settings).host == "127.0.0.1"


@pytest.mark.parametrize(
    ("report", "wrong"),
    [
        ({"scheduler": {"status": "healthy"}, "triggerer": {"status": "healthy"}}, None),
        ({"scheduler": {"status": "unhealthy"}, "triggerer": {"status": None}}, "no heartbeat of scheduler, triggerer"),
        ("connection refused", "connection refused"),
    ],
)
def test_health_needs_every_part(
    own_settings: Settings, monkeypatch: pytest.MonkeyPatch, report: object, wrong: str | None
) -> None:
    monkeypatch.setattr(airflow, "http_json", lambda url: report)
    assert airflow_health(own_settings) == wrong


def test_the_database_is_migrated_once(own_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[object] = []

    def migration(command: object, **_: object) -> None:
        runs.append(command)
        (own_settings.airflow_home / "airflow.db").touch()

    own_settings.airflow_home.mkdir(parents=True)
    monkeypatch.setattr(airflow.subprocess, "run", migration)
    airflow.migrate(own_settings, {})
    airflow.migrate(own_settings, {})
    assert len(runs) == 1


def test_a_part_that_dies_is_started_again(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(airflow, "_AIRFLOW", (sys.executable, "-c", "import sys; sys.exit(7)"))
    part = airflow._Part("scheduler", (), dict(os.environ), delay=0.05)
    started: list[object] = []

    def started_twice() -> bool:
        part.keep_alive()
        if part.process is not None and part.process not in started:
            started.append(part.process)
        return len(started) == 2

    wait_until(started_twice, "two starts")
    part.end(5.0)
    assert "airflow scheduler ended (exit status 7); it starts again" in caplog.text

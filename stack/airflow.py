"""Airflow on one machine: its configuration, all of it as variables, and a supervisor of its four processes.

Like `airflow standalone`, with three differences: no log servers on all interfaces (the processes share a disk), a part
that dies is started again, and no fifth process with Airflow loaded. Run as `python -m stack.airflow` by the service.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import secrets
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from config.settings import ROOT, Settings, get_settings
from stack.processes import Service
from stack.services import http_json, service_environment

ADMIN = "admin"
PARTS: dict[str, tuple[str, ...]] = {
    "api-server": ("api-server",),
    "scheduler": ("scheduler", "--skip-serve-logs"),
    "dag-processor": ("dag-processor",),
    "triggerer": ("triggerer", "--skip-serve-logs"),
}
STABLE_SECONDS = 60.0
"""A part that lived this long is started again at once; one that dies earlier waits longer each time."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Login:
    """What a person types into Airflow's login page."""

    user: str
    password: str


def airflow_service(settings: Settings) -> Service:
    """Airflow: UI and API, scheduler, DAG processor, triggerer. Well means that all four are."""

    def prepare() -> None:
        _keys(settings)

    return Service(
        name="airflow",
        command=(sys.executable, "-m", "stack.airflow"),
        run_dir=settings.run_dir,
        address=settings.airflow_url,
        check=lambda: airflow_health(settings),
        host=settings.host,
        port=settings.airflow_port,
        port_variable="ETA_AIRFLOW_PORT",
        environment=service_environment(settings),
        prepare=prepare,
        deadline=300.0,
        grace=30.0,
    )


def airflow_environment(settings: Settings) -> dict[str, str]:
    """The variables under which every Airflow process of this installation runs, `dag.test()` included.

    The first call makes the installation's keys and its admin password, which stay the same from then on.

    Returns
    -------
    dict of str to str
        `service_environment` and Airflow's own; to be added to the environment before Airflow is imported.
    """
    home, keys = settings.airflow_home, _keys(settings)
    options: dict[str, dict[str, object]] = {
        "core": {
            "dags_folder": ROOT / "dags",
            "plugins_folder": ROOT / "plugins",
            "load_examples": False,
            "executor": "LocalExecutor",
            "parallelism": max(2, min(4, os.cpu_count() or 2)),
            "dags_are_paused_at_creation": False,
            # Tasks fork from a process that has loaded Airflow, rather than load it again.
            "execute_tasks_new_python_interpreter": False,
            "execution_api_server_url": f"{settings.airflow_url}/execution/",
            "fernet_key": keys["fernet_key"],
            "simple_auth_manager_users": f"{ADMIN}:admin",
            "simple_auth_manager_passwords_file": _password_file(settings),
            "dagbag_import_timeout": 60.0,
        },
        "database": {"sql_alchemy_conn": f"sqlite:///{home / 'airflow.db'}"},
        "api": {
            "host": settings.host,
            "port": settings.airflow_port,
            "base_url": settings.airflow_url,
            "workers": 1,
            "secret_key": keys["secret_key"],
        },
        "api_auth": {"jwt_secret": keys["jwt_secret"]},
        # A busy machine may take longer than Airflow's 5 s to answer a task.
        "workers": {"execution_api_timeout": 30.0},
        "logging": {"base_log_folder": home / "logs"},
        "scheduler": {"create_cron_data_intervals": True, "create_delta_data_intervals": True},
        "dag_processor": {
            "parsing_processes": 1,
            "min_file_process_interval": 60,
            "refresh_interval": 60,
            "dag_file_processor_timeout": 90,
        },
    }
    named = {
        f"AIRFLOW__{section.upper()}__{name.upper()}": str(value)
        for section, values in options.items()
        for name, value in values.items()
    }
    return {**service_environment(settings), "AIRFLOW_HOME": str(home), **named}


def airflow_login(settings: Settings) -> Login:
    """The admin's name and password, made at the first call."""
    _keys(settings)
    return Login(ADMIN, str(json.loads(_password_file(settings).read_text())[ADMIN]))


def airflow_health(settings: Settings) -> str | None:
    """What is wrong with Airflow, by its own account; None when all its parts have a recent heartbeat."""
    health = http_json(f"{settings.airflow_url}/api/v2/monitor/health")
    if isinstance(health, str):
        return health
    ill = [part for part, state in health.items() if state.get("status") != "healthy"]
    return f"no heartbeat of {', '.join(ill)}" if ill else None


def migrate(settings: Settings, environment: dict[str, str]) -> None:
    """Make or upgrade Airflow's database, once for each version of Airflow.

    Raises
    ------
    subprocess.CalledProcessError
        The migration failed; its output is in the log.
    """
    stamp = settings.airflow_home / "database-version"
    wanted = version("apache-airflow-core")
    if (settings.airflow_home / "airflow.db").exists() and stamp.exists() and stamp.read_text() == wanted:
        return
    subprocess.run([*_AIRFLOW, "db", "migrate"], env=environment, check=True)
    stamp.write_text(wanted)


@dataclass
class _Part:
    """One of Airflow's processes, started again when it dies."""

    name: str
    arguments: tuple[str, ...]
    environment: dict[str, str]
    process: subprocess.Popen[bytes] | None = None
    began: float = 0.0
    delay: float = field(default=1.0)
    not_before: float = 0.0

    def keep_alive(self) -> None:
        now = time.monotonic()
        if self.process is None:
            if now >= self.not_before:
                self.process, self.began = subprocess.Popen([*_AIRFLOW, *self.arguments], env=self.environment), now
            return
        code = self.process.poll()
        if code is None:
            return
        self.delay = 1.0 if now - self.began > STABLE_SECONDS else min(60.0, self.delay * 2)
        logger.error("airflow %s ended (exit status %s); it starts again in %.0f s", self.name, code, self.delay)
        self.process, self.not_before = None, now + self.delay

    def end(self, seconds: float) -> None:
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()


_AIRFLOW = (sys.executable, "-m", "airflow")


def _password_file(settings: Settings) -> Path:
    return settings.airflow_home / "admin-password.json"


def _keys(settings: Settings) -> dict[str, str]:
    """The installation's keys, made at the first call together with the admin's password."""
    settings.airflow_home.mkdir(parents=True, exist_ok=True)
    _write_once(_password_file(settings), {ADMIN: secrets.token_urlsafe(9)})
    made = {
        "fernet_key": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
        "jwt_secret": secrets.token_urlsafe(48),
        "secret_key": secrets.token_urlsafe(32),
    }
    keys: dict[str, str] = _write_once(settings.airflow_home / "keys.json", made)
    return keys


def _write_once(path: Path, content: dict[str, str]) -> dict[str, str]:
    """The content of `path`, which becomes `content` if there is none yet; of two writers at once the first wins."""
    if not path.exists():
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump(content, file)
        try:
            path.hardlink_to(temporary)
        except FileExistsError:
            pass
        finally:
            temporary.unlink()
    return dict(json.loads(path.read_text()))


def supervise(settings: Settings) -> None:
    """Run Airflow's parts until a SIGTERM or SIGINT, then end them all."""
    environment = {**os.environ, **airflow_environment(settings)}
    migrate(settings, environment)
    stopping: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: stopping.append(received))
    parts = [_Part(name, arguments, environment) for name, arguments in PARTS.items()]
    while not stopping:
        for part in parts:
            part.keep_alive()
        time.sleep(0.2)
    for part in parts:
        part.end(seconds=20.0)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    supervise(get_settings())

"""The Makefile and the container files, as far as they can be checked without installing anything."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from pydantic import AliasChoices

from config import Settings
from config.settings import ROOT
from stack.probe import probe
from tests.conftest import free_port

SECRETS = re.findall(r"^([A-Z_]+)=$", (ROOT / ".env.example").read_text(), re.MULTILINE)
COMPOSE = next(
    (
        command
        for command in (["docker-compose"], ["docker", "compose"])
        if shutil.which(command[0])
        and subprocess.run([*command, "version"], capture_output=True, check=False).returncode == 0
    ),
    None,
)
needs_compose = pytest.mark.skipif(COMPOSE is None, reason="no docker-compose on this machine")


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    # The tests themselves run below `make test`, whose variables would make this a sub-make that talks more.
    own = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    return subprocess.run(["make", *arguments], cwd=ROOT, env=own, capture_output=True, text=True, check=False)


def compose_config(tmp_path: Path, secrets: dict[str, str]) -> subprocess.CompletedProcess[str]:
    assert COMPOSE is not None
    file = tmp_path / "env"
    file.write_text("".join(f"{name}={value}\n" for name, value in secrets.items()))
    clean = {name: value for name, value in os.environ.items() if name not in SECRETS}
    return subprocess.run(
        [*COMPOSE, "--env-file", str(file), "config"], cwd=ROOT, env=clean, capture_output=True, text=True, check=False
    )


def test_make_alone_lists_every_target() -> None:
    listed = {line.split()[0] for line in make().stdout.splitlines() if line.startswith("  ")}
    declared = re.search(r"\.PHONY: ((?:.*\\\n)*.*)", (ROOT / "Makefile").read_text())
    assert declared is not None
    assert listed == set(declared.group(1).replace("\\\n", " ").split())


def variables() -> dict[str, str]:
    """By setting: the variable that it is read from."""
    alias = {name: field.validation_alias for name, field in Settings.model_fields.items()}
    return {
        name: str(choices.choices[0]) if isinstance(choices, AliasChoices) else f"ETA_{name.upper()}"
        for name, choices in alias.items()
    }


@pytest.mark.parametrize("place", ["docker-compose.yml", ".env.example", "docs/deployment.md"])
def test_no_place_that_lists_the_settings_has_forgotten_one(place: str) -> None:
    told = set(re.findall(r"ETA_[A-Z_]+", (ROOT / place).read_text()))
    # In a container the addresses are those of the other containers, and a model is kept with the other data.
    elsewhere = {"redis_port", "model_dir_override"} if place == "docker-compose.yml" else set()
    assert [name for setting, name in variables().items() if setting not in elsewhere and name not in told] == []


@needs_compose
def test_what_env_says_reaches_every_container_of_ours(tmp_path: Path) -> None:
    decided = {"ETA_RULE_SEVERITIES": '{"row_count": "stop"}', "ETA_TRAINING_APPROVAL": "true", "ETA_SMTP_PORT": "2525"}
    services = yaml.safe_load(compose_config(tmp_path, dict.fromkeys(SECRETS, "secret") | decided).stdout)["services"]
    ours = {name: service["environment"] for name, service in services.items() if "ETA_API_KEY" in str(service)}
    assert {"serving", "airflow-worker", "airflow-scheduler"} <= set(ours)
    for name, environment in ours.items():
        assert {key: str(environment[key]) for key in decided} == decided, name
        assert environment["ETA_ENGINE"] is None, "left at its default"


@pytest.mark.parametrize(
    ("target", "given", "missing"),
    [
        ("ingest", ["ORDERS=x.csv"], "MAPPING"),
        ("backfill", [], "START"),
        ("materialize", ["START=2026-01-01"], "END"),
        ("score", [], "START"),
        ("drift", [], "START"),
    ],
)
def test_a_missing_argument_is_named_before_anything_is_done(target: str, given: list[str], missing: str) -> None:
    result = make(target, *given)
    assert result.returncode != 0
    assert result.stdout == ""
    assert f"make {target}: {missing}= is missing" in result.stderr


def test_no_file_names_an_index_of_packages() -> None:
    for name in ("requirements.lock", "requirements-bootstrap.txt", "scripts/setup", "Dockerfile"):
        assert not re.search(r"index-url|https?://", (ROOT / name).read_text()), name


def test_set_up_without_a_fitting_python_says_so(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "setup", tmp_path / "scripts")
    for name in ("requirements.lock", "requirements-bootstrap.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    result = subprocess.run(
        ["scripts/setup"], cwd=tmp_path, env={**os.environ, "PYTHON": "/bin/false"}, capture_output=True, text=True
    )
    assert result.returncode != 0
    assert "no Python 3.11 or 3.12 (tried: /bin/false)" in result.stderr
    assert not (tmp_path / ".venv").exists()


@needs_compose
def test_the_compose_file_is_valid_with_every_secret_filled_in(tmp_path: Path) -> None:
    result = compose_config(tmp_path, dict.fromkeys(SECRETS, "secret"))
    assert result.returncode == 0, result.stderr
    assert "condition: service_healthy" in result.stdout


@needs_compose
@pytest.mark.parametrize("missing", SECRETS)
def test_the_compose_file_names_the_secret_that_is_missing(tmp_path: Path, missing: str) -> None:
    result = compose_config(tmp_path, {name: "secret" for name in SECRETS if name != missing})
    assert result.returncode != 0
    assert f"set {missing} in .env" in result.stderr


def test_published_ports_are_on_loopback() -> None:
    published = re.findall(r"ports: \[\"(.*)\"\]", (ROOT / "docker-compose.yml").read_text())
    assert len(published) == 3
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_a_probe_of_nothing_is_ill() -> None:
    assert "Connection refused" in str(probe(f"http://127.0.0.1:{free_port()}/health"))


@pytest.mark.parametrize(("state", "wrong"), [("healthy", None), ("unhealthy", "scheduler is unhealthy")])
def test_a_probe_of_a_part(monkeypatch: pytest.MonkeyPatch, state: str, wrong: str | None) -> None:
    monkeypatch.setattr("stack.probe.http_json", lambda url: {"scheduler": {"status": state}})
    assert probe("http://nowhere/health", "scheduler") == wrong
    assert probe("http://nowhere/health", "triggerer") == "triggerer is None"

"""An Airflow of its own for the tests: home, SQLite database and data directory in a temporary place."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from tests.dags.runner import DAGS, Scenario

ROOT = DAGS.parent

# Importing Airflow writes its configuration there, by default into the home directory.
os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="airflow-"))


@pytest.fixture(scope="session")
def airflow_environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The variables of a child process that has a migrated Airflow database."""
    home = tmp_path_factory.mktemp("airflow")
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith(("AIRFLOW", "ETA_"))},
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home / 'airflow.db'}",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        "ETA_DATA_DIR": str(home / "data"),
    }
    migrated = subprocess.run(
        [sys.executable, "-m", "airflow", "db", "migrate"], env=environment, cwd=home, capture_output=True, text=True
    )
    assert migrated.returncode == 0, migrated.stderr[-3000:]
    return environment


@pytest.fixture(scope="session")
def run_scenarios(airflow_environment: dict[str, str]) -> Callable[..., dict[str, Any]]:
    """Runs scenarios in one child process; further variables may be given."""

    def run(scenarios: list[Scenario], **variables: str) -> dict[str, Any]:
        home = Path(airflow_environment["AIRFLOW_HOME"])
        wanted, results = home / "scenarios.json", home / "results.json"
        wanted.write_text(json.dumps([asdict(scenario) for scenario in scenarios]))
        results.unlink(missing_ok=True)
        ended = subprocess.run(
            [sys.executable, "-m", "tests.dags.runner", str(wanted), str(results)],
            env={**airflow_environment, **variables},
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-6000:]
        return dict(json.loads(results.read_text()))

    return run

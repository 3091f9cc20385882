"""Settings without any server, and an Airflow home that is not the user's."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from config import Settings

# Importing Airflow writes its configuration there, by default into the home directory.
os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="airflow-"))


@pytest.fixture
def house(tmp_path: Path) -> Settings:
    """An empty installation."""
    return Settings(data_dir=tmp_path / "data", mlflow_tracking_uri_override="sqlite:///unused.db")

"""Settings of an installation of its own, whose servers none of the environment's addresses replace."""

from __future__ import annotations

from pathlib import Path

import pytest

from config import Settings
from tests.conftest import free_port


@pytest.fixture
def own_settings(tmp_path: Path) -> Settings:
    """An empty data directory and free ports; every server would be ours."""
    return Settings(
        data_dir=tmp_path / "data",
        redis_port=free_port(),
        mlflow_port=free_port(),
        serving_port=free_port(),
        airflow_port=free_port(),
        redis_url_override=None,
        mlflow_tracking_uri_override=None,
    )

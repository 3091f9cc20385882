"""The raw Feast command line finds the same registry from anywhere, and concurrent processes share it."""

from __future__ import annotations

import multiprocessing
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from feast import Entity, FeatureStore, RepoConfig, ValueType
from sqlalchemy import create_engine, text

import feature_repo.stores  # noqa: F401 (registers the plugin, as Feast's loading of the store classes does)
from config import Settings, get_settings
from config.settings import ROOT

URL = "sqlite://?plugin=delivery_eta_registry"
FEAST = [str(Path(sys.executable).with_name("feast"))]


def feast(*arguments: str, directory: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*FEAST, *arguments], cwd=directory, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def finished(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return output


@pytest.mark.skipif(not Path(FEAST[0]).exists(), reason="feast is not installed beside this Python")
def test_commands_agree_from_the_root_and_from_inside(settings: Settings) -> None:
    finished(feast("-c", "feature_repo", "apply", directory=ROOT))
    assert "restaurant_stats" in finished(feast("feature-views", "list", directory=ROOT / "feature_repo"))
    with sqlite3.connect(settings.data_dir / "feast" / "registry.db") as connection:
        names = [name for (name,) in connection.execute("SELECT feature_view_name FROM feature_views")]
    assert sorted(names) == ["customer_stats", "driver_stats", "restaurant_stats", "zone_live", "zone_stats"]


def _register(number: int) -> None:
    config = RepoConfig(
        project="delivery_eta",
        registry={"registry_type": "sql", "path": URL},
        offline_store={"type": "feature_repo.stores.asof.AsOfOfflineStore"},
        online_store=None,
        entity_key_serialization_version=3,
    )
    for part in range(3):
        name = f"entity_{number}_{part}"
        FeatureStore(config=config).apply([Entity(name=name, join_keys=[name], value_type=ValueType.STRING)])


def test_processes_that_register_at_once_from_nothing_lose_nothing(settings: Settings) -> None:
    with multiprocessing.get_context("fork").Pool(4) as pool:
        pool.map(_register, range(4), chunksize=1)
    with sqlite3.connect(settings.data_dir / "feast" / "registry.db") as connection:
        names = {name for (name,) in connection.execute("SELECT entity_name FROM entities")}
    assert {f"entity_{number}_{part}" for number in range(4) for part in range(3)} <= names


def test_the_first_note_of_an_update_is_written_by_whoever_comes_first(settings: Settings) -> None:
    note = text("INSERT INTO feast_metadata (project_id, metadata_key, metadata_value, last_updated_timestamp) "
                "VALUES ('p', 'last_updated_timestamp', :value, 1)")  # fmt: skip
    with create_engine(URL).begin() as connection:
        for value in ("first", "second"):
            connection.execute(note, {"value": value})
        assert connection.execute(text("SELECT metadata_value FROM feast_metadata")).scalars().all() == ["first"]


def test_registry_is_the_settings_and_its_directory_is_made(settings: Settings) -> None:
    with create_engine(URL).connect() as connection:
        assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"
        assert connection.execute(text("PRAGMA busy_timeout")).scalar() == 30_000
    assert (settings.data_dir / "feast" / "registry.db").exists()


def test_another_database_can_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ETA_FEAST_REGISTRY_URL", "postgresql+psycopg2://feast@registry:5432/feast")
    get_settings.cache_clear()
    try:
        engine = create_engine(URL, module=_NoDriver)
    finally:
        get_settings.cache_clear()
    assert engine.url.render_as_string() == "postgresql+psycopg2://feast@registry:5432/feast"


class _NoDriver:
    """Stands in for the database driver, which is an optional dependency."""

    paramstyle = "pyformat"
    __version__ = "2.9.10"
    extensions = None


def test_without_environment_the_registry_does_not_depend_on_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in list(os.environ):
        if name.startswith("ETA_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    if (ROOT / ".env").exists():
        pytest.skip("this installation has a .env of its own")
    assert Settings().feast_registry_url == f"sqlite:///{ROOT / 'data' / 'feast' / 'registry.db'}"


def test_yaml_without_the_plugin_is_a_clear_error(tmp_path: Path) -> None:
    code = "from sqlalchemy import create_engine; create_engine('sqlite://?plugin=delivery_eta_registry')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode != 0
    assert "delivery_eta_registry" in done.stderr

"""A trained installation as a template: copied into another place, it is as if it had been trained there."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config import Settings


@dataclass(frozen=True)
class Trained:
    """What a training and its evaluation left behind, and what the evaluation said."""

    directory: Path
    made_in: str
    told: str

    @classmethod
    def of(cls, settings: Settings, evaluation: dict[str, Any], directory: Path) -> Trained:
        """Keep the installation as it is now."""
        shutil.copytree(settings.data_dir, directory / "data")
        with closing(sqlite3.connect(_database(settings))) as now, closing(sqlite3.connect(directory / "db")) as kept:
            now.backup(kept)
        return cls(directory, str(settings.data_dir), json.dumps(evaluation))

    def put(self, settings: Settings) -> dict[str, Any]:
        """Make an empty installation like it; returns what the evaluation said."""
        shutil.copytree(self.directory / "data", settings.data_dir, dirs_exist_ok=True)
        shutil.copyfile(self.directory / "db", _database(settings))
        with closing(sqlite3.connect(_database(settings))) as connection, connection:
            _replace_everywhere(connection, self.made_in, str(settings.data_dir))
        # By the id of a run alone, which every copy has.
        _forget_where_artifacts_are()
        return dict(json.loads(self.told))


def _database(settings: Settings) -> str:
    return settings.mlflow_tracking_uri.removeprefix("sqlite:///")


def _forget_where_artifacts_are() -> None:
    from mlflow.tracking._tracking_service import utils

    utils._artifact_repos_cache.clear()


def _replace_everywhere(connection: sqlite3.Connection, old: str, new: str) -> None:
    """MLflow notes where its artifacts are as absolute addresses, in many of its tables."""
    tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    for (table,) in tables:
        for _, column, kind, *_ in connection.execute(f"PRAGMA table_info({table})").fetchall():
            if kind.startswith(("VARCHAR", "TEXT")):
                connection.execute(f'UPDATE "{table}" SET "{column}" = replace("{column}", ?, ?)', (old, new))

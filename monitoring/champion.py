"""The champion as monitoring needs it: its bundle's description, and the training rows it is compared with."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from config import Settings
from monitoring.report import write_json

MODEL = "delivery_time"
ALIAS = "champion"
FILES = ("bundle.json", "reference.parquet")


class ChampionUnreadable(RuntimeError):
    """The registry names a champion, but its files are not there or not what they should be."""


@dataclass(frozen=True)
class Champion:
    """A model version and the directory with its `bundle.json` and `reference.parquet`."""

    name: str
    version: str
    directory: Path
    bundle: dict[str, Any]

    @property
    def inputs(self) -> list[str]:
        """Names of the model's inputs, in order."""
        return [item["name"] for item in self.bundle["inputs"]]

    def reference(self) -> pl.DataFrame:
        """Training rows: one column per input, `prediction` and `label`.

        Raises
        ------
        ChampionUnreadable
            Columns are missing.
        """
        frame = pl.read_parquet(self.directory / "reference.parquet")
        missing = [name for name in [*self.inputs, "prediction"] if name not in frame.columns]
        if missing:
            raise ChampionUnreadable(f"{self.directory / 'reference.parquet'} has no columns {missing}: train again")
        return frame


def load_champion(settings: Settings, name: str = MODEL) -> Champion | None:
    """The version with the alias `champion`, or None if there is none yet.

    Its files are kept under `run_dir/monitoring`, so they are downloaded once per version.

    Raises
    ------
    ChampionUnreadable
        Its files cannot be read.
    RegistryUnavailable
        The registry does not answer (of `serving.errors` or `training.errors`): a task retries.
    """
    if settings.model_dir_override is not None:
        return open_champion(settings.model_dir_override, name, version="local")
    found = _resolve(settings, name)
    if found is None:
        return None
    note = settings.run_dir / "monitoring" / f"{name}.json"
    directory = _noted(note, found)
    if directory is None:
        directory = _fetch(settings, name, found["version"], note.parent)
        write_json(note, {**found, "directory": str(directory)})
    return open_champion(directory, name, found["version"])


def open_champion(directory: Path, name: str, version: str) -> Champion:
    """A champion from a local directory.

    Raises
    ------
    ChampionUnreadable
        A file is missing or damaged.
    """
    missing = [file for file in FILES if not (directory / file).is_file()]
    if missing:
        raise ChampionUnreadable(f"{name} version {version}: {directory} has no {missing}: train and register again")
    try:
        bundle = dict(json.loads((directory / "bundle.json").read_text()))
    except ValueError as error:
        raise ChampionUnreadable(
            f"{directory / 'bundle.json'} is not JSON ({error}): remove it and run again"
        ) from error
    return Champion(name, version, directory, bundle)


def _resolve(settings: Settings, name: str) -> dict[str, str] | None:
    """Version and source of the champion: over HTTP where that is enough, as importing MLflow takes seconds."""
    if settings.mlflow_tracking_uri.startswith(("http://", "https://")):
        from serving.errors import NoChampion
        from serving.registry_client import MlflowRegistry

        try:
            ref = MlflowRegistry(settings.mlflow_tracking_uri).resolve(name, ALIAS)
        except NoChampion:
            return None
        return {"version": ref.version, "source": ref.source}
    from training.registry import ModelRegistry

    champion = ModelRegistry(settings, name).champion()
    return {"version": champion.version, "source": champion.source} if champion else None


def _noted(note: Path, found: dict[str, str]) -> Path | None:
    """The directory of the version found, if it is the one that was downloaded last and still there."""
    try:
        content = json.loads(note.read_text())
    except (OSError, ValueError):
        return None
    directory = Path(content.pop("directory", ""))
    return directory if content == found and all((directory / file).is_file() for file in FILES) else None


def _fetch(settings: Settings, name: str, version: str, directory: Path) -> Path:
    from training.registry import ModelRegistry

    registry = ModelRegistry(settings, name)
    return registry.fetch_bundle(registry.version(version), directory)

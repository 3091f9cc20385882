"""Where the champion comes from: an MLflow server asked over HTTP, or a plain directory.

MLflow itself is not imported (it takes seconds, and brings pandas along): three documented endpoints of its REST API
are all that serving needs. What was downloaded is kept under `run_dir/models`, so that a server starts while the
registry is down.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, urlsplit

import httpx

from config import Settings
from serving.bundle import BUNDLE_FILES
from serving.errors import BundleError, NoChampion, RegistryUnavailable

__all__ = [
    "CHALLENGER",
    "CHAMPION",
    "MODEL_NAME",
    "BundleCache",
    "DirectoryRegistry",
    "MlflowRegistry",
    "ModelRef",
    "Registry",
    "UnusableRegistry",
    "registry_from",
]

logger = logging.getLogger(__name__)

MODEL_NAME = "delivery_time"
CHAMPION, CHALLENGER = "champion", "challenger"

API = "/api/2.0/mlflow"
ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"
REGISTRY_TIMEOUT_SECONDS = 3.0
CONTENT = "source.json"
"""In a directory of the cache: which version it holds, and the SHA-256 of its files."""


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A model version as its registry knows it; two of them are equal only if they are the same artifacts.

    `tags` are what people and pipelines may change later.
    """

    name: str
    version: str
    alias: str
    source: str
    created: str
    tags: Mapping[str, str] = field(default_factory=dict, compare=False)


class Registry(Protocol):
    """Something that knows which model version has an alias, and can hand out its files."""

    def resolve(self, name: str, alias: str) -> ModelRef:
        """The version with this alias.

        Raises
        ------
        NoChampion
            There is no such model or alias.
        RegistryUnavailable
            The registry cannot be asked.
        """
        ...

    def fetch(self, ref: ModelRef, directory: Path) -> None:
        """Write the files of a bundle into `directory`, which exists.

        Raises
        ------
        BundleError
            The version has no bundle; the message says what it has.
        RegistryUnavailable
            The registry cannot be asked.
        """
        ...


class DirectoryRegistry:
    """One bundle in a local directory; its version is a hash of its content, so that a changed bundle is a new one."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def resolve(self, name: str, alias: str) -> ModelRef:
        """The bundle in the directory is the champion, whatever its name, and has no challenger."""
        if alias != CHAMPION:
            raise NoChampion(f"the model directory {self.directory} holds a champion only, no {alias}")
        digest = hashlib.sha256()
        try:
            for file in BUNDLE_FILES:
                digest.update((self.directory / file).read_bytes())
        except FileNotFoundError as error:
            raise NoChampion(f"the model directory {self.directory} has no {Path(error.filename).name}") from error
        except OSError as error:
            raise RegistryUnavailable(f"the model directory {self.directory} cannot be read: {error}") from error
        content = digest.hexdigest()
        return ModelRef(name, f"local-{content[:12]}", alias, str(self.directory), content)

    def fetch(self, ref: ModelRef, directory: Path) -> None:
        """Copy the files."""
        for file in BUNDLE_FILES:
            shutil.copyfile(self.directory / file, directory / file)


class MlflowRegistry:
    """The model registry and the artifact proxy of an MLflow server (`--serve-artifacts`)."""

    def __init__(self, url: str, timeout_seconds: float = REGISTRY_TIMEOUT_SECONDS) -> None:
        self.url = url.rstrip("/")
        # A proxy from the environment is for the outside: it must not stand between us and a server on loopback.
        loopback = urlsplit(url).hostname in {"127.0.0.1", "localhost", "::1"}
        self.client = httpx.Client(base_url=self.url, timeout=timeout_seconds, trust_env=not loopback)

    def resolve(self, name: str, alias: str) -> ModelRef:
        """Ask for the version behind the alias."""
        response = self._get(f"{API}/registered-models/alias", {"name": name, "alias": alias})
        if _is_unknown(response):
            raise NoChampion(f"no version of the model {name} has the alias {alias} in the registry at {self.url}")
        version = self._json(response)["model_version"]
        created = str(version.get("creation_timestamp", ""))
        tags = {str(tag["key"]): str(tag.get("value", "")) for tag in version.get("tags", [])}
        return ModelRef(name, str(version["version"]), alias, str(version["source"]), created, tags)

    def fetch(self, ref: ModelRef, directory: Path) -> None:
        """Download the files through the server."""
        path = self._artifact_path(ref.source)
        listing = self._json(self._get(ARTIFACTS, {"path": path})).get("files", [])
        found = sorted(Path(entry["path"]).name for entry in listing)
        missing = sorted(set(BUNDLE_FILES) - set(found))
        if missing:
            raise BundleError(f"{ref.name} version {ref.version}: {ref.source} has no {missing}, only {found}")
        for file in BUNDLE_FILES:
            response = self._get(f"{ARTIFACTS}/{quote(path)}/{file}")
            if response.status_code == httpx.codes.NOT_FOUND:
                raise BundleError(f"{ref.name} version {ref.version}: {file} is gone from {ref.source}")
            self._require_success(response)
            (directory / file).write_bytes(response.content)

    def _artifact_path(self, source: str) -> str:
        """The path below the server's artifact root of a model version's source."""
        parts = urlsplit(source)
        if parts.scheme == "runs":
            run_id, _, inside = parts.path.strip("/").partition("/")
            answer = self._get(f"{API}/runs/get", {"run_id": run_id})
            if _is_unknown(answer):
                raise BundleError(f"the run {run_id} of {source} is gone from {self.url}: promote another version")
            run = self._json(answer)["run"]
            return self._artifact_path(f"{run['info']['artifact_uri']}/{inside}")
        if parts.scheme == "mlflow-artifacts":
            return parts.path.strip("/")
        if parts.scheme in {"http", "https"} and f"{ARTIFACTS}/" in parts.path:
            return parts.path.partition(f"{ARTIFACTS}/")[2].strip("/")
        raise BundleError(
            f"the source {source} cannot be downloaded through {self.url}: "
            "start the MLflow server with --serve-artifacts and register the model again"
        )

    def _get(self, path: str, params: Mapping[str, str] | None = None) -> httpx.Response:
        try:
            return self.client.get(path, params=params)
        except httpx.HTTPError as error:
            raise RegistryUnavailable(
                f"the registry at {self.url} does not answer ({type(error).__name__}: {error})"
            ) from error

    def _require_success(self, response: httpx.Response) -> None:
        if not response.is_success:
            raise RegistryUnavailable(
                f"the registry at {self.url} answers {response.status_code} to {response.request.url.path}: "
                f"{response.text[:200].strip()}"
            )

    def _json(self, response: httpx.Response) -> dict[str, Any]:
        self._require_success(response)
        try:
            document = response.json()
        except ValueError as error:
            raise RegistryUnavailable(f"{self.url} answers something else than JSON: is it MLflow?") from error
        if not isinstance(document, dict):
            raise RegistryUnavailable(f"{self.url} answers something else than a JSON object: is it MLflow?")
        return document


def _is_unknown(response: httpx.Response) -> bool:
    """Whether the registry says that there is no such model (404) or no such alias (400)."""
    if response.status_code not in {400, 404}:
        return False
    try:
        document = response.json()
    except ValueError:
        return False
    if not isinstance(document, dict):
        return False
    code, message = document.get("error_code"), str(document.get("message", ""))
    return code == "RESOURCE_DOES_NOT_EXIST" or (code == "INVALID_PARAMETER_VALUE" and "not found" in message)


class BundleCache:
    """Downloaded bundles: one directory per version, complete or absent, and a note of the last good champion."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def obtain(self, registry: Registry, ref: ModelRef) -> Path:
        """The directory of a version's files, downloaded if it is not there as it was downloaded."""
        directory = self._directory(ref)
        if self._is_intact(ref):
            return directory
        self.root.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=self.root))
        try:
            registry.fetch(ref, temporary)
            _write_synced(temporary / CONTENT, json.dumps(_identity(ref) | {"files": _digests(temporary)}))
            for file in temporary.iterdir():
                _sync(file)
            self._publish(temporary, directory)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return directory

    def forget(self, ref: ModelRef) -> None:
        """Remove a version's files, so that they are downloaded again when asked for."""
        shutil.rmtree(self._directory(ref), ignore_errors=True)

    def remember(self, ref: ModelRef) -> None:
        """Note that `ref` is the version to start with when the registry is down."""
        note = self._note(ref.name, ref.alias)
        temporary = note.with_name(f".{note.name}-{os.getpid()}")
        _write_synced(temporary, json.dumps(asdict(ref)))
        temporary.replace(note)

    def remembered(self, name: str, alias: str) -> tuple[ModelRef, Path] | None:
        """The last noted version and its directory, if both are still there as they were."""
        try:
            ref = ModelRef(**json.loads(self._note(name, alias).read_text()))
        except (OSError, ValueError, TypeError):
            return None
        if not self._is_intact(ref):
            logger.error("ALARM: %s is not as it was downloaded, and is not served", self._directory(ref))
            return None
        return ref, self._directory(ref)

    def _is_intact(self, ref: ModelRef) -> bool:
        directory = self._directory(ref)
        try:
            return bool(
                json.loads((directory / CONTENT).read_text()) == _identity(ref) | {"files": _digests(directory)}
            )
        except (OSError, ValueError):
            return False

    def _publish(self, temporary: Path, directory: Path) -> None:
        # A directory can only be renamed onto an empty one; another version of the registry's history has to go first.
        shutil.rmtree(directory, ignore_errors=True)
        try:
            temporary.replace(directory)
        except OSError:
            if not directory.is_dir():  # else another process was quicker with the same files
                raise

    def _directory(self, ref: ModelRef) -> Path:
        return self.root / f"{ref.name}-{ref.version}"

    def _note(self, name: str, alias: str) -> Path:
        return self.root / f"{name}@{alias}.json"


def _identity(ref: ModelRef) -> dict[str, Any]:
    """What makes a version the same, by whatever alias it is called: the champion may be the challenger, too."""
    return {name: getattr(ref, name) for name in ("name", "version", "source", "created")}


def _digests(directory: Path) -> dict[str, str]:
    return {name: hashlib.sha256((directory / name).read_bytes()).hexdigest() for name in BUNDLE_FILES}


def _write_synced(path: Path, text: str) -> None:
    path.write_text(text)
    _sync(path)


def _sync(path: Path) -> None:
    """Wait until the disk has it: a name that is there after a power cut must not lead to half a file."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


class UnusableRegistry:
    """Stands for a registry that this process has no way to ask, and says so."""

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def resolve(self, name: str, alias: str) -> ModelRef:
        """Raise."""
        raise RegistryUnavailable(self.reason)

    def fetch(self, ref: ModelRef, directory: Path) -> None:
        """Raise."""
        raise RegistryUnavailable(self.reason)


def registry_from(settings: Settings) -> Registry:
    """The registry that the settings name: `ETA_MODEL_DIR` if it is set, else the MLflow server."""
    if settings.model_dir_override is not None:
        return DirectoryRegistry(settings.model_dir_override)
    uri = settings.mlflow_tracking_uri
    if urlsplit(uri).scheme in {"http", "https"}:
        return MlflowRegistry(uri)
    return UnusableRegistry(
        f"serving cannot read the registry {uri}: set ETA_MLFLOW_TRACKING_URI to the address of an MLflow server, "
        "or ETA_MODEL_DIR to a directory with a bundle"
    )

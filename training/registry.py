"""Experiments and versions in MLflow: the only module that talks to it.

A version becomes visible by its alias, and the alias moves last, so that whatever fails before leaves the champion as
it was. Every move of an alias is kept as a numbered tag of the registered model, since MLflow keeps no history of them,
and as a line of a log that is only ever appended to.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from types import EllipsisType
from typing import TYPE_CHECKING, Any

from training.errors import (
    ArtifactsGone,
    ChampionMoved,
    ExperimentDeleted,
    NothingToRollBack,
    UnknownVersion,
    VersionInUse,
)
from training.evidence import GateResult
from training.faults import explained, unavailable
from training.files import new_directory, read_json

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from config import Settings

LOGGER = logging.getLogger(__name__)

CHAMPION, CHALLENGER = "champion", "challenger"
SERVING = "serving"
"""Artifact directory of a run that holds the bundle; the `source` of its version."""
PROMOTION_TAG = "promotion."
REGISTERED_TAG = "registered"
"""Set on a version when its promotion is complete; a version without it is the remains of a killed run."""
COMPARED_WITH_TAG = "compared_with"
"""The champion that a version was compared with when its gates were asked; empty if there was none."""
REJECTED_TAG = "rejected"
"""Set on a version that a rollback must pass by."""
TRIAL_ERRORS = ("validation_", "rolling_")
"""How the names of a trial's errors begin; the argument `validation_fraction` of an estimator is stated by the spec."""
TRUSTED_TYPES = ["sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor"]

CLIENT_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
"""Unless set otherwise: with MLflow's own 7 retries of 120 s, a dead server holds a run for a quarter of an hour."""


@dataclass(frozen=True, slots=True)
class Version:
    """A registered version of a model."""

    model: str
    version: str
    run_id: str
    source: str
    aliases: tuple[str, ...]
    tags: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Move:
    """One decision about a version.

    Parameters
    ----------
    number : int
        Counts from 1.
    action : str
        `promote` and `rollback` move the alias `champion`, `challenge` moves `challenger`, `reject` takes one out.
    before, after : str or None
        Who had the alias and who has it then; None for nobody. Of a rejection, the version and None.
    at : str
        ISO instant.
    who, why : str
    """

    number: int
    action: str
    before: str | None
    after: str | None
    at: str
    who: str
    why: str


class ModelRegistry:
    """The experiment and the registered model of one name.

    Parameters
    ----------
    settings : Settings
    model : str

    Raises
    ------
    RegistryUnavailable
        By every method, when MLflow does not answer.
    RegistryRefuses
        By every method, when it answers, and not with what it was asked for.
    """

    def __init__(self, settings: Settings, model: str) -> None:
        self.settings = settings
        self.model = model
        self.uri = settings.mlflow_tracking_uri

    def check(self) -> None:
        """Ask the server whether it is well, without importing MLflow: seconds earlier than its first call would."""
        if not self.uri.startswith(("http://", "https://")):
            return
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"{self.uri.rstrip('/')}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError) as error:
            raise unavailable(self.uri, error) from error

    # Runs.

    def start_run(self, name: str, tags: Mapping[str, str], parameters: Mapping[str, Any]) -> str:
        """Start a run in the model's experiment, and return its id."""
        with self._talking():
            run_id = str(self._client.create_run(self._experiment(), run_name=name, tags=dict(tags)).info.run_id)
        self.log_parameters(run_id, parameters)
        return run_id

    def log_trial(self, parent: str, number: int, trial: Mapping[str, Any], at: datetime) -> None:
        """Log a trial of a search as a child run: arguments as parameters; error, iterations, seconds as metrics."""
        measured = {name for name in trial if name in ("iterations", "seconds") or name.startswith(TRIAL_ERRORS)}
        parameters = {name: value for name, value in trial.items() if name not in measured}
        run_id = self.start_run(f"trial {number}", {"mlflow.parentRunId": parent}, parameters)
        self.log_metrics(run_id, {name: float(trial[name]) for name in measured}, at)
        self.end_run(run_id)

    def run_exists(self, run_id: str) -> bool:
        """Whether the run is there and not deleted."""
        from mlflow.exceptions import MlflowException

        with self._talking():
            try:
                return bool(self._client.get_run(run_id).info.lifecycle_stage == "active")
            except MlflowException as error:
                if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                    return False
                raise

    def log_parameters(self, run_id: str, parameters: Mapping[str, Any]) -> None:
        """Log parameters of a run."""
        from mlflow.entities import Param

        with self._talking():
            self._client.log_batch(run_id, params=[Param(key, str(value)) for key, value in parameters.items()])

    def log_metrics(self, run_id: str, metrics: Mapping[str, float], at: datetime) -> None:
        """Log metrics of a run, as of an instant."""
        from mlflow.entities import Metric

        with self._talking():
            values = [Metric(key, value, int(at.timestamp() * 1000), 0) for key, value in metrics.items()]
            self._client.log_batch(run_id, metrics=values)

    def log_files(self, run_id: str, path: Path, artifact_path: str | None = None) -> None:
        """Log a file, or the files of a directory, as artifacts of a run."""
        with self._talking():
            log = self._client.log_artifacts if path.is_dir() else self._client.log_artifact
            log(run_id, str(path), artifact_path)

    def log_sklearn(self, run_id: str, model: Any, inputs: list[str], label: str) -> None:
        """Log the estimator itself, with its signature, in the format that loads without running code."""
        import mlflow
        from mlflow.models import ModelSignature
        from mlflow.types import ColSpec, DataType, Schema

        signature = ModelSignature(
            inputs=Schema([ColSpec(DataType.float, name, required=False) for name in inputs]),
            outputs=Schema([ColSpec(DataType.double, label)]),
        )
        with self._talking(), mlflow.start_run(run_id=run_id):
            mlflow.sklearn.log_model(
                model,
                name="estimator",
                signature=signature,
                # Stated, because MLflow would otherwise find them out by importing the model in a process of its own.
                pip_requirements=["scikit-learn", "skops"],
                skops_trusted_types=TRUSTED_TYPES,
            )

    def set_run_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags of a run."""
        from mlflow.entities import RunTag

        with self._talking():
            self._client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])

    def end_run(self, run_id: str, status: str = "FINISHED") -> None:
        """End a run as `FINISHED` or `FAILED`."""
        with self._talking():
            self._client.set_terminated(run_id, status)

    # Versions.

    def champion(self) -> Version | None:
        """The version with the alias `champion`, if there is one."""
        return next((version for version in self.versions() if CHAMPION in version.aliases), None)

    def versions(self) -> list[Version]:
        """All versions, newest first."""
        with self._talking():
            aliases = self._aliases()
            found = self._client.search_model_versions(f"name = '{self.model}'")
        return [
            Version(
                self.model,
                str(item.version),
                str(item.run_id),
                str(item.source),
                tuple(sorted(alias for alias, version in aliases.items() if version == str(item.version))),
                dict(item.tags),
            )
            for item in sorted(found, key=lambda item: int(item.version), reverse=True)
        ]

    def version(self, number: str) -> Version:
        """One version.

        Raises
        ------
        UnknownVersion
            There is none of that number.
        """
        versions = self.versions()
        for version in versions:
            if version.version == number:
                return version
        known = ", ".join(version.version for version in versions) or "none"
        raise UnknownVersion(f"{self.model} has no version {number}; registered versions: {known}")

    def fetch_bundle(self, version: Version, directory: Path) -> Path:
        """Download the bundle of a version below `directory`; a cached one is used again.

        Raises
        ------
        ArtifactsGone
            MLflow no longer has it.
        """
        target = directory / f"{self.model}-{version.run_id}"
        if (target / SERVING).is_dir():
            return target / SERVING
        with self._reading(version), new_directory(target) as temporary:
            self._client.download_artifacts(version.run_id, SERVING, str(temporary))
        return target / SERVING

    def create_version(self, run_id: str, tags: Mapping[str, str], gates: list[GateResult]) -> Version:
        """Register a run's bundle as a version, without an alias: nobody is served by it yet."""
        verdicts = {f"gate.{gate.name}": json.dumps(gate.to_dict()) for gate in gates}
        with self._talking():
            if not self._registered():
                self._client.create_registered_model(self.model)
            run = self._client.get_run(run_id)
            source = f"{run.info.artifact_uri}/{SERVING}"
            made = self._client.create_model_version(
                self.model, source, run_id, tags=dict(tags) | verdicts, await_creation_for=0
            )
        return self.version(str(made.version))

    def lineage(self, number: str) -> dict[str, Any]:
        """Where a version comes from: its tags, and the description of its data set.

        Raises
        ------
        UnknownVersion
            There is none of that number.
        ArtifactsGone
            MLflow no longer has the description.
        """
        version = self.version(number)
        with self._reading(version), tempfile.TemporaryDirectory() as scratch:
            dataset = read_json(Path(self._client.download_artifacts(version.run_id, "dataset.json", scratch)))
        return asdict(version) | {"tags": dict(version.tags), "dataset": dataset}

    # Aliases.

    def history(self) -> list[Move]:
        """All decisions about versions, oldest first."""
        with self._talking():
            registered = self._registered()
        tags = dict(registered.tags) if registered else {}
        moves = [(int(key.removeprefix(PROMOTION_TAG)), value) for key, value in tags.items() if _is_move(key)]
        return [Move(number, **json.loads(value)) for number, value in sorted(moves)]

    def promote(self, number: str, at: datetime, who: str, why: str, expected: str | EllipsisType | None = ...) -> Move:
        """Make a version the champion; the champion before it loses the alias and stays registered.

        A rejection of the version is lifted by it.

        Parameters
        ----------
        number : str
        at : datetime
        who, why : str
            For the history.
        expected : str or None, optional
            The version that must be the champion now (None: there must be none). Not checked if left out.

        Raises
        ------
        UnknownVersion
        ChampionMoved
            The champion is another one than expected.
        """
        with self.locked():
            return self.promote_locked(self.version(number), at, who, why, expected)

    def challenge(self, number: str, at: datetime, who: str, why: str) -> Move:
        """Make a version the challenger, which is compared with the champion and answers nobody.

        Raises
        ------
        UnknownVersion
        VersionInUse
            It is the champion.
        """
        with self.locked():
            version = self._not_champion(number, "cannot challenge itself")
            before = self._holder(CHALLENGER)
            if before == number:
                return Move(0, "challenge", number, number, at.isoformat(), who, why)
            move = self._record("challenge", before, number, at, who, why)
            with self._talking():
                self._client.set_registered_model_alias(self.model, CHALLENGER, version.version)
            self._log(move)
            return move

    def reject(self, number: str, at: datetime, who: str, why: str) -> Move:
        """Take a version out: it loses the alias `challenger`, and a rollback passes it by.

        Raises
        ------
        UnknownVersion
        VersionInUse
            It is the champion.
        """
        with self.locked():
            version = self._not_champion(number, "serves now: roll back or promote another one first")
            move = self._record("reject", number, None, at, who, why)
            with self._talking():
                self._client.set_model_version_tag(self.model, number, REJECTED_TAG, f"{move.at} by {who}: {why}")
                if CHALLENGER in version.aliases:
                    self._client.delete_registered_model_alias(self.model, CHALLENGER)
            self._log(move)
            return move

    def rollback(self, at: datetime, who: str, why: str) -> Move:
        """Make the champion's predecessor the champion again; once more goes one further back.

        Versions that were rejected or deleted are passed by.

        Raises
        ------
        NothingToRollBack
            There is no champion, or it was the first.
        """
        with self.locked():
            current = self.champion()
            if current is None:
                raise NothingToRollBack(f"{self.model} has no champion: train one, or promote a version")
            return self._move("rollback", self._predecessor(current), at, who, why, current.version)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes of this installation from moving the model's aliases. Not reentrant."""
        self.settings.run_dir.mkdir(parents=True, exist_ok=True)
        with (self.settings.run_dir / f"registry-{self.model}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def promote_locked(
        self, version: Version, at: datetime, who: str, why: str, expected: str | EllipsisType | None
    ) -> Move:
        """`promote` for a caller that holds the lock already."""
        return self._move("promote", version, at, who, why, expected)

    def log_rejection(self, at: datetime, who: str, why: str) -> None:
        """Note in the log that a candidate did not become a version."""
        self._log(Move(0, "reject", None, None, at.isoformat(), who, why))

    @property
    def log_path(self) -> Path:
        """The append-only log: one JSON object a line."""
        return self.settings.data_dir / "registry" / f"{self.model}.jsonl"

    def _move(
        self, action: str, version: Version, at: datetime, who: str, why: str, expected: str | EllipsisType | None
    ) -> Move:
        before = self._holder(CHAMPION)
        if expected is not ... and before != expected:
            raise ChampionMoved(
                f"{self.model}: the champion is version {before or 'none'}, not {expected or 'none'} as expected: "
                "somebody else moved it in the meantime. Look at `python -m training models` and decide again"
            )
        if before == version.version:
            return Move(0, action, before, before, at.isoformat(), who, why)
        move = self._record(action, before, version.version, at, who, why)
        with self._talking():
            if REJECTED_TAG in version.tags:
                self._client.delete_model_version_tag(self.model, version.version, REJECTED_TAG)
            tags = {REGISTERED_TAG: "true", "champion_since": move.at, "previous_champion": before or ""}
            for key, value in tags.items():
                self._client.set_model_version_tag(self.model, version.version, key, value)
            if CHALLENGER in version.aliases:
                self._client.delete_registered_model_alias(self.model, CHALLENGER)
            self._client.set_registered_model_alias(self.model, CHAMPION, version.version)
        self._log(move)
        return move

    def _record(self, action: str, before: str | None, after: str | None, at: datetime, who: str, why: str) -> Move:
        move = Move(len(self.history()) + 1, action, before, after, at.isoformat(), who, why)
        record = {key: value for key, value in asdict(move).items() if key != "number"}
        with self._talking():
            self._client.set_registered_model_tag(self.model, f"{PROMOTION_TAG}{move.number:04d}", json.dumps(record))
        return move

    def _log(self, move: Move) -> None:
        LOGGER.info(
            "%s %s: version %s -> %s by %s (%s)", self.model, move.action, move.before, move.after, move.who, move.why
        )
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("a", encoding="utf-8") as log:
            log.write(json.dumps({"model": self.model} | asdict(move)) + "\n")

    def _holder(self, alias: str) -> str | None:
        with self._talking():
            return self._aliases().get(alias)

    def _not_champion(self, number: str, why_not: str) -> Version:
        version = self.version(number)
        if CHAMPION in version.aliases:
            raise VersionInUse(f"{self.model} version {number} is the champion, it {why_not}")
        return version

    def _predecessor(self, current: Version) -> Version:
        """Whom the promotions of the champion and of its predecessors name, the nearest that is still good."""
        usable = {version.version: version for version in self.versions() if REJECTED_TAG not in version.tags}
        promotions = {move.after: move.before for move in self.history() if move.action == "promote"}
        seen, number = {current.version}, promotions.get(current.version)
        while number is not None and number not in seen:
            if number in usable:
                return usable[number]
            seen.add(number)
            number = promotions.get(number)
        raise NothingToRollBack(
            f"{self.model} version {current.version} has no predecessor to go back to: it is the first champion, or "
            "those before it were rejected. `python -m training models` lists the versions, `promote VERSION` takes one"
        )

    # MLflow itself.

    @cached_property
    def _client(self) -> MlflowClient:
        for name, value in CLIENT_ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        import mlflow

        logging.getLogger("alembic").setLevel(logging.WARNING)
        mlflow.set_tracking_uri(self.uri)
        return mlflow.MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)

    def _experiment(self) -> str:
        found = self._client.get_experiment_by_name(self.model)
        if found is not None and found.lifecycle_stage != "active":
            raise ExperimentDeleted(
                f"the MLflow experiment {self.model!r} (id {found.experiment_id}) at {self.uri} was deleted, and a "
                f"deleted one keeps its name. Bring it back: MLFLOW_TRACKING_URI={self.uri} mlflow experiments restore "
                f"--experiment-id {found.experiment_id}; or, to begin anew, remove it for good with `mlflow gc`"
            )
        if found is not None:
            return str(found.experiment_id)
        served = self.uri.startswith(("http://", "https://"))
        location = None if served else (self.settings.mlflow_dir / "artifacts" / self.model).as_uri()
        return str(self._client.create_experiment(self.model, artifact_location=location))

    def _registered(self) -> Any:
        found = self._client.search_registered_models(f"name = '{self.model}'")
        return found[0] if found else None

    def _aliases(self) -> dict[str, str]:
        registered = self._registered()
        return {alias: str(version) for alias, version in registered.aliases.items()} if registered else {}

    @contextmanager
    def _talking(self) -> Iterator[None]:
        with explained(self.uri):
            assert self._client is not None  # making one opens the database, where it is one
            yield

    @contextmanager
    def _reading(self, version: Version) -> Iterator[None]:
        """Around what reads the files of a version."""
        try:
            with self._talking():
                yield
        except (ArtifactsGone, FileNotFoundError) as error:
            raise ArtifactsGone(
                f"{self.model} version {version.version}: its files in MLflow are gone, or its run {version.run_id} is "
                f"({error}). Restore them (a backup; `mlflow runs restore --run-id {version.run_id}` if it was only "
                f"deleted), or promote another version: python -m training promote VERSION --model {self.model}"
            ) from error


def _is_move(key: str) -> bool:
    return key.startswith(PROMOTION_TAG) and key.removeprefix(PROMOTION_TAG).isdigit()

"""The steps of training, as plain functions of an instant; a DAG task is one call of one of them.

Steps hand nothing to each other but files: which data set and which candidate belong to an instant is noted under
`datasets/runs/`, so each step can run in a process, or on a day, of its own. A step whose inputs have not changed finds
its result again and says so.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from feature_repo.window import as_utc
from training import dataset as datasets
from training import evaluate as evaluation_of
from training.agreement import agreement
from training.bundle import JUDGED, MODEL, write_bundle
from training.champion import compare_champion, opponent
from training.checks import check_dataset
from training.dataset import Dataset
from training.errors import DatasetError, GatesNotPassed, SourceLacks, TrainingError
from training.evidence import Evidence, GateResult
from training.export import OnnxModel, to_onnx
from training.files import canonical_hash, new_directory, read_json, write_json
from training.gates import decide
from training.lineage import code_hash, lineage_tags, seen_tags
from training.page import html_report, model_card
from training.pictures import pictures
from training.registry import COMPARED_WITH_TAG, REGISTERED_TAG, SERVING, ModelRegistry, Version
from training.report import report
from training.spec import ModelSpec
from training.split import Split, split_by_time
from training.train import Fitted, Progress, fit, fit_again, hide, matrix

if TYPE_CHECKING:
    from config import Settings

LOGGER = logging.getLogger(__name__)

CANDIDATE, EVALUATION, VALIDATION = "candidate.json", "evaluation.json", "validation.json"
WHO = "training pipeline"

Step = Callable[[datetime, "Settings", ModelSpec], dict[str, Any]]


def build_dataset(as_of: datetime, settings: Settings, spec: ModelSpec) -> dict[str, Any]:
    """Build and store the training set, unless nothing that it depends on has changed.

    Returns
    -------
    dict
        `dataset` (hash), `rows`, `reused`, `window`, `directory` (relative to the data directory).

    Raises
    ------
    RegistryUnavailable
        MLflow does not answer: better known now than after the training.
    DatasetError
    SourceLacks
        There can be no such model of this source.
    """
    datasets.require_source(settings, spec)
    ModelRegistry(settings, spec.name).check()
    dataset, reused = datasets.build_dataset(as_of, settings, spec)
    note_dataset(as_of, settings, spec, dataset)
    return {
        "dataset": dataset.hash,
        "rows": dataset.description["row_count"],
        "reused": reused,
        "window": dataset.description["window"],
        "earliest": dataset.description["earliest"],
        "directory": dataset.directory.relative_to(settings.data_dir).as_posix(),
    }


def validate_dataset(as_of: datetime, settings: Settings, spec: ModelSpec) -> dict[str, Any]:
    """Check the training set: see `training.checks.check_dataset`. The verdict is kept beside the rows."""
    dataset = noted_dataset(as_of, settings, spec)
    path, key = dataset.directory / VALIDATION, _key(dataset, spec)
    found = read_json(path) if path.exists() else {}
    reused = found.get("key") == key
    verdict = found if reused else check_dataset(dataset, spec)
    if not reused:
        write_json(path, {"key": key, **verdict})
    for failure in verdict["failures"]:
        LOGGER.error("data set %s: %s", dataset.hash[:12], failure)
    for note in verdict["notes"]:
        LOGGER.info("data set %s: %s", dataset.hash[:12], note)
    told = {name: verdict[name] for name in ("stopped", "failures", "notes", "absent_in_source", "rows")}
    return told | {"reused": reused}


def train(as_of: datetime, settings: Settings, spec: ModelSpec, progress: Progress = LOGGER.info) -> dict[str, Any]:
    """Fit the candidates, keep the best, fit it again on all rows, and log both to an MLflow run.

    The best one as it is, which has not seen the newest rows, is what gates judge; what is registered is the same
    with all rows.

    Returns
    -------
    dict
        `candidate` (key), `run_id`, `reused`, `trials`, `onnx_difference` (largest of both, over the validation rows).
    """
    registry = ModelRegistry(settings, spec.name)
    registry.check()
    dataset = noted_dataset(as_of, settings, spec)
    directory = _candidate_directory(dataset, spec)
    if (directory / CANDIDATE).exists():
        found: dict[str, Any] = read_json(directory / CANDIDATE)
        if registry.run_exists(found["run_id"]):
            LOGGER.info("candidate %s: trained before on the same data by the same code, reused", directory.name)
            return found | {"reused": True}
        shutil.rmtree(directory)
    with new_directory(directory) as temporary:
        candidate = _train(dataset, registry, spec, temporary, progress)
        write_json(temporary / CANDIDATE, candidate)
    return candidate | {"reused": False}


def evaluate(as_of: datetime, settings: Settings, spec: ModelSpec) -> dict[str, Any]:
    """Measure the candidate, compare it with baselines and champion, and let the gates decide.

    An evaluation of the same candidate by the same gates against the same champion is found again. A candidate that
    has become the champion is judged by the one that it replaced.

    Returns
    -------
    dict
        `passed`, `gates`, `metrics`, `baselines`, `champion` (version or None), `interval`, `slices`, `rows`, `gap`,
        `pictures`, `directory` (of the report, relative to the data directory), `reused`.
    """
    dataset = noted_dataset(as_of, settings, spec)
    candidate = _candidate(dataset, spec)
    registry = ModelRegistry(settings, spec.name)
    registry.check()
    champion = opponent(candidate, registry)
    directory = _evaluation_directory(champion, candidate, dataset, spec)
    kept = {"directory": directory.relative_to(settings.data_dir).as_posix()}
    if (directory / EVALUATION).exists():
        LOGGER.info("evaluation %s: same candidate, gates and champion as before, reused", directory.name)
        return dict(read_json(directory / EVALUATION)) | kept | {"reused": True}
    evaluation = _evaluate(champion, candidate, registry, dataset, settings, spec)
    _log_evaluation(as_of, evaluation, candidate["run_id"], directory, dataset, registry, spec)
    return evaluation | kept | {"reused": False}


def _evaluate(
    champion: Version | None,
    candidate: dict[str, Any],
    registry: ModelRegistry,
    dataset: Dataset,
    settings: Settings,
    spec: ModelSpec,
) -> dict[str, Any]:
    split = split_by_time(dataset.rows(), spec)
    kept = [(_candidate_directory(dataset, spec) / name).read_bytes() for name in (JUDGED, MODEL)]
    judged, final = (OnnxModel(content) for content in kept)
    evaluation = evaluation_of.evaluate(judged.predict, split, dataset, spec, judged.ranges)
    refit = agreement(judged, final, split, dataset, spec)
    evidence = Evidence(
        metrics=evaluation["metrics"],
        baselines={
            name: metrics[f"validation_{spec.task.primary}"] for name, metrics in evaluation["baselines"].items()
        },
        champion=compare_champion(champion, judged, registry, split, dataset, settings, spec) if champion else None,
        onnx_difference=candidate["onnx_difference"],
        unit=spec.unit,
        primary=spec.task.primary,
        slices=evaluation["slices"],
        groups=evaluation["groups"],
        interval=evaluation["interval"] and evaluation["interval"] | {"rows": evaluation["rows"]},
        refit=refit,
        model_bytes=max(map(len, kept)),
        row_microseconds=evaluation_of.row_microseconds(final, matrix(split.test, dataset.inputs)),
    )
    gates = decide(evidence, spec.gates)
    return evaluation | {
        "refit": refit,
        "pictures": pictures(judged.predict, split, dataset, spec),
        "champion": champion.version if champion else None,
        "gates": [gate.to_dict() for gate in gates],
        "passed": all(gate.passed for gate in gates),
    }


def register(as_of: datetime, settings: Settings, spec: ModelSpec) -> dict[str, Any]:
    """Make a version of the candidate and the champion of the version, if every gate was passed.

    The champion that the gates compared with must still be the champion, and the gates must be those of the spec;
    otherwise they are asked again. A candidate that was registered before is not registered again, nor made champion
    again: somebody may have rolled it back.

    Returns
    -------
    dict
        `version`, `previous` (the champion before, or None), `registered` (False if it had been before: then
        `reused`), `run_id`.

    Raises
    ------
    GatesNotPassed
    """
    dataset = noted_dataset(as_of, settings, spec)
    candidate = _candidate(dataset, spec)
    registry = ModelRegistry(settings, spec.name)
    with registry.locked():
        champion = registry.champion()
        before = champion.version if champion else None
        known = _registered_before(candidate["key"], registry)
        if known is not None and REGISTERED_TAG in known.tags:
            LOGGER.info("%s: registered before as version %s", spec.name, known.version)
            return _registered(known, before, candidate, fresh=False)
        evaluation = evaluate(as_of, settings, spec)
        if not evaluation["reused"]:
            LOGGER.info("%s: champion or gates changed since the evaluation, asked again", spec.name)
        _require_passed(evaluation, spec)
        version = known or _create_version(dataset, candidate, evaluation, registry, spec)
        registry.promote_locked(version, as_utc(as_of), WHO, "passed every gate", before)
    registry.set_run_tags(candidate["run_id"], {"decision": "registered", "version": version.version})
    registry.end_run(candidate["run_id"])
    return _registered(version, before, candidate, fresh=True)


def reject(as_of: datetime, settings: Settings, spec: ModelSpec) -> dict[str, Any]:
    """Note on the candidate's run why it was not registered. The champion stays.

    Returns
    -------
    dict
        `run_id`, `reasons`, `champion` (version or None), `version` (that it has been before, or None), `reused` (it
        was noted before).
    """
    return _refuse(as_of, settings, spec, "rejected")


def decline(as_of: datetime, settings: Settings, spec: ModelSpec) -> dict[str, Any]:
    """Note on the candidate's run that a person did not want it, although it passed its gates. The champion stays.

    Returns
    -------
    dict
        As `reject`.
    """
    return _refuse(as_of, settings, spec, "declined", ["declined by a person, or not answered in time"])


def _refuse(
    as_of: datetime, settings: Settings, spec: ModelSpec, decision: str, reasons: list[str] | None = None
) -> dict[str, Any]:
    dataset = noted_dataset(as_of, settings, spec)
    candidate = _candidate(dataset, spec)
    evaluation = evaluate(as_of, settings, spec)
    reasons = reasons or _failed(evaluation)
    registry = ModelRegistry(settings, spec.name)
    known = _registered_before(candidate["key"], registry)
    told = {
        "run_id": candidate["run_id"],
        "reasons": reasons,
        "champion": evaluation["champion"],
        "version": known.version if known else None,
    }
    note = settings.data_dir / evaluation["directory"] / f"{decision}.json"
    if note.exists() and read_json(note) == told:
        return told | {"reused": True}
    if known is None:  # what was decided about a version is its own history
        registry.set_run_tags(candidate["run_id"], {"decision": decision, "reasons": "; ".join(reasons)[:5000]})
        registry.end_run(candidate["run_id"])
    registry.log_rejection(as_utc(as_of), WHO, f"run {candidate['run_id']} {decision}: {'; '.join(reasons)}")
    write_json(note, told)
    for reason in reasons:
        LOGGER.warning("%s %s: %s", spec.name, decision, reason)
    return told | {"reused": False}


def run(as_of: datetime, settings: Settings, spec: ModelSpec, progress: Progress = LOGGER.info) -> dict[str, Any]:
    """All steps in order.

    Returns
    -------
    dict
        `status` (`registered`, `rejected`, `stopped` or `skipped`), `seconds` per step, and under each step's name
        what it returned (`dataset`, `validation`, `training`, `evaluation`, `registration` or `rejection`); `reason`
        if it was skipped, because the source cannot have such a model.
    """
    story: dict[str, Any] = {"model": spec.name, "as_of": as_utc(as_of).isoformat(), "seconds": {}}

    def do(name: str, text: str, step: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        progress(text)
        begun = time.perf_counter()
        story[name] = step()
        story["seconds"][name] = round(time.perf_counter() - begun, 2)
        if story[name].get("reused"):
            progress("  nothing that it depends on has changed: found again")
        return dict(story[name])

    title = "training set: features as they were known at each order"
    try:
        do("dataset", title, lambda: build_dataset(as_of, settings, spec))
    except SourceLacks as error:
        return story | {"status": "skipped", "reason": str(error)}
    if do("validation", "checking the training set", lambda: validate_dataset(as_of, settings, spec))["stopped"]:
        return story | {"status": "stopped"}
    do("training", "fitting the candidates", lambda: train(as_of, settings, spec, progress))
    if do("evaluation", "evaluating, asking the gates", lambda: evaluate(as_of, settings, spec))["passed"]:
        do("registration", "registering the version", lambda: register(as_of, settings, spec))
        return story | {"status": "registered"}
    do("rejection", "rejecting the candidate", lambda: reject(as_of, settings, spec))
    return story | {"status": "rejected"}


def noted_dataset(as_of: datetime, settings: Settings, spec: ModelSpec) -> Dataset:
    """The data set that was built for this instant.

    Raises
    ------
    DatasetError
        None was.
    """
    path = _note_path(as_of, settings, spec)
    if not path.exists():
        raise DatasetError(f"{spec.name}: no data set was built as of {as_of.isoformat()}: run build_dataset first")
    return datasets.load_dataset(settings.datasets / read_json(path)["dataset"])


def note_dataset(as_of: datetime, settings: Settings, spec: ModelSpec, dataset: Dataset) -> None:
    """Note which data set was built for this instant."""
    write_json(_note_path(as_of, settings, spec), {"dataset": dataset.hash})


def _train(
    dataset: Dataset, registry: ModelRegistry, spec: ModelSpec, directory: Path, progress: Progress
) -> dict[str, Any]:
    split = split_by_time(dataset.rows(), spec)
    key = _key(dataset, spec)
    tags = lineage_tags(dataset.description, key) | {"owner": spec.owner}
    parameters = {"estimator": spec.estimator, "hidden_share": spec.hidden.share if spec.hidden else 0.0}
    run_id = registry.start_run(f"{dataset.description['as_of'][:16]} {dataset.hash[:8]}", tags, parameters)
    try:
        fitted = fit(split, dataset, spec, progress)
        progress("fitting the best one again, on all rows")
        again = fit_again(fitted, dataset, spec)
        difference = max(
            _export(models, name, split, dataset, spec, directory)
            for models, name in ((fitted, JUDGED), (again, MODEL))
        )
        registry.log_parameters(run_id, fitted.parameters)
        for number, trial in enumerate(fitted.trials, start=1):
            registry.log_trial(run_id, number, trial, datetime.fromisoformat(dataset.description["as_of"]))
        registry.log_files(run_id, dataset.directory / datasets.DESCRIPTION)
        progress("logging the estimator to MLflow")
        registry.log_sklearn(run_id, again.model, dataset.inputs, spec.label)
    except BaseException:
        _end_quietly(registry, run_id)
        raise
    return {"key": key, "run_id": run_id, "trials": fitted.trials, "onnx_difference": difference}


def _export(fitted: Fitted, name: str, split: Split, dataset: Dataset, spec: ModelSpec, directory: Path) -> float:
    content = to_onnx(fitted.model, len(dataset.inputs), fitted.quantiles)
    full, onnx = matrix(split.validation, dataset.inputs), OnnxModel(content)
    differences = [
        abs(fitted.answers(values, spec) - onnx.ranges(values)).max()
        for values in (full, hide(full, dataset, spec, 1.0))
    ]
    (directory / name).write_bytes(content)
    return float(max(differences))


def _end_quietly(registry: ModelRegistry, run_id: str) -> None:
    try:
        registry.end_run(run_id, "FAILED")
    except TrainingError as error:
        LOGGER.warning("run %s could not be marked as failed: %s", run_id, error)


def _log_evaluation(
    as_of: datetime,
    evaluation: dict[str, Any],
    run_id: str,
    directory: Path,
    dataset: Dataset,
    registry: ModelRegistry,
    spec: ModelSpec,
) -> None:
    """Log it to the run, then keep it: what is found again has been logged."""
    title = f"{spec.name} as of {as_utc(as_of).isoformat()}"
    facts = {"Predicts": f"{spec.label} ({spec.kind})", "Estimator": spec.estimator, "Owner": spec.owner}
    written = {
        "report.md": report(evaluation, title, spec.unit),
        "report.html": html_report(evaluation, title, spec.unit),
        "model_card.md": model_card(evaluation, dataset.description, facts, spec.unit),
    }
    baselines = {
        f"baseline_{name}_{key}": value
        for name, metrics in evaluation["baselines"].items()
        for key, value in metrics.items()
        if key.endswith(f"_{spec.task.primary}")
    }
    interval = {
        f"{kind}_{name}": value
        for kind in ("interval", "business")
        for name, value in (evaluation[kind] or {}).items()
        if isinstance(value, float)
    }
    with new_directory(directory) as temporary:
        for name, text in written.items():
            (temporary / name).write_text(text, encoding="utf-8")
        write_json(temporary / "gates.json", evaluation["gates"])
        write_json(temporary / EVALUATION, evaluation)
        registry.log_metrics(run_id, {**evaluation["metrics"], **baselines, **interval}, as_utc(as_of))
        for name in (*written, "gates.json", EVALUATION):
            registry.log_files(run_id, temporary / name)


def _create_version(
    dataset: Dataset, candidate: dict[str, Any], evaluation: dict[str, Any], registry: ModelRegistry, spec: ModelSpec
) -> Version:
    directory = _candidate_directory(dataset, spec)
    shutil.rmtree(directory / SERVING, ignore_errors=True)
    with new_directory(directory / SERVING) as temporary:
        split = split_by_time(dataset.rows(), spec)
        final, judged = ((directory / name).read_bytes() for name in (MODEL, JUDGED))
        write_bundle(temporary, final, judged, evaluation, split, dataset, spec)
    registry.log_files(candidate["run_id"], directory / SERVING, SERVING)
    named = [f"{part}_{spec.task.primary}" for part in ("validation", "test")]
    metrics = {name: f"{evaluation['metrics'][name]:.4f}" for name in named} | {"primary_metric": spec.task.primary}
    tags = lineage_tags(dataset.description, candidate["key"]) | seen_tags(evaluation["seen"]) | metrics
    tags[COMPARED_WITH_TAG] = evaluation["champion"] or ""
    return registry.create_version(candidate["run_id"], tags, [GateResult(**gate) for gate in evaluation["gates"]])


def _registered_before(key: str, registry: ModelRegistry) -> Version | None:
    return next((version for version in registry.versions() if version.tags.get("candidate_key") == key), None)


def _registered(version: Version, previous: str | None, candidate: dict[str, Any], *, fresh: bool) -> dict[str, Any]:
    return {
        "version": version.version,
        "previous": previous,
        "registered": fresh,
        "reused": not fresh,
        "run_id": candidate["run_id"],
    }


def _require_passed(evaluation: dict[str, Any], spec: ModelSpec) -> None:
    if not evaluation["passed"]:
        raise GatesNotPassed(f"{spec.name} was not registered, the champion stays: {'; '.join(_failed(evaluation))}")


def _failed(evaluation: dict[str, Any]) -> list[str]:
    return [f"{gate['name']}: {gate['reason']}" for gate in evaluation["gates"] if not gate["passed"]]


def _key(dataset: Dataset, spec: ModelSpec) -> str:
    return canonical_hash({"dataset": dataset.hash, "spec": spec.fingerprint(), "code": code_hash()})


def _candidate_directory(dataset: Dataset, spec: ModelSpec) -> Path:
    return dataset.directory / "candidates" / _key(dataset, spec)[:16]


def _evaluation_directory(
    champion: Version | None, candidate: dict[str, Any], dataset: Dataset, spec: ModelSpec
) -> Path:
    """Named by the hash of all that the evaluation depends on; the key of a candidate has data, spec and code in it."""
    key = canonical_hash(
        {
            "candidate": [candidate["key"], candidate["run_id"]],
            "champion": [champion.version, champion.run_id] if champion else None,
            "gates": [asdict(gate) for gate in spec.gates],
            "slices": [asdict(part) for part in spec.slices],
            "fairness": [asdict(part) for part in spec.fairness],
        }
    )
    return _candidate_directory(dataset, spec) / "evaluations" / key[:16]


def _candidate(dataset: Dataset, spec: ModelSpec) -> dict[str, Any]:
    path = _candidate_directory(dataset, spec) / CANDIDATE
    if not path.exists():
        raise TrainingError(
            f"{spec.name}: data set {dataset.hash[:12]} has no trained candidate of this code and spec: run "
            "train first (again, if the code was changed meanwhile)"
        )
    found: dict[str, Any] = read_json(path)
    return found


def _note_path(as_of: datetime, settings: Settings, spec: ModelSpec) -> Path:
    return settings.datasets / "runs" / spec.name / f"{as_utc(as_of):%Y%m%dT%H%M%S}.json"

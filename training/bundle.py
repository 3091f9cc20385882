"""The files of a model version: everything that serving and monitoring need, and nothing of how it was made.

`model.onnx`, fitted on all rows; `bundle.json` (its inputs, views, interval, self-test); `reference.parquet` (a sample
of the rows that it was fitted on, for drift); and `judged.onnx`, the same models fitted on the older rows only: of them
alone it is known how good they are, and by them a later candidate is compared with this version.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from training.availability import Availability
from training.dataset import Dataset
from training.errors import BundleMismatch
from training.export import Matrix, OnnxModel, Vector
from training.files import read_json, write_json
from training.intervals import Calibration, calibrate
from training.spec import ModelSpec
from training.split import Split
from training.train import hidden_views, hide, known_rows, labels, matrix, medians, training_matrix

MODEL, JUDGED, BUNDLE, REFERENCE = "model.onnx", "judged.onnx", "bundle.json", "reference.parquet"
PROJECT = "delivery_eta"
REFERENCE_ROWS = 5_000
SELF_TEST_ROWS = 5
FEWEST_CALIBRATION_ROWS = 1_000
"""An offset made of so many rows is within 2.5 % of the coverage that it stands for."""
TOLERANCE = 1e-3
"""Largest difference of a self-test, in the label's unit."""


def write_bundle(
    directory: Path,
    final: bytes,
    judged: bytes,
    evaluation: Mapping[str, Any],
    split: Split,
    dataset: Dataset,
    spec: ModelSpec,
) -> None:
    """Write the files into `directory`, and check them by running them.

    Parameters
    ----------
    directory : Path
    final, judged : bytes
        The ONNX forms of the models fitted on all rows, and of those that the gates judged.
    evaluation : mapping
        Of the judged ones.
    split : Split
    dataset : Dataset
    spec : ModelSpec

    Raises
    ------
    BundleMismatch
        A written model does not answer as its self-test says.
    """
    (directory / MODEL).write_bytes(final)
    (directory / JUDGED).write_bytes(judged)
    models = OnnxModel(final), OnnxModel(judged)
    seen = training_matrix(known_rows(dataset, spec), dataset, spec)
    write_json(directory / BUNDLE, _content(models, seen, evaluation, split, dataset, spec))
    _reference(models[0], seen, dataset, spec).write_parquet(directory / REFERENCE, compression="zstd")
    verify_bundle(directory)


def verify_bundle(directory: Path) -> dict[str, Any]:
    """Run a bundle's self-tests and return its `bundle.json`.

    Raises
    ------
    BundleMismatch
        A file is missing, or a model answers something else.
    """
    missing = [name for name in (MODEL, BUNDLE, REFERENCE) if not (directory / name).exists()]
    if missing:
        raise BundleMismatch(f"{directory} lacks {missing}: train again, or promote another version")
    content: dict[str, Any] = read_json(directory / BUNDLE)
    inputs, judged = content["self_test"]["inputs"], content.get("judged")
    _verify(directory / MODEL, inputs, content["self_test"]["predictions"])
    if judged:  # a version from before any was fitted again has none
        _verify(directory / judged["file"], inputs, judged["predictions"])
    return content


def _verify(path: Path, inputs: list[list[float | None]], expected: list[float]) -> None:
    if not path.exists():
        raise BundleMismatch(f"{path.parent} lacks {path.name}: train again, or promote another version")
    answer = OnnxModel(path.read_bytes()).predict(np.array(inputs, dtype=np.float32))
    difference = float(np.max(np.abs(answer - np.array(expected))))
    if not difference <= TOLERANCE:
        raise BundleMismatch(f"{path} differs from its own self-test by {difference:.2e}: train again")


def _content(
    models: tuple[OnnxModel, OnnxModel],
    seen: Matrix,
    evaluation: Mapping[str, Any],
    split: Split,
    dataset: Dataset,
    spec: ModelSpec,
) -> dict[str, Any]:
    source, (final, judged) = dataset.description, models
    calibration = _calibration(judged, seen, split, dataset, spec) if evaluation["interval"] else None
    rows = _self_test_rows(split, dataset, spec)
    return {
        "model": spec.name,
        "version_created_as_of": source["as_of"],
        "feature_service": source["feature_service"],
        "project": PROJECT,
        "definitions_hash": source["definitions_hash"],
        "request_function_version": source["request_function_version"],
        "clock": source["clock"],
        "dataset_hash": dataset.hash,
        "seed": spec.seed,
        "task": spec.kind,
        "trained_until": source["as_of"],
        "seen": evaluation["seen"],
        "judged": {
            "file": JUDGED,
            "trained_until": evaluation["test_start"],
            "predictions": [float(value) for value in judged.predict(rows)],
        },
        "baseline": evaluation["baseline"],
        **_minutes(evaluation, spec),
        "population": dict(spec.asks),
        "metrics": evaluation["metrics"],
        "views": source["views"],
        "inputs": [_input(item, seen[:, place]) for place, item in enumerate(source["inputs"])],
        # A probability has no interval, so its bundle has none.
        **({"interval": calibration.to_dict()} if calibration else {}),
        "self_test": _self_test(final, rows, calibration, Availability.of(dataset)),
    }


def _minutes(evaluation: Mapping[str, Any], spec: ModelSpec) -> dict[str, Any]:
    """What serving has to know of a label in minutes."""
    if spec.unit != "minutes":
        return {}
    return {"baseline_minutes": evaluation["baseline"], "label_maximum": spec.limits.label_maximum}


def newest_held_out(split: Split) -> pl.DataFrame:
    """The newest rows that the judged models were not fitted on: the test rows; if these are few, some before them."""
    held_out = pl.concat([split.validation, split.test])
    return held_out.tail(max(split.test.height, FEWEST_CALIBRATION_ROWS))


def _calibration(judged: OnnxModel, seen: Matrix, split: Split, dataset: Dataset, spec: ModelSpec) -> Calibration:
    """Of the judged models, since the final ones have seen every row; the newest rows are what tomorrow is like."""
    rows = newest_held_out(split)
    return calibrate(
        judged.ranges,
        matrix(rows, dataset.inputs),
        labels(rows, spec),
        Availability.of(dataset),
        hidden=hidden_views(spec),
        medians=medians(seen),
    )


def _input(item: Mapping[str, Any], values: Vector | Matrix) -> dict[str, Any]:
    present = values[np.isfinite(values)].astype(np.float64)
    described = {name: item[name] for name in ("name", "source", "view", "feature", "dtype")}
    described["null_rate"] = 1.0 - present.size / len(values) if len(values) else None
    if not present.size:
        return described | {"median": None, "minimum": None, "maximum": None}
    low, middle, high = (float(value) for value in np.quantile(present, [0.0, 0.5, 1.0]))
    return described | {"median": middle, "minimum": low, "maximum": high}


def _self_test_rows(split: Split, dataset: Dataset, spec: ModelSpec) -> Matrix:
    """Validation rows: two as they are, one with the hidden entity missing, one with every second value, one empty."""
    rows = matrix(split.validation.head(SELF_TEST_ROWS), dataset.inputs)
    rows = np.resize(rows, (SELF_TEST_ROWS, rows.shape[1]))
    rows[2] = hide(rows[2:3], dataset, spec, 1.0)[0]
    rows[3, ::2] = np.nan
    rows[4] = np.nan
    return rows


def _self_test(
    final: OnnxModel, rows: Matrix, calibration: Calibration | None, availability: Availability
) -> dict[str, Any]:
    listed = [[None if np.isnan(value) else float(value) for value in row] for row in rows]
    test: dict[str, Any] = {"inputs": listed, "predictions": [float(value) for value in final.predict(rows)]}
    if calibration:
        bounds = calibration.bounds(final.ranges(rows), availability.absent(rows))
        test["intervals"] = [[float(low), float(high)] for low, high in bounds]
    return test


def _reference(final: OnnxModel, seen: Matrix, dataset: Dataset, spec: ModelSpec) -> pl.DataFrame:
    chosen = np.sort(np.random.default_rng(spec.seed).permutation(len(seen))[:REFERENCE_ROWS])
    sample = pl.DataFrame(seen[chosen].astype(np.float64), schema=dataset.inputs).fill_nan(None)
    actual = labels(known_rows(dataset, spec), spec)[chosen]
    return sample.with_columns(prediction=pl.Series(final.predict(seen[chosen])), label=pl.Series(actual))

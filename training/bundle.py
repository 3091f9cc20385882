"""The files of a model version: everything that serving and monitoring need, and nothing of how it was made.

`model.onnx`, `bundle.json` (its inputs, views, interval, self-test) and `reference.parquet` (a sample of the training
rows, for drift).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from training.dataset import Dataset
from training.errors import BundleMismatch
from training.export import Matrix, OnnxModel, Vector
from training.files import read_json, write_json
from training.spec import ModelSpec
from training.split import Split
from training.train import hide, labels, matrix, training_matrix

MODEL, BUNDLE, REFERENCE = "model.onnx", "bundle.json", "reference.parquet"
PROJECT = "delivery_eta"
REFERENCE_ROWS = 5_000
SELF_TEST_ROWS = 5
TOLERANCE = 1e-3
"""Largest difference of a self-test, in the label's unit."""


def write_bundle(
    directory: Path, onnx: bytes, evaluation: Mapping[str, Any], split: Split, dataset: Dataset, spec: ModelSpec
) -> None:
    """Write the three files into `directory`, and check them by running them.

    Raises
    ------
    BundleMismatch
        The written model does not answer as its self-test says.
    """
    model = OnnxModel(onnx)
    (directory / MODEL).write_bytes(onnx)
    seen = training_matrix(split, dataset, spec)
    write_json(directory / BUNDLE, _content(model, seen, evaluation, split, dataset, spec))
    _reference(model, seen, split, dataset, spec).write_parquet(directory / REFERENCE, compression="zstd")
    verify_bundle(directory)


def verify_bundle(directory: Path) -> dict[str, Any]:
    """Run a bundle's self-test and return its `bundle.json`.

    Raises
    ------
    BundleMismatch
        A file is missing, or the model answers something else.
    """
    missing = [name for name in (MODEL, BUNDLE, REFERENCE) if not (directory / name).exists()]
    if missing:
        raise BundleMismatch(f"{directory} lacks {missing}: train again, or promote another version")
    content: dict[str, Any] = read_json(directory / BUNDLE)
    inputs = np.array(content["self_test"]["inputs"], dtype=np.float32)
    answer = OnnxModel((directory / MODEL).read_bytes()).predict(inputs)
    difference = float(np.max(np.abs(answer - np.array(content["self_test"]["predictions"]))))
    if not difference <= TOLERANCE:
        raise BundleMismatch(f"{directory / MODEL} differs from its own self-test by {difference:.2e}: train again")
    return content


def _content(
    model: OnnxModel, seen: Matrix, evaluation: Mapping[str, Any], split: Split, dataset: Dataset, spec: ModelSpec
) -> dict[str, Any]:
    source = dataset.description
    return {
        "model": spec.name,
        "version_created_as_of": source["as_of"],
        "feature_service": source["feature_service"],
        "project": PROJECT,
        "definitions_hash": source["definitions_hash"],
        "request_function_version": source["request_function_version"],
        "dataset_hash": dataset.hash,
        "seed": spec.seed,
        "task": spec.kind,
        "trained_until": evaluation["test_start"],
        "baseline": evaluation["baseline"],
        **_minutes(evaluation, spec),
        "population": dict(spec.asks),
        "metrics": evaluation["metrics"],
        "views": source["views"],
        "inputs": [_input(item, seen[:, place]) for place, item in enumerate(source["inputs"])],
        **_interval(evaluation),
        "self_test": _self_test(model, split, dataset, spec),
    }


def _minutes(evaluation: Mapping[str, Any], spec: ModelSpec) -> dict[str, Any]:
    """What serving has to know of a label in minutes."""
    if spec.unit != "minutes":
        return {}
    return {"baseline_minutes": evaluation["baseline"], "label_maximum": spec.limits.label_maximum}


def _interval(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """A probability has no interval, so its bundle has none."""
    interval = evaluation["interval"]
    return {"interval": {name: interval[name] for name in ("p10_offset", "p90_offset")}} if interval else {}


def _input(item: Mapping[str, Any], values: Vector | Matrix) -> dict[str, Any]:
    present = values[np.isfinite(values)].astype(np.float64)
    described = {name: item[name] for name in ("name", "source", "view", "feature", "dtype")}
    described["null_rate"] = 1.0 - present.size / len(values) if len(values) else None
    if not present.size:
        return described | {"median": None, "minimum": None, "maximum": None}
    low, middle, high = (float(value) for value in np.quantile(present, [0.0, 0.5, 1.0]))
    return described | {"median": middle, "minimum": low, "maximum": high}


def _self_test(model: OnnxModel, split: Split, dataset: Dataset, spec: ModelSpec) -> dict[str, Any]:
    """Validation rows: two as they are, one with the hidden entity missing, one with every second value, one empty."""
    rows = matrix(split.validation.head(SELF_TEST_ROWS), dataset.inputs)
    rows = np.resize(rows, (SELF_TEST_ROWS, rows.shape[1]))
    rows[2] = hide(rows[2:3], dataset, spec, 1.0)[0]
    rows[3, ::2] = np.nan
    rows[4] = np.nan
    listed = [[None if np.isnan(value) else float(value) for value in row] for row in rows]
    return {"inputs": listed, "predictions": [float(value) for value in model.predict(rows)]}


def _reference(model: OnnxModel, seen: Matrix, split: Split, dataset: Dataset, spec: ModelSpec) -> pl.DataFrame:
    chosen = np.sort(np.random.default_rng(spec.seed).permutation(len(seen))[:REFERENCE_ROWS])
    sample = pl.DataFrame(seen[chosen].astype(np.float64), schema=dataset.inputs).fill_nan(None)
    return sample.with_columns(
        prediction=pl.Series(model.predict(seen[chosen])), label=pl.Series(labels(split.train, spec)[chosen])
    )

"""From a model version back to everything that it was made of."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parent
FEATURES = PACKAGE.parent / "feature_repo"
SEEN = {"fitted_on": "fitted on", "judged_on": "judged by the same models fitted on"}
"""Tags of a version that say which rows were seen, and how they read; a version from before they were has none."""
CLOCK = {"market_zone": "hours and weekdays of", "peak_hours": "peak hours"}
"""The same for the clock by which the features name hours."""
LIBRARIES = ("scikit-learn", "numpy", "polars", "skl2onnx", "onnxruntime", "feast")


@lru_cache
def code_hash() -> str:
    """SHA-256 of this room's source files and of the versions of the libraries that decide a prediction."""
    return _sources_hash(PACKAGE, "*.py")


@lru_cache
def features_code_hash() -> str:
    """SHA-256 of the sources that decide a training row: definitions, transforms and stores; without importing them."""
    return _sources_hash(FEATURES, "*.py", "*.yaml")


def _sources_hash(root: Path, *patterns: str) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for pattern in patterns for path in root.rglob(pattern)):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    digest.update(repr(library_versions()).encode())
    return digest.hexdigest()


@lru_cache
def library_versions() -> dict[str, str]:
    """Installed versions of the libraries that decide a prediction."""
    from importlib.metadata import version

    return {name: version(name) for name in LIBRARIES}


@lru_cache
def code_revision() -> str:
    """The revision of the code: `ETA_CODE_REVISION`, else git's, with `-dirty` if files differ from it.

    Without either (an image without a repository), the hash of this room's sources.
    """
    if stated := os.environ.get("ETA_CODE_REVISION"):
        return stated
    revision = _git("rev-parse", "HEAD")
    if revision is None:
        return f"sources-{code_hash()[:16]}"
    return f"{revision}-dirty" if _git("status", "--porcelain") else revision


def _git(*arguments: str) -> str | None:
    command = ["git", "-C", str(PACKAGE.parent), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def lineage_tags(description: Mapping[str, Any], key: str) -> dict[str, str]:
    """Tags of a run and a version: from which data, definitions and code it was made.

    Parameters
    ----------
    description : mapping
        Content of `dataset.json`.
    key : str
        Hash of the data set, the spec and the code: what decides the candidate.
    """
    return {
        "as_of": str(description["as_of"]),
        "dataset_hash": str(description["hash"]),
        "feature_service": str(description["feature_service"]),
        "definitions_hash": str(description["definitions_hash"]),
        "request_function_version": str(description["request_function_version"]),
        "market_zone": str(description["clock"]["zone"]),
        "peak_hours": ",".join(map(str, description["clock"]["peak_hours"])),
        "code_revision": code_revision(),
        "candidate_key": key,
        "window_start": str(description["window"]["start"]),
        "window_end": str(description["window"]["end"]),
        "seed": str(description["seed"]),
        "order_partitions": str(len(description["order_partitions"])),
    }


def seen_tags(seen: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Tags of a version: which rows its own and its judged models were fitted on (see `training.split.rows_seen`)."""
    return {
        f"{who}_on": f"{rows['rows']} rows of {rows['first']} to {rows['last']}"
        for who, rows in (("fitted", seen["registered"]), ("judged", seen["judged"]))
    }


def render_tree(lineage: Mapping[str, Any]) -> str:
    """The lineage of a version (see `ModelRegistry.lineage`) as a tree of text."""
    tags, dataset = lineage["tags"], lineage["dataset"]
    partitions = dataset["order_partitions"]
    listed = [f"{item['path']}  {item['sha256'][:12]}" for item in partitions]
    if len(listed) > 6:
        listed = [*listed[:3], f"... {len(listed) - 6} more ...", *listed[-3:]]
    aliases = f" ({', '.join(lineage['aliases'])})" if lineage["aliases"] else ""
    lines = [
        f"{lineage['model']} version {lineage['version']}{aliases}",
        f"└── training run {lineage['run_id']}, as of {tags['as_of']}",
        f"    ├── code revision {tags['code_revision']}",
        f"    ├── seed {tags['seed']}",
        f"    ├── feature service {tags['feature_service']}, definitions {tags['definitions_hash'][:12]}, "
        f"request function {tags['request_function_version'][:12]}",
        *(f"    ├── {text} {tags[name]}" for name, text in (CLOCK | SEEN).items() if name in tags),
        f"    └── data set {tags['dataset_hash']}, {dataset['row_count']} rows",
        f"        ├── window {tags['window_start']} to {tags['window_end']}",
        f"        └── {len(partitions)} order partitions",
    ]
    return "\n".join([*lines, *(f"            {'└' if item is listed[-1] else '├'}── {item}" for item in listed)])

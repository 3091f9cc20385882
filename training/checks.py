"""What a training set must be before anything is trained on it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import polars as pl

from feature_repo.window import DAY
from training.dataset import Dataset
from training.errors import DatasetError
from training.probes import probe
from training.spec import ModelSpec
from training.split import split_by_time


def check_dataset(dataset: Dataset, spec: ModelSpec) -> dict[str, Any]:
    """What is wrong with a training set, if anything.

    Returns
    -------
    dict
        `stopped` (bool), `failures` (list of sentences), `notes` (sentences that stop nothing),
        `absent_in_source` (features without a value because the source lacks the column that they are made of),
        `null_rates`, `probes` (see `training.probes`; None if there was something wrong before).
    """
    rows = dataset.rows()
    rates: dict[str, float] = dataset.description["null_rates"]
    absent = absent_features(dataset)
    failures = [*_row_failures(rows, spec), *_label_failures(rows, spec), *_null_failures(rates, absent, spec)]
    failures = failures or list(_split_failures(rows, spec))
    leaks, probes = ([], None) if failures else probe(dataset, spec)
    failures += leaks
    return {
        "stopped": bool(failures),
        "failures": failures,
        "notes": list(_notes(dataset)),
        "probes": probes,
        "absent_in_source": absent,
        "null_rates": rates,
        "rows": rows.height,
    }


def absent_features(dataset: Dataset) -> list[str]:
    """Inputs without a value because the source lacks the order columns that they are made of."""
    return [name for name in dataset.inputs if name in dataset.description["absent_inputs"]]


def _row_failures(rows: pl.DataFrame, spec: ModelSpec) -> Iterable[str]:
    if rows.height < spec.limits.minimum_rows:
        yield (
            f"{rows.height} rows, at least {spec.limits.minimum_rows} are needed: bring in more history, or lower "
            "`minimum_rows` in the spec"
        )
    duplicated = rows.height - rows[spec.row_id].n_unique()
    if duplicated:
        example = rows.filter(pl.col(spec.row_id).is_duplicated())[spec.row_id][0]
        yield f"{duplicated} rows have the {spec.row_id} of another (for example {example}): list each row once"


def _label_failures(rows: pl.DataFrame, spec: ModelSpec) -> Iterable[str]:
    label, limits = rows[spec.label], spec.limits
    outside = rows.filter(~pl.col(spec.label).is_between(limits.label_minimum, limits.label_maximum).fill_null(False))
    if outside.height:
        yield (
            f"{outside.height} rows have a {spec.label} that is missing or outside of "
            f"[{limits.label_minimum:g}, {limits.label_maximum:g}] (for example {spec.row_id} "
            f"{outside[spec.row_id][0]}: {outside[spec.label][0]})"
        )
    if rows.height and label.n_unique() == 1:
        yield f"{spec.label} is {label[0]} on every row: nothing can be learnt from a constant"


def _null_failures(rates: Mapping[str, float], absent: Iterable[str], spec: ModelSpec) -> Iterable[str]:
    for name, rate in rates.items():
        if name in absent or rate <= spec.limits.maximum_null_rate:
            continue
        if rate == 1.0:
            yield (
                f"{name} has no value on any row although the source has its column: compute and publish the features "
                "of this window (make backfill), or look at the transform"
            )
        else:
            allowed = spec.limits.maximum_null_rate
            yield f"{name} is missing on {rate:.1%} of the rows, at most {allowed:.1%} are allowed"


def _split_failures(rows: pl.DataFrame, spec: ModelSpec) -> Iterable[str]:
    try:
        split = split_by_time(rows, spec)
    except DatasetError as error:
        yield str(error)
        return
    for name, part in split.parts().items():
        if spec.kind == "classification" and part[spec.label].n_unique() == 1:
            yield (
                f"{spec.label} is {part[spec.label][0]:g} on every one of the {part.height} {name} rows: a classifier "
                "needs both classes in each part; bring in more history"
            )


def _notes(dataset: Dataset) -> Iterable[str]:
    start = datetime.fromisoformat(dataset.description["window"]["start"])
    earliest = datetime.fromisoformat(dataset.description["earliest"])
    if earliest - start > DAY:
        yield (
            f"the window begins at {start:%Y-%m-%d}, the first row with a known label is of {earliest:%Y-%m-%d}: the "
            "history is shorter than the window, so the model learns from what there is"
        )

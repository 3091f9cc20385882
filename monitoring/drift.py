"""Whether the served features, and the predictions made of them, still look like the champion's training rows.

Evidently compares the distributions, with distances and not with p-values, which flag nearly everything when there
are many rows. It compares values only, and stops at a column without any; so missing values are judged here, beside.
"""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import polars as pl

if TYPE_CHECKING:
    from evidently.core.report import Snapshot

PREDICTION = "prediction"
SAMPLE_ROWS = 5_000
SAMPLE_SEED = 0
FEW_VALUES = 20
"""Up to so many distinct values a column is compared by its shares (PSI), above by its shape (Wasserstein)."""
THRESHOLDS = {"psi": 0.4, "wasserstein": 0.4}
"""Wasserstein is in standard deviations of the reference. One quiet day beside 90 differs by itself: on ten days of the
simulator most inputs stayed below 0.2, zone means (few zones, a day's weather) below 0.35 on nine of ten, predictions
below 0.19; in its drift drill, predictions and distances moved by 0.5 to 0.7 and zone means by 1 to 2.5."""
SAME_TO = 1e-6
"""Relative. Values so close are one value: a column that is constant but for rounding tells nothing, and numpy cannot
make a histogram of it."""
DRIFTED_SHARE = 0.25
"""From this share of drifted inputs on, the model no longer sees the world that it was trained on."""
MISSING_RISE = 0.3
"""Drift by itself: so much more of a column is missing than in training."""
CALENDAR = re.compile(r"(hour_of_day|day_of_week|is_peak_hour)")
"""Inputs that only tell the time: a window of one day always differs from 90 days in them. Shown, not judged."""

Status = Literal["compared", "constant", "absent", "empty", "new"]


@dataclass(frozen=True)
class ColumnDrift:
    """One column of the window beside the reference.

    Attributes
    ----------
    status : str
        "compared"; "constant" (one and the same value in both, but for rounding); "absent" (no value in either);
        "empty" (values in the reference, none now); "new" (the other way round).
    method, score, threshold
        The distance and its limit; None unless compared.
    missing_reference, missing_current : float
        Shares of rows without a value.
    drifted : bool
    judged : bool
        Whether the verdict counts it.
    """

    name: str
    status: Status
    method: str | None
    score: float | None
    threshold: float | None
    missing_reference: float
    missing_current: float
    drifted: bool
    judged: bool


def served_inputs(predictions: pl.DataFrame, inputs: Sequence[str]) -> pl.DataFrame:
    """The inputs of logged predictions as columns, and `prediction`.

    An input that a row lacks is null, and so is one that the store did not give: the median in its place says nothing
    about the world.
    """
    from serving.status import FeatureStatus

    decoded = predictions.select(
        pl.col("inputs").str.json_decode(pl.Struct({name: pl.Float64() for name in inputs})),
        pl.col("statuses").str.json_decode(pl.Struct({name: pl.String() for name in inputs})),
        pl.col("delivery_minutes").alias(PREDICTION),
    )
    values, status = pl.col("inputs").struct.field, pl.col("statuses").struct.field
    given = {
        name: pl.when(status(name).ne_missing(FeatureStatus.UNAVAILABLE.label)).then(values(name)) for name in inputs
    }
    return decoded.select(**given, prediction=PREDICTION)


def bounded(frame: pl.DataFrame, rows: int = SAMPLE_ROWS) -> pl.DataFrame:
    """At most `rows` rows, the same ones for the same frame."""
    return frame if frame.height <= rows else frame.sample(rows, seed=SAMPLE_SEED)


def compare(
    reference: pl.DataFrame, current: pl.DataFrame, columns: Sequence[str], optional: Sequence[str] = ()
) -> tuple[list[ColumnDrift], Snapshot | None]:
    """Compare `columns` of two frames.

    Parameters
    ----------
    reference, current : pl.DataFrame
        Float columns. They are compared as the model sees them, in single precision; NaN and infinity count as missing.
    columns : sequence of str
    optional : sequence of str
        Columns that the model has learnt to live without: more missing values in them are no drift.

    Returns
    -------
    list of ColumnDrift
        One per column, in their order.
    evidently Snapshot or None
        None when no column has values in both frames.
    """
    before, now = (_finite(bounded(frame), columns) for frame in (reference, current))
    statuses = {name: _status(before[name], now[name]) for name in columns}
    methods = {name: _method(before[name]) for name, status in statuses.items() if status == "compared"}
    snapshot = _run_evidently(before, now, methods) if methods else None
    scores = _scores(snapshot)
    return [
        _column(name, statuses[name], before[name], now[name], methods.get(name), scores.get(name), name in optional)
        for name in columns
    ], snapshot


def summary(columns: Sequence[ColumnDrift]) -> dict[str, Any]:
    """What the verdict needs: shares of drifted inputs, the prediction's drift, inputs that have vanished."""
    inputs = [column for column in columns if column.judged and column.name != PREDICTION and _says_something(column)]
    drifted = [column.name for column in inputs if column.drifted]
    return {
        "judged": len(inputs),
        "drifted": drifted,
        "drifted_share": len(drifted) / len(inputs) if inputs else None,
        "prediction_drifted": any(column.drifted for column in columns if column.name == PREDICTION),
        "empty": [column.name for column in inputs if column.status == "empty" and column.drifted],
        "columns": [asdict(column) for column in columns],
    }


def _says_something(column: ColumnDrift) -> bool:
    """Whether a column may count as stable: one without values now, which the model may lack, is neither."""
    return column.drifted or column.status not in ("absent", "empty")


def _finite(frame: pl.DataFrame, columns: Sequence[str]) -> pl.DataFrame:
    values = [pl.col(name).cast(pl.Float64).cast(pl.Float32).cast(pl.Float64) for name in columns]
    return frame.select(pl.when(value.is_finite()).then(value) for value in values)


def _status(before: pl.Series, now: pl.Series) -> Status:
    was, is_now = before.drop_nulls(), now.drop_nulls()
    if not was.len() or not is_now.len():
        return "new" if is_now.len() else "empty" if was.len() else "absent"
    return "constant" if _is_one_value(pl.concat([was, is_now])) else "compared"


def _is_one_value(values: pl.Series) -> bool:
    found = values.to_numpy()
    return bool(found.max() - found.min() <= SAME_TO * abs(found).max())


def _method(before: pl.Series) -> str:
    return "psi" if before.drop_nulls().n_unique() <= FEW_VALUES else "wasserstein"


def _column(
    name: str,
    status: Status,
    before: pl.Series,
    now: pl.Series,
    method: str | None,
    score: float | None,
    is_optional: bool,
) -> ColumnDrift:
    missing_before, missing_now = _missing(before), _missing(now)
    threshold = THRESHOLDS[method] if method else None
    moved = score is not None and threshold is not None and score >= threshold
    vanished = missing_now - missing_before > MISSING_RISE and not is_optional
    drifted = moved or vanished or status == "new" or (status == "empty" and not is_optional)
    judged = not CALENDAR.search(name)
    return ColumnDrift(name, status, method, score, threshold, missing_before, missing_now, drifted, judged)


def _missing(values: pl.Series) -> float:
    return values.null_count() / values.len() if values.len() else 1.0


def _run_evidently(before: pl.DataFrame, now: pl.DataFrame, methods: Mapping[str, str]) -> Snapshot:
    os.environ.setdefault("DO_NOT_TRACK", "1")
    from evidently import DataDefinition, Dataset, Report
    from evidently.metrics import ValueDrift
    from evidently.presets import DataDriftPreset

    names = list(methods)
    judged = [name for name in names if not CALENDAR.search(name)]
    preset = DataDriftPreset(
        columns=judged,
        drift_share=DRIFTED_SHARE,
        per_column_method={name: methods[name] for name in judged},
        per_column_threshold={name: THRESHOLDS[methods[name]] for name in judged},
    )
    shown = [
        ValueDrift(column=name, method=methods[name], threshold=THRESHOLDS[methods[name]])
        for name in names
        if name not in judged
    ]
    definition = DataDefinition(numerical_columns=names)
    with warnings.catch_warnings():
        # It also computes correlations, undefined for a constant column.
        warnings.simplefilter("ignore", RuntimeWarning)
        return Report([*([preset] if judged else []), *shown]).run(
            _dataset(Dataset, now.select(names), definition), _dataset(Dataset, before.select(names), definition)
        )


def _dataset(kind: Any, frame: pl.DataFrame, definition: Any) -> Any:
    return kind.from_pandas(frame.to_pandas(), data_definition=definition)


def _scores(snapshot: Snapshot | None) -> dict[str, float]:
    if snapshot is None:
        return {}
    metrics = json.loads(snapshot.json())["metrics"]
    return {
        metric["config"]["column"]: float(metric["value"])
        for metric in metrics
        if metric["config"]["type"].endswith(":ValueDrift")
    }

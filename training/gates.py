"""The conditions between a candidate and the registry. Each yields a record, whatever it says."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from training.spec import GateSpec


@dataclass(frozen=True, slots=True)
class GateResult:
    """What a gate saw and what it decided.

    Parameters
    ----------
    name : str
    observed : float or None
        None if there was nothing to measure; the reason then says why.
    threshold : float
    passed : bool
    reason : str
        One sentence for a person.
    """

    name: str
    observed: float | None
    threshold: float
    passed: bool
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """The record as JSON-able values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class ChampionEvidence:
    """How the present champion did on the candidate's validation rows.

    Parameters
    ----------
    version : str
    validation_mae : float or None
        None if it could not be scored.
    problem : str
        Why it could not be scored, and what to do.
    note : str
        What a reader should know about the comparison.
    """

    version: str
    validation_mae: float | None
    problem: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that the gates may look at.

    Parameters
    ----------
    metrics : mapping
        `train_mae`, `validation_mae`, ... of the candidate, in the label's unit.
    baselines : mapping
        Name of a naive baseline -> its mean absolute error on the validation rows.
    champion : ChampionEvidence or None
        None if the model has no champion.
    onnx_difference : float
        Largest difference between the estimator and its ONNX form, over the validation rows.
    unit : str
        Of the label.
    """

    metrics: Mapping[str, float]
    baselines: Mapping[str, float]
    champion: ChampionEvidence | None
    onnx_difference: float
    unit: str = "minutes"


def decide(evidence: Evidence, specs: Iterable[GateSpec]) -> list[GateResult]:
    """One result per gate, in order. A gate whose quantity is missing or not finite fails."""
    return [_closed(GATES[spec.name](evidence, spec.threshold)) for spec in specs]


def validation_mae(evidence: Evidence, threshold: float) -> GateResult:
    """Mean absolute error on the validation rows, at most the threshold, in the label's unit."""
    error = evidence.metrics.get("validation_mae", math.nan)
    passed = error <= threshold
    reason = (
        f"the mean absolute error on validation rows is {error:.2f} {evidence.unit}, "
        f"{'at most' if passed else 'above'} {threshold:g}"
    )
    return GateResult("validation_mae", error, threshold, passed, reason)


def train_validation_gap(evidence: Evidence, threshold: float) -> GateResult:
    """Distance between the train and the validation error, at most the threshold, in the label's unit.

    Either sign: a validation error far below the training error means a leak, or another kind of rows.
    """
    train = evidence.metrics.get("train_mae", math.nan)
    validation = evidence.metrics.get("validation_mae", math.nan)
    gap = abs(validation - train)
    meaning = "overfitting, or a world that has changed" if validation > train else "a leak, or easier rows"
    reason = f"train {train:.2f}, validation {validation:.2f} {evidence.unit}: {gap:.2f} apart"
    passed = gap <= threshold
    return GateResult(
        "train_validation_gap", gap, threshold, passed, reason if passed else f"{reason}, which means {meaning}"
    )


def beats_baseline(evidence: Evidence, threshold: float) -> GateResult:
    """Validation error divided by the best naive baseline's, below the threshold (1 = as good as the baseline)."""
    error = evidence.metrics.get("validation_mae", math.nan)
    if not evidence.baselines:
        return GateResult("beats_baseline", None, threshold, False, "no baseline was measured")
    name, baseline = min(evidence.baselines.items(), key=lambda item: item[1])
    ratio = error / baseline if baseline > 0 else math.inf
    passed = ratio < threshold
    reason = (
        f"validation error {error:.2f} against {baseline:.2f} {evidence.unit} of the best naive baseline ({name}): "
        f"{'better' if passed else 'not better'}"
    )
    return GateResult("beats_baseline", ratio, threshold, passed, reason)


def no_worse_than_champion(evidence: Evidence, threshold: float) -> GateResult:
    """Validation error minus the champion's on the same rows, at most the threshold, in the label's unit."""
    name, champion = "no_worse_than_champion", evidence.champion
    if champion is None:
        return GateResult(name, None, threshold, True, "no champion yet")
    if champion.validation_mae is None:
        reason = f"champion version {champion.version} could not be compared: {champion.problem}"
        return GateResult(name, None, threshold, False, reason)
    error = evidence.metrics.get("validation_mae", math.nan)
    difference = error - champion.validation_mae
    passed = difference <= threshold
    reason = (
        f"on the same rows: candidate {error:.2f}, champion version {champion.version} {champion.validation_mae:.2f} "
        f"{evidence.unit}: {'no worse' if passed else 'worse'}{champion.note and f'; {champion.note}'}"
    )
    return GateResult(name, difference, threshold, passed, reason)


def onnx_matches(evidence: Evidence, threshold: float) -> GateResult:
    """Largest difference between the estimator and its ONNX form, at most the threshold, in the label's unit."""
    difference = evidence.onnx_difference
    passed = difference <= threshold
    reason = (
        f"estimator and ONNX differ by at most {difference:.1e} {evidence.unit}"
        f"{'' if passed else ': serving would answer something else than what was evaluated'}"
    )
    return GateResult("onnx_matches", difference, threshold, passed, reason)


GATES: dict[str, Callable[[Evidence, float], GateResult]] = {
    gate.__name__: gate
    for gate in (validation_mae, train_validation_gap, beats_baseline, no_worse_than_champion, onnx_matches)
}


def _closed(result: GateResult) -> GateResult:
    if result.observed is None or math.isfinite(result.observed):
        return result
    reason = f"not measurable (observed {result.observed}), so not passed: {result.reason}"
    return GateResult(result.name, None, result.threshold, False, reason)

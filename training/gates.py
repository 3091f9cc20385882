"""The conditions between a candidate and the registry. Each yields a record, whatever it says."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import NormalDist
from typing import Any

from training.comparison import PairedDifference
from training.evidence import Evidence, GateResult
from training.spec import GateSpec

NOMINAL_COVERAGE = 0.80
"""Of the interval between the 10th and the 90th percentile."""
BY_CHANCE = 0.05
"""How often the worst of all parts of an interval lies beyond noise although every part holds what it promises."""
FORGIVEN = 1.05
"""A model that has seen the newest rows is no worse on them than one that has not: at most by so much, by chance."""


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


def validation_roc_auc(evidence: Evidence, threshold: float) -> GateResult:
    """Area under the ROC curve on the validation rows, at least the threshold (0.5 = no better than a coin)."""
    area = evidence.metrics.get("validation_roc_auc", math.nan)
    passed = area >= threshold
    reason = (
        f"of two validation rows, one positive, the model ranks them rightly with probability {area:.3f}, "
        f"{'at least' if passed else 'below'} {threshold:g}"
    )
    return GateResult("validation_roc_auc", area, threshold, passed, reason)


def calibration_error(evidence: Evidence, threshold: float) -> GateResult:
    """Expected calibration error on the validation rows, at most the threshold (a difference of probabilities)."""
    error = evidence.metrics.get("validation_ece", math.nan)
    passed = error <= threshold
    reason = (
        f"predicted probabilities and observed shares are {error:.3f} apart on validation rows, "
        f"{'at most' if passed else 'above'} {threshold:g}"
    )
    return GateResult("calibration_error", error, threshold, passed, reason)


def train_validation_gap(evidence: Evidence, threshold: float) -> GateResult:
    """Distance between the train and the validation error, at most the threshold, in the primary metric's unit.

    Either sign: a validation error far below the training error means a leak, or another kind of rows.
    """
    train, validation = evidence.error("train"), evidence.error("validation")
    gap = abs(validation - train)
    meaning = "overfitting, or a world that has changed" if validation > train else "a leak, or easier rows"
    reason = f"train {train:.2f}, validation {validation:.2f} {evidence.unit}: {gap:.2f} apart"
    passed = gap <= threshold
    return GateResult(
        "train_validation_gap", gap, threshold, passed, reason if passed else f"{reason}, which means {meaning}"
    )


def beats_baseline(evidence: Evidence, threshold: float) -> GateResult:
    """Validation error divided by the best naive baseline's, below the threshold (1 = as good as the baseline)."""
    error = evidence.error("validation")
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
    """Upper end of the 95 % interval of the error minus the champion's, at most the threshold, in the metric's unit.

    So a candidate passes if it is shown to lose no more than the threshold, and not merely because too few rows show
    that it does.
    """
    name, champion = "no_worse_than_champion", evidence.champion
    if champion is None:
        return GateResult(name, None, threshold, True, "no champion yet")
    difference = champion.difference
    if difference is None:
        reason = f"champion version {champion.version} could not be compared: {champion.problem}"
        return GateResult(name, None, threshold, False, reason)
    passed = difference.high <= threshold
    rows = f"on the same {difference.rows} test rows ({difference.blocks} blocks of one {difference.block}"
    rows += (
        f", {champion.left_out} more left out, the champion was trained on their time)" if champion.left_out else ")"
    )
    reason = (
        f"{rows}: candidate {champion.candidate_error:.3f}, champion version {champion.version} "
        f"{champion.champion_error:.3f} {evidence.unit}, difference {difference.mean:+.3f} "
        f"[{difference.low:+.3f}, {difference.high:+.3f}]: {_compared(difference, threshold)}"
        f"{champion.note and f'; {champion.note}'}"
    )
    return GateResult(name, difference.high, threshold, passed, reason)


def slices(evidence: Evidence, threshold: float) -> GateResult:
    """Largest error of a slice, less two standard errors, over the slice's own maximum, at most the threshold.

    1 = the spec's maxima. So a slice of few rows fails only if it is shown to be too bad.
    """
    limited = [row for row in evidence.slices if row.get("maximum") is not None]
    judged = {
        row["slice"]: max(0.0, row[evidence.primary] - 2 * row["standard_error"]) / row["maximum"]
        for row in limited
        if row[evidence.primary] is not None
    }
    unjudged = [f"{row['slice']} ({row['note']})" for row in limited if row["slice"] not in judged]
    aside = f"; not judged: {', '.join(unjudged)}" if unjudged else ""
    if not judged:
        return GateResult("slices", None, threshold, True, f"no slice to judge{aside}")
    bad = {name: ratio for name, ratio in judged.items() if not ratio <= threshold}
    worst = max(judged, key=lambda name: judged[name])
    told = _slice_texts(limited, sorted(bad, key=lambda name: -bad[name]) or [worst], threshold, evidence)
    head = "too large an error on" if bad else f"all {len(judged)} within their bounds, nearest is"
    return GateResult("slices", judged[worst], threshold, not bad, f"{head} {', '.join(told)}{aside}")


def fairness(evidence: Evidence, threshold: float) -> GateResult:
    """Largest gap between the errors of two groups of a kind, beyond noise, over the error of all, at most that share.

    Noise is two standard errors of the gap.
    """
    kinds: dict[str, list[Mapping[str, Any]]] = {}
    for row in evidence.groups:
        if row[evidence.primary] is not None:
            kinds.setdefault(row["kind"], []).append(row)
    small = [f"{row['slice']} ({row['note']})" for row in evidence.groups if row[evidence.primary] is None]
    aside = f"; left out: {', '.join(small)}" if small else ""
    gaps = [_gap(rows, evidence.primary) for rows in kinds.values() if len(rows) > 1]
    if not gaps:
        return GateResult("fairness", None, threshold, True, f"no two groups to compare{aside}")
    beyond, worst, best = max(gaps, key=lambda gap: gap[0])
    observed = beyond / evidence.error("validation")
    passed = observed <= threshold
    reason = (
        f"{worst['slice']} {worst[evidence.primary]:.2f}, {best['slice']} {best[evidence.primary]:.2f} "
        f"{evidence.unit}: beyond noise {observed:.0%} of the error of all apart, "
        f"{'at most' if passed else 'more than'} {threshold:.0%}{aside}"
    )
    return GateResult("fairness", observed, threshold, passed, reason)


def interval_coverage(evidence: Evidence, threshold: float) -> GateResult:
    """Distance of the interval's coverage of the test rows from 80 %, beyond noise, at most the threshold.

    Noise is two standard errors: of the coverage of so many test rows by offsets from so many validation rows.
    """
    name, interval = "interval_coverage", evidence.interval
    if interval is None:
        return GateResult(name, None, threshold, False, "the model has no prediction interval")
    coverage, rows = interval["test_coverage"], interval["rows"]
    spread = NOMINAL_COVERAGE * (1 - NOMINAL_COVERAGE)
    noise = 2 * math.sqrt(spread / rows["test"] + spread / rows["validation"])
    beyond = max(0.0, abs(coverage - NOMINAL_COVERAGE) - noise)
    passed = beyond <= threshold
    reason = (
        f"the 80 % interval holds {coverage:.1%} of {rows['test']} test rows, {'within' if passed else 'outside of'} "
        f"{NOMINAL_COVERAGE - threshold:.0%} to {NOMINAL_COVERAGE + threshold:.0%}, give or take {noise:.1%} of noise"
    )
    return GateResult(name, beyond, threshold, passed, reason)


DEGRADED_ALLOWANCE = 3.0
"""What a store that is down costs follows from how the newest orders differ from earlier ones."""


def interval_parts(evidence: Evidence, threshold: float) -> GateResult:
    """Distance from 80 % of the interval's coverage of its worst part, beyond noise, at most the threshold.

    Parts are tenths of the prediction, slices, and the test rows without each view. Noise is what the worst of so many
    parts reaches by chance in one case of twenty, by the number of its rows and of those that its offsets were made of.
    Rows that a view was taken away from are answered as degraded, and may be `DEGRADED_ALLOWANCE` times as far off.
    """
    name, interval = "interval_parts", evidence.interval
    if interval is None:
        return GateResult(name, None, threshold, False, "the model has no prediction interval")
    judged = [part for part in interval["parts"] if part["coverage"] is not None]
    if not judged:
        return GateResult(name, None, threshold, False, "no part of the test rows is large enough to be judged")
    errors = NormalDist().inv_cdf(1 - BY_CHANCE / 2 / len(judged))
    spread = NOMINAL_COVERAGE * (1 - NOMINAL_COVERAGE)

    def noise(part: Mapping[str, Any]) -> float:
        return float(errors * math.sqrt(spread / part["rows"] + spread / part["offsets_from"]))

    def is_degraded(part: Mapping[str, Any]) -> bool:
        return bool(part["kind"] == "absent")

    def beyond(part: Mapping[str, Any]) -> float:
        distance = max(0.0, abs(float(part["coverage"]) - NOMINAL_COVERAGE) - noise(part))
        return distance / DEGRADED_ALLOWANCE if is_degraded(part) else distance

    bad = sorted((part for part in judged if not beyond(part) <= threshold), key=beyond, reverse=True)
    worst = max(judged, key=lambda part: (beyond(part), abs(part["coverage"] - NOMINAL_COVERAGE)))
    told = ", ".join(
        f"{part['coverage']:.1%} of {part['rows']} rows, {part['part']} (noise {noise(part):.1%})"
        for part in bad or [worst]
    )
    span = _around_nominal(threshold)
    if any(map(is_degraded, bad or judged)):
        span += f" (without a view {_around_nominal(DEGRADED_ALLOWANCE * threshold)})"
    head = f"not within {span}: the interval holds" if bad else f"all {len(judged)} parts within {span}, the worst is"
    return GateResult(name, beyond(worst), threshold, not bad, f"{head} {told}")


def _around_nominal(distance: float) -> str:
    return f"{NOMINAL_COVERAGE - distance:.0%} to {NOMINAL_COVERAGE + distance:.0%}"


def refit_agrees(evidence: Evidence, threshold: float) -> GateResult:
    """Distance of the models fitted on all rows from the judged ones, at most that share of the judged ones' error.

    On the newest rows. The former may not be worse there either, since they have seen them.
    """
    name, refit = "refit_agrees", evidence.refit
    if refit is None:
        return GateResult(name, None, threshold, False, "nothing was fitted again on all rows: train again")
    share = refit["apart"] / refit["distance"] if refit["distance"] > 0 else math.inf
    near, no_worse = share <= threshold, refit["final_error"] <= FORGIVEN * refit["judged_error"]
    told = (
        f"fitted again on all rows, the {refit['column']} is {refit['apart']:.3g} apart on the {refit['rows']} newest "
        f"ones, {share:.0%} of the judged model's distance from what happened ({'at most' if near else 'more than'} "
        f"{threshold:.0%}); error there {refit['final_error']:.3f}, judged {refit['judged_error']:.3f} {evidence.unit}"
    )
    worse = "" if no_worse else ": worse on rows that it has seen, so it learnt something else"
    return GateResult(name, share, threshold, near and no_worse, told + worse)


def model_bytes(evidence: Evidence, threshold: float) -> GateResult:
    """Bytes of the larger ONNX form, at most the threshold: serving holds it in each of its processes."""
    observed = math.nan if evidence.model_bytes is None else float(evidence.model_bytes)
    passed = observed <= threshold
    reason = f"the model has {observed:,.0f} bytes, {'at most' if passed else 'more than'} {threshold:,.0f}"
    return GateResult("model_bytes", observed, threshold, passed, reason)


def row_microseconds(evidence: Evidence, threshold: float) -> GateResult:
    """Median time of a single-row ONNX prediction, at most the threshold, in microseconds."""
    observed = math.nan if evidence.row_microseconds is None else evidence.row_microseconds
    passed = observed <= threshold
    reason = f"one row takes {observed:,.0f} µs (median), {'at most' if passed else 'more than'} {threshold:,.0f}"
    return GateResult("row_microseconds", observed, threshold, passed, reason)


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
    for gate in (
        validation_mae,
        validation_roc_auc,
        calibration_error,
        train_validation_gap,
        beats_baseline,
        no_worse_than_champion,
        slices,
        fairness,
        interval_coverage,
        interval_parts,
        refit_agrees,
        model_bytes,
        row_microseconds,
        onnx_matches,
    )
}


def _compared(difference: PairedDifference, threshold: float) -> str:
    if difference.high <= threshold:
        return "better" if difference.high < 0 else "no worse"
    return "worse" if difference.low > 0 else f"not shown to lose at most {threshold:g}"


def _gap(rows: Sequence[Mapping[str, Any]], primary: str) -> tuple[float, Mapping[str, Any], Mapping[str, Any]]:
    worst, best = max(rows, key=lambda row: row[primary]), min(rows, key=lambda row: row[primary])
    noise = 2 * math.hypot(worst["standard_error"], best["standard_error"])
    return max(0.0, worst[primary] - best[primary] - noise), worst, best


def _slice_texts(
    rows: Sequence[Mapping[str, Any]], names: Sequence[str], threshold: float, evidence: Evidence
) -> list[str]:
    found = {row["slice"]: row for row in rows}
    return [
        f"{name} ({found[name][evidence.primary]:.2f} {evidence.unit}, at most "
        f"{found[name]['maximum'] * threshold:.2f} beyond {2 * found[name]['standard_error']:.2f} of noise, "
        f"{found[name]['rows']} rows)"
        for name in names
    ]


def _closed(result: GateResult) -> GateResult:
    if result.observed is None or math.isfinite(result.observed):
        return result
    reason = f"not measurable (observed {result.observed}), so not passed: {result.reason}"
    return GateResult(result.name, None, result.threshold, False, reason)

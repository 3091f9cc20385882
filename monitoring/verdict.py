"""What the numbers of a window mean: nothing to do, tell people, or train again. Pure functions of numbers.

A violation must persist before anything is retrained: the newest window and at least `required` of the last `of_last`
must violate, counted since the last retraining was asked for. A fault (features that have vanished, a store that
does not answer) is told to people and never retrained upon: a model would learn the fault.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from feature_repo.window import Window
from monitoring.drift import DRIFTED_SHARE
from monitoring.performance import NOMINAL_COVERAGE

Action = Literal["none", "alert", "retrain"]


@dataclass(frozen=True)
class Thresholds:
    """From where on a number is too bad.

    Attributes
    ----------
    minimum_predictions, minimum_outcomes : int
        Below them there is no judgement, and that is an alert.
    error_ratio : float
        Error of the window over the champion's own on its test rows.
    drifted_share : float
        Share of the judged inputs that have drifted.
    coverage_error : float
        Distance of the P10-P90 coverage from its nominal value.
    degraded_share : float
        Share of predictions made without all features because the store did not answer.
    required, of_last : int
        The persistence rule; the newest window is one of `of_last`.
    """

    minimum_predictions: int = 100
    minimum_outcomes: int = 50
    error_ratio: float = 1.25
    drifted_share: float = DRIFTED_SHARE
    coverage_error: float = 0.15
    degraded_share: float = 0.05
    required: int = 2
    of_last: int = 3


@dataclass(frozen=True)
class Findings:
    """What is wrong in one window, in words, by what can be done about it.

    Attributes
    ----------
    violations : list of str
        The model no longer fits the world: training again may help.
    faults : list of str
        Something around the model is broken or unsure: people must look.
    gaps : list of str
        What could not be judged, and why.
    """

    violations: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    gaps: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Verdict:
    """The action, with its reasons in words."""

    action: Action
    reasons: list[str]
    window: str
    window_start: str
    window_end: str
    violated: bool
    findings: Findings

    def to_dict(self) -> dict[str, Any]:
        """As JSON-able values."""
        return asdict(self)


def find(performance: Mapping[str, Any], drift: Mapping[str, Any], thresholds: Thresholds) -> Findings:
    """What is wrong in one window.

    Parameters
    ----------
    performance : mapping
        Result of `monitoring.performance.measure`, with `model` (None: no champion) and `test_mae` (minutes or None).
    drift : mapping
        Result of `monitoring.drift.summary`, with `rows`.
    thresholds : Thresholds
    """
    findings = Findings()
    if performance["model"] is None:
        findings.gaps.append(
            "no champion is registered, so there is nothing to compare with: run the training pipeline"
        )
        return findings
    _judge_errors(performance, thresholds, findings)
    _judge_drift(drift, thresholds, findings)
    degraded = performance["degraded_share"]
    if degraded is not None and degraded > thresholds.degraded_share:
        findings.faults.append(
            f"{degraded:.0%} of the predictions were degraded (at most {thresholds.degraded_share:.0%}): "
            "look at Redis and at the freshness of the features"
        )
    return findings


def decide(findings: Findings, history: Sequence[Mapping[str, Any]], window: Window, thresholds: Thresholds) -> Verdict:
    """The action for one window.

    Parameters
    ----------
    findings : Findings
    history : sequence of mappings
        Earlier verdicts (`to_dict`), oldest first.
    window : Window
    thresholds : Thresholds
    """
    action, last = _action(findings, history, thresholds)
    reasons = [*findings.faults, *findings.violations, *findings.gaps]
    if last:
        reasons.append(last)
    return Verdict(
        action=action,
        reasons=reasons or ["all checks passed"],
        window=str(window),
        window_start=window.start.isoformat(),
        window_end=window.end.isoformat(),
        violated=bool(findings.violations),
        findings=findings,
    )


def _action(
    findings: Findings, history: Sequence[Mapping[str, Any]], thresholds: Thresholds
) -> tuple[Action, str | None]:
    if not findings.violations:
        return ("alert" if findings.faults or findings.gaps else "none"), None
    count = 1 + sum(bool(earlier["violated"]) for earlier in _since_retraining(history, thresholds.of_last - 1))
    if count < thresholds.required:
        return "alert", (
            f"{count} of the last {thresholds.of_last} windows violate; "
            f"from {thresholds.required} on, training is started"
        )
    if findings.faults:
        return "alert", "not retrained in spite of it: a fault must be repaired first, or the model would learn it"
    return "retrain", f"{count} of the last {thresholds.of_last} windows violate, this one included"


def _since_retraining(history: Sequence[Mapping[str, Any]], limit: int) -> Sequence[Mapping[str, Any]]:
    """The last `limit` verdicts, without those up to the last one that asked for training: it was their answer."""
    recent = list(history)[-limit:] if limit else []
    asked = [index for index, earlier in enumerate(recent) if earlier["action"] == "retrain"]
    return recent[asked[-1] + 1 :] if asked else recent


def _judge_errors(performance: Mapping[str, Any], thresholds: Thresholds, findings: Findings) -> None:
    outcomes, mae = performance["outcomes"], performance["mae"]
    if outcomes < thresholds.minimum_outcomes or mae is None:
        findings.gaps.append(
            f"not enough data: {outcomes} predictions with an outcome (at least {thresholds.minimum_outcomes} needed "
            "to judge the error)"
        )
        return
    baseline, expected = performance["baseline_mae"], performance["test_mae"]
    if baseline is not None and mae >= baseline:
        findings.violations.append(f"error {mae:.2f} min is not below the naive baseline's {baseline:.2f} min")
    if expected is None:
        findings.gaps.append("the champion's bundle states no test error to compare with")
    elif mae > thresholds.error_ratio * expected:
        findings.violations.append(
            f"error {mae:.2f} min is more than {thresholds.error_ratio:.2f} times the {expected:.2f} min of its test"
        )
    coverage = performance["coverage"]
    if coverage is not None and abs(coverage - NOMINAL_COVERAGE) > thresholds.coverage_error:
        findings.faults.append(
            f"{coverage:.0%} of the outcomes lie in the predicted P10-P90 range, which promises {NOMINAL_COVERAGE:.0%}"
        )


def _judge_drift(drift: Mapping[str, Any], thresholds: Thresholds, findings: Findings) -> None:
    if drift["rows"] < thresholds.minimum_predictions or drift["drifted_share"] is None:
        findings.gaps.append(
            f"not enough data: {drift['rows']} predictions (at least {thresholds.minimum_predictions} needed "
            "to judge drift)"
        )
        return
    if drift["empty"]:
        findings.faults.append(f"inputs without any value, which had some in training: {', '.join(drift['empty'])}")
    if drift["drifted_share"] > thresholds.drifted_share:
        findings.violations.append(
            f"{len(drift['drifted'])} of {drift['judged']} inputs have drifted "
            f"(at most {thresholds.drifted_share:.0%}): {', '.join(drift['drifted'])}"
        )
    if drift["prediction_drifted"]:
        findings.violations.append("the distribution of the predictions has drifted from that in training")

"""What the gates look at, and what they say."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from training.comparison import PairedDifference


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
    """How the candidate did beside the present champion, on test rows that neither was trained on.

    Parameters
    ----------
    version : str
    difference : PairedDifference or None
        Loss of the candidate minus loss of the champion. None if they could not be compared.
    candidate_error, champion_error : float or None
        Their primary metric on these rows.
    left_out : int
        Test rows that do not count because the champion was trained on orders of that time.
    problem : str
        Why they could not be compared, and what to do.
    note : str
        What a reader should know about the comparison.
    """

    version: str
    difference: PairedDifference | None
    candidate_error: float | None = None
    champion_error: float | None = None
    left_out: int = 0
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
        Name of a naive baseline -> its primary metric on the validation rows.
    champion : ChampionEvidence or None
        None if the model has no champion.
    onnx_difference : float
        Largest difference between the estimator and its ONNX form, over the validation rows.
    unit : str
        Of the primary metric.
    primary : str
        The primary metric's name.
    slices, groups : sequence of mappings
        `slice`, `rows`, the primary metric by its name, `maximum`, `note`: see `training.evaluate`.
    interval : mapping or None
        `test_coverage` and `parts` of the prediction interval (see `training.coverage.interval`), `rows` of each part
        of the split; None if the model has no interval.
    refit : mapping or None
        How the version to register, fitted again on all rows, answers beside the judged one: see
        `training.agreement.agreement`. None if nothing was fitted again.
    model_bytes : int or None
        Size of the larger ONNX form of the two.
    row_microseconds : float or None
        Median time of a single-row prediction.
    """

    metrics: Mapping[str, float]
    baselines: Mapping[str, float]
    champion: ChampionEvidence | None
    onnx_difference: float
    unit: str = "minutes"
    primary: str = "mae"
    slices: Sequence[Mapping[str, Any]] = ()
    groups: Sequence[Mapping[str, Any]] = ()
    interval: Mapping[str, Any] | None = None
    refit: Mapping[str, Any] | None = None
    model_bytes: int | None = None
    row_microseconds: float | None = None

    def error(self, part: str) -> float:
        """The candidate's primary metric on a part, NaN if it was not measured."""
        return self.metrics.get(f"{part}_{self.primary}", math.nan)

"""What a training would have answered: all its steps on the rows that were known at an instant, asked of later rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    from training.dataset import Dataset
    from training.spec import ModelSpec

TENTHS = 10


@dataclass(frozen=True, slots=True)
class Procedure:
    """A way to train.

    Parameters
    ----------
    again : bool
        Whether what answers is fitted again on all known rows, or is what was fitted on the oldest 70 % of them.
    percentiles : bool
        Whether the interval is made of predicted percentiles, or has one width for all.
    """

    again: bool = True
    percentiles: bool = True

    def ask(self, known: pl.DataFrame, later: pl.DataFrame, dataset: Dataset, spec: ModelSpec) -> Answers:
        """Train on `known` as the pipeline does, and predict `later`, the driver unknown.

        Notes
        -----
        Without fitting again, offsets come from the validation rows, as the test rows then judge the whole; with it,
        from the newest rows that the judged models have not seen.
        """
        import numpy as np

        from training.availability import Availability
        from training.bundle import newest_held_out
        from training.intervals import calibrate
        from training.split import split_by_time
        from training.train import fit, fit_again, hidden_views, hide, labels, matrix

        class Known(type(dataset)):  # type: ignore[misc]
            def rows(self) -> pl.DataFrame:
                return known

        at_hand = Known(dataset.directory, dataset.description)
        spec = spec if self.percentiles else replace(spec, interval=None)
        split = split_by_time(known, spec)
        judged = fit(split, at_hand, spec, lambda _: None)
        answering = fit_again(judged, at_hand, spec) if self.again else judged
        held_out = newest_held_out(split) if self.again else split.validation
        availability = Availability.of(dataset)
        calibration = calibrate(
            lambda inputs: judged.answers(inputs, spec),
            matrix(held_out, dataset.inputs),
            labels(held_out, spec),
            availability,
            hidden=hidden_views(spec),
        )
        inputs = hide(matrix(later, dataset.inputs), dataset, spec, 1.0)
        ranges = answering.answers(inputs, spec)
        bounds = calibration.bounds(ranges, availability.absent(inputs))
        return Answers(labels(later, spec), ranges[:, 0], np.asarray(bounds))


@dataclass(frozen=True, slots=True)
class Answers:
    """Outcomes, predictions and intervals of rows: shapes (n,), (n,), (n, 2), in minutes."""

    actual: np.ndarray
    predicted: np.ndarray
    bounds: np.ndarray


def told(answers: Sequence[Answers]) -> Mapping[str, Any]:
    """Error and coverage, pooled; the least and the largest coverage of a tenth of the rows by prediction."""
    import numpy as np

    actual, predicted = (np.concatenate([getattr(one, name) for one in answers]) for name in ("actual", "predicted"))
    bounds = np.vstack([one.bounds for one in answers])
    inside = (actual >= bounds[:, 0]) & (actual <= bounds[:, 1])
    tenths = [inside[rows].mean() for rows in np.array_split(np.argsort(predicted, kind="stable"), TENTHS)]
    return {
        "MAE, min": f"{abs(actual - predicted).mean():.3f}",
        "bias, min": f"{(predicted - actual).mean():+.2f}",
        "in the 80 % interval": f"{inside.mean():.1%}",
        "least of a tenth": f"{min(tenths):.1%}",
        "most of a tenth": f"{max(tenths):.1%}",
        "after P90": f"{(actual > bounds[:, 1]).mean():.1%}",
        "mean width, min": f"{(bounds[:, 1] - bounds[:, 0]).mean():.2f}",
        "rows": len(actual),
    }

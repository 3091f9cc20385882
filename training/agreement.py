"""Whether the version that was fitted again on everything is the one that was judged, with more rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from training.dataset import Dataset
from training.export import OnnxModel
from training.spec import ModelSpec
from training.split import Split
from training.train import hide, labels, matrix

COLUMNS = ("prediction", "10th percentile", "90th percentile")


def agreement(judged: OnnxModel, final: OnnxModel, split: Split, dataset: Dataset, spec: ModelSpec) -> dict[str, Any]:
    """Both models on the newest rows, the test rows: the judged one has not seen them, the final one has.

    Returns
    -------
    dict
        `rows`; `apart` (mean distance of their answers in the label's unit, for the `column` where it is largest);
        `distance` (mean distance of the judged prediction from the label); `judged_error`, `final_error` (the primary
        metric).
    """
    inputs, actual = hide(matrix(split.test, dataset.inputs), dataset, spec, 1.0), labels(split.test, spec)
    before, after = judged.ranges(inputs), final.ranges(inputs)
    apart = np.abs(after - before).mean(axis=0)
    worst = int(np.argmax(np.where(np.isnan(apart), np.inf, apart)))
    return {
        "rows": len(actual),
        "apart": float(apart[worst]),
        "column": COLUMNS[worst],
        "distance": float(np.abs(before[:, 0] - actual).mean()),
        "judged_error": float(spec.task.losses(before[:, 0], actual).mean()),
        "final_error": float(spec.task.losses(after[:, 0], actual).mean()),
    }

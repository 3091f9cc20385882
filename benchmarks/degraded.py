"""How wrong answers are while stored features are away: given as missing, or as the medians of training.

On the test rows of a `make run`, which the model has not seen, with its own bundle; the driver is unknown, as it is for
most orders when they are placed. make bench NAME=degraded
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.harness import compare

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

VIEWS = ("restaurant_stats", "customer_stats", "zone_stats", "zone_live")
RATIO, OF_VIEW = "request_features__order_value_to_restaurant_mean", "restaurant_stats"
"""Computed from a stored value; not known without it."""


def prepare(away: Sequence[str]) -> Mapping[str, Any]:
    """The newest training set of the data directory and the bundle that was made of it."""
    from config import get_settings

    found = sorted(
        get_settings().datasets.glob("*/candidates/*/serving/bundle.json"), key=lambda path: path.stat().st_mtime
    )
    for path in reversed(found):
        if json.loads(path.read_text())["model"] == "delivery_time":
            return {"bundle": path.parent}
    raise SystemExit("there is no trained delivery_time: make run")


def missing(away: Sequence[str], bundle: Path) -> Mapping[str, Any]:
    """What is away is given as missing, as serving does with what is stale."""
    import numpy as np

    return _told(away, bundle, lambda inputs, medians: np.full_like(medians, np.nan))


def medians(away: Sequence[str], bundle: Path) -> Mapping[str, Any]:
    """What is away is given as the median of the training rows, as serving does while the store is down."""
    return _told(away, bundle, lambda inputs, medians: medians)


def training_mean(away: Sequence[str], bundle: Path) -> Mapping[str, Any]:
    """One answer for everybody: the mean of the training rows."""
    import numpy as np

    from training.models import get_spec
    from training.train import labels

    spec = get_spec("delivery_time")
    _, split = _data(bundle)
    mean = labels(split.train, spec).mean()
    return _errors(np.full(split.test.height, mean), labels(split.test, spec))


def _told(away: Sequence[str], directory: Path, instead: Any) -> Mapping[str, Any]:
    import numpy as np

    from serving.bundle import Bundle
    from training.models import get_spec
    from training.train import hide, labels, matrix

    spec = get_spec("delivery_time")
    dataset, split = _data(directory)
    bundle = Bundle.load(directory)
    names = list(bundle.input_names)
    inputs = np.array(hide(matrix(split.test, names), dataset, spec, 1.0), dtype=np.float64)
    typical = np.array([np.nan if each.median is None else each.median for each in bundle.document.inputs])
    columns = [
        index for index, each in enumerate(bundle.document.inputs) if each.view in away and each.source == "view"
    ]
    inputs[:, columns] = instead(inputs, typical)[columns]
    if RATIO in names and OF_VIEW in away:
        inputs[:, names.index(RATIO)] = np.nan
    return _errors(bundle.estimate(inputs.astype(np.float32)).minutes, labels(split.test, spec))


def _data(bundle: Path) -> Any:
    from training.dataset import load_dataset
    from training.models import get_spec
    from training.split import split_by_time

    dataset = load_dataset(bundle.parents[2])
    return dataset, split_by_time(dataset.rows(), get_spec("delivery_time"))


def _errors(predicted: Sequence[float] | NDArray[np.float64], happened: NDArray[np.float64]) -> Mapping[str, Any]:
    import numpy as np

    residuals = np.subtract(predicted, happened)
    return {
        "rows": len(residuals),
        "mean absolute error, min": round(float(np.abs(residuals).mean()), 3),
        "bias, min": round(float(residuals.mean()), 3),
    }


for _contender in (missing, medians, training_mean):
    _contender.prepare = prepare  # type: ignore[attr-defined]


if __name__ == "__main__":
    compare(
        "degraded",
        {"missing": missing, "medians": medians, "training mean": training_mean},
        {
            "everything there": {"away": ()},
            "store away": {"away": VIEWS},
            **{f"{view} away": {"away": (view,)} for view in VIEWS},
        },
        anchor="missing",
        packages=["scikit-learn", "onnxruntime", "numpy"],
        runs=1,
        leave_out=[(name, size) for name in ("medians",) for size in ("everything there",)],
        ratios_of=["mean absolute error, min"],
    )

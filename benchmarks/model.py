"""The model alone, without HTTP or store: ONNX as serving runs it, scikit-learn's `predict`, MLflow's `pyfunc.predict`.

The same gradient boosting of 300 trees on the same rows. make bench NAME=model
"""

from __future__ import annotations

import pickle
import shutil
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import _serving
from benchmarks.harness import compare

PLACE = _serving.PLACE / "model-alone"
WARM_UP = 20
Predict = Callable[[], Any]


def predict(rows: int, repeats: int, predict: Predict, expected: NDArray[np.float64]) -> Mapping[str, Any]:
    """Predict the same rows again and again; what it takes is told by percentiles."""
    seconds = []
    for _ in range(repeats):
        begun = time.perf_counter()
        predict()
        seconds.append(time.perf_counter() - begun)
    difference = float(np.abs(np.asarray(predict(), dtype=np.float64).ravel() - expected).max())
    # Trees compared in float32 end in the same leaves; only the sums of their values differ.
    same = "yes" if difference < 1e-3 else "no"
    return {"calls": repeats, **_serving.percentiles(seconds), "within 0.001 min of scikit-learn": same}


def onnx(rows: NDArray[np.float32]) -> Predict:
    """`Bundle.predict`, which takes a matrix."""
    from serving.bundle import Bundle

    bundle = Bundle.load(PLACE)
    return lambda: bundle.predict(rows)


def sklearn(rows: NDArray[np.float32]) -> Predict:
    """The fitted estimator, which takes a matrix."""
    estimator = _estimator()
    return lambda: estimator.predict(rows)


def pyfunc(rows: NDArray[np.float32]) -> Predict:
    """The same estimator through MLflow's own loader, which takes a data frame with the names of its signature."""
    import mlflow
    import pandas as pd

    model = mlflow.pyfunc.load_model(str(PLACE / "mlflow"))
    frame = pd.DataFrame(rows, columns=[f"input_{number}" for number in range(rows.shape[1])])
    return lambda: model.predict(frame)


class _Contender:
    def __init__(self, make: Callable[[NDArray[np.float32]], Predict]) -> None:
        self.make = make

    def prepare(self, rows: int, repeats: int) -> Mapping[str, Any]:
        """The rows, the model and a warm-up."""
        matrix = np.random.default_rng(11).uniform(0, 40, (rows, len(_serving.INPUTS))).astype(np.float32)
        ready = self.make(matrix)
        for _ in range(WARM_UP):
            ready()
        return {"predict": ready, "expected": _estimator().predict(matrix)}

    def __call__(self, **arguments: Any) -> Mapping[str, Any]:
        return predict(**arguments)


def _estimator() -> Any:
    return pickle.loads((PLACE / "estimator.pickle").read_bytes())


def write_models() -> None:
    """The same estimator in the three forms."""
    import mlflow
    import pandas as pd
    from mlflow.models import infer_signature

    shutil.rmtree(PLACE, ignore_errors=True)
    estimator = _serving.write_model(PLACE)
    (PLACE / "estimator.pickle").write_bytes(pickle.dumps(estimator))
    names = [f"input_{number}" for number in range(len(_serving.INPUTS))]
    example = pd.DataFrame(np.zeros((1, len(names)), dtype=np.float32), columns=names)
    trusted = ["sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor"]
    signature = infer_signature(example, estimator.predict(example.to_numpy()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mlflow.sklearn.save_model(
            estimator, str(PLACE / "mlflow"), signature=signature, skops_trusted_types=trusted, pip_requirements=[]
        )


if __name__ == "__main__":
    write_models()
    compare(
        "model",
        {"ONNX": _Contender(onnx), "scikit-learn": _Contender(sklearn), "MLflow pyfunc": _Contender(pyfunc)},
        {"1 row": {"rows": 1, "repeats": 1_000}, "1,000 rows": {"rows": 1_000, "repeats": 100}},
        anchor="ONNX",
        packages=["scikit-learn", "onnxruntime", "skl2onnx", "mlflow", "numpy"],
        ratios_of=["p50_ms"],
    )

"""The trained estimator as ONNX, the form that serving runs."""

from __future__ import annotations

import warnings
from typing import Any, cast

import numpy as np
import numpy.typing as npt

INPUT_NAME = "inputs"
OPSET = 17

Matrix = npt.NDArray[np.float32]
Vector = npt.NDArray[np.float64]


def to_onnx(model: Any, width: int) -> bytes:
    """`model` as an ONNX graph: float32 `[n, width]` named `inputs`, NaN where missing, to `[n, 1]`.

    A classifier answers with the probability of its second class.
    """
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType

    types = [(INPUT_NAME, FloatTensorType([None, width]))]
    options = {"zipmap": False} if hasattr(model, "predict_proba") else None
    with warnings.catch_warnings():
        # skl2onnx hands booleans to protobuf, which only version 7 refuses: pyproject.toml keeps it below.
        warnings.filterwarnings("ignore", message=".*Expected an int, got a boolean", category=DeprecationWarning)
        graph = convert_sklearn(model, initial_types=types, target_opset=OPSET, options=options)
    if options:
        _keep_second_probability(graph.graph)
    return cast(bytes, graph.SerializeToString())


def _keep_second_probability(graph: Any) -> None:
    """Replace the outputs, label and probabilities `[n, 2]`, by the second probability `[n, 1]`."""
    from onnx import TensorProto, helper

    probabilities = graph.output[1].name
    graph.initializer.append(helper.make_tensor("second_class", TensorProto.INT64, [1], [1]))
    graph.node.append(helper.make_node("Gather", [probabilities, "second_class"], ["probability"], axis=1))
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("probability", TensorProto.FLOAT, [None, 1]))


class OnnxModel:
    """Predictions of an ONNX graph, on one thread so that they do not depend on the machine.

    Parameters
    ----------
    content : bytes
        What `to_onnx` returned.
    """

    def __init__(self, content: bytes) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def predict(self, matrix: Matrix) -> Vector:
        """One prediction per row of `matrix`, shape (n, inputs); NaN means missing."""
        if not len(matrix):
            return np.empty(0)
        return np.asarray(self._session.run(None, {INPUT_NAME: matrix})[0], dtype=np.float64).reshape(-1)

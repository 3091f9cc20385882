"""The trained estimator as ONNX, the form that serving runs."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt

INPUT_NAME = "inputs"
OPSET = 17
SHARED = ("n_targets", "post_transform")
"""Attributes of a tree ensemble that are not lists over its nodes or leaves."""

Matrix = npt.NDArray[np.float32]
Vector = npt.NDArray[np.float64]
Ranges = npt.NDArray[np.float64]
"""Prediction, 10th and 90th percentile of each row: shape (rows, 3)."""


def to_onnx(model: Any, width: int, quantiles: Sequence[Any] = ()) -> bytes:
    """`model` as an ONNX graph: float32 `[n, width]` named `inputs`, NaN where missing, to `[n, 1]`.

    A classifier answers with the probability of its second class. With `quantiles`, the models of the 10th and the 90th
    percentile, the graph answers `[n, 3]`: all trees are one operator, so a row costs little more than without them.

    Raises
    ------
    TypeError
        Quantile models are given, and they or `model` are not made of trees alone.
    """
    graphs = [_converted(one, width) for one in (model, *quantiles)]
    return cast(bytes, (_joined(graphs) if quantiles else graphs[0]).SerializeToString())


def _converted(model: Any, width: int) -> Any:
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
    return graph


def _joined(graphs: Sequence[Any]) -> Any:
    """One graph with the trees of all; each graph's sum is a column of the output."""
    from onnx import TensorProto, helper

    kinds = [[node.op_type for node in graph.graph.node] for graph in graphs]
    if any(kind != ["TreeEnsembleRegressor"] for kind in kinds):
        raise TypeError(f"an interval needs models that are trees and nothing else in ONNX, not {kinds}")
    joined, nodes = graphs[0], [graph.graph.node[0] for graph in graphs]
    parts = [{one.name: helper.get_attribute_value(one) for one in node.attribute} for node in nodes]
    first, trees = 0, []
    for target, part in enumerate(parts):
        part["nodes_treeids"] = [tree + first for tree in part["nodes_treeids"]]
        part["target_treeids"] = [tree + first for tree in part["target_treeids"]]
        part["target_ids"] = [target] * len(part["target_ids"])
        trees.append(part)
        first = max(part["nodes_treeids"]) + 1
    whole: dict[str, Any] = {
        name: [value for part in trees for value in part[name]] for name in trees[0] if name not in SHARED
    }
    whole |= {"n_targets": len(graphs), "post_transform": "NONE"}
    node = helper.make_node("TreeEnsembleRegressor", [INPUT_NAME], list(nodes[0].output), domain="ai.onnx.ml", **whole)
    del joined.graph.node[:], joined.graph.output[:]
    joined.graph.node.append(node)
    joined.graph.output.append(helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, [None, len(graphs)]))
    return joined


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
        return self._answer(matrix)[:, 0]

    def ranges(self, matrix: Matrix) -> Ranges:
        """Prediction, 10th and 90th percentile per row; a graph without percentiles gives its prediction thrice."""
        answer = self._answer(matrix)
        return answer if answer.shape[1] == 3 else np.repeat(answer, 3, axis=1)

    def _answer(self, matrix: Matrix) -> Ranges:
        if not len(matrix):
            return np.empty((0, 3))
        answer = np.asarray(self._session.run(None, {INPUT_NAME: matrix})[0], dtype=np.float64)
        return answer.reshape(len(matrix), -1)

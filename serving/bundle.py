"""A model bundle: `model.onnx` and `bundle.json`, all that is needed to predict without the training stack.

The bundle names its inputs in order, the feature views that they come from, the offsets of its prediction interval for
each set of views that a row may lack, and a few rows with their predictions and intervals (`self_test`), by which a
process proves that it computes what training computed.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import onnxruntime
from numpy.typing import ArrayLike, NDArray
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from config.zones import time_zone
from feature_repo.transforms.request_time import UNTOLD, Clock
from serving.errors import BundleError, ModelFault

__all__ = ["BUNDLE_FILES", "Bundle", "BundleInput", "BundleView", "Estimates"]

DOCUMENT = "bundle.json"
MODEL = "model.onnx"
BUNDLE_FILES = (DOCUMENT, MODEL)

SELF_TEST_TOLERANCE_MINUTES = 1e-3
"""The largest difference between training's and this process's prediction; also the limit at registration."""

LONGEST_MINUTES = 1_440.0
"""No model of ours predicts more than a day."""

Source = Literal["view", "on_demand", "request"]


class _Part(BaseModel):
    # Unknown members are kept out of the way: a newer training may add some without stopping older servers.
    model_config = ConfigDict(extra="ignore", frozen=True)


class BundleView(_Part):
    """A feature view of the online store: its entity key, time to live and features, in order."""

    name: str = Field(min_length=1)
    join_key: str = Field(min_length=1)
    ttl_seconds: float = Field(gt=0)
    features: tuple[str, ...]


class BundleInput(_Part):
    """One column of the model's input matrix and where its value comes from.

    `median`, `minimum`, `maximum` and `null_rate` are of the training rows; None where training did not tell.
    """

    name: str = Field(min_length=1)
    source: Source
    view: str | None = None
    feature: str | None = None
    dtype: str = "Float64"
    median: float | None = None
    minimum: float | None = None
    maximum: float | None = None
    null_rate: float | None = Field(default=None, ge=0, le=1)

    @property
    def bounds(self) -> tuple[float, float] | None:
        """What is plausible: the training rows' range and as much again on either side; None if that is not known."""
        if self.minimum is None or self.maximum is None:
            return None
        width = self.maximum - self.minimum or max(abs(self.maximum), 1.0)
        return self.minimum - width, self.maximum + width


class Offsets(_Part):
    """What is added to the model's 10th and 90th percentile of a row without the views `absent`, in minutes."""

    absent: frozenset[str] = frozenset()
    p10_offset: float = Field(allow_inf_nan=False)
    p90_offset: float = Field(allow_inf_nan=False)

    @property
    def pair(self) -> tuple[float, float]:
        """Both."""
        return self.p10_offset, self.p90_offset


class Interval(_Part):
    """The offsets of ordinary requests, and of rows that lack certain views.

    A bundle of a model that predicts no percentiles has offsets from the prediction itself.
    """

    p10_offset: float = Field(allow_inf_nan=False)
    p90_offset: float = Field(allow_inf_nan=False)
    views: tuple[str, ...] = ()
    patterns: tuple[Offsets, ...] = ()
    store_down: Offsets | None = None

    @model_validator(mode="after")
    def _complete(self) -> Interval:
        if not self.patterns and self.p10_offset > self.p90_offset:
            raise ValueError(f"p10_offset {self.p10_offset} is above p90_offset {self.p90_offset}")
        if not self.patterns and (self.p10_offset > 0 or self.p90_offset < 0):
            raise ValueError(f"the prediction is not between its offsets {self.p10_offset} and {self.p90_offset}")
        if self.patterns and not any(pattern.absent.issuperset(self.views) for pattern in self.patterns):
            raise ValueError(f"no pattern for rows without any of the views {list(self.views)}")
        return self

    def of(self, absent: frozenset[str]) -> tuple[float, float]:
        """The offsets of rows without exactly these views, else of the smallest set that has them and others."""
        fitting = [pattern for pattern in self.patterns if absent <= pattern.absent]
        if not fitting:
            return self.p10_offset, self.p90_offset
        return min(fitting, key=lambda pattern: len(pattern.absent)).pair


class SelfTest(_Part):
    """Rows of inputs (`null` = missing) and what training predicted for them, in minutes."""

    inputs: tuple[tuple[float | None, ...], ...] = Field(min_length=1)
    predictions: tuple[float, ...]
    intervals: tuple[tuple[float, float], ...] = ()
    """10th and 90th percentile of each row, in minutes; empty in a bundle of before they depended on the order."""


class BundleClock(_Part):
    """By which clock the hours and weekdays of the training rows were named."""

    zone: Annotated[str, AfterValidator(time_zone)]
    peak_hours: tuple[Annotated[int, Field(ge=0, le=23)], ...]


class BundleDocument(_Part):
    """The content of `bundle.json`.

    `label_maximum` is the longest outcome in training, in minutes; `population` the fields of an order, with the value
    that all orders had which the model was trained on.
    """

    model: str = Field(min_length=1)
    version_created_as_of: str | None = None
    feature_service: str = Field(min_length=1)
    project: str = Field(min_length=1)
    trained_until: AwareDatetime | None = None
    """Orders placed from then on were not seen in training."""
    definitions_hash: str | None = None
    request_function_version: str | None = None
    clock: BundleClock | None = None
    """None in a bundle of before each recorded it: UTC."""
    dataset_hash: str | None = None
    seed: int | None = None
    baseline_minutes: float | None = None
    label_maximum: float = Field(default=LONGEST_MINUTES, gt=0, le=LONGEST_MINUTES)
    population: Mapping[str, bool] = Field(default={"is_asap": True})
    metrics: Mapping[str, Any] = Field(default_factory=dict)
    views: tuple[BundleView, ...]
    inputs: tuple[BundleInput, ...] = Field(min_length=1)
    interval: Interval
    self_test: SelfTest

    @model_validator(mode="after")
    def _consistent(self) -> BundleDocument:
        names = [column.name for column in self.inputs]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"inputs {repeated} are listed twice")
        features = {view.name: view.features for view in self.views}
        for column in self.inputs:
            if column.source == "view" and column.feature not in features.get(column.view or "", ()):
                raise ValueError(f"input {column.name}: no view {column.view!r} with a feature {column.feature!r}")
            if column.source == "on_demand" and not column.feature:
                raise ValueError(f"input {column.name} is computed on demand but names no feature")
        if len(self.self_test.inputs) != len(self.self_test.predictions):
            raise ValueError("self_test has another number of inputs than of predictions")
        if len(self.self_test.intervals) not in (0, len(self.self_test.predictions)):
            raise ValueError("self_test has another number of intervals than of predictions")
        unknown = sorted(set(self.interval.views) - set(features))
        if unknown:
            raise ValueError(f"interval.views: there are no views {unknown}")
        if any(len(row) != len(names) for row in self.self_test.inputs):
            raise ValueError(f"self_test: each row of inputs needs {len(names)} values")
        return self


class Estimates(NamedTuple):
    """Minutes of delivery of each row: the prediction and its 10th and 90th percentile, none below zero."""

    minutes: list[float]
    p10: list[float]
    p90: list[float]


class _OneRow(threading.local):
    """A session with the places of one row and its prediction bound once, which a call otherwise does anew.

    Each thread has places of its own.
    """

    def __init__(self, session: onnxruntime.InferenceSession, columns: int) -> None:
        (taken,), (given,) = session.get_inputs(), session.get_outputs()
        self.inputs = np.empty((1, columns), np.float32)
        answers = given.shape[-1] if len(given.shape) > 1 and isinstance(given.shape[-1], int) else 1
        self.output = np.empty([1] * (len(given.shape) - 1) + [answers], np.float32)
        self.run = session.run_with_iobinding
        self.binding = session.io_binding()
        self.binding.bind_input(taken.name, "cpu", 0, np.float32, self.inputs.shape, self.inputs.ctypes.data)
        self.binding.bind_output(given.name, "cpu", 0, np.float32, self.output.shape, self.output.ctypes.data)

    def predict(self, row: ArrayLike) -> list[float]:
        """The model's answers, in minutes."""
        self.inputs[0] = row
        self.run(self.binding)
        answers: list[float] = self.output.ravel().tolist()
        return answers


@dataclass(frozen=True)
class Bundle:
    """A model that can be asked: see `load`."""

    document: BundleDocument
    session: onnxruntime.InferenceSession

    @classmethod
    def load(cls, directory: Path) -> Bundle:
        """Read a bundle from `directory`.

        Raises
        ------
        BundleError
            A file is missing or damaged, a field of `bundle.json` is missing or inconsistent, or the ONNX graph takes
            another number of columns than `bundle.json` lists. The message names the file and the field.
        """
        document = _read_document(directory / DOCUMENT)
        session = _open_session(directory / MODEL)
        _check_signature(directory / MODEL, session, len(document.inputs))
        return cls(document, session)

    @cached_property
    def clock(self) -> Clock:
        """By which the model's hours and weekdays are named."""
        noted = self.document.clock
        return Clock(noted.zone, noted.peak_hours) if noted else UNTOLD

    @cached_property
    def input_names(self) -> tuple[str, ...]:
        """The model's columns, in order."""
        return tuple(column.name for column in self.document.inputs)

    @cached_property
    def _input(self) -> str:
        return str(self.session.get_inputs()[0].name)

    @cached_property
    def _outputs(self) -> list[str]:
        """The one output; unless it is named, the session asks itself at each call what it has."""
        return [str(output.name) for output in self.session.get_outputs()]

    @cached_property
    def _one_row(self) -> _OneRow:
        return _OneRow(self.session, len(self.document.inputs))

    @cached_property
    def _places(self) -> list[tuple[int, ...]]:
        """Of each view of the interval, the places of its inputs."""
        columns = list(enumerate(self.document.inputs))
        return [
            tuple(place for place, column in columns if column.source == "view" and column.view == view)
            for view in self.document.interval.views
        ]

    @cached_property
    def _offsets(self) -> dict[tuple[bool, ...], tuple[float, float]]:
        """The offsets by which views a row lacks; filled as such rows come."""
        return {}

    def predict(self, inputs: NDArray[np.float32]) -> NDArray[np.float64]:
        """Raw predictions of rows of inputs.

        Parameters
        ----------
        inputs : array of float32, shape (rows, inputs)
            In the order of `input_names`; NaN = missing.

        Returns
        -------
        array of float64, shape (rows,)
            Minutes.
        """
        return self._answers(inputs)[:, 0]

    def _answers(self, inputs: NDArray[np.float32]) -> NDArray[np.float64]:
        """Shape (rows, 1), or (rows, 3) with the 10th and 90th percentile before their offsets."""
        (output,) = self.session.run(self._outputs, {self._input: inputs})
        return np.asarray(output, dtype=np.float64).reshape(len(inputs), -1)

    def estimate(
        self, inputs: Sequence[Sequence[float]] | NDArray[np.float32], *, store_down: bool = False
    ) -> Estimates:
        """Predictions with their interval, which contains the prediction; nothing below zero.

        With `store_down` medians stand in for stored values, and the interval is as wide as that makes it.
        """
        if len(inputs) == 1:
            answers = [self._one_row.predict(inputs[0])]
        else:
            answers = self._answers(np.asarray(inputs, np.float32)).tolist()
        down = self.document.interval.store_down if store_down else None
        estimates = Estimates([], [], [])
        for row, answer in zip(inputs, answers, strict=True):
            below, above = down.pair if down else self._offsets_of(row)
            minutes, low, high = answer if len(answer) == 3 else answer * 3
            estimates.minutes.append(max(minutes, 0.0))
            estimates.p10.append(max(min(low + below, minutes), 0.0))
            estimates.p90.append(max(high + above, minutes, 0.0))
        return estimates

    def _offsets_of(self, row: Sequence[float] | NDArray[np.float32]) -> tuple[float, float]:
        # NaN differs from itself; mostly the first value of a view is there, and no other is looked at.
        lacks = tuple([all(row[place] != row[place] for place in places) for places in self._places])
        found = self._offsets.get(lacks)
        if found is None:
            interval = self.document.interval
            absent = frozenset(view for view, gone in zip(interval.views, lacks, strict=True) if gone)
            found = self._offsets[lacks] = interval.of(absent)
        return found

    def bounded(self, estimates: Estimates) -> Estimates:
        """Estimates of which none is beyond `label_maximum`.

        Raises
        ------
        ModelFault
            A prediction is not a number.
        """
        if not all(map(math.isfinite, chain(*estimates))):
            raise ModelFault(f"the model {self.document.model} predicts what is no number")
        longest = self.document.label_maximum
        if max(map(max, estimates)) <= longest:
            return estimates
        return Estimates(*([min(minutes, longest) for minutes in each] for each in estimates))

    def verify(self) -> float:
        """Estimate the self-test's rows and return the largest difference from training's, in minutes.

        Each row is predicted by both ways that answer requests: alone, and with the others.

        Raises
        ------
        BundleError
            The difference exceeds `SELF_TEST_TOLERANCE_MINUTES`, or a prediction is not a number.
        """
        test = self.document.self_test
        rows = [[math.nan if value is None else value for value in row] for row in test.inputs]
        inputs = np.array(rows, dtype=np.float32)
        both_ways = (self.predict(inputs), np.array([self._one_row.predict(row)[0] for row in rows]))
        worst = max(_compare(found, test.predictions, "predicts", "predicted") for found in both_ways)
        if test.intervals:
            for estimates in (self.estimate(inputs), _joined([self.estimate([row]) for row in rows])):
                # Training does not cut at zero, which a forecast of minutes never should need.
                for name, minutes, column in (("10th", estimates.p10, 0), ("90th", estimates.p90, 1)):
                    expected = [max(pair[column], 0.0) for pair in test.intervals]
                    found = _compare(np.array(minutes), expected, f"has the {name} percentile", "had it at")
                    worst = max(worst, found)
        return worst


def _joined(singles: Sequence[Estimates]) -> Estimates:
    """Estimates of one row each as those of all rows."""
    return Estimates(*([minutes for one in singles for minutes in one[place]] for place in range(3)))


def _compare(found: NDArray[np.float64], expected: Sequence[float], does: str, did: str) -> float:
    """The largest difference of a self-test; raises `BundleError` if it is too large."""
    difference = np.abs(found - np.array(expected))
    worst = int(np.argmax(np.where(np.isnan(difference), np.inf, difference)))
    if not difference[worst] <= SELF_TEST_TOLERANCE_MINUTES:
        raise BundleError(
            f"self-test row {worst} {does} {found[worst]:.6g} min where training {did} {expected[worst]:.6g}: "
            f"{MODEL} and {DOCUMENT} do not belong together, train the model again"
        )
    return float(difference[worst])


def _read_document(path: Path) -> BundleDocument:
    try:
        return BundleDocument.model_validate(json.loads(path.read_bytes()))
    except FileNotFoundError as error:
        raise BundleError(
            f"{path} does not exist: a bundle is a directory with {' and '.join(BUNDLE_FILES)}"
        ) from error
    except (OSError, ValueError) as error:
        raise BundleError(f"{path} cannot be used: {_explain(error)}") from error


def _explain(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    faults = (f"{'.'.join(map(str, fault['loc'])) or 'the document'}: {fault['msg']}" for fault in error.errors())
    return "; ".join(faults)


def _open_session(path: Path) -> onnxruntime.InferenceSession:
    if not path.exists():
        raise BundleError(f"{path} does not exist: a bundle is a directory with {' and '.join(BUNDLE_FILES)}")
    options = onnxruntime.SessionOptions()
    # One row takes microseconds: a thread pool would cost more than it gives, and requests run side by side anyway.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises classes of its own that share no public base
        raise BundleError(f"{path} is not a usable ONNX model: {error}") from error


def _check_signature(path: Path, session: onnxruntime.InferenceSession, columns: int) -> None:
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or len(outputs) != 1:
        raise BundleError(f"{path} has {len(inputs)} inputs and {len(outputs)} outputs: one of each is expected")
    if inputs[0].type != "tensor(float)":
        raise BundleError(f"{path} takes {inputs[0].type}, not tensor(float)")
    if outputs[0].type != "tensor(float)":
        raise BundleError(f"{path} gives {outputs[0].type}, not tensor(float)")
    answers = outputs[0].shape[-1] if len(outputs[0].shape) > 1 else 1
    if isinstance(answers, int) and answers not in (1, 3):
        raise BundleError(f"{path} gives {answers} columns: a prediction is expected, alone or with two percentiles")
    width = inputs[0].shape[-1]
    if isinstance(width, int) and width != columns:
        raise BundleError(f"{path} takes {width} columns, but {DOCUMENT} lists {columns} inputs")

"""What a model *is*: everything that distinguishes one trained model from another, as data.

A spec is one file in `training/models/`; the pipeline, the DAG, the registry entry and the monitors follow from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from training.files import canonical_hash
from training.tasks import TASKS, Task

if TYPE_CHECKING:
    import polars as pl

    from config import Settings
    from feature_repo.window import Window

Population = Callable[["Window", datetime, "Settings"], "pl.LazyFrame"]
"""(window of prediction instants, as_of, settings) -> one row per prediction, using nothing learnt after `as_of`.

Columns: the row id, the prediction instant, the entities' join keys, the request fields, the label, `label_known_at`.
"""


@dataclass(frozen=True, slots=True)
class GateSpec:
    """One condition that a candidate must meet to be registered.

    Parameters
    ----------
    name : str
        A key of `training.gates.GATES`.
    threshold : float
        Its bound, in the unit that the gate's documentation states.
    """

    name: str
    threshold: float


@dataclass(frozen=True, slots=True)
class SliceSpec:
    """A part of the rows whose error is reported on its own: `where` a SQL condition holds, or `by` the values
    of a SQL expression, such as a column.

    `maximum` is the largest error that the gate `slices` allows on it, in the unit of the task's primary metric.

    Raises
    ------
    ValueError
        Both or neither of `where` and `by` are given.
    """

    name: str
    where: str | None = None
    by: str | None = None
    maximum: float | None = None

    def __post_init__(self) -> None:
        if (self.where is None) == (self.by is None):
            raise ValueError(f"slice {self.name!r}: give either `where` or `by`")


@dataclass(frozen=True, slots=True)
class HiddenEntity:
    """An entity that is often unknown at the prediction instant, so the model must live without it.

    In training, the features of `view` are missing on a seeded `share` of the rows. The metrics that the gates look at
    hide them on every row; the metrics with the entity known are reported beside.
    """

    entity: str
    view: str
    share: float


@dataclass(frozen=True, slots=True)
class SearchSpec:
    """A bounded search beside the candidates that a spec names.

    Parameters
    ----------
    space : mapping
        Argument -> the values to draw from.
    trials : int
        How many combinations are drawn, without repetition; the seed decides which.
    folds : int
        0: a candidate is judged by its error on the validation rows. Else by its mean error over so many rolling
        origins within the train rows, and the best is fitted again on all of them.
    """

    space: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    trials: int = 0
    folds: int = 0


@dataclass(frozen=True, slots=True)
class IntervalSpec:
    """How the 10th and the 90th percentile of a regression are predicted, order by order.

    Parameters
    ----------
    estimator : str
        Class of the estimator, with its module; its ONNX form must be trees alone.
    parameters : mapping
        Arguments of both.
    level : str
        Name of the argument that takes the level, 0.1 and 0.9.
    """

    estimator: str
    parameters: Mapping[str, Any]
    level: str = "quantile"


@dataclass(frozen=True, slots=True)
class DatasetLimits:
    """What a training set must look like before anything is trained on it.

    Parameters
    ----------
    minimum_rows : int
    label_minimum, label_maximum : float
        Allowed range of the label, bounds included, in its unit.
    maximum_null_rate : float
        Largest share of missing values of one feature, unless its source column is absent altogether.
    """

    minimum_rows: int
    label_minimum: float
    label_maximum: float
    maximum_null_rate: float = 0.95


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One model, declared.

    Parameters
    ----------
    name : str
        Also its name in the registry, and of its MLflow experiment.
    feature_service : str
        The Feast feature service whose features are the model's inputs.
    population : Population
        Which rows, with which label.
    row_id, instant, label, unit : str
        Columns of the population: what identifies a row, when its prediction is made, what is predicted; its unit.
    window_days : int
        Length of the window of prediction instants that ends at the as-of instant.
    limits : DatasetLimits
    estimator : str
        Class of the estimator, with its module.
    parameters : mapping
        Arguments that all candidates share.
    candidates : sequence of mappings
        Arguments of each candidate; the one with the smallest validation error is taken.
    search : SearchSpec
        Further candidates, drawn from a space; and how candidates are judged.
    interval : IntervalSpec or None
        None: the interval of a regression has the same width for all, that of the newest errors.
    gates : sequence of GateSpec
    slices : sequence of SliceSpec
    fairness : sequence of SliceSpec
        Kinds of groups between which the error must not differ much: see the gate `fairness`.
    hidden : HiddenEntity or None
    baseline_feature : str or None
        A feature that predicts the label by itself: the naive baseline beside the mean of the training rows.
    promise : str or None
        Column of the population with the estimate that the platform itself told, for the report; no input.
    kind : str
        `regression` or `classification`: a key of `training.tasks.TASKS`.
    label_horizon : timedelta
        How long every label takes to be decided: the parts of a split are at least so far apart. Zero for labels
        that are known sooner or later, row by row.
    requires : tuple of str
        Columns of an order without which there can be no such model: where the source does not have one, its training
        is skipped, and says so.
    seed : int
    asks : mapping
        Fields of a request and the value that all rows of the population have, which the service answers for only.
    """

    name: str
    feature_service: str
    population: Population
    row_id: str
    instant: str
    label: str
    unit: str
    limits: DatasetLimits
    estimator: str
    parameters: Mapping[str, Any]
    candidates: tuple[Mapping[str, Any], ...]
    gates: tuple[GateSpec, ...]
    slices: tuple[SliceSpec, ...] = ()
    fairness: tuple[SliceSpec, ...] = ()
    hidden: HiddenEntity | None = None
    baseline_feature: str | None = None
    promise: str | None = None
    window_days: int = 90
    seed: int = 20260101
    kind: str = "regression"
    label_horizon: timedelta = timedelta()
    search: SearchSpec = SearchSpec()
    interval: IntervalSpec | None = None
    requires: tuple[str, ...] = ()
    asks: Mapping[str, bool] = field(default_factory=dict, kw_only=True)
    owner: str = field(default="delivery-eta", kw_only=True)

    def __post_init__(self) -> None:
        from training.gates import GATES

        unknown = [gate.name for gate in self.gates if gate.name not in GATES]
        if unknown:
            raise ValueError(f"model {self.name!r}: no such gates: {unknown}. There are {sorted(GATES)}")
        if self.kind not in TASKS:
            raise ValueError(f"model {self.name!r}: no such kind: {self.kind!r}. There are {sorted(TASKS)}")
        if self.interval and self.kind != "regression":
            raise ValueError(f"model {self.name!r}: a {self.kind} has no interval, leave `interval` out")
        if not self.candidates:
            raise ValueError(f"model {self.name!r}: give at least one candidate, `({{}},)` for the shared parameters")

    @property
    def task(self) -> Task:
        """What kind of answer it gives."""
        return TASKS[self.kind]

    def with_thresholds(self, thresholds: Mapping[str, float]) -> ModelSpec:
        """The same model with other thresholds of some gates, for a source whose noise is another.

        Raises
        ------
        ValueError
            The model has no gate of that name.
        """
        unknown = set(thresholds) - {gate.name for gate in self.gates}
        if unknown:
            known = [gate.name for gate in self.gates]
            raise ValueError(f"model {self.name!r} has no gates {sorted(unknown)}; it has {known}")
        gates = tuple(replace(gate, threshold=thresholds.get(gate.name, gate.threshold)) for gate in self.gates)
        return replace(self, gates=gates)

    def with_search(self, trials: int, folds: int) -> ModelSpec:
        """The same model with a larger or smaller search.

        Raises
        ------
        ValueError
            Trials are asked for and the model has no space to draw them from.
        """
        if trials and not self.search.space:
            raise ValueError(f"model {self.name!r} has no search space: give its spec `search=SearchSpec(space=...)`")
        return replace(self, search=replace(self.search, trials=trials, folds=folds))

    def fingerprint(self) -> str:
        """SHA-256 of all that training depends on; not of the gates, which decide afterwards, nor of the code."""
        content = asdict(replace(self, gates=(), slices=(), fairness=()))
        content["label_horizon"] = self.label_horizon.total_seconds()
        del content["asks"]  # says of the population what it is, and changes no row of it
        content["population"] = f"{self.population.__module__}.{getattr(self.population, '__name__', '')}"
        return canonical_hash(content)

"""Running expectations with Great Expectations, kept away from the network and from the disk.

Great Expectations takes 9 seconds to import, so nothing here imports it before a suite runs.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

if TYPE_CHECKING:
    from great_expectations.core import ExpectationValidationResult
    from great_expectations.core.batch_definition import BatchDefinition
    from great_expectations.datasource.fluent.interfaces import Batch

MAX_EXAMPLES = 20
_FORMAT = {"result_format": "COMPLETE", "return_unexpected_index_query": False}


@dataclass(frozen=True, slots=True)
class Expectation:
    """One expectation, named.

    Attributes
    ----------
    rule : str
        Its name in our reports.
    kind : str
        Name of a class in `great_expectations.expectations`.
    arguments : dict
        Its arguments.
    definition : str, optional
        Its name in `rules.RULES`, where that is another one.
    """

    rule: str
    kind: str
    arguments: dict[str, Any]
    definition: str = ""

    @property
    def defined_as(self) -> str:
        """The name of the rule in `rules.RULES`."""
        return self.definition or self.rule

    @classmethod
    def holds(cls, rule: str, definition: str = "") -> Expectation:
        """The boolean column of the same name is true in every row."""
        return cls(rule, "ExpectColumnValuesToBeInSet", {"column": rule, "value_set": [True]}, definition)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an expectation found. `rows` are the positions of the rows that fail, in order."""

    passed: bool
    rows: list[int]
    observed: Any


class BrokenSuite(RuntimeError):
    """An expectation could not be evaluated: a fault of the suite, not of the data."""


def run_suite(
    name: str,
    frame: pl.DataFrame,
    expectations: Sequence[Expectation],
    kept: list[ExpectationValidationResult] | None = None,
) -> dict[str, Outcome]:
    """Evaluate expectations on a frame.

    Parameters
    ----------
    name : str
        Name of the suite.
    frame : pl.DataFrame
        At least the columns that the expectations use; each other column only costs time.
    expectations : sequence of Expectation
        With distinct rule names.
    kept : list, optional
        Great Expectations' own results are appended to it, without all but the first failing rows.

    Returns
    -------
    dict of str to Outcome
        By rule name, in the order given.

    Raises
    ------
    BrokenSuite
        An expectation raised an error, for example because of a column that is not there.
    """
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    _quiet()
    from great_expectations import ExpectationSuite
    from great_expectations import expectations as library

    built = [getattr(library, each.kind)(**each.arguments, meta={"rule": each.rule}) for each in expectations]
    results = _batch(frame).validate(ExpectationSuite(name=name, expectations=built), result_format=_FORMAT).results
    outcomes = {}
    for result in results:
        configuration: Any = result.expectation_config
        rule = str(configuration.meta["rule"])
        problem = _problem(result.exception_info or {})
        if problem:
            raise BrokenSuite(f"suite {name}: rule {rule} could not be evaluated: {problem}")
        found = result.result
        rows = sorted(int(row) for row in found.get("unexpected_index_list") or [])
        outcomes[rule] = Outcome(bool(result.success), rows, found.get("observed_value"))
        if kept is not None:
            kept.append(_shortened(result))
    return {each.rule: outcomes[each.rule] for each in expectations}


def _shortened(result: ExpectationValidationResult) -> ExpectationValidationResult:
    for name, value in result.result.items():
        if isinstance(value, list):
            result.result[name] = value[:MAX_EXAMPLES]
    return result


def _batch(frame: pl.DataFrame) -> Batch:
    return _whole_frame().get_batch({"dataframe": frame.to_pandas()})


@functools.cache
def _whole_frame() -> BatchDefinition[Any]:
    """A batch is made of the frame alone: what asks for one can be made once per process."""
    import great_expectations

    _quiet()
    context = great_expectations.get_context(mode="ephemeral")
    context.variables.progress_bars = _no_progress_bars()
    asset = context.data_sources.add_pandas("memory").add_dataframe_asset("frame")
    return asset.add_batch_definition_whole_dataframe("whole")


def _quiet() -> None:
    """Keep its info lines out of the step's own log; when imported, one of its modules sets a level of its own."""
    for name in ("great_expectations", "great_expectations.data_context.types.base"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _no_progress_bars() -> Any:
    from great_expectations.data_context.types.base import ProgressBarsConfig

    return ProgressBarsConfig(globally=False, metric_calculations=False)


def _problem(information: dict[str, Any]) -> str:
    """The message of the error that an expectation raised; empty if it raised none."""
    parts = [information] if "raised_exception" in information else list(information.values())
    return "; ".join(str(part.get("exception_message")) for part in parts if part.get("raised_exception"))

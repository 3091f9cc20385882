"""Why a step or a run did not do what it was asked for, and the types that all of them share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from feature_repo.window import Window

Result = dict[str, Any]
Progress = Callable[[str], None]


class BatchStopped(RuntimeError):
    """Validation refused a whole batch. `failures` has the rules; the message says where the rows are."""

    def __init__(self, message: str, failures: list[dict[str, Any]]) -> None:
        super().__init__(message)
        self.failures = failures


class StepMissing(FileNotFoundError):
    """A step's input is not staged; the message says which step makes it."""


class LandingLost(RuntimeError):
    """The landing folder no longer holds what the lake holds for the window."""


class NotComputedAgain(RuntimeError):
    """Rows have been replaced, and later ones that follow from them have not: there is nothing to hold against them."""


class OnlineStoreUnavailable(ConnectionError):
    """Redis does not answer; the message says which address, and what to do."""


def stopped(what: str, window: Window, rows: int, where: str, failures: list[dict[str, Any]]) -> BatchStopped:
    """The error for a batch that validation refused, with the rules that did and where its rows are."""
    rules = sorted({str(failure["rule"]) for failure in failures if failure["severity"] == "stop"})
    return BatchStopped(
        f"the {what} of {window} were refused by {', '.join(rules) or 'validation'}: {rows} rows are kept in {where}. "
        "Mend the source or the rule, and run the window again",
        failures,
    )


def failures_of(report: Any) -> list[dict[str, Any]]:
    """The failed checks of a validation report, as JSON-able dicts."""
    return [
        {
            "rule": result.rule,
            "severity": result.severity,
            "observed": result.observed,
            "threshold": result.threshold,
            "failed_rows": result.failed_rows,
            "reason": result.reason,
        }
        for result in report.failures
    ]

"""What a validation found, rule by rule."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from config import Settings
from feature_repo.files import forget_older, write_atomically
from feature_repo.quality.rules import Severity


@dataclass(frozen=True, slots=True)
class RuleResult:
    """One rule on one batch.

    Attributes
    ----------
    rule : str
        The name under which it is reported.
    definition : str
        Its name in `rules.RULES`: another one where a rule is reported for each column.
    severity : {"reject", "warn", "stop"}
    passed : bool
    observed : str or number
        What was found.
    threshold : str or number
        What was allowed.
    failed_rows : int
    reason : str
        One sentence; for a rule that could not be applied, why it passed.
    """

    rule: str
    definition: str
    severity: Severity
    passed: bool
    observed: str | float | int
    threshold: str | float | int
    failed_rows: int
    reason: str


@dataclass(frozen=True, slots=True)
class ValidationReport:
    """All rules of a suite on one batch."""

    suite: str
    window_slug: str
    row_count: int
    rejected_count: int
    results: list[RuleResult] = field(default_factory=list)

    @property
    def stopped(self) -> bool:
        """Whether a rule refuses the whole batch."""
        return any(not result.passed for result in self.results if result.severity == "stop")

    @property
    def verdict(self) -> str:
        """`stopped`, `rejected` (some rows), `warned` or `passed`: the gravest that happened."""
        words = {"stop": "stopped", "reject": "rejected", "warn": "warned"}
        return words[self.failures[0].severity] if self.failures else "passed"

    @property
    def failures(self) -> list[RuleResult]:
        """The rules that did not pass, the gravest first."""
        order = {"stop": 0, "reject": 1, "warn": 2}
        return sorted((result for result in self.results if not result.passed), key=lambda one: order[one.severity])

    def to_dict(self) -> dict[str, Any]:
        """The report with JSON types."""
        return {**asdict(self), "stopped": self.stopped}

    def write(self, settings: Settings) -> Path:
        """Keep the report as `<reports>/quality/<suite>/<window>.json`, in one rename.

        Reports of windows that began longer before this one than `report_retention_days` are deleted.
        """
        path = settings.reports / "quality" / self.suite / f"{self.window_slug}.json"
        write_atomically(path, json.dumps(self.to_dict(), indent=2) + "\n")
        if day := re.match(r"\d{8}(?=T)", self.window_slug):
            oldest = date.fromisoformat(day[0]) - settings.report_retention
            forget_older(path.parent, "[0-9]*.json", f"{oldest:%Y%m%d}")
        return path

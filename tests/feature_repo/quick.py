"""A pipeline of a few views that judges nothing, for tests to which neither views nor checks matter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from feature_repo.quality import features as quality_features
from feature_repo.quality import orders as quality_orders
from feature_repo.quality import shift
from feature_repo.quality.suite import Expectation, Outcome
from feature_repo.transforms.views import TRANSFORMS

Suite = Callable[..., dict[str, Outcome]]


def passing_suite(
    _name: str, _frame: Any, expectations: Sequence[Expectation], _kept: Any = None
) -> dict[str, Outcome]:
    """What Great Expectations says of rows that are in order."""
    return {each.rule: Outcome(True, [], None) for each in expectations}


def only(views: Sequence[str], patched: pytest.MonkeyPatch, suite: Suite = passing_suite) -> None:
    """Leave these views alone, `suite` in the place of Great Expectations, and no pages."""
    for view in set(TRANSFORMS) - set(views):
        patched.delitem(TRANSFORMS, view)
    for module in (quality_features, quality_orders, shift):
        patched.setattr(module, "run_suite", suite)
    for module in (quality_features, quality_orders):
        patched.setattr(module, "write_page", lambda *_: None)

"""Waiting ends with the condition, or in a failure that says what was waited for."""

from __future__ import annotations

import pytest

from tests.waiting import wait_until


def test_what_is_true_is_returned_as_soon_as_it_is() -> None:
    answers = iter([None, "", 7, 8])
    assert wait_until(lambda: next(answers), "a number", pause=0.0) == 7


def test_what_never_comes_is_named_with_what_there_is_to_see() -> None:
    with pytest.raises(AssertionError, match="after 0 s still waiting for: a word\nthe log"):
        wait_until(lambda: False, "a word", seconds=0.0, detail=lambda: "the log")

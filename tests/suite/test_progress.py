"""The line of progress, and the order of the files."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests import progress
from tests.progress import Progress, longest_first, spoken

CASES = [f"tests/config/test_a.py::test_{number}" for number in range(4)]


def report(case: str, outcome: str, when: str = "call") -> Any:
    return SimpleNamespace(
        nodeid=case, outcome=outcome, when=when, failed=outcome == "failed", skipped=outcome == "skipped"
    )


@pytest.fixture
def shown() -> list[str]:
    return []


@pytest.fixture
def running(shown: list[str]) -> Progress:
    """Progress of four cases, which writes into a list."""
    writer = SimpleNamespace(
        write=lambda text, flush=False: shown.append(text), line=lambda text, red=False: shown.append(text)
    )
    reporter = SimpleNamespace(isatty=False, _tw=writer)
    made = Progress(SimpleNamespace(pluginmanager=SimpleNamespace(get_plugin=lambda name: reporter)))
    made.expect(CASES)
    return made


def test_the_line_counts_what_became_of_each_case_and_guesses_what_is_left(running: Progress) -> None:
    assert running.line(1.0) == "tests: 0 of 4 passed, 0 failed, 1 s"
    for case, outcome in zip(CASES, ("passed", "failed", "skipped"), strict=False):
        running.pytest_runtest_logreport(report(case, outcome))
        running.pytest_runtest_logreport(report(case, "passed", "teardown"))
    assert running.line(130.0) == "tests: 1 of 4 passed, 1 failed, 1 skipped, 2 min 10 s, about 43 s left"
    running.pytest_runtest_logreport(report(CASES[3], "passed", "teardown"))
    assert running.line(130.0).endswith("1 skipped, 2 min 10 s")


@pytest.mark.parametrize("when", ["setup", "call", "teardown"])
def test_what_fails_is_named_at_once_wherever_it_fails(running: Progress, shown: list[str], when: str) -> None:
    running.pytest_runtest_logreport(report(CASES[0], "failed", when))
    assert shown == [f"FAILED {CASES[0]} ({when}): shown whole at the end"]
    assert running.outcomes["failed"] == 1


def test_pytest_learns_what_became_of_a_case_as_before_but_prints_no_mark(running: Progress) -> None:
    def told(outcome: str, when: str) -> Any:
        return running.pytest_report_teststatus(report(CASES[0], outcome, when), None)  # type: ignore[arg-type]

    assert told("passed", "call") == ("passed", "", "PASSED")
    assert told("failed", "call") == ("failed", "", "FAILED")
    assert told("failed", "teardown") == ("error", "", "ERROR")
    assert told("skipped", "setup") == ("skipped", "", "SKIPPED")
    assert told("passed", "setup") is None


def test_files_that_take_longest_come_first_and_stay_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SECONDS", {"tests/": 1.0, "tests/slow/": 10.0, "tests/slow/test_not.py": 0.5})
    names = ["tests/a.py::1", "tests/slow/test_x.py::1", "tests/b.py::1", "tests/b.py::2", "tests/slow/test_not.py::1"]
    items: Any = [SimpleNamespace(nodeid=name) for name in names]
    longest_first(items)
    assert [item.nodeid for item in items] == [names[1], names[2], names[3], names[0], names[4]]


@pytest.mark.parametrize(("seconds", "words"), [(0.4, "0 s"), (59.6, "1 min 0 s"), (130, "2 min 10 s")])
def test_seconds_in_words(seconds: float, words: str) -> None:
    assert spoken(seconds) == words

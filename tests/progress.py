"""What a person sees while the tests run: one line now and then, instead of a mark for each of the tests.

On a terminal the line is written over itself, elsewhere it comes every twenty seconds. What failed is named at once and
shown whole at the end, by pytest, whose closing line stays as it is. `-v` brings pytest's own way back.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Sequence
from typing import Any

import pytest

# Seconds of one case on a quiet core, by the beginning of its id, the longest that fits: to begin with what takes
# longest, so that no core idles at the end, and to say how much is left. They need not be exact.
SECONDS = {
    "tests/": 0.1,
    "tests/end_to_end/": 10.0,
    "tests/dags/": 1.0,
    "tests/training/test_pipeline.py": 1.0,
    "tests/training/": 0.5,
    "tests/feature_repo/": 0.3,
    "tests/feature_repo/transforms/test_evolution.py": 3.0,
    "tests/feature_repo/quality/": 0.5,
    "tests/monitoring/": 0.6,
    "tests/serving/test_process.py": 2.0,
    "tests/serving/test_registry_client.py": 1.0,
}


def seconds_of(case: str) -> float:
    """About how long a case takes."""
    return SECONDS[max((start for start in SECONDS if case.startswith(start)), key=len, default="tests/")]


def longest_first(items: list[pytest.Item]) -> None:
    """Sort in place: the files that take longest first, the cases of a file as they are."""
    whole: dict[str, float] = {}
    for item in items:
        whole[_file(item.nodeid)] = whole.get(_file(item.nodeid), 0.0) + seconds_of(item.nodeid)
    items.sort(key=lambda item: -whole[_file(item.nodeid)])


def register(config: pytest.Config) -> None:
    """Show progress in the process that reports to a person, unless it was asked for pytest's own marks."""
    if not hasattr(config, "workerinput") and config.option.verbose < 0 and not config.option.collectonly:
        config.pluginmanager.register(Progress(config), "progress")


class Progress:
    """Counts what has been reported, and says so."""

    def __init__(self, config: pytest.Config) -> None:
        self.reporter: Any = config.pluginmanager.get_plugin("terminalreporter")
        self.reporter._show_progress_info = False
        self.on_terminal = self.reporter.isatty
        self.every = 1.0 if self.on_terminal else 20.0
        self.begun = self.said = time.monotonic()
        self.waiting: dict[str, float] = {}
        self.total, self.seconds = 0, 0.0
        self.outcomes = {"passed": 0, "failed": 0, "skipped": 0}
        self.lock, self.ended = threading.Lock(), threading.Event()

    def expect(self, cases: Sequence[str]) -> None:
        """These are all cases that will be reported."""
        self.waiting = {case: seconds_of(case) for case in cases}
        self.total, self.seconds = len(self.waiting), sum(self.waiting.values())

    def line(self, elapsed: float) -> str:
        """What there is to say after so many seconds."""
        passed, failed, skipped = self.outcomes.values()
        words = [f"tests: {passed:,} of {self.total:,} passed", f"{failed:,} failed"]
        words += [f"{skipped:,} skipped"] * bool(skipped) + [spoken(elapsed)]
        return ", ".join(words + [f"about {spoken(left)} left" for left in self._left(elapsed)])

    def _left(self, elapsed: float) -> list[float]:
        """At most one guess: none before a tenth is done, which is what it is derived from."""
        left = sum(self.waiting.values())
        done = self.seconds - left
        return [elapsed * left / done] if self.waiting and done > self.seconds / 10 else []

    def say(self) -> None:
        """Write the line."""
        with self.lock:
            self.said = time.monotonic()
            line = self.line(self.said - self.begun)
            self.reporter._tw.write(f"\r\x1b[K{line}" if self.on_terminal else f"{line}\n", flush=True)

    def _say_now_and_then(self) -> None:
        while not self.ended.wait(self.every):
            self.say()

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self, report: Any, config: pytest.Config) -> tuple[str, str, Any] | None:
        """As pytest has it, but for the mark."""
        if getattr(report, "when", None) is None or hasattr(report, "wasxfail"):
            return None
        if report.failed:
            return ("failed", "", "FAILED") if report.when == "call" else ("error", "", "ERROR")
        if report.skipped:
            return "skipped", "", "SKIPPED"
        return ("passed", "", "PASSED") if report.when == "call" else None

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: Any, ids: Sequence[str]) -> None:
        """Each worker has collected the same."""
        if not self.total:
            self.expect(ids)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Without workers it is collected here."""
        if session.items:
            self.expect([item.nodeid for item in session.items])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count it; name it if it failed."""
        if report.failed or report.when == "call" or report.skipped:
            self.outcomes[report.outcome] += 1
        if report.failed:
            self._name(report)
        if report.when == "teardown":
            self.waiting.pop(report.nodeid, None)
        if time.monotonic() - self.said >= self.every:
            self.say()

    def _name(self, report: pytest.TestReport) -> None:
        with self.lock:
            start = "\r\x1b[K" if self.on_terminal else ""
            self.reporter._tw.line(f"{start}FAILED {report.nodeid} ({report.when}): shown whole at the end", red=True)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Generator[None, object, object]:
        """Where other processes run the tests, a thread speaks also while none of them has ended."""
        self.begun = self.said = time.monotonic()
        speaker = threading.Thread(target=self._say_now_and_then, name="progress", daemon=True)
        if self._has_workers(session.config):
            speaker.start()
        try:
            return (yield)
        finally:
            self.ended.set()
            self.say()
            self.reporter.ensure_newline()

    @staticmethod
    def _has_workers(config: pytest.Config) -> bool:
        return bool(getattr(config.option, "tx", None))


def spoken(seconds: float) -> str:
    """'45 s', '2 min 10 s'."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _file(case: str) -> str:
    return case.partition("::")[0]

"""The stress run sees failures and errors, goes on after them, and ends what it started."""

from __future__ import annotations

import importlib.util
from contextlib import nullcontext, suppress
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

import pytest

from config.settings import ROOT

REPORT = """<testsuites><testsuite>
<testcase classname="a" name="good"/>
<testcase classname="a" name="bad"><failure/></testcase>
<testcase classname="a" name="broken"><error/></testcase>
<testcase classname="a" name="left out"><skipped/></testcase>
</testsuite></testsuites>"""


@pytest.fixture(scope="module")
def stress() -> Any:
    loader = SourceFileLoader("stress", str(ROOT / "scripts" / "stress"))
    spec = importlib.util.spec_from_loader("stress", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def test_failures_and_errors_are_told_apart_from_what_passed(stress: Any, tmp_path: Path) -> None:
    (tmp_path / "report.xml").write_text(REPORT)
    found = stress.outcomes(tmp_path / "report.xml")
    assert found == {"passed": ["a::good"], "failed": ["a::bad", "a::broken"], "skipped": ["a::left out"]}


@pytest.mark.parametrize(
    ("statuses", "ends", "last"),
    [([0, 0], 0, "all 2 runs passed"), ([1, 0], 1, "1 of 2 runs failed"), ([0, 2], 1, "1 of 2 runs failed")],
)
def test_every_run_is_told_and_one_that_fails_is_enough(
    stress: Any, statuses: list[int], ends: int, last: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    left = iter(statuses)
    nothing: dict[str, list[str]] = {"passed": [], "failed": [], "skipped": []}
    monkeypatch.setattr(stress, "busy_cores", nullcontext)
    monkeypatch.setattr(stress, "run", lambda *_: (60.0, next(left), nothing, Path("log")))
    assert stress.main(["2", "tests/config"]) == ends
    told = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in told if line[:3].strip().isdigit()][-2:] == ["1", "2"]
    assert told[-1] == last


def test_the_burners_end_with_who_started_them(stress: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stress.os, "cpu_count", lambda: 1)
    started: list[Any] = []
    popen = stress.subprocess.Popen
    monkeypatch.setattr(stress.subprocess, "Popen", lambda command: started.append(popen(command)) or started[-1])
    with suppress(KeyboardInterrupt), stress.busy_cores():
        assert started[0].poll() is None
        raise KeyboardInterrupt
    assert started[0].poll() is not None

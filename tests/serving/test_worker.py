from __future__ import annotations

import pytest

from serving import worker
from serving.worker import Worker
from tests.waiting import wait_until


class Faulty(Worker):
    """Runs into what it is given, one after the other, and then works until it is stopped."""

    def __init__(self, *faults: BaseException) -> None:
        super().__init__("faulty")
        self.ahead = list(faults)
        self.runs = 0

    def _run(self) -> None:
        self.runs += 1
        if self.ahead:
            raise self.ahead.pop(0)
        with self._condition:
            while not self._stopping:
                self._condition.wait()


def test_a_thread_outlives_what_it_runs_into_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(worker, "PAUSE_SECONDS", 0.001)
    faulty = Faulty(ValueError("one"), KeyError("two"))
    assert not faulty.is_dead  # before it is started nobody misses it

    faulty.start()
    wait_until(lambda: faulty.runs == 3, "the third run")

    assert (faulty.faults, faulty.is_dead) == (2, False)
    assert "ALARM: the thread faulty ran into a fault and goes on" in caplog.text
    faulty.stop()
    assert not faulty.is_dead


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_has_ended_unasked_is_dead_and_an_alarm(caplog: pytest.LogCaptureFixture):
    faulty = Faulty(GeneratorExit())

    faulty.start()
    wait_until(lambda: faulty.is_dead, "the end of the thread")

    assert "ALARM: the thread faulty has ended: restart the process" in caplog.text

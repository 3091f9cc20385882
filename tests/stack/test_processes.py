"""Starting, waiting, refusing and stopping, with real processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
from pathlib import Path

import pytest

from stack.processes import PortTaken, Service, ServiceError, start_together
from tests.conftest import free_port
from tests.waiting import GENEROUS_SECONDS, wait_until

SLEEP = "import time; time.sleep(600)"


def python_service(tmp_path: Path, program: str, name: str = "sample", **options: object) -> Service:
    values = {
        "address": "nowhere",
        "check": lambda: None,
        "deadline": GENEROUS_SECONDS,
        "grace": GENEROUS_SECONDS,
        **options,
    }
    return Service(name, (sys.executable, "-c", program), tmp_path / "run", **values)  # type: ignore[arg-type]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_start_runs_it_and_a_second_start_finds_it_running(tmp_path: Path) -> None:
    service, said = python_service(tmp_path, SLEEP), []
    assert service.start(said.append) is True
    first = service.pid()
    assert service.start(said.append) is False
    assert service.pid() == first
    assert service.is_running()
    assert said[-1] == f"sample: already running at nowhere (pid {first})"
    assert service.stop(said.append) is True
    assert said[-1] == f"sample: stopped (pid {first})"
    assert not service.is_running()
    assert not service.pid_file.exists()


def test_two_starts_at_once_make_one_process(tmp_path: Path) -> None:
    service = python_service(tmp_path, SLEEP)
    outcomes: list[bool] = []
    threads = [threading.Thread(target=lambda: outcomes.append(service.start(lambda _: None))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == [False, True]
    service.stop()


def test_stop_without_a_start_says_so(tmp_path: Path) -> None:
    said: list[str] = []
    assert python_service(tmp_path, SLEEP).stop(said.append) is False
    assert said == ["sample: not running"]


def test_a_server_that_dies_at_its_start_shows_its_log(tmp_path: Path) -> None:
    program = "import sys; print('the database is locked'); sys.exit(3)"
    service = python_service(tmp_path, program, check=lambda: "no answer")
    with pytest.raises(ServiceError, match=r"sample ended at its start \(exit status 3\)") as failure:
        service.start()
    assert "the database is locked" in str(failure.value)
    assert str(service.log_file) in str(failure.value)
    assert not service.pid_file.exists()


def test_a_server_that_never_gets_well_is_stopped_and_says_why(tmp_path: Path) -> None:
    service = python_service(tmp_path, SLEEP, check=lambda: "no heartbeat", deadline=0.5)
    with pytest.raises(ServiceError, match=r"is not well after 0 s \(no heartbeat\)"):
        service.start()
    assert not service.is_running()


def test_a_taken_port_names_its_owner_and_the_variable(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        service = python_service(tmp_path, SLEEP, port=port, port_variable="ETA_SAMPLE_PORT")
        with pytest.raises(PortTaken) as failure:
            service.start()
    message = str(failure.value)
    assert f"port {port} is taken by process {os.getpid()}" in message
    assert "ETA_SAMPLE_PORT=<port>" in message
    assert not service.pid_file.exists()


def test_a_pid_that_belongs_to_somebody_else_now_is_never_signalled(tmp_path: Path) -> None:
    service = python_service(tmp_path, SLEEP)
    service.run_dir.mkdir(parents=True)
    service.pid_file.write_text(json.dumps({"pid": os.getpid(), "started": "another boot:1"}))
    assert service.pid() is None
    assert service.stop() is False  # this very process is still here to say so
    assert service.start() is True
    service.stop()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": "x", "started": 1}'])
def test_a_damaged_pid_file_counts_as_not_running(tmp_path: Path, content: str) -> None:
    service = python_service(tmp_path, SLEEP)
    service.run_dir.mkdir(parents=True)
    service.pid_file.write_text(content)
    assert service.pid() is None


def test_stop_ends_the_children_too(tmp_path: Path) -> None:
    note = tmp_path / "child.pid"
    program = (
        "import pathlib, subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-c', {SLEEP!r}])\n"
        f"pathlib.Path({str(note)!r}).write_text(str(child.pid))\n"
        "time.sleep(600)"
    )
    service = python_service(tmp_path, program, check=lambda: None if note.exists() else "no child yet")
    service.start()
    wait_until(note.read_text, "the number of the child")
    child = int(note.read_text())
    assert alive(child)
    service.stop()
    wait_until(lambda: not alive(child), "the end of the child")


def test_a_server_that_ignores_the_polite_way_is_killed(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    program = (
        "import pathlib, signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"pathlib.Path({str(ready)!r}).touch()\ntime.sleep(600)"
    )
    service = python_service(tmp_path, program, grace=0.5, check=lambda: None if ready.exists() else "not yet")
    said: list[str] = []
    service.start()
    service.stop(said.append)
    assert "did not end by itself: killed" in said[0]
    assert not service.is_running()


def test_status_of_a_server_that_died_points_at_its_log(tmp_path: Path) -> None:
    service = python_service(tmp_path, SLEEP)
    service.start()
    assert service.status().memory_bytes > 0
    pid = service.pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not service.is_running(), "the end of the service")
    assert (service.status().state, service.status().detail) == ("stopped", "it ended by itself: see its log")


def test_the_context_manager_stops_only_what_it_started(tmp_path: Path) -> None:
    service = python_service(tmp_path, SLEEP)
    with service, service:
        assert service.is_running()
    assert not service.is_running()
    service.start()
    with service:
        pass
    assert service.is_running()
    service.stop()


def test_an_external_server_is_checked_and_left_alone(tmp_path: Path) -> None:
    well = Service("redis", (), tmp_path, "redis://elsewhere", lambda: None)
    assert well.start() is False
    assert well.stop() is False
    ill = Service("redis", (), tmp_path, "redis://elsewhere", lambda: "connection refused")
    with pytest.raises(ServiceError, match="set by the environment, but does not answer: connection refused"):
        ill.start()


def test_starting_together_undoes_its_part_when_one_fails(tmp_path: Path) -> None:
    good = python_service(tmp_path, SLEEP, name="good")
    bad = python_service(tmp_path, "raise SystemExit('no disk')", name="bad", check=lambda: "no answer")
    before = python_service(tmp_path, SLEEP, name="before")
    before.start()
    with pytest.raises(ServiceError, match="no disk"):
        start_together([before, good, bad])
    assert not good.is_running()
    assert before.is_running()
    before.stop()


def test_the_log_of_the_previous_start_is_kept(tmp_path: Path) -> None:
    service = python_service(tmp_path, f"print('hello', flush=True); {SLEEP}")
    for _ in range(2):
        service.start()
        wait_until(lambda: "hello" in service.log_tail(), "its first word")
        service.stop()
    assert "hello" in (service.run_dir / "sample.previous.log").read_text()


def test_a_free_port_is_not_taken(tmp_path: Path) -> None:
    service = python_service(tmp_path, SLEEP, port=free_port(), port_variable="ETA_SAMPLE_PORT")
    with service:
        assert service.is_running()

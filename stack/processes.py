"""A server of the embedded stack as a value: how to start it, how to know that it is well, how to stop exactly it.

A started server is remembered by a file of its process id *and* of that process's start time, so that a pid which the
system has since given to somebody else is never signalled. Each server is the leader of a session of its own: stopping
it ends every process of that session, and nothing else. Linux only (`/proc`).
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Literal, Self

from config.settings import ROOT

Check = Callable[[], str | None]
"""Asks a server whether it is well: None when it is, else what is wrong."""

State = Literal["running", "unhealthy", "stopped"]
LOG_LINES_SHOWN = 20
_PROC = Path("/proc")


class ServiceError(RuntimeError):
    """A server could not be started, or an external one does not answer; the message says what to do."""


class PortTaken(ServiceError):
    """Something else listens on the server's port."""


@dataclass(frozen=True)
class Status:
    """What `Service.status` saw: the memory of all its processes, what they share counted once; what is wrong."""

    name: str
    state: State
    address: str
    pid: int | None = None
    memory_bytes: int = 0
    detail: str = ""


@dataclass(frozen=True)
class Service:
    """A server that `start` starts, waits for and remembers, and that `stop` stops.

    Parameters
    ----------
    name : str
        Its name, also that of its pid and log file.
    command : tuple of str
        What is executed; empty for an external server, which is only checked.
    run_dir : Path
        Where its pid and log files are kept.
    address : str
        Where a person finds it.
    check : callable
        Its health check.
    host, port, port_variable : str, int or None, str
        Where it listens, and the variable that changes the port; no port, no check for a taken one.
    environment : mapping of str to str
        Added to this process's environment.
    prepare : callable, optional
        Makes what it needs before each start (directories, a database).
    deadline : float
        Seconds within which it must be well.
    settle : float
        Seconds for which it must live before it counts as well (for servers without a port).
    grace : float
        Seconds between the polite and the hard way to stop it.
    """

    name: str
    command: tuple[str, ...]
    run_dir: Path
    address: str
    check: Check
    host: str = "127.0.0.1"
    port: int | None = None
    port_variable: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    prepare: Callable[[], None] | None = None
    deadline: float = 60.0
    settle: float = 0.0
    grace: float = 15.0
    _started_here: list[bool] = field(default_factory=list, compare=False, repr=False)

    @property
    def external(self) -> bool:
        """Whether somebody else runs it: then it is checked, never started or stopped."""
        return not self.command

    @property
    def pid_file(self) -> Path:
        return self.run_dir / f"{self.name}.pid"

    @property
    def log_file(self) -> Path:
        return self.run_dir / f"{self.name}.log"

    def start(self, progress: Callable[[str], None] = print) -> bool:
        """Start it unless it runs, and wait until it is well.

        Parameters
        ----------
        progress : callable
            Gets a line of text at each step, and now and then while it waits.

        Returns
        -------
        bool
            Whether this call started it.

        Raises
        ------
        PortTaken
            Something else has its port; the message names both, and the variable that changes the port.
        ServiceError
            It died, or was not well in time: the message has the end of its log. Nothing is left running.
        """
        if self.external:
            self._check_external(progress)
            return False
        self.run_dir.mkdir(parents=True, exist_ok=True)
        with self._locked():
            if pid := self.pid():
                self._wait(pid, None, progress)
                progress(f"{self.name}: already running at {self.address} (pid {pid})")
                return False
            self._refuse_taken_port()
            if self.prepare:
                self.prepare()
            progress(f"{self.name}: starting")
            began = time.monotonic()
            process = self._launch()
            try:
                self._wait(process.pid, process, progress)
            except BaseException:
                self._end()
                raise
            progress(f"{self.name}: running at {self.address} (pid {process.pid}, {time.monotonic() - began:.1f} s)")
            return True

    def stop(self, progress: Callable[[str], None] = print) -> bool:
        """Stop what `start` started, politely, then hard after `grace` seconds.

        Returns
        -------
        bool
            Whether there was something to stop. An external server, or a process that only has the remembered pid by
            chance, is left alone.
        """
        if self.external:
            progress(f"{self.name}: not ours ({self.address}), left alone")
            return False
        pid = self.pid()
        if pid is None:
            self.pid_file.unlink(missing_ok=True)
            progress(f"{self.name}: not running")
            return False
        hard = self._end()
        progress(f"{self.name}: stopped (pid {pid}{', did not end by itself: killed' if hard else ''})")
        return True

    def pid(self) -> int | None:
        """The process id of the running server; None when that process is gone."""
        try:
            remembered = json.loads(self.pid_file.read_text())
            pid, started = int(remembered["pid"]), str(remembered["started"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return pid if _birth(pid) == started else None

    def is_running(self) -> bool:
        """Whether it runs; for an external server, whether it answers."""
        return self.check() is None if self.external else self.pid() is not None

    def status(self) -> Status:
        """Its state now, with the memory of its processes."""
        pid = self.pid()
        if not self.external and pid is None:
            detail = "it ended by itself: see its log" if self.pid_file.exists() else ""
            return Status(self.name, "stopped", self.address, detail=detail)
        wrong = self.check()
        memory = _memory(_session(pid)) if pid else 0
        return Status(self.name, "unhealthy" if wrong else "running", self.address, pid, memory, wrong or "")

    def log_tail(self, lines: int = LOG_LINES_SHOWN) -> str:
        """The last lines of its log."""
        try:
            return "\n".join(self.log_file.read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""

    def __enter__(self) -> Self:
        self._started_here.append(self.start(progress=lambda _: None))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._started_here.pop():
            self.stop(progress=lambda _: None)

    def _check_external(self, progress: Callable[[str], None]) -> None:
        if wrong := self.check():
            raise ServiceError(f"{self.name} at {self.address} is set by the environment, but does not answer: {wrong}")
        progress(f"{self.name}: external, answers at {self.address}")

    def _refuse_taken_port(self) -> None:
        if self.port is None or not _is_taken(self.host, self.port):
            return
        raise PortTaken(
            f"{self.name}: port {self.port} is taken by {_listener(self.port)}. "
            f"Stop that, or choose another port: {self.port_variable}=<port> (environment or .env)"
        )

    def _launch(self) -> subprocess.Popen[bytes]:
        if self.log_file.exists():
            self.log_file.replace(self.log_file.with_suffix(".previous.log"))
        with self.log_file.open("wb") as log:
            process = subprocess.Popen(
                self.command,
                cwd=ROOT,
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        temporary = self.pid_file.with_suffix(".tmp")
        temporary.write_text(json.dumps({"pid": process.pid, "started": _birth(process.pid)}) + "\n")
        temporary.replace(self.pid_file)
        return process

    def _wait(self, pid: int, process: subprocess.Popen[bytes] | None, progress: Callable[[str], None]) -> None:
        began = time.monotonic()
        pause = 5.0
        next_word = began + pause
        while True:
            code = process.poll() if process else None
            if code is not None or self.pid() != pid:
                raise self._failure(f"ended at its start (exit status {code})")
            wrong = self.check()
            now = time.monotonic()
            if wrong is None and (process is None or now - began >= self.settle):
                return
            if now - began > self.deadline:
                raise self._failure(f"is not well after {self.deadline:.0f} s ({wrong})")
            if now >= next_word:
                progress(f"{self.name}: waiting, {now - began:.0f} s ({wrong or 'settling'})")
                pause = min(2 * pause, 30.0)
                next_word += pause
            time.sleep(0.1)

    def _failure(self, what: str) -> ServiceError:
        tail = self.log_tail() or "(empty)"
        return ServiceError(f"{self.name} {what}. The end of its log, {self.log_file}:\n{tail}")

    def _end(self) -> bool:
        """End its session; return whether it took the hard way."""
        pid = self.pid()
        members = _session(pid) if pid else []
        hard = False
        if pid:
            _signal(members, signal.SIGTERM)
            hard = not _gone(pid, self.grace)
            if hard:
                _signal(_session(pid), signal.SIGKILL)
                _gone(pid, 5.0)
        self.pid_file.unlink(missing_ok=True)
        return hard

    @contextmanager
    def _locked(self) -> Iterator[IO[str]]:
        """Two `start`s at the same time: the second waits for the first, then finds it running."""
        with (self.run_dir / f"{self.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield lock


def start_together(services: Sequence[Service], progress: Callable[[str], None] = print) -> list[Service]:
    """Start the servers at the same time, since each of them mostly waits for its imports.

    Returns
    -------
    list of Service
        Those that this call started.

    Raises
    ------
    ServiceError
        Some could not be started: one message for all. Those that this call did start are stopped again.
    """
    started: list[Service] = []
    failures: list[ServiceError] = []

    def start(service: Service) -> None:
        try:
            if service.start(progress):
                started.append(service)
        except ServiceError as error:
            failures.append(error)

    try:
        with ThreadPoolExecutor(max_workers=max(1, len(services))) as pool:
            list(pool.map(start, services))
        if failures:
            raise ServiceError("\n\n".join(str(error) for error in failures))
    except BaseException:
        for service in reversed(started):
            service.stop(progress)
        raise
    return started


def _stat(pid: int) -> list[str]:
    """The fields of `/proc/<pid>/stat` from the third (state) on; empty when there is no such process."""
    try:
        return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _birth(pid: int) -> str | None:
    """What identifies a process for good: the boot, and its start in clock ticks since; None for a dead one."""
    fields = _stat(pid)
    if not fields or fields[0] in "ZX":
        return None
    boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}:{fields[19]}"


def _session(leader: int) -> list[int]:
    """The living processes of the session that `leader` leads."""
    everyone = (int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit())
    found = ((pid, _stat(pid)) for pid in everyone)
    return [pid for pid, fields in found if fields and fields[0] not in "ZX" and int(fields[3]) == leader]


def _memory(pids: list[int]) -> int:
    return sum(_proportional_memory(pid) for pid in pids)


def _proportional_memory(pid: int) -> int:
    """Resident bytes of a process, a page that n processes share counted as 1/n."""
    try:
        lines = (_PROC / str(pid) / "smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def _gone(leader: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while _session(leader):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _is_taken(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a closed connection in TIME_WAIT is no listener
        try:
            probe.bind((host, port))
        except OSError:
            return True
    return False


def _listener(port: int) -> str:
    """Who listens on `port`, as far as this user may see."""
    inodes = {f"socket:[{inode}]" for inode in _listening_inodes(port)}
    for entry in _PROC.iterdir():
        if entry.name.isdigit() and _holds(entry, inodes):
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            return f"process {entry.name} ({command[:120]})"
    return "a process of another user"


def _listening_inodes(port: int) -> Iterator[str]:
    for table in ("tcp", "tcp6"):
        path = _PROC / "net" / table
        for line in path.read_text().splitlines()[1:] if path.exists() else []:
            fields = line.split()
            if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                yield fields[9]


def _holds(process: Path, inodes: set[str]) -> bool:
    try:
        return any(str(handle.readlink()) in inodes for handle in (process / "fd").iterdir())
    except OSError:
        return False

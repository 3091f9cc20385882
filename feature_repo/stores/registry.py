"""The Feast registry's database, chosen by the settings and not by the directory in which a command runs.

`feature_store.yaml` cannot express it: its variables have no defaults, and a relative SQLite URL depends on the current
directory. SQLAlchemy's documented hook for changing a URL is an engine plugin, so the file names this one.
"""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Engine, event, make_url
from sqlalchemy.engine import CreateEnginePlugin

from config import get_settings

BUSY_TIMEOUT_SECONDS = 30
"""How long one process waits for another one's write: a whole `feast apply` takes less than a second."""


class RegistryFromSettings(CreateEnginePlugin):
    """Point an engine at `Settings.feast_registry_url`, and let concurrent commands share a SQLite registry.

    Notes
    -----
    Each object is one short transaction whose first statement under a lock is the write itself, so waiting for the
    lock is enough: a writer never holds a stale snapshot. `BEGIN IMMEDIATE` would be stricter but cannot be used, as
    Feast opens a second connection, which writes, inside of a transaction of the first. The tables are made under a
    lock of ours, because Feast looks which are missing and then creates them, and two processes would both try.
    """

    def update_url(self, url: URL) -> URL:
        """The settings' URL; the directory of a SQLite file is made if it is not there."""
        target = make_url(get_settings().feast_registry_url)
        if target.get_backend_name() == "sqlite" and target.database not in (None, "", ":memory:"):
            Path(str(target.database)).parent.mkdir(parents=True, exist_ok=True)
        return target

    def engine_created(self, engine: Engine) -> None:
        """Let every connection of a SQLite engine wait for others, and make the tables, one process at a time."""
        if engine.dialect.name in ("sqlite", "postgresql"):
            event.listen(engine, "before_cursor_execute", _first_writer_wins, retval=True)
        if engine.dialect.name != "sqlite":
            return
        event.listen(engine, "connect", _configure_sqlite)
        if engine.url.database not in (None, "", ":memory:"):
            from feast.infra.registry.sql import metadata

            with Path(f"{engine.url.database}.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                metadata.create_all(engine)


def _first_writer_wins(
    _connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool
) -> tuple[str, Any]:
    """Two first writers both find no note of the last update, and both insert one: the later one's is not needed."""
    if statement.startswith("INSERT INTO feast_metadata "):
        statement += " ON CONFLICT DO NOTHING"
    return statement, parameters


def _configure_sqlite(connection: Any, _record: object) -> None:
    connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_SECONDS * 1000}")
    connection.execute("PRAGMA journal_mode = WAL")

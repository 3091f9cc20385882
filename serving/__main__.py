"""`python -m serving`: one process that answers on `settings.host:settings.serving_port` until it is told to stop."""

from __future__ import annotations

import gc
import logging
import signal
import sys
import time
from functools import partial

import uvicorn
from pydantic import ValidationError

from config import Settings, get_settings
from serving.app import create_app
from serving.server import Protocol, Server, bind
from serving.service import Service

GRACE_SECONDS = 10

SWITCH_SECONDS = 1e-4
"""How long the log's thread may keep the interpreter while a request wants it. Python's 5 ms would be paid at each of
the handful of points where a request lets go of it."""


def main() -> None:
    """Serve until SIGTERM or SIGINT.

    Then requests are taken for `ETA_DRAIN_SECONDS` more, what is being answered is finished, and what was predicted is
    logged. The exit status is 0, or 1 if some of it could not be logged.
    """
    started = time.perf_counter()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # one line per poll of the registry otherwise
    sys.setswitchinterval(SWITCH_SECONDS)
    settings = _settings()
    listener = bind(settings.host, settings.serving_port)
    service = _service(settings)
    # uvicorn shuts down in order and then raises the signal once more: it ends the process as it should.
    for ending in (signal.SIGTERM, signal.SIGINT):
        signal.signal(ending, lambda *_: sys.exit(exit_status(service)))
    app = create_app(service=service)
    gc.collect()
    gc.freeze()  # what the libraries hold stays; looking through it again and again would stop requests for a while
    logging.getLogger(__name__).info(
        "serving on %s, API docs at %s/docs (start-up %.2f s)",
        settings.serving_url,
        settings.serving_url,
        time.perf_counter() - started,
    )
    config = uvicorn.Config(
        app,
        http=Protocol,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    Server(config, settings.drain_seconds, partial(setattr, service, "draining", True)).run(sockets=[listener])


def exit_status(service: Service) -> int:
    """1 if predictions were answered and could not be logged any more, else 0."""
    return 1 if service.log.lost_at_end else 0


def _settings() -> Settings:
    try:
        return get_settings()
    except ValidationError as error:
        raise SystemExit(f"serving: the settings are not valid: {error}") from None  # its cause shows the values


def _service(settings: Settings) -> Service:
    try:
        return Service(settings)
    except ValueError as error:
        raise SystemExit(f"serving: {error}") from None


if __name__ == "__main__":
    main()

from __future__ import annotations

import socket
from contextlib import suppress
from pathlib import Path

import pytest

from config import Settings
from serving.bundle import Bundle
from serving.lookup import CircuitBreaker, StoreLookup
from serving.predictor import LookupFailed
from serving.wire import at_once
from tests.conftest import free_port
from tests.serving.conftest import NOON, fill_store

ROW = [{"restaurant_id": "r1", "driver_id": None, "zone_id": "z1"}]


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_failures_in_a_row_open_the_breaker_and_one_caller_per_cool_down_tries_until_one_succeeds():
    clock = Clock()
    breaker = CircuitBreaker(3, 1.0, clock)
    for outcome in (breaker.failed, breaker.failed, breaker.succeeded, breaker.failed, breaker.failed):
        outcome()
    assert (breaker.allows(), breaker.is_open) == (True, False)

    breaker.failed()
    clock.now += 0.99
    assert (breaker.allows(), breaker.is_open) == (False, True)

    clock.now += 0.01
    assert [breaker.allows(), breaker.allows(), breaker.is_open] == [True, False, True]

    breaker.succeeded()
    assert [breaker.allows(), breaker.allows(), breaker.is_open] == [True, True, False]


def test_a_dead_store_is_asked_three_times_and_found_again_after_the_cool_down(
    bundle_dir: Path, settings: Settings, redis_url: str, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("INFO", "serving.lookup")
    store = StoreLookup(settings.model_copy(update={"redis_url_override": f"redis://127.0.0.1:{free_port()}/0"}))
    clock = Clock()
    store.breaker.monotonic = clock
    lookup = store.for_bundle(Bundle.load(bundle_dir))
    for _ in range(3):
        with pytest.raises(LookupFailed, match="does not answer"):
            at_once(lookup.read(ROW, [NOON]))
    with pytest.raises(LookupFailed, match="failed a moment ago"):
        at_once(lookup.read(ROW, [NOON]))
    ready, detail = store.ping()
    assert not ready
    assert detail.endswith("the circuit breaker is open: one request per second asks Redis")

    fill_store(redis_url)
    lookup.reader = StoreLookup(settings).for_bundle(Bundle.load(bundle_dir)).reader
    with pytest.raises(LookupFailed, match="failed a moment ago"):
        at_once(lookup.read(ROW, [NOON]))
    clock.now += 1

    assert at_once(lookup.read(ROW, [NOON]))[0][0].values == [40, 30.5, 20]
    assert not store.breaker.is_open
    at_once(lookup.read(ROW, [NOON]))
    warned, told = caplog.messages  # once each, however many requests were answered meanwhile
    assert warned.startswith("answers are degraded: Redis at 127.0.0.1:")
    assert told == "the online store answers again"


def test_a_store_that_accepts_but_never_answers_costs_its_time_out_three_times(bundle_dir: Path, settings: Settings):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        store = StoreLookup(settings.model_copy(update={"redis_url_override": url, "online_timeout_ms": 50}))
        store.breaker.monotonic = Clock()
        lookup = store.for_bundle(Bundle.load(bundle_dir))
        for _ in range(20):
            with pytest.raises(LookupFailed):
                at_once(lookup.read(ROW, [NOON]))
        assert waiting_connections(silent) == 3


def waiting_connections(listener: socket.socket) -> int:
    """How many have been opened to a server that has taken none yet."""
    listener.setblocking(False)
    taken = 0
    with suppress(BlockingIOError):
        while True:
            listener.accept()[0].close()
            taken += 1
    return taken


def test_ping_says_what_to_do(settings: Settings, redis_url: str):
    dead = StoreLookup(settings.model_copy(update={"redis_url_override": f"redis://127.0.0.1:{free_port()}/0"}))

    assert StoreLookup(settings).ping() == (True, "Redis answers")
    ok, detail = dead.ping()
    assert not ok
    assert "start it (make up); answers are degraded until then" in detail

"""Live mode, against a real HTTP server on loopback."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from config import Settings
from simulator import stream
from simulator.drills import Drill
from simulator.errors import SimulatorError
from simulator.generate import placed_between, start_drill, write_history
from simulator.landing import Landing
from tests.conftest import free_port
from tests.simulator.conftest import END, landed

NOON = END + timedelta(hours=12)


class Service:
    """A stand-in for the prediction service: remembers requests, answers as told."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict, str | None]] = []
        self.status = 200
        self.is_valid = lambda order: True
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests.append((self.path, body, self.headers["X-API-Key"]))
                succeeded = sum(outer.is_valid(order) for order in body["orders"])
                self.send_response(outer.status)
                self.end_headers()
                answer = {"succeeded": succeeded, "failed": len(body["orders"]) - succeeded}
                self.wfile.write(json.dumps(answer).encode())

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]

    def orders(self) -> list[dict]:
        return [order for _, body, _ in self.requests for order in body["orders"]]


@pytest.fixture
def service() -> Iterator[Service]:
    service = Service()
    thread = threading.Thread(target=service.server.serve_forever)
    thread.start()
    yield service
    service.server.shutdown()
    thread.join()
    service.server.server_close()


@pytest.fixture
def asker(service) -> Iterator[stream.Asker]:
    asker = stream.Asker(Settings(serving_port=service.port, api_key="a-secret"))
    yield asker
    asker.close()


@pytest.fixture(scope="module")
def noon_world(tmp_path_factory):
    out = tmp_path_factory.mktemp("noon") / "landing"
    write_history(out, NOON, days=2, orders=4_000, seed=3)
    return out


@pytest.fixture
def out(tmp_path, noon_world):
    return shutil.copytree(noon_world, tmp_path / "landing")


def test_each_order_is_asked_about_once_with_the_key_and_without_unknown_fields(out, service, asker):
    results = [stream.tick(out, NOON + timedelta(minutes=minutes), asker) for minutes in (1, 2, 30)]
    placed = placed_between(out, NOON - stream.OVERLAP, NOON + timedelta(minutes=30))
    assert sum(result["predicted"] for result in results) == len(service.orders()) == placed.height > 20
    assert {order["order_id"] for order in service.orders()} == set(placed["order_id"])
    assert {key for _, _, key in service.requests} == {"a-secret"}
    assert all(value is not None for order in service.orders() for value in order.values())
    assert service.orders()[0]["placed_at"].endswith("+00:00")


def test_orders_are_written_when_the_service_is_down(out, caplog):
    asker = stream.Asker(Settings(serving_port=free_port()))
    now = NOON + timedelta(minutes=30)
    result = stream.tick(out, now, asker)
    asker.close()
    placed = placed_between(out, NOON - stream.OVERLAP, now)
    assert (result["predicted"], result["unanswered"]) == (0, placed.height)
    assert "no prediction from" in caplog.text
    assert "orders are written anyway" in caplog.text
    assert set(landed(out)["order_id"]) >= set(placed["order_id"])
    assert Landing(out).watermark() == now


def test_refused_rows_are_counted(out, service, asker):
    service.is_valid = lambda order: order["item_count"] > 1
    result = stream.tick(out, NOON + timedelta(minutes=30), asker)
    assert result["refused"] == sum(order["item_count"] == 1 for order in service.orders()) > 0
    assert result["predicted"] == len(service.orders()) - result["refused"] > 0


def test_a_refused_key_is_logged(out, service, asker, caplog):
    service.status = 401
    assert stream.tick(out, NOON + timedelta(minutes=30), asker)["refused"] > 0
    assert "answered 401" in caplog.text


def test_after_a_long_pause_everything_is_written_and_only_the_last_hour_asked_about(out, service, asker):
    now = NOON + timedelta(hours=9)
    stream.tick(out, now, asker)
    assert Landing(out).watermark() == now
    asked = {order["order_id"] for order in service.orders()}
    assert asked == set(placed_between(out, now - stream.ASK_BACK, now)["order_id"])
    assert len(asked) < placed_between(out, NOON, now).height


def test_a_world_ahead_of_the_clock_waits(out, service, asker):
    before = landed(out)
    assert stream.tick(out, NOON - timedelta(hours=1), asker)["rows"] == 0
    assert_frame_equal(landed(out), before)
    assert service.requests == []


def test_an_outage_holds_back_orders_and_questions(out, service, asker):
    start_drill(out, Drill("outage", NOON, NOON + timedelta(minutes=20)))
    assert stream.tick(out, NOON + timedelta(minutes=10), asker)["rows"] == 0
    assert max(order["placed_at"] for order in service.orders()) < NOON.isoformat()
    assert stream.tick(out, NOON + timedelta(minutes=30), asker)["rows"] > 0


def test_the_loop_ticks_with_its_clock_until_told_to_stop(out, service):
    instants = iter([NOON + timedelta(minutes=1), NOON + timedelta(minutes=2), NOON + timedelta(minutes=3)])
    waits: list[float] = []

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        return len(waits) == 3

    settings = Settings(serving_port=service.port)
    assert stream.run(out, settings, 60.0, clock=lambda: next(instants), wait=wait) == 3
    assert Landing(out).watermark() == NOON + timedelta(minutes=3)
    assert all(0 <= seconds <= 60 for seconds in waits)


def test_the_loop_survives_a_tick_that_cannot_write(out, service, caplog):
    instants = iter([NOON + timedelta(minutes=1), NOON + timedelta(minutes=2)])
    locked = ExitStack()
    locked.enter_context(Landing(out).locked())
    waits: list[float] = []

    def release_and_wait(seconds: float) -> bool:
        locked.close()
        waits.append(seconds)
        return len(waits) == 2

    stream.run(out, Settings(), clock=lambda: next(instants), wait=release_and_wait, ask=False)
    assert "nothing written" in caplog.text
    assert Landing(out).watermark() == NOON + timedelta(minutes=2)


def test_a_stream_without_a_world_makes_one_that_ends_now(tmp_path):
    stream.ensure_history(tmp_path, NOON, days=1, orders=100)
    first = landed(tmp_path)
    stream.ensure_history(tmp_path, NOON + timedelta(hours=1), days=1, orders=100)
    assert_frame_equal(landed(tmp_path), first)
    assert first.select(pl.col("placed_at").max()).item() < NOON


def test_a_stream_does_not_write_into_the_folder_of_another_source(out):
    mark = out / "_watermark.json"
    mark.write_text(mark.read_text().replace('"simulator"', '"case_study"'))
    with pytest.raises(SimulatorError, match="case_study"):
        stream.ensure_history(out, NOON)

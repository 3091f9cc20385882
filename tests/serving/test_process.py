"""`python -m serving` as a process: started, stopped, cut off from its parts, switched to another model."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from config import Settings
from feature_repo.window import Window
from serving.prediction_log import read_predictions
from serving.predictor import STORE_DOWN
from tests.servers import RedisServer
from tests.serving.conftest import KEY, ROOT, BundleMaker, ServingProcess, fill_store
from tests.waiting import GENEROUS_SECONDS

ORDER = {"restaurant_id": "r1", "driver_id": "d1", "zone_id": "z1", "distance_km": 2.0}
Serve = Callable[..., AbstractContextManager[ServingProcess]]


def logged(settings: Settings) -> list[str]:
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    span = Window(today - timedelta(days=2), today + timedelta(days=2))
    return read_predictions(settings, span)["prediction_id"].to_list()


def an_hour_ago() -> datetime:
    """The servers of these tests ask the clock."""
    return datetime.now(UTC) - timedelta(hours=1)


@pytest.fixture
def store(redis_url: str) -> str:
    """URL of a Redis in which r1, d1 and z1 have fresh values."""
    fill_store(redis_url, an_hour_ago())
    return redis_url


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path)
    fill_store(server.url, an_hour_ago())
    yield server
    server.kill()


def test_sigterm_logs_what_was_predicted_and_ends_well(serve: Serve, bundle_dir: Path, store: str, settings: Settings):
    with serve(ETA_MODEL_DIR=str(bundle_dir)) as server:
        answered = [server.client.post("/predict", json=ORDER).json()["prediction_id"] for _ in range(5)]

        assert server.terminate() == 0

    assert sorted(logged(settings)) == sorted(answered)


def test_sigterm_that_loses_rows_is_no_good_end(serve: Serve, bundle_dir: Path, store: str, settings: Settings):
    settings.predictions.parent.mkdir(parents=True)
    settings.predictions.write_text("a file where a directory should be")
    with serve(ETA_MODEL_DIR=str(bundle_dir)) as server:
        assert server.client.post("/predict", json=ORDER).is_success

        assert server.terminate() == 1

    assert "ALARM: 1 predictions could not be logged and are lost" in server.log.read_text()


def test_sigterm_under_load_answers_what_it_took_and_logs_all_of_it(
    serve: Serve, bundle_dir: Path, store: str, settings: Settings
):
    answered: list[str] = []
    statuses: set[int] = set()

    def ask_until_it_is_gone() -> None:
        with httpx.Client(base_url=server.url, headers=KEY, trust_env=False) as client:
            while True:
                try:
                    answer = client.post("/predict", json=ORDER)
                except httpx.TransportError:
                    return
                statuses.add(answer.status_code)
                answered.append(answer.json()["prediction_id"])

    with serve(ETA_MODEL_DIR=str(bundle_dir)) as server:
        clients = [threading.Thread(target=ask_until_it_is_gone) for _ in range(4)]
        for client in clients:
            client.start()
        server.wait_for(lambda: len(answered) > 50, "fifty answers")
        assert server.terminate() == 0
        for client in clients:
            client.join()

    found = logged(settings)
    assert statuses == {200}
    assert set(answered) <= set(found)
    assert len(found) - len(answered) <= len(
        clients
    )  # of each, one answer at most was on its way to a closed connection


def test_sigkill_loses_at_most_the_last_second(serve: Serve, bundle_dir: Path, store: str, settings: Settings):
    with serve(ETA_MODEL_DIR=str(bundle_dir)) as server:
        answered = server.client.post("/predict", json=ORDER).json()["prediction_id"]
        server.wait_for(
            lambda: "eta_log_written_rows_total 1.0" in server.client.get("/metrics").text, "a row of the log"
        )
        server.process.kill()
        server.process.wait()

    assert logged(settings) == [answered]


def test_redis_stopped_and_frozen_degrades_and_redis_back_recovers(
    serve: Serve, bundle_dir: Path, own_redis: RedisServer
):
    def status() -> str:
        answer = server.client.post("/predict", json=ORDER)
        assert answer.status_code == 200
        return str(answer.json()["status"])

    with serve(ETA_MODEL_DIR=str(bundle_dir), ETA_REDIS_URL=own_redis.url, ETA_ONLINE_TIMEOUT_MS="200") as server:
        server.wait_for(lambda: status() == "ok", "a first good answer")

        with own_redis.frozen():
            server.wait_for(lambda: status() == "degraded", "an answer without Redis")
        server.wait_for(lambda: status() == "ok", "a good answer again")

        own_redis.kill()
        found = server.client.post("/predict", json=ORDER).json()
        assert found["status"] == "degraded"
        assert found["reasons"] == [STORE_DOWN]
        assert found["missing_features"][:5] == [
            "restaurant_stats__order_count_7d",
            "restaurant_stats__delivery_minutes_mean_28d",
            "restaurant_stats__order_value_mean_28d",
            "driver_stats__delivery_minutes_mean_28d",
            "zone_stats__open_order_count",
        ]
        assert 0 < found["delivery_minutes"] < 180
        ready = server.client.get("/ready")
        assert (ready.status_code, ready.json()["parts"]["online_store"]["ok"]) == (200, False)
        assert [status(), status()] == ["degraded"] * 2  # three failures in a row: from now on it is left alone
        assert "eta_online_store_up 0.0" in server.client.get("/metrics").text

        own_redis.start()
        fill_store(own_redis.url, an_hour_ago())
        server.wait_for(lambda: status() == "ok", "a good answer after the restart")


def test_a_changed_model_directory_is_picked_up_without_losing_a_request(
    serve: Serve, make_bundle: BundleMaker, store: str, tmp_path: Path
):
    directory = tmp_path / "model"
    shutil.copytree(make_bundle(), directory)

    def answer() -> dict:
        response = server.client.post("/predict", json=ORDER)
        assert response.status_code == 200
        return response.json()

    with serve(ETA_MODEL_DIR=str(directory), ETA_CHAMPION_POLL_SECONDS="0.1") as server:
        before = answer()
        (directory / "bundle.json").write_text("{")
        server.wait_for(lambda: answer() is not None and "ALARM" in server.log.read_text(), "the alarm")
        assert answer()["model"] == before["model"]

        shutil.copytree(make_bundle(shift=5.0), directory, dirs_exist_ok=True)
        server.wait_for(lambda: answer()["model"] != before["model"], "the other model")

        assert answer()["delivery_minutes"] == pytest.approx(before["delivery_minutes"] + 5, abs=1e-3)


def test_a_taken_port_and_wrong_settings_are_explained_at_once():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        busy = run_serving(ETA_SERVING_PORT=port)
    secret = run_serving(ETA_ENVIRONMENT="production")

    assert busy.returncode == 1
    assert busy.stderr.endswith(
        f"serving: 127.0.0.1:{port} is taken by another program. Stop it, or choose another port: ETA_SERVING_PORT\n"
    )
    hidden = run_serving(ETA_REDIS_URL="redis://:hunter#2@host:6379/0")
    assert (hidden.returncode, "hunter" in hidden.stderr) == (1, False)
    assert hidden.stderr.startswith("serving: ETA_REDIS_URL is no address of a Redis: redis://[user:password@]host")
    assert secret.returncode == 1
    assert "ETA_API_KEY has its development default" in secret.stderr


def run_serving(**environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "serving"]
    variables = {**os.environ, **environment}
    return subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)


def test_an_answer_goes_out_in_one_piece_and_a_head_alone_at_once(serve: Serve, bundle_dir: Path, store: str):
    with serve(ETA_MODEL_DIR=str(bundle_dir)) as server, socket.create_connection(("127.0.0.1", server.port)) as client:
        client.settimeout(GENEROUS_SECONDS)
        client.sendall(b"HEAD /health HTTP/1.1\r\nHost: h\r\n\r\n")
        assert client.recv(65_536).startswith(b"HTTP/1.1 200 OK\r\n")
        client.sendall(b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n")
        assert client.recv(65_536).endswith(b'\r\n\r\n{"status":"ok"}')
        client.sendall(b"GET /health HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        assert client.recv(65_536).endswith(b'\r\n\r\n{"status":"ok"}')
        assert client.recv(65_536) == b""


def test_after_the_first_sigterm_requests_are_answered_and_sent_elsewhere_until_the_second(
    serve: Serve, bundle_dir: Path, store: str
):
    with serve(ETA_MODEL_DIR=str(bundle_dir), ETA_DRAIN_SECONDS="60") as server:
        assert server.client.get("/ready").status_code == 200
        server.process.terminate()
        server.wait_for(lambda: server.client.get("/ready").status_code == 503, "the end to be told")

        answer = server.client.post("/predict", json=ORDER)
        assert (answer.status_code, answer.headers["connection"]) == (200, "close")

        assert server.terminate() == 0


PREDICT_AND_LIST_MODULES = """
import json, sys, time
begin = time.perf_counter()
from config import get_settings
from serving.app import create_app
from serving.predictor import Order
from serving.service import Asked
from serving.wire import at_once
from feature_repo.window import as_utc
app = create_app(get_settings())
service = app.state.service
service.start()
ready = time.perf_counter() - begin
placed = as_utc("2026-05-01T12:00:00+00:00")
orders = [Order("r1", placed, order_value=3.0), Order("r2", placed)]
at_once(service.predict(orders, [Asked("q", begin)] * 2))
service.log.flush()
service.stop()
assert service.log.written == 2
print(json.dumps({"seconds": ready, "modules": sorted(sys.modules)}))
"""


def test_the_request_path_imports_no_heavy_library(settings: Settings, bundle_dir: Path, store: str):
    variables = {**os.environ, "ETA_MODEL_DIR": str(bundle_dir)}
    command = [sys.executable, "-c", PREDICT_AND_LIST_MODULES]
    printed = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=True).stdout
    found = json.loads(printed)

    heavy = {"feast", "mlflow", "pandas", "sklearn", "airflow", "polars", "great_expectations", "evidently", "duckdb"}
    assert heavy.isdisjoint(found["modules"])
    assert "onnxruntime" in found["modules"]
    print(f"\nserving: ready in {found['seconds']:.2f} s")


def test_the_default_instant_is_now(serve: Serve, bundle_dir: Path, store: str):
    before = datetime.now(UTC)
    with serve(ETA_MODEL_DIR=str(bundle_dir)) as server:
        found = server.client.post("/predict", json={"restaurant_id": "r1"}).json()

    placed = datetime.fromisoformat(found["as_of"])
    assert before <= placed <= datetime.now(UTC)

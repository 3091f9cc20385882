"""A small real model in a bundle, values in a real Redis as Feast writes them, and a server process to talk to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import redis

from config import Settings
from feature_repo.transforms.request_time import REQUEST_FUNCTION_VERSION
from tests.conftest import free_port
from tests.waiting import GENEROUS_SECONDS, wait_until

ROOT = Path(__file__).resolve().parents[2]
NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
KEY = {"X-API-Key": "development-only"}

VIEWS = [
    {
        "name": "restaurant_stats",
        "join_key": "restaurant_id",
        "ttl_seconds": 26 * 3600,
        "features": ["order_count_7d", "delivery_minutes_mean_28d", "order_value_mean_28d"],
    },
    {
        "name": "driver_stats",
        "join_key": "driver_id",
        "ttl_seconds": 26 * 3600,
        "features": ["delivery_minutes_mean_28d"],
    },
    {"name": "zone_stats", "join_key": "zone_id", "ttl_seconds": 26 * 3600, "features": ["open_order_count"]},
]

INPUTS = [
    ("restaurant_stats__order_count_7d", "view", "restaurant_stats", "order_count_7d"),
    ("restaurant_stats__delivery_minutes_mean_28d", "view", "restaurant_stats", "delivery_minutes_mean_28d"),
    ("restaurant_stats__order_value_mean_28d", "view", "restaurant_stats", "order_value_mean_28d"),
    ("driver_stats__delivery_minutes_mean_28d", "view", "driver_stats", "delivery_minutes_mean_28d"),
    ("zone_stats__open_order_count", "view", "zone_stats", "open_order_count"),
    ("distance_km", "request", None, "distance_km"),
    ("item_count", "request", None, "item_count"),
    ("order_value", "request", None, "order_value"),
    ("request_features__hour_of_day_cos", "on_demand", "request_features", "hour_of_day_cos"),
    ("request_features__is_peak_hour", "on_demand", "request_features", "is_peak_hour"),
    (
        "request_features__order_value_to_restaurant_mean",
        "on_demand",
        "request_features",
        "order_value_to_restaurant_mean",
    ),
]
NAMES = [name for name, *_ in INPUTS]

BundleMaker = Callable[..., Path]


def train_onnx() -> tuple[Any, np.ndarray, np.ndarray]:
    """A gradient boosting on synthetic minutes, as ONNX, with five rows and scikit-learn's own predictions of them."""
    from skl2onnx import to_onnx
    from sklearn.ensemble import HistGradientBoostingRegressor
    from threadpoolctl import threadpool_limits

    generator = np.random.default_rng(7)
    inputs = generator.uniform(0, 40, size=(400, len(INPUTS))).astype(np.float32)
    inputs[generator.random(inputs.shape) < 0.2] = np.nan
    minutes = 20 + 0.5 * np.nan_to_num(inputs[:, 1], nan=15) + 2 * np.nan_to_num(inputs[:, 5], nan=3)
    with threadpool_limits(1):  # its threads wait busily, which is slow where cores are shared
        model = HistGradientBoostingRegressor(max_iter=15, random_state=7).fit(inputs, minutes)
    onnx = to_onnx(model, inputs[:1], target_opset={"": 17, "ai.onnx.ml": 3})
    return onnx, inputs[:5], model.predict(inputs[:5])


def shifted(onnx: Any, minutes: float) -> bytes:
    """The same trees with another constant term."""
    copy = type(onnx)()
    copy.CopyFrom(onnx)
    (constant,) = [a for node in copy.graph.node for a in node.attribute if a.name == "base_values"]
    constant.floats[0] += minutes
    return copy.SerializeToString()


@pytest.fixture(scope="session")
def make_bundle(tmp_path_factory: pytest.TempPathFactory) -> BundleMaker:
    """Write a bundle into a new directory; `changes` replace members of its document, `shift` moves its minutes."""
    onnx, rows, predictions = train_onnx()

    def make(shift: float = 0.0, **changes: Any) -> Path:
        document = {
            "model": "delivery_time",
            "version_created_as_of": "2026-05-01T00:00:00+00:00",
            "feature_service": "delivery_time_v1",
            "project": "delivery_eta",
            "definitions_hash": "d1",
            "request_function_version": REQUEST_FUNCTION_VERSION,
            "clock": {"zone": "UTC", "peak_hours": [11, 12, 13, 18, 19, 20]},
            "dataset_hash": "h1",
            "seed": 7,
            "baseline_minutes": 9.5,
            "metrics": {"validation_mae": 5.0},
            "views": VIEWS,
            "inputs": [
                {"name": name, "source": source, "view": view, "feature": feature, "dtype": "Float64"} | {"median": 1.0}
                for name, source, view, feature in INPUTS
            ],
            "interval": {"p10_offset": -6.0, "p90_offset": 9.0},
            "self_test": {
                "inputs": [[None if np.isnan(value) else float(value) for value in row] for row in rows],
                "predictions": (predictions + shift).tolist(),
            },
        } | changes
        directory = tmp_path_factory.mktemp("bundle")
        (directory / "model.onnx").write_bytes(shifted(onnx, shift))
        (directory / "bundle.json").write_text(json.dumps(document))
        return directory

    return make


@pytest.fixture(scope="session")
def bundle_dir(make_bundle: BundleMaker) -> Path:
    """A good bundle."""
    return make_bundle()


def write_online(
    url: str, join_key: str, entity: str, view: str, event_time: datetime, values: Mapping[str, float | int | None]
) -> None:
    """Write one row into Redis with Feast's own key and value encoding."""
    from feast.infra.online_stores.helpers import _mmh3, _redis_key
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value
    from google.protobuf.timestamp_pb2 import Timestamp

    stamp = Timestamp()
    stamp.FromDatetime(event_time)
    key = EntityKey(join_keys=[join_key], entity_values=[Value(string_val=entity)])
    fields: dict[Any, bytes] = {f"_ts:{view}": stamp.SerializeToString()}
    for name, value in values.items():
        kind = {int: "int64_val", float: "double_val"}.get(type(value))
        fields[_mmh3(f"{view}:{name}")] = (Value(**{kind: value}) if kind else Value()).SerializeToString()
    redis.Redis.from_url(url).hset(_redis_key("delivery_eta", key), mapping=fields)


def fill_store(url: str, event_time: datetime = NOON) -> None:
    """Restaurant r1, driver d1 and zone z1, as of `event_time`."""
    restaurant = {"order_count_7d": 40, "delivery_minutes_mean_28d": 30.5, "order_value_mean_28d": 20.0}
    write_online(url, "restaurant_id", "r1", "restaurant_stats", event_time, restaurant)
    write_online(url, "driver_id", "d1", "driver_stats", event_time, {"delivery_minutes_mean_28d": 28.0})
    write_online(url, "zone_id", "z1", "zone_stats", event_time, {"open_order_count": 12})


@pytest.fixture
def store(redis_url: str) -> str:
    """URL of a Redis in which r1, d1 and z1 have values as of `NOON`."""
    fill_store(redis_url)
    return redis_url


class ServingProcess:
    """`python -m serving` in a process of its own."""

    def __init__(self, environment: Mapping[str, str], log: Path) -> None:
        self.port = free_port()
        self.log = log
        self.url = f"http://127.0.0.1:{self.port}"
        self.client = httpx.Client(base_url=self.url, headers=KEY, timeout=GENEROUS_SECONDS, trust_env=False)
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "serving"],
                cwd=ROOT,
                env={**os.environ, "ETA_DRAIN_SECONDS": "0", **environment, "ETA_SERVING_PORT": str(self.port)},
                stdout=output,
                stderr=output,
            )

    def wait_healthy(self) -> None:
        """Wait until it answers."""
        self.wait_for(lambda: self.client.get("/health").is_success, "an answer")

    def wait_for(self, condition: Callable[[], bool], why: str) -> None:
        """Wait until a condition holds; a refused connection counts as not yet."""

        def holds() -> bool:
            try:
                return condition()
            except httpx.TransportError:
                assert self.process.poll() is None, self.log.read_text()
                return False

        wait_until(holds, why, detail=self.log.read_text)

    def wait_for_log(self, text: str) -> None:
        """Wait until its log has a text: what is logged is written a moment after it is true."""
        self.wait_for(lambda: text in self.log.read_text(), f"{text!r} in the log")

    def terminate(self) -> int:
        """Send SIGTERM and return the exit status."""
        self.process.terminate()
        return self.process.wait(GENEROUS_SECONDS)


@pytest.fixture
def serve(settings: Settings, tmp_path: Path) -> Callable[..., Any]:
    """A context manager that runs `python -m serving` with more environment variables and waits until it answers."""

    @contextmanager
    def run(**environment: str) -> Iterator[ServingProcess]:
        server = ServingProcess(environment, tmp_path / f"serving-{time.monotonic_ns()}.log")
        try:
            server.wait_healthy()
            yield server
        finally:
            # A test that is about its end has ended it.
            server.process.kill()
            server.process.wait()

    return run

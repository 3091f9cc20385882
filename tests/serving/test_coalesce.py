"""Requests that arrive together: each gets its own answer, and only its own fault."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from config import Settings
from feature_repo.window import Window
from serving.coalesce import MOST_TOGETHER, Coalescer
from serving.errors import Problem
from serving.prediction_log import LogEntry, read_predictions
from serving.predictor import Order
from serving.service import Asked, Service
from tests.servers import RedisServer
from tests.serving.conftest import NOON

ORDERS = [Order("r1" if n % 2 else "nobody", NOON, order_id=f"o{n}", distance_km=n / 20) for n in range(50)]


@pytest.fixture
def service(settings: Settings, store: str, bundle_dir: Path) -> Iterator[Service]:
    changes = {"model_dir_override": bundle_dir}
    service = Service(settings.model_copy(update=changes), clock=lambda: NOON)
    service.champion.refresh()
    service.log.start()
    yield service
    service.stop()


def ask(service: Service, orders: Sequence[Order]) -> list[Any]:
    """The answers, or errors, to orders that are asked about at the same time."""

    async def together() -> list[Any]:
        coalescer = Coalescer(service)
        requests = (coalescer.predict(order, Asked(f"q-{order.order_id}", time.perf_counter())) for order in orders)
        return await asyncio.gather(*requests, return_exceptions=True)

    return asyncio.run(together())


def minutes(answers: list[Any]) -> list[float]:
    return [answer.served.predictions.estimates.minutes[answer.row] for answer in answers]


def test_each_gets_what_it_would_have_got_alone(service: Service, settings: Settings):
    alone = [minutes(ask(service, [order]))[0] for order in ORDERS]

    together = ask(service, ORDERS)

    assert minutes(together) == alone
    assert len(set(alone)) == 3  # they are not all the same
    assert [answer.served.orders[answer.row] for answer in together] == ORDERS
    service.stop()
    rows = read_predictions(settings, Window(NOON, NOON + timedelta(hours=1)))
    assert sorted(rows.select("order_id", "request_id").rows()) == sorted(
        2 * [(o.order_id, f"q-{o.order_id}") for o in ORDERS]
    )
    assert rows["latency_ms"].min() > 0


def test_groups_are_bounded_and_a_lone_request_goes_alone(service: Service, monkeypatch: pytest.MonkeyPatch):
    sizes: list[int] = []
    predict = service.predict

    async def counting(orders: Sequence[Order], asked: Sequence[Asked]) -> Any:
        sizes.append(len(orders))
        return await predict(orders, asked)

    monkeypatch.setattr(service, "predict", counting)
    ask(service, ORDERS)
    ask(service, ORDERS[:1])

    assert sizes == [1, MOST_TOGETHER, len(ORDERS) - 1 - MOST_TOGETHER, 1]  # the first of all knows of no others


def test_after_a_crowd_the_first_of_the_next_waits_for_the_rest_of_it(
    service: Service, monkeypatch: pytest.MonkeyPatch
):
    sizes: list[int] = []
    predict = service.predict

    async def counting(orders: Sequence[Order], asked: Sequence[Asked]) -> Any:
        sizes.append(len(orders))
        return await predict(orders, asked)

    async def crowds(*numbers: int) -> None:
        coalescer = Coalescer(service)
        for number in numbers:
            await asyncio.gather(*(coalescer.predict(order, Asked("q", 0.0)) for order in ORDERS[:number]))

    monkeypatch.setattr(service, "predict", counting)
    asyncio.run(crowds(4, 4, 1, 4))

    assert sizes == [1, 3, 4, 1, 1, 3]


def test_a_fault_is_that_of_one_request(service: Service, monkeypatch: pytest.MonkeyPatch):
    predict = service.predict

    async def fails_on_one(orders: Sequence[Order], asked: Sequence[Asked]) -> Any:
        if ORDERS[3] in orders:
            raise RuntimeError("the fault of o3")
        return await predict(orders, asked)

    monkeypatch.setattr(service, "predict", fails_on_one)
    answers = ask(service, ORDERS[:8])

    assert [n for n, answer in enumerate(answers) if isinstance(answer, RuntimeError)] == [3]
    assert [answers[n].served.orders[answers[n].row] for n in (2, 4)] == [ORDERS[2], ORDERS[4]]


def test_without_a_model_everybody_is_told(service: Service):
    service.champion.current = None

    answers = ask(service, ORDERS[:3])

    assert [(type(answer), answer.status) for answer in answers] == [(Problem, 503)] * 3
    assert len({id(answer) for answer in answers}) == 3


def test_a_store_that_is_slow_holds_nobody_else_up(service: Service, redis_process: RedisServer):
    """While Redis makes one request wait, the event loop goes on, and so does a request that needs no Redis."""

    async def meanwhile() -> tuple[Any, bool]:
        coalescer = Coalescer(service)
        ask = (coalescer.predict(order, Asked("q", time.perf_counter())) for order in ORDERS)
        await next(ask)
        with redis_process.frozen():
            waiting = asyncio.ensure_future(next(ask))
            for _ in range(20):
                await asyncio.sleep(0.001)
            was_waiting = not waiting.done()
        return await waiting, was_waiting

    answer, was_waiting = asyncio.run(meanwhile())

    assert was_waiting
    assert answer.served.predictions.reasons[answer.row] == ()


def test_a_client_that_goes_takes_nobody_with_it(service: Service):
    async def one_goes() -> list[Any]:
        coalescer = Coalescer(service)
        requests = [
            asyncio.ensure_future(coalescer.predict(order, Asked("q", time.perf_counter()))) for order in ORDERS[:4]
        ]
        await asyncio.sleep(0)
        requests[0].cancel()  # the one that the others have joined
        answers = await asyncio.gather(*requests, return_exceptions=True)
        requests[0] = asyncio.ensure_future(coalescer.predict(ORDERS[0], Asked("q", time.perf_counter())))
        return [*answers, await requests[0]]

    gone, *answered = asyncio.run(one_goes())

    assert isinstance(gone, asyncio.CancelledError)
    assert [answer.served.orders[answer.row] for answer in answered] == [*ORDERS[1:4], ORDERS[0]]


def test_a_prediction_that_cannot_be_recorded_keeps_no_other_from_the_log(
    service: Service, settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    offer = service.log.offer

    def fails_on_one(entry: LogEntry) -> bool:
        if entry.orders[0] == ORDERS[0]:
            raise RuntimeError("the fault of o0")
        return offer(entry)

    monkeypatch.setattr(service.log, "offer", fails_on_one)
    ask(service, ORDERS[:4])  # the first goes alone
    service.stop()

    rows = read_predictions(settings, Window(NOON, NOON + timedelta(hours=1)))
    assert sorted(rows["order_id"]) == ["o1", "o2", "o3"]

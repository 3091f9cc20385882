"""Requests that arrive together are predicted together: one read of the store and one run of the model for all of them.

Nobody waits for others to come: what has arrived when the event loop gets to it goes at once, alone if it is alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from fastapi.concurrency import run_in_threadpool

from serving.predictor import Order
from serving.service import Asked, ServedRow, Service

__all__ = ["MOST_TOGETHER", "Coalescer"]

MOST_TOGETHER = 32
"""More than this make each other wait without making each other cheaper."""

_Waiting = tuple[Order, Asked, "asyncio.Future[ServedRow]"]


class Coalescer:
    """Collects single orders of one event loop and hands them to a service in groups."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._waiting: list[_Waiting] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def predict(self, order: Order, asked: Asked) -> ServedRow:
        """What `Service.predict` says of one order; raises what it raises."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[ServedRow] = loop.create_future()
        if not self._waiting:
            loop.call_soon(self._go)
        self._waiting.append((order, asked, answer))
        return await answer

    def _go(self) -> None:
        """Predict what has arrived; on the event loop while the store is quick, else in a thread."""
        waiting, self._waiting = self._waiting[:MOST_TOGETHER], self._waiting[MOST_TOGETHER:]
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._go)
        if self.service.store.pace.is_quick:
            _settle(waiting, self._answers(waiting))
        else:
            task = asyncio.create_task(self._in_thread(waiting))
            self._tasks.add(task)  # the event loop itself keeps no hold of it
            task.add_done_callback(self._tasks.discard)

    async def _in_thread(self, waiting: list[_Waiting]) -> None:
        _settle(waiting, await run_in_threadpool(self._answers, waiting))

    def _answers(self, waiting: list[_Waiting]) -> Sequence[ServedRow | Exception]:
        try:
            return self.service.predict([order for order, _, _ in waiting], [asked for _, asked, _ in waiting])
        except Exception as error:
            if len(waiting) == 1:
                return [error]
        return [self._answers([each])[0] for each in waiting]  # so that a fault is only that of the request it is in


def _settle(waiting: list[_Waiting], answers: Sequence[ServedRow | Exception]) -> None:
    for (_, _, answer), found in zip(waiting, answers, strict=True):
        if answer.done():  # the client has gone
            continue
        if isinstance(found, Exception):
            answer.set_exception(found)
        else:
            answer.set_result(found)

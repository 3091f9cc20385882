"""Requests that arrive together are predicted together: one read of the store and one run of the model for all of them.

Nobody waits for others to come: what has arrived when the event loop gets to it goes at once, alone if it is alone. A
request that meets no other, nor did the one before, does not even let the event loop look.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

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
        self._arrived: list[_Waiting] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._under_way = 0
        self._crowded = False

    async def predict(self, order: Order, asked: Asked) -> ServedRow:
        """What `Service.predict` says of one order; raises what it raises."""
        self._under_way += 1
        try:
            if self._under_way > 1 or self._crowded:
                return await self._with_others(order, asked)
            (alone,) = await self.service.predict([order], [asked])
            return alone
        finally:
            self._under_way -= 1

    async def _with_others(self, order: Order, asked: Asked) -> ServedRow:
        """With those that arrive in the same turn of the event loop."""
        answer: asyncio.Future[ServedRow] = asyncio.get_running_loop().create_future()
        self._arrived.append((order, asked, answer))
        if len(self._arrived) > 1:
            return await answer
        try:
            await asyncio.sleep(0)
        finally:  # even if this client goes, the others are answered
            arrived, self._arrived = self._arrived, []
            self._crowded = self._under_way > 1
            if len(arrived) > 1:
                self._begin(arrived)
        if len(arrived) > 1:
            return await answer
        (alone,) = await self.service.predict([order], [asked])
        return alone

    def _begin(self, arrived: list[_Waiting]) -> None:
        for first in range(0, len(arrived), MOST_TOGETHER):
            task = asyncio.create_task(self._together(arrived[first : first + MOST_TOGETHER]))
            self._tasks.add(task)  # the event loop itself keeps no hold of it
            task.add_done_callback(self._tasks.discard)

    async def _together(self, waiting: list[_Waiting]) -> None:
        for (_, _, answer), found in zip(waiting, await self._answers(waiting), strict=True):
            if answer.done():  # the client has gone
                continue
            if isinstance(found, Exception):
                answer.set_exception(found)
            else:
                answer.set_result(found)

    async def _answers(self, waiting: list[_Waiting]) -> Sequence[ServedRow | Exception]:
        try:
            return await self.service.predict([order for order, _, _ in waiting], [asked for _, asked, _ in waiting])
        except Exception as error:
            if len(waiting) == 1:
                return [error]
        # So that a fault is only that of the request it is in.
        return [(await self._answers([each]))[0] for each in waiting]

"""Live mode: the world keeps up with the wall clock, and customers ask how long their orders will take.

The clock is read here and nowhere else in the simulator. Orders are written first, so a service that is down costs
predictions, never orders.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import polars as pl

from config import Settings
from simulator.clock import as_utc
from simulator.errors import SimulatorBusy
from simulator.generate import Progress, advance, placed_between, write_history
from simulator.landing import Landing

__all__ = ["Answers", "Asker", "ensure_history", "run", "tick", "wall_clock"]

logger = logging.getLogger(__name__)

BATCH = 200
ASK_BACK = timedelta(hours=1)
"""Orders placed longer ago (the stream was stopped meanwhile) are written, but nobody asks about them any more."""
OVERLAP = timedelta(minutes=5)
"""How far each tick looks back for orders that had not arrived at the last one."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What the service did with a number of orders."""

    predicted: int = 0
    refused: int = 0
    unanswered: int = 0

    def __add__(self, other: Answers) -> Answers:
        return Answers(
            self.predicted + other.predicted, self.refused + other.refused, self.unanswered + other.unanswered
        )


class Asker:
    """Asks the prediction service about orders, each one once.

    Parameters
    ----------
    settings : Settings
        Address of the service and API key.
    timeout : float
        Seconds to wait for an answer.
    """

    def __init__(self, settings: Settings, timeout: float = 10.0) -> None:
        key = settings.client_key
        self._client = httpx.Client(
            base_url=settings.serving_url, headers={"X-API-Key": key}, timeout=timeout, trust_env=False
        )
        self._asked: dict[str, datetime] = {}

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def ask(self, orders: pl.DataFrame, now: datetime) -> Answers:
        """Ask about those of `orders` that have not been asked about; problems are logged, not raised."""
        self._asked = {order: when for order, when in self._asked.items() if when > now - 2 * OVERLAP - ASK_BACK}
        new = orders.filter(
            pl.col("restaurant_id").is_not_null(), ~pl.col("order_id").is_in(list(self._asked), nulls_equal=True)
        )
        answers = Answers()
        for batch in _batches(new):
            answers += self._ask_batch(batch)
        self._asked.update(dict.fromkeys(new["order_id"].to_list(), now))
        return answers

    def _ask_batch(self, batch: list[dict[str, Any]]) -> Answers:
        try:
            response = self._client.post("/predict/batch", json={"orders": batch})
        except httpx.HTTPError as error:
            logger.warning("no prediction from %s: %r (orders are written anyway)", self._client.base_url, error)
            return Answers(unanswered=len(batch))
        if response.is_success:
            content = response.json()
            return Answers(predicted=content["succeeded"], refused=content["failed"])
        logger.warning("%s answered %d: %s", response.url, response.status_code, response.text[:300])
        return Answers(refused=len(batch)) if response.is_client_error else Answers(unanswered=len(batch))


def tick(out: Path, now: datetime, asker: Asker | None = None) -> dict[str, Any]:
    """Advance to `now`, then ask about the orders placed meanwhile.

    Parameters
    ----------
    out : Path
        The landing folder, which must hold a world.
    now : datetime
        The instant to advance to; if the world is already ahead of it, nothing happens.
    asker : Asker, optional
        Without one, nobody asks.

    Returns
    -------
    dict
        As `advance`, and the counts of `Answers`.
    """
    now = as_utc(now)
    since = Landing(out).position()
    if now <= since:
        logger.info("the world is complete until %s, ahead of the clock: waiting", since.isoformat())
        return {"rows": 0, "orders": 0, "files": 0, "start": since.isoformat(), "complete_until": since.isoformat()}
    written = advance(out, now)
    answers = Answers()
    if asker:
        answers = asker.ask(placed_between(out, max(since - OVERLAP, now - ASK_BACK), now), now)
    return {**written, "predicted": answers.predicted, "refused": answers.refused, "unanswered": answers.unanswered}


def ensure_history(out: Path, now: datetime, progress: Progress | None = None, **size: Any) -> None:
    """Make a history that ends at `now` if the folder holds no world yet; `size` as in `write_history`.

    Raises
    ------
    SimulatorError
        The folder belongs to another source.
    """
    if Landing(out).watermark() is None:
        logger.info("no world in %s yet: making a history that ends now", out)
        write_history(out, now, progress=progress, **size)


def wall_clock() -> datetime:
    """Now, in UTC."""
    return datetime.now(UTC)


def run(
    out: Path,
    settings: Settings,
    interval: float = 60.0,
    *,
    clock: Callable[[], datetime] = wall_clock,
    wait: Callable[[float], bool] | None = None,
    ask: bool = True,
) -> int:
    """Tick every `interval` seconds until `wait` says stop.

    Parameters
    ----------
    out : Path
        The landing folder, which must hold a world.
    settings : Settings
        Where and how to ask for predictions.
    interval : float
        Seconds from one tick to the next.
    clock : callable
        Returns the instant to advance to.
    wait : callable
        Waits the given seconds and returns whether to stop; by default, never.
    ask : bool
        Whether to ask for predictions.

    Returns
    -------
    int
        The number of ticks.
    """
    wait = wait or threading.Event().wait
    asker = Asker(settings) if ask else None
    ticks = 0
    try:
        while True:
            begun = time.monotonic()
            _try_tick(out, clock(), asker)
            ticks += 1
            if wait(max(0.0, interval - (time.monotonic() - begun))):
                return ticks
    finally:
        if asker:
            asker.close()


def _try_tick(out: Path, now: datetime, asker: Asker | None) -> None:
    try:
        result = tick(out, now, asker)
    except (SimulatorBusy, OSError) as error:
        # The watermark has not moved, so the next tick writes what this one could not.
        logger.warning("nothing written at %s: %s", now.isoformat(), error)
        return
    logger.info(
        "until %s: %d versions, %d new orders, %d predicted",
        result["complete_until"],
        result["rows"],
        result["orders"],
        result.get("predicted", 0),
    )


def _batches(orders: pl.DataFrame) -> Iterator[list[dict[str, Any]]]:
    """Orders as request bodies, `BATCH` at a time; what is unknown is left out."""
    for part in orders.iter_slices(BATCH):
        yield [
            {
                name: value.isoformat() if isinstance(value, datetime) else value
                for name, value in row.items()
                if value is not None
            }
            for row in part.iter_rows(named=True)
        ]

"""The online store as the predictor sees it: one read behind a circuit breaker."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime

from redis.exceptions import RedisError

from config import Settings
from serving import live_keys
from serving.bundle import Bundle
from serving.online import OnlineReader, StoredRow, StoreUnavailable
from serving.predictor import LookupFailed
from serving.wire import WirePool, at_once

__all__ = ["BREAKER_SECONDS", "CircuitBreaker", "StoreLookup"]

logger = logging.getLogger(__name__)

BREAKER_FAILURES = 3
BREAKER_SECONDS = 1.0
"""How long the store is left alone after so many failures in a row: a dead store then costs one time-out a second, not
one a request."""


class CircuitBreaker:
    """Lets calls through until several in a row fail; then one call per `cooldown_seconds` until one succeeds.

    Parameters
    ----------
    threshold : int
        So many failures in a row open it: a single slow answer must not cost a second of good ones.
    cooldown_seconds : float
        How long a failure is remembered.
    monotonic : callable
        Gives seconds of a clock that never goes back.
    """

    def __init__(
        self,
        threshold: int = BREAKER_FAILURES,
        cooldown_seconds: float = BREAKER_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.threshold = threshold
        self._failures = 0
        self.cooldown_seconds = cooldown_seconds
        self.monotonic = monotonic
        self._lock = threading.Lock()
        self._next_try: float | None = None

    @property
    def is_open(self) -> bool:
        """Whether the last calls failed."""
        return self._next_try is not None

    def allows(self) -> bool:
        """Whether to make a call now. While open, one caller per cool-down is told yes: it tries for all."""
        if self._next_try is None:
            return True
        with self._lock:
            now = self.monotonic()
            if self._next_try is None or now < self._next_try:
                return self._next_try is None
            self._next_try = now + self.cooldown_seconds
            return True

    def failed(self) -> bool:
        """A call failed; returns whether that opened it."""
        with self._lock:
            was_open = self.is_open
            self._failures += 1
            if self._failures >= self.threshold:
                self._next_try = self.monotonic() + self.cooldown_seconds
            return self.is_open and not was_open

    def succeeded(self) -> bool:
        """A call succeeded; returns whether that closed it."""
        if not self._failures:
            return False
        with self._lock:
            was_open = self.is_open
            self._failures = 0
            self._next_try = None
            return was_open


class StoreLookup:
    """The online store of a process; every model reads its own views of it through the same breaker."""

    def __init__(self, settings: Settings) -> None:
        self.url = settings.redis_url
        self.timeout_seconds = settings.online_timeout_ms / 1_000
        self.breaker = CircuitBreaker()
        self._pings = WirePool(self.url, self.timeout_seconds)

    def for_bundle(self, bundle: Bundle) -> BundleLookup:
        """A lookup of the views of a bundle."""
        document = bundle.document
        reader = OnlineReader(self.url, document.project, document.views, self.timeout_seconds)
        return BundleLookup(reader, self.breaker)

    def require(self, bundle: Bundle) -> str | None:
        """Hold a bundle against what the store holds: see `live_keys.require`."""
        return live_keys.require(self.url, bundle.document, max(self.timeout_seconds, live_keys.LOOK_SECONDS))

    def ping(self) -> tuple[bool, str]:
        """Whether the store answers now, and in words."""
        try:
            at_once(self._pings.ping())
        except RedisError as error:
            return (
                False,
                f"Redis does not answer ({error}): start it (make up); answers are degraded until then{self._open}",
            )
        # Well even while the breaker is open: without requests, which a balancer would hold back, it never closes.
        return True, f"Redis answers{self._open}"

    @property
    def _open(self) -> str:
        return "; the circuit breaker is open: one request per second asks Redis" if self.breaker.is_open else ""


class BundleLookup:
    """A `FeatureLookup`: an `OnlineReader` behind the breaker."""

    def __init__(self, reader: OnlineReader, breaker: CircuitBreaker) -> None:
        self.reader = reader
        self.breaker = breaker

    async def read(
        self,
        rows: list[dict[str, str | None]],
        as_of: Sequence[datetime],
        asked_at: Sequence[datetime | None] | None = None,
    ) -> list[list[StoredRow]]:
        """Read the store once.

        Raises
        ------
        LookupFailed
            It does not answer in time, or failed a moment ago.
        """
        if not self.breaker.allows():
            raise LookupFailed("the online store failed a moment ago")
        try:
            found = await self.reader.stored(rows, as_of, asked_at)
        except StoreUnavailable as error:
            if self.breaker.failed():
                logger.warning("answers are degraded: %s", error)
            raise LookupFailed(str(error)) from error
        if self.breaker.succeeded():
            logger.info("the online store answers again")
        return found

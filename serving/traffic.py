"""Who answers which request: the champion alone, or a share of it by the challenger, as the registry's tags say.

The version with the alias `challenger` takes part if it has the tag `traffic`: `canary` and `ab` give it a share of the
answers, `shadow` lets it predict everything without being answered. Tags are read at each poll, so that a share is
changed, or taken back, while requests go on.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import mmh3

from serving.predictor import Order
from serving.worker import Worker

__all__ = ["DEFAULT_SHARES", "SHARE_TAG", "TRAFFIC_TAG", "VARIANT_TAG", "Shadow", "TrafficError", "TrafficRule"]

logger = logging.getLogger(__name__)

Mode = Literal["off", "canary", "ab", "shadow"]

TRAFFIC_TAG, SHARE_TAG, VARIANT_TAG, SALT_TAG = "traffic", "traffic_share", "traffic_variant", "traffic_salt"
DEFAULT_SHARES: Mapping[str, float] = {"off": 0.0, "canary": 0.05, "ab": 0.5, "shadow": 1.0}
LONGEST_VARIANT = 64
SHADOW_CAPACITY = 200


class TrafficError(ValueError):
    """A traffic tag of a model version cannot be understood; the message names it and what it may be."""


@dataclass(frozen=True, slots=True)
class TrafficRule:
    """What part a version takes.

    Parameters
    ----------
    mode : {"off", "canary", "ab", "shadow"}
    share : float
        Of the requests, 0 to 1.
    variant : str
        The name in answers, logs and metrics.
    salt : str
        Of the rollout: with another one other customers are among the first.
    """

    mode: Mode = "off"
    share: float = 0.0
    variant: str = "challenger"
    salt: str = ""

    @classmethod
    def of(cls, tags: Mapping[str, str], salt: str = "") -> TrafficRule:
        """The rule that the tags of a version state; without the tag `traffic` it takes no part.

        `salt` is what the tag `traffic_salt` would say otherwise.

        Raises
        ------
        TrafficError
            See the class.
        """
        mode = tags.get(TRAFFIC_TAG, "off")
        if mode not in get_args(Mode):
            raise TrafficError(f"the tag {TRAFFIC_TAG} is {mode!r}, not one of {', '.join(get_args(Mode))}")
        variant = tags.get(VARIANT_TAG, mode if mode != "off" else "challenger")
        if not 0 < len(variant) <= LONGEST_VARIANT or variant == "champion":
            raise TrafficError(f"the tag {VARIANT_TAG} is {variant!r}: 1 to {LONGEST_VARIANT} characters, not champion")
        return cls(mode, _share(tags.get(SHARE_TAG), DEFAULT_SHARES[mode]), variant, tags.get(SALT_TAG, salt))  # type: ignore[arg-type]

    def takes(self, order: Order) -> bool:
        """Whether the order is among those of the share: in one rollout always the same answer for the same customer.

        Raising the share adds customers and takes none away. Without a customer the order decides, or else the
        restaurant.
        """
        key = order.customer_id or order.order_id or order.restaurant_id
        salted = f"{self.salt}/{key}".encode("utf-8", "surrogatepass")
        return bool(mmh3.hash(salted, signed=False) < self.share * 2**32)


def _share(given: str | None, default: float) -> float:
    if given is None:
        return default
    try:
        share = float(given)
    except ValueError:
        share = -1
    if not 0 <= share <= 1:
        raise TrafficError(f"the tag {SHARE_TAG} is {given!r}: a number from 0 to 1")
    return share


class Shadow(Worker):
    """Scores what was answered already, in a thread; what it cannot keep up with is dropped and counted.

    Parameters
    ----------
    on_dropped : callable
        Told how many orders were not scored.
    """

    def __init__(self, on_dropped: Callable[[int], None]) -> None:
        super().__init__("shadow")
        self.on_dropped = on_dropped
        self._waiting: deque[tuple[Callable[[], object], int]] = deque()

    def offer(self, score: Callable[[], object], rows: int) -> None:
        """Take a piece of work. Never waits."""
        with self._condition:
            if self._stopping or len(self._waiting) >= SHADOW_CAPACITY:
                self.on_dropped(rows)
                return
            self._waiting.append((score, rows))
            self._condition.notify()

    def _run(self) -> None:
        while True:
            with self._condition:
                while not self._waiting and not self._stopping:
                    self._condition.wait()
                if not self._waiting:
                    return
                score, rows = self._waiting.popleft()
            try:
                score()
            except Exception:  # a model that is only watched must not end the watching
                logger.exception("the shadow could not score")
                self.on_dropped(rows)

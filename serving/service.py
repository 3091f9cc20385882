"""What the routes call: the parts of a running server, put together."""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import NamedTuple

from config import Settings
from serving.absence import Share
from serving.bundle import Bundle
from serving.champion import Challenger, Champion, LoadedModel, Switch
from serving.errors import FieldError, Problem, invalid_request, no_model, outside_population
from serving.lookup import StoreLookup
from serving.metrics import Metrics
from serving.prediction_log import LogEntry, PredictionLog
from serving.predictor import Order, Predictions, Predictor
from serving.registry_client import BundleCache, Registry, registry_from
from serving.traffic import Shadow
from serving.wire import at_once

__all__ = ["Asked", "Part", "Served", "ServedRow", "Service", "new_id"]

logger = logging.getLogger(__name__)


def utc_now() -> datetime:
    """The edge at which serving reads the clock."""
    return datetime.now(UTC)


def new_id() -> str:
    """32 hexadecimal digits; without a call of the system, unlike a UUID."""
    return f"{random.getrandbits(128):032x}"


RECORD_SECONDS = 0.005
"""How long after an answer it is counted and logged, with those of the meantime: one by one they cost twice as much."""


class Part(NamedTuple):
    """Whether a part of the service is ready, in words."""

    ok: bool
    detail: str


class Served(NamedTuple):
    """Predictions of one model as they were answered and logged."""

    model: LoadedModel
    orders: Sequence[Order]
    predictions: Predictions
    prediction_ids: Sequence[str]


class ServedRow(NamedTuple):
    """Where the prediction of an order is."""

    served: Served
    row: int


class Asked(NamedTuple):
    """The request that an order came with, for the log.

    `started` is `time.perf_counter()` when it arrived, `caller` the name of its API key.
    """

    request_id: str | None
    started: float
    caller: str | None = None


class _Unrecorded(NamedTuple):
    """What was answered and is neither counted nor logged yet; `answered` is of `time.perf_counter()`."""

    served: Served
    source: str
    asked: Sequence[Asked]
    predicted_at: datetime
    answered: float


class Service:
    """Champion, online store, prediction log and metrics of one process.

    Parameters
    ----------
    settings : Settings
        Addresses and limits.
    registry : Registry, optional
        Where models come from; by default what the settings name.
    clock : callable
        Gives the instant of a prediction.
    """

    def __init__(
        self, settings: Settings, *, registry: Registry | None = None, clock: Callable[[], datetime] = utc_now
    ) -> None:
        self.settings = settings
        self.api_keys = [(name, key.encode()) for name, key in settings.accepted_keys.items()]
        self.clock = clock
        self.metrics = Metrics()
        self.store = StoreLookup(settings)
        self.log = PredictionLog(settings.predictions)
        cache = BundleCache(settings.run_dir / "models")
        registry, parts = registry or registry_from(settings), (cache, self._predictor)
        self.champion = Champion(registry, *parts, self._switched, self.store.require)
        self.challenger = Challenger(registry, *parts, self._challenger_switched, self.store.require)
        self.shadow = Shadow(lambda rows: self.metrics.count("eta_shadow_rows_dropped", by=rows))
        self.draining = False
        """Whether it ends soon: requests are answered, and told to go elsewhere next time."""
        self._unrecorded: deque[_Unrecorded] = deque()
        self.metrics.watch_log(self.log)
        self.metrics.watch_champion(self.champion)
        self.metrics.watch_store(lambda: self.store.breaker.is_open)
        self.metrics.watch_threads(self.dead_threads)
        self.metrics.watch_shares(self.shares)

    def start(self) -> None:
        """Load the champion, if there is one, and begin to poll and to log."""
        self.champion.refresh()
        self.challenger.refresh()
        for followed in (self.champion, self.challenger):
            followed.start(self.settings.champion_poll_seconds)
        self.shadow.start()
        self.log.start()

    def stop(self) -> None:
        """End the threads; everything that was predicted is logged when this returns."""
        self.champion.stop()
        self.challenger.stop()
        self.record()
        self.shadow.stop()
        self.log.stop()

    def model(self) -> LoadedModel:
        """The model in use.

        Raises
        ------
        Problem
            503: there is none; the detail says why and what to do.
        """
        current = self.champion.current
        if current is None:
            raise no_model(self.champion.why_none)
        return current

    def caller(self, key: str) -> str | None:
        """The name of an API key; None if it is none of ours. Takes as long for a key that nearly fits."""
        given = key.encode()  # bytes, because compare_digest refuses text that is not ASCII
        names = [name for name, ours in self.api_keys if secrets.compare_digest(given, ours)]
        return names[0] if names else None

    def refusal(self, order: Order) -> Problem | None:
        """Why the model in use has no true answer to an order; None if it has one.

        Raises
        ------
        Problem
            503: there is no model.
        """
        population = self.model().bundle.document.population
        for name, wanted in population.items():
            if getattr(order, name, wanted) != wanted:
                fault = FieldError(name, f"the model was trained on orders with {name}={str(wanted).lower()} only")
                return outside_population(fault)
        untimely = None if order.replay else self._untimely(order.placed_at)
        return invalid_request([untimely]) if untimely else None

    def _untimely(self, placed_at: datetime) -> FieldError | None:
        settings, now = self.settings, self.clock()
        oldest = now - timedelta(hours=settings.placed_at_max_age_hours)
        newest = now + timedelta(minutes=settings.placed_at_max_ahead_minutes)
        if oldest <= placed_at <= newest:
            return None
        side = "before" if placed_at < oldest else "after"
        bound = oldest if placed_at < oldest else newest
        return FieldError(
            "placed_at",
            f"{placed_at.isoformat()} is {side} {bound.isoformat(timespec='seconds')}: values of now are none of then. "
            "Ask when the order is placed, or with ?replay=true for one of the past (ETA_PLACED_AT_MAX_AGE_HOURS, "
            "ETA_PLACED_AT_MAX_AHEAD_MINUTES)",
        )

    async def predict(self, orders: Sequence[Order], asked: Sequence[Asked]) -> list[ServedRow]:
        """Predict, count and log; each order by the model whose turn it is.

        Parameters
        ----------
        orders : sequence of Order
            At least one.
        asked : sequence of Asked
            The request of each order.

        Returns
        -------
        list of ServedRow
            One per order, in the same order.
        """
        champion, challenger = self.model(), self._taking_part()
        if challenger is None or challenger.rule.mode == "shadow":
            served = await self._serve(champion, orders)
            self._to_record(served, asked)
            if challenger is not None:
                self.shadow.offer(partial(self._score, challenger, orders, asked), len(orders))
            return [ServedRow(served, row) for row in range(len(orders))]
        taken = [challenger.rule.takes(order) for order in orders]
        answered: list[tuple[Served, list[int]]] = []
        for model, turn in ((champion, False), (challenger, True)):
            positions = [position for position, whose in enumerate(taken) if whose is turn]
            if positions:
                theirs = [orders[each] for each in positions]
                answered.append((await self._serve_or_fall_back(model, champion, theirs), positions))
        rows: dict[int, ServedRow] = {}
        for served, positions in answered:  # not before all are there: who is asked again would be logged twice
            self._to_record(served, [asked[each] for each in positions])
            rows.update((position, ServedRow(served, row)) for row, position in enumerate(positions))
        return [rows[position] for position in range(len(orders))]

    async def look(self, order: Order) -> Served:
        """What the champion would say of an order and be given for it; neither counted nor logged."""
        model = self.model()
        return Served(model, [order], await model.predictor.predict([order]), [""])

    def _taking_part(self) -> LoadedModel | None:
        """The challenger, unless it is off or is the champion by now."""
        challenger, champion = self.challenger.current, self.champion.current
        if challenger is None or challenger.rule.mode == "off":
            return None
        same = champion is not None and champion.ref.version == challenger.ref.version
        return None if same else challenger

    async def _serve_or_fall_back(self, model: LoadedModel, champion: LoadedModel, orders: Sequence[Order]) -> Served:
        if model is champion:
            return await self._serve(champion, orders)
        try:
            return await self._serve(model, orders)
        except Exception:  # a trial must not cost anybody an answer
            logger.exception("ALARM: the challenger version %s failed, the champion answers", model.ref.version)
            self.metrics.count("eta_challenger_faults", by=len(orders))
            return await self._serve(champion, orders)

    async def _serve(self, model: LoadedModel, orders: Sequence[Order]) -> Served:
        predictions = await model.predictor.predict(orders)
        return Served(model, orders, predictions, [new_id() for _ in orders])

    def _score(self, model: LoadedModel, orders: Sequence[Order], asked: Sequence[Asked]) -> None:
        """Let a model predict what another has answered."""
        self._to_record(at_once(self._serve(model, orders)), asked, "shadow")

    def _to_record(self, served: Served, asked: Sequence[Asked], source: str = "online") -> None:
        self._unrecorded.append(_Unrecorded(served, source, asked, self.clock(), time.perf_counter()))
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self.record()
        else:
            if len(self._unrecorded) == 1:
                loop.call_later(RECORD_SECONDS, self.record)

    def record(self) -> None:
        """Count and log all that has been answered."""
        while self._unrecorded:
            try:
                work = self._unrecorded.popleft()
            except IndexError:  # another thread was quicker
                return
            try:
                self._record(work)
            except Exception:  # those after it are recorded all the same
                logger.exception("ALARM: a prediction was answered but not recorded")
                self.metrics.count("eta_unrecorded_predictions", by=len(work.asked))

    def _record(self, work: _Unrecorded) -> None:
        served, model = work.served, work.served.model
        self.log.offer(
            LogEntry(
                source=work.source,
                model_name=model.ref.name,
                model_version=model.ref.version,
                variant=model.variant,
                input_names=model.bundle.input_names,
                view_names=model.predictor.view_names,
                prediction_ids=served.prediction_ids,
                orders=served.orders,
                predictions=served.predictions,
                predicted_at=work.predicted_at,
                latencies_ms=[(work.answered - each.started) * 1_000 for each in work.asked],
                request_ids=[each.request_id for each in work.asked],
                callers=[each.caller for each in work.asked],
            )
        )
        self._count(served)

    def dead_threads(self) -> dict[str, bool]:
        """Whether each thread, by its name, has ended although nobody told it to."""
        workers = {"prediction-log": self.log, "shadow": self.shadow}
        polls = {f"{each.alias}-poll": each for each in (self.champion, self.challenger)}
        return {name: part.is_dead for name, part in (workers | polls).items()}

    def parts(self) -> dict[str, Part]:
        """What must work for undegraded answers."""
        current = self.champion.current
        model = Part(True, f"{current.ref.name} version {current.ref.version}") if current else None
        return {
            "model": model or Part(False, self.champion.why_none),
            "online_store": Part(*self.store.ping()),
            "features": self._features_part(),
            "prediction_log": self._log_part(),
            "threads": self._threads_part(),
        }

    def shares(self) -> list[Share]:
        """How often each view of the model in use has nothing lately, beside training."""
        current = self.champion.current
        return current.predictor.absence.shares() if current else []

    def _features_part(self) -> Part:
        told = [
            f"{share.view} {share.missing:.0%} of {share.rows} orders (training: "
            f"{'not known' if share.in_training is None else f'{share.in_training:.0%}'})"
            for share in self.shares()
        ]
        ok = not any(share.is_too_large for share in self.shares())
        return Part(ok, f"missing lately: {', '.join(told)}" if told else "nobody has asked yet")

    def _log_part(self) -> Part:
        log = self.log
        lost = f"{log.dropped} predictions are lost, {log.aside} set aside, since the start"
        return Part(not log.dropped and not log.aside, f"{log.queued} predictions wait; {lost}")

    def _threads_part(self) -> Part:
        dead = [name for name, is_dead in self.dead_threads().items() if is_dead]
        return Part(not dead, f"{', '.join(dead)} ended: restart the process" if dead else "all at work")

    def _count(self, served: Served) -> None:
        degraded = sum(map(bool, served.predictions.reasons))
        for status, rows in (("degraded", degraded), ("ok", len(served.orders) - degraded)):
            if rows:
                self.metrics.count("eta_predictions", served.model.variant, status, by=rows)
        predictor, statuses = served.model.predictor, served.predictions.statuses
        self.metrics.served(served.model.bundle.input_names, statuses)
        predictor.absence.add(statuses, predictor.named(served.orders))

    def _predictor(self, bundle: Bundle) -> Predictor:
        return Predictor(bundle, self.store.for_bundle(bundle))

    def _switched(self, outcome: Switch) -> None:
        self.metrics.count("eta_model_switches", outcome)
        current = self.champion.current
        if current is not None:
            self.metrics.show_model([current.ref.name, current.ref.version, current.ref.alias, current.variant])

    def _challenger_switched(self, outcome: Switch) -> None:
        self.metrics.count("eta_challenger_switches", outcome)

"""What the routes call: the parts of a running server, put together."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from config import Settings
from serving.bundle import Bundle
from serving.champion import Champion, LoadedModel, Switch
from serving.errors import no_model
from serving.lookup import StoreLookup
from serving.metrics import Metrics
from serving.prediction_log import LogEntry, PredictionLog
from serving.predictor import Order, Predictions, Predictor
from serving.registry_client import BundleCache, Registry, registry_from

__all__ = ["Part", "Served", "Service"]


def utc_now() -> datetime:
    """The edge at which serving reads the clock."""
    return datetime.now(UTC)


class Part(NamedTuple):
    """Whether a part of the service is ready, in words."""

    ok: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Served:
    """Predictions as they were answered and logged."""

    model: LoadedModel
    orders: Sequence[Order]
    predictions: Predictions
    prediction_ids: Sequence[str]


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
        self.clock = clock
        self.metrics = Metrics()
        self.store = StoreLookup(settings)
        self.log = PredictionLog(settings.predictions)
        cache = BundleCache(settings.run_dir / "models")
        self.champion = Champion(registry or registry_from(settings), cache, self._predictor, self._switched)
        self.metrics.watch_log(self.log)
        self.metrics.watch_champion(self.champion)
        self.metrics.watch_store(lambda: self.store.breaker.is_open)

    def start(self) -> None:
        """Load the champion, if there is one, and begin to poll and to log."""
        self.champion.refresh()
        self.champion.start(self.settings.champion_poll_seconds)
        self.log.start()

    def stop(self) -> None:
        """End the threads; everything that was predicted is logged when this returns."""
        self.champion.stop()
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

    def predict(self, orders: Sequence[Order], *, request_id: str | None, started: float) -> Served:
        """Predict, count and log.

        Parameters
        ----------
        orders : sequence of Order
            At least one.
        request_id : str or None
            Goes into the log.
        started : float
            `time.perf_counter()` when the request arrived.
        """
        model = self.model()
        predictions = model.predictor.predict(orders)
        served = Served(model, orders, predictions, [uuid.uuid4().hex for _ in orders])
        self._count(served)
        self.log.offer(
            LogEntry(
                source="online",
                model_name=model.ref.name,
                model_version=model.ref.version,
                variant=model.variant,
                input_names=model.bundle.input_names,
                view_names=[view.name for view in model.predictor.views],
                prediction_ids=served.prediction_ids,
                orders=orders,
                predictions=predictions,
                predicted_at=self.clock(),
                latency_ms=(time.perf_counter() - started) * 1_000,
                request_id=request_id,
            )
        )
        return served

    def parts(self) -> dict[str, Part]:
        """What must work for undegraded answers."""
        current = self.champion.current
        model = Part(True, f"{current.ref.name} version {current.ref.version}") if current else None
        return {"model": model or Part(False, self.champion.why_none), "online_store": Part(*self.store.ping())}

    def _count(self, served: Served) -> None:
        degraded = sum(map(bool, served.predictions.reasons))
        for status, rows in (("degraded", degraded), ("ok", len(served.orders) - degraded)):
            if rows:
                self.metrics.count("eta_predictions", served.model.variant, status, by=rows)
        self.metrics.served(served.model.bundle.input_names, served.predictions.statuses)

    def _predictor(self, bundle: Bundle) -> Predictor:
        return Predictor(bundle, self.store.for_bundle(bundle))

    def _switched(self, outcome: Switch) -> None:
        self.metrics.count("eta_model_switches", outcome)
        current = self.champion.current
        if current is not None:
            self.metrics.show_model([current.ref.name, current.ref.version, current.ref.alias, current.variant])

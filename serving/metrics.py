"""What `/metrics` shows, in Prometheus' own text format.

Numbers are kept here and handed to `prometheus_client` when it asks, instead of in its `Counter` classes: Feast, once
imported, switches those to files that are shared between processes, for the whole process and all of its children.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from serving.absence import Share
from serving.champion import Champion
from serving.prediction_log import PredictionLog
from serving.status import LABELS

__all__ = ["Metrics"]

BOUNDS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
"""Seconds: upper bounds of the latency histogram, densest around the promised milliseconds."""

COUNTERS = {
    "eta_requests": ("Answered requests.", ("route", "method", "status")),
    "eta_predictions": ("Predicted orders.", ("variant", "status")),
    "eta_batch_rows_rejected": ("Rows of batches that were no valid order.", ()),
    "eta_model_switches": ("Changes of the model, by outcome.", ("outcome",)),
    "eta_challenger_switches": ("Changes of the challenger, by outcome.", ("outcome",)),
    "eta_challenger_faults": ("Orders that the challenger failed on; the champion answered.", ()),
    "eta_shadow_rows_dropped": ("Orders that the shadow did not score.", ()),
    "eta_unrecorded_predictions": ("Predictions answered, but neither counted nor logged.", ()),
    "eta_feature_values": ("Inputs of the model by status as served.", ("feature", "status")),
}
MOST_COMBINATIONS = 1_000
"""Rows are counted by the statuses of all of their inputs, of which few combinations occur, up to so many."""
MODEL_LABELS = ("name", "version", "alias", "variant")


class _Latency:
    """A histogram of seconds of one route."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.total = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.total += seconds

    def buckets(self) -> list[tuple[str, float]]:
        bounds = [*map(str, BOUNDS), "+Inf"]
        return list(zip(bounds, map(float, accumulate(self.counts)), strict=True))


class Metrics(Collector):
    """The metrics of one application."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, tuple[str, ...]]] = Counter()
        self._latencies: dict[str, _Latency] = {}
        self._rows: Counter[tuple[tuple[str, ...], bytes]] = Counter()
        self._features: Counter[tuple[str, tuple[str, ...]]] = Counter()
        self._gauges: dict[str, tuple[str, Callable[[], float]]] = {}
        self._shares: Callable[[], Sequence[Share]] = list
        self._totals: dict[str, tuple[str, Callable[[], float]]] = {}
        self._dead_threads: Callable[[], Mapping[str, bool]] = dict
        self._model: Sequence[str] | None = None
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.registry.register(self)

    def count(self, name: str, *labels: str, by: int = 1) -> None:
        """Add to a counter of `COUNTERS`; the labels in their order."""
        with self._lock:
            self._counts[name, labels] += by

    def answered(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count a request and its latency."""
        with self._lock:
            self._counts["eta_requests", (route, method, str(status))] += 1
            if route not in self._latencies:
                self._latencies[route] = _Latency()
            self._latencies[route].add(seconds)

    def served(self, names: tuple[str, ...], statuses: Sequence[bytes]) -> None:
        """Count the statuses of inputs, row by row."""
        with self._lock:
            for row in statuses:
                self._rows[names, row] += 1
            if len(self._rows) > MOST_COMBINATIONS:
                self._add_up()

    def _add_up(self) -> None:
        """Turn counts of rows into counts of features."""
        for (names, row), rows in self._rows.items():
            for name, status in zip(names, row, strict=True):
                self._features["eta_feature_values", (name, LABELS[status])] += rows
        self._rows.clear()

    def show_model(self, labels: Sequence[str]) -> None:
        """Make `labels` (in the order of `MODEL_LABELS`) the model in use."""
        self._model = labels

    def watch_log(self, log: PredictionLog) -> None:
        """Export the state of the prediction log."""
        self._gauges["eta_log_queue_rows"] = ("Predictions that wait to be logged.", lambda: log.queued)
        self._totals["eta_log_written_rows"] = ("Predictions logged.", lambda: log.written)
        self._totals["eta_log_dropped_rows"] = ("Predictions lost.", lambda: log.dropped)
        self._totals["eta_log_aside_rows"] = ("Predictions that are no row of the log, set aside.", lambda: log.aside)

    def watch_threads(self, dead: Callable[[], Mapping[str, bool]]) -> None:
        """Export whether each thread, by its name, is at work."""
        self._dead_threads = dead

    def watch_champion(self, champion: Champion) -> None:
        """Export whether there is a model, and whether its registry answers."""
        self._gauges["eta_model_loaded"] = ("1 if there is a model.", lambda: champion.current is not None)
        self._gauges["eta_registry_up"] = (
            "1 if the registry answered last.",
            lambda: champion.registry_state in ("ok", "no champion"),
        )

    def watch_store(self, is_open: Callable[[], bool]) -> None:
        """Export whether the online store is being tried."""
        self._gauges["eta_online_store_up"] = ("0 while the circuit breaker is open.", lambda: not is_open())

    def watch_shares(self, shares: Callable[[], Sequence[Share]]) -> None:
        """Export how often each view has nothing of an entity that was named, lately and in training."""
        self._shares = shares

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def collect(self) -> Iterator[Metric]:
        """The families, for the registry."""
        with self._lock:
            self._add_up()
            counts = self._counts + self._features
            latencies = {route: (each.buckets(), each.total) for route, each in self._latencies.items()}
        for name, (text, label_names) in COUNTERS.items():
            counter = CounterMetricFamily(name, text, labels=label_names)
            for (counted, labels), total in counts.items():
                if counted == name:
                    counter.add_metric(labels, total)
            yield counter
        histogram = HistogramMetricFamily("eta_request_seconds", "Time to answer.", labels=["route"])
        for route, (buckets, total_seconds) in latencies.items():
            histogram.add_metric([route], buckets, total_seconds)
        yield histogram
        yield from self._states()

    def _states(self) -> Iterator[Metric]:
        model = GaugeMetricFamily("eta_model_info", "The model in use.", labels=MODEL_LABELS)
        if self._model is not None:
            model.add_metric(self._model, 1)
        yield model
        threads = GaugeMetricFamily("eta_thread_up", "1 if the thread is at work.", labels=["thread"])
        for name, dead in self._dead_threads().items():
            threads.add_metric([name], not dead)
        yield threads
        lately = GaugeMetricFamily("eta_view_missing_share", "Orders of late without the view.", labels=["view"])
        trained = GaugeMetricFamily("eta_view_missing_share_training", "The same in training.", labels=["view"])
        for share in self._shares():
            lately.add_metric([share.view], share.missing)
            if share.in_training is not None:
                trained.add_metric([share.view], share.in_training)
        yield lately
        yield trained
        for name, (text, value) in self._totals.items():
            yield CounterMetricFamily(name, text, value=float(value()))
        for name, (text, value) in self._gauges.items():
            yield GaugeMetricFamily(name, text, value=float(value()))

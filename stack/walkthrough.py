"""`make run`: the whole loop once, from orders to a drift verdict, told as it happens.

Run again, it continues: history is not made twice, and features are computed for the hours that have passed since.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from config.settings import ROOT, Settings, get_settings
from feature_repo.locking import exclusive, holder_of
from feature_repo.request_fields import REQUEST_FIELDS
from feature_repo.window import DAY, HOUR, Window, as_utc, floor, floor_hour
from stack.processes import Service, ServiceError
from stack.summary import summary

if TYPE_CHECKING:
    import httpx

    from feature_repo.live import Online

LIVE_HOURS = 24
"""Hours at the end that are lived through step by step: their orders are predicted first, and known afterwards. A whole
day, because fewer hours would differ from the training reference by their time of day alone."""
LIVE_STEP = 2 * HOUR
"""Twice what the scheduler does, to keep the whole within a few minutes."""
SIMULATED_DAYS = 120
SIMULATED_ORDERS = 250_000
OURS = frozenset({"feature_repo", "monitoring", "serving", "simulator", "stack", "training"})
"""Errors of these packages have messages written for people; any other shows its traceback, too."""
BATCH = 500
"""Orders per request to the prediction service."""
REPLAY = {"replay": True}
"""What is asked about was placed up to a day ago, when the store held what it holds at that step."""


class WalkError(RuntimeError):
    """The loop cannot go on; the message says why and what to do."""


class Narrator:
    """Prints numbered steps with their times, and the progress within them; what libraries say goes to its log."""

    def __init__(self, log: Path) -> None:
        self.seconds: dict[str, float] = {}
        self.log = log
        self._out = sys.stdout

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """One numbered step; its time is printed and kept."""
        begun = time.monotonic()
        self._print(f"\n[{len(self.seconds) + 1}] {title}")
        self.seconds[title] = 0.0
        yield
        self.seconds[title] = time.monotonic() - begun
        self._print(f"    done in {self.seconds[title]:.1f} s")

    def say(self, text: str) -> None:
        """A line of progress within a step."""
        self._print(f"    {text}")

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Send what libraries print, log and warn about to the log, so that the story stays readable."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("w") as log, redirect_stdout(log), redirect_stderr(log):
            handler = logging.StreamHandler(log)
            handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
            logging.getLogger().addHandler(handler)
            try:
                yield
            finally:
                logging.getLogger().removeHandler(handler)

    def _print(self, text: str) -> None:
        print(text, file=self._out, flush=True)


@dataclass(frozen=True, slots=True)
class Own:
    """Your own orders, the mapping that reads them, and what you decided about them; nothing for the simulator's."""

    orders: str | None
    mapping: Path | None
    allow: Sequence[str]


@dataclass
class Story:
    """What happened, for the summary."""

    source: str = ""
    known: Window | None = None
    features: dict[str, int] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    predictions: int = 0
    audits: list[dict[str, Any]] = field(default_factory=list)
    monitoring: dict[str, Any] = field(default_factory=dict)
    example: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


def main(orders: str | None = None, mapping: Path | None = None, allow: Sequence[str] = ()) -> int:
    """Go once round the loop, with the simulator's orders or with your own; return the process's exit status."""
    if (orders is None) != (mapping is None):
        print("make run: give both ORDERS= and MAPPING=, or neither (docs/orders.md)")
        return 2
    try:
        settings = _settings_for(mapping)
    except (ValueError, OSError) as error:
        print(f"make run stopped: {error}", file=sys.stderr)
        return 2
    narrator = Narrator(settings.run_dir / "walkthrough.log")
    try:
        with ExitStack() as servers, narrator.alone():
            story = _walk(settings, Own(orders, mapping, allow), servers, narrator)
            page = summary(story, settings)
    except Exception as error:
        print(f"\nmake run stopped: {error}\n(what the libraries said is in {narrator.log})", file=sys.stderr)
        if type(error).__module__.partition(".")[0] in OURS:
            return 1
        raise
    print(page)
    return 0


def _settings_for(mapping: Path | None) -> Settings:
    """Your own orders get a data directory of their own, as two sources never mix, and their mapping's gates."""
    if mapping is not None:
        from feature_repo.orders.mapping_file import load_mapping

        thresholds = load_mapping(mapping).gate_thresholds
        os.environ.setdefault("ETA_DATA_DIR", str(ROOT / "data" / "own" / mapping.stem))
        os.environ.setdefault("ETA_GATE_THRESHOLDS", json.dumps(thresholds))
        get_settings.cache_clear()
    return get_settings()


def _walk(settings: Settings, own: Own, servers: ExitStack, narrator: Narrator) -> Story:
    from stack.services import mlflow_service, redis_service, serving_service

    story = Story()
    stores = _Starting([redis_service(settings), mlflow_service(settings)], servers)
    with narrator.step("Orders: bring them in" if own.orders else "Orders: simulate a marketplace"):
        story.source = _land(settings, own, narrator)
        start, end = _span(settings)
        narrator.say(f"orders are complete from {start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC")
    with narrator.step("Services: Redis (online store) and MLflow (experiments, model registry)"):
        stores.wait(narrator)
    with _alone(settings, narrator):
        live = Window(_live_start(settings, start, end), end) if _computed_until(settings, start) < end else None
        split = live.start if live else end
        until = f"{split:%Y-%m-%d %H:%M} UTC"
        with narrator.step(f"Features: validate orders, compute all views until {until}, materialise"):
            _features(settings, split, narrator)
        with narrator.step(f"Training: what was known at {until}, gates, registry"):
            story.training = _train(settings, split, narrator)
            _require_champion(story.training, settings)
        with narrator.step("Serving: start the prediction service with the champion"):
            _start(serving_service(settings), servers, narrator)
            _await_model(settings)
        if live:
            hours = len(list(live.hours()))
            with narrator.step(f"Live: {hours} hours, their orders predicted first and known afterwards"):
                _live(settings, live, story, narrator)
    with narrator.step("Monitoring: predictions beside what happened, drift, verdict"):
        story.monitoring = _monitor(settings, end, narrator)
    story.known = Window(start, end)
    story.features = _feature_rows(settings)
    story.example = _example(settings, end)
    story.seconds = narrator.seconds
    return story


@contextmanager
def _alone(settings: Settings, narrator: Narrator) -> Iterator[None]:
    """Until the last day has been replayed, a running pipeline waits: what it computes is newer than those orders."""
    if holder := holder_of(settings, "run"):
        narrator.say(f"waiting for the features that are being computed ({holder})")
    with exclusive(settings, "run", "make run"):
        yield


class _Starting:
    """Servers that start in the background while other work goes on."""

    def __init__(self, services: list[Service], servers: ExitStack) -> None:
        self._lines: list[str] = []
        self._errors: list[ServiceError] = []
        self._servers = servers
        self._threads = [threading.Thread(target=self._start, args=[service], daemon=True) for service in services]
        for thread in self._threads:
            thread.start()

    def _start(self, service: Service) -> None:
        try:
            if service.start(self._lines.append):
                self._servers.callback(service.stop, lambda _: None)
        except ServiceError as error:
            self._errors.append(error)

    def wait(self, narrator: Narrator) -> None:
        """Until all are well.

        Raises
        ------
        ServiceError
            One of them did not start.
        """
        for thread in self._threads:
            thread.join()
        for line in self._lines:
            narrator.say(line)
        if self._errors:
            raise self._errors[0]


def _start(service: Service, servers: ExitStack, narrator: Narrator) -> None:
    if service.start(narrator.say):
        servers.callback(service.stop, lambda _: None)


def _await_model(settings: Settings) -> None:
    """A service that `make up` started before there was a model looks for one every few seconds.

    Raises
    ------
    WalkError
        It does not find it.
    """
    deadline = time.monotonic() + 5 * settings.champion_poll_seconds + 30
    with _service(settings) as service:
        while (answer := service.get("/model")).is_error:
            if time.monotonic() > deadline:
                raise WalkError(f"the prediction service does not find the champion ({answer.text}): see its log")
            time.sleep(0.5)


def _land(settings: Settings, own: Own, narrator: Narrator) -> str:
    if own.orders is not None and own.mapping is not None:
        from feature_repo.orders.decisions import parse_allowed
        from feature_repo.orders.mapping import bring_in

        allowed = parse_allowed(own.allow)
        report = bring_in(own.orders, own.mapping, settings, now=datetime.now(UTC), allowed=allowed)
        for line in report.summary().splitlines():
            narrator.say(line.rstrip())
        return f"{own.orders} through {own.mapping}"
    from feature_repo.orders.watermark import read_watermark
    from simulator.generate import advance, write_history

    now = floor_hour(datetime.now(UTC))
    watermark = read_watermark(settings)
    if watermark is None:
        made = write_history(settings.landing_orders, now, SIMULATED_DAYS, SIMULATED_ORDERS, progress=narrator.say)
        narrator.say(f"{made['orders']:,} orders in {made['rows']:,} versions")
    elif watermark.complete_until < now:
        narrator.say(f"continuing the history that ends at {watermark.complete_until:%Y-%m-%d %H:%M} UTC")
        advance(settings.landing_orders, now)
    else:
        narrator.say("nothing new: the history reaches to this hour")
    return "the simulator"


def _span(settings: Settings) -> tuple[datetime, datetime]:
    from feature_repo.orders.watermark import read_watermark

    watermark = read_watermark(settings)
    if watermark is None:
        raise WalkError(f"no orders have landed in {settings.landing_orders}")
    start, end = floor_hour(watermark.started_at), floor_hour(watermark.complete_until)
    if end - start < 2 * DAY:
        raise WalkError(
            f"the orders cover only {start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC: the loop needs two days at "
            "least, one to learn from and one to predict. Bring in a longer file"
        )
    _require_no_void(settings, start, end)
    return start, end


def _require_no_void(settings: Settings, start: datetime, end: datetime) -> None:
    """Whoever fills the landing folder without `make ingest` may have set its span by one odd row."""
    from feature_repo.orders.decisions import OUT_OF_SPAN
    from feature_repo.orders.ownership import read_record
    from feature_repo.orders.span import landed_void

    void, record = landed_void(settings, start, end), read_record(settings)
    if void and not (record and OUT_OF_SPAN in record.allowed):
        raise WalkError(
            f"no orders have landed between {void[0]} and {void[1]}, and all of it would be computed: correct "
            f"started_at and complete_until in {settings.landing_orders}/_watermark.json, or raise "
            f"ETA_SPAN_MAX_GAP_DAYS={settings.span_max_gap_days}"
        )


def _computed_until(settings: Settings, start: datetime) -> datetime:
    """Until when features have been computed; `start` before any have."""
    from feature_repo.transforms.coverage import read_coverage

    coverage = read_coverage(settings)
    return coverage.until if coverage else start


def _live_start(settings: Settings, start: datetime, end: datetime) -> datetime:
    return max(end - LIVE_HOURS * HOUR, _computed_until(settings, start), start + DAY)


def _features(settings: Settings, until: datetime, narrator: Narrator) -> None:
    from feature_repo import pipeline
    from feature_repo.store import apply
    from feature_repo.transforms.coverage import left_out

    apply(settings)
    if unused := left_out(settings):
        narrator.say(unused)
    pipeline.close_gap(Window(until, until + HOUR), settings, narrator.say)
    narrator.say("feature rows to Redis")
    pipeline.materialize(Window.last(DAY, until), settings)


def _train(settings: Settings, as_of: datetime, narrator: Narrator) -> dict[str, Any]:
    from training.models import get_spec
    from training.pipeline import run

    return dict(run(as_of, settings, get_spec("delivery_time", settings), narrator.say))


def _require_champion(training: dict[str, Any], settings: Settings) -> None:
    """Stop where there is nothing to serve, with the reasons, rather than at the service's 503."""
    from training.registry import ModelRegistry

    if training["status"] == "registered" or ModelRegistry(settings, training["model"]).champion():
        return
    if training["status"] == "skipped":
        raise WalkError(f"{training['reason']}. Bring orders in that have it (docs/orders.md)")
    refused = training.get("rejection")
    reasons = refused["reasons"] if refused else training["validation"]["failures"]
    raise WalkError(
        f"there is no model to serve, as the first one was {training['status']}: {'; '.join(reasons)}. Bring more "
        "orders, or give the thresholds that fit your market: gate_thresholds in the mapping, or ETA_GATE_THRESHOLDS "
        "(docs/training.md)"
    )


def _live(settings: Settings, live: Window, story: Story, narrator: Narrator) -> None:
    from feature_repo import pipeline
    from feature_repo.live import Online

    online = Online(settings)
    with _service(settings) as service:
        for step in _steps(live):
            answers = _predict_in_turn(settings, step, online, service)
            predicted = sum(answer["prediction"] is not None for answer in answers)
            told = pipeline.run_window(step, settings, lambda _: None)
            story.predictions += predicted
            story.audits.append(told["audit"])
            if not told["audit"]["passed"]:
                narrator.say(f"{step.start:%H:%M}  AUDIT FAILED: online differs from offline: {told['audit']}")
            asked = f"{predicted:>4} orders predicted{_refusals(answers)}"
            narrator.say(f"{step.start:%H:%M}  {asked}; then their outcome, features, audit")


def _refusals(answers: list[dict[str, Any]]) -> str:
    """In words, how many requests were refused and why, by the title of the problem."""
    titles = Counter(answer["problem"]["title"] for answer in answers if answer["problem"] is not None)
    return "".join(f", {count} refused ({title})" for title, count in titles.items())


def _steps(live: Window) -> Iterator[Window]:
    start = live.start
    while start < live.end:
        step = Window(start, min(start + LIVE_STEP, live.end))
        yield step
        start = step.end


def _placed(settings: Settings, window: Window) -> list[dict[str, Any]]:
    """The orders placed in a window as a customer's app would send them: nothing in them was known later."""
    import polars as pl

    from feature_repo.orders.landing import read_landing

    placed = pl.col("placed_at").is_between(window.start, window.end, closed="left")
    request = ["order_id", "restaurant_id", "customer_id", "zone_id", "placed_at", *REQUEST_FIELDS]
    rows = read_landing(window, settings).filter(placed, pl.col("status") == "placed").unique("order_id")
    for_now = pl.col("is_asap").fill_null(True)
    rows = rows.select(*request, for_now).sort("placed_at", "order_id")
    return [
        {name: value.isoformat() if isinstance(value, datetime) else value for name, value in row.items()}
        for row in rows.iter_rows(named=True)
    ]


def _predict_in_turn(settings: Settings, window: Window, online: Online, service: httpx.Client) -> list[dict[str, Any]]:
    """Answers for the orders placed in a window, each asked for when live values are what they were at its instant."""
    from feature_repo.live import bring_online, rows_until
    from feature_repo.transforms.spec import LIVE_STEP

    def newest(order: dict[str, Any]) -> datetime:
        return floor(as_utc(order["placed_at"]) - settings.live_publication_delay, LIVE_STEP)

    rows, answers = rows_until(window.end, settings), []
    for as_of, orders in groupby(_placed(settings, window), newest):
        if as_of > window.start:
            bring_online(rows, as_of, settings, online)
        answers += _predict(service, list(orders))
    return answers


def _service(settings: Settings) -> httpx.Client:
    """A client of the prediction service; to open one takes longer than a prediction."""
    import httpx

    headers = {"X-API-Key": settings.client_key}
    return httpx.Client(base_url=settings.serving_url, headers=headers, timeout=30, trust_env=False)


def _predict(service: httpx.Client, orders: list[dict[str, Any]]) -> list[dict[str, Any]]:
    answers: list[dict[str, Any]] = []
    for first in range(0, len(orders), BATCH):
        answer = service.post("/predict/batch", params=REPLAY, json={"orders": orders[first : first + BATCH]})
        if answer.is_error:
            raise WalkError(f"the prediction service refused a batch ({answer.status_code}): {answer.text}")
        answers += answer.json()["rows"]
    return answers


def _monitor(settings: Settings, end: datetime, narrator: Narrator) -> dict[str, Any]:
    from monitoring.pipeline import run

    narrator.say("Evidently compares the served inputs with the champion's training reference")
    return dict(run(Window.last(LIVE_HOURS * HOUR, end), settings))


def _feature_rows(settings: Settings) -> dict[str, int]:
    import polars as pl

    from feature_repo.transforms.tables import feature_table
    from feature_repo.transforms.views import TRANSFORMS

    tables = {view: feature_table(transform, settings) for view, transform in TRANSFORMS.items()}
    return {view: int(table.scan().select(pl.len()).collect().item()) for view, table in tables.items()}


def _example(settings: Settings, end: datetime) -> dict[str, Any]:
    """One prediction from the running service, for an order at the end like the last one that was placed for now."""
    placed = _placed(settings, Window.last(timedelta(hours=LIVE_HOURS), end))
    candidates = [order for order in placed if order["is_asap"]]
    if not candidates:
        return {}
    order = candidates[-1] | {"order_id": "make-run-example", "placed_at": end.isoformat()}
    with _service(settings) as service:
        answer = service.post("/predict", params=REPLAY, json=order)
    return {"request": order, "status_code": answer.status_code, "answer": answer.json()}

"""Who answers which request, and what the tags of the registry change while requests go on."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from config import Settings
from feature_repo.window import Window
from serving.coalesce import Coalescer
from serving.errors import NoChampion
from serving.prediction_log import read_predictions
from serving.predictor import Order
from serving.registry_client import CHALLENGER, DirectoryRegistry, ModelRef
from serving.service import Asked, Service
from serving.traffic import SHADOW_CAPACITY, Shadow, TrafficError, TrafficRule
from serving.wire import at_once
from tests.serving.conftest import NOON, BundleMaker

CUSTOMERS = [Order("r1", NOON, order_id=f"o{n}", customer_id=f"c{n}") for n in range(2_000)]
Tags = dict[str, str]


@pytest.mark.parametrize(
    ("tags", "rule"),
    [
        ({}, TrafficRule("off", 0.0, "challenger")),
        ({"traffic": "off", "traffic_share": "0.5"}, TrafficRule("off", 0.5, "challenger")),
        ({"traffic": "canary"}, TrafficRule("canary", 0.05, "canary")),
        ({"traffic": "canary", "traffic_share": "0.2"}, TrafficRule("canary", 0.2, "canary")),
        ({"traffic": "shadow"}, TrafficRule("shadow", 1.0, "shadow")),
        ({"traffic": "ab", "traffic_variant": "more trees"}, TrafficRule("ab", 0.5, "more trees")),
        ({"traffic": "ab", "traffic_salt": "spring"}, TrafficRule("ab", 0.5, "ab", "spring")),
    ],
)
def test_tags_state_the_rule(tags: Tags, rule: TrafficRule):
    assert TrafficRule.of(tags) == rule


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"traffic": "canery"}, "the tag traffic is 'canery', not one of off, canary, ab, shadow"),
        ({"traffic": "canary", "traffic_share": "5%"}, "the tag traffic_share is '5%': a number from 0 to 1"),
        ({"traffic": "canary", "traffic_share": "1.01"}, "traffic_share"),
        ({"traffic": "canary", "traffic_share": "nan"}, "traffic_share"),
        ({"traffic": "ab", "traffic_variant": "champion"}, "traffic_variant is 'champion'"),
        ({"traffic": "ab", "traffic_variant": ""}, "traffic_variant is ''"),
    ],
)
def test_a_tag_that_cannot_be_understood_is_named(tags: Tags, message: str):
    with pytest.raises(TrafficError, match=message):
        TrafficRule.of(tags)


def test_a_share_is_kept_by_customer_and_only_grows_when_it_is_raised():
    few, more = (TrafficRule("canary", share) for share in (0.05, 0.2))
    taken = [order.customer_id for order in CUSTOMERS if few.takes(order)]

    assert len(taken) / len(CUSTOMERS) == pytest.approx(0.05, abs=0.02)
    assert set(taken) < {order.customer_id for order in CUSTOMERS if more.takes(order)}
    assert all(few.takes(Order("another", NOON, customer_id=customer)) for customer in taken)


def test_each_rollout_begins_with_other_customers():
    rules = [TrafficRule.of({"traffic": "canary", "traffic_share": "0.2"}, salt=version) for version in ("7", "8")]
    first, second = ({order.customer_id for order in CUSTOMERS if rule.takes(order)} for rule in rules)

    expected = 0.2 * 0.2 * len(CUSTOMERS)  # those of both, by chance
    assert len(first & second) == pytest.approx(expected, abs=30)
    assert first == {order.customer_id for order in CUSTOMERS if rules[0].takes(order)}


def test_none_and_all_are_exact():
    assert not any(TrafficRule("ab", 0.0).takes(order) for order in CUSTOMERS)
    assert all(TrafficRule("ab", 1.0).takes(order) for order in CUSTOMERS)


class TwoModels:
    """A registry with a champion and, while `tags` is not None, a challenger that has them."""

    def __init__(self, champion: Path, challenger: Path) -> None:
        self.directories = {"champion": champion, "challenger": challenger}
        self.tags: Tags | None = None
        self.version = 2

    def resolve(self, name: str, alias: str) -> ModelRef:
        if alias == CHALLENGER:
            if self.tags is None:
                raise NoChampion("no challenger")
            return ModelRef(name, str(self.version), alias, str(self.directories[alias]), "0", dict(self.tags))
        return ModelRef(name, "1", alias, str(self.directories[alias]), "0")

    def fetch(self, ref: ModelRef, directory: Path) -> None:
        DirectoryRegistry(Path(ref.source)).fetch(ref, directory)


@pytest.fixture
def registry(make_bundle: BundleMaker) -> TwoModels:
    return TwoModels(make_bundle(), make_bundle(shift=5.0))


@pytest.fixture
def service(settings: Settings, store: str, registry: TwoModels) -> Iterator[Service]:
    service = Service(settings, registry=registry, clock=lambda: NOON)
    service.champion.refresh()
    service.shadow.start()
    service.log.start()
    yield service
    service.stop()


def predict(service: Service, orders: list[Order]) -> list[tuple[str, float]]:
    answered = at_once(service.predict(orders, [Asked("q", 0.0)] * len(orders)))
    assert [row.served.orders[row.row] for row in answered] == orders
    return [(row.served.model.variant, row.served.predictions.estimates.minutes[row.row]) for row in answered]


def retag(service: Service, registry: TwoModels, tags: Tags | None) -> None:
    registry.tags = tags
    service.challenger.refresh()


def logged(service: Service, settings: Settings) -> pl.DataFrame:
    service.stop()
    return read_predictions(settings, Window(NOON, NOON + timedelta(hours=1)))


def test_a_canary_answers_its_share_with_its_own_model_until_the_tag_changes(service: Service, registry: TwoModels):
    ((_, by_champion),) = predict(service, CUSTOMERS[:1])

    retag(service, registry, {"traffic": "canary"})
    answers = predict(service, CUSTOMERS)
    assert Counter(variant for variant, _ in answers)["canary"] == pytest.approx(100, abs=40)
    assert {variant: round(minutes - by_champion, 3) for variant, minutes in answers} == {"champion": 0, "canary": 5}
    assert predict(service, CUSTOMERS) == answers

    retag(service, registry, {"traffic": "ab", "traffic_share": "1", "traffic_variant": "b"})
    assert {variant for variant, _ in predict(service, CUSTOMERS[:50])} == {"b"}

    retag(service, registry, {"traffic": "off"})
    assert {variant for variant, _ in predict(service, CUSTOMERS)} == {"champion"}


def test_without_its_alias_nobody_is_a_challenger(service: Service, registry: TwoModels):
    retag(service, registry, {"traffic": "ab", "traffic_share": "1"})
    assert predict(service, CUSTOMERS[:1])[0][0] == "ab"

    retag(service, registry, None)

    assert predict(service, CUSTOMERS[:1])[0][0] == "champion"


def test_a_tag_with_a_fault_takes_no_traffic_and_is_an_alarm(
    service: Service, registry: TwoModels, caplog: pytest.LogCaptureFixture
):
    retag(service, registry, {"traffic": "ab", "traffic_share": "all"})

    assert {variant for variant, _ in predict(service, CUSTOMERS)} == {"champion"}
    assert "ALARM: delivery_time version 2 takes no part: the tag traffic_share is 'all'" in caplog.text


def test_a_challenger_that_fails_its_self_test_takes_no_traffic(
    service: Service, registry: TwoModels, make_bundle: BundleMaker
):
    retag(service, registry, {"traffic": "ab", "traffic_share": "1"})
    wrong = make_bundle()
    (wrong / "model.onnx").write_bytes((make_bundle(shift=50.0) / "model.onnx").read_bytes())
    registry.directories["challenger"], registry.version = wrong, 3
    service.challenger.refresh()

    assert predict(service, CUSTOMERS[:1])[0][0] == "champion"
    assert "version 3 was refused: self-test row" in (service.challenger.refusal or "")


def test_a_shadow_is_logged_and_never_answered(service: Service, registry: TwoModels, settings: Settings):
    retag(service, registry, {"traffic": "shadow"})

    answers = predict(service, CUSTOMERS[:20])

    assert {variant for variant, _ in answers} == {"champion"}
    rows = logged(service, settings)
    assert Counter(rows.select("variant", "source", "model_version").rows()) == {
        ("champion", "online", "1"): 20,
        ("shadow", "shadow", "2"): 20,
    }
    pairs = rows.pivot("variant", index="order_id", values="delivery_minutes")
    assert (pairs["shadow"] - pairs["champion"]).round(3).unique().to_list() == [5.0]


def test_the_variant_is_in_the_log(service: Service, registry: TwoModels, settings: Settings):
    retag(service, registry, {"traffic": "ab", "traffic_variant": "b"})

    variants = Counter(variant for variant, _ in predict(service, CUSTOMERS[:200]))

    rows = logged(service, settings)
    assert Counter(rows["variant"].to_list()) == variants
    assert set(variants) == {"b", "champion"}
    assert rows.filter(variant="b")["model_version"].unique().to_list() == ["2"]


def test_a_challenger_that_raises_costs_nobody_an_answer(
    service: Service, registry: TwoModels, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    retag(service, registry, {"traffic": "ab", "traffic_share": "1"})
    assert service.challenger.current is not None

    def fails(orders: Any) -> Any:
        raise RuntimeError("no such input")

    monkeypatch.setattr(service.challenger.current.predictor, "predict", fails)

    assert [variant for variant, _ in predict(service, CUSTOMERS[:3])] == ["champion"] * 3
    assert "ALARM: the challenger version 2 failed, the champion answers" in caplog.text
    assert b"eta_challenger_faults_total 3.0" in service.metrics.text()


def test_when_both_fail_nobody_is_logged_twice(
    service: Service, registry: TwoModels, settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    retag(service, registry, {"traffic": "ab"})
    by_challenger = [order for order in CUSTOMERS[:20] if service.challenger.rule.takes(order)]
    others = [order for order in CUSTOMERS[:20] if order not in by_challenger]
    assert service.challenger.current is not None
    assert service.champion.current is not None
    answer = service.champion.current.predictor.predict

    async def fails(orders: Any) -> Any:
        if set(orders) & set(by_challenger):
            raise RuntimeError("no such input")
        return await answer(orders)

    for model in (service.challenger.current, service.champion.current):
        monkeypatch.setattr(model.predictor, "predict", fails)

    async def ask() -> list[Any]:
        coalescer = Coalescer(service)
        requests = (coalescer.predict(order, Asked("q", 0.0)) for order in CUSTOMERS[:20])
        return await asyncio.gather(*requests, return_exceptions=True)

    answers = asyncio.run(ask())

    assert sum(isinstance(answer, RuntimeError) for answer in answers) == len(by_challenger)
    assert sorted(logged(service, settings)["order_id"]) == sorted(order.order_id or "" for order in others)


def test_a_version_that_became_champion_is_not_its_own_challenger(service: Service, registry: TwoModels):
    registry.version = 1
    retag(service, registry, {"traffic": "ab", "traffic_share": "1"})

    assert predict(service, CUSTOMERS[:1])[0][0] == "champion"


def test_a_shadow_that_falls_behind_drops_and_counts(caplog: pytest.LogCaptureFixture):
    dropped: list[int] = []
    scored: list[int] = []
    shadow = Shadow(dropped.append)
    work: list[Callable[[], object]] = [lambda n=n: scored.append(n) for n in range(SHADOW_CAPACITY)]
    work[1] = lambda: 1 / 0
    for each in [*work, work[0]]:
        shadow.offer(each, 2)
    assert dropped == [2]

    with caplog.at_level(logging.ERROR):
        shadow.start()
        shadow.stop()

    assert scored == [0, *range(2, SHADOW_CAPACITY)]
    assert dropped == [2, 2]
    shadow.offer(work[0], 3)
    assert dropped == [2, 2, 3]

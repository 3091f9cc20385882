from __future__ import annotations

import json
import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import redis

from config import Settings
from feature_repo.transforms.request_time import Clock, calendar
from serving.absence import ALL_STALE, UNDECODABLE
from serving.bundle import Bundle, Estimates
from serving.errors import BundleError, ModelFault
from serving.feast_bytes import field_name
from serving.lookup import StoreLookup
from serving.online import StoredRow
from serving.predictor import OTHER_REQUEST_FUNCTION, STORE_DOWN, TOO_LONG, LookupFailed, Order, Predictions, Predictor
from serving.status import FeatureStatus
from serving.wire import at_once
from tests.conftest import free_port
from tests.serving.conftest import NAMES, NOON, BundleMaker, write_online

HOUR = timedelta(hours=1)
FULL = Order(
    "r1", NOON + HOUR, driver_id="d1", zone_id="z1", distance_km=2.0, item_count=3, order_value=30.0, order_id="o1"
)


def predict(predictor: Predictor, orders: Sequence[Order]) -> Predictions:
    return at_once(predictor.predict(orders))


@pytest.fixture
def predictor(bundle_dir: Path, settings: Settings, store: str) -> Predictor:
    bundle = Bundle.load(bundle_dir)
    return Predictor(bundle, StoreLookup(settings).for_bundle(bundle))


def test_stored_requested_and_computed_values_become_the_inputs_in_their_order(predictor: Predictor):
    found = predict(predictor, [FULL])

    cosine = math.cos(2 * math.pi * 13 / 24)
    assert list(found.inputs[0]) == pytest.approx([40, 30.5, 20, 28, 12, 2, 3, 30, cosine, 1, 1.5])
    assert found.statuses == [bytes([FeatureStatus.PRESENT] * 11)]
    assert found.event_times == [(NOON.timestamp(),) * 3]
    assert found.reasons == [()]
    assert found.estimates == predictor.bundle.estimate(np.array(found.inputs, dtype=np.float32))


@pytest.mark.parametrize(("source", "wanted"), [("request", "surge"), ("on_demand", "surge")])
def test_an_input_that_nobody_gives_is_refused_before_anybody_asks(
    make_bundle: BundleMaker, bundle_dir: Path, settings: Settings, source: str, wanted: str
):
    inputs = [dict(each) for each in json.loads((bundle_dir / "bundle.json").read_text())["inputs"]]
    inputs[-1] |= {"name": wanted, "source": source, "feature": wanted, "view": None}
    bundle = Bundle.load(make_bundle(inputs=inputs))

    with pytest.raises(BundleError, match=rf"the input surge \({source}\) is not known here"):
        Predictor(bundle, StoreLookup(settings).for_bundle(bundle))


def test_many_rows_give_what_each_gives_alone(predictor: Predictor, store: str):
    write_online(store, "restaurant_id", "r2", "restaurant_stats", NOON - 20 * HOUR, {"order_count_7d": 5})
    orders = [
        Order(
            restaurant,
            NOON + hours * HOUR,
            driver_id=driver,
            zone_id="z1",
            order_value=value,
        )
        for restaurant in ("r1", "r2", "unknown")
        for hours in (0, 1, 8, 30)
        for driver, value in (("d1", 10.0), (None, None))
    ]

    together = predict(predictor, orders)
    alone = [predict(predictor, [order]) for order in orders]

    np.testing.assert_array_equal(together.inputs, np.concatenate([one.inputs for one in alone]))
    np.testing.assert_array_equal(together.event_times, np.concatenate([one.event_times for one in alone]))
    assert together.statuses == [one.statuses[0] for one in alone]
    assert together.estimates.minutes == [one.estimates.minutes[0] for one in alone]
    assert together.reasons == [one.reasons[0] for one in alone]


def with_inputs(make_bundle: BundleMaker, bundle_dir: Path, **changes: Any) -> Bundle:
    """A bundle whose inputs all have these members, too."""
    inputs = [each | changes for each in json.loads((bundle_dir / "bundle.json").read_text())["inputs"]]
    return Bundle.load(make_bundle(inputs=inputs))


def test_what_is_not_known_is_missing_and_no_fault_where_training_had_many_such_rows(
    make_bundle: BundleMaker, bundle_dir: Path, settings: Settings, store: str
):
    bundle = with_inputs(make_bundle, bundle_dir, null_rate=0.2)
    found = predict(Predictor(bundle, StoreLookup(settings).for_bundle(bundle)), [Order("never seen", NOON)])

    missing = [name for name, status in zip(NAMES, found.statuses[0], strict=True) if status == FeatureStatus.MISSING]
    assert missing == [
        name for name in NAMES if name not in ("request_features__hour_of_day_cos", "request_features__is_peak_hour")
    ]
    assert np.isnan(found.inputs[0][:8]).all()
    assert found.reasons == [()]
    assert 0 < found.estimates.minutes[0] < 180


def test_a_value_is_fresh_up_to_its_time_to_live_and_stale_after(predictor: Predictor):
    at_limit, beyond = (Order("r1", NOON + 26 * HOUR + extra) for extra in (timedelta(0), timedelta(seconds=1)))

    fresh, stale = predict(predictor, [at_limit]), predict(predictor, [beyond])

    assert fresh.statuses[0][:3] == bytes([FeatureStatus.PRESENT] * 3)
    assert stale.statuses[0][:3] == bytes([FeatureStatus.STALE] * 3)
    assert np.isnan(stale.inputs[0][:3]).all()
    assert stale.reasons == [(ALL_STALE,)]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"null_rate": 0.05}, None),
        ({"null_rate": 0.049}, "which was so in 4.9% of the training rows"),
        ({}, "and how often that was so in training is not known"),
    ],
)
def test_a_named_restaurant_of_which_nothing_is_stored_degrades_where_training_had_few_such_rows(
    make_bundle: BundleMaker, bundle_dir: Path, settings: Settings, store: str, changes: dict, reason: str | None
):
    bundle = with_inputs(make_bundle, bundle_dir, **changes)
    predictor = Predictor(bundle, StoreLookup(settings).for_bundle(bundle))

    nobody, unnamed = predict(predictor, [Order("never seen", NOON), Order("r1", NOON)]).reasons

    expected = () if reason is None else (f"restaurant_stats: nothing is stored of this restaurant_id, {reason}",)
    assert (nobody, unnamed) == (expected, ())


def test_one_stale_view_beside_a_fresh_one_degrades_whom_it_is_of(predictor: Predictor, store: str):
    write_online(store, "zone_id", "z1", "zone_stats", NOON + 30 * HOUR, {"open_order_count": 9})

    found = predict(predictor, [Order("r1", NOON + 30 * HOUR, zone_id="z1")])

    assert list(found.statuses[0][:5]) == [
        FeatureStatus.STALE,
        FeatureStatus.STALE,
        FeatureStatus.STALE,
        FeatureStatus.MISSING,
        FeatureStatus.PRESENT,
    ]
    assert found.reasons == [
        ("restaurant_stats: all that is stored of this restaurant_id is older than its time to live",)
    ]


@pytest.mark.parametrize("newer", [timedelta(microseconds=1), timedelta(days=365)])
def test_a_value_newer_than_the_order_is_of_the_future_and_not_used(predictor: Predictor, newer: timedelta):
    found = predict(predictor, [FULL._replace(placed_at=NOON), FULL._replace(placed_at=NOON - newer)])

    assert [row[0] for row in found.statuses] == [FeatureStatus.PRESENT, FeatureStatus.FUTURE]
    assert np.isnan(found.inputs[1][:5]).all()
    assert found.reasons[1] == (
        "restaurant_stats__order_count_7d, restaurant_stats__delivery_minutes_mean_28d, "
        "restaurant_stats__order_value_mean_28d and 2 more: newer than the order, counts as missing",
    )


def test_an_old_order_hides_no_staleness_from_who_asks_now(predictor: Predictor):
    asked_late, replayed = (FULL._replace(asked_at=NOON + 27 * HOUR), FULL._replace(asked_at=None))

    found = predict(predictor, [asked_late, replayed])

    assert [row[0] for row in found.statuses] == [FeatureStatus.STALE, FeatureStatus.PRESENT]
    assert found.reasons == [(ALL_STALE,), ()]


def store_raw(url: str, field: str, data: bytes) -> None:
    """Put bytes where a feature of restaurant r1 is, or its event time."""
    client, name = redis.Redis.from_url(url), field_name("restaurant_stats", field)
    (key,) = client.scan_iter(match=b"*restaurant_id*")
    client.hset(key, name if field != "_ts" else b"_ts:restaurant_stats", data)


def value(**kind: Any) -> bytes:
    from feast.protos.feast.types.Value_pb2 import DoubleList, Value

    if "numbers" in kind:
        return Value(double_list_val=DoubleList(val=kind["numbers"])).SerializeToString()
    return Value(**kind).SerializeToString()


@pytest.mark.parametrize(
    "kind",
    [
        {"string_val": "30"},
        {"numbers": [30.0]},
        {"double_val": math.nan},
        {"double_val": math.inf},
        {"double_val": -math.inf},
        {"double_val": 1e300},
        {"float_val": math.inf},
    ],
)
def test_what_is_stored_and_is_no_number_for_a_model_degrades(predictor: Predictor, store: str, kind: dict):
    store_raw(store, "order_value_mean_28d", value(**kind))

    found = predict(predictor, [FULL])

    assert found.statuses[0][2] == FeatureStatus.UNDECODABLE
    assert np.isnan(found.inputs[0][2])
    assert np.isnan(found.inputs[0][10])  # what is computed from it
    assert found.reasons == [(UNDECODABLE,)]


def test_what_is_computed_and_infinite_to_the_model_is_not_given_to_it(predictor: Predictor, store: str):
    store_raw(store, "order_value_mean_28d", value(double_val=1e-320))

    found = predict(predictor, [FULL])

    assert (found.statuses[0][2], found.statuses[0][10]) == (FeatureStatus.PRESENT, FeatureStatus.UNDECODABLE)
    assert np.isnan(found.inputs[0][10])


@pytest.mark.parametrize("seconds", [1_777_636_800_000, 4_102_444_800, -1])
def test_an_event_time_in_another_unit_is_no_event_time(predictor: Predictor, store: str, seconds: int):
    from google.protobuf.timestamp_pb2 import Timestamp

    store_raw(store, "_ts", Timestamp(seconds=seconds).SerializeToString())

    found = predict(predictor, [FULL])

    assert found.statuses[0][:3] == bytes([FeatureStatus.UNDECODABLE] * 3)
    assert math.isnan(found.event_times[0][0])


@pytest.mark.parametrize(("distance", "is_plausible"), [(30.0, True), (30.1, False), (0.0, True)])
def test_a_value_far_from_all_that_training_saw_is_used_and_degrades(
    make_bundle: BundleMaker, bundle_dir: Path, settings: Settings, store: str, distance: float, is_plausible: bool
):
    inputs = [dict(each) for each in json.loads((bundle_dir / "bundle.json").read_text())["inputs"]]
    inputs[5] |= {"minimum": 10.0, "maximum": 20.0}
    bundle = Bundle.load(make_bundle(inputs=inputs))

    found = predict(Predictor(bundle, StoreLookup(settings).for_bundle(bundle)), [FULL._replace(distance_km=distance)])

    reason = "distance_km: far outside of what the model was trained on"
    assert found.reasons == [() if is_plausible else (reason,)]
    assert found.statuses[0][5] == (FeatureStatus.PRESENT if is_plausible else FeatureStatus.OUTSIDE)
    assert found.inputs[0][5] == distance


def test_minutes_end_where_those_of_training_did(make_bundle: BundleMaker, settings: Settings, store: str):
    bundle = Bundle.load(make_bundle(shift=200.0, label_maximum=180.0))

    found = predict(Predictor(bundle, StoreLookup(settings).for_bundle(bundle)), [FULL])

    assert found.estimates == ([180.0], [180.0], [180.0])
    assert found.reasons == [(TOO_LONG,)]


def test_a_model_that_answers_no_number_is_a_fault(make_bundle: BundleMaker):
    bundle = Bundle.load(make_bundle())

    with pytest.raises(ModelFault, match="the model delivery_time predicts what is no number"):
        bundle.bounded(Estimates([30.0, math.nan], [20.0, 20.0], [40.0, 40.0]))


def test_a_value_that_cannot_be_decoded_degrades_the_answer(predictor: Predictor, store: str):
    client = redis.Redis.from_url(store)
    for key in client.scan_iter(match=b"*zone_id*"):
        (field,) = [name for name in client.hkeys(key) if not name.startswith(b"_ts:")]
        client.hset(key, field, b"\xff\xff\xff")

    found = predict(predictor, [FULL])

    assert found.statuses[0][4] == FeatureStatus.UNDECODABLE
    assert np.isnan(found.inputs[0][4])
    assert found.inputs[0][0] == 40
    assert found.reasons == [(UNDECODABLE,)]


def test_a_dead_store_leaves_what_the_request_brought_and_the_medians_of_training(
    make_bundle: BundleMaker, bundle_dir: Path, settings: Settings
):
    inputs = [dict(each) for each in json.loads((bundle_dir / "bundle.json").read_text())["inputs"]]
    for each, median in zip(inputs, [41.0, 30.0, 21.0, None, 11.0], strict=False):
        each["median"] = median
    bundle = Bundle.load(make_bundle(inputs=inputs))
    dead = settings.model_copy(update={"redis_url_override": f"redis://127.0.0.1:{free_port()}/0"})

    found = predict(Predictor(bundle, StoreLookup(dead).for_bundle(bundle)), [FULL, FULL])

    assert [row[:5] for row in found.statuses] == [bytes([FeatureStatus.UNAVAILABLE] * 5)] * 2
    np.testing.assert_array_equal([row[:5] for row in found.inputs], [[41, 30, 21, math.nan, 11]] * 2)
    assert found.inputs[0][5:8] == (2, 3, 30)
    assert found.statuses[0][10] == FeatureStatus.MISSING
    assert found.reasons == [(STORE_DOWN,)] * 2


def test_of_an_entity_that_nobody_named_a_dead_store_keeps_nothing_back(predictor: Predictor):
    without_driver = FULL._replace(driver_id=None)

    with_store = predict(predictor, [without_driver])
    without_store = predict(Predictor(predictor.bundle, NoStore()), [without_driver])

    assert (with_store.reasons, without_store.reasons) == ([()], [(STORE_DOWN,)])

    (driver,) = [place for place, name in enumerate(NAMES) if name.startswith("driver_stats")]
    for found in (with_store, without_store):
        assert found.statuses[0][driver] == FeatureStatus.MISSING
        assert np.isnan(found.inputs[0][driver])


def test_while_the_store_is_dead_the_interval_is_that_of_medians(make_bundle: BundleMaker):
    down = {"p10_offset": -20.0, "p90_offset": 50.0}
    interval = {"p10_offset": -6.0, "p90_offset": 9.0, "store_down": down}
    predictor = Predictor(Bundle.load(make_bundle(interval=interval)), NoStore())

    found = predict(predictor, [FULL, FULL._replace(driver_id=None)]).estimates

    assert found.p90 == pytest.approx([minutes + 50 for minutes in found.minutes])
    assert found.p10 == pytest.approx([max(minutes - 20, 0) for minutes in found.minutes])


def test_another_version_of_the_request_function_is_admitted_in_every_answer(make_bundle: BundleMaker):
    bundle = Bundle.load(make_bundle(request_function_version="older"))

    assert predict(Predictor(bundle, NoStore()), [FULL]).reasons == [(OTHER_REQUEST_FUNCTION, STORE_DOWN)]


def test_hours_are_named_by_the_clock_that_the_model_was_trained_by(make_bundle: BundleMaker):
    instants = [datetime.fromisoformat(f"2026-03-29T00:{minute}:00+00:00") for minute in (29, 30, 59)]
    instants += [instant + HOUR for instant in instants]
    found = {}
    for zone in ("Europe/Berlin", "Asia/Kolkata"):
        clock = Clock(zone, (3, 6))
        bundle = Bundle.load(make_bundle(clock={"zone": zone, "peak_hours": [3, 6]}))
        answer = predict(Predictor(bundle, NoStore()), [Order("r1", instant) for instant in instants])
        columns = calendar([instant.timestamp() for instant in instants], clock)
        for name in ("hour_of_day_cos", "is_peak_hour"):
            place = NAMES.index(f"request_features__{name}")
            np.testing.assert_array_equal([row[place] for row in answer.inputs], columns[name])  # to the bit
        found[zone] = columns["is_peak_hour"].tolist()
        assert answer.reasons == [(STORE_DOWN,)] * 6
    assert found == {"Europe/Berlin": [0, 0, 0, 1, 1, 1], "Asia/Kolkata": [0, 1, 1, 1, 0, 0]}


@pytest.mark.parametrize("changes", [{}, {"request_function_version": "older"}])
def test_a_model_that_tells_no_clock_has_the_hours_of_utc_and_is_degraded(make_bundle: BundleMaker, changes: dict):
    bundle = Bundle.load(make_bundle(clock=None, **changes))
    answer = predict(Predictor(bundle, NoStore()), [Order("r1", NOON), Order("r1", NOON + 3 * HOUR)])

    place = NAMES.index("request_features__is_peak_hour")
    assert [row[place] for row in answer.inputs] == [1, 0]
    assert all(OTHER_REQUEST_FUNCTION in reasons for reasons in answer.reasons)


def test_a_model_without_stored_features_asks_no_store(make_bundle: BundleMaker):
    inputs = [{"name": name, "source": "request"} for name in ("distance_km", "item_count", "order_value")]
    rows = {"inputs": [[1.0] * 3], "predictions": [1.0]}
    document = Bundle.load(make_bundle()).document.model_copy(update={"views": (), "inputs": ()})
    parsed = type(document).model_validate(
        {**document.model_dump(), "inputs": inputs, "self_test": rows, "interval": document.interval.model_dump()}
    )
    bundle = Bundle(parsed, AnyMinutes())  # type: ignore[arg-type]

    found = predict(Predictor(bundle, NoStore()), [FULL])

    assert found.inputs == [(2.0, 3.0, 30.0)]
    assert found.reasons == [()]


class NoStore:
    """A store that never answers."""

    async def read(
        self, rows: list[dict[str, str | None]], as_of: Sequence[datetime], asked_at: Sequence[datetime | None]
    ) -> list[list[StoredRow]]:
        raise LookupFailed("down")


class AnyMinutes:
    """Stands for an ONNX session; inputs and output are where a call has bound them."""

    def get_inputs(self) -> list:
        return [SimpleNamespace(name="inputs", shape=[None, 3])]

    def get_outputs(self) -> list:
        return [SimpleNamespace(name="minutes", shape=[None, 1])]

    def io_binding(self) -> Any:
        return SimpleNamespace(bind_input=lambda *_: None, bind_output=lambda *_: None)

    def run_with_iobinding(self, _: Any) -> None:
        """Leave the output as it is."""

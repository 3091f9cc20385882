"""The online reader against a real Redis, beside a stock Feast client."""

from __future__ import annotations

import math
import struct
import subprocess
import sys
import threading
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import redis
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.infra.online_stores.redis import RedisOnlineStore
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Int64Set, Value
from feast.types import Array, Bool, Bytes, Float32, Float64, Int32, Int64, String, UnixTimestamp
from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from config import Settings
from feature_repo.stores.redis_online import feast_connection_string
from serving.online import (
    LARGEST,
    OnlineReader,
    OnlineView,
    StoreUnavailable,
    Undecodable,
    decode_event_time,
    decode_value,
)
from serving.status import FeatureStatus
from tests.conftest import free_port
from tests.feature_repo.stores.helpers import NOON, at, repo_config
from tests.servers import RedisServer
from tests.waiting import GENEROUS_SECONDS, wait_until

TTL = timedelta(hours=26)
KINDS = {
    "b": (Bytes, "bytes_val"), "s": (String, "string_val"), "i": (Int32, "int32_val"), "l": (Int64, "int64_val"),
    "d": (Float64, "double_val"), "f": (Float32, "float_val"), "o": (Bool, "bool_val"),
    "t": (UnixTimestamp, "unix_timestamp_val"), "lb": (Array(Bytes), "bytes_list_val"),
    "ls": (Array(String), "string_list_val"), "li": (Array(Int32), "int32_list_val"),
    "ll": (Array(Int64), "int64_list_val"), "ld": (Array(Float64), "double_list_val"),
    "lf": (Array(Float32), "float_list_val"), "lo": (Array(Bool), "bool_list_val"),
    "lt": (Array(UnixTimestamp), "unix_timestamp_list_val"),
}  # fmt: skip
ENTITIES = {
    "restaurant": Entity(name="restaurant", join_keys=["restaurant_id"], value_type=ValueType.STRING),
    "zone": Entity(name="zone", join_keys=["zone_id"], value_type=ValueType.INT64),
}
KEY_TYPES = {"restaurant_id": String, "zone_id": Int64}


def feature_view(name: str, *entities: str) -> FeatureView:
    keys = [ENTITIES[entity].join_key for entity in entities]
    fields = [Field(name=key, dtype=KEY_TYPES[key]) for key in keys]
    fields += [Field(name=name, dtype=kind) for name, (kind, _) in KINDS.items()]
    source = FileSource(name=f"{name}_source", path="unused", timestamp_field="event_timestamp")
    return FeatureView(
        name=name, entities=[ENTITIES[entity] for entity in entities], ttl=TTL, schema=fields, source=source
    )


VIEWS = {
    "by_restaurant": feature_view("by_restaurant", "restaurant"),
    "by_zone": feature_view("by_zone", "zone"),
    "by_both": feature_view("by_both", "zone", "restaurant"),
}


def reader(settings: Settings, views: Any = None, **options: Any) -> OnlineReader:
    wanted = views or [OnlineView(name, tuple(VIEWS[name].join_keys), tuple(KINDS), TTL) for name in VIEWS]
    return OnlineReader(settings.redis_url, "delivery_eta", wanted, **{"timeout": GENEROUS_SECONDS, **options})


def proto(name: str, value: Any) -> Value:
    if value is None:
        return Value()
    message = Value()
    if isinstance(value, list):
        getattr(message, KINDS[name][1]).val.extend(value)
        getattr(message, KINDS[name][1]).SetInParent()
    else:
        setattr(message, KINDS[name][1], value)
    return message


def put(settings: Settings, view: str, key: dict[str, Any], values: dict[str, Any], event: datetime = NOON) -> None:
    """Write with the stock store."""
    parts = [Value(string_val=part) if isinstance(part, str) else Value(int64_val=part) for part in key.values()]
    row = (
        EntityKey(join_keys=list(key), entity_values=parts),
        {name: proto(name, value) for name, value in values.items()},
        event,
        None,
    )
    config = repo_config(
        settings.data_dir, online={"type": "redis", "connection_string": feast_connection_string(settings.redis_url)}
    )
    RedisOnlineStore().online_write_batch(config, VIEWS[view], [row], None)


SCALARS = {
    "b": st.binary(max_size=20),
    "s": st.text(max_size=20),
    "i": st.integers(-(2**31), 2**31 - 1),
    "l": st.integers(-(2**63), 2**63 - 1),
    "d": st.floats(),
    "f": st.floats(width=32),
    "o": st.booleans(),
    "t": st.integers(-(2**62), 2**62),
}
LISTS = {f"l{name}": st.lists(values, max_size=3) for name, values in SCALARS.items()}
anything = st.fixed_dictionaries({name: st.none() | values for name, values in (SCALARS | LISTS).items()})


def plain(value: Any) -> Any:
    """A value of Feast's, a list message as a list."""
    return list(value.val) if hasattr(value, "val") else value


def same(ours: Any, theirs: Any) -> bool:
    if isinstance(theirs, float) and isinstance(ours, float):
        return struct.pack("<d", ours) == struct.pack("<d", theirs) or (math.isnan(ours) and math.isnan(theirs))
    if isinstance(theirs, list) and isinstance(ours, list):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    return bool(type(ours) is type(theirs) and ours == theirs)


@pytest.fixture(scope="module")
def stock(redis_server: str, tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """A feature store that knows `VIEWS`, with Feast's own online store."""
    online = {"type": "redis", "connection_string": feast_connection_string(redis_server)}
    opened = FeatureStore(config=repo_config(tmp_path_factory.mktemp("registry"), online=online))
    opened.apply([*ENTITIES.values(), *VIEWS.values()])
    return opened


ids = st.text(min_size=1, max_size=8)
zones = st.integers(-(2**63), 2**63 - 1)


@examples(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    stored=st.lists(st.tuples(ids, zones, anything, anything, anything), max_size=4),
    strangers=st.lists(st.tuples(ids, zones), max_size=2),
)
def test_equals_a_stock_client(
    settings: Settings, stock: FeatureStore, stored: list[Any], strangers: list[Any]
) -> None:
    redis.Redis.from_url(settings.redis_url).flushall()
    for restaurant_id, zone_id, *values in stored:
        put(settings, "by_restaurant", {"restaurant_id": restaurant_id}, values[0])
        put(settings, "by_zone", {"zone_id": zone_id}, values[1])
        put(settings, "by_both", {"zone_id": zone_id, "restaurant_id": restaurant_id}, values[2])
    keys = [(item[0], item[1]) for item in stored] + strangers
    rows = [{"restaurant_id": restaurant_id, "zone_id": zone_id} for restaurant_id, zone_id in keys]
    if not rows:
        return
    refs = [f"{view}:{name}" for view in VIEWS for name in KINDS]
    response = stock.get_online_features(refs, rows, full_feature_names=True).proto
    theirs = dict(zip(response.metadata.feature_names.val, response.results, strict=True))
    ours = reader(settings).read(rows, NOON)
    for column, name in enumerate(ours.names):
        for row in range(len(rows)):
            value = theirs[name].values[row]
            kind = value.WhichOneof("val")
            expected = None if kind is None else plain(getattr(value, kind))
            number = float(expected) if isinstance(expected, int | float) else math.nan
            if kind is None:
                status = FeatureStatus.MISSING
            elif -LARGEST <= number <= LARGEST:
                status = FeatureStatus.PRESENT
            else:
                status, number, expected = FeatureStatus.UNDECODABLE, math.nan, None
            assert ours.statuses[row, column] == status, (name, expected)
            assert same(ours.objects[row][column], expected), (name, ours.objects[row][column], expected)
            assert same(float(ours.values[row, column]), number)


@given(data=st.binary(max_size=30))
def test_bytes_are_undecodable_exactly_when_protobuf_says_so_or_no_scalar(data: bytes) -> None:
    try:
        message = Value.FromString(data)
    except DecodeError:
        with pytest.raises(Undecodable):
            decode_value(data)
        return
    try:
        value = decode_value(data)
    except Undecodable:
        return  # stricter than protobuf, which skips unknown fields: never a wrong value
    kind = message.WhichOneof("val")
    expected = None if kind in (None, "null_val") else plain(getattr(message, kind))
    assert same(value, expected)


@given(seconds=st.integers(-(2**40), 2**40), nanos=st.integers(0, 999_999).map(lambda micros: micros * 1000))
def test_event_time_of_any_sign(seconds: int, nanos: int) -> None:
    assert decode_event_time(Timestamp(seconds=seconds, nanos=nanos).SerializeToString()) == (
        seconds * 1_000_000 + nanos // 1000
    )


def one(settings: Settings, as_of: datetime, restaurant_id: str | None = "a") -> Any:
    view = OnlineView("by_restaurant", ("restaurant_id",), ("d", "l"), TTL)
    return reader(settings, [view]).read([{"restaurant_id": restaurant_id}], as_of)


@pytest.mark.parametrize(
    ("age", "status"),
    [(timedelta(0), "PRESENT"), (TTL, "PRESENT"), (TTL + timedelta(microseconds=1), "STALE"), (10 * TTL, "STALE")],
)
def test_value_older_than_its_ttl_is_stale_and_not_a_number(settings: Settings, age: timedelta, status: str) -> None:
    put(settings, "by_restaurant", {"restaurant_id": "a"}, {"d": 1.5, "l": None})
    found = one(settings, NOON + age)
    assert found.statuses[0, 0] == FeatureStatus[status]
    assert found.values[0, 0] == 1.5 if status == "PRESENT" else np.isnan(found.values[0, 0])
    assert (found.objects[0][0] is None) == (status == "STALE")
    assert found.event_times[0, 0] == NOON.timestamp()
    assert found.age_seconds(NOON + age)[0, 0] == pytest.approx(age.total_seconds())


@pytest.mark.parametrize("key", ["nobody", None])
def test_unknown_or_absent_entity_is_missing(settings: Settings, key: str | None) -> None:
    found = one(settings, NOON, key)
    assert found.statuses.tolist() == [[FeatureStatus.MISSING, FeatureStatus.MISSING]]
    assert np.isnan(found.values).all()
    assert np.isnan(found.event_times).all()
    assert np.isnan(found.age_seconds(NOON)).all()


def _hash_key(settings: Settings) -> bytes:
    return next(iter(redis.Redis.from_url(settings.redis_url).scan_iter()))


def test_corrupt_value_is_undecodable_and_alone(settings: Settings) -> None:
    put(settings, "by_restaurant", {"restaurant_id": "a"}, {"d": 1.5, "l": 7})
    client = redis.Redis.from_url(settings.redis_url)
    for field, data in client.hgetall(_hash_key(settings)).items():
        if data == Value(double_val=1.5).SerializeToString():
            client.hset(_hash_key(settings), field, data[:5])
    found = one(settings, NOON)
    assert found.statuses.tolist() == [[FeatureStatus.UNDECODABLE, FeatureStatus.PRESENT]]
    assert np.isnan(found.values[0, 0])
    assert found.values[0, 1] == 7


@pytest.mark.parametrize("damage", ["corrupt", "absent"])
def test_value_without_a_readable_event_time_is_not_present(settings: Settings, damage: str) -> None:
    put(settings, "by_restaurant", {"restaurant_id": "a"}, {"d": 1.5, "l": 7})
    client = redis.Redis.from_url(settings.redis_url)
    if damage == "corrupt":
        client.hset(_hash_key(settings), "_ts:by_restaurant", b"\xff\xff")
    else:
        client.hdel(_hash_key(settings), "_ts:by_restaurant")
    assert one(settings, NOON).statuses.tolist() == [[FeatureStatus.UNDECODABLE, FeatureStatus.UNDECODABLE]]


def test_key_of_another_redis_type_is_undecodable_and_other_rows_are_read(settings: Settings) -> None:
    put(settings, "by_restaurant", {"restaurant_id": "a"}, {"d": 1.5, "l": 7})
    client = redis.Redis.from_url(settings.redis_url)
    client.set(_hash_key(settings).replace(b"\x01\x00\x00\x00a", b"\x01\x00\x00\x00z"), "a string")
    view = OnlineView("by_restaurant", ("restaurant_id",), ("d", "l"), TTL)
    found = reader(settings, [view]).read([{"restaurant_id": "z"}, {"restaurant_id": "a"}], NOON)
    assert found.statuses.tolist() == [[FeatureStatus.UNDECODABLE] * 2, [FeatureStatus.PRESENT] * 2]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (Value(int64_set_val=Int64Set(val=[1, 2])).SerializeToString(), "field 25 with wire type 2 is not a scalar"),
        (Value(double_val=1.5).SerializeToString() + b"\x20\x02", "2 bytes after the value"),
        (b"\x18\x80\x80\x80\x80\x10", "4294967296 does not fit into 32 bits"),
        (b"\x72\x02\x0a\x05", "cut off"),
    ],
)
def test_what_is_no_scalar_or_list_is_undecodable_rather_than_wrong(data: bytes, message: str) -> None:
    with pytest.raises(Undecodable, match=message):
        decode_value(data)


def test_redis_down_is_an_error_at_once_that_names_its_address() -> None:
    port = free_port()
    view = OnlineView("by_restaurant", ("restaurant_id",), ("d",), TTL)
    down = OnlineReader(f"redis://:secret@127.0.0.1:{port}/0", "delivery_eta", [view])
    with pytest.raises(StoreUnavailable, match=rf"127\.0\.0\.1:{port} does not answer .*make up") as error:
        down.read([{"restaurant_id": "a"}], NOON)
    with pytest.raises(StoreUnavailable):
        down.ping()
    assert "secret" not in str(error.value)


def test_slow_redis_is_an_error_and_its_late_answer_is_not_used(settings: Settings, redis_process: RedisServer) -> None:
    for name, number in (("a", 1.5), ("b", 2.5)):
        put(settings, "by_restaurant", {"restaurant_id": name}, {"d": number})
    slow = reader(settings, [OnlineView("by_restaurant", ("restaurant_id",), ("d",), TTL)], timeout=0.2)

    def read(name: str) -> float | None:
        """The value; None if it took longer than the time-out, as it may on a busy machine."""
        try:
            return float(slow.read([{"restaurant_id": name}], NOON).values[0, 0])
        except StoreUnavailable:
            return None

    assert wait_until(lambda: read("a"), "an answer in time") == 1.5
    with redis_process.frozen(), pytest.raises(StoreUnavailable, match="Timeout"):
        slow.read([{"restaurant_id": "a"}], NOON)
    # The late answer about a must not be taken for the one about b.
    assert wait_until(lambda: read("b"), "an answer in time") == 2.5


def test_connection_lost_between_requests_is_opened_again(settings: Settings) -> None:
    put(settings, "by_restaurant", {"restaurant_id": "a"}, {"d": 1.5, "l": 7})
    view = OnlineView("by_restaurant", ("restaurant_id",), ("d",), TTL)
    opened = reader(settings, [view])
    opened.read([{"restaurant_id": "a"}], NOON)
    redis.Redis.from_url(settings.redis_url).execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    assert opened.read([{"restaurant_id": "a"}], NOON).values[0, 0] == 1.5


def test_threads_share_a_reader(settings: Settings) -> None:
    for n in range(10):
        put(settings, "by_restaurant", {"restaurant_id": f"r{n}"}, {"d": float(n), "l": n})
    shared = reader(settings, [OnlineView("by_restaurant", ("restaurant_id",), ("d",), TTL)], timeout=GENEROUS_SECONDS)
    wrong: list[Any] = []

    def ask(n: int) -> None:
        for _ in range(50):
            found = shared.read([{"restaurant_id": f"r{n}"}], NOON).values[0, 0]
            if found != n:
                wrong.append((n, found))

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_row_asked_for_twice_is_answered_twice_in_order(settings: Settings) -> None:
    put(settings, "by_restaurant", {"restaurant_id": "a"}, {"d": 1.5, "l": 7})
    view = OnlineView("by_restaurant", ("restaurant_id",), ("l",), TTL)
    rows: list[Any] = [{"restaurant_id": key} for key in ("a", "x", "a")]
    assert reader(settings, [view]).read(rows, NOON).objects == [[7], [None], [7]]


def test_no_rows_is_an_empty_answer(settings: Settings) -> None:
    found = reader(settings).read([], NOON)
    assert found.values.shape == found.statuses.shape == (0, 3 * len(KINDS))


def test_naive_as_of_is_refused(settings: Settings) -> None:
    put(settings, "by_restaurant", {"restaurant_id": "a"}, {"d": 1.5, "l": 7})
    with pytest.raises(ValueError, match="has no time zone"):
        one(settings, at(0).replace(tzinfo=None))


def test_views_of_a_model_bundle(settings: Settings) -> None:
    entry = SimpleNamespace(name="by_restaurant", join_key="restaurant_id", ttl_seconds=93600, features=["d", "l"])
    assert reader(settings, [entry]).views == (OnlineView("by_restaurant", ("restaurant_id",), ("d", "l"), TTL),)


def test_importing_the_reader_loads_none_of_the_heavy_libraries() -> None:
    code = (
        "import sys, serving.online\n"
        "heavy = {'feast', 'pandas', 'mlflow', 'sklearn', 'airflow', 'polars', 'pyarrow', 'google.protobuf'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

"""The HTTP interface over a real socket, with a real Redis and a real model."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import httpx
import pytest
import uvicorn
from pydantic import SecretStr

from config import Settings
from feature_repo.window import Window
from serving import frame
from serving.app import create_app
from serving.frame import MAXIMUM_BODY_BYTES
from serving.prediction_log import read_predictions
from serving.predictor import LookupFailed
from serving.schemas import OrderRequest
from serving.service import Service
from tests.conftest import free_port
from tests.serving.conftest import KEY, NAMES, NOON, fill_store, write_online
from tests.waiting import GENEROUS_SECONDS, wait_until

PLACED = "2026-05-01T13:00:00+00:00"
NOW = datetime.fromisoformat(PLACED)
ORDER = {
    "order_id": "o1",
    "restaurant_id": "r1",
    "driver_id": "d1",
    "customer_id": "c1",
    "zone_id": "z1",
    "placed_at": PLACED,
    "distance_km": 2.0,
    "item_count": 3,
    "order_value": 30.0,
}


@contextmanager
def listening(service: Service) -> Iterator[httpx.Client]:
    """A client of an application that listens on a port of its own."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(create_app(service=service), port=port, log_config=None, access_log=False))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server.started or not thread.is_alive(), "the application listens")
        address = f"http://127.0.0.1:{port}"
        with httpx.Client(base_url=address, headers=KEY, trust_env=False, timeout=GENEROUS_SECONDS) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def service(settings: Settings, store: str, bundle_dir: Path) -> Service:
    return Service(settings.model_copy(update={"model_dir_override": bundle_dir}), clock=lambda: NOW)


@pytest.fixture
def client(service: Service) -> Iterator[httpx.Client]:
    with listening(service) as client:
        yield client


def problem(answer: httpx.Response) -> dict:
    assert answer.headers["content-type"] == "application/problem+json"
    document = answer.json()
    assert document.pop("request_id") == answer.headers["x-request-id"]
    assert document["status"] == answer.status_code
    return document


def test_an_order_gets_minutes_an_interval_and_where_they_come_from(client: httpx.Client, service: Service):
    answer = client.post("/predict", json=ORDER, headers={"X-Request-ID": "caller-7"})

    found = answer.json()
    minutes = found.pop("delivery_minutes")
    assert 0 < minutes < 120
    assert (found.pop("p10_minutes"), found.pop("p90_minutes")) == pytest.approx((minutes - 6, minutes + 9))
    assert len(found.pop("prediction_id")) == 32
    assert found == {
        "order_id": "o1",
        "status": "ok",
        "reasons": [],
        "missing_features": [],
        "stale_features": [],
        "features": None,
        "as_of": "2026-05-01T13:00:00Z",
        "model": {
            "name": "delivery_time",
            "version": service.model().ref.version,
            "alias": "champion",
            "variant": "champion",
        },
        "request_id": "caller-7",
    }
    assert answer.headers["x-request-id"] == "caller-7"


def test_the_inputs_are_shown_on_request(client: httpx.Client):
    features = client.post("/predict", params={"features": True}, json={**ORDER, "driver_id": None}).json()["features"]

    assert list(features) == NAMES
    assert features["zone_stats__open_order_count"] == {"value": 12.0, "status": "present", "age_seconds": 3600.0}
    assert features["driver_stats__delivery_minutes_mean_28d"] == {
        "value": None,
        "status": "missing",
        "age_seconds": None,
    }
    assert features["distance_km"] == {"value": 2.0, "status": "present", "age_seconds": None}


def test_an_order_without_an_instant_is_placed_now(client: httpx.Client):
    assert client.post("/predict", json={"restaurant_id": "r1"}).json()["as_of"] == "2026-05-01T13:00:00Z"


def test_missing_and_stale_features_are_listed(client: httpx.Client):
    late = (NOON + timedelta(hours=27)).isoformat()
    old = {"restaurant_id": "r1", "placed_at": late}

    found = client.post("/predict", params={"replay": True}, json=old).json()

    assert found["stale_features"] == NAMES[:3]
    assert found["missing_features"] == [*NAMES[3:8], NAMES[10]]
    assert found["status"] == "degraded"
    assert found["reasons"] == ["every stored feature is older than its time to live: is the feature pipeline running?"]


@pytest.mark.parametrize(
    ("change", "field", "message"),
    [
        ({"restaurant_id": None}, "restaurant_id", "Input should be a valid string"),
        ({"restaurant_id": ""}, "restaurant_id", "an id that is blank"),
        ({"restaurant_id": "r" * 129}, "restaurant_id", "an id that is longer than 128 characters"),
        ({"restaurant_id": True}, "restaurant_id", "an id that is a truth value"),
        ({"restaurant_id": []}, "restaurant_id", "Input should be a valid string"),
        (
            {"placed_at": "2026-05-01T13:00:00"},
            "placed_at",
            "2026-05-01T13:00:00 has no time zone: write it with one, for example 2026-05-01T13:00:00+00:00",
        ),
        ({"placed_at": "yesterday"}, "placed_at", "Invalid isoformat string: 'yesterday'"),
        ({"placed_at": 1777640400}, "placed_at", "an instant is ISO 8601 text with a time zone"),
        ({"placed_at": "1999-12-31T23:59:59+00:00"}, "placed_at", "is not between 2000 and 2100"),
        ({"placed_at": "0001-01-01T00:00:00+14:00"}, "placed_at", "is out of range"),
        ({"distance_km": -0.1}, "distance_km", "Input should be greater than or equal to 0"),
        ({"distance_km": 101}, "distance_km", "Input should be less than or equal to 100"),
        ({"distance_km": "2"}, "distance_km", "Input should be a valid number"),
        ({"item_count": 0}, "item_count", "Input should be greater than or equal to 1"),
        ({"item_count": True}, "item_count", "Input should be a valid integer"),
        ({"order_value": 1.1e9}, "order_value", "Input should be less than or equal to 1000000000"),
        ({"colour": "red"}, "colour", "Extra inputs are not permitted"),
    ],
)
def test_a_wrong_field_is_named(client: httpx.Client, change: dict, field: str, message: str):
    found = problem(client.post("/predict", json=ORDER | change))

    assert (found["status"], found["type"]) == (422, "urn:delivery-eta:problem:invalid-request")
    (error,) = found["errors"]
    assert error["field"] == field
    assert message in error["message"]
    assert found["detail"] == f"{field}: {error['message']}"


HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("placed", "message"),
    [
        (NOW - 24 * HOUR, None),
        (NOW - 24 * HOUR - timedelta(seconds=1), "is before 2026-04-30T13:00:00+00:00"),
        (NOW.replace(year=2006), "is before 2026-04-30T13:00:00+00:00: values of now are none of then"),
        (NOW + timedelta(minutes=10), None),
        (NOW + timedelta(minutes=10, seconds=1), "is after 2026-05-01T13:10:00+00:00"),
    ],
)
def test_an_order_was_placed_about_now(service: Service, placed: datetime, message: str | None):
    with listening(service) as client:
        asked = {"restaurant_id": "r1", "placed_at": placed.isoformat()}
        alone = client.post("/predict", json=asked)
        (row,) = client.post("/predict/batch", json={"orders": [asked]}).json()["rows"]
        looked = client.get("/features/r1", params={"placed_at": placed.isoformat()})
        replayed = client.post("/predict", params={"replay": True}, json=asked)

    assert replayed.status_code == 200
    if message is None:
        assert (alone.status_code, looked.status_code, row["problem"]) == (200, 200, None)
        return
    for found in (problem(alone), problem(looked), row["problem"]):
        assert [error["field"] for error in found["errors"]] == ["placed_at"]
        assert message in found["detail"]


def test_what_is_newer_than_the_order_and_what_is_stale_now_is_said(client: httpx.Client, store: str):
    earlier = {"restaurant_id": "r1", "placed_at": (NOON - HOUR).isoformat()}
    fill_store(store, NOW - 27 * HOUR)

    write_online(store, "zone_id", "z1", "zone_stats", NOON, {"open_order_count": 9})
    found = client.post("/predict?features=true", json=earlier | {"zone_id": "z1"}).json()

    assert found["status"] == "degraded"
    assert found["stale_features"] == NAMES[:3]
    assert found["features"]["zone_stats__open_order_count"] == {
        "value": None,
        "status": "future",
        "age_seconds": -3600.0,
    }
    assert found["reasons"][-1] == "zone_stats__open_order_count: newer than the order, counts as missing"


def test_a_replay_is_logged_as_one(service: Service, settings: Settings):
    with listening(service) as client:
        client.post("/predict", params={"replay": True}, json=ORDER)

    rows = read_predictions(settings, Window(NOON.replace(hour=0), NOON.replace(hour=0) + timedelta(days=1)))
    assert rows["source"].to_list() == ["replay"]


def test_an_order_of_a_kind_that_the_model_was_not_trained_on_gets_a_problem(client: httpx.Client, service: Service):
    scheduled = ORDER | {"is_asap": False}

    alone = problem(client.post("/predict", json=scheduled))
    row, good = client.post("/predict/batch", json={"orders": [scheduled, ORDER | {"is_asap": True}]}).json()["rows"]

    assert (alone["status"], alone["type"]) == (422, "urn:delivery-eta:problem:outside-population")
    assert alone["detail"] == "is_asap: the model was trained on orders with is_asap=true only"
    assert row["problem"] == {
        "title": "The model does not answer for orders of this kind",
        "detail": alone["detail"],
        "errors": alone["errors"],
    }
    assert (row["order_id"], good["problem"]) == ("o1", None)
    wait_until(lambda: service.log.written, "the row of the other")
    assert service.log.written == 1


def test_half_an_emoji_in_a_row_is_a_problem_of_that_row(client: httpx.Client):
    half = ['{"restaurant_id": "r1", "order_id": "\\ud83d"}', '{"restaurant_id": "r1", "\\ud83d": 1}', '"\\ud83d"']
    body = '{"orders": [' + ", ".join([json.dumps(ORDER), *half]) + "]}"

    answer = client.post("/predict/batch", content=body, headers={"content-type": "application/json"})

    assert answer.status_code == 200
    found = answer.json()
    assert (found["succeeded"], found["failed"]) == (1, 3)
    assert [row["problem"] and row["problem"]["errors"][0]["field"] for row in found["rows"]] == [
        None,
        "order_id",
        "body",
        "body",
    ]


def test_thousands_of_unknown_fields_are_one_error(client: httpx.Client):
    many = {"restaurant_id": "r1"} | {f"x{number}": 1 for number in range(1_000)}

    found = problem(client.post("/predict", json=many))
    (row,) = client.post("/predict/batch", json={"orders": [many]}).json()["rows"]

    expected = f"an order has at most {len(OrderRequest.model_fields)} fields, and 'x0', 'x1', 'x10' are none"
    assert [error["message"] for error in found["errors"]] == [expected]
    assert [error["message"] for error in row["problem"]["errors"]] == [expected]


def test_numbers_that_json_does_not_have_are_refused(client: httpx.Client):
    body = '{"restaurant_id": "r1", "distance_km": NaN, "order_value": Infinity}'

    found = problem(client.post("/predict", content=body, headers={"content-type": "application/json"}))

    assert [error["field"] for error in found["errors"]] == ["distance_km", "order_value"]


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        (b"{", 400, "invalid-body"),
        (b"", 400, "invalid-body"),
        (b"\xff\xfe", 400, "invalid-body"),
        (b"[" * 16_000, 400, "invalid-body"),
        (b"[1]", 422, "invalid-request"),
        (b'{"restaurant_id": "\\ud800"}', 400, "invalid-body"),
        (b'{"restaurant_id": "r1", "\\ud800": 1}', 400, "invalid-body"),
        (b'{"restaurant_id": "r1", "item_count": ' + b"9" * 5_000 + b"}", 400, "invalid-body"),
    ],
)
def test_a_body_that_is_no_order_is_a_problem_not_a_fault(client: httpx.Client, body: bytes, status: int, kind: str):
    answer = client.post("/predict", content=body, headers={"content-type": "application/json"})

    found = problem(answer)
    assert (found["status"], found["type"]) == (status, f"urn:delivery-eta:problem:{kind}")


@pytest.mark.parametrize(
    ("path", "most", "words"), [("/predict/batch", MAXIMUM_BODY_BYTES, "2,097,152"), ("/predict", 16_384, "16,384")]
)
def test_a_body_beyond_the_limit_is_refused_declared_or_not(client: httpx.Client, path: str, most: int, words: str):
    declared = client.post(path, content=b" " * (most + 1))
    streamed = client.post(path, content=(b" " * 4_096 for _ in range(most // 4_096 + 1)))

    for answer in (declared, streamed):
        found = problem(answer)
        assert (found["status"], found["type"]) == (413, "urn:delivery-eta:problem:body-too-large")
        assert found["detail"] == f"The body is larger than {words} bytes: send fewer orders at once"


@contextmanager
def half_sent(client: httpx.Client, path: str, count: int, key: str | None) -> Iterator[list[socket.socket]]:
    """Requests whose bodies do not come."""
    address = (client.base_url.host, client.base_url.port)
    head = f"POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n"
    head += f"X-API-Key: {key}\r\n" if key else ""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_connection(address)) for _ in range(count)]
        for each in sockets:
            each.settimeout(GENEROUS_SECONDS)
            each.sendall(f"{head}\r\n{{".encode())
        yield sockets


@pytest.mark.parametrize("path", ["/predict", "/predict/batch"])
def test_bodies_that_do_not_come_hold_nobody_else_up(service: Service, path: str):
    limited = Service(service.settings.model_copy(update={"serving_concurrency": 1}), clock=lambda: NOW)
    with listening(limited) as client:
        with half_sent(client, path, 3, key=None) as sockets:
            for each in sockets:  # who has no key is told so at once
                assert each.recv(13) == b"HTTP/1.1 401 "
        with half_sent(client, path, 3, key=KEY["X-API-Key"]):
            assert client.post("/predict", json=ORDER).status_code == 200


def test_a_body_that_does_not_come_in_time_is_a_problem(client: httpx.Client, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(frame, "BODY_SECONDS", 0.01)
    with half_sent(client, "/predict", 1, key=KEY["X-API-Key"]) as (half,):
        assert half.recv(13) == b"HTTP/1.1 408 "


def test_a_redirect_leads_to_no_other_host(client: httpx.Client):
    answer = client.get("/health/", headers={"Host": "evil.example"})

    assert (problem(answer)["status"], "evil" in str(answer.headers)) == (404, False)


@pytest.mark.parametrize("path", ["/predict", "/predict/batch"])
@pytest.mark.parametrize(("key", "message"), [(None, "missing"), ("wrong", "wrong"), ("schlüssel", "wrong")])
def test_without_the_key_nothing_is_predicted(client: httpx.Client, path: str, key: str | None, message: str):
    client.headers.pop("x-api-key")
    headers = {} if key is None else {"X-API-Key": key.encode()}

    answer = client.post(path, json=ORDER, headers=headers)

    found = problem(answer)
    assert (found["status"], found["errors"]) == (401, [{"field": "X-API-Key", "message": message}])
    assert answer.headers["www-authenticate"] == "ApiKey"
    assert client.get("/health").status_code == 200


def test_each_named_key_counts_and_is_named_in_the_log(settings: Settings, store: str, bundle_dir: Path):
    changes = {"model_dir_override": bundle_dir, "api_keys": {"app": SecretStr("s1"), "next": SecretStr("s2")}}
    with listening(Service(settings.model_copy(update=changes), clock=lambda: NOW)) as client:
        answers = [client.post("/predict", json=ORDER, headers={"X-API-Key": key}) for key in ("s1", "s2")]
        client.post("/predict/batch", json={"orders": [ORDER]}, headers={"X-API-Key": "s2"})
        assert problem(client.post("/predict", json=ORDER))["status"] == 401  # the default, as there are others

    assert [answer.status_code for answer in answers] == [200, 200]
    rows = read_predictions(settings, Window(NOON.replace(hour=0), NOON.replace(hour=0) + timedelta(days=1)))
    assert sorted(rows["caller"]) == ["app", "next", "next"]


@pytest.mark.parametrize(
    "uri",
    ["http://user:hunter2@127.0.0.1:9", "postgresql://user:hunter2@host/db", "postgresql://host/db?password=hunter2"],
)
def test_no_answer_and_no_log_shows_a_password(settings: Settings, uri: str, caplog: pytest.LogCaptureFixture):
    caplog.set_level("DEBUG")
    with listening(Service(settings.model_copy(update={"mlflow_tracking_uri_override": uri}))) as client:
        answers = [client.get("/ready"), client.get("/model"), client.post("/predict", json=ORDER)]

    assert "hunter2" not in "".join(answer.text for answer in answers) + caplog.text
    assert all("registry" in answer.text for answer in answers)


def test_the_source_of_a_model_is_shown_without_a_password(client: httpx.Client, service: Service):
    current = service.model()
    service.champion.current = replace(current, ref=replace(current.ref, source="s3://key:hunter2@bucket/m"))

    assert client.get("/model").json()["source"] == "s3://***@bucket/m"


def test_unknown_addresses_and_methods_are_problems(client: httpx.Client):
    assert problem(client.get("/nothing"))["type"] == "urn:delivery-eta:problem:not-found"
    wrong = client.get("/predict")
    assert problem(wrong)["type"] == "urn:delivery-eta:problem:method-not-allowed"
    assert wrong.headers["allow"] == "POST"


@pytest.mark.parametrize("given", ["a b", "x" * 129, 'forged"id', ""])
def test_a_request_id_that_could_forge_a_log_line_is_replaced(client: httpx.Client, given: str):
    returned = client.get("/health", headers={"X-Request-ID": given}).headers["x-request-id"]

    assert returned != given
    assert len(returned) == 32


def test_a_batch_predicts_its_good_rows_and_explains_the_others(client: httpx.Client):
    orders = [ORDER, {"order_id": "bad", "distance_km": -1}, "no order", {"restaurant_id": "r1", "placed_at": PLACED}]

    found = client.post("/predict/batch", json={"orders": orders}).json()

    assert (found["succeeded"], found["failed"]) == (2, 2)
    assert [row["index"] for row in found["rows"]] == [0, 1, 2, 3]
    assert [row["order_id"] for row in found["rows"]] == ["o1", "bad", None, None]
    alone = client.post("/predict", json=ORDER).json()
    first = found["rows"][0]["prediction"]
    assert first["delivery_minutes"] == alone["delivery_minutes"]
    assert found["rows"][0]["problem"] is None
    assert found["rows"][1] == {
        "index": 1,
        "order_id": "bad",
        "prediction": None,
        "problem": {
            "title": "This row is not a valid order",
            "detail": "restaurant_id: Field required",
            "errors": [
                {"field": "restaurant_id", "message": "Field required"},
                {"field": "distance_km", "message": "Input should be greater than or equal to 0"},
            ],
        },
    }


def test_a_batch_of_bad_rows_only_is_answered(client: httpx.Client):
    found = client.post("/predict/batch", json={"orders": [{}]}).json()

    assert (found["succeeded"], found["failed"], found["rows"][0]["prediction"]) == (0, 1, None)


@pytest.mark.parametrize(("orders", "message"), [([], "at least 1 item"), ([ORDER] * 1001, "at most 1000 items")])
def test_a_batch_has_limits(client: httpx.Client, orders: list, message: str):
    (error,) = problem(client.post("/predict/batch", json={"orders": orders}))["errors"]

    assert error["field"] == "orders"
    assert message in error["message"]


def test_a_batch_of_a_thousand_is_answered_in_order(client: httpx.Client):
    orders = [ORDER | {"order_id": f"o{number}", "distance_km": number / 10} for number in range(1_000)]

    found = client.post("/predict/batch", json={"orders": orders}).json()

    assert [row["prediction"]["order_id"] for row in found["rows"]] == [order["order_id"] for order in orders]


def test_every_prediction_is_logged_as_it_was_answered(service: Service, settings: Settings):
    with listening(service) as client:
        single = client.post("/predict", json=ORDER).json()
        batch = client.post("/predict/batch", json={"orders": [{"restaurant_id": "r9", "placed_at": PLACED}]}).json()

    day = NOON.replace(hour=0)
    logged = read_predictions(settings, Window(day, day + timedelta(days=1)))
    rows = {row["prediction_id"]: row for row in logged.to_dicts()}

    assert len(rows) == 2
    row = rows[single["prediction_id"]]
    assert 0 < row.pop("latency_ms") < 10_000
    inputs = json.loads(row.pop("inputs"))
    assert list(inputs) == NAMES
    assert inputs["restaurant_stats__delivery_minutes_mean_28d"] == 30.5
    assert set(json.loads(row.pop("statuses")).values()) == {"present"}
    assert json.loads(row.pop("event_times")) == {
        "restaurant_stats": NOON.isoformat(),
        "driver_stats": NOON.isoformat(),
        "zone_stats": NOON.isoformat(),
    }
    assert row == {
        "prediction_id": single["prediction_id"],
        "order_id": "o1",
        "placed_at": NOON + timedelta(hours=1),
        "predicted_at": NOW,
        "model_name": "delivery_time",
        "model_version": single["model"]["version"],
        "variant": "champion",
        "source": "online",
        "status": "ok",
        "delivery_minutes": single["delivery_minutes"],
        "p10_minutes": single["p10_minutes"],
        "p90_minutes": single["p90_minutes"],
        "restaurant_id": "r1",
        "driver_id": "d1",
        "customer_id": "c1",
        "zone_id": "z1",
        "request_id": single["request_id"],
        "reasons": "[]",
        "request": '{"distance_km":2.0,"item_count":3,"order_value":30.0,"promised_minutes":null,"is_asap":true}',
        "caller": "default",
    }
    other = rows[batch["rows"][0]["prediction"]["prediction_id"]]
    assert (other["order_id"], other["restaurant_id"], other["request_id"]) == (None, "r9", batch["request_id"])


def test_without_a_model_the_answer_says_what_to_do(settings: Settings, tmp_path: Path):
    empty = settings.model_copy(update={"model_dir_override": tmp_path})

    with listening(Service(empty)) as client:
        answers = [client.post("/predict", json=ORDER), client.get("/model")]
        answers.append(client.post("/predict/batch", json={"orders": [ORDER]}))
        for answer in answers:
            found = problem(answer)
            assert (found["status"], found["type"]) == (503, "urn:delivery-eta:problem:no-model")
            assert found["detail"] == (
                f"the model directory {tmp_path} has no bundle.json. Train and promote a model: make train"
            )
            assert answer.headers["retry-after"] == "10"
        assert client.get("/health").json() == {"status": "ok"}
        assert problem(client.get("/ready"))["parts"]["model"]["ok"] is False


def test_a_registry_that_serving_cannot_read_is_explained(settings: Settings):
    with listening(Service(settings)) as client:
        detail = problem(client.post("/predict", json=ORDER))["detail"]

    assert "serving cannot read the registry sqlite:///" in detail
    assert "set ETA_MLFLOW_TRACKING_URI to the address of an MLflow server" in detail


def test_readiness_names_its_parts(client: httpx.Client, service: Service, settings: Settings, bundle_dir: Path):
    assert client.get("/ready").json() == {
        "status": "ready",
        "parts": {
            "model": {"ok": True, "detail": f"delivery_time version {service.model().ref.version}"},
            "online_store": {"ok": True, "detail": "Redis answers"},
            "features": {"ok": True, "detail": "nobody has asked yet"},
            "prediction_log": {
                "ok": True,
                "detail": "0 predictions wait; 0 predictions are lost, 0 set aside, since the start",
            },
            "threads": {"ok": True, "detail": "all at work"},
        },
    }
    changes = {"model_dir_override": bundle_dir, "redis_url_override": f"redis://127.0.0.1:{free_port()}/0"}
    with listening(Service(settings.model_copy(update=changes))) as broken:
        answer = broken.get("/ready")  # its answers are degraded: a balancer that took it out would leave none
        assert (answer.status_code, answer.json()["status"]) == (200, "degraded")
        store = answer.json()["parts"]["online_store"]
        assert (store["ok"], store["detail"][:23]) == (False, "Redis does not answer (")


def test_a_process_that_ends_says_so_and_answers_on(client: httpx.Client, service: Service):
    service.draining = True

    found, answer = problem(client.get("/ready")), client.post("/predict", json=ORDER)

    assert (found["status"], found["detail"]) == (503, "it ends: send requests elsewhere")
    assert (answer.status_code, answer.headers["connection"]) == (200, "close")


def test_a_balancer_may_ask_by_head(service: Service):
    with listening(service) as client:
        answers = [client.head("/health"), client.head("/ready")]
        service.champion.current = None
        answers.append(client.head("/ready"))

    assert [(answer.status_code, answer.content) for answer in answers] == [(200, b""), (200, b""), (503, b"")]


def test_the_model_is_described_with_its_lineage(client: httpx.Client, bundle_dir: Path):
    found = client.get("/model").json()

    assert found.pop("version").startswith("local-")
    assert found == {
        "name": "delivery_time",
        "alias": "champion",
        "variant": "champion",
        "registry": "ok",
        "registry_reason": "",
        "last_refusal": None,
        "challenger": None,
        "source": str(bundle_dir),
        "project": "delivery_eta",
        "feature_service": "delivery_time_v1",
        "inputs": NAMES,
        "interval": {"p10_offset": -6.0, "p90_offset": 9.0},
        "metrics": {"validation_mae": 5.0},
        "baseline_minutes": 9.5,
        "version_created_as_of": "2026-05-01T00:00:00+00:00",
        "definitions_hash": "d1",
        "request_function_version": json.loads((bundle_dir / "bundle.json").read_text())["request_function_version"],
        "clock": {"zone": "UTC", "peak_hours": [11, 12, 13, 18, 19, 20]},
        "dataset_hash": "h1",
        "seed": 7,
    }


def test_metrics_count_requests_predictions_and_feature_statuses(client: httpx.Client, service: Service):
    client.post("/predict", json=ORDER)
    client.post("/predict/batch", json={"orders": [{"restaurant_id": "r1"}, {}]})
    client.get("/nothing")

    lines = client.get("/metrics").text.splitlines()

    for expected in [
        'eta_requests_total{method="POST",route="/predict",status="200"} 1.0',
        'eta_requests_total{method="GET",route="unmatched",status="404"} 1.0',
        'eta_request_seconds_count{route="/predict/batch"} 1.0',
        'eta_predictions_total{status="ok",variant="champion"} 2.0',
        "eta_batch_rows_rejected_total 1.0",
        'eta_feature_values_total{feature="distance_km",status="present"} 1.0',
        'eta_feature_values_total{feature="distance_km",status="missing"} 1.0',
        'eta_model_switches_total{outcome="switched"} 1.0',
        "eta_model_loaded 1.0",
        "eta_registry_up 1.0",
        "eta_online_store_up 1.0",
        "eta_log_dropped_rows_total 0.0",
        "eta_log_aside_rows_total 0.0",
        'eta_thread_up{thread="prediction-log"} 1.0',
    ]:
        assert expected in lines
    version = service.model().ref.version
    model = f'eta_model_info{{alias="champion",name="delivery_time",variant="champion",version="{version}"}} 1.0'
    assert model in lines


def test_a_fault_is_a_problem_that_reveals_nothing_but_its_kind(
    client: httpx.Client, service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(service, "predict", fail)
    answer = client.post("/predict", json=ORDER)

    found = problem(answer)
    assert (found["status"], found["type"]) == (500, "urn:delivery-eta:problem:fault")
    assert "secret" not in answer.text
    assert "secret detail" in caplog.text
    assert answer.headers["x-request-id"] in caplog.text


def test_the_documentation_shows_examples_and_problem_documents(client: httpx.Client):
    schema = client.get("/openapi.json").json()

    assert client.get("/docs").status_code == 200
    schemas = schema["components"]["schemas"]
    assert schemas["OrderRequest"]["examples"][0]["restaurant_id"] == "r-17"
    assert schemas["OrderRequest"]["properties"]["placed_at"]["anyOf"][0] == {
        "type": "string",
        "format": "date-time",
        "pattern": "^20[0-9]{2}-",
    }
    rows = schemas["BatchRequest"]["properties"]["orders"]
    assert (rows["minItems"], rows["maxItems"]) == (1, 1000)
    assert rows["items"]["anyOf"][0] == {"$ref": "#/components/schemas/OrderRequest"}
    assert schemas["OrderRequest"]["required"] == ["restaurant_id"]
    count = schemas["OrderRequest"]["properties"]["item_count"]["anyOf"][0]
    assert (count["type"], count["minimum"], count["maximum"]) == ("integer", 1, 1_000_000)
    assert count["description"] == "number of items ordered, items"
    responses = schema["paths"]["/predict"]["post"]["responses"]
    assert sorted(responses) == ["200", "400", "401", "408", "413", "422", "500", "503"]
    assert list(responses["422"]["content"]) == ["application/problem+json"]
    assert "ProblemDocument" in schemas
    assert "HTTPValidationError" not in schemas


def test_the_example_of_the_documentation_is_answered(client: httpx.Client):
    example = client.get("/openapi.json").json()["components"]["schemas"]["OrderRequest"]["examples"][0]

    assert client.post("/predict", json=example).status_code == 200


def test_concurrent_requests_each_get_their_own_answer(client: httpx.Client):
    answers: dict[int, dict] = {}

    def ask(number: int) -> None:
        answers[number] = client.post("/predict", json=ORDER | {"order_id": f"o{number}"}).json()

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert {number: answer["order_id"] for number, answer in answers.items()} == {n: f"o{n}" for n in range(32)}
    assert {answer["status"] for answer in answers.values()} == {"ok"}


def test_the_documentation_page_needs_nobody_else(client: httpx.Client):
    page = client.get("/docs").text
    scripts = [
        part.split('"')[0]
        for part in page.split('src="')[1:] + page.split('<link type="text/css" rel="stylesheet" href="')[1:]
    ]
    assert len(scripts) == 2
    assert all(str(client.get(address).status_code) == "200" for address in scripts)
    assert all(address.startswith(str(client.base_url).rstrip("/")) for address in scripts)


def test_the_features_of_entities_are_shown_with_their_freshness_and_nothing_is_logged(
    client: httpx.Client, service: Service, settings: Settings
):
    found = client.get("/features/r1", params={"driver_id": "d9", "zone_id": "z1", "placed_at": PLACED}).json()

    predicted = client.post(
        "/predict?features=true",
        json={"restaurant_id": "r1", "placed_at": PLACED} | {"driver_id": "d9", "zone_id": "z1"},
    ).json()
    assert found["features"] == predicted["features"]
    assert found["features"]["restaurant_stats__order_count_7d"] == {
        "value": 40.0,
        "status": "present",
        "age_seconds": 3600.0,
    }
    assert found["features"]["driver_stats__delivery_minutes_mean_28d"]["status"] == "missing"
    assert found["reasons"] == [
        "driver_stats: nothing is stored of this driver_id, and how often that was so in training is not known"
    ]
    assert (found["status"], found["as_of"], found["model"]) == ("degraded", "2026-05-01T13:00:00Z", predicted["model"])
    wait_until(lambda: service.log.written, "the row of the prediction, which comes after the answer")
    assert service.log.written + service.log.queued == 1


@pytest.mark.parametrize(
    ("path", "field"),
    [("/features/r1?placed_at=yesterday", "query.placed_at"), (f"/features/{'r' * 129}", "path.restaurant_id")],
)
def test_a_wrong_parameter_is_named(client: httpx.Client, path: str, field: str):
    found = problem(client.get(path))

    assert (found["status"], [error["field"] for error in found["errors"]]) == (422, [field])


def test_features_need_the_key(client: httpx.Client):
    assert problem(client.get("/features/r1", headers={"X-API-Key": "wrong"}))["status"] == 401


def test_beyond_the_limit_requests_are_told_to_come_back_and_health_is_answered(service: Service):
    limited = Service(service.settings.model_copy(update={"serving_concurrency": 1}), clock=lambda: NOON)
    entered, leave = threading.Event(), threading.Event()

    async def waits(*_: object) -> object:
        entered.set()
        leave.wait(GENEROUS_SECONDS)
        raise LookupFailed("the test is over")

    with listening(limited) as client:
        assert limited.champion.current is not None
        limited.champion.current.predictor.lookup.read = waits
        first = threading.Thread(target=client.get, args=("/features/r1",))
        first.start()
        assert entered.wait(GENEROUS_SECONDS)

        refused = client.get("/features/r1")
        found = problem(refused)
        assert (found["status"], found["type"]) == (503, "urn:delivery-eta:problem:overloaded")
        assert refused.headers["retry-after"] == "1"
        assert client.get("/health").is_success
        assert 'eta_requests_total{method="GET",route="unmatched",status="503"} 1.0' in client.get("/metrics").text

        leave.set()
        first.join()
        assert client.get("/features/r1").is_success


def test_a_whole_number_with_a_decimal_point_is_an_integer(client: httpx.Client):
    answers = [client.post("/predict", content=json.dumps(ORDER | {"item_count": count})) for count in (3, 3.0)]

    assert [answer.status_code for answer in answers] == [200, 200]
    assert len({answer.json()["delivery_minutes"] for answer in answers}) == 1

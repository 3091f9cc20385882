"""What an order told when it was placed: one list of fields, and the values of its first version."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl

from config import Settings
from feature_repo.orders.history import requests_as_placed
from feature_repo.orders.schema import LAKE_SCHEMA, ORDER_SCHEMA, orders_table
from feature_repo.request_fields import FIELDS, REQUEST_FIELDS
from feature_repo.window import HOUR, Window
from serving.predictor import Order
from serving.schemas import OrderRequest

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)
WINDOW = Window(NOON, NOON + HOUR)


def version(minutes: int, **told: object) -> dict[str, object]:
    at = NOON + timedelta(minutes=minutes)
    row = {"order_id": "o1", "restaurant_id": "r1", "placed_at": NOON, "status": "placed"}
    return dict.fromkeys(LAKE_SCHEMA) | row | {"updated_at": at, "known_at": at} | told


def test_a_later_promise_or_value_was_not_in_the_request(tmp_path):
    settings = Settings(data_dir=tmp_path)
    rows = [version(0, promised_minutes=30.0, item_count=2), version(9, promised_minutes=55.0, order_value=21.0)]
    orders_table(settings).replace(WINDOW, pl.DataFrame(rows, schema=LAKE_SCHEMA))
    (found,) = requests_as_placed(settings, WINDOW, NOON + HOUR).collect().to_dicts()
    assert found == {
        "order_id": "o1",
        "distance_km": None,
        "item_count": 2,
        "order_value": None,
        "promised_minutes": 30.0,
    }
    assert requests_as_placed(settings, WINDOW, NOON - HOUR).collect().is_empty(), "nothing was known then"


def test_a_field_of_the_list_is_one_everywhere():
    for field in FIELDS:
        assert ORDER_SCHEMA[field.name].is_numeric(), field
        assert ORDER_SCHEMA[field.name].is_integer() == field.whole, field
    asked = {name for name in OrderRequest.model_fields if name in ORDER_SCHEMA and ORDER_SCHEMA[name].is_numeric()}
    assert asked == {name for name in Order._fields if name in asked} == {*REQUEST_FIELDS}

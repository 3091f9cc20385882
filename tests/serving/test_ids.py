"""Ids at the door of the API: the rule of every door, told in the answer where it refuses."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from serving.schemas import OrderRequest
from tests.feature_repo.test_ids import CHANGED, NUMBERS, REFUSED, SAME

FIELDS = ("order_id", "restaurant_id", "driver_id", "customer_id", "zone_id")


def asked(field: str, value: object) -> str | None:
    """The field after a request with this value has come in as JSON."""
    body = json.dumps({"restaurant_id": "r1", field: value})
    return getattr(OrderRequest.model_validate_json(body), field)


@pytest.mark.parametrize("field", FIELDS)
def test_every_id_is_read_by_the_one_rule(field):
    assert [asked(field, text) for text in SAME] == SAME
    assert {text: asked(field, text) for text in CHANGED} == CHANGED


@pytest.mark.parametrize("value", [value for value in NUMBERS if isinstance(value, int | float) and abs(value) < 2**53])
def test_a_json_number_is_its_text(value):
    assert asked("zone_id", value) == NUMBERS[value]


@pytest.mark.parametrize(("text", "reason"), REFUSED.items(), ids=[ascii(text)[:30] for text in REFUSED])
def test_what_is_no_id_is_refused_with_the_field_and_the_reason(text, reason):
    with pytest.raises(ValidationError, match=rf"(?s)customer_id.*{reason}"):
        OrderRequest.model_validate({"restaurant_id": "r1", "customer_id": text})


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (True, "truth value"),
        (1.5, "is a fraction"),
        (2**53, "may have lost digits on its way through JSON: send it as text"),
        (1e300, "so large that several"),
        ([], "valid string"),
        ({}, "valid string"),
    ],
)
def test_a_json_value_that_is_no_id_is_refused(value, reason):
    with pytest.raises(ValidationError, match=reason):
        asked("restaurant_id", value)


def test_an_absent_id_is_unknown():
    assert asked("driver_id", None) is None

"""What the business asks: promises, bias, late orders, and the platform's own estimate."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from training.business import business
from training.models import get_spec
from training.report import business_lines

SPEC = get_spec("delivery_time")
PREDICTED = np.array([30.0, 30.0, 30.0, 40.0])
PROMISED = np.array([35.0, 35.0, 35.0, 50.0])
ACTUAL = np.array([28.0, 35.0, 45.0, 41.0])


def test_promises_are_counted_by_hand():
    rows = pl.DataFrame({"promised_minutes": [30.0, None, 40.0, 45.0]})
    found = business(PREDICTED, PROMISED, ACTUAL, rows, SPEC)
    assert (found["bias"], found["late_share"]) == (-4.75, 0.25)  # at the promised minute is not late
    assert (found["late_by"], found["late_error"]) == (10.0, 15.0)
    assert found["platform"] == {
        "rows": 3,
        "error": pytest.approx((2 + 5 + 4) / 3),
        "model_error": pytest.approx((2 + 15 + 1) / 3),
        "bias": pytest.approx((2 - 5 + 4) / 3),
        "late_share": pytest.approx(1 / 3),
        "late_error": 5.0,
        "model_late_error": 15.0,
    }
    told = " ".join(business_lines(found, "minutes"))
    assert "25.0% of the test rows are late, in the mean by 10.00 minutes; their error is 15.00" in told
    assert "predictions are 4.75 minutes too short" in told
    assert (
        "On the 3 test rows with an estimate of the platform's own, its error is 3.67 minutes, this model's 6.00"
        in told
    )


@pytest.mark.parametrize(
    "rows", [pl.DataFrame({"promised_minutes": [None] * 4}, {"promised_minutes": pl.Float64}), pl.DataFrame()]
)
def test_without_late_orders_and_without_an_estimate_nothing_is_made_up(rows):
    found = business(PREDICTED, PROMISED + 100, ACTUAL, rows, SPEC)
    assert (found["late_share"], found["late_by"], found["late_error"], found["platform"]) == (0.0, None, None, None)
    assert business_lines(found, "minutes") == [
        "If the 90th percentile is promised, 0.0% of the test rows are late. In the mean, predictions are 4.75 minutes "
        "too short."
    ]
    assert business(PREDICTED, PROMISED, ACTUAL, rows, replace(SPEC, promise=None))["platform"] is None

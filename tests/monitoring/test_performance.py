from __future__ import annotations

import math
from datetime import UTC, datetime

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitoring.performance import AmbiguousOutcomes, join_outcomes, measure, one_per_order

NOW = datetime(2026, 5, 1, tzinfo=UTC)


def log(*rows: tuple[str | None, str, float], minute: int = 0) -> pl.DataFrame:
    """A prediction log of (order, source, predicted minutes)."""
    return pl.DataFrame(
        {
            "prediction_id": [f"p{i}" for i in range(len(rows))],
            "order_id": [row[0] for row in rows],
            "predicted_at": [NOW] * len(rows),
            "model_version": ["1"] * len(rows),
            "source": [row[1] for row in rows],
            "status": ["ok"] * len(rows),
            "delivery_minutes": [row[2] for row in rows],
            "p10_minutes": [row[2] - 5 for row in rows],
            "p90_minutes": [row[2] + 5 for row in rows],
        },
        schema_overrides={
            **dict.fromkeys(["order_id", "source", "status", "model_version", "prediction_id"], pl.String),
            **dict.fromkeys(["delivery_minutes", "p10_minutes", "p90_minutes"], pl.Float64),
        },
    )


def happened(**minutes: float) -> pl.DataFrame:
    return pl.DataFrame(
        {"order_id": list(minutes), "actual_minutes": list(minutes.values())},
        schema={"order_id": pl.String, "actual_minutes": pl.Float64},
    )


def test_every_number_of_four_predictions_against_hand_computed_ones() -> None:
    predictions = log(("a", "online", 30.0), ("b", "online", 20.0), ("c", "online", 50.0), ("d", "online", 10.0))
    result = measure(join_outcomes(predictions, happened(a=33.0, b=16.0, c=60.0)), baseline_minutes=30.0)
    assert (result["predictions"], result["orders"], result["outcomes"]) == (4, 4, 3)
    assert result["mae"] == pytest.approx((3 + 4 + 10) / 3)
    assert result["rmse"] == pytest.approx(math.sqrt((9 + 16 + 100) / 3))
    assert result["bias"] == pytest.approx((-3 + 4 - 10) / 3)
    assert result["coverage"] == pytest.approx(2 / 3)
    assert result["baseline_mae"] == pytest.approx((3 + 14 + 30) / 3)


def test_without_outcomes_nothing_is_measured_and_nothing_is_zero() -> None:
    result = measure(join_outcomes(log(("a", "online", 30.0)), happened()), baseline_minutes=30.0)
    assert result["outcomes"] == 0
    assert [result[name] for name in ("mae", "rmse", "bias", "coverage", "baseline_mae")] == [None] * 5


def test_without_predictions_there_is_no_share_either() -> None:
    result = measure(join_outcomes(log(), happened(a=1.0)), baseline_minutes=None)
    assert (result["predictions"], result["outcomes"], result["degraded_share"]) == (0, 0, None)


def test_the_first_answer_of_the_service_counts_before_batch_scoring() -> None:
    predictions = log(("a", "batch", 1.0), ("a", "online", 2.0), ("a", "online", 3.0), (None, "online", 4.0))
    assert one_per_order(predictions)["delivery_minutes"].to_list() == [2.0]


def test_batch_and_online_are_also_measured_apart() -> None:
    predictions = log(("a", "batch", 10.0), ("a", "online", 12.0))
    result = measure(join_outcomes(predictions, happened(a=10.0)), baseline_minutes=None)
    assert {source: part["mae"] for source, part in result["by_source"].items()} == {"batch": 0.0, "online": 2.0}


def test_two_outcomes_of_one_order_are_refused() -> None:
    outcomes = pl.concat([happened(a=1.0), happened(a=2.0)])
    with pytest.raises(AmbiguousOutcomes, match="1 orders have more than one outcome, for example 'a'"):
        join_outcomes(log(("a", "online", 30.0)), outcomes)


@given(
    st.lists(st.one_of(st.none(), st.sampled_from("abcdef")), max_size=30),
    st.dictionaries(st.sampled_from("abcdef"), st.floats(1, 180)),
)
def test_the_join_keeps_all_rows_in_their_order(orders: list[str | None], minutes: dict[str, float]) -> None:
    predictions = log(*((order, "online", 30.0) for order in orders))
    joined = join_outcomes(predictions, happened(**minutes))
    assert joined["prediction_id"].to_list() == predictions["prediction_id"].to_list()
    assert joined["actual_minutes"].to_list() == [minutes.get(order) if order else None for order in orders]

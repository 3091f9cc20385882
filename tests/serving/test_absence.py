"""How often views are missing lately, beside training."""

from __future__ import annotations

import random

import pytest

from serving.absence import BLOCK_ROWS, FEWEST_ROWS, Absence, Share
from serving.bundle import BundleDocument
from serving.status import FeatureStatus

PRESENT, MISSING, UNAVAILABLE = (bytes([FeatureStatus[name]]) for name in ("PRESENT", "MISSING", "UNAVAILABLE"))


def absence(null_rate: float | None) -> Absence:
    view = {"name": "customer_stats", "join_key": "customer_id", "ttl_seconds": 60, "features": ["orders"]}
    column = {"name": "customer_stats__orders", "source": "view", "view": "customer_stats", "feature": "orders"}
    return Absence(
        BundleDocument.model_validate(
            {
                "model": "m",
                "feature_service": "s",
                "project": "p",
                "views": [view],
                "inputs": [column | {"null_rate": null_rate}],
                "interval": {"p10_offset": -1, "p90_offset": 1},
                "self_test": {"inputs": [[1.0]], "predictions": [1.0]},
            }
        )
    )


def test_a_view_that_lacks_far_more_often_than_in_training_degrades_whoever_lacks_it():
    it = absence(0.3)
    assert it.reasons(MISSING, (True,)) == ()

    it.add([MISSING] * FEWEST_ROWS, [(True,)] * FEWEST_ROWS)

    assert it.shares() == [Share("customer_stats", FEWEST_ROWS, 1.0, 0.3, True)]
    assert it.reasons(MISSING, (True,)) == (
        "customer_stats: nothing is stored of this customer_id, nor of many others lately: does the pipeline run?",
    )
    assert it.reasons(PRESENT, (True,)) == ()

    it.add([PRESENT] * 2 * BLOCK_ROWS, [(True,)] * 2 * BLOCK_ROWS)
    assert it.reasons(MISSING, (True,)) == ()


@pytest.mark.parametrize(("row", "is_named"), [(MISSING, False), (UNAVAILABLE, True)])
def test_rows_that_say_nothing_of_a_view_are_not_counted(row: bytes, is_named: bool):
    it = absence(0.3)

    it.add([row] * FEWEST_ROWS, [(is_named,)] * FEWEST_ROWS)

    assert it.shares() == []


@pytest.mark.parametrize("rate", [0.002, 0.3, 0.5])
def test_with_the_shares_of_training_there_is_no_alarm(rate: float):
    it, draw = absence(rate), random.Random(7)

    for _ in range(1_000):
        it.add([MISSING if draw.random() < rate else PRESENT for _ in range(100)], [(True,)] * 100)
        assert not it.shares()[0].is_too_large


def test_without_the_rate_of_training_a_view_that_is_mostly_gone_is_told():
    it = absence(None)
    it.add([MISSING, PRESENT] * FEWEST_ROWS, [(True,)] * 2 * FEWEST_ROWS)

    assert it.shares() == [Share("customer_stats", 2 * FEWEST_ROWS, 0.5, None, True)]

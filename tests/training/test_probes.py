"""Leaks that are planted are found and named; an honest data set passes."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from tests.training.conftest import AS_OF, DRIVER_MEAN, TRAILING_MEAN, market
from training import pipeline
from training.probes import TOO_GOOD, TWINS, probe

pytestmark = pytest.mark.usefixtures("mlflow_ready")


def test_an_honest_data_set_passes_with_room(stored, spec):
    failures, measured = probe(stored(), spec)
    assert failures == []
    assert measured["from_the_future"]["share"] > 2 * TOO_GOOD
    assert measured["shuffled_time"] > TWINS + 0.2


def test_a_feature_that_has_seen_the_outcome_stops_the_run_by_its_name(stored, settings, spec):
    noise = pl.Series(np.random.default_rng(1).normal(0, 0.5, 3000))
    leaky = market().with_columns((pl.col("delivery_minutes") + noise).alias(DRIVER_MEAN))
    stored(leaky)
    verdict = pipeline.validate_dataset(AS_OF, settings, spec)
    assert verdict["stopped"]
    (failure,) = verdict["failures"]
    assert failure.startswith(f"{DRIVER_MEAN} by itself predicts delivery_minutes with ")
    assert "it was computed from the outcome" in failure


def test_orders_listed_again_under_another_id_stop_the_run(stored, settings, spec):
    once = market(count=750).drop("placed_at", "label_known_at", "order_id")
    times = market().select("placed_at", "label_known_at", "order_id")
    again = once[np.repeat(np.arange(750), 4)]
    stored(pl.concat([times, again], how="horizontal"))
    (failure,) = pipeline.validate_dataset(AS_OF, settings, spec)["failures"]
    assert "orders that are listed again under another id" in failure


def test_missing_values_are_no_obstacle(stored, spec):
    rows = market().with_columns(pl.lit(None, pl.Float64).alias(TRAILING_MEAN))
    assert probe(stored(rows), spec)[0] == []

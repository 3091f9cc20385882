"""Metrics against literal cases and scikit-learn's own."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from training.tasks import TASKS

REGRESSION, CLASSIFICATION = TASKS["regression"], TASKS["classification"]


def test_regression_metrics_of_a_literal_case():
    found = REGRESSION.metrics(np.array([1.0, 2.0, 3.0]), np.array([1.0, 4.0, 2.0]))
    assert found == {"mae": 1.0, "rmse": pytest.approx((5 / 3) ** 0.5), "p90": pytest.approx(1.8)}


def test_classification_metrics_are_those_of_scikit_learn():
    draw = np.random.default_rng(1)
    predicted = np.round(draw.random(500), 2)  # with ties
    actual = (draw.random(500) < predicted**2).astype(float)
    said, found = predicted >= 0.5, CLASSIFICATION.metrics(predicted, actual)
    clipped = np.clip(predicted, 1e-7, 1 - 1e-7)
    assert found["log_loss"] == pytest.approx(sklearn_metrics.log_loss(actual, clipped), rel=1e-5)
    assert found["accuracy"] == pytest.approx(sklearn_metrics.accuracy_score(actual, said))
    assert found["precision"] == pytest.approx(sklearn_metrics.precision_score(actual, said))
    assert found["recall"] == pytest.approx(sklearn_metrics.recall_score(actual, said))
    assert found["f1"] == pytest.approx(sklearn_metrics.f1_score(actual, said))
    assert found["roc_auc"] == pytest.approx(sklearn_metrics.roc_auc_score(actual, predicted))
    assert found["brier"] == pytest.approx(sklearn_metrics.brier_score_loss(actual, predicted))


def test_calibration_error_is_the_distance_of_probability_and_share():
    actual = np.array([1.0, 0.0] * 50)
    assert CLASSIFICATION.metrics(np.full(100, 0.5), actual)["ece"] == pytest.approx(0.0)
    assert CLASSIFICATION.metrics(np.full(100, 0.9), actual)["ece"] == pytest.approx(0.4)


def test_what_is_not_defined_is_nan_and_not_zero():
    found = CLASSIFICATION.metrics(np.array([0.1, 0.2]), np.array([0.0, 0.0]))
    assert math.isnan(found["roc_auc"])
    assert math.isnan(found["precision"])
    assert math.isnan(found["recall"])
    assert found["accuracy"] == 1.0


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_the_primary_metric_is_the_mean_of_the_row_losses(task):
    predicted, actual = np.array([0.2, 0.9, 0.6]), np.array([0.0, 1.0, 0.0])
    assert task.metrics(predicted, actual)[task.primary] == pytest.approx(task.losses(predicted, actual).mean())

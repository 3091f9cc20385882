"""The task that calls a step of training: which errors Airflow may try again."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from training.errors import ChampionMoved, EmptyPopulation, RegistryUnavailable, SourceLacks, TrainingError

END = datetime(2026, 5, 1, 2, tzinfo=UTC)


@pytest.mark.parametrize(
    ("error", "tried_again"),
    [
        (EmptyPopulation("no row has a label"), False),
        (TrainingError("no trained candidate"), False),
        (RegistryUnavailable("MLflow does not answer"), True),
        (ChampionMoved("somebody else promoted"), True),
        (MemoryError(), True),
    ],
    ids=lambda value: type(value).__name__,
)
def test_only_errors_that_may_pass_are_tried_again(settings, monkeypatch, error, tried_again):
    from airflow.sdk.exceptions import AirflowFailException

    from dags._models import model_step

    def fail(*_arguments):
        raise error

    monkeypatch.setattr("training.pipeline.train", fail)
    step = model_step("delivery_time", "train").function
    with pytest.raises(type(error) if tried_again else AirflowFailException) as caught:
        step(data_interval_end=END, params={})
    assert str(error) in str(caught.value)


def test_a_model_that_the_source_cannot_have_is_skipped_with_the_reason(settings, monkeypatch):
    from airflow.sdk.exceptions import AirflowSkipException

    from dags._models import model_step

    def fail(*_arguments):
        raise SourceLacks("it needs customer_id, which the orders do not have")

    monkeypatch.setattr("training.pipeline.train", fail)
    with pytest.raises(AirflowSkipException, match="it needs customer_id"):
        model_step("customer_churn", "train").function(data_interval_end=END, params={})


@pytest.mark.parametrize(
    ("model", "thresholds", "said"),
    [("no_such_model", {}, "no model 'no_such_model'"), ("delivery_time", {"no_gate": 1.0}, "no gates .'no_gate'")],
)
def test_a_model_or_gate_that_does_not_exist_fails_at_once(settings, monkeypatch, model, thresholds, said):
    from airflow.sdk.exceptions import AirflowFailException

    from dags import _models

    configured = settings.model_copy(update={"gate_thresholds": {model: thresholds}})
    monkeypatch.setattr(_models, "get_settings", lambda: configured)
    with pytest.raises(AirflowFailException, match=said):
        _models.model_step(model, "train").function(data_interval_end=END, params={})

"""The flow in a real Prefect, with a server of its own on loopback, over the small market and a real MLflow."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import pytest

from tests.training.conftest import AS_OF, description, market
from training import pipeline, prefect_flow
from training.errors import DatasetError, RegistryUnavailable
from training.registry import ModelRegistry

needs_prefect = pytest.mark.skipif(
    importlib.util.find_spec("prefect") is None, reason=f"Prefect is an extra: {prefect_flow.INSTALL}"
)
STEPS = ["build_dataset", "validate_dataset", "train", "evaluate", "register"]


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory):
    """Prefect's own test server; its variables must be there before Prefect is imported."""
    from config import Settings

    with pytest.MonkeyPatch.context() as patch:
        settings = Settings(data_dir=tmp_path_factory.mktemp("prefect"))
        for name, value in prefect_flow.prefect_environment(settings).items():
            patch.setenv(name, value)
        from prefect.testing.utilities import prefect_test_harness

        with prefect_test_harness(server_startup_timeout=120):
            yield


@pytest.fixture
def run(prefect_server, mlflow_ready, settings, spec, monkeypatch):
    """Runs the flow on the small market and returns its final state."""

    def build(as_of, settings, spec):
        return pipeline.datasets.store_dataset(market(), description(as_of), settings.datasets, spec), False

    monkeypatch.setattr(pipeline.datasets, "build_dataset", build)
    monkeypatch.setattr(prefect_flow, "RETRY_SECONDS", 0)

    def go(spec=spec):
        monkeypatch.setattr(prefect_flow, "get_spec", lambda *_: spec)
        return prefect_flow.training_flow()(AS_OF, "delivery_time", return_state=True)

    return go


@needs_prefect
def test_a_run_registers_and_a_second_one_finds_all_again(run, settings):
    first = run()
    assert (first.name, first.message) == ("Registered", "version 1")
    story = first.result()
    assert list(story) == [*STEPS, "status"]
    assert story["register"]["registered"] is True
    again = run()
    told = again.result()
    assert [told[name].get("reused") for name in STEPS[1:]] == [True] * 4
    assert (again.name, told["register"]["version"], told["register"]["registered"]) == ("Registered", "1", False)
    assert len(ModelRegistry(settings, "delivery_time").versions()) == 1


@needs_prefect
def test_gates_that_fail_end_the_run_well_and_register_nothing(run, settings, spec):
    state = run(spec.with_thresholds({"validation_mae": 0.1}))
    assert (state.name, state.is_completed()) == ("Rejected", True)
    assert state.message.startswith("validation_mae: ")
    assert ModelRegistry(settings, "delivery_time").versions() == []


@needs_prefect
def test_refused_data_fail_the_run_with_the_reason_before_anything_is_trained(run, spec):
    state = run(replace(spec, limits=replace(spec.limits, minimum_rows=10_000)))
    assert (state.name, state.is_failed()) == ("DataRefused", True)
    assert state.message.startswith("3000 rows, at least 10000 are needed")


def _failing(monkeypatch, error, times):
    calls = []
    real = pipeline.evaluate

    def evaluate(*arguments):
        calls.append(1)
        if len(calls) <= times:
            raise error
        return real(*arguments)

    monkeypatch.setattr(pipeline, "evaluate", evaluate)
    return calls


@needs_prefect
def test_an_unreachable_mlflow_is_tried_again(run, monkeypatch):
    calls = _failing(monkeypatch, RegistryUnavailable("MLflow does not answer"), times=2)
    state = run()
    assert state.name == "Registered"
    assert len(calls) == 4  # twice in vain, once for the task, once by `register`


@needs_prefect
def test_other_errors_are_not_tried_again(run, monkeypatch):
    calls = _failing(monkeypatch, DatasetError("rows.parquet cannot be read"), times=9)
    state = run()
    assert state.is_failed()
    with pytest.raises(DatasetError, match="cannot be read"):
        state.result()
    assert len(calls) == 1


def test_without_prefect_the_command_says_how_to_install_it(monkeypatch, capsys):
    monkeypatch.setattr(prefect_flow.importlib.util, "find_spec", lambda _: None)
    assert prefect_flow.main([]) == 2
    assert "uv pip install" in capsys.readouterr().err


def test_a_person_who_must_approve_is_not_passed_by(settings, monkeypatch, capsys):
    monkeypatch.setattr(prefect_flow.importlib.util, "find_spec", lambda _: object())
    monkeypatch.setattr(prefect_flow, "get_settings", lambda: settings.model_copy(update={"training_approval": True}))
    monkeypatch.setattr(prefect_flow, "training_flow", lambda: pytest.fail("ran"))
    assert prefect_flow.main([]) == 1
    assert "a person decides about each version" in capsys.readouterr().err


def test_prefect_calls_nobody_and_keeps_its_files_among_the_data(settings, monkeypatch):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    variables = prefect_flow.prefect_environment(settings)
    assert (variables["DO_NOT_TRACK"], variables["PREFECT_SERVER_ANALYTICS_ENABLED"]) == ("1", "false")
    assert variables["PREFECT_SERVER_API_HOST"] == "127.0.0.1"
    assert all(value.startswith(str(settings.data_dir)) for value in variables.values() if value.startswith("/"))
    monkeypatch.setenv("PREFECT_API_URL", "http://prefect.internal/api")
    assert "PREFECT_SERVER_EPHEMERAL_ENABLED" not in prefect_flow.prefect_environment(settings)

"""The steps from a stored training set to a champion, against a real MLflow on SQLite."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from config import Settings
from feature_repo.transforms.request_time import Clock, calendar
from tests.conftest import free_port
from tests.training.conftest import AS_OF, PEAK, TRAILING_MEAN, described_inputs, description, market
from tests.training.templates import Trained
from training import pipeline
from training.dataset import build_dataset
from training.errors import DatasetError, GatesNotPassed, RegistryUnavailable, TrainingError
from training.lineage import render_tree
from training.registry import ModelRegistry
from training.spec import ModelSpec

pytestmark = pytest.mark.usefixtures("mlflow_ready")

LATER = AS_OF + timedelta(days=1)
STUMP = {"max_iter": 3, "early_stopping": False, "learning_rate": 0.05}


@pytest.fixture(scope="module")
def trained() -> list[tuple[ModelSpec, Trained]]:
    """What the small market as it is gave under the specs that have been trained from nothing so far."""
    return []


@pytest.fixture
def candidate(stored, settings, spec, trained, tmp_path_factory):
    """Stores rows, trains and evaluates; returns what the gates said."""

    def make(rows: pl.DataFrame | None = None, as_of=AS_OF, spec=spec, **changes):
        from_nothing = rows is None and as_of == AS_OF and not changes and not settings.datasets.exists()
        known = [result for of, result in trained if of == spec] if from_nothing else []
        if known:
            return known[0].put(settings)
        stored(rows, as_of, **changes)
        pipeline.train(as_of, settings, spec)
        evaluation = pipeline.evaluate(as_of, settings, spec)
        if from_nothing:
            trained.append((spec, Trained.of(settings, evaluation, tmp_path_factory.mktemp("trained"))))
        return evaluation

    return make


@pytest.fixture
def tolerant(spec):
    """The spec with an allowance for the noise of few rows in the comparison with the champion."""
    return spec.with_thresholds({"no_worse_than_champion": 1.0})


def failed(evaluation) -> dict[str, str]:
    return {gate["name"]: gate["reason"] for gate in evaluation["gates"] if not gate["passed"]}


def champion(settings) -> str | None:
    found = ModelRegistry(settings, "delivery_time").champion()
    return found.version if found else None


def test_a_good_candidate_becomes_the_champion_with_its_lineage(candidate, settings, spec):
    import mlflow

    evaluation = candidate()
    assert evaluation["passed"], failed(evaluation)
    made = pipeline.register(AS_OF, settings, spec)
    assert (made["version"], made["previous"], made["registered"]) == ("1", None, True)
    version = ModelRegistry(settings, "delivery_time").champion()
    assert version.aliases == ("champion",)
    assert version.source.endswith("/artifacts/serving")
    assert json.loads(version.tags["gate.validation_mae"])["passed"] is True
    assert version.tags["dataset_hash"] == pipeline.noted_dataset(AS_OF, settings, spec).hash
    client = mlflow.MlflowClient(settings.mlflow_tracking_uri)
    run = client.get_run(made["run_id"])
    assert run.info.status == "FINISHED"
    assert {"dataset_hash", "definitions_hash", "code_revision", "seed", "feature_service"} <= set(run.data.tags)
    assert run.data.metrics["validation_mae"] == pytest.approx(evaluation["metrics"]["validation_mae"])
    assert run.data.params["loss"] == "absolute_error"
    listed = {item.path for item in client.list_artifacts(made["run_id"])}
    reports = {"evaluation.json", "gates.json", "report.md", "report.html", "model_card.md"}
    assert listed == {"dataset.json", "serving", *reports}
    served = {Path(item.path).name for item in client.list_artifacts(made["run_id"], "serving")}
    assert served == {"model.onnx", "judged.onnx", "bundle.json", "reference.parquet"}
    seen = evaluation["seen"]
    assert (seen["judged"]["rows"], seen["registered"]["rows"]) == (evaluation["rows"]["train"], 3000)
    assert version.tags["fitted_on"] == f"3000 rows of {seen['registered']['first']} to {seen['registered']['last']}"
    assert "judged by the same models fitted on 2" in render_tree(ModelRegistry(settings, "delivery_time").lineage("1"))


def test_the_trials_of_a_search_are_child_runs_of_the_training(stored, settings, spec):
    import mlflow

    stored()
    run_id = pipeline.train(AS_OF, settings, spec.with_search(trials=2, folds=0))["run_id"]
    client = mlflow.MlflowClient(settings.mlflow_tracking_uri)
    experiment = client.get_experiment_by_name("delivery_time").experiment_id
    children = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{run_id}'")
    assert sorted(run.info.run_name for run in children) == ["trial 1", "trial 2", "trial 3"]
    assert all(run.data.metrics["validation_mae"] > 0 for run in children)
    assert all(run.data.params["loss"].endswith("_error") for run in children)
    assert {run.info.status for run in children} == {"FINISHED"}


def test_the_logged_estimator_loads_and_predicts_the_same(candidate, settings, spec):
    import mlflow

    candidate()
    run_id = pipeline.train(AS_OF, settings, spec)["run_id"]
    (logged,) = mlflow.MlflowClient(settings.mlflow_tracking_uri).search_logged_models(
        [mlflow.MlflowClient(settings.mlflow_tracking_uri).get_run(run_id).info.experiment_id]
    )
    model = mlflow.pyfunc.load_model(logged.model_uri)
    assert model.metadata.signature.inputs.input_names() == [item["name"] for item in described_inputs()]
    answer = model.predict(
        pl.DataFrame({name: [1.0] for name in model.metadata.signature.inputs.input_names()})
        .cast(pl.Float32)
        .to_pandas()
    )
    assert np.isfinite(answer).all()


@pytest.fixture
def _no_computing(monkeypatch):
    """Nothing may be fitted, measured, checked or read from the rows."""

    def refuse(*_arguments, **_options):
        pytest.fail("computed again")

    for name in ("fit", "decide", "pictures", "check_dataset", "split_by_time", "to_onnx"):
        monkeypatch.setattr(pipeline, name, refuse)
    monkeypatch.setattr(pipeline.Dataset, "rows", refuse)


STEPS = (pipeline.validate_dataset, pipeline.train, pipeline.evaluate, pipeline.register)


def test_a_rerun_with_nothing_changed_computes_nothing_and_says_so(stored, settings, spec, request):
    stored()
    first = [step(AS_OF, settings, spec) for step in STEPS]
    assert [told["reused"] for told in first] == [False] * 4
    request.getfixturevalue("_no_computing")
    again = [step(AS_OF, settings, spec) for step in STEPS]
    assert [told["reused"] for told in again] == [True] * 4
    assert (again[3]["version"], again[3]["registered"]) == ("1", False)
    assert len(ModelRegistry(settings, "delivery_time").versions()) == 1
    # Not compared with itself, but with whom it replaced: nobody.
    assert again[2]["champion"] is None
    assert again[2]["gates"] == first[2]["gates"]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda spec: spec.with_thresholds({"validation_mae": 0.1}), id="a threshold"),
        pytest.param(lambda spec: replace(spec, gates=spec.gates[1:]), id="the gates"),
        pytest.param(lambda spec: replace(spec, slices=spec.slices[1:]), id="the slices"),
        pytest.param(lambda spec: replace(spec, fairness=()), id="the groups"),
    ],
)
def test_changed_gates_are_asked_again_of_the_same_candidate(candidate, settings, spec, change):
    first = candidate()
    second = pipeline.evaluate(AS_OF, settings, change(spec))
    assert second["reused"] is False
    assert second["gates"] != first["gates"] or second["groups"] != first["groups"]
    assert pipeline.evaluate(AS_OF, settings, change(spec)) == second | {"reused": True}
    assert pipeline.evaluate(AS_OF, settings, spec) == first | {"reused": True}
    assert pipeline.train(AS_OF, settings, change(spec))["reused"] is True


def test_a_candidate_that_passed_other_gates_is_not_registered_by_these(candidate, settings, spec):
    assert candidate()["passed"]
    with pytest.raises(GatesNotPassed, match=r"validation_mae: .* above 0.1"):
        pipeline.register(AS_OF, settings, spec.with_thresholds({"validation_mae": 0.1}))
    assert champion(settings) is None


def test_another_champion_is_compared_with_anew(candidate, settings, spec, tolerant):
    first = candidate(market(seed=6), LATER, spec=tolerant)
    assert first["champion"] is None
    candidate()
    pipeline.register(AS_OF, settings, spec)
    second = pipeline.evaluate(LATER, settings, tolerant)
    assert (second["reused"], second["champion"]) == (False, "1")
    pipeline.register(LATER, settings, tolerant)
    itself = pipeline.evaluate(LATER, settings, tolerant)
    assert (itself["reused"], itself["champion"], champion(settings)) == (True, "1", "2")


@pytest.mark.parametrize("change", ["spec", "code", "rows"])
def test_another_candidate_is_checked_trained_and_evaluated_anew(stored, settings, spec, monkeypatch, change):
    stored()
    for step in STEPS[:3]:
        step(AS_OF, settings, spec)
    if change == "spec":
        spec = replace(spec, seed=spec.seed + 1)
    elif change == "code":
        monkeypatch.setattr(pipeline, "code_hash", lambda: "other")
    else:
        stored(market(seed=6))
    assert [step(AS_OF, settings, spec)["reused"] for step in STEPS[:3]] == [False] * 3


def test_a_rejection_is_noted_once(candidate, settings, spec):
    strict = spec.with_thresholds({"validation_mae": 0.1})
    candidate(spec=strict)
    assert pipeline.reject(AS_OF, settings, strict)["reused"] is False
    assert pipeline.reject(AS_OF, settings, strict)["reused"] is True
    assert len(ModelRegistry(settings, "delivery_time").log_path.read_text().splitlines()) == 1


def test_gates_that_a_registered_version_fails_today_do_not_rewrite_its_history(candidate, settings, spec):
    import mlflow

    candidate()
    made = pipeline.register(AS_OF, settings, spec)
    strict = spec.with_thresholds({"validation_mae": 0.1})
    assert not pipeline.evaluate(AS_OF, settings, strict)["passed"]
    assert pipeline.reject(AS_OF, settings, strict)["version"] == "1"
    run = mlflow.MlflowClient(settings.mlflow_tracking_uri).get_run(made["run_id"])
    assert run.data.tags["decision"] == "registered"
    assert champion(settings) == "1"


def test_a_candidate_whose_run_was_deleted_is_trained_again(candidate, settings, spec):
    import mlflow

    candidate()
    first = pipeline.train(AS_OF, settings, spec)
    mlflow.MlflowClient(settings.mlflow_tracking_uri).delete_run(first["run_id"])
    second = pipeline.train(AS_OF, settings, spec)
    assert second["reused"] is False
    assert second["run_id"] != first["run_id"]


@pytest.mark.parametrize(
    ("rows", "gate", "reason"),
    [
        pytest.param(market(noise=14.0), "validation_mae", "above 8", id="noise"),
        pytest.param(
            market().with_columns(pl.Series("delivery_minutes", np.random.default_rng(1).normal(30, 3, 3000).clip(1))),
            "beats_baseline",
            "not better",
            id="nothing to learn",
        ),
        pytest.param(
            market().with_columns(
                delivery_minutes=pl.col("delivery_minutes")
                + pl.when(pl.int_range(pl.len()) < 2000).then(0).otherwise(12)
            ),
            "train_validation_gap",
            "the world that has changed|a world that has changed",
            id="a changed world",
        ),
        pytest.param(
            market().with_columns(
                delivery_minutes=pl.col("delivery_minutes")
                + pl.when(pl.col("zone_id") == "z1")
                .then(pl.Series(np.random.default_rng(2).exponential(30, 3000)))
                .otherwise(0)
            ),
            "slices",
            r"too large an error on .*zone z1 \(\d+.\d+ minutes, at most 11.00 beyond \d.\d+ of noise, \d+ rows\)",
            id="a part that is served badly",
        ),
        pytest.param(
            market().with_columns(
                delivery_minutes=pl.col("delivery_minutes")
                + pl.when(pl.col("zone_id") == "z1")
                .then(pl.Series(np.random.default_rng(2).exponential(8, 3000)))
                .otherwise(0)
            ),
            "fairness",
            r"zone z1 .*of the error of all apart, more than 50%",
            id="an unfair model",
        ),
        pytest.param(
            market().with_columns(
                delivery_minutes=pl.col("delivery_minutes")
                + pl.when(pl.int_range(pl.len()) < 2550)
                .then(0)
                .otherwise(pl.Series(np.random.default_rng(2).exponential(12, 3000)))
            ),
            "interval_coverage",
            r"the 80 % interval holds \d\d.\d% of 45\d test rows, outside of 77% to 83%",
            id="an interval that is too narrow",
        ),
    ],
)
def test_a_model_made_to_fail_a_gate_is_rejected_with_the_reason(candidate, settings, spec, rows, gate, reason):
    evaluation = candidate(rows)
    assert not evaluation["passed"]
    assert re.search(reason, failed(evaluation)[gate])
    with pytest.raises(GatesNotPassed, match=f"{gate}: "):
        pipeline.register(AS_OF, settings, spec)
    rejected = pipeline.reject(AS_OF, settings, spec)
    assert any(text.startswith(gate) for text in rejected["reasons"])
    assert champion(settings) is None
    assert ModelRegistry(settings, "delivery_time").versions() == []
    (line,) = ModelRegistry(settings, "delivery_time").log_path.read_text().splitlines()
    assert json.loads(line)["action"] == "reject"
    assert f"{gate}: " in json.loads(line)["why"]


def test_an_interval_of_one_width_fails_where_far_orders_are_less_certain_and_one_of_percentiles_does_not(
    candidate, spec
):
    scatter = pl.Series(np.random.default_rng(2).normal(0, 15, 3000)) * (pl.col("distance_km") > 5)
    rows = market(noise=0.5).with_columns(delivery_minutes=(pl.col("delivery_minutes") + scatter).clip(1, 180))
    lenient = spec.with_thresholds({"slices": 2.0})
    evaluation = candidate(rows, spec=replace(lenient, interval=None))
    reason = failed(evaluation)["interval_parts"]
    assert re.search(r"not within 75% to 85%: the interval holds .*% of \d+ rows, long distance \(> 5 km\)", reason), (
        reason
    )
    assert "interval_parts" not in failed(candidate(rows, as_of=LATER, spec=lenient))


def test_an_overfitted_model_fails_the_gap(candidate, spec):
    greedy = {
        "early_stopping": False,
        "max_iter": 60,
        "min_samples_leaf": 1,
        "max_leaf_nodes": 255,
        "loss": "squared_error",
    }
    evaluation = candidate(market(noise=8.0), spec=replace(spec, candidates=(greedy,)))
    assert "overfitting" in failed(evaluation)["train_validation_gap"]


@pytest.mark.parametrize(
    ("gate", "budget", "reason"),
    [("model_bytes", 10_000, "bytes, more than 10,000"), ("row_microseconds", 0.001, "one row takes .* more than 0")],
)
def test_a_model_beyond_its_budget_is_rejected(candidate, spec, gate, budget, reason):
    evaluation = candidate(spec=spec.with_thresholds({gate: budget}))
    assert re.search(reason, failed(evaluation)[gate])


def test_an_export_that_predicts_something_else_is_rejected(candidate, stored, settings, spec, monkeypatch):
    real = pipeline.to_onnx
    stored()
    monkeypatch.setattr(pipeline, "to_onnx", lambda model, width, more: real(_shifted(model), width, more))
    pipeline.train(AS_OF, settings, spec)
    evaluation = pipeline.evaluate(AS_OF, settings, spec)
    assert "serving would answer something else" in failed(evaluation)["onnx_matches"]


def test_a_version_that_learnt_something_else_from_all_rows_is_rejected(stored, settings, spec, monkeypatch):
    real = pipeline.fit_again

    def misread(fitted, dataset, spec):
        """Labels of other rows, as a join that lost its order would give."""
        mixed = dataset.rows().with_columns(pl.col("delivery_minutes").shuffle(seed=1))
        return real(fitted, replace_rows(dataset, mixed), spec)

    stored()
    monkeypatch.setattr(pipeline, "fit_again", misread)
    pipeline.train(AS_OF, settings, spec)
    evaluation = pipeline.evaluate(AS_OF, settings, spec)
    assert list(failed(evaluation)) == ["refit_agrees"]
    assert "worse on rows that it has seen" in failed(evaluation)["refit_agrees"]
    with pytest.raises(GatesNotPassed, match="refit_agrees: fitted again on all rows, the"):
        pipeline.register(AS_OF, settings, spec)


def replace_rows(dataset, rows):
    class Other(type(dataset)):
        def rows(self):
            return rows

    return Other(dataset.directory, dataset.description)


def _shifted(model):
    import copy

    shifted = copy.deepcopy(model)
    shifted._baseline_prediction = shifted._baseline_prediction + 1.0
    return shifted


def test_a_worse_candidate_does_not_replace_the_champion(candidate, settings, spec):
    candidate()
    pipeline.register(AS_OF, settings, spec)
    lazy = replace(spec, candidates=(STUMP,))
    evaluation = candidate(as_of=LATER, spec=lazy.with_thresholds({"beats_baseline": 9.0}))
    assert list(failed(evaluation)) == ["no_worse_than_champion"]
    assert "champion version 1" in failed(evaluation)["no_worse_than_champion"]
    assert champion(settings) == "1"


def test_a_version_that_a_person_declines_is_not_registered_and_says_so(candidate, settings, spec):
    import mlflow

    assert candidate()["passed"]
    declined = pipeline.decline(AS_OF, settings, spec)
    assert declined["reasons"] == ["declined by a person, or not answered in time"]
    run = mlflow.MlflowClient(settings.mlflow_tracking_uri).get_run(declined["run_id"])
    assert (run.data.tags["decision"], run.info.status) == ("declined", "FINISHED")
    assert champion(settings) is None


def test_a_better_candidate_replaces_the_champion_and_remembers_it(candidate, settings, spec):
    lazy = replace(spec, candidates=(STUMP,))
    lazy = lazy.with_thresholds({"beats_baseline": 9.0})
    candidate(spec=lazy)
    pipeline.register(AS_OF, settings, lazy)
    evaluation = candidate(as_of=LATER)
    assert evaluation["champion"] == "1"
    (gate,) = [gate for gate in evaluation["gates"] if gate["name"] == "no_worse_than_champion"]
    assert gate["observed"] < -1
    assert gate["reason"].endswith("]: better")
    made = pipeline.register(LATER, settings, spec)
    assert (made["version"], made["previous"]) == ("2", "1")
    versions = {version.version: version for version in ModelRegistry(settings, "delivery_time").versions()}
    assert versions["2"].aliases == ("champion",)
    assert versions["2"].tags["previous_champion"] == "1"
    assert versions["1"].aliases == ()


def test_a_champion_whose_inputs_are_gone_fails_the_comparison_with_advice(candidate, settings, spec):
    candidate()
    pipeline.register(AS_OF, settings, spec)
    inputs = [item for item in described_inputs() if item["name"] != "distance_km"]
    evaluation = candidate(market().drop("distance_km"), LATER, inputs=inputs)
    reason = failed(evaluation)["no_worse_than_champion"]
    assert "lacks its inputs ['distance_km']" in reason
    assert "python -m training promote" in reason


def test_of_a_champion_its_judged_model_is_compared_which_has_not_seen_the_test_rows(candidate, settings, spec):
    candidate()
    pipeline.register(AS_OF, settings, spec)
    evaluation = candidate(as_of=LATER)  # the same rows and models again, a day later
    (gate,) = [gate for gate in evaluation["gates"] if gate["name"] == "no_worse_than_champion"]
    # The champion's own model has learnt from these rows: it would seem better than it is.
    assert "on the same 450 test rows" in gate["reason"]
    assert "difference +0.000 [+0.000, +0.000]: no worse" in gate["reason"]
    assert evaluation["refit"]["final_error"] < evaluation["refit"]["judged_error"]


def test_a_champion_from_before_any_was_fitted_again_is_its_own_judged_model(candidate, settings, spec):
    candidate()
    pipeline.register(AS_OF, settings, spec)
    source = ModelRegistry(settings, "delivery_time").champion().source
    bundle = Path(source.removeprefix("file://"))
    document = json.loads((bundle / "bundle.json").read_text())
    document["trained_until"] = document.pop("judged")["trained_until"]
    (bundle / "bundle.json").write_text(json.dumps(document))
    (bundle / "judged.onnx").unlink()
    evaluation = candidate(as_of=LATER)
    (gate,) = [gate for gate in evaluation["gates"] if gate["name"] == "no_worse_than_champion"]
    assert "on the same 450 test rows" in gate["reason"]
    document["trained_until"] = AS_OF.isoformat()
    (bundle / "bundle.json").write_text(json.dumps(document))
    shutil.rmtree(settings.datasets / "bundles")
    evaluation = candidate(market(seed=6), as_of=LATER)
    assert "it was trained on rows until 2026-05-01" in failed(evaluation)["no_worse_than_champion"]


@pytest.mark.parametrize(
    "damage", [Path.unlink, lambda path: path.write_bytes(path.with_name("model.onnx").read_bytes())]
)
def test_a_champion_with_a_damaged_judged_model_fails_the_comparison(candidate, settings, spec, damage):
    candidate()
    pipeline.register(AS_OF, settings, spec)
    damage(Path(ModelRegistry(settings, "delivery_time").champion().source.removeprefix("file://")) / "judged.onnx")
    evaluation = candidate(as_of=LATER)
    assert re.search(r"its bundle is damaged \(.*judged.onnx", failed(evaluation)["no_worse_than_champion"])


def test_rows_that_the_champion_was_trained_on_do_not_count(candidate, settings, spec):
    candidate()
    pipeline.register(AS_OF, settings, spec)
    earlier = market().with_columns(pl.col("placed_at", "label_known_at") - timedelta(days=9))
    evaluation = candidate(earlier, AS_OF - timedelta(days=9))
    reason = failed(evaluation)["no_worse_than_champion"]
    assert "it was trained on rows until 2026-04-22" in reason
    assert re.search(r"leaves \d+ test rows that are new to both, at least 50 are needed", reason)


def test_a_champion_with_more_or_reordered_columns_is_scored_by_name(candidate, settings, spec):
    candidate()
    pipeline.register(AS_OF, settings, spec)
    evaluation = candidate(as_of=LATER, inputs=list(reversed(described_inputs())), definitions_hash="e" * 64)
    (gate,) = [gate for gate in evaluation["gates"] if gate["name"] == "no_worse_than_champion"]
    assert gate["passed"]
    assert abs(gate["observed"]) < 0.05
    assert gate["reason"].endswith("its features were defined otherwise")


def test_a_champion_is_judged_by_the_clock_that_it_was_trained_by(candidate, settings, spec):
    rows, peak_hours = market(), [11, 12, 13, 18, 19, 20]
    right, wrong = ({"zone": zone, "peak_hours": peak_hours} for zone in ("America/Los_Angeles", "Asia/Kolkata"))
    placed_at = rows["placed_at"].dt.epoch("us") / 1_000_000
    right_peak, wrong_peak = (
        pl.Series(PEAK, calendar(placed_at, Clock.read(clock))["is_peak_hour"]) for clock in (right, wrong)
    )
    rows = rows.with_columns(pl.col("delivery_minutes") + 6 * (right_peak - pl.col(PEAK)))
    candidate(rows.with_columns(right_peak), clock=right)
    pipeline.register(AS_OF, settings, spec)
    evaluation = candidate(rows.with_columns(wrong_peak), LATER, clock=wrong)

    reason = failed(evaluation)["no_worse_than_champion"]
    assert reason.endswith(f"its hours are by the clock of America/Los_Angeles, peak hours {peak_hours}")
    registry = ModelRegistry(settings, "delivery_time")
    tree = render_tree(registry.lineage(registry.champion().version))
    assert "hours and weekdays of America/Los_Angeles" in tree
    assert "peak hours 11,12,13,18,19,20" in tree
    bundle = registry.fetch_bundle(registry.champion(), settings.datasets / "bundles")
    assert json.loads((bundle / "bundle.json").read_text())["clock"] == right


def test_a_champion_with_a_damaged_bundle_fails_the_comparison(candidate, settings, spec):
    candidate()
    pipeline.register(AS_OF, settings, spec)
    source = ModelRegistry(settings, "delivery_time").champion().source
    (Path(source.removeprefix("file://")) / "model.onnx").unlink()
    evaluation = candidate(as_of=LATER)
    assert "its bundle is damaged" in failed(evaluation)["no_worse_than_champion"]


def test_if_the_champion_moved_since_the_evaluation_the_gates_are_asked_again(candidate, settings, spec):
    lazy = replace(spec, candidates=(STUMP,))
    lazy = lazy.with_thresholds({"beats_baseline": 9.0})
    assert candidate(as_of=LATER, spec=lazy)["passed"]
    candidate()
    pipeline.register(AS_OF, settings, spec)
    with pytest.raises(GatesNotPassed, match="no_worse_than_champion: on the same 450 test rows"):
        pipeline.register(LATER, settings, lazy)
    assert champion(settings) == "1"


def test_a_version_that_was_rolled_back_is_not_made_champion_by_a_rerun(candidate, settings, spec, tolerant):
    candidate()
    pipeline.register(AS_OF, settings, spec)
    candidate(market(seed=6), LATER, spec=tolerant)
    pipeline.register(LATER, settings, spec)
    ModelRegistry(settings, "delivery_time").rollback(LATER, "a person", "complaints")
    pipeline.evaluate(LATER, settings, tolerant)
    assert pipeline.register(LATER, settings, tolerant)["registered"] is False
    assert champion(settings) == "1"


@pytest.mark.parametrize("method", ["create_version", "log_files", "_move"])
def test_a_registration_that_breaks_leaves_the_champion_and_is_completed_later(
    candidate, settings, spec, tolerant, monkeypatch, method
):
    candidate()
    pipeline.register(AS_OF, settings, spec)
    candidate(market(seed=6), LATER, spec=tolerant)

    def broken(*_arguments, **_options):
        raise RegistryUnavailable("gone")

    with monkeypatch.context() as patch:
        patch.setattr(ModelRegistry, method, broken)
        with pytest.raises(RegistryUnavailable):
            pipeline.register(LATER, settings, tolerant)
    assert champion(settings) == "1"
    made = pipeline.register(LATER, settings, tolerant)
    assert (made["version"], made["registered"], champion(settings)) == ("2", True, "2")
    assert len(ModelRegistry(settings, "delivery_time").versions()) == 2


def test_a_training_that_breaks_leaves_a_failed_run_and_no_candidate(stored, settings, spec, monkeypatch):
    import mlflow

    dataset = stored()
    monkeypatch.setattr(pipeline, "fit", lambda *_: (_ for _ in ()).throw(MemoryError))
    with pytest.raises(MemoryError):
        pipeline.train(AS_OF, settings, spec)
    client = mlflow.MlflowClient(settings.mlflow_tracking_uri)
    (run,) = client.search_runs([client.get_experiment_by_name("delivery_time").experiment_id])
    assert run.info.status == "FAILED"
    assert list((dataset.directory / "candidates").iterdir()) == []


@pytest.mark.parametrize("method", ["log_trial", "log_sklearn", "log_parameters"])
def test_mlflow_gone_during_training_leaves_no_candidate_and_a_rerun_completes_it(
    stored, settings, spec, monkeypatch, method
):
    dataset = stored()

    def gone(*_arguments, **_options):
        raise RegistryUnavailable("MLflow does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(ModelRegistry, method, gone)
        with pytest.raises(RegistryUnavailable):
            pipeline.train(AS_OF, settings, spec)
    assert list((dataset.directory / "candidates").iterdir()) == []
    assert pipeline.train(AS_OF, settings, spec)["reused"] is False
    assert ModelRegistry(settings, "delivery_time").versions() == []


def test_mlflow_gone_at_the_evaluation_decides_nothing(stored, settings, spec, monkeypatch):
    stored()
    pipeline.train(AS_OF, settings, spec)

    def gone(*_arguments, **_options):
        raise RegistryUnavailable("MLflow does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(ModelRegistry, "log_metrics", gone)
        with pytest.raises(RegistryUnavailable):
            pipeline.evaluate(AS_OF, settings, spec)
    assert champion(settings) is None
    assert pipeline.evaluate(AS_OF, settings, spec)["passed"]


def test_without_mlflow_nothing_is_begun(settings, spec, monkeypatch):
    nowhere = f"http://127.0.0.1:{free_port()}"
    dead = Settings(mlflow_tracking_uri_override=nowhere, data_dir=settings.data_dir)
    monkeypatch.setattr(pipeline.datasets, "build_dataset", lambda *_: pytest.fail("began"))
    with pytest.raises(RegistryUnavailable, match=rf"MLflow at {nowhere} does not answer.*make up"):
        pipeline.build_dataset(AS_OF, dead, spec)


def test_steps_say_which_step_is_missing(stored, settings, spec):
    with pytest.raises(DatasetError, match=r"no data set was built as of 2026-05-01T00:00:00.*run build_dataset first"):
        pipeline.validate_dataset(AS_OF, settings, spec)
    stored()
    with pytest.raises(TrainingError, match="has no trained candidate of this code and spec: run train first"):
        pipeline.evaluate(AS_OF, settings, spec)


@pytest.fixture
def _no_feast(monkeypatch, settings):
    """`build_dataset` with the small market in place of Feast."""

    def build(as_of, settings, spec):
        rows = market().with_columns(placed_at=pl.col("placed_at") + (as_of - AS_OF))
        return pipeline.datasets.store_dataset(rows, description(as_of), settings.datasets, spec), False

    monkeypatch.setattr(pipeline.datasets, "build_dataset", build)


@pytest.mark.usefixtures("_no_feast")
def test_a_whole_run_tells_its_story(settings, spec):
    said: list[str] = []
    story = pipeline.run(AS_OF, settings, spec, said.append)
    assert story["status"] == "registered"
    assert story["registration"]["version"] == "1"
    assert set(story["seconds"]) == {"dataset", "validation", "training", "evaluation", "registration"}
    assert any(text.startswith("candidate 1 of 1: validation error") for text in said)
    json.dumps(story)
    again: list[str] = []
    assert pipeline.run(AS_OF, settings, spec, again.append)["training"]["reused"]
    assert again.count("  nothing that it depends on has changed: found again") == 4
    assert not any(text.startswith("candidate 1") for text in again)


@pytest.mark.usefixtures("_no_feast")
def test_a_run_stops_at_bad_data_and_a_rejected_one_ends_well(settings, spec):
    strict = replace(spec, limits=replace(spec.limits, minimum_rows=10_000))
    stopped = pipeline.run(AS_OF, settings, strict)
    assert stopped["status"] == "stopped"
    assert "3000 rows, at least 10000 are needed" in stopped["validation"]["failures"][0]
    assert "training" not in stopped
    rejected = pipeline.run(AS_OF, settings, spec.with_thresholds({"validation_mae": 0.1}))
    assert rejected["status"] == "rejected"
    assert rejected["rejection"]["reasons"][0].startswith("validation_mae: ")
    assert champion(settings) is None


def test_an_unchanged_data_set_is_found_again_without_feast(stored, settings, spec, monkeypatch):
    files = {"order_partitions": [{"path": "day=2026-04-01", "sha256": "a" * 64}], "feature_tables": {"drivers": "b"}}
    monkeypatch.setattr("training.dataset._describe_sources", lambda *_: description() | files)
    monkeypatch.setattr("training.dataset._files_read", lambda *_: files)
    calls = []

    def features(entities, *_):
        calls.append(entities.height)
        return market()

    population = replace(
        spec,
        population=lambda *_: (
            market()
            .lazy()
            .with_columns(*(pl.lit("x").alias(name) for name in ("restaurant_id", "driver_id")), promised_minutes=1.0)
        ),
    )
    monkeypatch.setattr("training.dataset.with_features", features)
    first, reused_first = build_dataset(AS_OF, settings, population)
    second, reused_second = build_dataset(AS_OF, settings, population)
    assert (reused_first, reused_second, calls) == (False, True, [3000])
    assert first.hash == second.hash
    shutil.rmtree(first.directory)
    assert build_dataset(AS_OF, settings, population)[1] is False
    assert build_dataset(AS_OF, settings, replace(population, seed=1))[1] is False
    for name in files:
        changed = files | {name: "other"}
        monkeypatch.setattr("training.dataset._files_read", lambda *_, changed=changed: changed)
        assert build_dataset(AS_OF, settings, population)[1] is False, name
    monkeypatch.setattr("training.dataset._files_read", lambda *_: files)
    monkeypatch.setattr("training.dataset.features_code_hash", lambda: "other")
    assert build_dataset(AS_OF, settings, population)[1] is False
    assert {TRAILING_MEAN, PEAK} <= set(second.inputs)

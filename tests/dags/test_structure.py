"""What every DAG must have, and what parsing one must not do."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.dags.conftest import ROOT
from tests.dags.runner import DAGS
from tests.dags.test_params import context, refused

OTHER_TRAININGS = {f"training_{path.stem}" for path in (ROOT / "training" / "models").glob("[!_]*.py")} - {
    "training_delivery_time"
}
EXPECTED = {
    "feature_pipeline",
    "live_features",
    "training_pipeline",
    "monitoring",
    "batch_scoring",
} | OTHER_TRAININGS
# The first is the publication delay that training relies on. A model of any name has the training's.
DEADLINE_MINUTES = {"feature_pipeline": 10, "live_features": 15, "batch_scoring": 60, "monitoring": 60}
TRAINING_MINUTES = 120
HEAVY = ["feast", "mlflow", "great_expectations", "evidently", "sklearn", "pandas", "polars", "duckdb", "ibis"]

DESCRIBE = """
import json, sys
from airflow.dag_processing.dagbag import DagBag
bag = DagBag(sys.argv[1])
print("DESCRIPTION " + json.dumps({
    "errors": bag.import_errors,
    "heavy": [name for name in json.loads(sys.argv[2]) if name in sys.modules],
    "dags": {
        dag.dag_id: {
            "doc": dag.doc_md, "tags": sorted(dag.tags), "catchup": dag.catchup, "start": str(dag.start_date),
            "paused": bool(dag.is_paused_upon_creation),
            "params": sorted(dag.params),
            "max_active_runs": dag.max_active_runs, "timetable": type(dag.timetable).__name__,
            "deadlines": [[d.reference.reference_name, d.interval.total_seconds(), d.callback.path]
                          for d in dag.deadline or []],
            "tasks": {
                task.task_id: {
                    "owner": task.owner, "retries": task.retries, "backoff": bool(task.retry_exponential_backoff),
                    "timeout": task.execution_timeout and task.execution_timeout.total_seconds(),
                    "callbacks": [type(one).__name__ for one in task.on_failure_callback or []],
                    "trigger_rule": str(getattr(task.trigger_rule, "value", task.trigger_rule)),
                    "upstream": sorted(task.upstream_task_ids),
                    "silence": getattr(task, "defaults", None),
                    "outlets": [asset.name for asset in task.outlets],
                    "first": getattr(task._pre_execute_hook, "__qualname__", None),
                } for task in dag.tasks
            },
        } for dag in bag.dags.values()
    },
}))
"""


def describe(environment: dict[str, str]) -> dict[str, Any]:
    ended = subprocess.run(
        [sys.executable, "-c", DESCRIBE, str(DAGS), json.dumps(HEAVY)],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    (line,) = [line for line in ended.stdout.splitlines() if line.startswith("DESCRIPTION ")]
    return dict(json.loads(line.removeprefix("DESCRIPTION ")))


@pytest.fixture(scope="module")
def description(airflow_environment: dict[str, str]) -> dict[str, Any]:
    return describe(airflow_environment)


def dag_files() -> list[Path]:
    return sorted(path for path in DAGS.glob("*.py") if not path.name.startswith("_"))


def test_all_dags_are_there_without_an_import_error(description) -> None:
    assert description["errors"] == {}
    assert set(description["dags"]) == EXPECTED


def test_parsing_imports_none_of_the_heavy_libraries(description) -> None:
    assert description["heavy"] == []


def test_every_dag_has_docs_tags_a_fixed_start_a_deadline_and_runs_one_at_a_time(description) -> None:
    for name, dag in description["dags"].items():
        assert dag["doc"].startswith("# "), name
        assert "delivery-eta" in dag["tags"], name
        assert (dag["catchup"], dag["max_active_runs"]) == (False, 1), name
        assert dag["start"] == "2026-01-01 00:00:00+00:00", name
        ((reference, seconds, callback),) = dag["deadlines"]
        assert (reference, callback) == ("DagRunQueuedAtDeadline", "plugins.notifier.AlertNotifier"), name
        assert seconds == DEADLINE_MINUTES.get(name, TRAINING_MINUTES) * 60, name


def test_every_task_has_owner_retries_backoff_timeout_and_tells_when_it_fails(description) -> None:
    for name, dag in description["dags"].items():
        for task_id, task in dag["tasks"].items():
            where = f"{name}.{task_id}"
            assert task["owner"] == "delivery-eta", where
            assert (task["retries"], task["backoff"]) == (3, True), where
            assert task["timeout"] == 1800, where
            assert task["callbacks"] == ["AlertNotifier"], where


def test_every_task_of_every_dag_looks_at_the_parameters_first(description) -> None:
    first = {task["first"] for dag in description["dags"].values() for task in dag["tasks"].values()}
    assert first == {"require_usable_params"}


@pytest.mark.parametrize("value", ["yesterday", "2026-05-01T00:00", "2026-05-01T00:30Z", "2226-05-01T00:00Z"])
def test_every_parameter_of_every_dag_is_refused_by_its_name(description, value: str) -> None:
    for dag in description["dags"].values():
        for param in dag["params"]:
            refused(context(tuple(dag["params"]), **{param: value}), f"parameter {param} = '{value}' ")


def test_nothing_runs_after_a_failed_task(description) -> None:
    rules = {task["trigger_rule"] for dag in description["dags"].values() for task in dag["tasks"].values()}
    assert rules == {"all_success"}


def test_time_tables_have_intervals_and_training_also_starts_on_an_asset(description) -> None:
    tables = {name: description["dags"][name]["timetable"] for name in EXPECTED}
    assert tables == {
        "feature_pipeline": "CronDataIntervalTimetable",
        "live_features": "CronDataIntervalTimetable",
        "training_pipeline": "AssetOrTimeSchedule",
        **dict.fromkeys(OTHER_TRAININGS, "CronDataIntervalTimetable"),
        "monitoring": "CronDataIntervalTimetable",
        "batch_scoring": "CronDataIntervalTimetable",
    }


def test_only_the_main_models_training_runs_by_itself_at_first(description) -> None:
    paused = {name for name, dag in description["dags"].items() if dag["paused"]}
    assert paused == OTHER_TRAININGS
    assert "training_customer_churn" in paused


def test_with_approval_a_person_stands_before_registration_and_their_silence_declines(airflow_environment) -> None:
    described = describe(airflow_environment | {"ETA_TRAINING_APPROVAL": "true"})["dags"]["training_pipeline"]
    upstream = {name: task["upstream"] for name, task in described["tasks"].items()}
    assert (upstream["approve"], upstream["register"], upstream["decline"]) == (
        ["choose_model"],
        ["approve"],
        ["approve"],
    )
    assert upstream["reject"] == ["choose_model"]
    approve = described["tasks"]["approve"]
    assert (approve["retries"], approve["timeout"], approve["silence"]) == (0, None, ["Decline"])


def test_without_approval_nobody_is_asked(description) -> None:
    tasks = description["dags"]["training_pipeline"]["tasks"]
    assert "approve" not in tasks
    assert tasks["register"]["upstream"] == ["choose_model"]


def test_features_are_published_only_behind_the_audit(description) -> None:
    tasks = description["dags"]["feature_pipeline"]["tasks"]
    assert tasks["publish_asset"]["upstream"] == ["audit_online"]
    assert [name for name, task in tasks.items() if task["outlets"]] == ["publish_asset"]


@pytest.mark.parametrize("path", dag_files(), ids=lambda path: path.stem)
def test_a_dag_file_has_at_most_80_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 80


def test_no_dag_file_hides_a_package() -> None:
    """Airflow puts this folder on the import path, before the editable installation's packages."""
    packages = {path.name for path in ROOT.iterdir() if path.is_dir()}
    assert {path.stem for path in dag_files()} & packages == set()


def test_every_helper_is_kept_from_being_parsed_as_a_dag() -> None:
    ignored = (DAGS / ".airflowignore").read_text().splitlines()
    assert {path.name for path in DAGS.glob("_*.py")} <= set(ignored)

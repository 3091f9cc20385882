"""# Training pipeline

Every day at 02:00 UTC, and whenever monitoring asks for it, a model is trained on what was known by then.

| task | does |
|---|---|
| `build_dataset`, `validate_dataset` | point-in-time training rows, checked |
| `choose_dataset` | **branch**: train, or `refuse_dataset`: people are told, the run ends **red** |
| `train`, `evaluate` | fit; errors beside the naive baselines' and the champion's; the gates |
| `choose_model` | **branch** on the gates |
| `register` | registers the version and moves the alias `champion` to it |
| `reject`, `alert_rejected` | why is recorded and people are told; the champion stays, the run is **green** |

The instant `as_of` is the end of the data interval; a run that an asset triggered has none and takes the full hour
before it was asked for. One DAG exists per file in `training/models/`. See docs/operations.md.
"""

from __future__ import annotations

from datetime import timedelta
from importlib import import_module, util
from pathlib import Path

from airflow.sdk import AssetOrTimeSchedule, dag, task

from config import get_settings
from dags._defaults import RETRAIN, dag_arguments, refuse, run_as_of, tell

ARGUMENTS = dag_arguments("0 2 * * *", timedelta(hours=2), __doc__, tags=["training"])
ARGUMENTS["schedule"] = AssetOrTimeSchedule(timetable=ARGUMENTS["schedule"], assets=[RETRAIN])


def model_names() -> list[str]:
    """The names of the specs, from their files alone: importing them takes time that a parse has not."""
    folder = Path(util.find_spec("training").submodule_search_locations[0]) / "models"
    return sorted(path.stem for path in folder.glob("[!_]*.py"))


def training_dag(model: str):
    """The DAG of one model."""

    def step(function: str, **arguments):
        @task(task_id=function, **arguments)
        def run(**context):
            spec = import_module("training.models").get_spec(model, get_settings())
            return getattr(import_module("training.pipeline"), function)(run_as_of(context), get_settings(), spec)

        return run

    @dag("training_pipeline" if model == "delivery_time" else f"training_{model}", **ARGUMENTS)
    def pipeline():
        @task.branch
        def choose_dataset(verdict: dict) -> str:
            return "refuse_dataset" if verdict["stopped"] else "train"

        @task
        def refuse_dataset(verdict: dict) -> None:
            refuse(f"training data of {model}", verdict)

        @task.branch
        def choose_model(evaluation: dict) -> str:
            return "register" if evaluation["passed"] else "reject"

        @task
        def alert_rejected(evaluation: dict, **context) -> None:
            reasons = [f"{gate['name']}: {gate['reason']}" for gate in evaluation["gates"] if not gate["passed"]]
            tell(f"{model}: new version rejected, the champion stays", "warning", reasons, context)

        verdict, evaluation = step("validate_dataset")(), step("evaluate")()
        step("build_dataset")() >> verdict
        choose_dataset(verdict) >> [refuse_dataset(verdict), (trained := step("train")())]
        trained >> evaluation
        choose_model(evaluation) >> [step("register")(), (rejected := step("reject")())]
        rejected >> alert_rejected(evaluation)

    return pipeline()


for name in model_names():
    training_dag(name)

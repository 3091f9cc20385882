"""What the training DAGs are made from: one per file in `training/models/`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from importlib import import_module, util
from pathlib import Path
from typing import Any

from airflow.providers.standard.operators.hitl import HITLBranchOperator
from airflow.sdk import AssetOrTimeSchedule, task
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from config import get_settings
from dags._defaults import RETRAIN, dag_arguments, run_as_of, skip_on_first_day
from dags._params import AS_OF
from plugins.notifier import AlertNotifier

MAIN_MODEL = "delivery_time"
FIRST_STEP = "build_dataset"
PATIENCE = timedelta(hours=24)
"""Without an answer for so long, a version that waits for approval is declined."""


def model_names() -> list[str]:
    """The names of the specs, from their files alone: importing them takes time that a parse has not."""
    folder = Path(util.find_spec("training").submodule_search_locations[0]) / "models"
    return sorted(path.stem for path in folder.glob("[!_]*.py"))


def model_dag_arguments(model: str, doc: str | None) -> dict[str, Any]:
    """The arguments of `@dag` for a model's training.

    Monitoring watches the main model and asks for its training. The others begin paused: not every history is long
    enough for them, and a run that is red every night tells nobody anything.
    """
    arguments = dag_arguments("0 2 * * *", timedelta(hours=2), doc, tags=["training"], params=[AS_OF])
    if model != MAIN_MODEL:
        return arguments | {"dag_id": f"training_{model}", "is_paused_upon_creation": True}
    schedule = AssetOrTimeSchedule(timetable=arguments["schedule"], assets=[RETRAIN])
    return arguments | {"dag_id": "training_pipeline", "schedule": schedule}


def model_step(model: str, function: str) -> Callable[[], Any]:
    """A task that calls `training.pipeline.<function>(as_of, settings, spec)` and returns its small result.

    An error that a repetition cannot mend (no orders, a damaged file) fails at once: retries would hold up the next.
    A model that the source cannot have is skipped, with all that comes after.
    """

    @task(task_id=function)
    def step(**context: Any) -> Any:
        if function == FIRST_STEP:
            skip_on_first_day()
        errors = import_module("training.errors")
        spec = _spec(model)
        try:
            return getattr(import_module("training.pipeline"), function)(run_as_of(context), get_settings(), spec)
        except errors.SourceLacks as error:
            raise AirflowSkipException(str(error)) from error
        except errors.TrainingError as error:
            if error.transient:
                raise
            raise AirflowFailException(f"{type(error).__name__}: {error}") from error

    return step


def _spec(model: str) -> Any:
    """The spec under this installation's thresholds; that there is none, or no such gate, a retry would not mend."""
    errors = import_module("training.errors")
    try:
        return import_module("training.models").get_spec(model, get_settings())
    except (errors.UnknownModel, ValueError) as error:
        raise AirflowFailException(f"{type(error).__name__}: {error}") from error


def approval(model: str) -> HITLBranchOperator:
    """A question to a person, who sees the gates and chooses between `register` and `decline`."""
    return HITLBranchOperator(
        task_id="approve",
        subject=f"Make the new version of {model} the champion?",
        body="{{ approval_text(ti.xcom_pull(task_ids='evaluate')) }}",
        options=["Register", "Decline"],
        options_mapping={"Register": "register", "Decline": "decline"},
        defaults="Decline",
        notifiers=AlertNotifier(
            f"{model}: a new version waits for approval", "info", "Answer on Airflow's page of required actions."
        ),
        response_timeout=PATIENCE,
        execution_timeout=None,
        retries=0,
    )


def approval_text(evaluation: Mapping[str, Any]) -> str:
    """The gates and what they saw, as a Markdown list."""
    return "\n".join(f"- **{gate['name']}**: {gate['reason']}" for gate in evaluation["gates"])

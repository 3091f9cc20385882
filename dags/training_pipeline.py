"""# Training pipeline

Every day at 02:00 UTC, and whenever monitoring asks for it, a model is trained on what was known by then.

| task | does |
|---|---|
| `build_dataset`, `validate_dataset` | point-in-time training rows, checked; **skipped** before features are computed |
| `choose_dataset` | **branch**: train, or `refuse_dataset`: people are told, the run ends **red** |
| `train`, `evaluate` | fit; errors beside the naive baselines' and the champion's; the gates |
| `choose_model` | **branch** on the gates |
| `approve` | only with `ETA_TRAINING_APPROVAL=true`: a person decides (`decline`) |
| `register` | registers the version and moves the alias `champion` to it |
| `reject`, `alert_rejected` | why is recorded and people are told; the champion stays, the run is **green** |

The instant `as_of` is a parameter, else the end of the data interval; a run that an asset triggered has none and takes
the full hour before it was asked for. One DAG exists per file in `training/models/`: `training_pipeline` of
`delivery_time`, and `training_NAME`, which begins paused, of any other. See docs/operations.md.
"""

from __future__ import annotations

from airflow.sdk import dag, task

from config import get_settings
from dags._defaults import refuse, tell
from dags._models import approval, approval_text, model_dag_arguments, model_names, model_step


def training_dag(model: str):
    """The DAG of one model."""

    @dag(**model_dag_arguments(model, __doc__), user_defined_macros={"approval_text": approval_text})
    def pipeline():
        @task.branch
        def choose_dataset(verdict: dict) -> str:
            return "refuse_dataset" if verdict["stopped"] else "train"

        @task
        def refuse_dataset(verdict: dict) -> None:
            refuse(f"training data of {model}", verdict)

        @task.branch
        def choose_model(evaluation: dict) -> str:
            return accepted.task_id if evaluation["passed"] else "reject"

        @task
        def alert_rejected(evaluation: dict, **context) -> None:
            reasons = [f"{gate['name']}: {gate['reason']}" for gate in evaluation["gates"] if not gate["passed"]]
            tell(f"{model}: new version rejected, the champion stays", "warning", reasons, context)

        verdict, evaluation = model_step(model, "validate_dataset")(), model_step(model, "evaluate")()
        model_step(model, "build_dataset")() >> verdict
        choose_dataset(verdict) >> [refuse_dataset(verdict), (trained := model_step(model, "train")())]
        trained >> evaluation
        accepted = registered = model_step(model, "register")().operator
        if get_settings().training_approval:
            accepted = approval(model)
            accepted >> [registered, model_step(model, "decline")()]
        choose_model(evaluation) >> [accepted, (rejected := model_step(model, "reject")())]
        rejected >> alert_rejected(evaluation)

    return pipeline()


for name in model_names():
    training_dag(name)

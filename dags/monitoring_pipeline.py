"""# Monitoring

Every day, the predictions of the last 24 hours are held against what happened.

| task | does |
|---|---|
| `join_outcomes` | predictions beside outcomes: error, bias, coverage, beside the naive baseline's |
| `drift_report` | Evidently: served features and predictions against the champion's training reference |
| `verdict` | judges both, with the last days' verdicts in mind |
| `act` | **branch**: `trigger_retraining` (asset, starts the training pipeline), `alert`, or `nothing` |

**Skipped** in a new installation, before any features are computed. Too few predictions or outcomes to judge is an
alert, never a green light. The file is not called `monitoring.py` because Airflow puts this folder on the import path,
where it would hide the package of that name.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import dag, task

from dags._defaults import RETRAIN, dag_arguments, tell, window_step
from feature_repo.window import DAY

PIPELINE = "monitoring.pipeline"
BRANCHES = {"retrain": "trigger_retraining", "alert": "alert", "none": "nothing"}


@dag(
    "monitoring",
    **dag_arguments("0 3 * * *", timedelta(hours=1), __doc__, tags=["monitoring"], params=["start", "end"]),
)
def monitoring():
    @task.branch
    def act(verdict: dict) -> str:
        return BRANCHES[verdict["action"]]

    @task(outlets=[RETRAIN])
    def trigger_retraining(verdict: dict, **context) -> None:
        tell(f"retraining asked for after {verdict['window']}", "warning", verdict["reasons"], context)

    @task
    def alert(verdict: dict, **context) -> None:
        tell(f"monitoring of {verdict['window']} needs a look", "warning", verdict["reasons"], context)

    @task
    def nothing(verdict: dict) -> str:
        return "; ".join(verdict["reasons"])

    verdict = window_step(PIPELINE, "verdict", DAY)()
    joined = window_step(PIPELINE, "join_outcomes", DAY, needs_features=True)()
    joined >> window_step(PIPELINE, "drift_report", DAY)() >> verdict
    act(verdict) >> [trigger_retraining(verdict), alert(verdict), nothing(verdict)]


monitoring()

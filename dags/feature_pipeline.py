"""# Feature pipeline

Every hour, the orders that became known in the hour become features, offline and online.

| task | does |
|---|---|
| `fill_gap` | **red** if definitions or rules do not fit, **skipped** before orders land; computes what no run has |
| `ingest_orders`, `validate_orders` | takes the hour, retrying until the source is complete; checks every row |
| `choose_batch` | **branch**: go on, or refuse a batch that is mostly bad |
| `quarantine_batch`, `alert_batch_refused` | the refused batch is kept, people are told, the run ends **red** |
| `accept_orders` | good rows to the lake, rejected rows to quarantine |
| `compute_features`, `validate_features` | rows at the hour's end, checked against their definitions; if not, **red** |
| `publish_features`, `materialize` | offline table, then Redis |
| `audit_online` | compares Redis with the offline rows; if they differ, **red** |
| `publish_asset` | tells other DAGs that features are fresh |

A red run has sent an alert that says why; so has one that is not done within the publication delay. The window is the
run's data interval, unless parameters `start` and `end` are given. Running it again is safe. See docs/operations.md.
"""

from __future__ import annotations

from airflow.sdk import dag, task

from config import get_settings
from dags._defaults import FEATURES, dag_arguments, refuse, run_window, skip, tell, window_step

PIPELINE = "feature_repo.pipeline"


@dag(**dag_arguments("0 * * * *", get_settings().publication_delay, __doc__, ["features"], params=["start", "end"]))
def feature_pipeline():
    @task
    def fill_gap(**context) -> dict:
        from feature_repo.pipeline import close_gap, nothing_landed, refusals

        window, settings = run_window(context), get_settings()
        try:
            skip(nothing_landed(window, settings))
            filled = close_gap(window, settings)
        except refusals() as error:
            refuse(str(window), {"reasons": [str(error)]})
        if filled:
            tell(f"feature_pipeline filled a gap: {filled['gap']}", "info", ["no run had computed it"], context)
        return filled

    @task.branch
    def choose_batch(verdict: dict) -> str:
        return "quarantine_batch" if verdict["stopped"] else "accept_orders"

    @task
    def alert_batch_refused(verdict: dict, **context) -> None:
        refuse(f"the whole batch of orders of {run_window(context)}, now in quarantine", verdict)

    @task(outlets=[FEATURES])
    def publish_asset(**context) -> str:
        return str(run_window(context))

    verdict = window_step(PIPELINE, "validate_orders")()
    quarantined = window_step(PIPELINE, "quarantine_batch")()
    accepted = window_step(PIPELINE, "accept_orders")()

    fill_gap() >> window_step(PIPELINE, "ingest_orders")() >> verdict
    choose_batch(verdict) >> [quarantined, accepted]
    quarantined >> alert_batch_refused(verdict)
    (
        accepted
        >> window_step(PIPELINE, "compute_features")()
        >> window_step(PIPELINE, "validate_features", refused_when=lambda checked: checked["stopped"])()
        >> window_step(PIPELINE, "publish_features")()
        >> window_step(PIPELINE, "materialize")()
        >> window_step(PIPELINE, "audit_online", refused_when=lambda audit: not audit["passed"])()
        >> publish_asset()
    )


feature_pipeline()

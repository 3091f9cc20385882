"""# Batch scoring

Every day at 01:00 UTC, the orders placed in the last 24 hours are scored by the champion, each with the features that
were known when it was placed, and logged as predictions with source `batch`. Scoring a window again replaces its
predictions.

**Skipped** in a new installation, before any features are computed.

Monitoring compares them with what the service answered, and uses them where the service was not asked.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import dag, task

from dags._defaults import PREDICTIONS, dag_arguments, run_window, window_step
from feature_repo.window import DAY


@dag(**dag_arguments("0 1 * * *", timedelta(hours=1), __doc__, tags=["serving"], params=["start", "end"]))
def batch_scoring():
    @task(outlets=[PREDICTIONS])
    def publish_predictions(**context) -> str:
        return str(run_window(context, DAY))

    window_step("serving.batch", "score", DAY, needs_features=True)() >> publish_predictions()


batch_scoring()

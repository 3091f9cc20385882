"""# Live features

How congested each zone is at this moment: its rows of the view `zone_live`, promised in Redis two minutes after their
instant. The hourly `feature_pipeline` remains the one that writes the lake and the offline rows, and compares the two.

| task | does |
|---|---|
| `refresh` | every 2 minutes until the next run takes over, the orders landed since the last hour become values |

A run every ten minutes, so that libraries are loaded six times an hour and not thirty; whatever run it is, it does the
steps of the present. It is **skipped** while no hour has been computed, and for a source that does not send the orders
of these minutes. A red run has sent an alert; values older than 20 minutes are served as missing, and the answers say
so. See docs/operations.md.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial

from airflow.sdk import dag, task
from airflow.sdk.exceptions import AirflowSkipException

from config import get_settings
from dags._defaults import dag_arguments
from feature_repo.window import floor

RUN = timedelta(minutes=10)


@dag(**dag_arguments("*/10 * * * *", 1.5 * RUN, __doc__, tags=["features"]))
def live_features():
    @task
    def refresh() -> dict:
        from feature_repo.live import follow, why_not

        # By the clock and not by the run's interval: a run that comes late, or is resumed, does the steps of now.
        now, settings = partial(datetime.now, UTC), get_settings()
        begin = floor(now(), RUN)
        if reason := why_not(begin, settings):
            raise AirflowSkipException(reason)
        return follow(begin + RUN, settings, now)

    refresh()


live_features()

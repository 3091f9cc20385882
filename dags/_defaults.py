"""What the DAGs share: owners, retries, time-outs, deadlines, assets, and which window or instant a run is about.

Imports of other rooms happen when a task runs, never when a DAG file is parsed: a parse costs milliseconds, and
importing the libraries behind the rooms costs tens of seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from importlib import import_module
from typing import Any

from airflow.sdk import Asset, AsyncCallback, CronDataIntervalTimetable, DeadlineAlert, DeadlineReference, task
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from config import get_settings
from dags._params import AS_OF, WINDOW, given_instant, params_named, require_usable_params
from feature_repo.window import HOUR, Window, floor_hour
from plugins.notifier import AlertNotifier
from plugins.notify import Alert, Severity, send_alert

FEATURES = Asset(name="delivery_eta_features", uri="delivery_eta://features")
RETRAIN = Asset(name="delivery_eta_retrain", uri="delivery_eta://retrain")
PREDICTIONS = Asset(name="delivery_eta_predictions", uri="delivery_eta://predictions")


def dag_arguments(
    schedule: str, deadline: timedelta, doc: str | None, tags: list[str], params: Iterable[str] = ()
) -> dict[str, Any]:
    """The arguments of `@dag` that every pipeline has.

    `schedule` is a cron expression; the run's data interval, from one tick to the next, is its window. Times are
    counted from the instant at which the run was queued, which asset-triggered runs have too. `params` are names of
    `_params.INSTANTS`.
    """
    return {
        "schedule": CronDataIntervalTimetable(schedule, timezone="UTC"),
        "start_date": datetime(2026, 1, 1, tzinfo=UTC),
        "catchup": False,
        "max_active_runs": 1,
        "doc_md": doc,
        "tags": ["delivery-eta", *tags],
        "params": params_named(params),
        "default_args": {
            "owner": "delivery-eta",
            "retries": 3,
            "retry_delay": timedelta(minutes=1),
            "retry_exponential_backoff": True,
            "max_retry_delay": timedelta(minutes=10),
            "execution_timeout": timedelta(minutes=30),
            "on_failure_callback": AlertNotifier(),
            "pre_execute": require_usable_params,
        },
        "deadline": DeadlineAlert(
            reference=DeadlineReference.DAGRUN_QUEUED_AT,
            interval=deadline,
            callback=AsyncCallback(
                AlertNotifier,
                {
                    "title": f"not finished {deadline} after it was queued",
                    "severity": "warning",
                    "advice": "Look at the run's grid for the task that waits or retries, and at what it logs.",
                },
            ),
        ),
    }


def run_window(context: Any, span: timedelta = HOUR) -> Window:
    """The window of a run: its parameters `start` and `end`, else its data interval, else the last full `span`."""
    start, end = (given_instant(context, name) for name in WINDOW)
    if start is not None and end is not None:
        return Window(start, end)
    if context.get("data_interval_start") and context.get("data_interval_end"):
        return Window(context["data_interval_start"], context["data_interval_end"])
    return Window.last(span, floor_hour(context["dag_run"].run_after))


def run_as_of(context: Any) -> datetime:
    """The instant a run may know things up to: its parameter, else its interval's end, else when it was asked for."""
    if (given := given_instant(context, AS_OF)) is not None:
        return given
    return floor_hour(context.get("data_interval_end") or context["dag_run"].run_after)


def window_step(
    module: str,
    function: str,
    span: timedelta = HOUR,
    refused_when: Callable[[Mapping[str, Any]], bool] = lambda result: False,
    needs_features: bool = False,
    **arguments: Any,
) -> Callable[[], Any]:
    """A task `function` that calls `module.function(window, settings)` and returns its small result.

    A result for which `refused_when` holds ends the run red; one with warnings alerts and goes on. With
    `needs_features` the run is skipped in a new installation, before any are computed.
    """

    @task(task_id=function, **arguments)
    def step(**context: Any) -> Any:
        window = run_window(context, span)
        if needs_features:
            skip_on_first_day()
        result = getattr(import_module(module), function)(window, get_settings())
        if refused_when(result):
            refuse(f"{function} of {window}", result)
        if (warnings := reasons(result, "warn")) and not result.get("stopped"):
            tell(f"{function} of {window} warns", "warning", warnings, context)
        return result

    return step


def reasons(result: Mapping[str, Any], severity: str) -> list[str]:
    """What failed with this severity, in words; a failure that is only a text stops."""
    failures = [item if isinstance(item, Mapping) else {"reason": item} for item in result.get("failures", [])]
    names = [key for key in ("view", "rule") if any(key in failure for failure in failures)]
    return [
        ": ".join(str(failure[key]) for key in (*names, "reason") if key in failure)
        for failure in failures
        if failure.get("severity", "stop") == severity
    ]


def refuse(what: str, result: Mapping[str, Any]) -> None:
    """End this run red; the task's failure callback tells people.

    Raises
    ------
    AirflowFailException
        Always: what was refused is refused again by a retry.
    """
    why = reasons(result, "stop") or result.get("reasons") or [str(dict(result))]
    raise AirflowFailException(f"refused: {what}: {'; '.join(why)}")


def skip(reason: str | None) -> None:
    """Skip this run, if there is a reason to.

    Raises
    ------
    AirflowSkipException
        There is; the tasks after this one are skipped, too.
    """
    if reason:
        raise AirflowSkipException(reason)


def skip_on_first_day() -> None:
    """Skip this run as long as no features have been computed: there is nothing to learn from, to score or to judge."""
    skip(import_module("feature_repo.pipeline").nothing_computed(get_settings()))


def tell(title: str, severity: Severity, reasons: Iterable[str], context: Any) -> list[str]:
    """Send an alert that names the DAG and the run; the channels that took it are returned."""
    run = context["dag_run"]
    alert = Alert(title, severity, "; ".join(reasons), {"dag": run.dag_id, "run": run.run_id})
    return send_alert(alert, get_settings())

"""The alerts as an Airflow notifier: for failed tasks (`on_failure_callback`) and missed deadlines."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow.sdk.bases.notifier import BaseNotifier

from config import get_settings
from plugins.notify import Alert, Severity, send_alert

if TYPE_CHECKING:
    from airflow.sdk import Context


class AlertNotifier(BaseNotifier):
    """Sends one alert about the run in the context.

    Parameters
    ----------
    title : str
        What happened; the DAG and the task are added.
    severity : "info", "warning" or "error"
    advice : str
        What to do about it; the exception, if there is one, is put before it.
    """

    def __init__(
        self,
        title: str = "task failed",
        severity: Severity = "error",
        advice: str = "Read the task's log, remove the cause, then clear the task.",
        context: Context | None = None,
    ) -> None:
        super().__init__(context=context)
        self.title = title
        self.severity = severity
        self.advice = advice

    def notify(self, context: Context) -> None:
        """Send the alert (tasks and executor)."""
        send_alert(self._alert(context), get_settings())

    async def async_notify(self, context: Context) -> None:
        """Send the alert (triggerer, whose event loop must not wait for a mail server)."""
        await asyncio.to_thread(self.notify, context)

    def _alert(self, context: Mapping[str, Any]) -> Alert:
        facts = _facts(context)
        where = ".".join(facts[key] for key in ("dag", "task") if key in facts)
        exception = context.get("exception")
        body = "\n".join(str(part) for part in (exception, self.advice) if part)
        return Alert(
            title=f"{where}: {self.title}" if where else self.title, severity=self.severity, body=body, context=facts
        )


def _facts(context: Mapping[str, Any]) -> dict[str, str]:
    """The names of DAG, task and run: from a task's context, whose values are objects, or a deadline's, all JSON."""
    task, run = context.get("task_instance"), context.get("dag_run")
    facts = {
        "dag": _get(task, "dag_id") or _get(run, "dag_id"),
        "task": _get(task, "task_id"),
        "run": _get(run, "run_id") or _get(run, "dag_run_id"),
        "try": _get(task, "try_number"),
        "interval_end": _get(run, "data_interval_end"),
    }
    return {key: str(value) for key, value in facts.items() if value is not None}


def _get(thing: Any, name: str) -> Any:
    return thing.get(name) if isinstance(thing, Mapping) else getattr(thing, name, None)

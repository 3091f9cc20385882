from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from plugins.notify import Alert


@pytest.fixture
def sent(monkeypatch) -> list[Alert]:
    alerts: list[Alert] = []
    monkeypatch.setattr("plugins.notifier.send_alert", lambda alert, settings: alerts.append(alert))
    return alerts


def test_a_failed_task_is_named_with_its_exception_and_what_to_do(sent) -> None:
    from plugins.notifier import AlertNotifier

    context = {
        "task_instance": SimpleNamespace(dag_id="feature_pipeline", task_id="materialize", try_number=4),
        "dag_run": SimpleNamespace(run_id="scheduled__1", dag_id="feature_pipeline", data_interval_end="2026-05-01"),
        "exception": ConnectionError("Redis does not answer"),
    }
    AlertNotifier()(context)
    (alert,) = sent
    assert alert.title == "feature_pipeline.materialize: task failed"
    assert alert.body.splitlines()[0] == "Redis does not answer"
    assert "clear the task" in alert.body
    assert alert.context == {
        "dag": "feature_pipeline",
        "task": "materialize",
        "run": "scheduled__1",
        "try": "4",
        "interval_end": "2026-05-01",
    }


def test_a_missed_deadline_comes_with_json_and_is_awaited(sent) -> None:
    from plugins.notifier import AlertNotifier

    context = {"dag_run": {"dag_id": "monitoring", "dag_run_id": "manual__1"}, "deadline": {"id": "d"}}

    async def miss() -> None:
        await AlertNotifier(title="late", severity="warning", advice="look", context=context)

    asyncio.run(miss())
    (alert,) = sent
    assert (alert.title, alert.severity, alert.body) == ("monitoring: late", "warning", "look")
    assert alert.context == {"dag": "monitoring", "run": "manual__1"}


def test_an_empty_context_still_makes_an_alert(sent) -> None:
    from plugins.notifier import AlertNotifier

    AlertNotifier()({})
    assert sent == [Alert("task failed", "error", AlertNotifier().advice, {})]

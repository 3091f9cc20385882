"""Runs DAGs in a process of its own, so that Airflow's settings and database touch no other test.

`python -m tests.dags.runner IN OUT`: IN is a JSON list of `Scenario`; OUT gets, by its name, the run's and the tasks'
states, the calls of the rooms' functions, the alerts and the asset events.
"""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

DAGS = Path(__file__).resolve().parents[2] / "dags"


@dataclass(frozen=True)
class Scenario:
    """One run of a DAG.

    `results` maps "module:function" to what its stand-in returns ({"raise": message} to fail); functions that are not
    named run for real. `coverage` is the instant up to which features have been computed, if any have; `landed`, since
    when orders have landed. A task has `retries`, without a pause between them.
    """

    name: str
    dag: str
    results: dict[str, Any] = field(default_factory=dict)
    logical_date: str | None = "2026-05-02T03:30:00+00:00"
    run_after: str = "2026-05-02T03:30:00+00:00"
    conf: dict[str, Any] = field(default_factory=dict)
    coverage: str | None = None
    landed: str | None = None
    retries: int = 0


def stand_in(target: str, result: Any, calls: list[list[str]]) -> None:
    """Put a function that records its arguments and returns `result` in the place of "module:function"."""
    name, _, function = target.partition(":")
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError:
        module = sys.modules[name] = ModuleType(name)

    def call(*arguments: Any) -> Any:
        calls.append([function, str(arguments[0])])
        if isinstance(result, dict) and "raise" in result:
            from airflow.sdk.exceptions import AirflowFailException

            raise AirflowFailException(result["raise"])
        return result

    setattr(module, function, call)


def cover(until: str) -> None:
    """Note that features have been computed up to this instant."""
    from config import get_settings
    from feature_repo.transforms import versions
    from feature_repo.transforms.coverage import Coverage, write_coverage
    from feature_repo.window import HOUR, Window

    end = datetime.fromisoformat(until)
    versions.note_span(Window(end - HOUR, end), get_settings())
    write_coverage(Coverage(end - HOUR, end), get_settings())


def land(since: str) -> None:
    """Note that orders have landed since an instant, and go on."""
    from config import get_settings
    from feature_repo.orders.watermark import Watermark, write_watermark

    end = datetime.fromisoformat("2027-01-01T00:00+00:00")
    write_watermark(get_settings(), Watermark(end, "test", datetime.fromisoformat(since)))


def run(scenario: Scenario, bag: Any) -> dict[str, Any]:
    """Run one scenario."""
    from plugins import notifier

    calls: list[list[str]] = []
    alerts = notifier.get_settings().reports / "alerts.jsonl"
    alerts.unlink(missing_ok=True)
    for target, result in scenario.results.items():
        stand_in(target, result, calls)
    if scenario.landed:
        land(scenario.landed)
    if scenario.coverage:
        cover(scenario.coverage)
    dag, earlier = bag.dags[scenario.dag], len(asset_events())
    # Airflow 3.3.2 fails at the end of `dag.test()` of a DAG with a deadline (apache/airflow#73428).
    dag.deadline = None
    for task in dag.tasks:
        task.retries, task.retry_delay = scenario.retries, timedelta()
    finished = dag.test(
        logical_date=datetime.fromisoformat(scenario.logical_date) if scenario.logical_date else None,
        run_after=datetime.fromisoformat(scenario.run_after),
        run_conf=scenario.conf,
    )
    return {
        "state": str(finished.state),
        "tasks": {instance.task_id: str(instance.state) for instance in finished.get_task_instances()},
        "tries": {instance.task_id: instance.try_number for instance in finished.get_task_instances()},
        "calls": calls,
        "alerts": [json.loads(line) for line in alerts.read_text().splitlines()] if alerts.exists() else [],
        "assets": asset_events()[earlier:],
    }


def asset_events() -> list[str]:
    """Names of the assets in all asset events so far, oldest first."""
    from airflow.models.asset import AssetEvent
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        return [event.asset.name for event in session.scalars(select(AssetEvent).order_by(AssetEvent.id))]


def main(scenarios: Path, results: Path) -> None:
    """Run all scenarios, one after the other."""
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(DAGS)
    if bag.import_errors:
        raise SystemExit(f"DAGs that cannot be imported: {bag.import_errors}")
    wanted = [Scenario(**content) for content in json.loads(scenarios.read_text())]
    found = {scenario.name: run(scenario, bag) for scenario in wanted}
    results.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

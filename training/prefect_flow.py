"""The training pipeline as a Prefect flow: the steps of `training.pipeline`, for who runs Prefect and not Airflow.

python -m training.prefect_flow [--model NAME] [--as-of INSTANT]

A task is one call of a step, which finds its own earlier result by content: then the task's state is `Reused`. Only
what may pass (MLflow does not answer, say) is tried again; refused data or a broken file would be no better.
Without `PREFECT_API_URL`, Prefect starts a server of its own on loopback for the time of the run.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from config import Settings, get_settings
from feature_repo.window import as_utc, floor_hour
from training import pipeline
from training.errors import SourceLacks, TrainingError
from training.models import get_spec, specs

INSTALL = ".venv/bin/uv pip install --python .venv/bin/python -e '.[prefect]'"
FAILED, REJECTED, STOPPED = 1, 3, 4
"""Exit codes, those of `python -m training run`."""
STEPS = ("build_dataset", "validate_dataset", "train", "evaluate", "register", "reject")
RETRIES = 3
RETRY_SECONDS = 10


def training_flow() -> Any:
    """The flow `(as_of, model) -> story`; its final state is `Registered`, `Rejected`, or the failed `DataRefused`.

    Imported when called, not with this module: Prefect is an extra, and reads its settings when it is imported.
    """
    from prefect import flow
    from prefect.states import Completed, Failed

    tasks = {name: _task(name) for name in STEPS}

    def train_model(as_of: datetime, model: str) -> Any:
        def run(*names: str) -> dict[str, Any]:
            return {name: tasks[name](as_of, model, return_state=True).result() for name in names}

        try:
            story = run("build_dataset", "validate_dataset")
        except SourceLacks as error:
            return Completed(name="Skipped", message=str(error), data={"status": "skipped"})
        if story["validate_dataset"]["stopped"]:
            reasons = "; ".join(story["validate_dataset"]["failures"])
            return Failed(name="DataRefused", message=reasons, data=story | {"status": "stopped"})
        story |= run("train", "evaluate")
        decision = "register" if story["evaluate"]["passed"] else "reject"
        story |= run(decision)
        if decision == "register":
            version = story["register"]["version"]
            return Completed(name="Registered", message=f"version {version}", data=story | {"status": "registered"})
        reasons = "; ".join(story["reject"]["reasons"])
        return Completed(name="Rejected", message=reasons, data=story | {"status": "rejected"})

    return flow(
        train_model, name="training", flow_run_name="{model} as of {as_of:%Y-%m-%d %H:%M}", persist_result=False
    )


def _task(name: str) -> Any:
    from prefect import task
    from prefect.cache_policies import NO_CACHE
    from prefect.states import Completed

    def call(as_of: datetime, model: str) -> Any:
        settings = get_settings()
        step: Callable[..., dict[str, Any]] = getattr(pipeline, name)
        told = step(as_of, settings, get_spec(model, settings))
        reused = told.get("reused", False)
        return Completed(name="Reused", message="nothing that it depends on has changed", data=told) if reused else told

    return task(
        call,
        name=name,
        task_run_name=name,
        retries=RETRIES,
        retry_delay_seconds=RETRY_SECONDS,
        retry_condition_fn=_is_transient,
        # Steps know what their results depend on; Prefect would see the instant and the model only.
        cache_policy=NO_CACHE,
        persist_result=False,
    )


def _is_transient(_task: Any, _run: Any, state: Any) -> bool:
    """Whether a failed task may do well the next time, because MLflow did not answer, say."""
    try:
        state.result()
    except TrainingError as error:
        return error.transient
    except Exception:
        return False
    return False


def prefect_environment(settings: Settings) -> dict[str, str]:
    """Variables for Prefect: its database among the data, nothing said to anybody, a server of its own if need be."""
    home = settings.data_dir / "prefect"
    variables = {
        "PREFECT_HOME": str(home),
        # Or they would be below the user's home directory, whatever PREFECT_HOME says.
        "PREFECT_SERVER_MEMO_STORE_PATH": str(home / "memo_store.toml"),
        "PREFECT_RESULTS_LOCAL_STORAGE_PATH": str(home / "storage"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    if "PREFECT_API_URL" not in os.environ:
        variables |= {
            "PREFECT_SERVER_EPHEMERAL_ENABLED": "true",
            "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
            "PREFECT_SERVER_API_HOST": "127.0.0.1",
        }
    return variables


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the flow once and return its exit code: 0, 1 (error), 2 (no Prefect), 3 (rejected), 4 (data refused)."""
    parser = argparse.ArgumentParser(
        prog="python -m training.prefect_flow", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--model", default="delivery_time", choices=sorted(specs()))
    parser.add_argument("--as-of", help="ISO instant with a zone (default: this hour)")
    options = parser.parse_args(arguments)
    if importlib.util.find_spec("prefect") is None:
        print(f"Prefect is not installed, it is an extra: {INSTALL}", file=sys.stderr)
        return 2
    settings = get_settings()
    if settings.training_approval:
        print(
            "ETA_TRAINING_APPROVAL=true: a person decides about each version, and is asked by Airflow's DAG only. Run "
            "training_pipeline there, or unset it",
            file=sys.stderr,
        )
        return FAILED
    os.environ.update(prefect_environment(settings))
    as_of = as_utc(options.as_of) if options.as_of else floor_hour(datetime.now(UTC))
    state = training_flow()(as_of, options.model, return_state=True)
    story = state.data if isinstance(state.data, dict) else None
    try:
        story = story or state.result(raise_on_failure=not state.is_failed())
    except TrainingError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
    if not isinstance(story, dict):
        print(f"{options.model} as of {as_of.isoformat()}: {state.name}: {state.message}", file=sys.stderr)
        return FAILED
    print(f"{options.model} as of {as_of.isoformat()}: {story['status']} ({state.message})")
    return {"registered": 0, "rejected": REJECTED, "stopped": STOPPED, "skipped": STOPPED}[story["status"]]


if __name__ == "__main__":
    sys.exit(main())

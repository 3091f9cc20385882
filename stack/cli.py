"""The stack's command line: `delivery-eta` or `python -m stack`.

Exit status: 0 all is well, 1 something is not (the message says what), 2 wrong usage.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pydantic import ValidationError

from config.settings import ROOT, Settings, get_settings
from stack.airflow import airflow_environment, airflow_login
from stack.processes import ServiceError, start_together
from stack.services import all_services, mlflow_service, own_orders, redis_service, service_environment, wanted_services

NOTHING_YET = """There are no features and no model yet. The hourly feature_pipeline computes those of all that
landed, the past included; training_pipeline trains at 02:00 UTC. `make run` goes once round the loop now."""
_STORES = {"redis": redis_service, "mlflow": mlflow_service}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.command(options, get_settings()))
    except ServiceError as error:
        print(error, file=sys.stderr)
        return 1
    except ValidationError as error:
        print(f"the settings are not valid (environment or .env): {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def up(_: argparse.Namespace, settings: Settings) -> int:
    """Start every server and register the features; if a server fails, stop those that this call started."""
    if name := own_orders(settings):
        _say(f"stream: left out, because the orders are your own ({name}); `make ingest` brings in newer ones")
    with _registering(settings) as registered:
        start_together(wanted_services(settings), _say)
        if error := registered():
            print(error, file=sys.stderr)
            return 1
    print(_addresses(settings))
    for line in _notes(settings):
        print(f"\n{line}")
    return 0


def down(_: argparse.Namespace, settings: Settings) -> int:
    """Stop what `up` started, in the opposite order."""
    for service in reversed(all_services(settings)):
        service.stop(_say)
    return 0


def status(_: argparse.Namespace, settings: Settings) -> int:
    """Show every server; exit status 1 unless all are well."""
    states = [service.status() for service in wanted_services(settings)]
    print(f"{'server':<9} {'state':<10} {'pid':>7} {'memory':>9}  address")
    for state in states:
        memory = f"{state.memory_bytes / 2**20:.0f} MB" if state.memory_bytes else ""
        print(f"{state.name:<9} {state.state:<10} {state.pid or '':>7} {memory:>9}  {state.address}")
        if state.detail:
            print(f"{'':<9} {state.detail}")
    if all(state.state == "running" for state in states):
        print(_addresses(settings))
        for line in _notes(settings):
            print(f"\n{line}")
        return 0
    return 1


def execute(options: argparse.Namespace, settings: Settings) -> int:
    """Run a command beside the stores it needs; stop afterwards those that this call started."""
    names = [name for name in options.servers.split(",") if name]
    with ExitStack() as stores:
        for name in names:
            service = _STORES[name](settings)
            if service.start(_say):
                stores.callback(service.stop, _say)
        return _run(options.argv, service_environment(settings))


def airflow(options: argparse.Namespace, settings: Settings) -> int:
    """Run Airflow's own command line on this installation."""
    return _run([sys.executable, "-m", "airflow", *options.argv], airflow_environment(settings))


def run(options: argparse.Namespace, _: Settings) -> int:
    """Go once round the whole loop."""
    from stack.walkthrough import main as walk

    return walk(options.orders, options.mapping, options.allow)


def clean(options: argparse.Namespace, settings: Settings) -> int:
    """Stop the servers and remove the data directory, if it is the repository's own."""
    down(options, settings)
    directory = settings.data_dir.resolve()
    if not directory.exists():
        print(f"clean: {directory} does not exist")
    elif directory.is_relative_to(ROOT) and directory != ROOT:
        shutil.rmtree(directory)
        print(f"clean: removed {directory}")
    else:
        print(f"clean: ETA_DATA_DIR is outside of the repository, remove it yourself: {directory}", file=sys.stderr)
        return 1
    return 0


@contextmanager
def _registering(settings: Settings) -> Iterator[Callable[[], str | None]]:
    """Register the feature definitions while the block runs; what it is given waits, and says what went wrong."""
    process = subprocess.Popen(
        [sys.executable, "-m", "feature_repo", "apply"],
        env={**os.environ, **service_environment(settings)},
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )

    def wait() -> str | None:
        _, said = process.communicate()
        if process.returncode == 0:
            _say("features: registered")
            return None
        return f"the features could not be registered, so no hour can be computed; mend it and `make apply`: {said}"

    with process:
        try:
            yield wait
        finally:
            if process.poll() is None:
                process.terminate()


def _notes(settings: Settings) -> list[str]:
    """What a person should know of the history: nothing computed yet, a part of it left out, or a record lost."""
    from feature_repo.orders.watermark import LandingError
    from feature_repo.pipeline import nothing_computed
    from feature_repo.transforms.coverage import CoverageLost, left_out

    try:
        if nothing_computed(settings):
            return [NOTHING_YET]
        return [told for told in [left_out(settings)] if told]
    except (CoverageLost, LandingError) as error:
        return [str(error)]


def _say(text: str) -> None:
    print(text, flush=True)


def _run(command: Sequence[str], environment: dict[str, str]) -> int:
    process = subprocess.Popen(command, env={**os.environ, **environment}, cwd=ROOT)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:  # the command has received it too, and decides
            continue


def _addresses(settings: Settings) -> str:
    login = airflow_login(settings)
    rows = {
        "Airflow": f"{settings.airflow_url}  (user {login.user}, password {login.password})",
        "MLflow": settings.mlflow_tracking_uri,
        "Predictions": f"{settings.serving_url}/docs",
        "Logs": f"{settings.run_dir}/*.log",
    }
    return "\n" + "\n".join(f"  {name:<12} {where}" for name, where in rows.items())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="delivery-eta", description="The embedded stack of delivery-eta.")
    commands = parser.add_subparsers(required=True, metavar="command")
    for function in (up, down, status, clean):
        command = commands.add_parser(function.__name__, help=(function.__doc__ or "").splitlines()[0])
        command.set_defaults(command=function)
    walk = commands.add_parser("run", help=(run.__doc__ or ""))
    walk.add_argument("--orders", help="your own orders: a file, a glob or a database URL")
    walk.add_argument("--mapping", type=Path, help="the YAML file that maps its columns")
    walk.add_argument("--allow", action="append", default=[], help="what you decided about them: docs/orders.md")
    walk.set_defaults(command=run)
    beside = commands.add_parser("exec", help=(execute.__doc__ or "").splitlines()[0])
    beside.add_argument("--with", dest="servers", default="redis,mlflow", help="what it needs: redis, mlflow or both")
    beside.add_argument("argv", nargs="+", metavar="-- COMMAND")
    beside.set_defaults(command=execute)
    own = commands.add_parser("airflow", help=(airflow.__doc__ or ""), add_help=False)
    own.add_argument("argv", nargs=argparse.REMAINDER)
    own.set_defaults(command=airflow)
    return parser

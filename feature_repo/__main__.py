"""Command line of the feature pipeline: `python -m feature_repo backfill|recompute|run|materialize START END`, `apply`,
`backfill-feature VIEW.FEATURE ...`, `rebuild VIEW`, `refresh`, `reconcile`, `audit [--all]`.

START and END are instants with a time zone, on the full hour, for example 2026-05-01T00:00+00:00.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from config import Settings, get_settings
from feature_repo import pipeline
from feature_repo.window import Window, as_utc

COMMANDS = {
    "backfill": "bring in orders and compute all features of a window, a chunk of days at a time",
    "recompute": "compute all features of a window again from the orders in the lake",
    "run": "do everything for a window, the online store included, as the hourly DAG does",
    "materialize": "write the newest features of a window to the online store",
}

TAKE_OUT = "versions that the lake has, and the landing folder no longer, leave the lake (without it they stay)"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 0 on success and 1 when it was refused, with the reason on stderr."""
    parser = argparse.ArgumentParser(prog="python -m feature_repo", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("apply", help="register entities, views and services")
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text)
        command.add_argument("start", metavar="START")
        command.add_argument("end", metavar="END")
        if name == "backfill":
            command.add_argument("--take-out", action="store_true", help=TAKE_OUT)
    added = commands.add_parser("backfill-feature", help="compute new features, and only those, for the past")
    added.add_argument("features", metavar="VIEW.FEATURE", nargs="+", help="all that are new in the view")
    added.add_argument("--start", help="compute from this hour on (default: from the first computed one)")
    changed = commands.add_parser("rebuild", help="compute a view's tables anew under a changed definition")
    changed.add_argument("view", metavar="VIEW")
    live = commands.add_parser("refresh", help="bring the live views online, from what has landed since the last hour")
    live.add_argument("--as-of", help="an instant on a full step (default: the last one whose orders have landed)")
    commands.add_parser("reconcile", help="make every online row what the offline tables say, and take back the others")
    audited = commands.add_parser("audit", help="compare online with offline values; exit status 1 if they differ")
    audited.add_argument("--all", action="store_true", help="all keys, not a sample of them")
    chosen = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    # Deprecations inside of libraries, which Feast switches on for everybody: nothing that the reader could mend.
    logging.captureWarnings(True)
    logging.getLogger("py.warnings").setLevel(logging.ERROR)
    os.environ.setdefault("FEAST_USAGE", "False")
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    try:
        result = _execute(chosen, get_settings())
    except (ValueError, KeyError, RuntimeError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    print(json.dumps(result, indent=2, default=str))
    return 1 if chosen.command == "audit" and _tell_differences(result) else 0


def _tell_differences(report: Any) -> bool:
    """Whether an audit did not pass; what it found, and what to do, on stderr."""
    for reason in report["reasons"]:
        _show(reason)
    for example in report["examples"]:
        _show(
            f"  {example['feature']} of {example['key']}: {example['fault']}, offline {example['offline']} "
            f"({example['offline_event']}), online {example['online']} ({example['online_event']})"
        )
    if report["reasons"]:
        _show("`python -m feature_repo reconcile` makes online what offline is")
    return not report["passed"]


def _execute(chosen: argparse.Namespace, settings: Settings) -> object:
    if chosen.command == "apply":
        from feature_repo.store import apply

        return apply(settings)
    if chosen.command == "refresh":
        from feature_repo import live

        as_of = as_utc(chosen.as_of) if chosen.as_of else live.landed_until(settings, datetime.now(UTC))
        return live.refresh(as_of, settings)
    if chosen.command == "reconcile":
        return pipeline.reconcile(settings)
    if chosen.command == "audit":
        return pipeline.audit_all(settings, all_keys=chosen.all)
    if chosen.command == "rebuild":
        return pipeline.rebuild(chosen.view, settings, _show)
    if chosen.command == "backfill-feature":
        start = as_utc(chosen.start) if chosen.start else None
        return pipeline.backfill_features(chosen.features, start, settings, _show)
    window = Window(as_utc(chosen.start), as_utc(chosen.end))
    if chosen.command == "materialize":
        return pipeline.materialize(window, settings)
    if chosen.command == "backfill":
        return pipeline.backfill(window, settings, _show, chosen.take_out)
    steps = {
        "recompute": pipeline.recompute_features,
        "run": pipeline.run_window,
    }
    return steps[chosen.command](window, settings, _show)


def _show(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

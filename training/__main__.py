"""`python -m training`: train a model, and look after its versions.

run [--as-of INSTANT] [--threshold GATE=VALUE] [--trials N] [--folds N]
                                                 build, check, train, evaluate, register or reject
models                                           the registered versions and the decisions about them
promote VERSION | rollback                       move the champion
challenge VERSION | reject VERSION               make it the challenger; take it out
lineage VERSION                                  what a version was made of
"""

from __future__ import annotations

import argparse
import getpass
import logging
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from config import Settings, get_settings
from feature_repo.window import as_utc, floor_hour
from training.errors import TrainingError
from training.lineage import render_tree
from training.models import get_spec, specs
from training.registry import REJECTED_TAG, ModelRegistry, Move, Version

FAILED, REJECTED, STOPPED = 1, 3, 4
"""Exit codes, so that a script can tell a refused model from a broken run."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 1 (error), 3 (rejected by a gate), 4 (training data refused)."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("training.pipeline").setLevel(logging.CRITICAL)  # the summary says all that it would
    try:
        return int(options.command(options, get_settings()))
    except (TrainingError, ValueError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return FAILED


def _run(options: argparse.Namespace, settings: Settings) -> int:
    from training import pipeline

    as_of = as_utc(options.as_of) if options.as_of else floor_hour(datetime.now(UTC))
    spec = get_spec(options.model, settings).with_thresholds(dict(options.threshold))
    if options.trials or options.folds:
        spec = spec.with_search(options.trials, options.folds)
    story = pipeline.run(as_of, settings, spec, lambda text: print(f"  {text}", flush=True))
    print(_summary(story, settings, spec.unit))
    return {"registered": 0, "rejected": REJECTED, "stopped": STOPPED, "skipped": STOPPED}[story["status"]]


def _models(options: argparse.Namespace, settings: Settings) -> int:
    registry = ModelRegistry(settings, options.model)
    registry.check()
    versions = registry.versions()
    if not versions:
        print(f"{options.model} has no versions yet: train one (make train MODEL={options.model})")
        return 0
    print(f"{'version':<8} {'state':<22} {'as of':<17} {'metric':<9} {'validation':>10} {'test':>8}  run")
    for version in versions:
        tags, metric = version.tags, version.tags.get("primary_metric", "mae")
        errors = [tags.get(f"{part}_{metric}", "?") for part in ("validation", "test")]
        print(
            f"{version.version:<8} {_state(version):<22} {_minute(tags.get('as_of', '?')):<17} {metric:<9} "
            f"{errors[0]:>10} {errors[1]:>8}  {version.run_id}"
        )
    print("\ndecisions, oldest first (the training pipeline's are as of the data's instant)")
    for move in registry.history():
        print(f"  {_sentence(move)}")
    return 0


def _state(version: Version) -> str:
    return ", ".join([*version.aliases, *(["rejected"] if REJECTED_TAG in version.tags else [])]) or "-"


def _minute(instant: str) -> str:
    return instant[:16].replace("T", " ")


def _promote(options: argparse.Namespace, settings: Settings) -> int:
    registry = ModelRegistry(settings, options.model)
    registry.check()
    print(_sentence(registry.promote(options.version, datetime.now(UTC), getpass.getuser(), options.why)))
    return 0


def _rollback(options: argparse.Namespace, settings: Settings) -> int:
    registry = ModelRegistry(settings, options.model)
    registry.check()
    print(_sentence(registry.rollback(datetime.now(UTC), getpass.getuser(), options.why)))
    return 0


def _challenge(options: argparse.Namespace, settings: Settings) -> int:
    registry = ModelRegistry(settings, options.model)
    registry.check()
    print(_sentence(registry.challenge(options.version, datetime.now(UTC), getpass.getuser(), options.why)))
    return 0


def _reject(options: argparse.Namespace, settings: Settings) -> int:
    registry = ModelRegistry(settings, options.model)
    registry.check()
    print(_sentence(registry.reject(options.version, datetime.now(UTC), getpass.getuser(), options.why)))
    return 0


def _lineage(options: argparse.Namespace, settings: Settings) -> int:
    registry = ModelRegistry(settings, options.model)
    registry.check()
    print(render_tree(registry.lineage(options.version)))
    return 0


def _summary(story: dict[str, Any], settings: Settings, unit: str) -> str:
    lines = [f"{story['model']} as of {story['as_of']}: {story['status']}"]
    if "reason" in story:
        return "\n".join([*lines, f"  {story['reason']}"])
    lines += [f"  {text}" for text in (*story["validation"]["failures"], *story["validation"]["notes"])]
    if "evaluation" in story:
        metrics, baselines = story["evaluation"]["metrics"], story["evaluation"]["baselines"]
        test, validation = (f"{part}_{story['evaluation']['primary']}" for part in ("test", "validation"))
        lines += [f"  test error {metrics[test]:.2f} {unit}, validation {metrics[validation]:.2f}"]
        lines += [f"  baseline {name}: test {values[test]:.2f}" for name, values in baselines.items()]
        lines += [*_gate_lines(story["evaluation"]["gates"]), *_decision_lines(story)]
        lines += [f"  report: {settings.data_dir / story['evaluation']['directory'] / 'report.html'}"]
    return "\n".join([*lines, f"  seconds: {story['seconds']}"])


def _gate_lines(gates: Iterable[Mapping[str, Any]]) -> list[str]:
    return [f"  {'passed' if gate['passed'] else 'FAILED'}  {gate['name']:<22}  {gate['reason']}" for gate in gates]


def _decision_lines(story: dict[str, Any]) -> list[str]:
    made, refused = story.get("registration"), story.get("rejection")
    if made and made["registered"]:
        before = made["previous"] or "none"
        return [f"  registered as version {made['version']}, which is the champion now (before: {before})"]
    if made:
        return [f"  registered before as version {made['version']}; the champion stays version {made['previous']}"]
    if refused and refused["version"]:
        return [f"  it was registered before as version {refused['version']}, which stays; no alias was moved"]
    return [f"  not registered; the champion stays ({refused['champion'] or 'there is none'})"] if refused else []


def _sentence(move: Move) -> str:
    if move.before == move.after:
        return f"version {move.after} is the {'challenger' if move.action == 'challenge' else 'champion'} already"
    replaced = f"(before: {move.before or 'none'})"
    did = {
        "promote": f"version {move.after} became the champion {replaced}",
        "rollback": f"rolled back: version {move.after} is the champion again {replaced}",
        "challenge": f"version {move.after} became the challenger {replaced}",
        "reject": f"version {move.before} was rejected, no rollback goes back to it",
    }
    return f"{_minute(move.at)}  {did[move.action]}; {move.who}: {move.why}"


def _threshold(text: str) -> tuple[str, float]:
    name, separator, value = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"{text!r}: write GATE=VALUE, for example validation_mae=14")
    return name, float(value)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, function: Any, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.add_argument("--model", default="delivery_time", choices=sorted(specs()))
        added.set_defaults(command=function)
        return added

    run = command("run", _run, "build the training set, train, evaluate, register or reject")
    run.add_argument("--as-of", help="ISO instant with a zone; what is known later plays no part (default: this hour)")
    run.add_argument("--threshold", type=_threshold, action="append", default=[], metavar="GATE=VALUE")
    run.add_argument(
        "--trials", type=int, default=0, help="candidates to draw beside those of the spec (default: none)"
    )
    run.add_argument(
        "--folds", type=int, default=0, help="judge candidates over so many rolling origins (default: none)"
    )
    command("models", _models, "list the registered versions")
    promote = command("promote", _promote, "make a version the champion")
    promote.add_argument("version")
    rollback = command("rollback", _rollback, "make the champion's predecessor the champion again")
    challenge = command("challenge", _challenge, "make a version the challenger, which answers nobody")
    challenge.add_argument("version")
    reject = command("reject", _reject, "take a version out: no rollback goes back to it")
    reject.add_argument("version")
    for moving in (promote, rollback, challenge, reject):
        moving.add_argument("--why", default="by hand", help="kept in the history")
    command("lineage", _lineage, "what a version was made of").add_argument("version")
    return parser


if __name__ == "__main__":
    sys.exit(main())

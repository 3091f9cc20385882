"""`python -m simulator history | advance | stream | drill`: make a world, continue it, let it live, disturb it."""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
import threading
from datetime import datetime
from pathlib import Path
from typing import Any

from config import get_settings
from simulator.clock import as_utc
from simulator.drills import DRILL_KINDS, Drill
from simulator.errors import SimulatorError
from simulator.generate import advance, start_drill, stop_drills, write_history
from simulator.landing import Landing
from simulator.stream import ensure_history, run, wall_clock

__all__ = ["main"]

STOP = "stop"
EPILOG = """\
examples:
  python -m simulator history --end 2026-05-01T00:00+00:00
  python -m simulator advance --until 2026-05-01T06:00+00:00
  python -m simulator advance --until 2026-05-02T00:00+00:00 --drill drift
  python -m simulator drill outage --from 2026-05-02T08:00+00:00 --to 2026-05-02T11:00+00:00
  python -m simulator drill stop
  python -m simulator stream
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line. Returns the exit code: 0, or 2 with a message when the request makes no sense."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        result = options.command(options)
    except SimulatorError as error:
        print(f"simulator: {error}", file=sys.stderr)
        return 2
    if result is not None:
        print(json.dumps(result))
    return 0


def _history(options: argparse.Namespace) -> dict[str, Any]:
    return write_history(
        _out(options),
        options.end or _last_hour(),
        options.days,
        options.orders,
        options.seed,
        _progress,
        force=options.force,
        oracle=options.oracle,
    )


def _advance(options: argparse.Namespace) -> dict[str, Any]:
    out = _out(options)
    drill = _drill(options, out, options.until) if options.drill else None
    return advance(out, options.until, drill, _progress, oracle=options.oracle)


def _stream(options: argparse.Namespace) -> None:
    out = _out(options)
    ensure_history(out, _last_hour(), _progress, days=options.days, orders=options.orders, seed=options.seed)
    if options.drill:
        start_drill(out, _drill(options, out, None))
    stop = threading.Event()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signal_number, lambda *_: stop.set())
    run(out, get_settings(), options.interval, wait=stop.wait, ask=not options.no_predictions)


def _start_drill(options: argparse.Namespace) -> dict[str, Any]:
    out = _out(options)
    if options.drill == STOP:
        return {"stopped": stop_drills(out)}
    drill = _drill(options, out, None)
    start_drill(out, drill)
    return drill.to_dict()


def _drill(options: argparse.Namespace, out: Path, until: datetime | None) -> Drill:
    """The drill asked for: from the watermark on unless said otherwise, drift for good, the others until `until`."""
    start = options.drill_from or Landing(out).position()
    end = options.drill_to or (None if options.drill == "drift" else until)
    return Drill(options.drill, start, end, options.share)


def _out(options: argparse.Namespace) -> Path:
    return options.out or get_settings().landing_orders


def _last_hour() -> datetime:
    return wall_clock().replace(minute=0, second=0, microsecond=0)


def _progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _instant(text: str) -> datetime:
    try:
        return as_utc(text)
    except SimulatorError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m simulator", description=__doc__, epilog=EPILOG, formatter_class=argparse.RawTextHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    history = commands.add_parser("history", help="make a new world and write its history")
    history.set_defaults(command=_history)
    history.add_argument("--end", type=_instant, metavar="ISO", help="last instant (default: the last full hour)")
    history.add_argument("--force", action="store_true", help="replace the world that is already there")
    history.add_argument("--oracle", type=Path, metavar="FILE", help="also write noise-free delivery minutes here")
    onward = commands.add_parser("advance", help="continue from where the world stopped")
    onward.set_defaults(command=_advance)
    onward.add_argument("--until", type=_instant, metavar="ISO", required=True, help="any instant")
    onward.add_argument("--oracle", type=Path, metavar="FILE", help="also write noise-free delivery minutes here")
    stream = commands.add_parser("stream", help="keep up with the clock and ask for predictions")
    stream.set_defaults(command=_stream)
    stream.add_argument("--interval", type=_positive, default=60.0, metavar="SECONDS", help="default 60")
    stream.add_argument("--no-predictions", action="store_true", help="write orders only")
    drill = commands.add_parser("drill", help="start a drill, or stop all; a running stream takes it up")
    drill.set_defaults(command=_start_drill)
    drill.add_argument("drill", choices=(*DRILL_KINDS, STOP))
    for command in (history, stream):
        command.add_argument("--days", type=_positive, default=120.0, help="length of the history (default 120)")
        command.add_argument("--orders", type=int, default=250_000, help="orders in it (default 250000)")
        command.add_argument("--seed", type=int, default=7)
    for command in (onward, stream):
        command.add_argument("--drill", choices=DRILL_KINDS, help="change the world from the watermark on")
    for command in (onward, stream, drill):
        command.add_argument("--from", dest="drill_from", type=_instant, metavar="ISO", help="start of the drill")
        command.add_argument("--to", dest="drill_to", type=_instant, metavar="ISO", help="end of the drill")
        command.add_argument("--share", type=float, default=0.3, help="share of rows that `dirty` breaks")
    for command in (history, onward, stream, drill):
        command.add_argument("--out", type=Path, metavar="DIR", help="landing folder (default: the installation's)")
    return parser


def _positive(text: str) -> float:
    number = float(text)
    if not number > 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


if __name__ == "__main__":
    sys.exit(main())

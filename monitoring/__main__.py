"""`python -m monitoring START END`: monitor one window, print the verdict with its reasons."""

from __future__ import annotations

import argparse
import json
import logging

from config import get_settings
from feature_repo.window import Window, as_utc
from monitoring.pipeline import run
from monitoring.report import report_directory


def main() -> None:
    """Parse the arguments, run all steps, print."""
    parser = argparse.ArgumentParser(prog="python -m monitoring", description=__doc__)
    parser.add_argument("start", type=as_utc, help="start of the window, a full hour with a time zone")
    parser.add_argument("end", type=as_utc, help="its end (excluded)")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    settings, window = get_settings(), Window(arguments.start, arguments.end)
    print(json.dumps(run(window, settings)["verdict"], indent=2))
    print(f"reports: {report_directory(settings, window)}")


if __name__ == "__main__":
    main()

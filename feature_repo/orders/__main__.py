"""`python -m feature_repo.orders ORDERS MAPPING`: bring orders into the landing folder and say what became of them."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from config import get_settings
from feature_repo.orders.decisions import HELP, parse_allowed
from feature_repo.orders.mapping import bring_in
from feature_repo.orders.mapping_file import MappingError
from feature_repo.orders.watermark import LandingError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 0 on success, 2 when nothing could be brought in."""
    parser = argparse.ArgumentParser(prog="python -m feature_repo.orders", description=__doc__)
    parser.add_argument("orders", metavar="ORDERS", help="path or glob of CSV or Parquet files, or a database URL")
    parser.add_argument("mapping", metavar="MAPPING", type=Path, help="the YAML mapping file (see docs/orders.md)")
    parser.add_argument("--allow", metavar="DECISIONS", action="append", default=[], help=HELP)
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    try:
        allowed = parse_allowed(given.allow)
        report = bring_in(given.orders, given.mapping, get_settings(), now=datetime.now(UTC), allowed=allowed)
    except (MappingError, LandingError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(report.summary())
    return 0


if __name__ == "__main__":
    sys.exit(main())

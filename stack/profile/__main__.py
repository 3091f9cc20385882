"""`python -m stack.profile ORDERS [MAPPING]`: what an export holds, and what it allows.

Without a mapping it proposes one, as YAML on the standard output, in which all that is not a mapping is a comment.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import duckdb

from config import Settings, get_settings
from feature_repo.orders.mapping_file import MappingError
from feature_repo.orders.source import count_rows, hide_password
from stack.profile import allowed, columns, form, proposal


def profile(orders: str, table: str | None, settings: Settings) -> tuple[str, bool]:
    """The proposal for an export as YAML, and whether orders could be brought in by it.

    Raises
    ------
    MappingError
        It cannot be read.
    """
    settings.staging.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="profile-", dir=settings.staging) as folder,
        duckdb.connect(str(Path(folder) / "scratch.duckdb")) as connection,
    ):
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("SET enable_progress_bar = false")
        read = form.load(connection, orders, table)
        nulls = form.null_words(connection)
        looked = columns.look(connection, nulls)
        made = proposal.propose(connection, _name(orders, table), read, nulls, looked)
        if (parts := form.count_parts(connection)) > 1:
            made.questions.append(f"{parts} kinds of files, of other columns or types: only the first was looked at")
        rows = count_rows(connection)
        text = proposal.render(made, looked)
        said = [f"{rows:,} rows read from {hide_password(orders)}, {len(looked)} columns"]
        said += [f"QUESTION  {question}" for question in made.questions]
        told, works = ["not tried, as a column is missing"], False
        thresholds: dict[str, float] = {}
        if made.is_complete:
            told, works, thresholds = _try(orders, text, settings, Path(folder))
    gates = ["# What always saying the median would reach; lower it when a model has run.", "gate_thresholds:"]
    gates.append(f"  delivery_time: {json.dumps(thresholds)}")
    comments = [f"# {line}" for line in told]
    lines = [*(f"# {line}" for line in said), text, *gates * bool(thresholds), "# Tried on all rows:", *comments]
    return "\n".join(lines), works


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 0 if the orders can be brought in, 1 if questions are open before that, 2 if unreadable."""
    parser = argparse.ArgumentParser(prog="python -m stack.profile", description=__doc__)
    parser.add_argument("orders", metavar="ORDERS", help="path or glob of CSV or Parquet files, or a database URL")
    parser.add_argument("mapping", metavar="MAPPING", type=Path, nargs="?", help="say what the orders allow by it")
    parser.add_argument("--table", help="of a database with several tables")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    try:
        if given.mapping is not None:
            print("\n".join(allowed.tell(given.orders, given.mapping, get_settings()).lines))
            return 0
        text, works = profile(given.orders, given.table, get_settings())
    except MappingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(text)
    return 0 if works else 1


def _try(orders: str, text: str, settings: Settings, folder: Path) -> tuple[list[str], bool, dict[str, float]]:
    path = folder / "proposal.yaml"
    path.write_text(text + "\n", encoding="utf-8")
    try:
        found = allowed.tell(orders, path, settings)
    except MappingError as error:
        return [f"nothing could be brought in: {line}" for line in str(error).splitlines()], False, {}
    return found.lines, True, allowed.gate_thresholds(found.median_error)


def _name(orders: str, table: str | None) -> str:
    stem = table or re.split(r"[*?\[]", orders, maxsplit=1)[0].rstrip("/").rpartition("/")[2].partition(".")[0]
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", stem).strip("_-")
    return (name or "orders")[:64]


if __name__ == "__main__":
    sys.exit(main())

"""Which columns of an order a source has at all.

A source without drivers has no column of them, and that is fine. A column that is there and suddenly empty is a fault.
What has been seen so far cannot tell the two apart; the mapping that filled the landing folder can, so it is asked.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import polars as pl

from config import Settings
from feature_repo.orders.schema import LANDING_SCHEMA

DERIVED = frozenset({"status", "is_asap", "updated_at", "arrived_at"})
"""What follows from the other columns where it is not given."""


def mapping_record(settings: Settings) -> Path:
    """Where is noted which mapping fills the landing folder, and which columns it maps."""
    return settings.landing_orders / "_mapping.json"


def absent_columns(settings: Settings) -> tuple[str, ...]:
    """The columns that the source of the landing folder does not have, in the order of the schema.

    As its mapping says; without a mapping, those that no file of the folder has. None where nothing has landed yet.
    """
    found = _mapped(settings) or _in_files(settings)
    return tuple(name for name in LANDING_SCHEMA if name not in found | DERIVED) if found else ()


def _mapped(settings: Settings) -> set[str]:
    path = mapping_record(settings)
    return set(json.loads(path.read_text()).get("columns", ())) if path.exists() else set()


def _in_files(settings: Settings) -> set[str]:
    found: set[str] = set()
    for path in settings.landing_orders.glob("day=*/*.parquet"):
        if found >= set(LANDING_SCHEMA) - DERIVED:
            break
        with suppress(pl.exceptions.PolarsError, OSError):  # of a damaged file the run of its hour speaks
            found.update([] if path.name.startswith(".") else pl.read_parquet_schema(path))
    return found

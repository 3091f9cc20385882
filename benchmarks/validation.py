"""What the checks of one hour of orders cost: the rules alone, with the baseline, with Data Docs.

make bench NAME=validation
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from benchmarks.harness import compare
from config import Settings
from feature_repo.window import DAY, HOUR, Window

DAYS = 28
END = datetime(2026, 5, 1, tzinfo=UTC)
JUDGED = Window(END + 18 * HOUR, END + 19 * HOUR)


def prepare(orders_per_day: int) -> Mapping[str, Any]:
    """Four weeks in the lake, the hour to judge, Great Expectations imported, and the day's baseline not yet made."""
    from feature_repo.orders.landing import read_landing
    from feature_repo.orders.schema import LAKE_SCHEMA, orders_table
    from feature_repo.quality import validate_orders
    from simulator.generate import write_history

    settings = Settings(data_dir=Path(tempfile.mkdtemp(prefix="bench-validation-")))
    write_history(settings.landing_orders, END + DAY, DAYS + 1, orders_per_day * (DAYS + 1))
    weeks = Window(END - DAYS * DAY, JUDGED.start)
    orders_table(settings).replace(weeks, read_landing(weeks, settings).select(list(LAKE_SCHEMA)))
    batch = read_landing(JUDGED, settings)
    # Draws a page and makes the baseline: imports and caches are warm afterwards. The page's content is the same again.
    validate_orders(batch, JUDGED, settings)
    return {"settings": settings, "batch": batch}


def rules(orders_per_day: int, settings: Settings, batch: pl.DataFrame) -> Mapping[str, Any]:
    """The rules on rows and batch, nothing compared, nothing drawn."""
    from feature_repo.quality import orders

    vars(orders).update(baseline_for=lambda *_: None, write_page=lambda *_: None)
    return _validate(settings, batch)


def with_baseline(orders_per_day: int, settings: Settings, batch: pl.DataFrame) -> Mapping[str, Any]:
    """And the comparison with the day's baseline, which is read."""
    from feature_repo.quality import orders

    vars(orders).update(write_page=lambda *_: None)
    return _validate(settings, batch)


def whole(orders_per_day: int, settings: Settings, batch: pl.DataFrame) -> Mapping[str, Any]:
    """And Data Docs: what an hourly run does."""
    return _validate(settings, batch)


def first_of_day(orders_per_day: int, settings: Settings, batch: pl.DataFrame) -> Mapping[str, Any]:
    """What a day's first run does: the baseline is made."""
    from feature_repo.quality.baseline import baseline_file

    baseline_file(JUDGED.start, settings).unlink()
    return _validate(settings, batch)


def _validate(settings: Settings, batch: pl.DataFrame) -> Mapping[str, Any]:
    from feature_repo.quality import validate_orders

    return {"versions": batch.height, "rejected": validate_orders(batch, JUDGED, settings).rejected.height}


CONTENDERS = {
    "rules alone": rules,
    "and the baseline": with_baseline,
    "and Data Docs": whole,
    "a day's first run": first_of_day,
}
for contender in CONTENDERS.values():
    contender.prepare = prepare  # type: ignore[attr-defined]


if __name__ == "__main__":
    compare(
        "validation",
        CONTENDERS,
        {"2,000 orders a day": {"orders_per_day": 2_000}, "20,000 orders a day": {"orders_per_day": 20_000}},
        anchor="rules alone",
        packages=["great-expectations", "polars"],
        runs=1,
    )

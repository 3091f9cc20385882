"""How often the baseline tells of ordinary hours, and how soon of drifted ones, beside a plain test.

make bench NAME=shift
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.harness import compare
from config import Settings
from feature_repo.window import DAY, Window

END = datetime(2026, 5, 1, tzinfo=UTC)
HISTORY, ORDINARY, DRIFTED = 28 * DAY, 14 * DAY, 2 * DAY


def prepare(orders_per_day: int) -> Mapping[str, Any]:
    """Six weeks of ordinary orders and two days of drifted ones in a lake, as validation accepts them."""
    from feature_repo.orders.landing import read_landing
    from feature_repo.orders.schema import orders_table
    from feature_repo.quality import validate_orders
    from simulator.drills import Drill
    from simulator.generate import advance, start_drill, write_history

    settings = Settings(data_dir=Path(tempfile.mkdtemp(prefix="bench-shift-")))
    days = (HISTORY + ORDINARY) // DAY
    write_history(settings.landing_orders, END, days, orders_per_day * days)
    start_drill(settings.landing_orders, Drill("drift", END))
    advance(settings.landing_orders, END + DRIFTED)
    window = Window(END - HISTORY - ORDINARY, END + DRIFTED)
    orders_table(settings).replace(window, validate_orders(read_landing(window, settings), window, settings).accepted)
    return {"settings": settings}


def baseline(orders_per_day: int, settings: Settings) -> Mapping[str, Any]:
    """As every run compares its hour."""
    return _told(settings, plain=False)


def plain(orders_per_day: int, settings: Settings) -> Mapping[str, Any]:
    """Three standard errors from the orders' own spread, no bound on what matters: what is usually written first."""
    from feature_repo.quality import shift

    shift.SIGMAS = 3.0
    shift.MEAN_BOUND = shift.NULL_BOUND = shift.DISTINCT_BOUND = 0.0
    shift.NULL_COUNT_BOUND = 0
    return _told(settings, plain=True)


def _told(settings: Settings, plain: bool) -> Mapping[str, Any]:
    from feature_repo.orders.schema import orders_table
    from feature_repo.quality import shift
    from feature_repo.quality.baseline import baseline_for

    told = {"ordinary": 0, "drifted": 0}
    first = None
    for hour in Window(END - ORDINARY, END + DRIFTED).hours():
        usual = baseline_for(hour, settings)
        if usual is None:
            raise RuntimeError(f"no baseline for {hour}")
        if plain:
            statistics = {key: replace(one, between=0.0) for key, one in usual.statistics.items()}
            usual = replace(usual, statistics=statistics)
        accepted = orders_table(settings).scan(hour).collect()
        found = shift.compare(accepted, accepted, hour, usual, settings)
        off = [
            one
            for one in found
            if one.low is not None and one.high is not None and not one.low <= one.observed <= one.high
        ]
        shifts = [one for one in off if one.rule.endswith("_shift")]
        told["ordinary" if hour.start < END else "drifted"] += bool(shifts)
        if first is None and hour.start >= END and any(one.rule == "mean_shift" for one in shifts):
            first = int((hour.end - END).total_seconds() // 3600)
    return {
        f"of {ORDINARY // DAY * 24} ordinary hours told": told["ordinary"],
        f"of {DRIFTED // DAY * 24} drifted hours told": told["drifted"],
        "hours until a mean was told": first if first is not None else "never",
    }


for contender in (baseline, plain):
    contender.prepare = prepare  # type: ignore[attr-defined]


if __name__ == "__main__":
    compare(
        "shift",
        {"plain test": plain, "baseline": baseline},
        {
            "300 orders a day": {"orders_per_day": 300},
            "2,000 orders a day": {"orders_per_day": 2_000},
        },
        anchor="plain test",
        packages=["polars", "numpy"],
        runs=1,
    )

"""How fast the simulator makes orders, beside the bare writing of as many rows as Parquet.

make bench NAME=simulator
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.harness import compare

END = datetime(2026, 5, 1, tzinfo=UTC)
DAYS = 120


def simulate(orders: int) -> Mapping[str, Any]:
    """A whole history, as `make run` makes it."""
    from simulator.generate import write_history

    with tempfile.TemporaryDirectory() as directory:
        made = write_history(Path(directory) / "orders", END, DAYS, orders)
    return {"rows": made["rows"]}


def write_only(orders: int) -> Mapping[str, Any]:
    """One simulated day, written again and again until as many rows are on the disk: what writing alone costs."""
    import polars as pl

    from simulator.generate import write_history

    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        write_history(root / "orders", END, 1, max(1, orders // DAYS))
        day = pl.concat([pl.read_parquet(path) for path in sorted((root / "orders").glob("day=*/*.parquet"))])
        for number in range(DAYS):
            day.write_parquet(root / f"{number}.parquet", compression="zstd")
    return {"rows": day.height * DAYS}


if __name__ == "__main__":
    compare(
        "simulator",
        {"bare write": write_only, "simulator": simulate},
        {"1 M orders": {"orders": 1_000_000}, "10 M orders": {"orders": 10_000_000}},
        anchor="bare write",
        packages=["numpy", "polars"],
        runs=1,
    )

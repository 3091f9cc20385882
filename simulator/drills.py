"""Drills: changes of the world from an instant on, made on purpose to see whether the system notices."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, get_args

import numpy as np
import polars as pl

from simulator.clock import as_utc, microseconds
from simulator.errors import SimulatorError

__all__ = ["DRILL_KINDS", "Drill", "break_rows", "delay_outages", "drift_factor"]

DrillKind = Literal["drift", "dirty", "outage"]
DRILL_KINDS: tuple[str, ...] = get_args(DrillKind)

DRIFT_PREPARATION = 1.4
DRIFT_DISTANCE = 1.3
FAULTS = 5


@dataclass(frozen=True, slots=True)
class Drill:
    """One drill.

    Parameters
    ----------
    kind : {"drift", "dirty", "outage"}
        `drift`: preparation takes 40 % longer and distances grow by 30 %, for orders placed from `start` on.
        `dirty`: a share of the rows that become known from `start` on is broken.
        `outage`: nothing arrives and the watermark stands still; afterwards everything arrives at `end`.
    start, end : datetime
        In effect for `start <= t < end`; without an end, for good. An outage needs an end.
    share : float
        The share of rows that `dirty` breaks, above 0 and at most 1.

    Raises
    ------
    SimulatorError
        An unknown kind, an end not after the start, an outage without an end, or a share out of range.
    """

    kind: str
    start: datetime
    end: datetime | None = None
    share: float = 0.3

    def __post_init__(self) -> None:
        if self.kind not in DRILL_KINDS:
            raise SimulatorError(f"unknown drill {self.kind!r}: choose one of {', '.join(DRILL_KINDS)}")
        object.__setattr__(self, "start", as_utc(self.start))
        if self.end is None:
            if self.kind == "outage":
                raise SimulatorError("an outage needs an end: say until when nothing arrives")
        else:
            object.__setattr__(self, "end", as_utc(self.end))
            if self.end <= self.start:
                raise SimulatorError(f"drill {self.kind} ends at {self.end.isoformat()}, not after its start")
        if not 0 < self.share <= 1:
            raise SimulatorError(f"drill {self.kind}: share {self.share} is not above 0 and at most 1")

    @property
    def bounds(self) -> tuple[int, int]:
        """Start and end in microseconds since 1970."""
        return microseconds(self.start), microseconds(self.end) if self.end else np.iinfo(np.int64).max

    def to_dict(self) -> dict[str, Any]:
        """The drill as JSON values."""
        end = self.end.isoformat() if self.end else None
        return {"kind": self.kind, "start": self.start.isoformat(), "end": end, "share": self.share}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Drill:
        """The drill that `to_dict` wrote."""
        end = as_utc(values["end"]) if values["end"] else None
        return cls(values["kind"], as_utc(values["start"]), end, values["share"])


def _of_kind(drills: Iterable[Drill], kind: str) -> list[Drill]:
    return [drill for drill in drills if drill.kind == kind]


def drift_factor(drills: Iterable[Drill], placed: np.ndarray, factor: float) -> np.ndarray:
    """`factor` for the orders placed during a drift, else 1."""
    drifted = np.zeros(len(placed), dtype=bool)
    for drill in _of_kind(drills, "drift"):
        start, end = drill.bounds
        drifted |= (placed >= start) & (placed < end)
    return np.where(drifted, factor, 1.0)


def delay_outages(drills: Iterable[Drill], versions: pl.DataFrame) -> pl.DataFrame:
    """Versions that would have arrived during an outage arrive at its end."""
    for drill in sorted(_of_kind(drills, "outage"), key=lambda drill: drill.start):
        out = pl.col("known_at").is_between(drill.start, drill.end, closed="left")
        end = pl.lit(drill.end).cast(pl.Datetime("us", "UTC"))
        versions = versions.with_columns(
            pl.when(out).then(end).otherwise(pl.col(name)).alias(name) for name in ("arrived_at", "known_at")
        )
    return versions


def break_rows(drills: Iterable[Drill], versions: pl.DataFrame) -> pl.DataFrame:
    """Break a share of the versions that become known during a dirty drill, each in one of five ways."""
    for drill in _of_kind(drills, "dirty"):
        hit = (pl.col("known_at") >= drill.start) & (pl.col("luck") < drill.share)
        if drill.end:
            hit &= pl.col("known_at") < drill.end
        fault = (pl.col("luck") * 1e6).floor().cast(pl.Int64) % FAULTS
        versions = versions.with_columns(
            _broken(hit & (fault == 0), "restaurant_id", pl.lit(None, dtype=pl.String)),
            _broken(hit & (fault == 1), "status", pl.lit("???")),
            _broken(hit & (fault == 2), "distance_km", pl.lit(5000.0)),
            _broken(hit & (fault == 3), "order_value", pl.lit(-1.0)),
            _broken(hit & (fault == 4), "item_count", pl.lit(0, dtype=pl.Int64)),
        )
    return versions


def _broken(where: pl.Expr, column: str, value: pl.Expr) -> pl.Expr:
    return pl.when(where).then(value).otherwise(pl.col(column)).alias(column)

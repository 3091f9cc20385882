"""Write a world into a landing folder: its history, and its continuation from where it stopped."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from simulator.clock import DAY_US, HOUR_US, as_utc, ceil_hour, instant, microseconds
from simulator.drills import Drill
from simulator.errors import SimulatorError
from simulator.landing import Landing, WorldState
from simulator.versions import LANDING, NO_VERSIONS, oracle_of, order_versions
from simulator.world import LONGEST_HOURS, Columns, World

__all__ = ["REQUEST", "Progress", "advance", "placed_between", "start_drill", "stop_drills", "write_history"]

logger = logging.getLogger(__name__)

Progress = Callable[[str], None]
"""Takes one line of text about long work, at most ten in a call."""

ORDERS_IN_MEMORY = 250_000
REQUEST = (
    "order_id",
    "restaurant_id",
    "customer_id",
    "zone_id",
    "placed_at",
    "distance_km",
    "item_count",
    "order_value",
    "is_asap",
)
"""What is known of an order when its delivery time is asked for."""


def write_history(
    out: Path,
    end: datetime,
    days: float = 120,
    orders: int = 250_000,
    seed: int = 7,
    progress: Progress | None = None,
    *,
    force: bool = False,
    oracle: Path | None = None,
) -> dict[str, Any]:
    """Make a new world and write all versions known before `end`.

    Parameters
    ----------
    out : Path
        The landing folder.
    end : datetime
        Orders under way at this instant have only their first version; `advance` brings the rest.
    days : float
        Length of the history.
    orders : int
        About how many orders to make. Above 2,083 a day the market grows with them.
    seed : int
        Equal seeds, ends, days and orders give equal rows.
    progress : callable, optional
        Takes a line of text now and then.
    force : bool
        Replace a world that is already there.
    oracle : Path, optional
        Also write each order's noise-free delivery minutes to this Parquet file, outside of `out`.

    Returns
    -------
    dict
        `rows` and `files` written, `orders` placed, `start` and `complete_until` (ISO 8601).

    Raises
    ------
    SimulatorError
        There is a world already, the folder belongs to another source, or a number is not positive.
    SimulatorBusy
        Another simulator is writing.
    """
    end = as_utc(end)
    if days <= 0 or orders <= 0:
        raise SimulatorError(f"a history needs days and orders above 0, not days={days}, orders={orders}")
    landing = Landing(out)
    with landing.locked():
        watermark = landing.watermark()
        if watermark is not None and not force:
            raise SimulatorError(
                f"{out} already holds a world, complete until {watermark.isoformat()}: continue it with "
                "`python -m simulator advance`, or replace it with --force"
            )
        landing.clear()
        state = WorldState(seed, orders / days, end - timedelta(days=days))
        landing.write_state(state)
        with _Emission(landing, state, oracle, progress) as emission:
            emission.emit(state.start, end)
        landing.move_watermark(end, state.start)
    return emission.summary(state.start, end)


def advance(
    out: Path,
    until: datetime,
    drill: Drill | str | None = None,
    progress: Progress | None = None,
    *,
    oracle: Path | None = None,
) -> dict[str, Any]:
    """Continue the world: write the versions known from where it stopped to `until`, and move the watermark.

    Parameters
    ----------
    out : Path
        The landing folder.
    until : datetime
        Any instant, not only full hours, at or after the watermark.
    drill : Drill or str, optional
        Starts a drill, which stays in force in later calls. A mere name means from the watermark on: `drift` for good,
        `dirty` and `outage` until `until`.
    progress : callable, optional
        Takes a line of text now and then.
    oracle : Path, optional
        Also write the noise-free delivery minutes of the orders placed in between to this Parquet file.

    Returns
    -------
    dict
        As `write_history`; `start` is where it continued. During an outage `complete_until` stays behind `until`.

    Raises
    ------
    SimulatorError
        No world yet, `until` before the watermark, or a drill that starts before the watermark.
    SimulatorBusy
        Another simulator is writing.
    """
    until = as_utc(until)
    landing = Landing(out)
    with landing.locked():
        since, state = landing.position(), landing.state()
        if until < since:
            raise SimulatorError(
                f"{out} is already complete until {since.isoformat()}, after {until.isoformat()}: advance to a later "
                "instant, or make a new history with --force"
            )
        state = _begin(landing, state, drill, since, until)
        _clean(landing, since)
        stop = _reachable(state, since, until)
        with _Emission(landing, state, oracle, progress) as emission:
            emission.emit(since, stop, moving=True)
    return emission.summary(since, stop)


def start_drill(out: Path, drill: Drill) -> None:
    """Start a drill without advancing; a running stream takes it up.

    Raises
    ------
    SimulatorError
        No world yet, or the drill starts before the watermark.
    """
    landing = Landing(out)
    with landing.locked():
        _begin(landing, landing.state(), drill, landing.position(), drill.start)


def stop_drills(out: Path) -> int:
    """End every drill at the watermark, and return how many there were.

    Raises
    ------
    SimulatorError
        No world yet.
    """
    landing = Landing(out)
    with landing.locked():
        state, since = landing.state(), landing.position()
        landing.write_state(state.without_drills(since))
    return sum(drill.end is None or drill.end > since for drill in state.drills)


def placed_between(out: Path, start: datetime, end: datetime) -> pl.DataFrame:
    """The orders placed in [start, end), as they look when a prediction is asked for.

    Parameters
    ----------
    out : Path
        The landing folder.
    start, end : datetime
        The instants of placing. Orders that have not arrived yet are missing.

    Returns
    -------
    polars.DataFrame
        Columns `REQUEST`, one row per order, ordered by `placed_at` and `order_id`.
    """
    start, end = as_utc(start), as_utc(end)
    files = Landing(out).files(start, end + timedelta(hours=LONGEST_HOURS))
    if not files:
        return pl.DataFrame(schema={name: LANDING[name] for name in REQUEST})
    asked = pl.col("placed_at").is_between(start, end, closed="left") & (pl.col("status") == "placed")
    versions = pl.scan_parquet(files, hive_partitioning=False).filter(asked).select(REQUEST)
    # Within the instant of placing, sorting by all columns makes the choice among unequal copies repeatable.
    return versions.sort("placed_at", *REQUEST).unique("order_id", keep="first", maintain_order=True).collect()


class _Emission:
    """One call's work: hours of the world in, landing files out, in chunks that fit into memory."""

    def __init__(self, landing: Landing, state: WorldState, oracle: Path | None, progress: Progress | None) -> None:
        self._landing = landing
        self._state = state
        self._world = World(state.seed, state.orders_per_day, state.drills)
        self._start_us = microseconds(state.start)
        self._say = progress or (lambda line: None)
        self._stack = ExitStack()
        self._oracle = _OracleFile(oracle, landing.root) if oracle else None
        self._rows = self._files = self._orders = 0

    def __enter__(self) -> _Emission:
        if self._oracle:
            self._stack.enter_context(self._oracle)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.__exit__(*error)  # type: ignore[arg-type]

    def emit(self, since: datetime, until: datetime, *, moving: bool = False) -> None:
        """Write the versions known in [since, until); with `moving`, the watermark follows chunk by chunk."""
        if since >= until:
            return
        pending = self._under_way(since, until)
        told = 0
        for start, end in _chunks(since, until, self._chunk_hours()):
            hours = range(ceil_hour(microseconds(start)), ceil_hour(microseconds(end)))
            made = self._make(hours, count=(since, until))
            versions = pl.concat([pending, made])
            due = pl.col("known_at") < end
            self._write(start, end, versions.filter(due))
            pending = versions.filter(~due)
            if moving:
                self._landing.move_watermark(end, self._state.start)
            told = self._tell(told, (end - since) / (until - since), end)

    def summary(self, start: datetime, end: datetime) -> dict[str, Any]:
        """What was written, as JSON values."""
        return {
            "rows": self._rows,
            "orders": self._orders,
            "files": self._files,
            "start": start.isoformat(),
            "complete_until": end.isoformat(),
        }

    def _under_way(self, since: datetime, until: datetime) -> pl.DataFrame:
        """Versions of orders placed before `since` (or in its hour) that become known at or after it."""
        back = min([since, *(o.start for o in self._state.drills if o.kind == "outage" and o.end and o.end >= since)])
        first = max(microseconds(back) // HOUR_US - LONGEST_HOURS, self._start_us // HOUR_US)
        last, step = ceil_hour(microseconds(since)), self._chunk_hours()
        parts = [NO_VERSIONS]
        for hour in range(first, last, step):
            made = self._make(range(hour, min(hour + step, last)), count=(since, until))
            parts.append(made.filter(pl.col("known_at") >= since))
        return pl.concat(parts)

    def _make(self, hours: range, count: tuple[datetime, datetime]) -> pl.DataFrame:
        if not hours:
            return NO_VERSIONS
        orders = _joined([self._world.orders(hour) for hour in hours])
        begun = orders["placed"] >= self._start_us
        if not begun.all():
            orders = _only(begun, orders)
        self._count(orders, *count)
        return order_versions(orders, self._world.market, self._state.drills)

    def _count(self, orders: Columns, since: datetime, until: datetime) -> None:
        inside = (orders["placed"] >= microseconds(since)) & (orders["placed"] < microseconds(until))
        self._orders += int(inside.sum())
        if self._oracle and inside.any():
            self._oracle.write(oracle_of(_only(inside, orders)))

    def _write(self, start: datetime, end: datetime, due: pl.DataFrame) -> None:
        rows = due.sort("known_at", maintain_order=True).select(list(LANDING))
        self._files += self._landing.write(start, end, rows)
        self._rows += rows.height

    def _tell(self, told: int, share: float, reached: datetime) -> int:
        tenth = int(share * 10)
        if 0 < tenth < 10 and tenth > told:
            self._say(f"simulated until {reached:%Y-%m-%d %H:%M} UTC ({10 * tenth} %): {self._orders:,} orders")
        return tenth

    def _chunk_hours(self) -> int:
        fitting = ORDERS_IN_MEMORY / (self._state.orders_per_day / 24)
        return max([hours for hours in (1, 2, 3, 4, 6, 8, 12, 24) if hours <= fitting], default=1)


class _OracleFile:
    """A Parquet file that grows row group by row group and appears when it is complete."""

    def __init__(self, path: Path, landing: Path) -> None:
        if path.resolve().is_relative_to(landing.resolve()):
            raise SimulatorError(f"--oracle {path} lies in the landing folder, where it would be read as orders")
        self._path = path
        self._temporary = path.with_name(f".{path.name}.tmp")
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> _OracleFile:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        return self

    def write(self, rows: pl.DataFrame) -> None:
        """Append rows."""
        table = rows.to_arrow()
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._temporary, table.schema)
        self._writer.write_table(table)

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if self._writer:
            self._writer.close()
        if kind is None and self._writer:
            self._temporary.replace(self._path)
        self._temporary.unlink(missing_ok=True)


def _begin(
    landing: Landing, state: WorldState, drill: Drill | str | None, since: datetime, until: datetime
) -> WorldState:
    """The state with `drill` in it, remembered."""
    if drill is None:
        return state
    if isinstance(drill, str):
        drill = Drill(drill, since, None if drill == "drift" else until)
    if drill.start < since and drill not in state.drills:
        raise SimulatorError(
            f"drill {drill.kind} starts at {drill.start.isoformat()}, but everything before {since.isoformat()} is "
            "already written: start it later"
        )
    state = state.with_drill(drill)
    landing.write_state(state)
    logger.warning("drill: %s", drill.to_dict())
    return state


def _clean(landing: Landing, since: datetime) -> None:
    removed = landing.remove_unvouched(since)
    if removed:
        logger.warning("removed %d files beyond %s that a killed run had left", removed, since.isoformat())


def _reachable(state: WorldState, since: datetime, until: datetime) -> datetime:
    """`until`, or the start of the outage that it lies in."""
    outage = state.outage_at(until)
    if outage is None:
        return until
    logger.warning("outage until %s: nothing arrives", outage.end)
    return max(since, outage.start)


def _chunks(since: datetime, until: datetime, hours: int) -> Iterator[tuple[datetime, datetime]]:
    """[since, until) cut at midnight UTC and at every `hours`-th hour of the day."""
    start, stop = microseconds(since), microseconds(until)
    step = min(hours * HOUR_US, DAY_US)
    while start < stop:
        end = min((start // step + 1) * step, stop)
        yield instant(start), instant(end)
        start = end


def _joined(hours: list[Columns]) -> Columns:
    return {name: np.concatenate([hour[name] for hour in hours]) for name in hours[0]}


def _only(where: np.ndarray, orders: Columns) -> Columns:
    return {name: values[where] for name, values in orders.items()}

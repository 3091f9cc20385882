"""The landing folder as its writer sees it: files, watermark, the simulator's own state, and who may write.

Files are written beside and renamed, then the watermark moves, in one rename too. So whatever lies at or beyond the
watermark belongs to a run that was killed, and the next run removes it.
"""

from __future__ import annotations

import fcntl
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from simulator.clock import as_utc
from simulator.drills import Drill
from simulator.errors import SimulatorBusy, SimulatorError

__all__ = ["Landing", "WorldState"]

SOURCE = "simulator"
FORMAT = 1
_FILE_NAME = re.compile(r"(\d{8}T\d{6}(?:-\d{6})?)_\d{8}T\d{6}(?:-\d{6})?\.parquet")


@dataclass(frozen=True, slots=True)
class WorldState:
    """What has to be remembered to continue a world: everything else follows from it."""

    seed: int
    orders_per_day: float
    start: datetime
    drills: tuple[Drill, ...] = ()

    def with_drill(self, drill: Drill) -> WorldState:
        """The state with one more drill."""
        return self if drill in self.drills else replace(self, drills=(*self.drills, drill))

    def without_drills(self, since: datetime) -> WorldState:
        """The state in which no drill is in force from `since` on; what they did before stays done."""
        kept = (drill for drill in self.drills if drill.start < since)
        return replace(self, drills=tuple(replace(drill, end=min(drill.end or since, since)) for drill in kept))

    def outage_at(self, until: datetime) -> Drill | None:
        """The outage that keeps the watermark from reaching `until`."""
        inside = [
            drill
            for drill in self.drills
            if drill.kind == "outage" and drill.end is not None and drill.start < until <= drill.end
        ]
        return min(inside, key=lambda drill: drill.start, default=None)

    def to_dict(self) -> dict[str, Any]:
        """The state as JSON values."""
        return {
            "format": FORMAT,
            "seed": self.seed,
            "orders_per_day": self.orders_per_day,
            "start": self.start.isoformat(),
            "drills": [drill.to_dict() for drill in self.drills],
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> WorldState:
        """The state that `to_dict` wrote."""
        drills = tuple(Drill.from_dict(drill) for drill in values["drills"])
        return cls(int(values["seed"]), float(values["orders_per_day"]), as_utc(values["start"]), drills)


class Landing:
    """A folder of `day=YYYY-MM-DD/<start>_<end>.parquet` files, with `_watermark.json` and `_simulator.json`.

    Parameters
    ----------
    root : Path
        The landing folder, `settings.landing_orders` in an installation.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.watermark_file = root / "_watermark.json"
        self.state_file = root / "_simulator.json"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other simulators out.

        Raises
        ------
        SimulatorBusy
            Another one is writing.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / ".simulator.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                message = f"another simulator is writing to {self.root}: wait for it, or stop it first"
                raise SimulatorBusy(message) from error
            yield

    def watermark(self) -> datetime | None:
        """Until when this folder is complete; None before the first history.

        Raises
        ------
        SimulatorError
            The folder is filled by another source, or the file is damaged.
        """
        content = _read_json(self.watermark_file)
        if content is None:
            return None
        try:
            source, complete_until = content["source"], as_utc(content["complete_until"])
        except (KeyError, TypeError) as error:
            raise _damaged(self.watermark_file, error) from error
        if source != SOURCE:
            raise SimulatorError(
                f"{self.root} holds orders from {source!r}: simulate into another folder (set ETA_DATA_DIR or --out)"
            )
        return complete_until

    def state(self) -> WorldState:
        """The world that fills this folder.

        Raises
        ------
        SimulatorError
            There is none yet, or the file is damaged.
        """
        content = _read_json(self.state_file)
        if content is None:
            raise SimulatorError(f"no simulated world in {self.root}: make one first, `python -m simulator history`")
        try:
            return WorldState.from_dict(content)
        except (KeyError, TypeError, ValueError) as error:
            raise _damaged(self.state_file, error) from error

    def position(self) -> datetime:
        """The watermark of a folder that must have one.

        Raises
        ------
        SimulatorError
            Its history is missing or was not finished.
        """
        watermark = self.watermark()
        if watermark is None:
            raise SimulatorError(f"no finished history in {self.root}: make one first, `python -m simulator history`")
        return watermark

    def write_state(self, state: WorldState) -> None:
        """Remember `state`, in one rename."""
        _write_json(self.state_file, state.to_dict())

    def move_watermark(self, complete_until: datetime, start: datetime) -> None:
        """Vouch for everything known before `complete_until`, in one rename. Call it after the files."""
        started = start.replace(minute=0, second=0, microsecond=0)
        content = {"complete_until": complete_until.isoformat(), "source": SOURCE, "started_at": started.isoformat()}
        _write_json(self.watermark_file, content)

    def write(self, start: datetime, end: datetime, rows: pl.DataFrame) -> bool:
        """Write the versions known in [start, end), which lie on one UTC day. Returns whether there were any."""
        if not rows.height:
            return False
        path = self.day(start) / f"{_stamp(start)}_{_stamp(end)}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        with _beside(path) as temporary:
            rows.write_parquet(temporary, compression="zstd", compression_level=1)
        return True

    def day(self, instant: datetime) -> Path:
        """The folder of the instant's UTC day."""
        return self.root / f"day={instant:%Y-%m-%d}"

    def files(self, start: datetime, end: datetime) -> list[Path]:
        """Files in the folders of the days from `start` to `end`, both included, oldest first."""
        first, last = self.day(start).name, self.day(end).name
        days = [day for day in sorted(self.root.glob("day=*")) if first <= day.name <= last]
        return [path for day in days for path in sorted(day.glob("*.parquet")) if not path.name.startswith(".")]

    def remove_unvouched(self, position: datetime) -> int:
        """Delete what a killed run left at or beyond the watermark; returns the number of files."""
        left = [path for path in self._own_files() if path.parent >= self.day(position) and _start(path) >= position]
        for path in left:
            path.unlink()
        return len(left)

    def clear(self) -> None:
        """Delete the simulated world; files that others dropped here stay."""
        self.watermark_file.unlink(missing_ok=True)
        for path in self._own_files():
            path.unlink()
        for day in self.root.glob("day=*"):
            if not any(day.iterdir()):
                shutil.rmtree(day)
        self.state_file.unlink(missing_ok=True)

    def _own_files(self) -> list[Path]:
        return [path for path in self.root.glob("day=*/*.parquet") if _FILE_NAME.fullmatch(path.name)]


def _stamp(instant: datetime) -> str:
    return f"{instant:%Y%m%dT%H%M%S}" + (f"-{instant:%f}" if instant.microsecond else "")


def _start(path: Path) -> datetime:
    stamp = path.name.split("_")[0]
    pattern = "%Y%m%dT%H%M%S-%f" if "-" in stamp else "%Y%m%dT%H%M%S"
    return datetime.strptime(stamp, pattern).replace(tzinfo=UTC)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> SimulatorError:
    return SimulatorError(f"{path} is damaged ({error!r}): delete it and make a new history with --force")


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with _beside(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n")


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A temporary file that takes the place of `path` if the block succeeds, and vanishes if it does not."""
    # Of one name, which the lock makes safe: what a killed simulator left is written over.
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)

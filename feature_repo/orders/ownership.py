"""Whose the landing folder is: one ingestion at a time, of one source, through one mapping."""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from config import Settings
from feature_repo.files import write_atomically
from feature_repo.orders.columns import mapping_record
from feature_repo.orders.mapping_file import Mapping, MappingError, Time
from feature_repo.orders.watermark import Watermark, read_watermark


@contextmanager
def landing_lock(settings: Settings) -> Iterator[None]:
    """Keep other ingestions out; raises `MappingError` if one is at work."""
    settings.landing_orders.mkdir(parents=True, exist_ok=True)
    with (settings.landing_orders / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise MappingError(
                f"another ingestion writes to {settings.landing_orders}: wait until it has ended, and run this again"
            ) from error
        yield


@dataclass(frozen=True, slots=True)
class Record:
    """What is remembered of a source beside its orders.

    Attributes
    ----------
    name, hash : str
        Of the mapping.
    formats : list of pairs of str
        Time formats (meant, other) where both fit, as earlier ingestions decided.
    allowed : list of str
        What people decided for earlier ingestions.
    landed : int, optional
        Versions that have landed; None in a folder from before they were counted.
    columns : list of str
        Canonical columns that the mapping fills.
    market_zone : str, optional
        By which clock the market lives; None in a folder from before that was noted.
    """

    name: str
    hash: str
    formats: list[tuple[str, str]] = field(default_factory=list)
    allowed: list[str] = field(default_factory=list)
    landed: int | None = None
    columns: list[str] = field(default_factory=list)
    market_zone: str | None = None

    def after(self, formats: Iterable[tuple[str, str]], allowed: Iterable[str], landed: int) -> Record:
        """The record with what one more ingestion decided and landed."""
        return replace(
            self,
            formats=list(dict.fromkeys([*formats, *self.formats])),
            allowed=list(dict.fromkeys([*self.allowed, *allowed])),
            landed=None if self.landed is None else self.landed + landed,
        )


def read_record(settings: Settings) -> Record | None:
    """The landing folder's record; None where no mapping fills it.

    Raises
    ------
    MappingError
        It is damaged.
    """
    path = mapping_record(settings)
    try:
        content = json.loads(path.read_text())
        formats = [(str(meant), str(other)) for meant, other in content.pop("formats", [])]
        return Record(**content, formats=formats)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, AttributeError) as error:
        raise MappingError(f"{path} is damaged ({error!r}): restore it, or remove the data directory") from error


def write_record(settings: Settings, record: Record) -> None:
    """Put the record into place in one rename."""
    write_atomically(mapping_record(settings), json.dumps(asdict(record), indent=2) + "\n")


def require_own_landing(plan: Mapping, settings: Settings) -> tuple[Watermark | None, Record]:
    """What earlier ingestions of this source through this mapping left.

    Raises
    ------
    MappingError
        The landing folder belongs to another source, or its orders came through another mapping.
    """
    watermark = read_watermark(settings)
    other = f"use another data directory (ETA_DATA_DIR=...), or remove {settings.data_dir} to start anew"
    if watermark is not None and watermark.source != plan.name:
        raise MappingError(
            f"{settings.landing_orders} belongs to the source {watermark.source!r}, orders of {plan.name!r} must not "
            f"be mixed into it: {other}"
        )
    foreign = _foreign_file(plan, settings) if watermark is None else None
    if foreign is not None:
        raise MappingError(
            f"{foreign} lies in the landing folder without a watermark: another source is writing there, or was "
            f"interrupted; {other}"
        )
    record = read_record(settings)
    if record is not None and record.hash != _plan_hash(plan):
        raise MappingError(
            f"the mapping {plan.name!r} has changed since orders were landed in {settings.landing_orders}; the same "
            f"orders would come in a second time with other values: {other}"
        )
    record = record or Record(plan.name, _plan_hash(plan), landed=0)
    return watermark, replace(record, columns=plan.mapped, market_zone=plan.market_zone)


def _plan_hash(plan: Mapping) -> str:
    """Identifies what the mapping makes of a row; where rows are read from does not matter.

    Options of `time` that are as they were before there were any leave the hash as it was. The market's zone is no part
    of it: orders are kept in UTC, whatever their hours are called.
    """
    meaning: dict[str, Any] = plan.model_dump(mode="json", include={"columns", "time", "where", "versions"})
    options = {name: about.default for name, about in Time.model_fields.items() if name not in ("zone", "formats")}
    unset = [name for name, default in options.items() if meaning["time"][name] == default]
    meaning["time"] = {name: value for name, value in meaning["time"].items() if name not in (*unset, "market_zone")}
    meaning |= plan.read.model_dump(include={"decimal", "thousands"}, exclude_defaults=True)
    if plan.corrections:
        meaning["corrections"] = sorted(plan.corrections)
    return hashlib.sha256(json.dumps(meaning, sort_keys=True).encode()).hexdigest()


def _foreign_file(plan: Mapping, settings: Settings) -> Path | None:
    """A file that no ingestion with this mapping has written. Those of a killed one are taken for granted."""
    files = sorted(settings.landing_orders.glob("day=*/*.parquet"))
    return next((path for path in files if not path.name.startswith((".", f"{plan.name}-"))), None)

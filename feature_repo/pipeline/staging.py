"""Frames that one step leaves for the next, as files: a step can run in a process of its own, and be run again."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import polars as pl

from config import Settings
from feature_repo.files import replace_file, write_atomically
from feature_repo.orders.landed import Landed
from feature_repo.orders.landing import Reading
from feature_repo.pipeline.errors import Result, StepMissing
from feature_repo.window import DAY, Window

STAGED_FOR = 3 * DAY
"""How long staged files outlive their window: long enough to look at after a bad weekend."""
SLUG = re.compile(r"\d{8}T\d{2}_(?P<end>\d{8}T\d{2})")
"""`Window.slug`, as in the names of staged files."""


def staged_file(kind: str, window: Window, settings: Settings) -> Path:
    """Where a window's frame of one kind is kept."""
    return settings.staging / kind / f"{window.slug}.parquet"


def stage(frame: pl.DataFrame, path: Path) -> Path:
    """Write a frame beside its place and rename it into place."""
    replace_file(path, lambda temporary: frame.write_parquet(temporary, compression="uncompressed"))
    return path


def load(kind: str, window: Window, settings: Settings, made_by: str) -> pl.DataFrame:
    """What another step has staged.

    Raises
    ------
    StepMissing
        It has not; the message names that step.
    """
    return pl.read_parquet(_require_staged(kind, window, settings, made_by), hive_partitioning=False)


def _require_staged(kind: str, window: Window, settings: Settings, made_by: str) -> Path:
    path = staged_file(kind, window, settings)
    if not path.exists():
        raise StepMissing(f"{path} is not there: run {made_by} for {window} first")
    return path


class StagedViews(Mapping[str, pl.DataFrame]):
    """The staged tiles or feature rows by view, each read when it is asked for, so that one is in memory at a time.

    Raises
    ------
    StepMissing
        Those of a view are not there.
    """

    def __init__(self, kind: str, views: Sequence[str], window: Window, settings: Settings) -> None:
        self._kind, self._views, self._window, self._settings = kind, views, window, settings
        for view in views:
            _require_staged(f"{kind}/{view}", window, settings, made_by="compute_features")

    def __getitem__(self, view: str) -> pl.DataFrame:
        return load(f"{self._kind}/{view}", self._window, self._settings, made_by="compute_features")

    def __iter__(self) -> Iterator[str]:
        return iter(self._views)

    def __len__(self) -> int:
        return len(self._views)


def basis_file(window: Window, settings: Settings) -> Path:
    """Where it is noted what the window's staged rows were computed from."""
    return settings.staging / "features" / f"{window.slug}.json"


def note_basis(basis: Result, window: Window, settings: Settings) -> None:
    """Note it, in one rename."""
    write_atomically(basis_file(window, settings), json.dumps(basis))


def noted_basis(window: Window, settings: Settings) -> Result:
    """What the staged rows were computed from: definitions, and tiles rewritten so many times."""
    path = basis_file(window, settings)
    if not path.exists():
        raise StepMissing(f"{path} is not there: run compute_features for {window} first")
    basis: Result = json.loads(path.read_text())
    return basis


def note_reading(reading: Reading, window: Window, settings: Settings) -> None:
    """Note beside the staged orders what the landing folder held when they were read."""
    path = staged_file("orders", window, settings).with_suffix(".json")
    write_atomically(path, json.dumps(reading.landed.to_dict()))


def noted_reading(window: Window, settings: Settings) -> Landed:
    """What the landing folder held when the window was read."""
    path = staged_file("orders", window, settings).with_suffix(".json")
    if not path.exists():
        raise StepMissing(f"{path} is not there: run ingest_orders for {window} first")
    return Landed.from_dict(json.loads(path.read_text()))


def forget_staged(window: Window, settings: Settings) -> None:
    """Delete what was staged for windows that ended long before this one."""
    limit = f"{window.start - STAGED_FOR:%Y%m%dT%H}"
    for path in settings.staging.rglob("*_*.*"):
        if (slug := SLUG.fullmatch(path.stem)) and slug["end"] < limit:
            path.unlink(missing_ok=True)

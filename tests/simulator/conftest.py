"""Small worlds for the simulator's tests: ten days, about 3,000 orders."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from simulator.generate import write_history

END = datetime(2026, 5, 1, tzinfo=UTC)


def landed(out: Path) -> pl.DataFrame:
    """All rows of a landing folder, sorted by content."""
    frame = pl.scan_parquet(out / "day=*" / "*.parquet", hive_partitioning=False).collect()
    return frame.sort(frame.columns)


def known_before(frame: pl.DataFrame, instant: datetime) -> pl.DataFrame:
    return frame.filter(pl.max_horizontal("updated_at", "arrived_at") < instant)


def with_known_at(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(known_at=pl.max_horizontal("updated_at", "arrived_at"))


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `world` is copied from."""
    out = tmp_path_factory.mktemp("world") / "landing"
    write_history(out, END, days=10, orders=3_000, seed=3)
    return out


@pytest.fixture
def world(tmp_path: Path, template: Path) -> Path:
    """A landing folder with ten days of history that ends at `END`, to be continued by one test."""
    return Path(shutil.copytree(template, tmp_path / "landing"))


@pytest.fixture(scope="session")
def at_once(tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    """The same world as `world`, made in one call until three days after `END`."""
    out = tmp_path_factory.mktemp("at-once")
    write_history(out, END + timedelta(days=3), days=13, orders=3_900, seed=3)
    return landed(out)


@pytest.fixture(scope="session")
def month(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A landing folder with 30 days at the default demand, and its oracle. Read only."""
    out = tmp_path_factory.mktemp("month")
    write_history(out / "landing", END, days=30, orders=62_500, seed=7, oracle=out / "oracle.parquet")
    return out / "landing", out / "oracle.parquet"

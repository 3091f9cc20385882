"""Where the results of a monitored window are kept, each written beside and renamed: a reader sees whole files only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from config import Settings
from feature_repo.files import replace_file, write_atomically
from feature_repo.window import Window

if TYPE_CHECKING:
    from evidently.core.report import Snapshot

OUTCOMES, PERFORMANCE, DRIFT, DRIFT_PAGE, EVIDENTLY, VERDICT = (
    "outcomes.parquet",
    "performance.json",
    "drift.json",
    "drift.html",
    "evidently.json",
    "verdict.json",
)


class MissingResult(FileNotFoundError):
    """A step needs the result of an earlier one that has not run for this window."""


def report_directory(settings: Settings, window: Window) -> Path:
    """The directory of one window's results."""
    return settings.reports / "monitoring" / window.slug


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write `content` as JSON. NaN and infinity are refused: no JSON reader has to take them."""
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    write_atomically(path, text)


def write_frame(path: Path, frame: pl.DataFrame) -> None:
    """Write `frame` as Parquet."""
    replace_file(path, lambda temporary: frame.write_parquet(temporary, compression="zstd"))


def write_snapshot(directory: Path, snapshot: Snapshot) -> None:
    """Write an Evidently report as a page that needs no network, and as JSON."""
    replace_file(directory / DRIFT_PAGE, lambda temporary: snapshot.save_html(str(temporary)))
    replace_file(directory / EVIDENTLY, lambda temporary: snapshot.save_json(str(temporary)))


def read_result(settings: Settings, window: Window, file: str, step: str) -> dict[str, Any]:
    """The JSON result of an earlier step.

    Raises
    ------
    MissingResult
        The step has not run for this window.
    """
    path = report_directory(settings, window) / file
    if not path.exists():
        raise MissingResult(f"{path} is not there: run {step} for {window} first")
    return dict(json.loads(path.read_text()))


def earlier_verdicts(settings: Settings, window: Window, limit: int) -> list[dict[str, Any]]:
    """The verdicts of the last windows that ended at or before this one's start, oldest first."""
    found = []
    for path in (settings.reports / "monitoring").glob(f"*/{VERDICT}"):
        content = json.loads(path.read_text())
        if content["window_end"] <= window.start.isoformat():
            found.append(content)
    return sorted(found, key=lambda content: (content["window_end"], content["window_start"]))[-limit:]

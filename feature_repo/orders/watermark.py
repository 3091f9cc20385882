"""Until when the landing folder is complete, and who fills it: `_watermark.json`, in the folder itself."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from config import Settings
from feature_repo.files import write_atomically
from feature_repo.orders.fold import correctable
from feature_repo.window import as_utc


class LandingError(ValueError):
    """A file in the landing folder cannot be used; the message names the file, the column and what to do."""


@dataclass(frozen=True, slots=True)
class Watermark:
    """Until when the landing folder is complete, and who fills it.

    Attributes
    ----------
    complete_until : datetime
        All versions known before this instant are there. UTC.
    source : str
        `simulator`, or the name of a mapping.
    started_at : datetime
        The full hour of the first version. UTC.
    corrections : tuple of str
        Columns in which a null, or an earlier status, takes back what was known; see `fold`.
    """

    complete_until: datetime
    source: str
    started_at: datetime
    corrections: tuple[str, ...] = ()


def watermark_file(settings: Settings) -> Path:
    """Where the watermark is kept."""
    return settings.landing_orders / "_watermark.json"


def read_watermark(settings: Settings) -> Watermark | None:
    """The landing folder's watermark; None when nothing has landed yet.

    Raises
    ------
    LandingError
        The file is damaged.
    """
    path = watermark_file(settings)
    try:
        content = json.loads(path.read_text())
        until, started = as_utc(content["complete_until"]), as_utc(content["started_at"])
        return Watermark(until, str(content["source"]), started, correctable(content.get("corrections", ())))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise LandingError(
            f"{path} is damaged ({error!r}): delete it and run `make ingest` or the simulator again"
        ) from error


def corrections(settings: Settings) -> tuple[str, ...]:
    """Columns in which the source says that a later version may take back what was known."""
    watermark = read_watermark(settings)
    return watermark.corrections if watermark else ()


def write_watermark(settings: Settings, watermark: Watermark) -> None:
    """Put the watermark there in one rename. Call it after the files that it vouches for."""
    content: dict[str, Any] = {
        "complete_until": as_utc(watermark.complete_until).isoformat(),
        "source": watermark.source,
        "started_at": as_utc(watermark.started_at).isoformat(),
    }
    if watermark.corrections:
        content["corrections"] = [*watermark.corrections]
    write_atomically(watermark_file(settings), json.dumps(content, indent=2) + "\n", durable=True)

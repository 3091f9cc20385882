"""What offline rows have been replaced that may still be online.

The online store keeps the newest row of an entity, and has no way to see that this row is no longer in the offline
table. So it is noted which views are about to lose or change rows, before they do; the note is taken away when the
online store has been held against the table (`pipeline.online`). Killed anywhere in between, the next run does it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from config import Settings
from feature_repo.files import write_atomically
from feature_repo.window import as_utc


class ReplacedUnknown(RuntimeError):
    """The note is damaged; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Replaced:
    """The note.

    Attributes
    ----------
    views : frozenset of str
    until : datetime
        The hours before it were computed when the first row was replaced. As long as they are not so again, rows from
        there on are not wrong, only not computed anew, and what is online stays.
    """

    views: frozenset[str]
    until: datetime


def read_replaced(settings: Settings) -> Replaced | None:
    """The note; None when nothing has been replaced.

    Raises
    ------
    ReplacedUnknown
        It is damaged.
    """
    path = _file(settings)
    try:
        content = json.loads(path.read_text())
        return Replaced(frozenset(map(str, content["views"])), as_utc(content["until"]))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise ReplacedUnknown(
            f"{path} is damaged ({error!r}), so nobody knows which rows were replaced: delete it, and hold the whole "
            "online store against the tables with `python -m feature_repo reconcile`"
        ) from error


def note_replaced(views: Iterable[str], until: datetime, settings: Settings) -> None:
    """Add views to the note. Call it before their rows are replaced, and hold the lock of the tables."""
    if not (named := frozenset(views)):
        return
    before = read_replaced(settings)
    noted = Replaced(before.views | named, max(before.until, until)) if before else Replaced(named, until)
    if noted != before:
        content = {"views": sorted(noted.views), "until": noted.until.isoformat()}
        write_atomically(_file(settings), json.dumps(content) + "\n", durable=True)


def forget_replaced(settings: Settings) -> None:
    """Take the note away: what is online follows from the tables again."""
    _file(settings).unlink(missing_ok=True)


def _file(settings: Settings) -> Path:
    return settings.features / "_replaced.json"

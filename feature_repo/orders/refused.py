"""Which windows were refused as a whole, and not accepted since: they are judged by themselves, never beside others.

A bad hour is a fifth of one hour, but a tenth of two. So what was refused alone is not let in among good hours, and
nothing is served of it meanwhile.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

from config import Settings
from feature_repo.files import write_atomically
from feature_repo.window import Window


class RefusedBefore(RuntimeError):
    """A window holds hours that were refused by themselves; the message says which, why, and what to run first."""


def read_refused(settings: Settings) -> dict[Window, str]:
    """The refused windows, in order, with the reasons.

    Raises
    ------
    ValueError
        The record is damaged.
    """
    path = _file(settings)
    try:
        content = json.loads(path.read_text())
        return {Window(one["start"], one["end"]): str(one["reason"]) for one in content["refused"]}
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is damaged ({error!r}): restore it, or delete it and run the hours that were refused by "
            "themselves; else they are judged together with others"
        ) from error


def note_refused(window: Window, reason: str, settings: Settings) -> None:
    """Remember a window that was refused. Hold the lock of the tables."""
    others = {one: why for one, why in read_refused(settings).items() if not _overlap(one, window)}
    _write({**others, window: reason}, settings)


def note_accepted(window: Window, settings: Settings) -> None:
    """Forget what was refused of a window that has been accepted. Hold the lock of the tables."""
    before = read_refused(settings)
    after = {one: why for one, why in before.items() if not (window.start <= one.start and one.end <= window.end)}
    if after != before:
        _write(after, settings)


def apart(window: Window, settings: Settings) -> list[Window]:
    """The window in pieces, in order, such that what was refused stands alone."""
    refused = [one for one in read_refused(settings) if _overlap(one, window)]
    cuts = {bound for one in refused for bound in (one.start, one.end) if window.start < bound < window.end}
    return [Window(start, end) for start, end in pairwise(sorted({window.start, window.end, *cuts}))]


def require_alone(window: Window, settings: Settings) -> None:
    """Refuse a window that holds more than what was refused.

    Raises
    ------
    RefusedBefore
        It does.
    """
    pieces = apart(window, settings)
    if len(pieces) > 1:
        (refused, reason), *_ = [(one, why) for one, why in read_refused(settings).items() if _overlap(one, window)]
        raise RefusedBefore(
            f"{window} holds {refused}, which was refused by itself ({reason}): mend its orders or the rule, then "
            f"`python -m feature_repo backfill {window.start.isoformat()} {window.end.isoformat()}`, which judges it "
            "apart from the others"
        )


def refused_within(window: Window, settings: Settings) -> str | None:
    """What was refused within a window, in words; None when nothing was."""
    found: Mapping[Window, str] = {one: why for one, why in read_refused(settings).items() if _overlap(one, window)}
    return "; ".join(f"{one}: {why}" for one, why in found.items()) or None


def _overlap(one: Window, other: Window) -> bool:
    return one.start < other.end and other.start < one.end


def _write(refused: Mapping[Window, str], settings: Settings) -> None:
    rows = [
        {"start": one.start.isoformat(), "end": one.end.isoformat(), "reason": refused[one]}
        for one in sorted(refused, key=lambda one: one.start)
    ]
    write_atomically(_file(settings), json.dumps({"refused": rows}, indent=1) + "\n", durable=True)


def _file(settings: Settings) -> Path:
    return settings.quarantine / "_refused.json"

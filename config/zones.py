"""Names of time zones, as people write them in settings and mapping files."""

from __future__ import annotations

import difflib
from functools import lru_cache
from zoneinfo import ZoneInfo, available_timezones

__all__ = ["time_zone"]

_OF_THE_MACHINE = ("localtime", "posixrules", "Factory")
"""Names in the database that mean something else on each machine, or nothing."""


def time_zone(name: str) -> str:
    """The name of a time zone that exists, as the database writes it.

    Raises
    ------
    ValueError
        There is none of that name; the message says what to write, and which name is near.
    """
    known = _known()
    # A machine may find `EUROPE/PARIS` and one with another file system not; `right/` counts leap seconds.
    if name in known and name not in _OF_THE_MACHINE and not name.startswith(("posix/", "right/")):
        return ZoneInfo(name).key
    raise ValueError(f"{name!r} is no time zone; write one like 'UTC' or 'Europe/Paris'.{_near(name)}")


@lru_cache
def _known() -> frozenset[str]:
    return frozenset(available_timezones())


def _near(name: str) -> str:
    folded = {zone.casefold(): zone for zone in sorted(_known())}
    places = {zone.rpartition("/")[2]: zone for zone in sorted(folded) if "/" in zone}
    wanted = name.strip().casefold().replace(" ", "_")
    found = difflib.get_close_matches(wanted, folded, n=1, cutoff=0.8) or [
        places[place] for place in difflib.get_close_matches(wanted, places, n=1, cutoff=0.8)
    ]
    return f" Did you mean {folded[found[0]]!r}?" if found else ""

"""The span of a source's versions: one row in 1970, or half a year ahead, does not set it.

Days with versions fall into groups, a gap of more than `span_gap_days` between any two. A small group far from all
others is set aside (`out_of_span`): it goes to the quarantine, and a person may say that it is meant. Groups that are
too large for that, but so far apart that nobody meant the time between them, refuse the whole source.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import pairwise

import duckdb

from config import Settings
from feature_repo.orders.mapping_file import MappingError
from feature_repo.window import DAY

FEW = 3
"""So few versions apart from three times as many are set aside whatever their share: small files have outliers, too."""
_TIMES_AS_MANY = 3


@dataclass(frozen=True, slots=True)
class Group:
    """Versions of days without a long gap between them; both days belong to it."""

    first: date
    last: date
    versions: int

    def __str__(self) -> str:
        span = f"{self.first}" if self.first == self.last else f"{self.first} to {self.last}"
        return f"{self.versions:,} versions of {span}"


@dataclass(frozen=True, slots=True)
class Landed:
    """What earlier ingestions landed: its days, and how many versions (None: nobody counted them, so many)."""

    first: date
    last: date
    versions: int | None


def groups_of(days: Sequence[tuple[date, int]], gap_days: int) -> list[Group]:
    """The groups of days with their numbers of versions; `days` are in order."""
    groups: list[Group] = []
    for day, versions in days:
        if groups and (day - groups[-1].last).days <= gap_days:
            groups[-1] = Group(groups[-1].first, day, groups[-1].versions + versions)
        else:
            groups.append(Group(day, day, versions))
    return groups


def set_aside(groups: Sequence[Group], landed: Landed | None, settings: Settings) -> list[Group]:
    """The groups that are outliers: few versions, far from the others and from what has landed."""
    far = [group for group in groups if not (landed and _near(group, landed, settings.span_gap_days))]
    largest = max((group.versions for group in groups), default=0)
    beside = largest if landed is None else max(largest, _many(landed))
    aside = [group for group in far if _is_small(group, largest, beside, settings)]
    return aside if landed or len(aside) < len(groups) else []


def require_no_void(kept: Sequence[Group], landed: Landed | None, settings: Settings) -> None:
    """Refuse groups with a gap between them that would be computed hour by hour, and that nobody can have meant.

    Raises
    ------
    MappingError
        The gap is longer than `span_max_gap_days`.
    """
    known = [*kept, *([Group(landed.first, landed.last, landed.versions or 0)] if landed else [])]
    known.sort(key=lambda group: group.first)
    for before, after in pairwise(known):
        if (after.first - before.last).days > settings.span_max_gap_days:
            raise MappingError(
                f"there is nothing between {before} and {after}, for more than ETA_SPAN_MAX_GAP_DAYS="
                f"{settings.span_max_gap_days} days, all of which would be computed; nothing has landed. Correct the "
                "times, or say that this is meant: ALLOW=out-of-span"
            )


def outside(kept: Sequence[Group], aside: Sequence[Group], gap_days: int) -> str:
    """SQL: whether a version of `typed` was set aside, or was placed far from all that are kept."""
    if not kept:
        return "false" if not aside else "true"
    far_placed = " AND ".join(f"({_not_within('placed_at', group, gap_days)})" for group in kept)
    apart = " OR ".join(f"NOT ({_not_within('known_at', group, 0)})" for group in aside)
    return f"coalesce({' OR '.join(filter(None, [apart, f'({far_placed})']))}, false)"


def days_of(connection: duckdb.DuckDBPyConnection, rule: str) -> list[tuple[date, int]]:
    """The UTC days of `known_at` of the rows of `typed` that break no rule, with their numbers, in order."""
    day = "CAST(timezone('UTC', known_at) AS DATE)"
    query = f"SELECT {day}, count(*) FROM typed WHERE ({rule}) IS NULL GROUP BY 1 ORDER BY 1"
    return [(found, int(count)) for found, count in connection.execute(query).fetchall()]


def landed_void(settings: Settings, start: datetime, end: datetime) -> tuple[date, date] | None:
    """The longest gap between days with landed orders within a span, if it is longer than `span_max_gap_days`."""
    found = (date.fromisoformat(path.name.removeprefix("day=")) for path in settings.landing_orders.glob("day=*"))
    days = sorted({start.date(), end.date(), *(day for day in found if start.date() <= day <= end.date())})
    first, second = max(pairwise(days), key=lambda pair: pair[1] - pair[0], default=(start.date(), start.date()))
    return (first, second) if (second - first).days > settings.span_max_gap_days else None


def _near(group: Group, landed: Landed, gap_days: int) -> bool:
    gap = timedelta(days=gap_days)
    return group.last + gap >= landed.first and group.first - gap <= landed.last


def _many(landed: Landed) -> int:
    return landed.versions if landed.versions is not None else FEW * _TIMES_AS_MANY


def _is_small(group: Group, largest: int, beside: int, settings: Settings) -> bool:
    if group.versions <= FEW and _TIMES_AS_MANY * group.versions <= beside:
        return True
    return group.versions < settings.span_outlier_share * largest


def _not_within(name: str, group: Group, gap_days: int) -> str:
    start = datetime.combine(group.first, datetime.min.time()) - gap_days * DAY
    end = datetime.combine(group.last, datetime.min.time()) + (gap_days + 1) * DAY
    return f"{name} < TIMESTAMPTZ '{start}+00' OR {name} >= TIMESTAMPTZ '{end}+00'"

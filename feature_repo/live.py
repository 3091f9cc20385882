"""Live views between the hourly runs: values of two minutes ago, from orders that have landed since the last hour.

The lake and the offline rows stay the hourly run's, which computes every step of its hour by the same functions from
the same versions. A refresh at an instant computes the rows up to then from what has landed since the last hour that is
computed, and writes the newest of each entity online. What it wrote is kept for a week, so that the hourly run can hold
it against the offline rows: `compare`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import polars as pl

from config import Settings
from feature_repo.lake import TIMESTAMP, PartitionedTable
from feature_repo.locking import holder_of
from feature_repo.orders.refused import refused_within
from feature_repo.window import DAY, HOUR, MINUTE, Moments, Window, as_utc, floor

if TYPE_CHECKING:
    from feature_repo.transforms.spec import ViewTransform

logger = logging.getLogger(__name__)

USUAL_TAIL = 2 * HOUR
"""So far the computed hours may lie behind while one of them is being computed; further, the past is made up for."""
LONGEST_TAIL = 6 * HOUR
"""Further behind, the hourly run has stopped: there is no point in computing a day every two minutes."""
KEPT_FOR = 7 * DAY
"""How long it is known what was written."""
WRITTEN_AT = "written_as_of"
POLL_SECONDS = 2.0
MAX_DIFFERENT_SHARE = 0.01
"""Of the values that were served: an order that was found late is no reason for an alarm, a defect is."""


class LiveUnavailable(RuntimeError):
    """Live values cannot be computed now; the message says what has to happen first."""


class Online:
    """The live views with the store that they are brought to, opened once for many refreshes.

    Parameters
    ----------
    settings : Settings
        The process's own.

    Raises
    ------
    LiveUnavailable
        A live view is not registered.
    """

    def __init__(self, settings: Settings) -> None:
        from feature_repo.store import feature_store
        from feature_repo.transforms.views import LIVE

        self.store = feature_store(settings)
        self.views = [view for view in self.store.list_batch_feature_views() if view.name in LIVE]
        if missing := sorted(set(LIVE) - {view.name for view in self.views}):
            raise LiveUnavailable(f"views {missing} are not registered: run `feast -c feature_repo apply` first")

    def now(self) -> datetime:
        """What time it is by the clock that the store reads with."""
        clock = getattr(getattr(self.store._get_provider(), "online_store", None), "_now", None)
        return clock() if clock else datetime.now(UTC)


def refresh(as_of: datetime, settings: Settings, online: Online | None = None) -> dict[str, Any]:
    """Bring the newest row of each entity of each live view online, as of an instant on a full step.

    Parameters
    ----------
    as_of : datetime
    settings : Settings
    online : Online, optional
        Opened now unless given.

    Returns
    -------
    dict
        `as_of`, and `rows` by view: how many were written.

    Raises
    ------
    SourceNotReady
        The landing folder is not complete up to `as_of`; a later try may succeed.
    LiveUnavailable
        No hour has been computed, the last one lies too far back, a view is not registered, or `as_of` has not come
        yet. Or the orders since then were refused, or are such that they will be.
    DefinitionChanged
        The rows on disk were made under other definitions.
    OnlineStoreUnavailable
        Redis does not answer.
    ValueError
        `as_of` is not on a full step.
    """
    from feature_repo.transforms.coverage import read_coverage
    from feature_repo.transforms.spec import LIVE_STEP

    as_of = as_utc(as_of)
    if as_of != floor(as_of, LIVE_STEP):
        raise ValueError(f"{as_of.isoformat()} is not on a full step of {LIVE_STEP}")
    coverage = read_coverage(settings)
    rows = rows_until(as_of, settings)
    if coverage != read_coverage(settings):
        # The hourly run has published meanwhile: what was read may be of two hours.
        rows = rows_until(as_of, settings)
    online = online or Online(settings)
    if as_of > (now := online.now()):
        # Whatever the source vouches for: the row would outrank the true one of that instant.
        raise LiveUnavailable(f"{as_of.isoformat()} has not come yet, it is {now.isoformat(timespec='seconds')}")
    return bring_online(rows, as_of, settings, online)


def landed_until(settings: Settings, now: datetime | None = None) -> datetime:
    """The last full step for which all orders have landed, and that has come by `now`, where that is given.

    Raises
    ------
    LiveUnavailable
        None have landed at all.
    """
    from feature_repo.orders.watermark import read_watermark
    from feature_repo.transforms.spec import LIVE_STEP

    landed = read_watermark(settings)
    if landed is None:
        raise LiveUnavailable("no orders have landed yet: bring some in with `make ingest`, or start the simulator")
    return floor(min(landed.complete_until, now) if now else landed.complete_until, LIVE_STEP)


def may_be_ahead_until(computed_until: datetime, settings: Settings) -> datetime:
    """Until when online rows of live views may be newer than the computed hours: a refresh needs its orders landed."""
    from feature_repo.orders.watermark import read_watermark

    landed = read_watermark(settings)
    return max(computed_until, landed.complete_until) if landed else computed_until


def why_not(as_of: datetime, settings: Settings) -> str | None:
    """Why there is nothing to refresh, which is no fault: the past is being computed, or the source is not live."""
    from feature_repo.transforms.coverage import read_coverage

    coverage = read_coverage(settings)
    if coverage is None:
        return "no hour has been computed yet"
    if as_of - coverage.until > USUAL_TAIL and (holder := holder_of(settings, "run")):
        return f"the hours since {coverage.until.isoformat()} are being computed ({holder})"
    if as_of > coverage.until and (refused := refused_within(Moments(coverage.until, as_of), settings)):
        return _waits_for(refused)
    landed = landed_until(settings)
    if landed < as_of - HOUR:
        return f"the source's orders end at {landed.isoformat()}: it does not send those of these minutes"
    return None


def rows_until(as_of: datetime, settings: Settings) -> dict[str, pl.DataFrame]:
    """The rows of live views after the last computed hour and up to an instant, by view; raises as `refresh`."""
    from feature_repo.orders.landing import read_landing
    from feature_repo.quality.orders import TooManyRejected, trusted_orders
    from feature_repo.transforms.compute import compute_rows, compute_tiles
    from feature_repo.transforms.versions import require_current
    from feature_repo.transforms.views import LIVE

    require_current(settings)
    known = _computed_until(as_of, settings)
    if as_of <= known:
        return {}
    since = Moments(known, as_of)
    if refused := refused_within(since, settings):
        raise LiveUnavailable(_waits_for(refused))
    try:
        landed = trusted_orders(read_landing(since, settings), since, settings)
    except TooManyRejected as error:
        raise LiveUnavailable(f"{error}. No live values come of the rest of them") from error
    return compute_rows(since, compute_tiles(since, settings, LIVE, landed), settings, LIVE)


def _waits_for(refused: str) -> str:
    return f"orders were refused, of which nothing is served: {refused}. The run that accepts them ends this"


def bring_online(
    rows: Mapping[str, pl.DataFrame], as_of: datetime, settings: Settings, online: Online
) -> dict[str, Any]:
    """Write the newest row of each entity as of an instant: of `rows`, where there is one, else of the offline rows."""
    from feature_repo.stores import materialize
    from feature_repo.transforms.tables import EVENT_TIME, feature_table
    from feature_repo.transforms.views import LIVE

    written = {}
    for view in online.views:
        transform = LIVE[view.name]
        alive = Moments(as_of - (view.ttl or DAY), as_of + MINUTE)
        offline = feature_table(transform, settings).read(alive)
        known = pl.concat([offline, rows[view.name]]) if view.name in rows else offline
        newest = known.filter(pl.col(EVENT_TIME) <= as_of).sort(EVENT_TIME).unique(transform.key, keep="last")
        materialize.bring_online(newest, view, online.store)
        _note(newest, as_of, transform, settings)
        written[view.name] = newest.height
    return {"as_of": as_of.isoformat(), "rows": written}


def follow(
    until: datetime,
    settings: Settings,
    clock: Callable[[], datetime],
    wait: Callable[[float], object] = time.sleep,
) -> dict[str, Any]:
    """Refresh at every step until an instant, each as soon as its orders have landed.

    A step is left out when the source is so late that the next one has begun: its values would be outranked at once.

    Parameters
    ----------
    until : datetime
        The first step that somebody else will do.
    settings : Settings
    clock : callable
        Returns the present instant.
    wait : callable, optional
        Sleeps so many seconds.

    Returns
    -------
    dict
        `refreshed` and `left_out`: numbers of steps.

    Raises
    ------
    SourceNotReady
        Not a single step could be done, because the source was late at each.
    LiveUnavailable
        As in `refresh`; or it was too late for any step.
    DefinitionChanged, OnlineStoreUnavailable
        As in `refresh`.
    """
    from feature_repo.orders.landing import SourceNotReady
    from feature_repo.transforms.spec import LIVE_STEP

    counts, late, online = {"refreshed": 0, "left_out": 0}, None, Online(settings)
    step = floor(clock(), LIVE_STEP)
    while step < until:
        try:
            told = refresh(step, settings, online)
            counts["refreshed"] += 1
            logger.info("live values as of %s: %s", told["as_of"], told["rows"])
        except SourceNotReady as error:
            late = error
            if clock() < step + LIVE_STEP:
                wait(POLL_SECONDS)
                continue
            counts["left_out"] += 1
            logger.warning("no live values as of %s: %s", step.isoformat(), error)
        step = max(step + LIVE_STEP, floor(clock(), LIVE_STEP))
        if step < until:
            wait(max(0.0, (step - clock()).total_seconds()))
    if not counts["refreshed"]:
        raise late or LiveUnavailable(f"no step was left before {until.isoformat()}: the next run does the later ones")
    return counts


def compare(window: Window, settings: Settings) -> dict[str, Any]:
    """Hold what was written online in a window's steps against the offline rows that have been computed since.

    Returns
    -------
    dict
        `views`: by view `refreshes`, `compared` (values), `different` and `examples`; `reasons` why that is too much.
    """
    from feature_repo.transforms.tables import EVENT_TIME, feature_table, row_window
    from feature_repo.transforms.views import LIVE

    report: dict[str, Any] = {"views": {}, "reasons": []}
    for view, transform in LIVE.items():
        span = row_window(window, transform)
        noted = _written_table(transform, settings).read(Moments(span.start, span.end))
        own = noted.filter(pl.col(EVENT_TIME).is_between(span.start, span.end, closed="left"))
        served = own.unique([transform.key, EVENT_TIME], keep="last").drop(WRITTEN_AT)
        both = served.join(
            feature_table(transform, settings).read(span),
            on=[transform.key, EVENT_TIME],
            how="left",
            suffix="__offline",
        )
        unequal = {name: pl.col(name).ne_missing(pl.col(f"{name}__offline")) for name in transform.features}
        different = both.select(unequal.values()).sum().sum_horizontal().sum() if both.height else 0
        wrong = both.filter(pl.any_horizontal(unequal.values())).head(3) if both.height else both
        compared = both.height * len(transform.features)
        report["views"][view] = {
            "refreshes": noted[WRITTEN_AT].n_unique(),
            "compared": compared,
            "different": int(different),
            "examples": wrong.to_dicts(),
        }
        if compared and different / compared > MAX_DIFFERENT_SHARE:
            report["reasons"].append(
                f"{view}: {different} of {compared} values served within {window} differ from the offline rows "
                f"({different / compared:.2%}, at most {MAX_DIFFERENT_SHARE:.0%} allowed)"
            )
    return report


def _computed_until(as_of: datetime, settings: Settings) -> datetime:
    from feature_repo.transforms.coverage import read_coverage

    coverage = read_coverage(settings)
    if coverage is None:
        raise LiveUnavailable("no hour has been computed yet: the first run of the hourly pipeline does it")
    if as_of - coverage.until > LONGEST_TAIL:
        raise LiveUnavailable(
            f"the last computed hour ends at {coverage.until.isoformat()}, more than {LONGEST_TAIL} before "
            f"{as_of.isoformat()}: run the hourly pipeline first, it fills the gap"
        )
    return coverage.until


def _written_table(transform: ViewTransform, settings: Settings) -> PartitionedTable:
    """What was brought online. Grain: one entity and one refresh."""
    from feature_repo.transforms.tables import feature_table

    schema = {WRITTEN_AT: TIMESTAMP, **feature_table(transform, settings).schema}
    return PartitionedTable(settings.live / transform.view, WRITTEN_AT, schema, [WRITTEN_AT, transform.key])


def _note(rows: pl.DataFrame, as_of: datetime, transform: ViewTransform, settings: Settings) -> None:
    table = _written_table(transform, settings)
    table.replace(Moments(as_of, as_of + MINUTE), rows.with_columns(pl.lit(as_of, TIMESTAMP).alias(WRITTEN_AT)))
    table.forget_before(floor(as_of - KEPT_FOR, DAY))

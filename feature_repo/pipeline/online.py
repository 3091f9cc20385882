"""The steps of a window that have to do with the online store."""

from __future__ import annotations

import logging
from dataclasses import asdict
from datetime import datetime, timedelta
from functools import partial
from urllib.parse import urlsplit

import polars as pl

from config import Settings
from feature_repo.locking import exclusive
from feature_repo.pipeline.errors import NotComputedAgain, OnlineStoreUnavailable, Result, StepMissing
from feature_repo.window import HOUR, Moments, Window

logger = logging.getLogger(__name__)

MATERIALIZE_SLACK = HOUR
"""Rows are written that are older than their time to live by no more than this: older ones are served as missing."""
REDIS_TIMEOUT_SECONDS = 2.0


def materialize(window: Window, settings: Settings) -> Result:
    """Write the newest row of each entity to the online store, through Feast and the batch engine named in its file.

    Never Feast's `materialize_incremental`: it begins where the last run ended, so late rows would be missed, and a run
    with an end in the future would keep all later ones from writing. Whatever the window's start, all rows within their
    time to live are written, so that one run fills an empty store; older ones would be served as missing.

    Where offline rows have been replaced since the last time, what is online is then held against them: `reconcile`.

    Returns
    -------
    dict
        `rows` by view; and, where something was replaced, `reconciled` by view, or `not_reconciled`: why not yet.

    Raises
    ------
    OnlineStoreUnavailable
        Redis does not answer.
    """
    from feature_repo.transforms.replaced import read_replaced

    _require_redis(settings)
    replaced = read_replaced(settings)
    result: Result = {"rows": _write_newest(window, settings)}
    if replaced is None:
        return result
    try:
        return result | {"reconciled": _reconcile(settings)}
    except NotComputedAgain as error:
        logger.warning("%s", error)
        return result | {"not_reconciled": str(error)}


def reconcile(settings: Settings) -> Result:
    """Make the online store what the offline tables say, key by key, and without a moment of emptiness.

    For what no run can know of: rows that another program wrote, that are stamped in the future, or that were left by
    another installation. After it, the audit of all keys passes.

    Returns
    -------
    dict
        As `materialize`, as of the end of the computed hours.

    Raises
    ------
    HistoryMissing
        Nothing has been computed.
    NotComputedAgain
        Hours of which rows are online are being computed again.
    OnlineStoreUnavailable
        Redis does not answer.
    """
    from feature_repo.transforms.coverage import covered_hours

    _require_redis(settings)
    covered = covered_hours(settings)
    return {"rows": _write_newest(covered, settings), "reconciled": _reconcile(settings, all_views=True)}


def _write_newest(window: Window, settings: Settings) -> dict[str, int]:
    from feature_repo.store import feature_store
    from feature_repo.transforms.views import TRANSFORMS

    store = feature_store(settings)
    alive = {view.name: view.ttl or timedelta() for view in store.list_feature_views()}
    missing = sorted(set(TRANSFORMS) - set(alive))
    if missing:
        raise StepMissing(f"views {missing} are not registered: run `feast -c feature_repo apply` first")
    rows: dict[str, int] = {}
    for ttl in sorted({alive[view] for view in TRANSFORMS}):
        start = window.end - ttl - MATERIALIZE_SLACK
        views = [view for view in TRANSFORMS if alive[view] == ttl]
        store.materialize(start_date=start, end_date=window.end, feature_views=views)
        span = Moments(start, window.end + HOUR)
        rows |= {view: _entities(view, span, window.end, settings) for view in views}
    return {view: rows[view] for view in TRANSFORMS}


def _reconcile(settings: Settings, all_views: bool = False) -> dict[str, dict[str, int]]:
    """Hold the views that were noted, or all, against the tables, and take the note away.

    Nobody publishes meanwhile, so rows that are newer than the computed hours are nobody's, but a live refresh's.
    """
    from feature_repo import live
    from feature_repo.store import feature_store
    from feature_repo.stores import retract
    from feature_repo.transforms.coverage import covered_hours
    from feature_repo.transforms.replaced import forget_replaced, read_replaced
    from feature_repo.transforms.views import LIVE, TRANSFORMS

    store = feature_store(settings)
    with exclusive(settings, "tables", "holding the online store against the tables"):
        replaced, as_of = read_replaced(settings), covered_hours(settings).end
        if replaced and as_of < replaced.until:
            raise NotComputedAgain(
                f"the hours from {as_of.isoformat()} to {replaced.until.isoformat()} have to be computed again before "
                "what is online can be held against them: the next hourly run does it, or `python -m feature_repo "
                f"backfill {as_of.isoformat()} {replaced.until.isoformat()}` and then `materialize` of the last hour"
            )
        ahead = dict.fromkeys(LIVE, partial(live.may_be_ahead_until, as_of, settings))
        views = [view for view in TRANSFORMS if all_views or (replaced and view in replaced.views)]
        found = {
            view: asdict(retract.reconcile(store.get_feature_view(view), store, as_of, ahead.get(view)))
            for view in views
        }
        forget_replaced(settings)
    return found


def audit_all(settings: Settings, all_keys: bool = True) -> Result:
    """Compare online values with the offline answer at the end of the computed hours: for all keys, or a sample.

    Raises
    ------
    HistoryMissing
        Nothing has been computed.
    """
    from feature_repo.stores import audit
    from feature_repo.transforms.coverage import covered_hours

    _require_redis(settings)
    as_of = covered_hours(settings).end
    report: Result = audit.audit(as_of, settings, None if all_keys else audit.SAMPLE).to_dict()
    return report


def audit_online(window: Window, settings: Settings) -> Result:
    """Compare online values with the offline answer for a sample of entities, and what was served of live views.

    When an old window is run again, Redis holds what later hours brought, and is compared as of the newest of them.
    """
    from feature_repo import live
    from feature_repo.stores import audit
    from feature_repo.transforms.coverage import read_coverage

    _require_redis(settings)
    coverage = read_coverage(settings)
    as_of = max(window.end, coverage.until) if coverage else window.end
    report: Result = audit.audit(as_of, settings, served=live.compare(window, settings)).to_dict()
    return report


def _require_redis(settings: Settings) -> None:
    import redis

    address = urlsplit(settings.redis_url)
    client = redis.Redis.from_url(
        settings.redis_url,
        socket_connect_timeout=REDIS_TIMEOUT_SECONDS,
        socket_timeout=REDIS_TIMEOUT_SECONDS,
        retry=None,
    )
    try:
        client.ping()
    except redis.RedisError as error:
        raise OnlineStoreUnavailable(
            f"Redis at {address.hostname}:{address.port or 6379} does not answer ({error}): start it with `make up`, "
            "or set ETA_REDIS_URL to one that runs. Offline features are published; run `materialize` again then"
        ) from error
    finally:
        client.close()


def _entities(view: str, span: Window, end: datetime, settings: Settings) -> int:
    from feature_repo.transforms.tables import EVENT_TIME, feature_table
    from feature_repo.transforms.views import TRANSFORMS

    transform = TRANSFORMS[view]
    rows = feature_table(transform, settings).scan(span).filter(pl.col(EVENT_TIME) <= end)
    return int(rows.select(pl.col(transform.key).n_unique()).collect().item())

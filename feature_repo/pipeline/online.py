"""The steps of a window that have to do with the online store."""

from __future__ import annotations

from datetime import datetime, timedelta
from urllib.parse import urlsplit

import polars as pl

from config import Settings
from feature_repo.pipeline.errors import OnlineStoreUnavailable, Result, StepMissing
from feature_repo.window import HOUR, Moments, Window

MATERIALIZE_SLACK = HOUR
"""Rows are written that are older than their time to live by no more than this: older ones are served as missing."""
REDIS_TIMEOUT_SECONDS = 2.0


def materialize(window: Window, settings: Settings) -> Result:
    """Write the newest row of each entity to the online store, through Feast and the batch engine named in its file.

    Never Feast's `materialize_incremental`: it begins where the last run ended, so late rows would be missed, and a run
    with an end in the future would keep all later ones from writing. Whatever the window's start, all rows within their
    time to live are written, so that one run fills an empty store; older ones would be served as missing.

    Raises
    ------
    OnlineStoreUnavailable
        Redis does not answer.
    """
    from feature_repo.store import feature_store
    from feature_repo.transforms.views import TRANSFORMS

    _require_redis(settings)
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
    return {"rows": {view: rows[view] for view in TRANSFORMS}}


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

"""The steps from landed orders to online features: plain functions of a window of time and the settings.

Each step returns a small dict that fits into JSON. Frames travel between steps as staged files, so a step can run in a
process of its own and be run again. The DAGs call the steps one by one; `run_window` and `backfill` call them all.

    ingest_orders -> validate_orders -> accept_orders -> compute_features -> validate_features -> publish_features
                          |                                                                             |
                    quarantine_batch                                              audit_online <- materialize
"""

from __future__ import annotations

import json
import logging
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import polars as pl

from config import Settings
from feature_repo.locking import exclusive
from feature_repo.window import DAY, HOUR, Moments, Window

logger = logging.getLogger(__name__)

Result = dict[str, Any]
Progress = Callable[[str], None]

MATERIALIZE_SLACK = HOUR
"""Rows are written that are older than their time to live by no more than this: older ones are served as missing."""
STAGED_FOR = 3 * DAY
"""How long staged files outlive their window: long enough to look at after a bad weekend."""
REDIS_TIMEOUT_SECONDS = 2.0
SLUG = re.compile(r"\d{8}T\d{2}_(?P<end>\d{8}T\d{2})")
"""`Window.slug`, as in the names of staged files."""


class BatchStopped(RuntimeError):
    """Validation refused a whole batch. `failures` has the rules; the message says where the rows are."""

    def __init__(self, message: str, failures: list[dict[str, Any]]) -> None:
        super().__init__(message)
        self.failures = failures


class StepMissing(FileNotFoundError):
    """A step's input is not staged; the message says which step makes it."""


class LandingLost(RuntimeError):
    """The landing folder no longer holds what the lake holds for the window."""


class OnlineStoreUnavailable(ConnectionError):
    """Redis does not answer; the message says which address, and what to do."""


def ingest_orders(window: Window, settings: Settings) -> Result:
    """Read the versions that the window brings in, and stage them.

    Raises
    ------
    SourceNotReady
        The landing folder is not complete up to the window's end.
    LandingLost
        It has nothing for a window of which the lake has orders: going on would delete them.
    RuleError
        The configuration names a rule or a severity that there is not.
    """
    from feature_repo.orders.landing import read_landing
    from feature_repo.quality.rules import severities

    severities(settings)

    _forget_staged(window, settings)
    batch = read_landing(window, settings)
    if batch.is_empty():
        _require_nothing_in_lake(window, settings)
    staged = _stage(batch, _staged("orders", window, settings))
    return {"rows": batch.height, "found_late": int(batch["found_late"].sum()), "staged": str(staged)}


def validate_orders(window: Window, settings: Settings) -> Result:
    """Sort the staged versions into accepted and rejected ones, and say whether the batch as a whole is refused."""
    from feature_repo.quality import orders as quality
    from feature_repo.quality.datadocs import docs_index

    batch = _load("orders", window, settings, made_by="ingest_orders")
    verdict = quality.validate_orders(batch, window, settings)
    _stage(verdict.accepted, _staged("accepted", window, settings))
    _stage(verdict.rejected, _staged("rejected", window, settings))
    if verdict.report.stopped:
        refused = quality.stopped_batch(batch, verdict.report, window)
        _stage(refused, _staged("refused", window, settings))
    return {
        "rows": batch.height,
        "accepted": verdict.accepted.height,
        "rejected": verdict.rejected.height,
        "stopped": bool(verdict.report.stopped),
        "failures": _failures(verdict.report),
        "data_docs": str(docs_index(settings)),
    }


def accept_orders(window: Window, settings: Settings) -> Result:
    """Put accepted versions into the lake and rejected ones into quarantine, in place of the window's earlier ones."""
    from feature_repo.orders.schema import orders_table, quarantine_table

    accepted = _load("accepted", window, settings, made_by="validate_orders")
    rejected = _load("rejected", window, settings, made_by="validate_orders")
    with exclusive(settings, "tables", f"accepting orders of {window}"):
        quarantined = quarantine_table(settings).replace(window, rejected)
        rows = orders_table(settings).replace(window, accepted)
    return {"accepted": rows, "quarantined": quarantined}


def quarantine_batch(window: Window, settings: Settings) -> Result:
    """Put every version of a refused batch into quarantine, with the reason. The lake stays as it was."""
    from feature_repo.orders.schema import quarantine_table

    refused = _load("refused", window, settings, made_by="validate_orders")
    with exclusive(settings, "tables", f"quarantining {window}"):
        rows = quarantine_table(settings).replace(window, refused)
    return {"quarantined": rows, "where": str(settings.quarantine / "orders")}


def compute_features(window: Window, settings: Settings) -> Result:
    """Compute the window's tiles and feature rows from the lake, and stage them.

    Raises
    ------
    DefinitionChanged
        The rows on disk were made under other definitions.
    HistoryMissing
        Hours before the window have not been computed.
    """
    from feature_repo.transforms import compute, publish
    from feature_repo.transforms.coverage import require_history
    from feature_repo.transforms.evolution import settle
    from feature_repo.transforms.versions import fingerprints

    _forget_staged(window, settings)
    with exclusive(settings, "tables", f"computing features of {window}"):
        settle(settings)
        require_history(window, settings)
        # Without it nothing is published: a computation that fails half-way leaves views of two computations staged.
        _basis_file(window, settings).unlink(missing_ok=True)
        seen = publish.rewrites(settings)
        tiles, heights = compute.compute_tiles(window, settings), {}
        for view, frame in tiles.items():
            # One view after the other: the rows of a chunk of a backfill need not fit into memory together.
            rows = compute.compute_rows(window, {view: frame}, settings)[view]
            heights[view] = rows.height
            _stage(frame, _staged(f"tiles/{view}", window, settings))
            _stage(rows, _staged(f"features/{view}", window, settings))
            del rows
    _note_basis({"rewrites": seen, "definitions": fingerprints()}, window, settings)
    return {"tiles": {view: frame.height for view, frame in tiles.items()}, "rows": heights}


def validate_features(window: Window, settings: Settings) -> Result:
    """Check the staged feature rows against the definitions."""
    from feature_repo.quality import features as quality
    from feature_repo.quality.datadocs import docs_index
    from feature_repo.transforms.views import TRANSFORMS

    reports = {
        view: quality.validate_features(view, rows, window, settings)
        for view, rows in _StagedViews("features", list(TRANSFORMS), window, settings).items()
    }
    failures = [{"view": view, **failure} for view, report in reports.items() for failure in _failures(report)]
    stopped = any(report.stopped for report in reports.values())
    return {"stopped": stopped, "failures": failures, "data_docs": str(docs_index(settings))}


def publish_features(window: Window, settings: Settings) -> Result:
    """Make the staged tiles and rows the window's. Killed half-way, it is completed by running it again.

    Raises
    ------
    DefinitionChanged, HistoryMissing, HistoryChanged
        What the rows were computed from is no longer so: compute them again.
    """
    from feature_repo.transforms import publish, versions
    from feature_repo.transforms.evolution import settle
    from feature_repo.transforms.views import TRANSFORMS

    basis = _noted_basis(window, settings)
    if basis["definitions"] != versions.fingerprints():
        raise versions.DefinitionChanged(
            f"the staged rows of {window} were computed under other definitions: run compute_features again"
        )

    tiles, rows = (_StagedViews(kind, list(TRANSFORMS), window, settings) for kind in ("tiles", "features"))
    with exclusive(settings, "tables", f"publishing features of {window}"):
        settle(settings)
        versions.note_span(window, settings)
        heights = publish.publish(window, tiles, rows, settings, rewrites_seen=int(basis["rewrites"]))
    return {"rows": heights}


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


def run_window(window: Window, settings: Settings, progress: Progress = logger.info) -> Result:
    """Do all steps for one window, the online store included.

    Raises
    ------
    BatchStopped
        Validation refused the orders or the features. The offline and online features are as they were.
    DefinitionChanged
        The rows on disk were made under other definitions. Nothing has been read.
    """
    with exclusive(settings, "run", f"running {window}"):
        require_definitions(settings)
        results = _run_offline(window, settings, progress)
        results["materialize"] = materialize(window, settings)
        progress(f"{window}: {sum(results['materialize']['rows'].values())} entities online")
        results["audit"] = audit_online(window, settings)
    return results


def backfill(window: Window, settings: Settings, progress: Progress = logger.info) -> Result:
    """Do all offline steps for a long window, a chunk of days at a time. Call `materialize` afterwards.

    Tiles and feature rows are exactly those that hourly runs would have made.

    Returns
    -------
    dict
        Sums over the chunks: `ingested`, `found_late`, `accepted`, `quarantined`, and `tiles`, `rows` by view.

    Raises
    ------
    BatchStopped
        Validation refused a chunk. The chunks before it are complete.
    DefinitionChanged
        The rows on disk were made under other definitions. Nothing has been read.
    """
    from feature_repo.transforms.coverage import chunks

    total: Result = {"ingested": 0, "found_late": 0, "accepted": 0, "quarantined": 0, "tiles": {}, "rows": {}}
    with exclusive(settings, "run", f"backfilling {window}"):
        require_definitions(settings)
        for chunk in chunks(window):
            results = _run_offline(chunk, settings, progress)
            total["ingested"] += results["ingest_orders"]["rows"]
            total["found_late"] += results["ingest_orders"]["found_late"]
            total["accepted"] += results["accept_orders"]["accepted"]
            total["quarantined"] += results["accept_orders"]["quarantined"]
            for kind in ("tiles", "rows"):
                for view, count in results["compute_features"][kind].items():
                    total[kind][view] = total[kind].get(view, 0) + count
    return total


def recompute_features(window: Window, settings: Settings, progress: Progress = logger.info) -> Result:
    """Compute and publish tiles and rows from the orders that are in the lake; the landing folder is not read."""
    from feature_repo.transforms.coverage import chunks

    total: Result = {"tiles": {}, "rows": {}}
    with exclusive(settings, "run", f"recomputing {window}"):
        for chunk in chunks(window):
            computed = _run_features(chunk, settings, progress)["compute_features"]
            for kind in ("tiles", "rows"):
                for view, count in computed[kind].items():
                    total[kind][view] = total[kind].get(view, 0) + count
    return total


def close_gap(window: Window, settings: Settings, progress: Progress = logger.info) -> Result:
    """Compute the hours between the last computed one and the window: after downtime, Airflow skips them.

    Returns
    -------
    dict
        As `backfill`, and `gap`, the hours in words; empty when there are none.

    Raises
    ------
    DefinitionChanged
        The rows on disk were made under other definitions. Nothing has been read.
    RuleError
        The configuration names a rule or a severity that there is not.
    """
    from feature_repo.quality.rules import severities
    from feature_repo.transforms.coverage import read_coverage

    severities(settings)
    require_definitions(settings)
    coverage = read_coverage(settings)
    if coverage is None or coverage.until >= window.start:
        return {}
    gap = Window(coverage.until, window.start)
    return {"gap": str(gap), **backfill(gap, settings, progress)}


def require_definitions(settings: Settings) -> None:
    """Make sure that the code's definitions are those of the rows on disk.

    Raises
    ------
    DefinitionChanged
        They are not; the message says which, and what to do.
    """
    from feature_repo.transforms.evolution import settle

    with exclusive(settings, "tables", "looking at the definitions"):
        settle(settings)


def rebuild(view: str, settings: Settings, progress: Progress = logger.info) -> Result:
    """Compute all covered hours of one view anew under the code's definition, and put them in place of its tables.

    The old tables are kept beside. Call `apply` and `materialize` afterwards.

    Raises
    ------
    BatchStopped
        Validation refused the new rows. The tables are as they were.
    """
    from feature_repo.transforms import evolution

    with exclusive(settings, "run", f"rebuilding {view}"), exclusive(settings, "tables", f"rebuilding {view}"):
        return evolution.rebuild(view, settings, _require_valid, progress)


def backfill_features(
    names: Sequence[str], start: datetime | None, settings: Settings, progress: Progress = logger.info
) -> list[Result]:
    """Compute new features, and nothing else, for the hours from `start` (all covered ones without) to the last.

    Parameters
    ----------
    names : sequence of str
        As `view.feature`.
    start : datetime or None
        A full hour. The rows before it have null there, as `versions.available_from` tells.
    settings : Settings
    progress : callable, optional

    Returns
    -------
    list of dict
        By view: `view`, `features`, `rows`, and where its former tables are `kept`.

    Raises
    ------
    BatchStopped
        Validation refused the new rows. The tables are as they were.
    DefinitionChanged
        More than these features differs.
    ValueError
        A name is not of that form.
    """
    from feature_repo.transforms import evolution

    views: dict[str, list[str]] = {}
    for name in names:
        view, dot, feature = name.partition(".")
        if not dot:
            raise ValueError(f"{name!r} does not name a feature: write it as VIEW.FEATURE")
        views.setdefault(view, []).append(feature)
    purpose = f"backfilling {', '.join(names)}"
    with exclusive(settings, "run", purpose), exclusive(settings, "tables", purpose):
        return [
            evolution.backfill_features(
                view, features, start, settings, _valid_from(view, features, start, settings), progress
            )
            for view, features in views.items()
        ]


def _valid_from(view: str, new: Sequence[str], start: datetime | None, settings: Settings) -> Callable[..., None]:
    """`_require_valid` for rows in which new features begin at `start`, and earlier ones where they once began."""
    from feature_repo.transforms import versions
    from feature_repo.transforms.views import TRANSFORMS

    known = TRANSFORMS[view].features if view in TRANSFORMS else {}
    begins = {name: versions.available_from(view, name, settings) for name in known if name not in new}
    if start is not None:
        begins |= dict.fromkeys(new, start + HOUR)
    return partial(_require_valid, available={name: at for name, at in begins.items() if at is not None})


def _require_valid(
    view: str,
    rows: pl.DataFrame,
    window: Window,
    settings: Settings,
    available: Mapping[str, datetime] | None = None,
) -> None:
    from feature_repo.quality import features as quality

    report = quality.validate_features(view, rows, window, settings, available)
    if report.stopped:
        raise _stopped(f"features of {view}", window, rows.height, str(settings.data_dir), _failures(report))


def _run_offline(window: Window, settings: Settings, progress: Progress) -> Result:
    results: Result = {"ingest_orders": ingest_orders(window, settings)}
    verdict = results["validate_orders"] = validate_orders(window, settings)
    if verdict["stopped"]:
        quarantined = quarantine_batch(window, settings)
        raise _stopped("orders", window, quarantined["quarantined"], quarantined["where"], verdict["failures"])
    progress(f"{window}: {verdict['accepted']} order versions accepted, {verdict['rejected']} quarantined")
    results["accept_orders"] = accept_orders(window, settings)
    return results | _run_features(window, settings, progress)


def _run_features(window: Window, settings: Settings, progress: Progress) -> Result:
    results: Result = {"compute_features": compute_features(window, settings)}
    rows = sum(results["compute_features"]["rows"].values())
    verdict = results["validate_features"] = validate_features(window, settings)
    if verdict["stopped"]:
        raise _stopped("features", window, rows, str(settings.staging / "features"), verdict["failures"])
    results["publish_features"] = publish_features(window, settings)
    progress(f"{window}: {rows} feature rows published")
    return results


def _stopped(what: str, window: Window, rows: int, where: str, failures: list[dict[str, Any]]) -> BatchStopped:
    rules = sorted({str(failure["rule"]) for failure in failures if failure["severity"] == "stop"})
    return BatchStopped(
        f"the {what} of {window} were refused by {', '.join(rules) or 'validation'}: {rows} rows are kept in {where}. "
        "Mend the source or the rule, and run the window again",
        failures,
    )


def _failures(report: Any) -> list[dict[str, Any]]:
    return [
        {
            "rule": result.rule,
            "severity": result.severity,
            "observed": result.observed,
            "threshold": result.threshold,
            "failed_rows": result.failed_rows,
            "reason": result.reason,
        }
        for result in report.failures
    ]


def _require_nothing_in_lake(window: Window, settings: Settings) -> None:
    from feature_repo.orders.schema import orders_table

    kept = orders_table(settings).scan(window).select(pl.len()).collect().item()
    if kept:
        raise LandingLost(
            f"the landing folder {settings.landing_orders} has no orders for {window}, but the lake has {kept}: "
            "restore the folder, or recompute features from the lake with "
            f"`python -m feature_repo recompute {window.start.isoformat()} {window.end.isoformat()}`"
        )


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


# Staged files.


def _staged(kind: str, window: Window, settings: Settings) -> Path:
    return settings.staging / kind / f"{window.slug}.parquet"


def _stage(frame: pl.DataFrame, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=path.parent)
    os.close(handle)
    try:
        frame.write_parquet(name, compression="uncompressed")
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)
    return path


def _load(kind: str, window: Window, settings: Settings, made_by: str) -> pl.DataFrame:
    return pl.read_parquet(_require_staged(kind, window, settings, made_by), hive_partitioning=False)


def _require_staged(kind: str, window: Window, settings: Settings, made_by: str) -> Path:
    path = _staged(kind, window, settings)
    if not path.exists():
        raise StepMissing(f"{path} is not there: run {made_by} for {window} first")
    return path


class _StagedViews(Mapping[str, pl.DataFrame]):
    """The staged tiles or feature rows by view, each read when it is asked for, so that one is in memory at a time.

    Raises
    ------
    StepMissing
        Those of a view are not there.
    """

    def __init__(self, kind: str, views: Sequence[str], window: Window, settings: Settings) -> None:
        self._kind, self._views, self._window, self._settings = kind, views, window, settings
        for view in views:
            _require_staged(f"{kind}/{view}", window, settings, made_by="compute_features")

    def __getitem__(self, view: str) -> pl.DataFrame:
        return _load(f"{self._kind}/{view}", self._window, self._settings, made_by="compute_features")

    def __iter__(self) -> Iterator[str]:
        return iter(self._views)

    def __len__(self) -> int:
        return len(self._views)


def _basis_file(window: Window, settings: Settings) -> Path:
    return settings.staging / "features" / f"{window.slug}.json"


def _note_basis(basis: Result, window: Window, settings: Settings) -> None:
    path = _basis_file(window, settings)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps(basis))
    temporary.replace(path)


def _noted_basis(window: Window, settings: Settings) -> Result:
    """What the staged rows were computed from: definitions, and tiles rewritten so many times."""
    path = _basis_file(window, settings)
    if not path.exists():
        raise StepMissing(f"{path} is not there: run compute_features for {window} first")
    basis: Result = json.loads(path.read_text())
    return basis


def _forget_staged(window: Window, settings: Settings) -> None:
    """Delete what was staged for windows that ended long before this one."""
    limit = f"{window.start - STAGED_FOR:%Y%m%dT%H}"
    for path in settings.staging.rglob("*_*.*"):
        if (slug := SLUG.fullmatch(path.stem)) and slug["end"] < limit:
            path.unlink(missing_ok=True)

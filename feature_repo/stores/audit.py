"""Does the online store hold what the offline store says? A sample of keys, or all, compared value by value.

Online values are read through a stock Feast client, so that the audit shares no code with our writer or our reader.
The offline answer is the newest row with event time at or before the audited instant, *without* the knowledge cut-off:
a materialisation publishes a row shortly before its created time (the instant at which it is promised to be online), so
at the materialised instant the cut-off would hide exactly the rows just written. If a later run has already written a
newer row, that row is compared with the offline row of its own event time: the store being ahead is no error. Rows of
live views that are newer than every computed hour are left to `live.compare`.

Per feature, of the keys looked at:

* `mismatched`: both have a value, and the two differ in any bit (NaN equals null) or online's row is not in offline.
* `missing`: offline has a value that is young enough to be served, online has none.
* `extra`: online has a value, young enough to be served, that offline does not have.
* `stale`: online holds an older row than offline, where the offline row is young enough to be served.

Each audit is kept as JSON below the reports, and logged: a line in all, and one for each feature with a fault.
"""

from __future__ import annotations

import hashlib
import json
import logging
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import compress
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import polars as pl

from config import Settings
from feature_repo.window import Window, as_utc

if TYPE_CHECKING:
    from feast import FeatureStore, FeatureView, RepoConfig

logger = logging.getLogger(__name__)

FAULTS = ("mismatched", "missing", "extra", "stale")
EXAMPLES_KEPT = 10
SAMPLE = 200
KEYS_PER_BATCH = 5000
HELD_PER_ROUND_TRIP = 1000
_AT = "__at"


@dataclass(frozen=True, slots=True)
class Bounds:
    """The greatest share of compared values, 0..1, that each fault may have. Every difference is a fault by default."""

    mismatched: float = 0.0
    missing: float = 0.0
    extra: float = 0.0
    stale: float = 0.0


@dataclass(slots=True)
class FeatureCounts:
    """What was found for one feature; `compared` counts the keys for which either store has a value to serve."""

    compared: int = 0
    mismatched: int = 0
    missing: int = 0
    extra: int = 0
    stale: int = 0

    def rate(self, fault: str) -> float:
        """Share of the compared values with this fault, 0..1."""
        return float(getattr(self, fault)) / self.compared if self.compared else 0.0


@dataclass(slots=True)
class AuditReport:
    """The outcome of one audit.

    Attributes
    ----------
    as_of : datetime
        The audited instant.
    keys : dict of str to int
        Keys looked at, by view.
    features : dict of str to FeatureCounts
        By `view__feature`.
    examples : list of dict
        The first faults, with key, both values and both event times.
    bounds : Bounds
    served : mapping
        What `live.compare` said of the live values of the window before that instant; empty if it was not asked.
    """

    as_of: datetime
    bounds: Bounds
    keys: dict[str, int] = field(default_factory=dict)
    features: dict[str, FeatureCounts] = field(default_factory=dict)
    examples: list[dict[str, Any]] = field(default_factory=list)
    served: Mapping[str, Any] = field(default_factory=dict)

    @property
    def reasons(self) -> list[str]:
        """Why the audit did not pass, one sentence for each feature and fault above its bound, the worst first."""
        return [*self._faults, *self.served.get("reasons", [])]

    @property
    def _faults(self) -> list[str]:
        worst_first = sorted(
            ((name, fault, counts) for name, counts in self.features.items() for fault in FAULTS),
            key=lambda found: -found[2].rate(found[1]),
        )
        return [
            f"{name}: {getattr(counts, fault)} of {counts.compared} values {fault} "
            f"({counts.rate(fault):.2%}, at most {getattr(self.bounds, fault):.2%} allowed)"
            for name, fault, counts in worst_first
            if counts.rate(fault) > getattr(self.bounds, fault)
        ]

    @property
    def compared(self) -> int:
        """Values compared, over all features."""
        return sum(counts.compared for counts in self.features.values())

    @property
    def passed(self) -> bool:
        """Whether every fault is within its bound."""
        return not self.reasons

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON-able types."""
        features = {
            name: {**asdict(counts), **{f"{fault}_rate": counts.rate(fault) for fault in FAULTS}}
            for name, counts in self.features.items()
        }
        return {
            "as_of": self.as_of.isoformat(),
            "passed": self.passed,
            "reasons": self.reasons,
            "compared": self.compared,
            "keys": self.keys,
            "bounds": asdict(self.bounds),
            "features": features,
            "examples": self.examples,
            "live": self.served.get("views", {}),
        }

    def write(self, settings: Settings) -> Path:
        """Keep the report as `<reports>/audit/<audited instant>.json`, in one rename; delete what is too old."""
        from feature_repo.files import forget_older, write_atomically

        path = settings.reports / "audit" / f"{self.as_of:%Y%m%dT%H%M%S}.json"
        write_atomically(path, json.dumps(self.to_dict(), indent=2, default=str) + "\n")
        forget_older(path.parent, "[0-9]*.json", f"{self.as_of - settings.report_retention:%Y%m%d}")
        return path

    def log(self) -> None:
        """One line in all, and one with the rates of each feature that has a fault."""
        verdict = "passed" if self.passed else "failed"
        logger.info("audit as of %s %s: %d values compared", self.as_of.isoformat(), verdict, self.compared)
        for name, counts in self.features.items():
            if any(counts.rate(fault) for fault in FAULTS):
                rates = ", ".join(f"{counts.rate(fault):.2%} {fault}" for fault in FAULTS)
                logger.info("audit: %s: %s, of %d values", name, rates, counts.compared)


@dataclass(frozen=True, slots=True)
class Row:
    """One key's values in one store; no event time means that there is no row."""

    event: datetime | None
    values: Mapping[str, Any]

    def served(self, at: datetime, ttl: timedelta | None) -> bool:
        """Whether a reader that enforces the TTL would serve it."""
        return self.event is not None and (not ttl or self.event >= at - ttl)


def audit(
    when: Window | datetime,
    settings: Settings,
    sample: int | None = SAMPLE,
    bounds: Bounds = Bounds(),
    served: Mapping[str, Any] | None = None,
) -> AuditReport:
    """Compare both stores as of the end of a materialised window; log the outcome and keep it among the reports.

    Parameters
    ----------
    when : Window or datetime
        The window that was materialised, or its end.
    settings : Settings
        The process's own.
    sample : int or None
        Keys per view and store: so many that have a recent row offline, and so many that Redis holds. Which ones
        follows from `when`, so the same audit looks at the same keys, and the next hour's at others. None: all keys.
    bounds : Bounds, optional
    served : mapping, optional
        What `live.compare` said, for the same report.

    Raises
    ------
    ConnectionError
        Redis does not answer.
    UnusableSource
        An offline file cannot be read.
    """
    from feature_repo.live import may_be_ahead_until
    from feature_repo.store import feature_store
    from feature_repo.transforms.views import LIVE

    as_of = when.end if isinstance(when, Window) else as_utc(when)
    ahead = dict.fromkeys(LIVE, partial(may_be_ahead_until, as_of, settings))
    report = audit_store(feature_store(settings), settings.redis_url, as_of, sample, bounds, ahead)
    report.served = served or {}
    report.log()
    report.write(settings)
    return report


def audit_store(
    store: FeatureStore,
    redis_url: str,
    as_of: datetime,
    sample: int | None,
    bounds: Bounds,
    ahead: Mapping[str, Callable[[], datetime]] = MappingProxyType({}),
) -> AuditReport:
    """As `audit`, for any feature store whose offline store is ours and whose online store is that Redis.

    Online rows of the views `ahead` may be newer than all offline rows, up to an instant that is asked for after they
    have been read. Those are left out here: what they ought to be is known when their hour has been computed.
    """
    import redis

    report = AuditReport(as_of, bounds)
    stock = _stock_client(store, redis_url)
    try:
        for view in store.list_batch_feature_views():
            if view.online and view.entity_columns:
                for keys in _audited_keys(view, store.config, redis_url, as_of, sample):
                    _audit_keys(view, keys, store.config, stock, report, ahead.get(view.name, lambda: as_of))
    except (redis.ConnectionError, redis.TimeoutError) as error:
        raise ConnectionError(f"the audit cannot read Redis ({error}): start it (make up) and run it again") from error
    return report


def _audit_keys(
    view: FeatureView,
    keys: list[dict[str, Any]],
    config: RepoConfig,
    stock: FeatureStore,
    report: AuditReport,
    ahead_until: Callable[[], datetime],
) -> None:
    names = [item.name for item in view.features]
    report.keys[view.name] = report.keys.get(view.name, 0) + len(keys)
    counts = {name: report.features.setdefault(f"{view.name}__{name}", FeatureCounts()) for name in names}
    online = _online_rows(stock, view.name, names, keys) if keys else []
    until = ahead_until()
    known = [row.event is None or not report.as_of < row.event <= until for row in online]
    keys, online = list(compress(keys, known)), list(compress(online, known))
    if not keys:
        return
    instants = [report.as_of if row.event is None else max(report.as_of, row.event) for row in online]
    offline = _offline_rows(view, names, keys, instants, config)
    for key, at, ours, theirs in zip(keys, instants, offline, online, strict=True):
        for name in names:
            fault = _count(counts[name], name, ours, theirs, at, view.ttl)
            if fault and len(report.examples) < EXAMPLES_KEPT:
                report.examples.append(_example(f"{view.name}__{name}", fault, key, ours, theirs, name))


def _count(
    counts: FeatureCounts, name: str, offline: Row, online: Row, at: datetime, ttl: timedelta | None
) -> str | None:
    """Count one value of one key, and return its fault if it has one."""
    expected = offline.values.get(name) if offline.served(at, ttl) else None
    found = online.values.get(name) if online.event is not None else None
    is_behind = offline.served(at, ttl) and online.event is not None and online.event < (offline.event or at)
    if expected is None and not is_behind and (found is None or not online.served(at, ttl)):
        return None
    counts.compared += 1
    fault = _fault(expected, found, is_behind, is_other_row=online.event != offline.event)
    if fault:
        setattr(counts, fault, getattr(counts, fault) + 1)
    return fault


def _fault(expected: Any, found: Any, is_behind: bool, is_other_row: bool) -> str | None:
    if is_behind:
        return "stale"
    if found is None:
        return "missing"
    if expected is None:
        return "extra"
    return "mismatched" if is_other_row or _bits(expected) != _bits(found) else None


def _bits(value: Any) -> tuple[str, Any]:
    """What two values must share to be equal; floats by their bits."""
    return ("float", struct.pack("<d", value)) if isinstance(value, float) else (type(value).__name__, value)


def _plain(value: Any) -> Any:
    """A value as both stores can express it: NaN is null, instants are Unix seconds."""
    if isinstance(value, float) and value != value:
        return None
    return int(value.timestamp()) if isinstance(value, datetime) else value


def _example(feature: str, fault: str, key: Mapping[str, Any], offline: Row, online: Row, name: str) -> dict[str, Any]:
    return {
        "feature": feature,
        "fault": fault,
        "key": dict(key),
        "offline": offline.values.get(name),
        "online": online.values.get(name),
        "offline_event": offline.event.isoformat() if offline.event else None,
        "online_event": online.event.isoformat() if online.event else None,
    }


def _stock_client(store: FeatureStore, redis_url: str) -> FeatureStore:
    """A client of the same registry with Feast's own Redis store."""
    from feast import FeatureStore, RepoConfig

    from feature_repo.stores.redis_online import feast_connection_string

    given = store.config
    address = f"{feast_connection_string(redis_url)},socket_connect_timeout=2,socket_timeout=10"
    config = RepoConfig(
        project=given.project,
        registry=given.registry.model_dump(),
        provider="local",
        offline_store=given.offline_store.model_dump(),
        online_store={"type": "redis", "connection_string": address},
        entity_key_serialization_version=given.entity_key_serialization_version,
        repo_path=given.repo_path,
    )
    return FeatureStore(config=config)


def _online_rows(stock: FeatureStore, view: str, names: Sequence[str], keys: Sequence[Mapping[str, Any]]) -> list[Row]:
    response = stock.get_online_features([f"{view}:{name}" for name in names], [dict(key) for key in keys]).proto
    vectors = dict(zip(response.metadata.feature_names.val, response.results, strict=True))
    rows = []
    for index in range(len(keys)):
        stamp = vectors[names[0]].event_timestamps[index]
        event = stamp.ToDatetime(UTC) if stamp.seconds or stamp.nanos else None
        rows.append(Row(event, {name: _scalar(vectors[name].values[index]) for name in names}))
    return rows


def _scalar(value: Any) -> Any:
    kind = value.WhichOneof("val")
    return None if kind in (None, "null_val") else _plain(getattr(value, kind))


def _offline_rows(
    view: FeatureView,
    names: Sequence[str],
    keys: Sequence[Mapping[str, Any]],
    instants: Sequence[datetime],
    config: RepoConfig,
) -> list[Row]:
    from feature_repo.stores.asof import latest_known
    from feature_repo.stores.parquet import TIMESTAMP

    frame = pl.DataFrame([dict(key) for key in keys]).with_columns(pl.Series(_AT, instants, TIMESTAMP))
    answers = latest_known(view, names, frame, _AT, config)
    if answers is None:
        return [Row(None, {})] * len(keys)
    return [Row(row["event"], {name: _plain(row[name]) for name in names}) for row in answers.iter_rows(named=True)]


def _audited_keys(
    view: FeatureView, config: RepoConfig, redis_url: str, as_of: datetime, sample: int | None
) -> Iterator[list[dict[str, Any]]]:
    """Keys with a row that should be served, and keys that Redis holds: either side may lack what the other has."""
    from feature_repo.stores.asof import recent_keys
    from feature_repo.stores.parquet import Period

    seed = int.from_bytes(hashlib.sha256(as_of.isoformat().encode()).digest()[:8], "big")
    recent = recent_keys(view, Period(as_of - view.ttl if view.ttl else None, as_of), config)
    offline = []
    if recent is not None:
        by_chance = recent.with_columns(pl.struct(recent.columns).hash(seed).alias(_AT))
        chosen = by_chance.sort(_AT) if sample is None else by_chance.bottom_k(sample, by=_AT)
        offline = chosen.drop(_AT).to_dicts()
    held = _held_keys(view, config, redis_url, sample)
    keys = list({tuple(sorted(key.items())): key for key in (*offline, *held)}.values())
    for start in range(0, max(len(keys), 1), KEYS_PER_BATCH):
        yield keys[start : start + KEYS_PER_BATCH]


def _held_keys(view: FeatureView, config: RepoConfig, redis_url: str, sample: int | None) -> list[dict[str, Any]]:
    """Up to `sample` keys, or all, for which Redis has a row of this view."""
    import redis

    from feature_repo.stores.held import decoded_key, held_keys

    keys: list[dict[str, Any]] = []
    with redis.Redis.from_url(redis_url, socket_connect_timeout=2, socket_timeout=10) as client:
        for part in held_keys(client, view.join_keys, config.project, HELD_PER_ROUND_TRIP):
            with client.pipeline(transaction=False) as pipe:
                for raw in part:
                    pipe.hexists(raw, f"_ts:{view.name}")
                has_row = pipe.execute()
            keys += [decoded_key(raw, config.project) for raw in compress(part, has_row)]
            if sample is not None and len(keys) >= sample:
                return keys[:sample]
    return keys

"""The audit passes on what was materialised, and fails, saying why, on each way in which Redis can be wrong."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import redis
from feast.infra.online_stores.helpers import _mmh3
from feast.protos.feast.types.Value_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp

from config import Settings
from feature_repo import pipeline
from feature_repo.store import apply, feature_store
from feature_repo.stores.audit import AuditReport, Bounds, FeatureCounts, audit_store
from feature_repo.stores.parquet import TIMESTAMP
from feature_repo.transforms.coverage import Coverage, write_coverage
from feature_repo.transforms.tables import feature_table
from feature_repo.transforms.views import TRANSFORMS
from feature_repo.window import Window
from tests.conftest import free_port
from tests.feature_repo.stores.helpers import at, history, store, view, write
from tests.feature_repo.stores.test_redis_online import OURS, _redis_key, row, write_rows

TTL = timedelta(hours=2)
ROWS = [("a", 0, 70, 1), ("a", 60, 70, 2), ("b", 60, 70, 3), ("n", 60, 70, None), ("old", -600, -590, 4)]
FEATURE = "restaurant_stats__orders"


@pytest.fixture
def opened(settings: Settings, tmp_path: Path) -> Any:
    """A store materialised as of minute 60, from `ROWS`."""
    opened = store(tmp_path, [view(write(history(ROWS), tmp_path / "rows.parquet"), ttl=TTL)], online=OURS)
    opened.materialize(at(-60), at(60))
    return opened


def audited(opened: Any, settings: Settings, minute: float = 60, bounds: Bounds | None = None) -> AuditReport:
    return audit_store(opened, settings.redis_url, at(minute), 50, bounds or Bounds())


def test_what_was_materialised_passes_although_it_is_created_after_the_instant(opened: Any, settings: Settings) -> None:
    report = audited(opened, settings)
    assert report.passed, report.reasons
    assert report.keys == {"restaurant_stats": 3}
    assert report.features[FEATURE] == FeatureCounts(compared=2)
    assert report.to_dict()["compared"] == 4


def _event(minute: float) -> bytes:
    return Timestamp(seconds=int(at(minute).timestamp())).SerializeToString()


def _set(field: bytes | str, data: bytes) -> Callable[[redis.Redis], Any]:
    return lambda client: client.hset(_redis_key("a"), field, data)


ORDERS = _mmh3("restaurant_stats:orders")
TAMPERINGS: dict[str, tuple[Callable[[redis.Redis], Any], str]] = {
    "another value": (_set(ORDERS, Value(int64_val=99).SerializeToString()), "mismatched"),
    "another type": (_set(ORDERS, Value(double_val=2.0).SerializeToString()), "mismatched"),
    "null": (_set(ORDERS, b""), "missing"),
    "deleted key": (lambda client: client.delete(_redis_key("a")), "missing"),
    "older event time": (_set("_ts:restaurant_stats", _event(0)), "stale"),
    "event time of no row": (_set("_ts:restaurant_stats", _event(61)), "mismatched"),
}  # fmt: skip


@pytest.mark.parametrize("name", TAMPERINGS)
def test_each_fault_is_found_and_named(opened: Any, settings: Settings, name: str) -> None:
    tamper, fault = TAMPERINGS[name]
    tamper(redis.Redis.from_url(settings.redis_url))
    report = audited(opened, settings)
    assert not report.passed
    assert any(
        reason.startswith(f"{FEATURE}: 1 of 2 values {fault} (50.00%, at most 0.00%") for reason in report.reasons
    )
    assert report.examples[0]["key"] == {"restaurant_id": "a"}
    assert report.examples[0]["fault"] == fault
    assert report.to_dict()["features"][FEATURE][f"{fault}_rate"] == 0.5


def test_value_that_offline_does_not_have_is_extra(opened: Any, settings: Settings, tmp_path: Path) -> None:
    write_rows(tmp_path, [row("ghost", 60, 70, 5), row("n", 60, 70, 5)])
    report = audited(opened, settings)
    assert report.features[FEATURE] == FeatureCounts(compared=4, extra=2)
    assert f"{FEATURE}: 2 of 4 values extra" in report.reasons[0]


def test_expired_values_are_nobodys_fault(opened: Any, settings: Settings, tmp_path: Path) -> None:
    write_rows(tmp_path, [row("ghost", -600, -600, 5)])
    report = audited(opened, settings, minute=300)
    assert report.passed
    assert report.compared == 0


def test_store_that_is_ahead_of_the_audited_instant_passes(opened: Any, settings: Settings) -> None:
    assert audited(opened, settings, minute=30).passed


def test_row_that_was_not_materialised_yet_is_stale_or_missing(opened: Any, settings: Settings, tmp_path: Path) -> None:
    write(history([*ROWS, ("a", 90, 100, 7), ("new", 90, 100, 8)]), tmp_path / "rows.parquet")
    counts = audited(opened, settings, minute=90).features[FEATURE]
    assert counts == FeatureCounts(compared=3, stale=1, missing=1)


def test_fault_within_its_bound_passes(opened: Any, settings: Settings) -> None:
    redis.Redis.from_url(settings.redis_url).delete(_redis_key("a"))
    assert audited(opened, settings, bounds=Bounds(missing=0.5)).passed
    assert not audited(opened, settings, bounds=Bounds(missing=0.49)).passed


def test_each_feature_with_a_fault_is_a_line_in_the_log(
    opened: Any, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    redis.Redis.from_url(settings.redis_url).hset(_redis_key("a"), ORDERS, Value(int64_val=99).SerializeToString())
    report = audited(opened, settings)
    with caplog.at_level(logging.INFO, logger="feature_repo.stores.audit"):
        report.log()
    assert caplog.messages == [
        f"audit as of {at(60).isoformat()} failed: 4 values compared",
        f"audit: {FEATURE}: 50.00% mismatched, 0.00% missing, 0.00% extra, 0.00% stale, of 2 values",
    ]


MIDNIGHT = datetime(2026, 5, 1, tzinfo=UTC)
WINDOW = Window(MIDNIGHT - timedelta(hours=1), MIDNIGHT)


@pytest.fixture
def materialised(settings: Settings) -> Settings:
    """The repository's own views, of which `zone_stats` has two rows, through the pipeline's step."""
    apply(settings)
    transform = TRANSFORMS["zone_stats"]
    table = feature_table(transform, settings)
    row = {name: 3 if kind.is_numeric() else None for name, kind in table.schema.items()}
    row |= {name: WINDOW.start for name, kind in table.schema.items() if kind == TIMESTAMP}
    rows = pl.DataFrame([row | {transform.key: key} for key in ("centre", "north")], schema=table.schema)
    table.replace(WINDOW, rows)
    write_coverage(Coverage(WINDOW.start, WINDOW.end), settings)
    assert pipeline.materialize(WINDOW, settings)["rows"]["zone_stats"] == 2
    return settings


def test_step_keeps_its_report_and_passes_on_what_was_materialised(materialised: Settings) -> None:
    told = pipeline.audit_online(WINDOW, materialised)
    assert told["passed"], told["reasons"]
    assert told["keys"]["zone_stats"] == 2
    kept = materialised.reports / "audit" / "20260501T000000.json"
    assert json.loads(kept.read_text()) == told


def test_step_refuses_and_says_why_when_redis_holds_something_else(materialised: Settings) -> None:
    client = redis.Redis.from_url(materialised.redis_url)
    (feature, *_) = (field.name for field in feature_store(materialised).get_feature_view("zone_stats").features)
    for key in client.scan_iter():
        client.hset(key, _mmh3(f"zone_stats:{feature}"), Value(int64_val=-1).SerializeToString())
    told = pipeline.audit_online(WINDOW, materialised)
    assert not told["passed"]
    assert told["reasons"] == [f"zone_stats__{feature}: 2 of 2 values mismatched (100.00%, at most 0.00% allowed)"]
    kept = json.loads((materialised.reports / "audit" / "20260501T000000.json").read_text())
    assert kept["reasons"] == told["reasons"]
    assert {example["key"]["zone_id"] for example in kept["examples"]} == {"centre", "north"}


def test_nothing_anywhere_passes_and_says_that_nothing_was_compared(settings: Settings, tmp_path: Path) -> None:
    report = audited(store(tmp_path, [view(tmp_path / "absent")], online=OURS), settings)
    assert report.passed
    assert report.to_dict()["compared"] == 0


def test_dead_redis_is_an_error_and_not_a_pass(opened: Any) -> None:
    with pytest.raises(ConnectionError, match="the audit cannot read Redis"):
        audit_store(opened, f"redis://127.0.0.1:{free_port()}/0", at(60), 50, Bounds())

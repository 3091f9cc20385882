"""What a stop leaves behind: Redis and the offline tables as they were, byte by byte, and the rows in quarantine."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import polars as pl
import pytest
import redis

from config import Settings
from feature_repo import pipeline
from feature_repo.orders.schema import orders_table, quarantine_table
from feature_repo.orders.watermark import LandingError
from feature_repo.store import apply
from feature_repo.transforms import compute
from feature_repo.window import HOUR, Window
from tests.feature_repo.test_pipeline import END, START, land, landed_versions

BEFORE = Window(START, END - HOUR)
HOUR_TO_JUDGE = Window(END - HOUR, END)


@pytest.fixture
def running(settings: Settings) -> Settings:
    """An installation that has run up to an hour ago, its orders landed up to now."""
    land(landed_versions(END), settings)
    apply(settings)
    pipeline.backfill(BEFORE, settings, lambda _: None)
    pipeline.materialize(BEFORE, settings)
    return settings


def online(settings: Settings) -> dict[bytes, bytes]:
    """Everything in Redis, as Redis serialises it."""
    client = redis.Redis.from_url(settings.redis_url)
    return {key: client.dump(key) for key in sorted(client.scan_iter(count=1000))}


def offline(settings: Settings, *but: str) -> dict[str, str]:
    """The SHA-256 of every file of the lake, but for what the stop itself is to write."""
    lake = settings.data_dir / "lake"
    files = [path for path in lake.rglob("*") if path.is_file() and path.relative_to(lake).parts[0] not in but]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(files)}


def spoil(settings: Settings, change: Callable[[pl.DataFrame], pl.DataFrame]) -> int:
    """Change what landed in the hour to judge; returns how many versions that are."""
    versions = landed_versions(END)
    inside = pl.col("updated_at") >= HOUR_TO_JUDGE.start
    land(pl.concat([versions.filter(~inside), change(versions.filter(inside))]), settings)
    return versions.filter(inside).height


def test_a_good_hour_changes_both_stores(running):
    """Else the tests below could not fail."""
    before = online(running), offline(running)
    pipeline.run_window(HOUR_TO_JUDGE, running, lambda _: None)
    assert online(running) != before[0]
    assert offline(running) != before[1]


def test_a_stopped_batch_of_orders_leaves_redis_and_the_tables_as_they_were(running):
    before = online(running), offline(running, "quarantine", "baselines")
    assert before[0]
    count = spoil(running, lambda rows: rows.with_columns(restaurant_id=pl.lit(None, pl.String)))
    with pytest.raises(pipeline.BatchStopped, match="restaurant_id_not_all_null"):
        pipeline.run_window(HOUR_TO_JUDGE, running, lambda _: None)
    assert (online(running), offline(running, "quarantine", "baselines")) == before
    assert quarantine_table(running).read(HOUR_TO_JUDGE)["rule"].to_list() == ["batch_stopped"] * count


def test_a_warning_that_is_configured_as_stop_does_the_same(running):
    before = online(running), offline(running, "quarantine", "baselines")
    spoil(running, lambda rows: rows.clear())
    strict = running.model_copy(update={"rule_severities": {"no_rows": "stop"}})
    with pytest.raises(pipeline.BatchStopped, match="no_rows"):
        pipeline.run_window(HOUR_TO_JUDGE, strict, lambda _: None)
    assert (online(running), offline(running, "quarantine", "baselines")) == before


def test_stopped_features_leave_redis_and_the_feature_tables_as_they_were(running, monkeypatch):
    before = online(running), offline(running, "orders", "baselines")
    real = compute.compute_rows

    def broken(*arguments):
        rows = real(*arguments)
        if "zone_stats" in rows:
            rows["zone_stats"] = rows["zone_stats"].with_columns(order_count_1h=pl.col("order_count_7d") + 1)
        return rows

    monkeypatch.setattr(compute, "compute_rows", broken)
    with pytest.raises(pipeline.BatchStopped, match="order_count_1h_at_most"):
        pipeline.run_window(HOUR_TO_JUDGE, running, lambda _: None)
    assert (online(running), offline(running, "orders", "baselines")) == before


def test_a_damaged_landing_file_leaves_everything_as_it_was(running):
    before = online(running), offline(running)
    path = max(running.landing_orders.glob("day=*/orders.parquet"))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(LandingError, match=f"{path} cannot be read"):
        pipeline.run_window(HOUR_TO_JUDGE, running, lambda _: None)
    assert (online(running), offline(running)) == before


def test_a_mended_batch_goes_through_and_ends_as_if_nothing_had_happened(running):
    spoil(running, lambda rows: rows.with_columns(restaurant_id=pl.lit(None, pl.String)))
    with pytest.raises(pipeline.BatchStopped):
        pipeline.run_window(HOUR_TO_JUDGE, running, lambda _: None)
    spoil(running, lambda rows: rows)
    results = pipeline.run_window(HOUR_TO_JUDGE, running, lambda _: None)
    assert results["audit"]["passed"]
    assert quarantine_table(running).read(HOUR_TO_JUDGE).is_empty()
    assert orders_table(running).read().height == landed_versions(END).height

"""`make run`, small: every room and every real service, from orders to a verdict."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from config import Settings, get_settings
from feature_repo.locking import holder_of
from feature_repo.orders.watermark import Watermark, write_watermark
from feature_repo.window import HOUR
from stack import walkthrough
from tests.conftest import PATIENT_MS, free_port


@pytest.fixture
def own_ports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation of its own, with real services on free ports."""
    for name in ("REDIS_URL", "ETA_REDIS_URL", "MLFLOW_TRACKING_URI", "ETA_MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ETA_DATA_DIR", str(tmp_path / "data"))
    for server in ("REDIS", "MLFLOW", "SERVING"):
        monkeypatch.setenv(f"ETA_{server}_PORT", str(free_port()))
    monkeypatch.setenv("ETA_ONLINE_TIMEOUT_MS", PATIENT_MS)
    monkeypatch.setattr(walkthrough, "SIMULATED_DAYS", 16)
    monkeypatch.setattr(walkthrough, "SIMULATED_ORDERS", 12_000)
    monkeypatch.setattr(walkthrough, "LIVE_HOURS", 2)
    # A zone has a hundred orders to judge here, and another hundred with every hour at which this is run.
    by_chance = {
        "slices": 2.0,
        "fairness": 2.0,
        "interval_coverage": 0.2,
        "interval_parts": 0.2,
        "train_validation_gap": 5.0,
    }
    monkeypatch.setenv("ETA_GATE_THRESHOLDS", json.dumps({"delivery_time": by_chance}))
    get_settings.cache_clear()


@pytest.mark.usefixtures("own_ports")
def test_the_loop_goes_round_and_ends_in_a_summary(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    holders, predict = [], walkthrough._predict_in_turn

    def watched(settings: Settings, *others: Any) -> list[dict[str, Any]]:
        holders.append(str(holder_of(settings, "run")))
        return predict(settings, *others)

    monkeypatch.setattr(walkthrough, "_predict_in_turn", watched)
    assert walkthrough.main() == 0
    assert holders
    assert all(holder.endswith("make run") for holder in holders), "a running pipeline has to wait meanwhile"
    told = capsys.readouterr().out
    assert re.search(r"ingested +[\d,]+ order versions accepted", told)
    assert re.search(r"quarantined +[\d,]+ rows, by rule:", told)
    assert "delivery_time version 1, alias champion" in told
    assert re.search(r"validation_mae +[\d.]+ +8  passed", told)
    assert "online = offline   1 of 1 audits passed" in told
    assert re.search(r"answered +[\d.]+ min \(P10 [\d.]+, P90 [\d.]+\), status ok, delivery_time version 1", told)
    assert re.search(r"verdict +(NONE|ALERT|RETRAIN)", told)

    settings = get_settings()
    verdicts = list(settings.reports.glob("monitoring/*/verdict.json"))
    assert [json.loads(path.read_text())["model"] for path in verdicts] == ["delivery_time 1"]
    logged = pl.read_parquet(settings.predictions / "day=*/*.parquet", hive_partitioning=False)
    assert logged["model_version"].unique().to_list() == ["1"]
    assert not list(settings.run_dir.glob("*.pid")), "make run stops the services that it started"


@pytest.mark.usefixtures("own_ports")
def test_a_first_model_that_is_rejected_ends_the_run_with_the_reasons(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(walkthrough, "SIMULATED_DAYS", 8)
    monkeypatch.setattr(walkthrough, "SIMULATED_ORDERS", 6_000)
    monkeypatch.setenv("ETA_GATE_THRESHOLDS", json.dumps({"delivery_time": {"validation_mae": 0.1}}))
    get_settings.cache_clear()
    assert walkthrough.main() == 1
    told = capsys.readouterr()
    assert "there is no model to serve, as the first one was rejected: validation_mae: " in told.err
    assert "ETA_GATE_THRESHOLDS" in told.err
    assert "Serving" not in told.out


def test_orders_without_a_mapping_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert walkthrough.main(orders="orders.csv") == 2
    assert "give both ORDERS= and MAPPING=" in capsys.readouterr().out


def test_less_than_two_days_of_orders_are_refused(settings: Settings) -> None:
    start = datetime(2026, 5, 1, tzinfo=UTC)
    write_watermark(settings, Watermark(start + 30 * HOUR, "mine", start))
    with pytest.raises(walkthrough.WalkError, match="cover only 2026-05-01 00:00 to 2026-05-02 06:00 UTC"):
        walkthrough._span(settings)


def test_an_absent_mapping_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert walkthrough.main(orders="orders.csv", mapping=tmp_path / "none.yaml") == 2
    assert "none.yaml" in capsys.readouterr().err


@pytest.mark.usefixtures("own_ports")
def test_a_dead_online_store_stops_the_run_with_its_address(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    port = free_port()
    monkeypatch.setenv("ETA_REDIS_URL", f"redis://127.0.0.1:{port}/0")
    get_settings.cache_clear()
    assert walkthrough.main() == 1
    assert f"redis at redis://127.0.0.1:{port}/0" in capsys.readouterr().err

from __future__ import annotations

import json
from datetime import timedelta

import polars as pl
import pytest

from feature_repo.window import Window
from monitoring import pipeline
from monitoring.champion import ChampionUnreadable, load_champion
from monitoring.report import MissingResult, report_directory, write_json
from tests.monitoring.conftest import DAY, feature_rows, logged, outcomes_of


def next_day(window: Window, days: int = 1) -> Window:
    return Window(window.start + timedelta(days=days), window.end + timedelta(days=days))


def predictions(shift: float = 0.0, days: float = 0) -> pl.DataFrame:
    """600 predictions over the 24 hours of `DAY`, moved so that outcomes and drift look at the same rows."""
    return logged(feature_rows(600, shift=shift), DAY.start - pipeline.LABEL_DELAY + timedelta(days=days))


def test_a_good_day_is_green_with_its_reports_on_disk(house, world) -> None:
    rows = predictions()
    world(rows, outcomes_of(rows))
    result = pipeline.run(DAY, house)
    assert result["verdict"]["action"] == "none", result["verdict"]["reasons"]
    assert result["performance"]["outcomes"] == 600
    assert result["performance"]["mae"] < result["performance"]["baseline_mae"]
    directory = report_directory(house, DAY)
    assert sorted(path.name for path in directory.iterdir()) == [
        "drift.html", "drift.json", "evidently.json", "outcomes.parquet", "performance.json", "verdict.json",
    ]  # fmt: skip
    assert pl.read_parquet(directory / "outcomes.parquet").height == 600
    assert "distance_km" in (directory / "drift.html").read_text()


def test_a_changed_world_alerts_first_and_retrains_when_it_persists(house, world) -> None:
    actions = []
    for day in range(3):
        rows = predictions(shift=2.0, days=day)
        world(rows, outcomes_of(rows))
        actions.append(pipeline.run(next_day(DAY, day), house)["verdict"]["action"])
    assert actions == ["alert", "retrain", "alert"]


def test_a_wrong_model_is_found_by_its_errors_without_any_drift(house, world) -> None:
    rows = predictions()
    world(rows, outcomes_of(rows, noise=1.0, bias=9.0))
    result = pipeline.run(DAY, house)
    assert result["drift"]["drifted"] == []
    assert result["performance"]["bias"] == pytest.approx(-9, abs=0.5)
    assert any("times the 4.20 min of its test" in reason for reason in result["verdict"]["reasons"])


def test_a_day_without_predictions_is_an_alert_and_leaves_no_stale_page(house, world) -> None:
    rows = predictions()
    world(rows, outcomes_of(rows))
    pipeline.run(DAY, house)
    world(rows.clear(), outcomes_of(rows))
    result = pipeline.run(DAY, house)
    assert result["verdict"]["action"] == "alert"
    assert any("not enough data: 0 predictions" in reason for reason in result["verdict"]["reasons"])
    assert not (report_directory(house, DAY) / "drift.html").exists()


def test_no_champion_is_an_alert_that_says_what_to_do(house, world, monkeypatch) -> None:
    monkeypatch.setattr("monitoring.pipeline.load_champion", lambda settings: None)
    rows = predictions()
    world(rows, outcomes_of(rows))
    result = pipeline.run(DAY, house)
    assert result["verdict"]["action"] == "alert"
    assert result["verdict"]["reasons"] == [
        "no champion is registered, so there is nothing to compare with: run the training pipeline"
    ]


def test_a_second_run_of_the_same_day_says_the_same(house, world) -> None:
    rows = predictions(shift=2.0)
    world(rows, outcomes_of(rows))
    first = pipeline.run(DAY, house)
    assert pipeline.run(DAY, house) == first


def test_orders_placed_too_late_to_be_delivered_wait_for_the_next_window(house, world) -> None:
    rows = logged(feature_rows(240), DAY.start)
    world(rows, outcomes_of(rows))
    measured = pipeline.join_outcomes(DAY, house)
    assert measured["placed"] == "[2026-04-30 21:00, 2026-05-01 21:00) UTC"
    assert measured["predictions"] == 210
    assert pipeline.join_outcomes(next_day(DAY), house)["predictions"] == 30


def test_predictions_of_orders_that_the_model_was_fitted_on_do_not_count(house, world) -> None:
    rows = predictions()
    seen = pl.int_range(pl.len()) < 40
    world(rows.with_columns(variant=pl.when(seen).then(pl.lit("in sample")).otherwise("variant")), outcomes_of(rows))
    measured = pipeline.join_outcomes(DAY, house)
    assert (measured["in_sample"], measured["predictions"], measured["outcomes"]) == (40, 560, 560)


def test_drift_looks_once_at_an_order_and_at_every_anonymous_request(house, world) -> None:
    online = logged(feature_rows(100), DAY.start)
    batch = logged(feature_rows(150), DAY.start, source="batch")
    anonymous = logged(feature_rows(30), DAY.start).with_columns(order_id=pl.lit(None, pl.String))
    world(pl.concat([online, batch, anonymous]), outcomes_of(online))
    assert pipeline.drift_report(DAY, house)["rows"] == 180


def test_a_verdict_before_its_inputs_says_what_to_run(house) -> None:
    with pytest.raises(MissingResult, match=r"performance.json is not there: run join_outcomes for \[2026-05-01"):
        pipeline.verdict(DAY, house)


def test_a_result_with_nan_is_refused_and_the_old_file_stays(tmp_path) -> None:
    path = tmp_path / "result.json"
    write_json(path, {"mae": 1.0})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"mae": float("nan")})
    assert json.loads(path.read_text()) == {"mae": 1.0}
    assert [file.name for file in tmp_path.iterdir()] == ["result.json"]


def test_a_champion_without_reference_says_so(house, champion_directory) -> None:
    (champion_directory / "reference.parquet").unlink()
    with pytest.raises(ChampionUnreadable, match=r"has no \['reference.parquet'\]: train and register again"):
        load_champion(house)


def test_a_reference_without_an_input_says_which(house, champion_directory) -> None:
    path = champion_directory / "reference.parquet"
    pl.read_parquet(path).drop("distance_km").write_parquet(path)
    with pytest.raises(ChampionUnreadable, match=r"has no columns \['distance_km'\]"):
        load_champion(house).reference()

"""Training sets: stored once by content, checked before anything is trained on them."""

from __future__ import annotations

import re
from dataclasses import replace

import polars as pl
import pytest

from tests.training.conftest import AS_OF, DRIVER_MEAN, TRAILING_MEAN, description, market
from training.checks import check_dataset
from training.dataset import load_dataset, store_dataset, window_of
from training.errors import DatasetError
from training.spec import DatasetLimits


def test_the_same_content_is_stored_once_whatever_its_order(stored, settings):
    rows = market()
    first, second = stored(rows), stored(rows.sample(fraction=1.0, shuffle=True, seed=1))
    assert first.directory == second.directory
    assert sorted(path.name for path in first.directory.iterdir()) == ["dataset.json", "rows.parquet"]
    assert first.rows()["order_id"].is_sorted()


@pytest.mark.parametrize(
    "change",
    [
        {"definitions_hash": "e" * 64},
        {"seed": 2},
        {"feature_service": "delivery_time_v2"},
        # The same rows by both: in winter London's clock is UTC's, and in summer the model has to know whose it is.
        {"clock": {"zone": "Europe/London", "peak_hours": [11, 12, 13, 18, 19, 20]}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_another_origin_is_another_data_set(stored, change):
    assert stored().hash != stored(**change).hash


def test_one_changed_value_is_another_data_set(stored):
    rows = market()
    changed = rows.with_columns(distance_km=pl.when(pl.col("order_id") == "o000007").then(9.0).otherwise("distance_km"))
    assert stored(rows).hash != stored(changed).hash


def test_a_data_set_says_where_it_comes_from(stored):
    found = stored().description
    assert found["row_count"] == 3000
    assert found["null_rates"][TRAILING_MEAN] == pytest.approx(1 / 11, abs=0.001)
    assert found["earliest"].startswith("2026-03-02")
    assert found["order_partitions"][0]["path"] == "lake/orders/day=2026-04-01/rows.parquet"


def test_a_killed_write_leaves_nothing(settings, spec, monkeypatch):
    monkeypatch.setattr("training.dataset.write_json", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        store_dataset(market(100), description(), settings.datasets, spec)
    assert list(settings.datasets.iterdir()) == []


def test_a_missing_column_is_named(settings, spec):
    with pytest.raises(DatasetError, match=r"have no columns .*distance_km"):
        store_dataset(market().drop("distance_km"), description(), settings.datasets, spec)


def test_a_damaged_file_is_named_with_what_to_do(stored):
    dataset = stored()
    (dataset.directory / "rows.parquet").write_bytes(b"half a file")
    with pytest.raises(DatasetError, match=r"rows\.parquet cannot be read .* build it again"):
        dataset.rows()


def test_an_absent_data_set_says_how_to_build_one(tmp_path):
    with pytest.raises(DatasetError, match="python -m training run"):
        load_dataset(tmp_path)


def test_a_good_data_set_passes(stored, spec):
    verdict = check_dataset(stored(), spec)
    assert (verdict["stopped"], verdict["failures"], verdict["absent_in_source"]) == (False, [], [])


def of_label(value: float | None, *where: str) -> pl.Expr:
    found = pl.col("order_id").is_in(where)
    return pl.when(found).then(pl.lit(value, pl.Float64)).otherwise("delivery_minutes").alias("delivery_minutes")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        pytest.param(lambda rows: rows.head(80), "80 rows, at least 500 are needed", id="few rows"),
        pytest.param(
            lambda rows: pl.concat([rows, rows.head(2)]),
            "2 rows have the order_id of another .for example o00000",
            id="duplicates",
        ),
        pytest.param(
            lambda rows: rows.with_columns(of_label(181.0, "o000004")), r"o000004: 181.0", id="label out of range"
        ),
        pytest.param(lambda rows: rows.with_columns(of_label(None, "o000004")), r"o000004: None", id="label missing"),
        pytest.param(
            lambda rows: rows.with_columns(delivery_minutes=pl.lit(30.0)),
            "delivery_minutes is 30.0 on every row",
            id="constant label",
        ),
        pytest.param(
            lambda rows: rows.with_columns(pl.lit(None, pl.Float64).alias(TRAILING_MEAN)),
            f"{TRAILING_MEAN} has no value on any row although the source has its column",
            id="empty feature",
        ),
        pytest.param(
            lambda rows: rows.with_columns(distance_km=pl.when(pl.int_range(pl.len()) % 50 == 0).then("distance_km")),
            "distance_km is missing on 98.0% of the rows, at most 95.0%",
            id="sparse feature",
        ),
    ],
)
def test_a_bad_data_set_is_stopped_with_its_reason(stored, spec, rows, message):
    verdict = check_dataset(stored(rows(market())), spec)
    assert verdict["stopped"]
    (failure,) = verdict["failures"]
    assert re.search(message, failure), failure


def test_a_source_without_a_column_still_trains_and_says_so(stored, spec):
    rows = market().with_columns(
        pl.lit(None, pl.Float64).alias("distance_km"), pl.lit(None, pl.Float64).alias(DRIVER_MEAN)
    )
    verdict = check_dataset(stored(rows, absent_inputs=[DRIVER_MEAN, "distance_km"]), spec)
    assert not verdict["stopped"]
    assert verdict["absent_in_source"] == [DRIVER_MEAN, "distance_km"]


def test_a_window_that_is_longer_than_the_history_is_said_and_stops_nothing(stored, spec):
    verdict = check_dataset(stored(), spec)
    assert not verdict["stopped"]
    (note,) = verdict["notes"]
    assert note.startswith("the window begins at 2026-01-31, the first row with a known label is of 2026-03-02")
    assert check_dataset(stored(window={"start": "2026-03-02T00:00:00+00:00"}), spec)["notes"] == []


def test_limits_come_from_the_spec(stored, spec):
    strict = replace(spec, limits=DatasetLimits(minimum_rows=10_000, label_minimum=1, label_maximum=180))
    assert check_dataset(stored(), strict)["failures"][0].startswith("3000 rows, at least 10000")


def test_the_window_ends_at_the_full_hour_before_the_instant(spec):
    window = window_of(AS_OF.replace(hour=3, minute=40), spec)
    assert str(window) == "[2026-01-31 03:00, 2026-05-01 03:00) UTC"

"""What the as-of store does beyond the join itself: names, keys, time zones, sources, saved datasets, logs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from feast import Entity, FeatureService, FeatureView, Field, FileSource, RequestSource, ValueType
from feast.errors import (
    EntityTimestampInferenceException,
    FeastEntityDFMissingColumnsError,
    SavedDatasetLocationAlreadyExists,
)
from feast.feature_logging import LoggingConfig
from feast.infra.offline_stores.file_source import FileLoggingDestination, SavedDatasetFileStorage
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64, String

from feature_repo.stores import join
from feature_repo.stores.asof import AsOfOfflineStore
from feature_repo.stores.parquet import UnusableSource
from tests.feature_repo.stores.helpers import (
    AS_OF,
    at,
    entity_frame,
    history,
    repo_config,
    restaurant,
    store,
    view,
    write,
)

ROWS = [("a", 0, 10, 1), ("a", 60, 70, 2), ("b", 0, 10, 3)]
REFS = ["restaurant_stats:orders", "restaurant_stats:minutes"]


@pytest.fixture
def opened(tmp_path: Path) -> Any:
    """A feature store with one view over `ROWS`."""
    return store(tmp_path, [view(write(history(ROWS), tmp_path / "rows.parquet"), ttl=timedelta(hours=26))])


def answers(opened: Any, rows: list[tuple[str | None, float | None]], **options: Any) -> list[float | None]:
    frame = opened.get_historical_features(entity_frame(rows), REFS, **options).to_df()
    return [None if pd.isna(value) else value for value in frame["orders"]]


def test_rows_in_are_rows_out_in_order_with_nulls_for_the_unknown(opened: Any) -> None:
    asked: list[tuple[str | None, float | None]] = [
        ("b", 20),
        ("a", 80),
        ("nobody", 80),
        (None, 80),
        ("a", 80),
        ("a", 5),
        ("a", None),
        ("a", 20),
    ]
    assert answers(opened, asked) == [3, 2, None, None, 2, None, None, 1]


def test_correction_is_hidden_until_it_is_known_and_the_cut_off_can_be_turned_off(tmp_path: Path) -> None:
    rows = write(history([("a", 0, 0, 1), ("a", 0, 60, 99)]), tmp_path / "rows.parquet")
    with_cutoff = store(tmp_path / "on", [view(rows)])
    without = store(tmp_path / "off", [view(rows)], offline={"type": AS_OF["type"]})
    assert answers(with_cutoff, [("a", 59), ("a", 60)]) == [1, 99]
    assert answers(without, [("a", 59), ("a", 60)]) == [99, 99]
    assert answers(without, [("a", 59)], filter_by_created_timestamp=True) == [1]


def test_value_exactly_as_old_as_the_ttl_is_present_and_an_older_one_is_not(tmp_path: Path) -> None:
    opened = store(tmp_path, [view(write(history([("a", 0, 0, 1)]), tmp_path / "r.parquet"), ttl=timedelta(hours=1))])
    assert answers(opened, [("a", 60), ("a", 61)]) == [1, None]


def test_full_feature_names_carry_the_view(opened: Any) -> None:
    frame = opened.get_historical_features(entity_frame([("a", 80)]), REFS, full_feature_names=True).to_df()
    assert list(frame.columns) == [
        "restaurant_id",
        "event_timestamp",
        "restaurant_stats__orders",
        "restaurant_stats__minutes",
    ]


def test_time_column_of_any_name_and_zone(opened: Any) -> None:
    frame = entity_frame([("a", 80)]).rename(columns={"event_timestamp": "placed_at"})
    frame["placed_at"] = frame["placed_at"].dt.tz_convert("Europe/Berlin")
    result = opened.get_historical_features(frame, REFS).to_df()
    assert result["orders"].tolist() == [2]
    assert result["placed_at"].iloc[0] == pd.Timestamp(at(80))


def test_naive_and_textual_instants_are_utc(opened: Any) -> None:
    naive = entity_frame([("a", 70)]).assign(event_timestamp=[datetime(2026, 5, 1, 13, 10)])  # noqa: DTZ001
    text = entity_frame([("a", 69)]).assign(event_timestamp=["2026-05-01 13:09:00"])
    assert opened.get_historical_features(naive, REFS).to_df()["orders"].tolist() == [2]
    assert opened.get_historical_features(text, REFS).to_df()["orders"].tolist() == [1]


def test_source_in_another_zone_is_the_same_instant(tmp_path: Path) -> None:
    rows = history(ROWS).with_columns(pl.col("event_timestamp", "created").dt.convert_time_zone("Asia/Tokyo"))
    assert answers(store(tmp_path, [view(write(rows, tmp_path / "r.parquet"))]), [("a", 20), ("a", 80)]) == [1, 2]


def test_other_columns_of_the_entity_frame_come_back_untouched(opened: Any) -> None:
    frame = entity_frame([("a", 80), ("b", 20)]).assign(label=[1.5, None], note=["x", "y"], flag=[True, False])
    result = opened.get_historical_features(frame, REFS).to_df()
    pd.testing.assert_frame_equal(result[["label", "note", "flag"]], frame[["label", "note", "flag"]])


def test_field_mapping_renames_columns_of_the_source(tmp_path: Path) -> None:
    rows = history(ROWS).rename({"orders": "n_ord", "restaurant_id": "rid", "event_timestamp": "ts"})
    mapping = {"n_ord": "orders", "rid": "restaurant_id"}
    item = view(write(rows, tmp_path / "r.parquet"), field_mapping=mapping, timestamp_field="ts")
    assert answers(store(tmp_path, [item]), [("a", 80), ("b", 20)]) == [2, 3]


def test_join_key_under_another_name(tmp_path: Path) -> None:
    opened = store(tmp_path, [view(write(history(ROWS), tmp_path / "r.parquet"))])
    here = opened.get_feature_view("restaurant_stats").with_name("here")
    near = opened.get_feature_view("restaurant_stats").with_name("near").with_join_key_map({"restaurant_id": "near_id"})
    opened.apply([FeatureService(name="both", features=[here, near])])
    frame = entity_frame([("a", 80)]).assign(near_id="b")
    result = opened.get_historical_features(frame, opened.get_feature_service("both"), full_feature_names=True).to_df()
    assert result[["here__orders", "near__orders"]].to_numpy().tolist() == [[2, 3]]


def test_composite_key_joins_on_all_of_its_parts(tmp_path: Path) -> None:
    zone = Entity(name="zone", join_keys=["zone_id"], value_type=ValueType.INT64)
    rows = history([("a", 0, 0, 1), ("a", 0, 0, 2), ("b", 0, 0, 3)]).with_columns(zone_id=pl.Series([1, 2, 1]))
    item = FeatureView(
        name="restaurant_stats",
        entities=[restaurant, zone],
        schema=[
            Field(name="restaurant_id", dtype=String),
            Field(name="zone_id", dtype=Int64),
            Field(name="orders", dtype=Int64),
            Field(name="minutes", dtype=Float64),
        ],
        source=FileSource(path=str(write(rows, tmp_path / "r.parquet")), timestamp_field="event_timestamp"),
    )
    opened = store(tmp_path, [zone, item])
    frame = entity_frame([("a", 1), ("a", 1), ("b", 1), ("b", 1), ("a", 1)]).assign(zone_id=[2.0, 1.0, 1.0, 2.0, None])
    assert opened.get_historical_features(frame, REFS).to_df()["orders"].fillna(-1).tolist() == [2, 1, 3, -1, -1]


def test_on_demand_features_see_request_columns_and_features(tmp_path: Path) -> None:
    base = view(write(history(ROWS), tmp_path / "r.parquet"))
    request = RequestSource(name="order_request", schema=[Field(name="value", dtype=Float64)])

    @on_demand_feature_view(sources=[base, request], schema=[Field(name="ratio", dtype=Float64)], mode="pandas")
    def relative(inputs: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"ratio": inputs["value"] / inputs["minutes"]})

    opened = store(tmp_path, [base, relative])
    frame = entity_frame([("a", 80), ("zz", 80)]).assign(value=[10.0, 10.0])
    result = opened.get_historical_features(frame, ["relative:ratio", "restaurant_stats:minutes"]).to_df()
    assert result["ratio"].iloc[0] == 10.0
    assert pd.isna(result["ratio"].iloc[1])


@pytest.mark.parametrize("path", ["absent", "empty/"])
def test_view_without_any_file_answers_null_in_its_declared_types(tmp_path: Path, path: str) -> None:
    (tmp_path / "empty").mkdir()
    opened = store(tmp_path, [view(tmp_path / path)])
    table = opened.get_historical_features(entity_frame([("a", 1), ("b", 2)]), REFS).to_arrow()
    assert table.num_rows == 2
    assert table.schema.field("orders").type == pa.int64()
    assert table["orders"].null_count == table["minutes"].null_count == 2


def test_entity_frame_without_a_needed_key_is_refused(opened: Any) -> None:
    with pytest.raises(FeastEntityDFMissingColumnsError, match=r"but \['restaurant_id'\] were missing"):
        opened.get_historical_features(entity_frame([("a", 1)]).drop(columns="restaurant_id"), REFS)


def test_entity_frame_without_a_time_is_refused(opened: Any) -> None:
    with pytest.raises(EntityTimestampInferenceException, match="event_timestamp"):
        opened.get_historical_features(entity_frame([("a", 1)]).drop(columns="event_timestamp"), REFS)


def test_sql_query_as_entities_is_refused(opened: Any) -> None:
    with pytest.raises(ValueError, match="a SQL query is not supported"):
        opened.get_historical_features("SELECT 1", REFS)


def test_key_of_another_kind_is_refused_instead_of_missing_silently(opened: Any) -> None:
    frame = entity_frame([("a", 80)]).assign(restaurant_id=[7])
    with pytest.raises(TypeError, match=r"'restaurant_id' is Int64, but .* is String: cast it"):
        opened.get_historical_features(frame, REFS).to_df()


def test_column_with_a_features_name_is_refused(opened: Any) -> None:
    with pytest.raises(ValueError, match=r"\['orders'\] of the entity frame have a feature's name"):
        opened.get_historical_features(entity_frame([("a", 80)]).assign(orders=1), REFS)


def test_corrupt_file_is_named(tmp_path: Path) -> None:
    file = write(history(ROWS), tmp_path / "rows" / "day=2026-05-01" / "rows.parquet")
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UnusableSource, match=r"day=2026-05-01/rows\.parquet cannot be read as Parquet"):
        answers(store(tmp_path, [view(tmp_path / "rows")]), [("a", 80)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (pl.col("created").dt.cast_time_unit("ns") + pl.duration(nanoseconds=1), "created is finer than microseconds"),
        (pl.col("event_timestamp").dt.epoch("s"), "event_timestamp is Int64, not a time stamp"),
        (pl.col("orders").alias("orders_renamed"), r"has no columns \['orders'\]"),
    ],
)
def test_unsuitable_column_is_refused_with_the_files_name(tmp_path: Path, change: pl.Expr, message: str) -> None:
    rows = history(ROWS).with_columns(change)
    if "orders_renamed" in rows.columns:
        rows = rows.drop("orders")
    path = write(rows, tmp_path / "r.parquet")
    with pytest.raises(UnusableSource, match=rf"r\.parquet:? .*{message}|r\.parquet {message}"):
        answers(store(tmp_path, [view(path)]), [("a", 80)])


def test_files_that_disagree_on_a_type_are_refused(tmp_path: Path) -> None:
    write(history(ROWS), tmp_path / "rows" / "1.parquet")
    write(history(ROWS).with_columns(pl.col("orders").cast(pl.Float64)), tmp_path / "rows" / "2.parquet")
    with pytest.raises(UnusableSource, match=r"2\.parquet: other column types than the files before it.*orders"):
        answers(store(tmp_path, [view(tmp_path / "rows")]), [("a", 80)])


def test_files_of_days_out_of_reach_are_not_opened(tmp_path: Path) -> None:
    write(history(ROWS), tmp_path / "rows" / "day=2026-05-01" / "rows.parquet")
    for day in ("2026-04-29", "2026-05-03"):
        bad = tmp_path / "rows" / f"day={day}" / "rows.parquet"
        bad.parent.mkdir()
        bad.write_text("not parquet")
    opened = store(
        tmp_path,
        [view(tmp_path / "rows", ttl=timedelta(hours=26))],
        offline={**AS_OF, "day_partitions": True},
    )
    assert answers(opened, [("a", 80)]) == [2]
    with pytest.raises(UnusableSource, match="day=2026-04-29"):
        answers(opened, [("a", -12 * 60)])


def pulled(directory: Path, path: Path, start: float, end: float, which: str = "latest") -> pd.DataFrame:
    pull = getattr(AsOfOfflineStore, f"pull_{which}_from_table_or_query")
    source = view(path).batch_source
    columns = (["restaurant_id"], ["orders"], "event_timestamp", "created")
    return pull(repo_config(directory), source, *columns, at(start), at(end)).to_df()


def test_limit_on_memory_reads_the_history_in_parts_with_the_same_answers(tmp_path: Path, monkeypatch: Any) -> None:
    rows = write(history([(key, 0, 0, n) for n, key in enumerate("abcdefgh")]), tmp_path / "rows.parquet")
    offline = {**AS_OF, "memory_limit_mebibytes": 3}
    opened = store(tmp_path, [view(rows)], offline=offline)
    monkeypatch.setattr(join, "BYTES_PER_ROW", 1 << 20)
    asked: list[tuple[str | None, float | None]] = [(key, 1) for key in "habcdxefg"]
    with mock.patch.object(join, "_ranked", wraps=join._ranked) as ranked:
        assert answers(opened, asked) == [7, 0, 1, 2, 3, None, 4, 5, 6]
    assert ranked.call_count == 3


@pytest.mark.parametrize("limit", [0, -1])
def test_limit_that_nothing_fits_into_is_refused(tmp_path: Path, limit: int) -> None:
    offline = {**AS_OF, "memory_limit_mebibytes": limit}
    with pytest.raises(ValueError, match="memory_limit_mebibytes"):
        _ = repo_config(tmp_path, offline=offline).offline_store


def rewritten(file: Path, value: int, times: int) -> Any:
    """A stand-in for the second reading before which somebody else rewrites the file, the first `times` times."""
    calls = iter(range(times))

    def values(rows: pl.Series, lazy: pl.LazyFrame, names: Any) -> pl.DataFrame:
        if next(calls, None) is not None:
            write(history([("b", 0, 10, 3), ("a", 0, 10, value)]), file.with_suffix(".new"))
            file.with_suffix(".new").replace(file)
        return real_values(rows, lazy, names)

    real_values = join._values
    return values


def test_file_that_is_replaced_between_two_readings_is_read_again(
    opened: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(join, "_values", rewritten(tmp_path / "rows.parquet", value=8, times=1))
    assert answers(opened, [("a", 20), ("b", 20)]) == [8, 3]


def test_file_that_keeps_changing_is_refused(opened: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(join, "_values", rewritten(tmp_path / "rows.parquet", value=8, times=99))
    with pytest.raises(UnusableSource, match=r"files changed 5 times while they were read: try again later"):
        answers(opened, [("a", 20)])


def test_data_frame_and_arrow_say_the_same(opened: Any) -> None:
    frame = entity_frame([("a", 80), ("b", 20), ("x", 20)]).assign(n=[1, 2, 3], note=["x", None, "z"])
    frame.index = pd.Index([7, 5, 7])
    job = opened.get_historical_features(frame, REFS)
    pd.testing.assert_frame_equal(job.to_df(), job.to_arrow().to_pandas(), check_dtype=False)
    assert job.to_df().index.tolist() == [0, 1, 2]


def test_pull_latest_takes_the_newest_of_each_key_in_the_inclusive_period(tmp_path: Path) -> None:
    rows = [
        ("a", 0, 0, 1),
        ("a", 0, 9, 2),
        ("a", 0, 5, 3),
        ("b", 60, 60, 4),
        ("b", 61, 61, 5),
        ("c", -1, 0, 6),
        (None, 1, 1, 7),
    ]
    frame = pulled(tmp_path, write(history(rows), tmp_path / "r.parquet"), 0, 60)
    assert sorted(zip(frame["restaurant_id"], frame["orders"], strict=True)) == [("a", 2), ("b", 4)]


def test_pull_all_takes_every_row_of_the_inclusive_period(tmp_path: Path) -> None:
    path = write(history([("a", 0, 0, 1), ("a", 60, 60, 2), ("a", 61, 61, 3), ("a", -1, 0, 4)]), tmp_path / "r.parquet")
    assert pulled(tmp_path, path, 0, 60, "all")["orders"].tolist() == [1, 2]


@pytest.mark.parametrize("which", ["latest", "all"])
def test_pull_from_nothing_is_an_empty_table_with_the_columns(tmp_path: Path, which: str) -> None:
    frame = pulled(tmp_path, tmp_path / "absent", 0, 60, which)
    assert list(frame.columns) == ["restaurant_id", "orders", "event_timestamp", "created"]
    assert len(frame) == 0


def test_pull_is_one_chunk_because_feast_converts_only_the_first(tmp_path: Path) -> None:
    for part in range(3):
        write(history([(f"{part}", 0, 0, part)]), tmp_path / "rows" / f"{part}.parquet")
    table = AsOfOfflineStore.pull_latest_from_table_or_query(
        repo_config(tmp_path), view(tmp_path / "rows").batch_source, ["restaurant_id"], ["orders"],
        "event_timestamp", "created", at(0), at(1),
    ).to_arrow()  # fmt: skip
    assert table.num_rows == 3
    assert len(table.to_batches()) == 1
    assert table.schema.field("restaurant_id").type == pa.string()


def test_saved_dataset_round_trip(opened: Any, tmp_path: Path) -> None:
    def job() -> Any:
        return opened.get_historical_features(entity_frame([("a", 80), ("b", 20)]), REFS)

    storage = SavedDatasetFileStorage(path=str(tmp_path / "saved" / "set.parquet"))
    opened.create_saved_dataset(job(), name="training", storage=storage)
    assert opened.get_saved_dataset("training").to_df()["orders"].tolist() == [2, 3]
    with pytest.raises(SavedDatasetLocationAlreadyExists):
        opened.create_saved_dataset(job(), name="training", storage=storage)
    opened.create_saved_dataset(job(), name="training", storage=storage, allow_overwrite=True)


@pytest.mark.parametrize("name", ["one.parquet", "directory"])
def test_written_batches_are_read_back(tmp_path: Path, name: str) -> None:
    item = view(tmp_path / name)
    config = repo_config(tmp_path)
    for row in ROWS:
        AsOfOfflineStore.offline_write_batch(config, item, history([row]).to_arrow(), None)
    assert answers(store(tmp_path, [item]), [("a", 20), ("a", 80), ("b", 20)]) == [1, 2, 3]


def test_batch_without_a_time_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"restaurant_stats: the table to write has no columns: \['created'\]"):
        AsOfOfflineStore.offline_write_batch(
            repo_config(tmp_path), view(tmp_path / "r"), history(ROWS).drop("created").to_arrow(), None
        )


def test_logged_features_are_added_and_read_back(opened: Any, tmp_path: Path) -> None:
    logging = LoggingConfig(destination=FileLoggingDestination(path=str(tmp_path / "logs")))
    service = FeatureService(name="v1", features=[opened.get_feature_view("restaurant_stats")], logging_config=logging)
    opened.apply([service])
    schema = {
        "restaurant_id": ["a"], "restaurant_stats__orders": [2], "restaurant_stats__minutes": [1.0],
        "restaurant_stats__orders__timestamp": [at(60)], "restaurant_stats__orders__status": [2],
        "restaurant_stats__minutes__timestamp": [at(60)], "restaurant_stats__minutes__status": [2],
        "__log_timestamp": [datetime(2026, 5, 1, 13, tzinfo=UTC)], "__log_date": [datetime(2026, 5, 1).date()],  # noqa: DTZ001
        "__request_id": ["r1"],
    }  # fmt: skip
    for _ in range(2):
        opened.write_logged_features(pa.table(schema), opened.get_feature_service("v1"))
    assert len(list((tmp_path / "logs").glob("log-*.parquet"))) == 2

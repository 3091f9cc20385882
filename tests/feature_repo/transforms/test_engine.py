"""Both engines give equal tiles and rows; an engine that is not there is asked for by name."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import ibis.expr.types as ir
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from pydantic import ValidationError

from config import Settings
from feature_repo.transforms import compute, windows
from feature_repo.transforms.engine import EngineMissing, compiled, engine, evaluate, hand_over
from feature_repo.transforms.tables import feature_table, row_window, state_table, tile_table
from feature_repo.transforms.views import TRANSFORMS
from feature_repo.window import DAY, Window
from tests.feature_repo.transforms import histories

NEEDS_SPARK = pytest.mark.skipif(
    importlib.util.find_spec("pyspark") is None, reason="the extra `spark` is not installed"
)
NEEDS_JAVA = pytest.mark.skipif(
    shutil.which("java") is None and "JAVA_HOME" not in os.environ, reason="Spark needs Java, and there is none"
)


@NEEDS_SPARK
@NEEDS_JAVA
def test_spark_gives_the_rows_that_duckdb_gives(tmp_path: Path) -> None:
    computed = {name: _computed(Settings(data_dir=tmp_path / name, engine=name)) for name in ("duckdb", "spark")}
    for view, transform in TRANSFORMS.items():
        by_duckdb, by_spark = (settings for settings in computed.values())
        for table in (tile_table, feature_table, state_table):
            expected, found = table(transform, by_duckdb).read(), table(transform, by_spark).read()
            assert found.height == expected.height, (view, table.__name__)
            assert expected.height > 0 or not transform.lifetime or table is not state_table
            # Integers and their quotients to the bit; a square root may end in another digit.
            assert_frame_equal(found, expected, check_exact=False, rel_tol=1e-14, abs_tol=0)


def _computed(settings: Settings) -> Settings:
    """Settings whose tables hold a history in two chunks, so that windows, states and tiles are carried."""
    whole = histories.write_lake(histories.random_history(seed=5, days=12, orders=60), settings)
    for chunk in (Window(whole.start, whole.start + 5 * DAY), Window(whole.start + 5 * DAY, whole.end)):
        tiles = compute.compute_tiles(chunk, settings)
        rows = compute.compute_rows(chunk, tiles, settings)
        for view, transform in TRANSFORMS.items():
            tile_table(transform, settings).replace(chunk, tiles[view])
            feature_table(transform, settings).replace(row_window(chunk, transform), rows[view])
        compute.keep_states(chunk, settings)
    return settings


def within(numbers: ir.Table, factor: int, start: ir.IntegerScalar, end: ir.IntegerScalar) -> ir.Table:
    return numbers.filter(numbers.n > start, numbers.n <= end).select(n=numbers.n * factor).order_by("n")


def test_what_is_compiled_once_is_evaluated_anew_for_other_rows_bounds_and_arguments(tmp_path: Path) -> None:
    few, many = pl.DataFrame({"n": [1, 2, 3]}), pl.DataFrame({"n": range(6)})
    cases = [
        (few, 1, (0, 2), [1, 2]),
        (many, 1, (0, 2), [1, 2]),
        (many, 1, (2, 9), [3, 4, 5]),
        (few, 10, (1, 9), [20, 30]),
    ]
    before = compiled.cache_info().misses
    for frame, factor, bounds, expected in cases:
        with engine(Settings(data_dir=tmp_path)) as connection:
            numbers = hand_over(connection, frame, "numbers")
            assert evaluate(connection, within, [numbers], factor, bounds=bounds)["n"].to_list() == expected
    assert compiled.cache_info().misses - before == 2  # one for each factor


def test_views_that_differ_in_one_expression_are_told_apart(tmp_path: Path) -> None:
    view = TRANSFORMS["zone_stats"]
    feature = view.features["order_count_1h"]
    doubled = replace(feature, finish=lambda *uses: feature.finish(*uses) * 2)
    other = replace(view, features={**view.features, "order_count_1h": doubled})
    sums = pl.DataFrame([{running.column: 3 for running in view.running}])
    with engine(Settings(data_dir=tmp_path)) as connection:
        table = hand_over(connection, sums, "sums")
        found = [evaluate(connection, windows.finished, [table], one)["order_count_1h"].item() for one in (view, other)]
    assert found == [3, 6]


def test_without_java_the_message_says_what_to_install(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    with pytest.raises(EngineMissing, match=r"Java 17 or newer.*PATH.*openjdk"), engine(_spark(tmp_path)):
        pass


def test_a_java_home_without_java_is_named(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "nowhere"))
    with pytest.raises(EngineMissing, match=r"JAVA_HOME=.*nowhere has no bin/java"), engine(_spark(tmp_path)):
        pass


def test_without_pyspark_the_message_names_the_extra(tmp_path, monkeypatch) -> None:
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.touch()
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    monkeypatch.setitem(sys.modules, "pyspark", None)
    monkeypatch.setitem(sys.modules, "pyspark.sql", None)
    monkeypatch.delitem(sys.modules, "feature_repo.transforms.spark", raising=False)
    with pytest.raises(EngineMissing, match=r"needs pyspark.*\[spark\]"), engine(_spark(tmp_path)):
        pass


def test_an_unknown_engine_is_refused(monkeypatch) -> None:
    monkeypatch.setenv("ETA_ENGINE", "sparks")
    with pytest.raises(ValidationError, match="engine"):
        Settings()


def test_the_memory_limit_reaches_duckdb(tmp_path) -> None:
    with engine(Settings(data_dir=tmp_path, engine_memory_gib=0.5)) as connection:
        (limit,) = connection.raw_sql("SELECT current_setting('memory_limit')").fetchone()
    assert limit == "512.0 MiB"


def _spark(directory: Path) -> Settings:
    return Settings(data_dir=directory, engine="spark")

from __future__ import annotations

import json

import polars as pl
import pytest

from monitoring.drift import ColumnDrift, bounded, compare, served_inputs, summary
from monitoring.report import DRIFT_PAGE, write_snapshot
from tests.monitoring.conftest import DAY, INPUTS, feature_rows, logged, with_predictions

NAMES = [*INPUTS, "prediction"]
REFERENCE = with_predictions(feature_rows(3000, seed=0))


def columns_of(current: pl.DataFrame, **arguments) -> dict[str, ColumnDrift]:
    return {column.name: column for column in compare(REFERENCE, current, NAMES, **arguments)[0]}


def test_rows_of_the_same_world_do_not_drift() -> None:
    columns = columns_of(with_predictions(feature_rows(500)))
    assert [column.name for column in columns.values() if column.drifted] == []
    assert {column.status for column in columns.values()} == {"compared"}


def test_a_moved_feature_and_the_prediction_drift_and_the_rest_does_not() -> None:
    columns = columns_of(with_predictions(feature_rows(500, shift=1.0)))
    drifted = {column.name for column in columns.values() if column.drifted}
    assert drifted == {"restaurant_stats__delivery_minutes_mean_28d", "distance_km", "prediction"}
    moved = columns["restaurant_stats__delivery_minutes_mean_28d"]
    assert moved.method == "wasserstein"
    assert moved.score == pytest.approx(1.0, abs=0.15)


def test_few_values_are_compared_by_their_shares() -> None:
    current = with_predictions(feature_rows(500).with_columns(item_count=pl.lit(5.0)))
    column = columns_of(current)["item_count"]
    assert (column.method, column.drifted) == ("psi", True)


def test_a_feature_that_vanished_is_reported_and_does_not_stop_the_rest() -> None:
    current = with_predictions(feature_rows(500)).with_columns(distance_km=pl.lit(None, pl.Float64))
    columns = columns_of(current)
    assert (columns["distance_km"].status, columns["distance_km"].drifted) == ("empty", True)
    assert columns["item_count"].status == "compared"
    assert summary(list(columns.values()))["empty"] == ["distance_km"]


def test_a_feature_the_model_lives_without_may_vanish() -> None:
    name = "driver_stats__on_time_rate_28d"
    current = with_predictions(feature_rows(500)).with_columns(pl.lit(None, pl.Float64).alias(name))
    columns = columns_of(current, optional=[name])
    assert (columns[name].status, columns[name].drifted) == ("empty", False)
    found = summary(list(columns.values()))
    assert (found["empty"], found["judged"]) == ([], 3)


def test_more_missing_values_are_drift_although_the_others_look_the_same() -> None:
    current = with_predictions(feature_rows(500))
    half = pl.when(pl.int_range(pl.len()) % 2 == 0).then("distance_km").alias("distance_km")
    column = columns_of(current.with_columns(half))["distance_km"]
    assert (column.status, column.missing_current, column.drifted) == ("compared", 0.5, True)


def test_constant_absent_and_new_columns_have_their_own_statuses() -> None:
    reference = pl.DataFrame(
        {"same": [1.0] * 50, "absent": [None] * 50, "new": [float("nan")] * 50, "moved": [1.0] * 50}
    )
    current = pl.DataFrame({"same": [1.0] * 9, "absent": [None] * 9, "new": [2.0] * 9, "moved": [2.0] * 9})
    columns, snapshot = compare(reference, current, ["same", "absent", "new", "moved"])
    found = {column.name: (column.status, column.drifted) for column in columns}
    assert found == {
        "same": ("constant", False),
        "absent": ("absent", False),
        "new": ("new", True),
        "moved": ("compared", True),
    }
    assert snapshot is not None


ROUNDED = 1.0000000000000002


# Two values that take turns in the reference, two in the window; what is said of them.
ODD = {
    "rounding in both": ([1.0, ROUNDED], [1.0, ROUNDED], "constant", False),
    "rounding in the reference": ([1.0, ROUNDED], [1.0, 1.0], "constant", False),
    "rounding now": ([5.5, 5.5], [5.5, 5.500000000000001], "constant", False),
    "another last digit": ([0.3, 0.3], [0.1 + 0.2, 0.1 + 0.2], "constant", False),
    "single precision": ([0.3, 0.30000001], [0.30000002, 0.3], "constant", False),
    "rounding of a large value": ([1e17, 1e17 + 16], [1e17 + 16, 1e17], "constant", False),
    "rounding of a negative value": ([-1.0, -ROUNDED], [-ROUNDED, -1.0], "constant", False),
    "zeros": ([0.0, -0.0], [-0.0, 5e-324], "constant", False),
    "instants": ([1.7e15, 1.7e15 + 0.25], [1.7e15 + 0.5, 1.7e15], "constant", False),
    "rounding beside a real difference": ([1.0, 2.0], [1.0, 2.0 + 1e-15], "compared", False),
    "a small difference": ([1.0, 1.001], [1.0, 1.001], "compared", False),
    "tiny": ([0.0, 5e-40], [5e-40, 0.0], "compared", False),
    "as wide as it gets": ([1.0, 3e38], [1.0, -3e38], "compared", True),
    "a value never seen": ([1.0, 2.0], [7.0, 7.0], "compared", True),
    "infinite in single precision": ([1e300, 1e301], [1e300, 1e301], "absent", False),
    "infinities": ([float("inf"), 1.0], [1.0, float("-inf")], "constant", False),
    "nothing finite now": ([float("inf"), 1.0], [float("nan"), float("-inf")], "empty", True),
    "one value, new": ([None, None], [None, 1.0], "new", True),
    "one value in each": ([None, 1.0], [None, 1.0], "constant", False),
}


def test_a_column_of_whatever_values_is_judged_and_the_page_is_written(tmp_path) -> None:
    """All in one frame: none of them may stop the others, either."""
    schema = dict.fromkeys(ODD, pl.Float64)
    reference = pl.DataFrame({name: before * 45 for name, (before, *_) in ODD.items()}, schema)
    current = pl.DataFrame({name: now * 45 for name, (_, now, *_) in ODD.items()}, schema)
    columns, snapshot = compare(reference, current, list(ODD))
    found = {column.name: (column.status, column.drifted) for column in columns}
    assert found == {name: (status, drifted) for name, (_, _, status, drifted) in ODD.items()}
    write_snapshot(tmp_path, snapshot)
    assert (tmp_path / DRIFT_PAGE).stat().st_size > 1000


@pytest.mark.parametrize("rows", [0, 1])
def test_a_window_of_one_row_or_none_is_compared(rows: int, tmp_path) -> None:
    columns, snapshot = compare(REFERENCE, with_predictions(feature_rows(9)).head(rows), NAMES)
    assert columns[-1].status == ("compared" if rows else "empty")
    if snapshot is not None:
        write_snapshot(tmp_path, snapshot)


def test_with_nothing_to_compare_there_is_no_report() -> None:
    columns, snapshot = compare(pl.DataFrame({"a": [None]}), pl.DataFrame({"a": [1.0]}), ["a"])
    assert (columns[0].status, snapshot) == ("new", None)


def test_inputs_that_only_tell_the_time_are_shown_and_not_judged() -> None:
    current = with_predictions(feature_rows(500).with_columns(request_features__is_peak_hour=pl.lit(1.0)))
    columns = list(columns_of(current).values())
    peak = next(column for column in columns if column.name == "request_features__is_peak_hour")
    assert (peak.drifted, peak.judged) == (True, False)
    assert summary(columns)["drifted"] == []


def test_logged_inputs_come_back_as_columns() -> None:
    features = feature_rows(20)
    served = served_inputs(logged(features, DAY.start), [*INPUTS, "not_logged_yet"])
    assert served.drop("not_logged_yet", "prediction").equals(features)
    assert served["not_logged_yet"].null_count() == 20


def test_what_stood_in_for_a_store_that_was_down_is_no_value() -> None:
    features = feature_rows(20)
    down = json.dumps(dict.fromkeys(features.columns, "present") | {"distance_km": "unavailable"})
    served = served_inputs(logged(features, DAY.start).with_columns(statuses=pl.lit(down)), INPUTS)
    assert served["distance_km"].null_count() == 20
    assert served.drop("distance_km", "prediction").equals(features.drop("distance_km"))


def test_samples_are_bounded_and_the_same_every_time() -> None:
    frame = pl.DataFrame({"a": range(10_000)})
    assert bounded(frame).height == 5_000
    assert bounded(frame).equals(bounded(frame))
    assert bounded(frame.head(10)).height == 10


def test_columns_fit_into_json() -> None:
    columns, _ = compare(REFERENCE, with_predictions(feature_rows(200)), NAMES)
    written = json.dumps(summary(columns), allow_nan=False)
    assert json.loads(written) == summary(columns)

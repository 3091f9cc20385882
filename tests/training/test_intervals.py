"""Intervals that depend on the order and on which views it has."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import Ridge

from tests.training.conftest import description, market
from training.availability import Availability
from training.coverage import interval
from training.export import OnnxModel, to_onnx
from training.intervals import FEWEST_ROWS, Calibration, Pattern, absent_sets, calibrate
from training.split import split_by_time
from training.train import fit, hidden_views, matrix

NAN = np.nan
VIEWS = ("kitchen", "roads")
TWO_VIEWS = Availability({"kitchen": (0, 1), "roads": (2,)}, {})


def rows_of(*listed: list[float]) -> np.ndarray:
    return np.array(listed, dtype=np.float32)


def test_a_view_is_absent_when_none_of_its_inputs_has_a_value():
    inputs = rows_of([1, NAN, 3], [NAN, NAN, 3], [NAN, 2, NAN], [NAN, NAN, NAN])
    assert TWO_VIEWS.absent(inputs).tolist() == [[False, False], [True, False], [False, True], [True, True]]
    np.testing.assert_array_equal(TWO_VIEWS.without(inputs, ["kitchen"])[0], [NAN, NAN, 3])
    np.testing.assert_array_equal(inputs[0], [1, NAN, 3])


def test_what_is_computed_from_a_view_goes_with_it_and_a_view_that_no_row_has_is_none(stored):
    view = {"join_key": "x", "ttl_seconds": 60}
    names = {"restaurant_stats": "order_value_mean_28d", "customer_stats": "segment_share"}
    inputs = [
        {"name": f"{name}__{feature}", "source": "view", "view": name, "feature": feature, "dtype": "Float64"}
        for name, feature in names.items()
    ] + [
        {"name": f"on_{feature}", "source": "on_demand", "view": "on", "feature": feature, "dtype": "Float64"}
        for feature in ("is_peak_hour", "order_value_to_restaurant_mean")
    ]
    rows = market(60).with_columns(
        pl.lit(2.0).alias("restaurant_stats__order_value_mean_28d"),
        pl.lit(None, pl.Float64).alias("customer_stats__segment_share"),
        pl.lit(1.0).alias("on_is_peak_hour"),
        pl.lit(1.5).alias("on_order_value_to_restaurant_mean"),
    )
    views = [view | {"name": name, "features": [feature]} for name, feature in names.items()]
    found = Availability.of(stored(rows, inputs=inputs, views=views))
    assert found.views == ("restaurant_stats",)
    np.testing.assert_array_equal(found.without(rows_of([2, NAN, 1, 1.5]), found.views), [[NAN, NAN, 1, NAN]])
    typical = found.with_typical(rows_of([2, NAN, 1, 1.5]), np.array([7, NAN, 0, 0], np.float32), set())
    np.testing.assert_array_equal(typical, [[7, NAN, 1, NAN]])


@pytest.mark.parametrize(
    ("views", "hidden", "sets"),
    [
        ((), (), [()]),
        (("a", "b"), (), [(), ("a",), ("b",), ("a", "b")]),
        (("a",), ("gone",), [(), ("a",)]),
        # Beyond five views: two at a time, the hidden one aside, and all of them.
        (tuple("abcdef"), ("f",), 2 * (1 + 5 + 10) + 1),
    ],
)
def test_sets_of_absent_views(views, hidden, sets):
    found = absent_sets(views, frozenset(hidden))
    assert len(found) == sets if isinstance(sets, int) else found == sets
    assert found[-1] == views
    assert len(set(found)) == len(found)


def wide_and_narrow(inputs: np.ndarray) -> np.ndarray:
    """Right where `roads` is there, 10 too low where it is not; percentiles 1 below and above."""
    middle = np.where(np.isnan(inputs[:, 2]), 20.0, 30.0)
    return np.column_stack([middle, middle - 1, middle + 1])


def test_offsets_are_those_of_rows_from_which_the_view_was_taken():
    count = 2_000
    actual = 30 + np.linspace(-5, 5, count)[np.random.default_rng(1).permutation(count)]
    inputs = np.ones((count, 3), np.float32)
    inputs[: FEWEST_ROWS - 1, 0:2] = NAN  # a few without a kitchen, whom its set includes
    found = calibrate(wide_and_narrow, inputs, actual, TWO_VIEWS, hidden=frozenset(["kitchen"]))
    assert found.usual.absent == ("kitchen",)
    assert (found.usual.p10_offset, found.usual.p90_offset) == pytest.approx((-3, 3), abs=0.02)
    without_roads = found.of(frozenset(["roads"]))
    assert (without_roads.p10_offset, without_roads.p90_offset) == pytest.approx((7, 13), abs=0.05)
    assert {pattern.absent: pattern.rows for pattern in found.patterns} == {
        (): count - FEWEST_ROWS + 1,
        ("kitchen",): count,
        ("roads",): count - FEWEST_ROWS + 1,
        ("kitchen", "roads"): count,
    }
    assert found.patterns[-1].absent == ("kitchen", "roads")
    assert found.store_down is None


def test_while_the_store_is_down_offsets_are_those_of_medians():
    inputs = np.ones((500, 3), np.float32)
    seen: list[np.ndarray] = []

    def predict(values: np.ndarray) -> np.ndarray:
        seen.append(values)
        return np.zeros((len(values), 3))

    medians = np.array([5, 6, 7], np.float32)
    found = calibrate(predict, inputs, np.arange(500.0), TWO_VIEWS, hidden=frozenset(["roads"]), medians=medians)
    np.testing.assert_array_equal(seen[-1][0], [5, 6, NAN])
    assert found.store_down is not None
    assert found.store_down.rows == 500


def test_neither_end_crosses_the_prediction_and_an_unlisted_set_takes_the_next_larger_one():
    patterns = (
        Pattern((), 2.0, -2.0, 10),
        Pattern(("kitchen",), -1.0, 1.0, 10),
        Pattern(("kitchen", "roads"), -9.0, 9.0, 10),
    )
    calibration = Calibration(VIEWS, patterns[0], patterns, None)
    ranges = np.array([[30.0, 29.0, 31.0]] * 3)
    absent = np.array([[False, False], [True, False], [False, True]])
    assert calibration.bounds(ranges, absent).tolist() == [[30.0, 30.0], [28.0, 32.0], [20.0, 40.0]]


@pytest.fixture
def scattered(stored, spec):
    """A market in which long distances are far less certain than short ones."""
    draw = np.random.default_rng(8)
    rows = market(6000, noise=1.0)
    scatter = draw.normal(0, 1, 6000) * (0.5 + 2 * rows["distance_km"].to_numpy())
    rows = rows.with_columns(delivery_minutes=(pl.col("delivery_minutes") + pl.Series(scatter)).clip(1, 180))
    return stored(rows), replace(spec, interval=replace(spec.interval, parameters=spec.interval.parameters))


def worst(parts: list[dict], kind: str) -> float:
    return max(abs(part["coverage"] - 0.8) for part in parts if part["kind"] == kind and part["coverage"] is not None)


def test_an_interval_holds_in_every_tenth_where_one_width_for_all_does_not(scattered):
    dataset, spec = scattered
    split = split_by_time(dataset.rows(), spec)
    fitted = fit(split, dataset, spec)

    def same_width(inputs):
        return np.repeat(fitted.answers(inputs, spec)[:, :1], 3, axis=1)

    ours, bounds = interval(lambda inputs: fitted.answers(inputs, spec), split, dataset, spec)
    plain, _ = interval(same_width, split, dataset, spec)
    assert worst(plain["parts"], "tenth") > 0.15
    assert worst(ours["parts"], "tenth") < 0.12  # three standard errors of 90 rows
    assert abs(ours["test_coverage"] - 0.8) < 0.05
    assert ours["below"] + ours["test_coverage"] + ours["above"] == pytest.approx(1)
    width = bounds[:, 1] - bounds[:, 0]
    far = split.test["distance_km"].to_numpy() > 5
    assert width[far].mean() > 2 * width[~far].mean()
    kinds = {part["part"]: part["kind"] for part in ours["parts"]}
    assert {"with the driver known", "without restaurant_stats", "without any view", "store down"} <= set(kinds)


def test_an_interval_holds_without_a_view_where_that_of_all_views_does_not(stored, spec):
    dataset = stored()
    split = split_by_time(dataset.rows(), spec)
    fitted = fit(split, dataset, spec)
    told, _ = interval(lambda inputs: fitted.answers(inputs, spec), split, dataset, spec)
    without = next(part for part in told["parts"] if part["part"] == "without restaurant_stats")
    assert abs(without["coverage"] - 0.8) < 0.08
    ranges = fitted.answers(Availability.of(dataset).without(matrix(split.test, dataset.inputs), dataset_views()), spec)
    actual = split.test["delivery_minutes"].to_numpy()
    naive = (actual >= ranges[:, 1] + told["p10_offset"]) & (actual <= ranges[:, 2] + told["p90_offset"])
    assert naive.mean() < 0.7
    assert hidden_views(spec) == {"driver_stats"}


def dataset_views() -> list[str]:
    return [view["name"] for view in description()["views"]]


def test_all_trees_are_one_graph_whose_columns_are_the_models():
    draw = np.random.default_rng(2)
    inputs = draw.normal(size=(400, 3)).astype(np.float32)
    inputs[::5, 0] = NAN
    minutes = np.nan_to_num(inputs[:, 0]) + draw.normal(size=400)
    models = [HistGradientBoostingRegressor(max_iter=count).fit(inputs, minutes) for count in (3, 5, 4)]
    graph = OnnxModel(to_onnx(models[0], 3, models[1:]))
    expected = np.column_stack([model.predict(inputs) for model in models])
    np.testing.assert_allclose(graph.ranges(inputs), expected, atol=1e-5)
    np.testing.assert_allclose(graph.predict(inputs), expected[:, 0], atol=1e-5)
    alone = OnnxModel(to_onnx(models[0], 3))
    np.testing.assert_array_equal(alone.ranges(inputs), np.repeat(alone.predict(inputs)[:, None], 3, axis=1))
    with pytest.raises(TypeError, match="needs models that are trees and nothing else in ONNX"):
        to_onnx(models[0], 3, [Ridge().fit(np.nan_to_num(inputs), minutes)] * 2)


def test_a_model_without_stored_inputs_has_one_pattern():
    none = Availability({}, {})
    found = calibrate(lambda inputs: np.zeros((len(inputs), 3)), np.ones((99, 1), np.float32), np.arange(99.0), none)
    assert [pattern.absent for pattern in found.patterns] == [()]
    assert found.store_down is None
    assert found.bounds(np.full((2, 3), 50.0), none.absent(np.ones((2, 1), np.float32))).tolist() == [[50, 139]] * 2

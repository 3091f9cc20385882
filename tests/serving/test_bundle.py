from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from serving.bundle import Bundle
from serving.errors import BundleError
from tests.serving.conftest import INPUTS, NAMES, VIEWS, BundleMaker


def test_a_good_bundle_predicts_what_scikit_learn_predicted(bundle_dir: Path):
    bundle = Bundle.load(bundle_dir)

    assert bundle.input_names == tuple(NAMES)
    assert bundle.verify() < 1e-3
    assert bundle.session.get_session_options().intra_op_num_threads == 1


def test_one_row_and_many_rows_give_the_same_minutes(bundle_dir: Path):
    bundle = Bundle.load(bundle_dir)
    rows = np.random.default_rng(1).uniform(0, 40, size=(50, len(INPUTS))).astype(np.float32)
    rows[::3, 2] = np.nan

    together = bundle.predict(rows)

    assert together.shape == (50,)
    assert [float(bundle.predict(row[None])[0]) for row in rows] == together.tolist()
    assert bundle.estimate(rows).minutes == together.tolist()
    assert [bundle.estimate([row.tolist()]).minutes[0] for row in rows] == together.tolist()


def test_threads_that_ask_for_one_row_each_get_their_own(bundle_dir: Path):
    bundle = Bundle.load(bundle_dir)
    rows = np.random.default_rng(2).uniform(0, 40, size=(2_000, len(INPUTS))).astype(np.float32)

    with ThreadPoolExecutor(8) as threads:
        side_by_side = list(threads.map(lambda row: bundle.estimate(row[None]).minutes[0], rows))

    assert side_by_side == bundle.predict(rows).tolist()


def test_the_interval_is_added_and_nothing_is_below_zero(make_bundle: BundleMaker):
    bundle = Bundle.load(make_bundle(shift=-200.0))
    row = np.full((1, len(INPUTS)), 10, dtype=np.float32)

    estimates = bundle.estimate(row)

    assert bundle.predict(row)[0] < -100
    assert estimates == ([0.0], [0.0], [0.0])
    usual = Bundle.load(make_bundle()).estimate(row)
    assert (usual.p10[0], usual.p90[0]) == pytest.approx((usual.minutes[0] - 6, usual.minutes[0] + 9))


LACKING = {
    "p10_offset": -6.0,
    "p90_offset": 9.0,
    "views": ["restaurant_stats", "zone_stats"],
    "patterns": [
        {"absent": [], "p10_offset": -6.0, "p90_offset": 9.0, "rows": 5000},
        {"absent": ["zone_stats"], "p10_offset": -10.0, "p90_offset": 20.0, "rows": 2000},
        {"absent": ["restaurant_stats", "zone_stats"], "p10_offset": 3.0, "p90_offset": 40.0, "rows": 2000},
    ],
    "store_down": {"absent": ["driver_stats"], "p10_offset": -7.0, "p90_offset": 30.0, "rows": 2000},
}


@pytest.mark.parametrize(
    ("missing", "store_down", "low", "high"),
    [
        pytest.param([], False, -6, 9, id="all there"),
        pytest.param([3], False, -6, 9, id="a view that does not count is away"),
        pytest.param([0, 2], False, -6, 9, id="one feature of a view is left"),
        pytest.param([4], False, -10, 20, id="a view is away"),
        pytest.param([0, 1, 2, 4], False, 0, 40, id="all are away, and the low end would cross the prediction"),
        pytest.param([0, 1, 2], False, 0, 40, id="what is not listed takes the smallest larger set"),
        pytest.param([4], True, -7, 30, id="medians stand in"),
    ],
)
def test_the_interval_is_that_of_rows_with_the_same_views(make_bundle: BundleMaker, missing, store_down, low, high):
    bundle = Bundle.load(make_bundle(interval=LACKING))
    row = np.full((1, len(INPUTS)), 10, dtype=np.float32)
    row[0, missing] = np.nan

    for rows in (row.tolist(), row, np.concatenate([row, row])):
        found = bundle.estimate(rows, store_down=store_down)

        assert found.p10[-1] == pytest.approx(found.minutes[-1] + low)
        assert found.p90[-1] == pytest.approx(found.minutes[-1] + high)


def test_percentiles_of_the_model_get_their_offsets_and_never_cross_the_prediction(make_bundle: BundleMaker):
    directory = make_bundle(interval=LACKING | {"p10_offset": 1.0, "p90_offset": 1.0})
    document = json.loads((directory / "bundle.json").read_text())
    for pattern in document["interval"]["patterns"]:
        pattern |= {"p10_offset": 1.0, "p90_offset": 2.0}
    (directory / "bundle.json").write_text(json.dumps(document))
    (directory / "model.onnx").write_bytes(three_columns((directory / "model.onnx").read_bytes(), 0.0, -4.0, -30.0))
    bundle = Bundle.load(directory)
    rows = np.random.default_rng(4).uniform(0, 40, size=(20, len(INPUTS))).astype(np.float32)

    found = bundle.estimate(rows)

    assert found.minutes == bundle.predict(rows).tolist()
    np.testing.assert_allclose(found.p10, np.array(found.minutes) - 3, rtol=1e-6)
    assert found.p90 == found.minutes
    one_by_one = [bundle.estimate(row[None]) for row in rows]
    assert [one.p10[0] for one in one_by_one] == pytest.approx(found.p10)


def three_columns(onnx: bytes, *offsets: float) -> bytes:
    """The same trees thrice, each with another constant."""
    from onnx import helper, load_from_string

    graph = load_from_string(onnx)
    kept, initial = graph.graph.output[0].name, graph.graph.initializer
    initial.append(helper.make_tensor("offsets", 1, [1, len(offsets)], offsets))
    graph.graph.node.append(helper.make_node("Add", [kept, "offsets"], ["all"]))
    del graph.graph.output[:]
    graph.graph.output.append(helper.make_tensor_value_info("all", 1, [None, len(offsets)]))
    return graph.SerializeToString()


def test_a_model_with_two_answers_is_refused(make_bundle: BundleMaker):
    directory = make_bundle()
    (directory / "model.onnx").write_bytes(three_columns((directory / "model.onnx").read_bytes(), 0.0, 1.0))

    with pytest.raises(BundleError, match="gives 2 columns: a prediction is expected, alone or with two percentiles"):
        Bundle.load(directory)


def test_a_bundle_whose_interval_is_another_than_trainings_fails_its_self_test(make_bundle: BundleMaker):
    test = json.loads((make_bundle() / "bundle.json").read_text())["self_test"]
    intervals = [[minutes - 6, minutes + 9] for minutes in test["predictions"]]
    assert Bundle.load(make_bundle(self_test=test | {"intervals": intervals})).verify() < 1e-3
    intervals[3][1] += 1

    with pytest.raises(BundleError, match=r"self-test row 3 has the 90th percentile .* min where training had it at"):
        Bundle.load(make_bundle(self_test=test | {"intervals": intervals})).verify()


def test_a_bundle_of_another_model_fails_its_self_test(make_bundle: BundleMaker):
    directory = make_bundle()
    (directory / "model.onnx").write_bytes((make_bundle(shift=30.0) / "model.onnx").read_bytes())

    with pytest.raises(BundleError, match=r"self-test row \d predicts .* do not belong together"):
        Bundle.load(directory).verify()


def test_a_self_test_without_numbers_fails(make_bundle: BundleMaker):
    document = json.loads((make_bundle() / "bundle.json").read_text())
    document["self_test"]["predictions"][2] = float("nan")

    with pytest.raises(BundleError, match="self-test row 2"):
        Bundle.load(make_bundle(self_test=document["self_test"])).verify()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": []}, "inputs: "),
        ({"model": ""}, "model: "),
        ({"interval": {"p10_offset": 3, "p90_offset": -1}}, r"p10_offset 3\.0 is above p90_offset -1\.0"),
        ({"interval": {"p10_offset": 3}}, "interval.p90_offset: Field required"),
        (
            {"interval": LACKING | {"views": ["weather"], "patterns": []}},
            r"interval.views: there are no views \['weather'\]",
        ),
        (
            {"interval": LACKING | {"patterns": LACKING["patterns"][:2]}},
            r"no pattern for rows without any of the views \['restaurant_stats', 'zone_stats'\]",
        ),
        ({"views": VIEWS[1:]}, "no view 'restaurant_stats' with a feature 'order_count_7d'"),
        ({"views": [{**VIEWS[0], "ttl_seconds": 0}, *VIEWS[1:]]}, "views.0.ttl_seconds"),
        ({"clock": {"zone": "Mars/Base", "peak_hours": [1]}}, "clock.zone.*'Mars/Base' is no time zone"),
        ({"clock": {"zone": "UTC", "peak_hours": [24]}}, "clock.peak_hours.0"),
        ({"clock": {"zone": "UTC"}}, "clock.peak_hours"),
        ({"self_test": {"inputs": [[1.0]], "predictions": [1.0]}}, "each row of inputs needs 11 values"),
        ({"self_test": {"inputs": [[1.0]], "predictions": [1.0, 2.0]}}, "another number of inputs than of predictions"),
    ],
)
def test_a_wrong_document_is_refused_by_its_field(make_bundle: BundleMaker, changes: dict, message: str):
    with pytest.raises(BundleError, match=message):
        Bundle.load(make_bundle(**changes))


def test_inputs_listed_twice_are_refused(make_bundle: BundleMaker):
    inputs = json.loads((make_bundle() / "bundle.json").read_text())["inputs"]

    with pytest.raises(BundleError, match=r"inputs \['distance_km'\] are listed twice"):
        Bundle.load(make_bundle(inputs=[*inputs, inputs[5]]))


def test_a_model_with_another_number_of_columns_is_refused(make_bundle: BundleMaker):
    document = json.loads((make_bundle() / "bundle.json").read_text())
    test = {"inputs": [row[:-1] for row in document["self_test"]["inputs"]], "predictions": [1.0] * 5}

    with pytest.raises(BundleError, match=r"takes 11 columns, but bundle\.json lists 10 inputs"):
        Bundle.load(make_bundle(inputs=document["inputs"][:-1], self_test=test))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("bundle.json", None, r"bundle\.json does not exist"),
        ("bundle.json", b"{", r"bundle\.json cannot be used: "),
        ("model.onnx", None, r"model\.onnx does not exist"),
        ("model.onnx", b"not a model", r"model\.onnx is not a usable ONNX model"),
    ],
)
def test_a_missing_or_damaged_file_is_named(make_bundle: BundleMaker, file: str, content: bytes | None, message: str):
    directory = make_bundle()
    (directory / file).unlink()
    if content is not None:
        (directory / file).write_bytes(content)

    with pytest.raises(BundleError, match=message):
        Bundle.load(directory)


@pytest.mark.parametrize("way", ["alone", "together"])
def test_a_way_of_predicting_that_differs_from_training_fails_the_self_test(
    bundle_dir: Path, way: str, monkeypatch: pytest.MonkeyPatch
):
    bundle = Bundle.load(bundle_dir)
    if way == "alone":
        monkeypatch.setattr(type(bundle._one_row), "predict", lambda self, row: [99.0])
    else:
        monkeypatch.setattr(Bundle, "predict", lambda self, rows: np.full(len(rows), 99.0))

    with pytest.raises(BundleError, match=r"self-test row \d predicts 99 min where training predicted"):
        bundle.verify()


@pytest.mark.parametrize(("p10", "p90"), [(0.1, 9.0), (-6.0, -0.1)])
def test_an_interval_that_does_not_hold_the_prediction_is_refused(make_bundle: BundleMaker, p10: float, p90: float):
    with pytest.raises(BundleError, match="the prediction is not between its offsets"):
        Bundle.load(make_bundle(interval={"p10_offset": p10, "p90_offset": p90}))

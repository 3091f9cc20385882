"""Fitting, exporting, measuring."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from tests.training.conftest import DRIVER_MEAN, market
from training.availability import Availability
from training.bundle import verify_bundle, write_bundle
from training.errors import BundleMismatch, DatasetError
from training.evaluate import evaluate
from training.export import OnnxModel, to_onnx
from training.intervals import conformal_offsets
from training.spec import SearchSpec, SliceSpec
from training.split import rolling_origins, split_by_time
from training.train import candidates, fit, fit_again, hide, known_rows, matrix, training_matrix


@pytest.fixture
def dataset(stored):
    return stored()


@pytest.fixture
def split(dataset, spec):
    return split_by_time(dataset.rows(), spec)


@pytest.fixture
def fitted(split, dataset, spec):
    return fit(split, dataset, spec)


def test_missing_values_reach_the_model_as_nan(dataset):
    values = matrix(pl.DataFrame({"count": [1, None], "share": [None, 0.5]}), ["count", "share"])
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, np.array([[1, np.nan], [np.nan, 0.5]], np.float32))


def test_the_driver_is_hidden_on_its_share_of_the_train_rows_and_nothing_else_is(split, dataset, spec):
    full, seen = matrix(split.train, dataset.inputs), training_matrix(split.train, dataset, spec)
    driver = dataset.inputs.index(DRIVER_MEAN)
    assert np.isnan(seen[:, driver]).mean() == pytest.approx(0.5, abs=0.05)
    np.testing.assert_array_equal(np.delete(seen, driver, 1), np.delete(full, driver, 1))
    assert np.isnan(hide(full, dataset, spec, 1.0)[:, driver]).all()
    assert not np.isnan(full[:, driver]).any()


def test_the_best_candidate_by_validation_error_is_kept(split, dataset, spec):
    worse = {**spec.candidates[0], "max_iter": 1}
    fitted = fit(split, dataset, replace(spec, candidates=(worse, spec.candidates[0])))
    assert fitted.parameters["max_iter"] == 300
    assert [trial["iterations"] > 1 for trial in fitted.trials] == [False, True]


def test_a_search_is_bounded_seeded_and_without_repetition(spec):
    wide = spec.with_search(trials=10, folds=0)
    drawn = candidates(wide)
    assert drawn == candidates(wide)
    assert (len(drawn), drawn[0]) == (11, spec.candidates[0])
    assert len({json.dumps(candidate, sort_keys=True) for candidate in drawn}) == 11
    assert candidates(replace(wide, seed=1)) != drawn
    tiny = replace(spec, search=SearchSpec({"max_iter": (1, 2)}, trials=50))
    assert candidates(tiny)[1:] == [{"max_iter": 1}, {"max_iter": 2}] or len(candidates(tiny)) == 3
    with pytest.raises(ValueError, match="has no search space"):
        replace(spec, search=SearchSpec()).with_search(3, 0)


def test_rolling_origins_go_forward_and_know_no_later_label(split, spec):
    pairs = rolling_origins(split.train, 3, spec)
    assert len(pairs) == 3
    for earlier, held_out in pairs:
        assert earlier["label_known_at"].max() <= held_out["placed_at"].min()
    assert [pair[0].height for pair in pairs] == sorted(pair[0].height for pair in pairs)
    assert pl.concat([held_out for _, held_out in pairs])["order_id"].is_unique().all()
    with pytest.raises(DatasetError, match="ask for fewer folds"):
        rolling_origins(split.train.head(5), 5, spec)


def test_over_rolling_origins_the_best_is_found_and_fitted_again_on_all_train_rows(split, dataset, spec):
    worse = {**spec.candidates[0], "max_iter": 1}
    several = replace(spec, candidates=(worse, spec.candidates[0])).with_search(trials=0, folds=2)
    fitted = fit(split, dataset, several)
    assert [set(trial) >= {"rolling_mae", "iterations", "seconds"} for trial in fitted.trials] == [True, True]
    assert fitted.trials[0]["rolling_mae"] > fitted.trials[1]["rolling_mae"]
    alone = fit(split, dataset, replace(spec, candidates=(spec.candidates[0],)))
    values = matrix(split.test, dataset.inputs)
    np.testing.assert_array_equal(fitted.model.predict(values), alone.model.predict(values))


def test_fitted_again_is_the_same_on_all_rows_with_as_many_iterations(stored, spec):
    newest = pl.col("placed_at").rank() > 0.9 * 3000  # a world that changed after all that train and validation saw
    dataset = stored(market().with_columns(delivery_minutes=pl.col("delivery_minutes") + newest * 30))
    split = split_by_time(dataset.rows(), spec)
    judged = fit(split, dataset, spec)
    again = fit_again(judged, dataset, spec)
    assert [one.n_iter_ for one in (again.model, *again.quantiles)] == [
        one.n_iter_ for one in (judged.model, *judged.quantiles)
    ]
    assert not again.model.early_stopping
    assert again.parameters == {**judged.parameters, "early_stopping": False, "max_iter": judged.model.n_iter_}
    values = hide(matrix(dataset.rows(), dataset.inputs), dataset, spec, 1.0)
    grown = again.answers(values, spec)[:, 2].mean() - judged.answers(values, spec)[:, 2].mean()
    assert grown > 5  # the 90th percentile knows of the tenth that is 30 minutes slower
    stump = fit(split, dataset, replace(spec, candidates=({"early_stopping": False, "max_iter": 2},)))
    assert fit_again(stump, dataset, spec).model.max_iter == 2


def test_a_feature_without_any_value_does_not_stop_the_fit_nor_count(stored, spec):
    bare = stored(market().with_columns(pl.lit(None, pl.Float64).alias("distance_km")))
    split = split_by_time(bare.rows(), spec)
    fitted = fit(split, bare, spec)
    values = matrix(split.test, bare.inputs)
    told = np.where(np.arange(len(bare.inputs)) == bare.inputs.index("distance_km"), np.float32(7), values)
    np.testing.assert_array_equal(fitted.model.predict(values), fitted.model.predict(told))


def test_conformal_offsets_are_order_statistics():
    assert conformal_offsets(np.arange(1.0, 10.0), np.arange(1.0, 10.0) - 5) == (1.0, 4.0)
    assert conformal_offsets(np.arange(1.0, 100.0), np.arange(1.0, 100.0)) == (10.0, 90.0)
    assert conformal_offsets(np.array([2.0]), np.array([3.0])) == (2.0, 3.0)


def test_onnx_predicts_what_the_estimator_predicts_with_values_missing(split, dataset, spec, fitted):
    model = OnnxModel(to_onnx(fitted.model, len(dataset.inputs)))
    values = matrix(split.validation, dataset.inputs)
    values[::3, 0] = values[::4, 4] = np.nan
    assert np.abs(model.predict(values) - fitted.model.predict(values)).max() <= 1e-3
    assert model.predict(values[:0]).shape == (0,)


def test_evaluation_is_measured_beside_baselines_with_the_driver_hidden(split, dataset, spec, fitted):
    found = evaluate(fitted.model.predict, split, dataset, spec)
    hidden = hide(matrix(split.validation, dataset.inputs), dataset, spec, 1.0)
    by_hand = np.abs(fitted.model.predict(hidden) - split.validation["delivery_minutes"].to_numpy()).mean()
    metrics = found["metrics"]
    assert metrics["validation_mae"] == pytest.approx(by_hand)
    assert metrics["validation_mae_with_driver"] < metrics["validation_mae"]
    assert metrics["validation_mae"] < found["baselines"]["trailing_mean"]["validation_mae"]
    assert found["baselines"]["trailing_mean"]["test_mae"] < found["baselines"]["train_mean"]["test_mae"]
    assert found["interval"]["test_coverage"] == pytest.approx(0.8, abs=0.06)
    assert found["rows"] == {part: rows.height for part, rows in split.parts().items()}


def test_slices_are_measured_and_what_cannot_be_is_listed(split, dataset, spec, fitted):
    slices = (SliceSpec("peak", where="request_features__is_peak_hour = 1"), SliceSpec("zone", by="zone_id"))
    odd = (SliceSpec("far", where="distance_km > 1000"), SliceSpec("rain", where="rain > 1"))
    found = evaluate(fitted.model.predict, split, dataset, replace(spec, slices=(*slices, *odd)))["slices"]
    assert [row["slice"] for row in found] == ["peak", "zone z0", "zone z1", "zone z2", "zone z3", "far", "rain"]
    assert all(row["mae"] > 0 for row in found[:5])
    assert sum(row["rows"] for row in found[1:5]) == split.validation.height
    assert [row["note"][:20] for row in found[5:]] == ["fewer than 50 rows", 'no column "rain"']


def write(directory, fitted, split, dataset, spec) -> None:
    final = fit_again(fitted, dataset, spec)
    onnx = [to_onnx(one.model, len(dataset.inputs), one.quantiles) for one in (final, fitted)]
    evaluation = evaluate(fitted.model.predict, split, dataset, spec, OnnxModel(onnx[1]).ranges)
    write_bundle(directory, *onnx, evaluation, split, dataset, spec)


def test_a_bundle_holds_what_serving_needs(split, dataset, spec, fitted, tmp_path):
    write(tmp_path, fitted, split, dataset, spec)
    bundle = json.loads((tmp_path / "bundle.json").read_text())
    assert [item["name"] for item in bundle["inputs"]] == dataset.inputs
    described = {"name", "source", "view", "feature", "dtype", "median", "minimum", "maximum", "null_rate"}
    assert set(bundle["inputs"][0]) == described
    nulls = np.isnan(training_matrix(known_rows(dataset, spec), dataset, spec)).mean(axis=0)
    assert [item["null_rate"] for item in bundle["inputs"]] == pytest.approx(nulls)
    assert (bundle["label_maximum"], bundle["population"]) == (spec.limits.label_maximum, dict(spec.asks))
    assert bundle["views"] == dataset.description["views"]
    assert bundle["interval"]["views"] == ["restaurant_stats", "driver_stats"]
    usual = next(one for one in bundle["interval"]["patterns"] if one["absent"] == ["driver_stats"])
    assert {name: bundle["interval"][name] for name in ("p10_offset", "p90_offset")}.items() <= usual.items()
    assert {len(bundle["self_test"][name]) for name in ("inputs", "predictions", "intervals")} == {5}
    assert bundle["self_test"]["inputs"][4] == [None] * 5
    reference = pl.read_parquet(tmp_path / "reference.parquet")
    assert reference.columns == [*dataset.inputs, "prediction", "label"]
    assert reference.height == dataset.rows().height  # it was fitted on all of them
    assert reference[DRIVER_MEAN].null_count() / reference.height == pytest.approx(0.5, abs=0.05)


def test_serving_reads_the_bundle(split, dataset, spec, fitted, tmp_path):
    from serving.bundle import Bundle

    write(tmp_path, fitted, split, dataset, spec)
    bundle = Bundle.load(tmp_path)
    values = matrix(split.test, dataset.inputs)
    final = fit_again(fitted, dataset, spec)
    np.testing.assert_allclose(bundle.predict(values), final.answers(values, spec)[:, 0], atol=1e-3)
    assert bundle.verify() <= 1e-3
    document = json.loads((tmp_path / "bundle.json").read_text())
    for absent in ((), ("driver_stats",), ("restaurant_stats",), ("restaurant_stats", "driver_stats")):
        rows = Availability.of(dataset).without(values, absent)
        usual = ~np.isnan(values[:, 0]) | ("restaurant_stats" in absent)  # those that lack nothing else
        pattern = next(one for one in document["interval"]["patterns"] if set(one["absent"]) == set(absent))
        expected = final.answers(rows, spec)
        found = bundle.estimate(rows)
        low = np.minimum(expected[:, 1] + pattern["p10_offset"], expected[:, 0])
        np.testing.assert_allclose(np.array(found.p10)[usual], low[usual], atol=1e-3)
        high = np.maximum(expected[:, 2] + pattern["p90_offset"], expected[:, 0])
        np.testing.assert_allclose(np.array(found.p90)[usual], high[usual], atol=1e-3)


def test_a_bundle_of_two_models_is_refused(split, dataset, spec, fitted, tmp_path):
    write(tmp_path, fitted, split, dataset, spec)
    other = fit(split, dataset, replace(spec, candidates=({"max_iter": 2},)))
    (tmp_path / "model.onnx").write_bytes(to_onnx(other.model, len(dataset.inputs)))
    with pytest.raises(BundleMismatch, match=r"differs from its own self-test .*: train again"):
        verify_bundle(tmp_path)
    (tmp_path / "reference.parquet").unlink()
    with pytest.raises(BundleMismatch, match=r"lacks \['reference.parquet'\]"):
        verify_bundle(tmp_path)


PREDICTIONS_OF_A_NEW_PROCESS = """
import hashlib, sys
from dataclasses import replace
from pathlib import Path
from training.dataset import load_dataset
from training.export import OnnxModel, to_onnx
from training.models import get_spec
from training.spec import SliceSpec
from training.split import split_by_time
from training.train import fit, matrix
dataset, spec = load_dataset(Path(sys.argv[1])), get_spec("delivery_time")
spec = replace(spec, candidates=({"max_leaf_nodes": 15, "min_samples_leaf": 20, "loss": "absolute_error"},))
split = split_by_time(dataset.rows(), spec)
model = fit(split, dataset, spec).model
values = matrix(split.test, dataset.inputs)
onnx = OnnxModel(to_onnx(model, len(dataset.inputs)))
print(hashlib.sha256(model.predict(values).tobytes() + onnx.predict(values).tobytes()).hexdigest())
"""


def test_the_same_rows_and_seed_give_the_same_predictions_bit_for_bit_in_another_process(dataset):
    command = [sys.executable, "-c", PREDICTIONS_OF_A_NEW_PROCESS, str(dataset.directory)]
    hashes = {
        subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.strip()
        for environment in (_environment(PYTHONHASHSEED="1"), _environment(PYTHONHASHSEED="2", OMP_NUM_THREADS="1"))
    }
    assert len(hashes) == 1
    assert len(hashes.pop()) == hashlib.sha256().digest_size * 2


def _environment(**changes: str) -> dict[str, str]:
    return {**os.environ, **changes}


def test_the_market_of_these_tests_is_learnable(fitted, split, dataset):
    assert fitted.trials[0]["validation_mae"] < 4.5
    assert market().height == 3000

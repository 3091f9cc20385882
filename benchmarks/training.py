"""The stages of training on 0.16 M and on 1 M rows, each in a process of its own, and the whole once more, unchanged.

120 days of simulated orders with all their features; the training window is the last 90. MLflow is a SQLite file, so
that no server counts. The anchor is scikit-learn's bare fit of the same candidates on matrices that are there already.
The simulated histories are kept in the temporary directory, and used again by the next measurement.

make bench NAME=training
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.harness import Contender, compare, prepare_apart

if TYPE_CHECKING:
    from config import Settings
    from training.spec import ModelSpec

AS_OF = datetime(2026, 5, 1, tzinfo=UTC)
DAYS = 120
PLACE = Path(tempfile.gettempdir()) / "delivery-eta-benchmark-training"
SIZES = {"0.16 M rows": 250_000, "1 M rows": 1_600_000}
"""Orders that are simulated; two in three of them are rows."""


def prepare(orders: int) -> None:
    """Simulate the orders and compute their features, unless that was done before; forget former trainings."""
    from feature_repo import pipeline
    from feature_repo.store import apply
    from feature_repo.window import DAY, Window
    from simulator.generate import write_history

    settings, done = _settings(orders), PLACE / f"{orders}.ready"
    if not done.exists() or done.read_text() != history_key():
        shutil.rmtree(settings.data_dir, ignore_errors=True)
        print(f"  simulating {orders:,} orders, computing their features", flush=True)
        write_history(settings.landing_orders, AS_OF, DAYS, orders)
        pipeline.backfill(Window(AS_OF - DAYS * DAY, AS_OF), settings, lambda text: print(f"  {text}", flush=True))
        done.write_text(history_key())
    apply(settings)
    shutil.rmtree(settings.datasets, ignore_errors=True)
    shutil.rmtree(settings.mlflow_dir, ignore_errors=True)
    settings.mlflow_dir.mkdir(parents=True)


def history_key() -> str:
    """Hash of the code that simulates orders and computes their features: another makes another history."""
    from importlib.util import find_spec

    from training.files import canonical_hash
    from training.lineage import features_code_hash

    found = find_spec("simulator")
    assert found is not None
    assert found.origin is not None
    sources = sorted(Path(found.origin).parent.glob("*.py"))
    return canonical_hash([features_code_hash(), *(path.read_text() for path in sources)])


def dataset(orders: int) -> Mapping[str, Any]:
    """The point-in-time training set."""
    from training import pipeline

    return {"rows": pipeline.build_dataset(AS_OF, *_given(orders))["rows"]}


def validate(orders: int) -> Mapping[str, Any]:
    """Its checks and canaries."""
    from training import pipeline

    verdict = pipeline.validate_dataset(AS_OF, *_given(orders))
    assert not verdict["stopped"], verdict["failures"]
    return {"rows": verdict["rows"]}


def bare_fit(orders: int, spec: ModelSpec, train: Any, held_out: Any) -> Mapping[str, Any]:
    """What scikit-learn itself takes for the candidates."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    for candidate in spec.candidates:
        model = HistGradientBoostingRegressor(**spec.parameters, **candidate, random_state=spec.seed)
        model.fit(*train, X_val=held_out[0], y_val=held_out[1])
    return {"rows": len(train[1])}


def _matrices(orders: int) -> dict[str, Any]:
    from training import pipeline
    from training.split import split_by_time
    from training.train import hide, labels, matrix

    settings, spec = _given(orders)
    found = pipeline.noted_dataset(AS_OF, settings, spec)
    split = split_by_time(found.rows(), spec)
    assert spec.hidden is not None
    parts = ((split.train, spec.hidden.share), (split.validation, 1.0))
    train, held_out = [
        (hide(matrix(rows, found.inputs), found, spec, share), labels(rows, spec)) for rows, share in parts
    ]
    return {"spec": spec, "train": train, "held_out": held_out}


bare_fit.prepare = _matrices  # type: ignore[attr-defined]


def train(orders: int) -> Mapping[str, Any]:
    """The candidates fitted, the best one in ONNX form, all of it logged."""
    from training import pipeline

    told = pipeline.train(AS_OF, *_given(orders), lambda text: print(f"    {text}", flush=True))
    return {"iterations": max(trial["iterations"] for trial in told["trials"])}


def evaluate(orders: int) -> Mapping[str, Any]:
    """Metrics, slices, gates, charts and report."""
    from training import pipeline

    evaluation = pipeline.evaluate(AS_OF, *_given(orders))
    return {"rows": sum(evaluation["rows"].values()), "test MAE, min": round(evaluation["metrics"]["test_mae"], 3)}


def register(orders: int) -> Mapping[str, Any]:
    """The bundle, the version, the alias."""
    from training import pipeline

    return {"version": pipeline.register(AS_OF, *_given(orders))["version"]}


def once_more(orders: int) -> Mapping[str, Any]:
    """All of it again, with nothing changed."""
    from training import pipeline

    story = pipeline.run(AS_OF, *_given(orders))
    steps = ("dataset", "validation", "training", "evaluation", "registration")
    return {"found again": f"{sum(story[step]['reused'] for step in steps)} of {len(steps)}"}


CONTENDERS: dict[str, Contender] = {
    "dataset": dataset,
    "validate": validate,
    "bare fit": bare_fit,
    "train": train,
    "evaluate": evaluate,
    "register": register,
    "nothing changed": once_more,
}


def _settings(orders: int) -> Settings:
    from config import get_settings

    # In the environment, because the feature definitions read the process's own settings.
    home = PLACE / str(orders)
    os.environ |= {"ETA_DATA_DIR": str(home), "ETA_MLFLOW_TRACKING_URI": f"sqlite:///{home / 'mlflow' / 'mlflow.db'}"}
    get_settings.cache_clear()
    return get_settings()


def _given(orders: int) -> tuple[Settings, ModelSpec]:
    from training.models import get_spec

    return _settings(orders), get_spec("delivery_time")


def main() -> None:
    """Make the histories, then measure."""
    for orders in SIZES.values():
        # The definitions hold the data directory that they were imported under.
        prepare_apart(prepare, orders)
    compare(
        "training",
        CONTENDERS,
        {name: {"orders": orders} for name, orders in SIZES.items()},
        anchor="bare fit",
        packages=["scikit-learn", "feast", "polars", "mlflow", "onnxruntime"],
        runs=1,
    )


if __name__ == "__main__":
    main()

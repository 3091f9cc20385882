"""How good the delivery-time model is on a file of real orders, by rolling origins, through the ordinary pipeline.

The file is ingested through its mapping, all its hours are computed, and the training set is built, as for any other
orders. Then, five times, a model is trained as of 50, 60, 70, 80 and 90 % of time, in all steps of the pipeline (judged
on the newest rows that it may know, then fitted again on all of them), and asked about the next 10 %. The driver is
unknown.

make bench NAME=case_study ARGS="ORDERS MAPPING"
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.harness import Contender, compare
from benchmarks.procedures import Procedure, told

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    from config import Settings

PLACE = Path(tempfile.gettempdir()) / "delivery-eta-benchmark-case-study"
ORIGINS = (0.5, 0.6, 0.7, 0.8, 0.9)
HORIZON = 0.1
DATASET = "dataset.txt"


def prepare(orders: str, mapping: str) -> None:
    """Ingest the file, compute its features and store the training set; where it is, is noted in `DATASET`."""
    from feature_repo import pipeline
    from feature_repo.orders import __main__ as ingest
    from feature_repo.orders.watermark import read_watermark
    from feature_repo.store import apply
    from feature_repo.window import Window, floor_hour
    from training.dataset import build_dataset
    from training.models import get_spec

    settings = _settings()
    if ingest.main([orders, mapping]):
        sys.exit("the orders could not be brought in")
    landed = read_watermark(settings)
    assert landed is not None
    span = Window(floor_hour(landed.started_at), floor_hour(landed.complete_until))
    pipeline.backfill(span, settings, lambda text: print(f"  {text}", flush=True))
    apply(settings)
    dataset, _ = build_dataset(span.end, settings, get_spec("delivery_time"))
    (PLACE / DATASET).write_text(str(dataset.directory))


class Ours:
    """The pipeline's own search, estimators and interval, with all features of the service but some.

    Parameters
    ----------
    without : str
        Regular expression: inputs whose names it matches from their beginning are left out.
    procedure : Procedure
        How it is trained.
    """

    def __init__(self, without: str = "nothing", procedure: Procedure | None = None) -> None:
        self.without = without
        self.procedure = procedure or Procedure()

    def __call__(self, **_: Any) -> Mapping[str, Any]:
        """Errors, and where outcomes lie inside of the interval."""
        from training.models import get_spec

        spec, dataset = get_spec("delivery_time"), _dataset()
        inputs = [item for item in dataset.description["inputs"] if not re.match(self.without, item["name"])]
        dataset = replace(dataset, description={**dataset.description, "inputs": inputs})
        answers = [self.procedure.ask(known, later, dataset, spec) for known, later in _folds()]
        return _told([abs(one.actual - one.predicted) for one in answers]) | {
            name: value for name, value in told(answers).items() if name not in ("MAE, min", "rows")
        }


def raw_columns(**_: Any) -> Mapping[str, Any]:
    """scikit-learn's gradient boosting with default settings on order value, restaurant, hour and weekday."""
    import numpy as np
    from sklearn.ensemble import HistGradientBoostingRegressor
    from sklearn.preprocessing import OrdinalEncoder

    from training.models import get_spec
    from training.train import labels, without_empty_columns

    spec, errors = get_spec("delivery_time"), []
    for known, later in _folds():
        encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=np.nan)
        encoder.fit(known.select("restaurant_id").to_numpy())

        def inputs(rows: pl.DataFrame, encoder: OrdinalEncoder = encoder) -> np.ndarray:
            placed = rows["placed_at"].dt
            columns = [rows["order_value"].to_numpy(), placed.hour().to_numpy(), placed.weekday().to_numpy()]
            return np.column_stack([*columns, encoder.transform(rows.select("restaurant_id").to_numpy())])

        model = HistGradientBoostingRegressor(random_state=spec.seed).fit(
            without_empty_columns(inputs(known)), labels(known, spec)
        )
        errors.append(abs(labels(later, spec) - model.predict(inputs(later))))
    return _told(errors)


def training_mean(**_: Any) -> Mapping[str, Any]:
    """The mean of the rows that may be known."""
    from training.models import get_spec
    from training.train import labels

    spec, errors = get_spec("delivery_time"), []
    for known, later in _folds():
        errors.append(abs(labels(later, spec) - labels(known, spec).mean()))
    return _told(errors)


def _folds() -> list[tuple[pl.DataFrame, pl.DataFrame]]:
    """What is known at each origin, and what is asked about."""
    import polars as pl

    from training.dataset import LABEL_KNOWN_AT
    from training.models import get_spec

    spec = get_spec("delivery_time")
    rows = _dataset().rows().sort(spec.instant, spec.row_id)
    instant = pl.col(spec.instant)
    first, last = rows[spec.instant].min(), rows[spec.instant].max()
    length = last - first
    folds = []
    for origin in ORIGINS:
        begin, end = first + origin * length, first + (origin + HORIZON) * length
        known = rows.filter(instant < begin, pl.col(LABEL_KNOWN_AT) <= begin)
        later = rows.filter(instant >= begin, instant < end if origin < ORIGINS[-1] else instant <= last)
        folds.append((known, later))
    return folds


def _told(errors: list[np.ndarray]) -> dict[str, Any]:
    folds = {f"fold {number}": f"{error.mean():.2f}" for number, error in enumerate(errors, start=1)}
    return {"MAE, min": f"{_pooled(errors):.2f}", **folds, "rows": sum(map(len, errors))}


def _pooled(parts: list[np.ndarray]) -> float:
    import numpy as np

    return float(np.concatenate(parts).mean())


def _settings() -> Settings:
    from config import get_settings

    return get_settings()


@lru_cache
def _dataset() -> Any:
    from training.dataset import load_dataset

    return load_dataset(Path((PLACE / DATASET).read_text()))


CONTENDERS: dict[str, Contender] = {
    "mean of the known rows": training_mean,
    "raw columns": raw_columns,
    "ours": Ours(),
    "as it was judged, one width": Ours(procedure=Procedure(again=False, percentiles=False)),
    "without the restaurant's history": Ours("restaurant_stats"),
    "without the customer's history": Ours("customer_stats"),
    "without the zone at this moment": Ours("zone_live"),
    "without the drivers on a shift": Ours("zone_live__.*driver"),
    "without the zone's last days": Ours("zone_stats"),
    "without the time of day": Ours("request_features"),
}


def main(arguments: list[str]) -> None:
    """Measure on the orders and the mapping that are named in the arguments."""
    if len(arguments) != 2:
        sys.exit('case_study needs a file of orders and its mapping: make bench NAME=case_study ARGS="ORDERS MAPPING"')
    os.environ["ETA_DATA_DIR"] = str(PLACE / "data")
    shutil.rmtree(PLACE, ignore_errors=True)
    try:
        prepare(*arguments)
        compare(
            "case_study",
            CONTENDERS,
            {"five rolling origins": {}},
            anchor="mean of the known rows",
            packages=["scikit-learn", "feast", "polars"],
            runs=1,
        )
    finally:
        shutil.rmtree(PLACE, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1:])

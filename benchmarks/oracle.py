"""How near the model comes to the best that is possible, by the length of its history, and what keeps it from there.

The simulator knows what it draws the noise around: the expected minutes of every order, the driver aside. Its own error
is the noise that no model can remove. It knows more than anybody could, though: each kitchen's present speed, the rain,
the drivers' capacity. So the model is also fitted with parts of that knowledge as further inputs: what each of them is
worth is what a feature that came near it could win.

240 days are simulated once, kept in the temporary directory, and used again. The test rows are those of the last 13.5
days, the candidates are chosen on the 13.5 days before, the driver is unknown.

make bench NAME=oracle
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.harness import Contender, compare, prepare_apart
from benchmarks.training import history_key

if TYPE_CHECKING:
    import polars as pl

    from training.dataset import Dataset
    from training.spec import ModelSpec
    from training.split import Split

AS_OF = datetime(2026, 5, 1, tzinfo=UTC)
DAYS, ORDERS, ROWS_DAYS = 240, 500_000, 210
PART = timedelta(days=13.5)
"""Of the validation and of the test rows: 15 % of the 90 days that a training usually looks at."""
PLACE = Path(tempfile.gettempdir()) / "delivery-eta-benchmark-oracle"
ORACLE, KNOWN, DATASET, READY = "oracle.parquet", "known.parquet", "dataset.txt", "ready"
USUAL = "63 days"
SIZES = {name: {"days": int(name.split()[0])} for name in ("15 days", "30 days", USUAL, "120 days", "183 days")}


def prepare() -> None:
    """Simulate, compute features, store the training set, and what the simulator knew of every order."""
    from config import get_settings
    from feature_repo import pipeline
    from feature_repo.store import apply
    from feature_repo.window import DAY, Window
    from simulator.generate import write_history
    from training.dataset import build_dataset

    settings = get_settings()
    ready = PLACE / READY
    if not ready.exists() or ready.read_text() != history_key():
        shutil.rmtree(PLACE, ignore_errors=True)
        write_history(settings.landing_orders, AS_OF, DAYS, ORDERS, oracle=PLACE / ORACLE)
        pipeline.backfill(Window(AS_OF - DAYS * DAY, AS_OF), settings, lambda text: print(f"  {text}", flush=True))
        ready.write_text(history_key())
    apply(settings)
    dataset, _ = build_dataset(AS_OF, settings, _spec())
    (PLACE / DATASET).write_text(str(dataset.directory))
    _known(settings.landing_orders).write_parquet(PLACE / KNOWN)


def _known(landing: Path) -> pl.DataFrame:
    """What the expected minutes are made of, order by order."""
    import polars as pl

    from simulator.landing import Landing
    from simulator.versions import oracle_of
    from simulator.world import World

    state = Landing(landing).state()
    world = World(state.seed, state.orders_per_day, state.drills)
    market, parts = world.market, []
    first, last = (int(instant.timestamp() // 3600) for instant in (AS_OF - timedelta(days=ROWS_DAYS), AS_OF))
    for hour in range(first, last):
        orders, day = world.orders(hour), hour / 24
        restaurant = orders["restaurant"]
        zone = market.restaurants.zone[restaurant]
        parts.append(
            oracle_of(orders)
            .select("order_id")
            .with_columns(
                known_load=pl.Series(orders["load"]),
                known_rain=pl.Series(world.weather(hour)[zone]),
                known_kitchen=pl.Series(
                    market.restaurants.preparation[restaurant] * market.restaurants.pace.at(day, restaurant)
                ),
                known_roads=pl.Series(market.zones.slowness[zone]),
                known_drivers=pl.Series(market.drivers.mean_slowness(day)[zone]),
            )
        )
    return pl.concat(parts).unique("order_id")


def oracle(days: int) -> Mapping[str, Any]:
    """The expected minutes themselves."""
    test = _split(days).test
    return {"MAE, min": _mae(test["expected_minutes"].to_numpy(), test), "train rows": 0}


def trailing_mean(days: int) -> Mapping[str, Any]:
    """The restaurant's mean of the 28 days before, else the mean of the train rows."""
    import polars as pl

    split, spec = _split(days), _spec()
    feature = pl.col(str(spec.baseline_feature)).fill_null(split.train[spec.label].mean())
    return {"MAE, min": _mae(split.test.select(feature).to_series().to_numpy(), split.test), "train rows": 0}


class Model:
    """The pipeline's own candidates, with parts of the simulator's knowledge as further inputs.

    Parameters
    ----------
    knows : str
        Names of the parts, as `_known` calls them.
    without : str
        Beginning of the names of the inputs to leave out.
    """

    def __init__(self, *knows: str, without: str = "nothing") -> None:
        self.knows = [f"known_{name}" for name in knows]
        self.without = without

    def __call__(self, days: int) -> Mapping[str, Any]:
        """Its error on the test rows."""
        from training.train import fit, hide, matrix

        split, spec, dataset = _split(days), _spec(), _dataset()
        more = [{"name": name, "source": "simulator", "view": None} for name in self.knows]
        kept = [item for item in dataset.description["inputs"] if not item["name"].startswith(self.without)]
        dataset = replace(dataset, description=dataset.description | {"inputs": [*kept, *more]})
        model = fit(split, dataset, spec, lambda text: print(f"    {text}", flush=True)).model
        predicted = model.predict(hide(matrix(split.test, dataset.inputs), dataset, spec, 1.0))
        return {"MAE, min": _mae(predicted, split.test), "train rows": split.train.height}


def _mae(predicted: Any, rows: pl.DataFrame) -> float:
    from training.train import labels

    return round(float(abs(labels(rows, _spec()) - predicted).mean()), 3)


def _spec() -> ModelSpec:
    from training.models import get_spec

    return replace(get_spec("delivery_time"), window_days=ROWS_DAYS)


@lru_cache
def _dataset() -> Dataset:
    from training.dataset import load_dataset

    return load_dataset(Path((PLACE / DATASET).read_text()))


def _split(days: int) -> Split:
    import polars as pl

    from training.split import Split

    known = [pl.read_parquet(PLACE / name).drop("placed_at", "is_asap", strict=False) for name in (ORACLE, KNOWN)]
    rows = _dataset().rows()
    for frame in known:
        rows = rows.join(frame, on="order_id", how="left", validate="1:1", maintain_order="left")
    rows = rows.sort("placed_at", "order_id")
    test_start, validation_start = AS_OF - PART, AS_OF - 2 * PART
    begin = validation_start - timedelta(days=days)
    placed, known_at = pl.col("placed_at"), pl.col("label_known_at")
    return Split(
        train=rows.filter(placed.is_between(begin, validation_start, closed="left"), known_at <= validation_start),
        validation=rows.filter(placed.is_between(validation_start, test_start, closed="left"), known_at <= test_start),
        test=rows.filter(placed >= test_start),
        validation_start=validation_start,
        test_start=test_start,
        gap={},
    )


CONTENDERS: dict[str, Contender] = {
    "oracle": oracle,
    "trailing mean": trailing_mean,
    "ours": Model(),
    "without the zone at this moment": Model(without="zone_live"),
    "and the zone's load": Model("load"),
    "and the kitchen's speed": Model("kitchen"),
    "and the rain": Model("rain"),
    "and roads and drivers": Model("roads", "drivers"),
    "and load and kitchen": Model("load", "kitchen"),
    "and all of these": Model("load", "kitchen", "rain", "roads", "drivers"),
}


def main() -> None:
    """Make the history, then measure."""
    os.environ |= {"ETA_DATA_DIR": str(PLACE / "data")}
    prepare_apart(prepare)
    only_usual = [name for name in CONTENDERS if name not in ("oracle", "ours")]
    compare(
        "oracle",
        CONTENDERS,
        SIZES,
        anchor="oracle",
        packages=["scikit-learn", "numpy", "polars"],
        runs=1,
        leave_out=[(name, size) for name in only_usual for size in SIZES if size != USUAL],
        ratios_of=["MAE, min"],
    )


if __name__ == "__main__":
    main()

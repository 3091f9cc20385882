"""Thirty nights of training, each asked about the orders of the next day: what is answered, and how wide.

150 days are simulated once, kept in the temporary directory, and used again. Every night a model is trained on the rows
of the 90 days before whose outcome is known by then. The anchor answers with what the gates judged, fitted on the
oldest 70 % of the rows, with an interval of one width.

make bench NAME=nightly
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.harness import Contender, compare, prepare_apart
from benchmarks.procedures import Procedure, told
from benchmarks.training import history_key

if TYPE_CHECKING:
    from training.spec import ModelSpec

AS_OF = datetime(2026, 5, 1, tzinfo=UTC)
DAYS, ORDERS, NIGHTS = 150, 60_000, 30
WINDOW = timedelta(days=90)
PLACE = Path(tempfile.gettempdir()) / "delivery-eta-benchmark-nightly"
DATASET, READY = "dataset.txt", "ready"


def prepare() -> None:
    """Simulate, compute features, store the rows of all nights and days."""
    from config import get_settings
    from feature_repo import pipeline
    from feature_repo.store import apply
    from feature_repo.window import DAY, Window
    from simulator.generate import write_history
    from training.dataset import build_dataset

    settings, ready = get_settings(), PLACE / READY
    if not ready.exists() or ready.read_text() != history_key():
        shutil.rmtree(PLACE, ignore_errors=True)
        write_history(settings.landing_orders, AS_OF, DAYS, ORDERS)
        pipeline.backfill(Window(AS_OF - DAYS * DAY, AS_OF), settings, lambda text: print(f"  {text}", flush=True))
        ready.write_text(history_key())
    apply(settings)
    dataset, _ = build_dataset(AS_OF, settings, replace(_spec(), window_days=WINDOW.days + NIGHTS))
    (PLACE / DATASET).write_text(str(dataset.directory))


class Nights:
    """A way to train, night after night."""

    def __init__(self, procedure: Procedure) -> None:
        self.procedure = procedure

    def __call__(self, nights: int) -> Mapping[str, Any]:
        """What became of the answers."""
        import polars as pl

        from training.dataset import LABEL_KNOWN_AT, load_dataset

        dataset, spec = load_dataset(Path((PLACE / DATASET).read_text())), _spec()
        rows, placed = dataset.rows().sort(spec.instant, spec.row_id), pl.col(spec.instant)
        answers = []
        for number in range(nights, 0, -1):
            night = AS_OF - timedelta(days=number)
            known = rows.filter(placed >= night - WINDOW, placed < night, pl.col(LABEL_KNOWN_AT) <= night)
            later = rows.filter(placed >= night, placed < night + timedelta(days=1))
            answers.append(self.procedure.ask(known, later, dataset, spec))
        return told(answers)


def _spec() -> ModelSpec:
    from training.models import get_spec

    return get_spec("delivery_time")


CONTENDERS: dict[str, Contender] = {
    "oldest 70 %, one width": Nights(Procedure(again=False, percentiles=False)),
    "oldest 70 %, percentiles": Nights(Procedure(again=False)),
    "all rows, one width": Nights(Procedure(percentiles=False)),
    "ours: all rows, percentiles": Nights(Procedure()),
}


def main() -> None:
    """Make the history, then measure."""
    os.environ |= {"ETA_DATA_DIR": str(PLACE / "data")}
    prepare_apart(prepare)
    compare(
        "nightly",
        CONTENDERS,
        {f"{NIGHTS} nights": {"nights": NIGHTS}},
        anchor="oldest 70 %, one width",
        packages=["scikit-learn", "numpy", "polars"],
        runs=1,
    )


if __name__ == "__main__":
    main()

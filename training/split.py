"""Train, validation and test by time, with a gap where a label was not known yet when the next part began."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import polars as pl

from feature_repo.window import DAY
from training.dataset import LABEL_KNOWN_AT
from training.errors import DatasetError
from training.spec import ModelSpec

TRAIN_SHARE, VALIDATION_SHARE = 0.70, 0.15


@dataclass(frozen=True, slots=True)
class Split:
    """The three parts, each ordered by prediction instant and row id.

    `gap` counts the rows left out of train and validation because their label became known only after the next part
    had begun: a model trained at that instant could not have had them.
    """

    train: pl.DataFrame
    validation: pl.DataFrame
    test: pl.DataFrame
    validation_start: datetime
    test_start: datetime
    gap: dict[str, int]

    def parts(self) -> dict[str, pl.DataFrame]:
        """The parts by name, in time order."""
        return {"train": self.train, "validation": self.validation, "test": self.test}


def split_by_time(rows: pl.DataFrame, spec: ModelSpec) -> Split:
    """The first 70 % of the rows by prediction instant, the next 15 %, the last 15 %; equal instants stay together.

    Where every label takes long to be decided (`label_horizon`), the shares are of the time that is left when the two
    gaps are taken off.

    Raises
    ------
    DatasetError
        A part would be empty.
    """
    ordered = rows.sort(spec.instant, spec.row_id)
    if ordered.height < 3:
        raise DatasetError(f"{spec.name}: {ordered.height} rows cannot be split into train, validation and test")
    validation_start, test_start = _starts(ordered, spec)
    instant = pl.col(spec.instant)
    train = ordered.filter(instant < validation_start)
    validation = ordered.filter(instant >= validation_start, instant < test_start)
    kept = {"train": _known_before(train, validation_start), "validation": _known_before(validation, test_start)}
    split = Split(
        **kept,
        test=ordered.filter(instant >= test_start),
        validation_start=validation_start,
        test_start=test_start,
        gap={"train": train.height - kept["train"].height, "validation": validation.height - kept["validation"].height},
    )
    empty = [name for name, part in split.parts().items() if not part.height]
    if empty:
        raise DatasetError(
            f"{spec.name}: no rows left for {empty} (train before {validation_start}, test from {test_start}; left out "
            f"because their label was not known in time: {split.gap}): the history is too short"
        )
    return split


def rows_seen(split: Split, known: pl.DataFrame, spec: ModelSpec) -> dict[str, dict[str, Any]]:
    """Which rows the judged models were fitted on, and which the registered ones (`known`: all of them).

    Returns
    -------
    dict
        `judged` and `registered`, each with `rows` and the `first` and `last` prediction instant.
    """

    def told(rows: pl.DataFrame) -> dict[str, Any]:
        first, last = rows[spec.instant].min(), rows[spec.instant].max()
        assert isinstance(first, datetime)
        assert isinstance(last, datetime)  # there are rows, and the column is an instant
        return {"rows": rows.height, "first": first.isoformat(), "last": last.isoformat()}

    return {"judged": told(split.train), "registered": told(known)}


def rolling_origins(train: pl.DataFrame, folds: int, spec: ModelSpec) -> list[tuple[pl.DataFrame, pl.DataFrame]]:
    """Pairs of earlier rows and the stretch that follows them, the origin rolling forward through the train rows.

    The rows are cut at equal shares into `folds + 1` stretches; each but the first is held out once. Earlier rows whose
    label was not known at the start of the held-out stretch are left out.

    Raises
    ------
    DatasetError
        A pair would have no rows.
    """
    instants = train[spec.instant]
    starts = [instants[train.height * number // (folds + 1)] for number in range(1, folds + 1)]
    pairs = []
    for start, end in zip(starts, [*starts[1:], None], strict=True):
        later = pl.col(spec.instant) >= start
        held_out = train.filter(later if end is None else later & (pl.col(spec.instant) < end))
        pairs.append((_known_before(train.filter(~later), start), held_out))
        if not all(part.height for part in pairs[-1]):
            raise DatasetError(
                f"{spec.name}: no rows for the origin {start} of {folds} rolling origins: ask for fewer folds, or "
                "bring in more history"
            )
    return pairs


def _starts(ordered: pl.DataFrame, spec: ModelSpec) -> tuple[datetime, datetime]:
    instants, height = ordered[spec.instant], ordered.height
    if not spec.label_horizon:
        return instants[int(TRAIN_SHARE * height)], instants[int((TRAIN_SHARE + VALIDATION_SHARE) * height)]
    gap = (ordered[LABEL_KNOWN_AT] - ordered[spec.instant]).max()
    first, last = instants[0], instants[-1]
    assert isinstance(gap, timedelta)  # there are rows, and the columns are instants
    left = last - first - 2 * gap
    if left <= timedelta():
        raise DatasetError(
            f"{spec.name}: labels are decided {gap / DAY:g} days after their instants, so two gaps of that length lie "
            f"between train, validation and test; the instants with known labels, {first:%Y-%m-%d} to {last:%Y-%m-%d}, "
            f"span {(last - first) / DAY:.0f} days, more than {2 * gap / DAY:.0f} are needed: bring in more history"
        )
    validation_start = first + TRAIN_SHARE * left + gap
    return validation_start, validation_start + VALIDATION_SHARE * left + gap


def _known_before(rows: pl.DataFrame, instant: datetime) -> pl.DataFrame:
    return rows.filter(pl.col(LABEL_KNOWN_AT) <= instant)

"""What incoming orders usually look like: statistics of the days before, made once a day and kept.

A baseline is a function of the lake's days before its own, so each run of a day, and each run of it again, compares
with the same one. Levels are kept by hour of the day, because the mix of orders at four in the morning is another one.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from config import Settings
from feature_repo.files import write_atomically
from feature_repo.orders.schema import ORDER_SCHEMA, REQUIRED_COLUMNS, orders_table
from feature_repo.window import DAY, Window, as_utc

logger = logging.getLogger(__name__)

FORMAT = 1
"""Raise it when the content of the file, or how it is computed, changes: files of another format are made anew."""
DAYS = 28
MIN_DAYS = 7
KEPT = 60
"""As many baselines, the newest, stay on the disk."""

DURATION = "delivery_minutes"
MEAN_COLUMNS = (*(name for name, kind in ORDER_SCHEMA.items() if kind.is_numeric() or kind == pl.Boolean()), DURATION)
NULL_COLUMNS = tuple(name for name in ORDER_SCHEMA if name not in REQUIRED_COLUMNS)
DISTINCT_COLUMNS = tuple(name for name, kind in ORDER_SCHEMA.items() if kind == pl.String() and name != "order_id")
AGES = ("known_at", "updated_at")

_STATISTICS = {
    "kind": pl.String(),
    "column": pl.String(),
    "hour": pl.Datetime("us", "UTC"),
    "rows": pl.Int64(),
    "value": pl.Float64(),
    "within": pl.Float64(),
}


@dataclass(frozen=True, slots=True)
class Level:
    """One statistic at one hour of the day, over the days of the baseline.

    Attributes
    ----------
    hours : int
        How many such hours had rows.
    rows : int
        Orders in them together.
    value : float
        `mean`: the mean. `null`: the share of nulls. `distinct`: distinct values, as a share of what as many
        independent draws from the baseline's values would give; below 1 where one hour's values repeat.
    within : float
        Variance between the orders of an hour; 0 for `distinct`.
    """

    hours: int
    rows: int
    value: float
    within: float


@dataclass(frozen=True, slots=True)
class Statistic:
    """One statistic of one column.

    Attributes
    ----------
    between : float
        Variance of the hours' values around the level of their hour of the day, beyond what the number of their orders
        explains.
    levels : mapping of int to Level
        By hour of the day.
    """

    between: float
    levels: Mapping[int, Level]


@dataclass(frozen=True, slots=True)
class Baseline:
    """What incoming orders looked like over some days.

    Attributes
    ----------
    span : Window
    days : int
        Days of the span that have orders.
    rows : int
        Accepted versions in it.
    statistics : mapping of (str, str) to Statistic
        By kind (`mean`, `null`, `distinct`) and column.
    frequencies : mapping of str to tuple of (int, int)
        Of a column: how many values occurred so many times, as (times, values).
    ages : mapping of (str, int) to float
        By column and hour of the day: minutes from the newest instant to the hour's end that are exceeded in a tenth
        of the days.
    """

    span: Window
    days: int
    rows: int
    statistics: Mapping[tuple[str, str], Statistic]
    frequencies: Mapping[str, tuple[tuple[int, int], ...]]
    ages: Mapping[tuple[str, int], float]

    def draws(self, column: str, rows: int) -> tuple[float, float]:
        """Mean and variance of the number of distinct values in independent draws from the baseline's values."""
        return _draws(self.frequencies[column], rows)


def baseline_file(day: datetime, settings: Settings) -> Path:
    """Where the baseline of the runs of one UTC day is kept."""
    return settings.baselines / "orders" / f"{day:%Y-%m-%d}.json"


def baseline_for(window: Window, settings: Settings) -> Baseline | None:
    """The baseline of the day on which a window begins: read, or else made and kept.

    Returns
    -------
    Baseline or None
        None while fewer than `MIN_DAYS` of the `DAYS` days before have orders.
    """
    day = window.start.replace(hour=0)
    path = baseline_file(day, settings)
    kept = _read(path)
    if kept is not None:
        return kept
    made = make_baseline(day, settings)
    if made is not None:
        write_atomically(path, json.dumps(_to_json(made), indent=1) + "\n")
        _forget_old(path.parent)
    return made


def make_baseline(day: datetime, settings: Settings) -> Baseline | None:
    """The baseline of the `DAYS` days before a midnight, from the accepted orders; a day's memory at a time."""
    span = Window(day - DAYS * DAY, day)
    table = orders_table(settings)
    if len(table.files(span)) < MIN_DAYS:
        return None
    days, rows = 0, 0
    hourly: list[pl.DataFrame] = []
    newest: list[pl.DataFrame] = []
    counts: dict[str, list[pl.DataFrame]] = {column: [] for column in DISTINCT_COLUMNS}
    for start in span.days():
        versions = table.scan(Window(start, start + DAY)).collect()
        if versions.is_empty():
            continue
        days, rows = days + 1, rows + versions.height
        orders = orders_by_hour(versions)
        hourly.append(statistics(orders))
        newest.append(newest_by_hour(versions))
        for column in DISTINCT_COLUMNS:
            counts[column].append(orders.drop_nulls(column).group_by(column).len())
    if days < MIN_DAYS:
        return None
    frequencies = {column: _frequencies(frames) for column, frames in counts.items()}
    ages = _usual_ages(pl.concat(newest), span)
    return Baseline(span, days, rows, _summary(pl.concat(hourly), frequencies), frequencies, ages)


def orders_by_hour(versions: pl.DataFrame) -> pl.DataFrame:
    """One row per order and hour in which it was heard of: its newest version then, with `hour` and `delivery_minutes`.

    Versions of an order repeat its values; counted one by one, they would pass for independent evidence.
    """
    newest = (
        versions.with_columns(hour=pl.col("known_at").dt.truncate("1h"))
        .sort("known_at", "updated_at")
        .unique(["hour", "order_id"], keep="last", maintain_order=True)
    )
    minutes = (pl.col("delivered_at") - pl.col("placed_at")).dt.total_seconds() / 60
    return newest.with_columns(pl.when(pl.col("is_asap").fill_null(True)).then(minutes).alias(DURATION))


def statistics(orders: pl.DataFrame) -> pl.DataFrame:
    """The statistics of each hour.

    Returns
    -------
    pl.DataFrame
        `kind`, `column`, `hour`, `rows` (orders that have a value; all for `null`), `value` (for `distinct` the number
        of distinct values), `within` (variance between orders).
    """
    numbers = orders.with_columns(pl.col(name).cast(pl.Float64) for name in MEAN_COLUMNS)
    parts = {("mean", name): (pl.col(name).count(), pl.col(name).mean(), pl.col(name).var()) for name in MEAN_COLUMNS}
    for name in NULL_COLUMNS:
        parts["null", name] = (pl.len(), pl.col(name).is_null().mean(), pl.lit(None, pl.Float64))
    for name in DISTINCT_COLUMNS:
        parts["distinct", name] = (pl.col(name).count(), pl.col(name).drop_nulls().n_unique(), pl.lit(None, pl.Float64))
    names = ("rows", "value", "within")
    wide = numbers.group_by("hour").agg(
        expression.alias(f"{kind}.{column}.{name}")
        for (kind, column), expressions in parts.items()
        for name, expression in zip(names, expressions, strict=True)
    )
    frames = [
        wide.select(
            pl.lit(kind).alias("kind"),
            pl.lit(column).alias("column"),
            "hour",
            *[pl.col(f"{kind}.{column}.{name}").cast(_STATISTICS[name]).alias(name) for name in names],
        )
        for kind, column in parts
    ]
    return pl.concat(frames).filter(pl.col("rows") > 0).sort("kind", "column", "hour")


def newest_by_hour(versions: pl.DataFrame) -> pl.DataFrame:
    """`hour`, and the newest instant of each column of `AGES` in it."""
    return versions.group_by(hour=pl.col("known_at").dt.truncate("1h")).agg(pl.col(AGES).max())


def _frequencies(counts: Iterable[pl.DataFrame]) -> tuple[tuple[int, int], ...]:
    frame = pl.concat(counts)
    times = frame.group_by(frame.columns[0]).agg(pl.col("len").sum())["len"]
    found = times.value_counts().sort("len").rows()
    return tuple((int(count), int(values)) for count, values in found)


def _draws(frequencies: tuple[tuple[int, int], ...], rows: int) -> tuple[float, float]:
    """Rarefaction: a value of share p is among n draws with probability 1 - (1 - p)^n (Hurlbert, 1971)."""
    if not frequencies or not rows:
        return 0.0, 0.0
    times, values = np.array(frequencies, dtype=float).T
    share = times / float(times @ values)
    absent = (1 - share) ** rows
    return float(values @ (1 - absent)), float(values @ (absent * (1 - absent)))


def _summary(
    hourly: pl.DataFrame, frequencies: Mapping[str, tuple[tuple[int, int], ...]]
) -> dict[tuple[str, str], Statistic]:
    return {
        (str(kind), str(column)): _statistic(str(kind), frame, frequencies.get(str(column), ()))
        for (kind, column), frame in hourly.group_by("kind", "column", maintain_order=True)
    }


def _statistic(kind: str, hourly: pl.DataFrame, frequencies: tuple[tuple[int, int], ...]) -> Statistic:
    if kind == "distinct":
        usual = [_draws(frequencies, rows)[0] for rows in hourly["rows"]]
        hourly = hourly.with_columns(value=pl.col("value") / pl.Series(usual), within=0.0)
    levels: dict[int, Level] = {}
    excess, weight = 0.0, 0.0
    for (hour,), frame in hourly.group_by(pl.col("hour").dt.hour(), maintain_order=True):
        level, more, scale = _level(kind, frame)
        levels[int(str(hour))] = level
        excess, weight = excess + more, weight + scale
    return Statistic(max(0.0, excess / weight) if weight > 0 else 0.0, levels)


def _level(kind: str, hourly: pl.DataFrame) -> tuple[Level, float, float]:
    """A level, and numerator and denominator of the variance between hours by the method of moments.

    With n_i orders in hour i, `sum n_i (value_i - level)^2` is expected to be `(k - 1) within + (N - sum n_i^2 / N)
    between` (DerSimonian and Laird, 1986). For `distinct` all hours weigh the same.
    """
    sizes = np.ones(hourly.height) if kind == "distinct" else hourly["rows"].to_numpy().astype(float)
    values, total = hourly["value"].to_numpy(), sizes.sum()
    value = float(sizes @ values / total)
    within = _within(kind, hourly, value)
    excess = float(sizes @ (values - value) ** 2) - (hourly.height - 1) * within
    scale = float(total - sizes @ sizes / total)
    return Level(hourly.height, int(hourly["rows"].sum()), value, within), excess, scale


def _within(kind: str, hourly: pl.DataFrame, value: float) -> float:
    if kind == "distinct":
        return 0.0
    if kind == "null":
        # Not 0 where no null was ever seen: one among many orders is no shift.
        rows = int(hourly["rows"].sum())
        share = (value * rows + 1) / (rows + 2)
        return share * (1 - share)
    several = hourly.filter(pl.col("rows") > 1)
    freedom = several["rows"].to_numpy() - 1
    return float(freedom @ several["within"].to_numpy() / freedom.sum()) if several.height else 0.0


def _usual_ages(newest: pl.DataFrame, span: Window) -> dict[tuple[str, int], float]:
    hours = pl.DataFrame({"hour": [hour.start for hour in span.hours()]}, schema={"hour": newest.schema["hour"]})
    ends = hours.join(newest, on="hour", how="left", maintain_order="left").with_columns(pl.col(AGES).cum_max())
    ends = ends.with_columns(pl.col(AGES).forward_fill())
    minutes = [
        ((pl.col("hour").dt.offset_by("1h") - pl.col(name)).dt.total_seconds() / 60).clip(0).alias(name)
        for name in AGES
    ]
    usual = (
        ends.select(pl.col("hour").dt.hour().alias("of_day"), *minutes)
        .drop_nulls()
        .group_by("of_day")
        .agg(pl.col(AGES).quantile(0.9, "higher"))
        .sort("of_day")
    )
    return {(name, int(row["of_day"])): float(row[name]) for row in usual.to_dicts() for name in AGES}


# The file.


def _to_json(baseline: Baseline) -> dict[str, Any]:
    statistics: dict[str, dict[str, Any]] = {}
    for (kind, column), statistic in baseline.statistics.items():
        levels = {str(hour): asdict(level) for hour, level in statistic.levels.items()}
        statistics.setdefault(kind, {})[column] = {"between": statistic.between, "levels": levels}
    ages: dict[str, dict[str, float]] = {}
    for (column, hour), minutes in baseline.ages.items():
        ages.setdefault(column, {})[str(hour)] = minutes
    return {
        "format": FORMAT,
        "start": baseline.span.start.isoformat(),
        "end": baseline.span.end.isoformat(),
        "days": baseline.days,
        "rows": baseline.rows,
        "statistics": statistics,
        "frequencies": baseline.frequencies,
        "age_minutes": ages,
    }


def _read(path: Path) -> Baseline | None:
    """The baseline in a file; None if there is none of this format. It is derived, so a damaged one is made anew."""
    try:
        content = json.loads(path.read_text())
        return _from_json(content) if content["format"] == FORMAT else None
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        logger.warning("%s is damaged (%r): it is made anew from the lake", path, error)
        return None


def _from_json(content: dict[str, Any]) -> Baseline:
    statistics = {
        (kind, column): Statistic(
            float(found["between"]), {int(hour): Level(**level) for hour, level in found["levels"].items()}
        )
        for kind, columns in content["statistics"].items()
        for column, found in columns.items()
    }
    frequencies = {
        column: tuple((int(times), int(values)) for times, values in found)
        for column, found in content["frequencies"].items()
    }
    ages = {
        (column, int(hour)): float(age) for column, by in content["age_minutes"].items() for hour, age in by.items()
    }
    span = Window(as_utc(content["start"]), as_utc(content["end"]))
    return Baseline(span, int(content["days"]), int(content["rows"]), statistics, frequencies, ages)


def _forget_old(folder: Path) -> None:
    for path in sorted(folder.glob("*.json"))[:-KEPT]:
        path.unlink(missing_ok=True)

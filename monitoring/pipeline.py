"""The steps of monitoring. Each takes a window and the settings, keeps its result in files and returns it, small.

`window` is about drift: the predictions of orders placed in it. Errors are measured on the same length of time, but
`LABEL_DELAY` earlier: of the orders placed in the last hours of a window only the quick ones are delivered by its
end, and they alone would flatter every model. Windows that follow each other still cover each order once.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

import polars as pl

from config import Settings
from feature_repo.window import Window
from monitoring import drift, performance, report
from monitoring import verdict as rules
from monitoring.champion import MODEL, Champion, load_champion

logger = logging.getLogger(__name__)

LABEL_DELAY = timedelta(hours=3)
"""The longest delivery that counts as an outcome: after it, an order without one will not get one."""


def join_outcomes(window: Window, settings: Settings) -> dict[str, Any]:
    """Predictions beside outcomes, and their errors.

    Returns
    -------
    dict
        Result of `performance.measure`, with `model`, `test_mae`, the window in which the orders were placed, and
        `in_sample`: how many predictions are left out because the model may have been fitted on these very orders.
    """
    from serving.log_rows import IN_SAMPLE

    champion = load_champion(settings)
    placed = Window(window.start - LABEL_DELAY, window.end - LABEL_DELAY)
    predictions = _predictions(placed, settings)
    fair = predictions.filter(pl.col("variant").ne_missing(IN_SAMPLE))
    joined = performance.join_outcomes(fair, _outcomes(placed, window, settings))
    baseline = champion.bundle.get("baseline_minutes") if champion else None
    result = {
        "window": str(window),
        "placed": str(placed),
        "model": _model(champion),
        "test_mae": _test_mae(champion),
        "in_sample": predictions.height - fair.height,
        **performance.measure(joined, baseline),
    }
    directory = report.report_directory(settings, window)
    report.write_frame(directory / report.OUTCOMES, joined)
    report.write_json(directory / report.PERFORMANCE, result)
    logger.info("%s: %d predictions, %d with an outcome", window, result["predictions"], result["outcomes"])
    return result


def drift_report(window: Window, settings: Settings) -> dict[str, Any]:
    """Served inputs and predictions beside the champion's training rows; Evidently's report as HTML and JSON.

    Returns
    -------
    dict
        `model`, `rows`, and `drift.summary` without its columns (they are in the file).
    """
    champion = load_champion(settings)
    predictions = _mostly_online(_predictions(window, settings))
    result = {"window": str(window), "model": _model(champion), "rows": predictions.height, **drift.summary([])}
    snapshot = None
    if champion is not None and predictions.height:
        names = [*champion.inputs, drift.PREDICTION]
        current = drift.served_inputs(predictions, champion.inputs)
        columns, snapshot = drift.compare(champion.reference(), current, names, _optional(champion))
        result |= drift.summary(columns)
    directory = report.report_directory(settings, window)
    if snapshot is None:
        # A page of an earlier run must not pass for this one's.
        (directory / report.DRIFT_PAGE).unlink(missing_ok=True)
        (directory / report.EVIDENTLY).unlink(missing_ok=True)
    else:
        report.write_snapshot(directory, snapshot)
    report.write_json(directory / report.DRIFT, result)
    logger.info("%s: %d rows, drifted: %s", window, result["rows"], result["drifted"])
    return {key: value for key, value in result.items() if key != "columns"}


def verdict(window: Window, settings: Settings, thresholds: rules.Thresholds | None = None) -> dict[str, Any]:
    """The verdict on a window whose `join_outcomes` and `drift_report` have run.

    Raises
    ------
    MissingResult
        One of them has not.
    """
    thresholds = thresholds or rules.Thresholds()
    measured = report.read_result(settings, window, report.PERFORMANCE, "join_outcomes")
    compared = report.read_result(settings, window, report.DRIFT, "drift_report")
    history = report.earlier_verdicts(settings, window, thresholds.of_last - 1)
    decided = rules.decide(rules.find(measured, compared, thresholds), history, window, thresholds)
    content = {**decided.to_dict(), "model": measured["model"]}
    report.write_json(report.report_directory(settings, window) / report.VERDICT, content)
    logger.info("%s: %s: %s", window, decided.action, "; ".join(decided.reasons))
    return content


def run(window: Window, settings: Settings) -> dict[str, Any]:
    """All steps.

    Returns
    -------
    dict
        `performance`, `drift` and `verdict`.
    """
    measured = join_outcomes(window, settings)
    compared = drift_report(window, settings)
    return {"performance": measured, "drift": compared, "verdict": verdict(window, settings)}


def _predictions(placed: Window, settings: Settings) -> pl.DataFrame:
    from serving.prediction_log import read_predictions

    return read_predictions(settings, placed)


def _outcomes(placed: Window, window: Window, settings: Settings) -> pl.DataFrame:
    """What the model's own label says about the orders, as known at the window's end."""
    from training.models import get_spec

    spec = get_spec(MODEL)
    rows = spec.population(placed, window.end, settings)
    return rows.select(pl.col(spec.row_id).alias("order_id"), pl.col(spec.label).alias("actual_minutes")).collect()


def _mostly_online(predictions: pl.DataFrame) -> pl.DataFrame:
    """One prediction per order, what the service answered first; requests without an order id all count."""
    anonymous = predictions.filter(pl.col("order_id").is_null())
    return pl.concat([performance.one_per_order(predictions), anonymous])


def _optional(champion: Champion) -> list[str]:
    """Inputs of an entity that is often unknown: the model was trained to live without them."""
    from training.models import get_spec

    hidden = get_spec(MODEL).hidden
    return [item["name"] for item in champion.bundle["inputs"] if hidden and item.get("view") == hidden.view]


def _model(champion: Champion | None) -> str | None:
    return f"{champion.name} {champion.version}" if champion else None


def _test_mae(champion: Champion | None) -> float | None:
    value = champion.bundle.get("metrics", {}).get("test_mae") if champion else None
    return None if value is None else float(value)

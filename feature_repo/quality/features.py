"""The rules for feature rows. All of them follow from the definitions; no feature is named here."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import polars as pl

from config import Settings
from feature_repo.catalog import FieldInfo, ViewInfo, batch_views
from feature_repo.lake import TIMESTAMP, PartitionedTable
from feature_repo.quality.results import RuleResult, Severity, ValidationReport
from feature_repo.quality.suite import Expectation, Outcome, run_suite
from feature_repo.window import DAY, HOUR, Window

logger = logging.getLogger(__name__)

EVENT_TIME = "event_timestamp"
CREATED = "created"
HISTORY = 7 * DAY
MIN_ROWS_TO_STOP = 10
"""Fewer rows, all null, may well be chance: three new restaurants in a quiet hour."""
USUAL_SHARE = 0.5
"""A feature that had a value in at least this share of earlier rows must not vanish from all rows of a batch."""
NULL_SHARE_RISE = 0.5
"""A share of nulls that is higher than before by more than this is worth a warning."""

_DTYPES: dict[str, pl.DataType] = {"Int64": pl.Int64(), "Float64": pl.Float64(), "String": pl.String()}


def validate_features(view_name: str, frame: pl.DataFrame, window: Window, settings: Settings) -> ValidationReport:
    """Judge the feature rows that one window computed for a view, and keep the report.

    Parameters
    ----------
    view_name : str
        A batch view of the catalog.
    frame : pl.DataFrame
        Its rows: entity key, `event_timestamp`, `created` and the features.
    window : Window
        The run's window; rows have `event_timestamp` in `(start, end]`.
    settings : Settings

    Returns
    -------
    ValidationReport
        An empty frame passes: in an hour without orders no feature changes.

    Raises
    ------
    KeyError
        The catalog has no such view.
    """
    view = _view(view_name)
    schema = _schema_result(view, frame)
    results = [schema]
    if schema.passed:
        judged = _with_booleans(view, frame, settings)
        expectations = [*_row_expectations(view, window), *_value_expectations(view)]
        outcomes = run_suite(f"features_{view.name}", judged, expectations)
        results += [_result(expectation, outcomes[expectation.rule], judged) for expectation in expectations]
        results += _null_results(view, frame, window, settings)
    report = ValidationReport(f"features/{view.name}", window.slug, frame.height, 0, results)
    report.write(settings)
    for result in report.failures:
        level = logging.ERROR if result.severity == "stop" else logging.WARNING
        logger.log(level, "%s of %s: %s (%s): %s", view.name, window, result.rule, result.severity, result.reason)
    return report


def _view(name: str) -> ViewInfo:
    views = {view.name: view for view in batch_views()}
    if name not in views:
        raise KeyError(f"there is no batch view {name!r}; the catalog has {sorted(views)}")
    return views[name]


def table_schema(view: ViewInfo) -> dict[str, pl.DataType]:
    """The columns of a view's rows and their types."""
    features = {info.name: _DTYPES[info.dtype] for info in view.fields}
    return {view.join_key: pl.String(), EVENT_TIME: TIMESTAMP, CREATED: TIMESTAMP, **features}


def _schema_result(view: ViewInfo, frame: pl.DataFrame) -> RuleResult:
    expected, found = table_schema(view), dict(frame.schema)
    missing = [name for name in expected if name not in found]
    unknown = [name for name in found if name not in expected]
    wrong = [f"{name} is {found[name]}, not {kind}" for name, kind in expected.items() if found.get(name, kind) != kind]
    faults = [f"missing: {missing}"] * bool(missing) + [f"not defined: {unknown}"] * bool(unknown) + wrong
    reason = "; ".join(faults) or "columns and types are those of the definition"
    return RuleResult("schema", "stop", not faults, len(found), len(expected), 0, reason)


def _with_booleans(view: ViewInfo, frame: pl.DataFrame, settings: Settings) -> pl.DataFrame:
    event = pl.col(EVENT_TIME)
    numbers = [info.name for info in view.fields if info.dtype == "Float64"]
    finite = [(pl.col(name).is_finite() | pl.col(name).is_null()).alias(f"{name}_finite") for name in numbers]
    return frame.with_columns(
        *finite,
        on_the_hour=(event.dt.truncate("1h") == event).fill_null(True),
        created_after_delay=(pl.col(CREATED) == event + settings.publication_delay).fill_null(False),
        one_row_per_key=~pl.struct(view.join_key, EVENT_TIME).is_duplicated(),
    )


def _row_expectations(view: ViewInfo, window: Window) -> list[Expectation]:
    key = view.join_key
    # As microseconds of pandas: with other units, comparisons with Python instants are slow or refused.
    inside = {"column": EVENT_TIME, "min_value": window.start + HOUR, "max_value": window.end}
    return [
        Expectation(f"{key}_not_null", "ExpectColumnValuesToNotBeNull", {"column": key}),
        Expectation(f"{EVENT_TIME}_not_null", "ExpectColumnValuesToNotBeNull", {"column": EVENT_TIME}),
        Expectation(f"{EVENT_TIME}_in_window", "ExpectColumnValuesToBeBetween", inside),
        Expectation.holds("on_the_hour"),
        Expectation.holds("created_after_delay"),
        Expectation.holds("one_row_per_key"),
    ]


def _value_expectations(view: ViewInfo) -> Iterator[Expectation]:
    for info in view.fields:
        if info.dtype == "Float64":
            yield Expectation.holds(f"{info.name}_finite")
        if info.minimum is not None or info.maximum is not None:
            limits = {"column": info.name, "min_value": info.minimum, "max_value": info.maximum}
            yield Expectation(f"{info.name}_range", "ExpectColumnValuesToBeBetween", limits)
        if info.allowed:
            words = {"column": info.name, "value_set": list(info.allowed)}
            yield Expectation(f"{info.name}_allowed", "ExpectColumnValuesToBeInSet", words)


def _result(expectation: Expectation, outcome: Outcome, frame: pl.DataFrame) -> RuleResult:
    count = len(outcome.rows)
    example = frame[outcome.rows[:1]].to_dicts()
    reason = (
        f"{count} of {frame.height} rows break it, for example {_short(example[0])}" if count else "no row breaks it"
    )
    return RuleResult(expectation.rule, "stop", outcome.passed, count, _threshold(expectation), count, reason)


def _short(row: dict[str, object]) -> str:
    return ", ".join(f"{name}={value}" for name, value in row.items() if not isinstance(value, bool))


def _threshold(expectation: Expectation) -> str:
    given = expectation.arguments
    if "min_value" in given:
        return f"{given['min_value']} to {given['max_value']}".replace("None", "any")
    return f"one of {given['value_set']}" if "value_set" in given else "not null"


def _null_results(view: ViewInfo, frame: pl.DataFrame, window: Window, settings: Settings) -> list[RuleResult]:
    if frame.is_empty():
        return []
    earlier = _earlier_rows(view, frame, window, settings)
    return [_null_result(info, frame, earlier) for info in view.fields]


def _earlier_rows(view: ViewInfo, frame: pl.DataFrame, window: Window, settings: Settings) -> pl.DataFrame:
    """Rows of the seven days before, of the same hours of the day: at four in the morning, other values are null."""
    table = PartitionedTable(settings.features / view.name, EVENT_TIME, table_schema(view), [EVENT_TIME, view.join_key])
    hours = frame[EVENT_TIME].dt.hour().unique()
    before = Window(window.start + HOUR - HISTORY, window.start + HOUR)
    return table.scan(before).filter(pl.col(EVENT_TIME).dt.hour().is_in(hours.implode())).collect()


def _null_result(info: FieldInfo, frame: pl.DataFrame, earlier: pl.DataFrame) -> RuleResult:
    rule = f"{info.name}_nulls"
    nulls = frame[info.name].null_count()
    share = nulls / frame.height
    if earlier.is_empty():
        reason = f"{nulls} of {frame.height} rows are null; no history yet to compare with"
        return RuleResult(rule, "warn", True, round(share, 4), "none", 0, reason)
    usual = earlier[info.name].null_count() / earlier.height
    gone = nulls == frame.height and frame.height >= MIN_ROWS_TO_STOP and 1 - usual >= USUAL_SHARE
    severity: Severity = "stop" if gone else "warn"
    passed = share <= usual + NULL_SHARE_RISE and not gone
    reason = f"{nulls} of {frame.height} rows are null, {usual:.1%} of those of these hours in the seven days before"
    threshold = f"at most {min(1.0, usual + NULL_SHARE_RISE):.4f}"
    return RuleResult(rule, severity, passed, round(share, 4), threshold, 0 if passed else nulls, reason)

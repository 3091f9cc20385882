"""The rules for feature rows. All of them follow from the definitions; no feature is named here."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import polars as pl

from config import Settings
from feature_repo.catalog import FieldInfo, ViewInfo, batch_views
from feature_repo.lake import TIMESTAMP, PartitionedTable
from feature_repo.quality.datadocs import write_page
from feature_repo.quality.results import RuleResult, ValidationReport
from feature_repo.quality.rules import Severities, severities
from feature_repo.quality.suite import Expectation, Outcome, run_suite
from feature_repo.transforms.tables import publication_delay
from feature_repo.window import DAY, HOUR, Window

logger = logging.getLogger(__name__)

EVENT_TIME = "event_timestamp"
CREATED = "created"
HISTORY = 7 * DAY
_ANY_HOUR = Window(datetime(2000, 1, 1, tzinfo=UTC), datetime(2000, 1, 1, 1, tzinfo=UTC))
MIN_ROWS_TO_STOP = 10
"""Fewer rows, all null, may well be chance: three new restaurants in a quiet hour."""
USUAL_SHARE = 0.5
"""A feature that had a value in at least this share of earlier rows must not vanish from all rows of a batch."""
NULL_SHARE_RISE = 0.5
"""A share of nulls that is higher than before by more than this is worth a warning."""

_DTYPES: dict[str, pl.DataType] = {"Int64": pl.Int64(), "Float64": pl.Float64(), "String": pl.String()}


def validate_features(
    view_name: str,
    frame: pl.DataFrame,
    window: Window,
    settings: Settings,
    available: Mapping[str, datetime] | None = None,
) -> ValidationReport:
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
    available : mapping of str to datetime, optional
        Of features that began later than the view: the event time of their first row. Before it they may be null.

    Returns
    -------
    ValidationReport
        An empty frame passes: in an hour without orders no feature changes.

    Raises
    ------
    KeyError
        The catalog has no such view.
    RuleError
        The configuration names a rule or a severity that there is not.
    """
    grave = severities(settings)
    view = _view(view_name)
    schema = _schema_result(view, frame, grave)
    results = [schema]
    kept: list[Any] = []
    if schema.passed:
        judged = _with_booleans(view, frame, settings, available or {})
        expectations = [*_row_expectations(view, window), *_value_expectations(view)]
        outcomes = run_suite(f"features_{view.name}", judged, expectations, kept)
        results += [_result(each, outcomes[each.rule], judged, view, grave) for each in expectations]
        results += _null_results(view, frame, window, settings, grave)
    report = ValidationReport(f"features/{view.name}", window.slug, frame.height, 0, results)
    report.write(settings)
    write_page(report, kept, settings)
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


def reported_names(view: ViewInfo) -> dict[str, str]:
    """The names under which a view's results are reported, with their rules."""
    expectations = [*_row_expectations(view, _ANY_HOUR), *_value_expectations(view)]
    names = {each.rule: each.defined_as for each in expectations}
    nulls = {f"{info.name}_{kind}": f"feature_{kind}" for info in view.fields for kind in ("nulls", "gone")}
    return {"schema": "schema", **names, **nulls}


def _schema_result(view: ViewInfo, frame: pl.DataFrame, grave: Severities) -> RuleResult:
    expected, found = table_schema(view), dict(frame.schema)
    missing = [name for name in expected if name not in found]
    unknown = [name for name in found if name not in expected]
    wrong = [f"{name} is {found[name]}, not {kind}" for name, kind in expected.items() if found.get(name, kind) != kind]
    faults = [f"missing: {missing}"] * bool(missing) + [f"not defined: {unknown}"] * bool(unknown) + wrong
    reason = "; ".join(faults) or "columns and types are those of the definition"
    severity = grave.of("schema", view.name)
    return RuleResult("schema", "schema", severity, not faults, len(found), len(expected), 0, reason)


def _with_booleans(
    view: ViewInfo, frame: pl.DataFrame, settings: Settings, available: Mapping[str, datetime]
) -> pl.DataFrame:
    event = pl.col(EVENT_TIME)
    numbers = [info.name for info in view.fields if info.dtype == "Float64"]
    finite = [(pl.col(name).is_finite() | pl.col(name).is_null()).alias(f"{name}_finite") for name in numbers]
    implied = [
        (pl.col(info.name).is_null() | pl.col(info.implies).is_not_null()).alias(f"{info.name}_implies")
        for info in view.fields
        if info.implies
    ]
    present = [
        (pl.col(info.name).is_not_null() | _before(available.get(info.name))).alias(f"{info.name}_null_share")
        for info in view.fields
        if info.max_null_share is not None
    ]
    delay = publication_delay(view.step, settings)
    return frame.with_columns(
        *finite,
        *implied,
        *present,
        on_the_step=(event.dt.truncate(view.step) == event).fill_null(True),
        created_after_delay=(pl.col(CREATED) == event + delay).fill_null(False),
        one_row_per_key=~pl.struct(view.join_key, EVENT_TIME).is_duplicated(),
    )


def _before(instant: datetime | None) -> pl.Expr:
    return pl.lit(False) if instant is None else pl.col(EVENT_TIME) < instant


def _row_expectations(view: ViewInfo, window: Window) -> list[Expectation]:
    key = view.join_key
    # As microseconds of pandas: with other units, comparisons with Python instants are slow or refused.
    inside = {"column": EVENT_TIME, "min_value": window.start + view.step, "max_value": window.end}
    return [
        Expectation(f"{key}_not_null", "ExpectColumnValuesToNotBeNull", {"column": key}, "key_not_null"),
        Expectation(f"{EVENT_TIME}_not_null", "ExpectColumnValuesToNotBeNull", {"column": EVENT_TIME}),
        Expectation(f"{EVENT_TIME}_in_window", "ExpectColumnValuesToBeBetween", inside),
        Expectation.holds("on_the_step"),
        Expectation.holds("created_after_delay"),
        Expectation.holds("one_row_per_key"),
    ]


def _value_expectations(view: ViewInfo) -> Iterator[Expectation]:
    for info in view.fields:
        if info.dtype == "Float64":
            yield Expectation.holds(f"{info.name}_finite", "feature_finite")
        if info.minimum is not None or info.maximum is not None:
            limits = {"column": info.name, "min_value": info.minimum, "max_value": info.maximum}
            yield Expectation(f"{info.name}_range", "ExpectColumnValuesToBeBetween", limits, "feature_range")
        if info.allowed:
            words = {"column": info.name, "value_set": list(info.allowed)}
            yield Expectation(f"{info.name}_allowed", "ExpectColumnValuesToBeInSet", words, "feature_allowed")
        if info.max_null_share is not None:
            rule = f"{info.name}_null_share"
            share = {"column": rule, "value_set": [True], "mostly": 1 - info.max_null_share}
            yield Expectation(rule, "ExpectColumnValuesToBeInSet", share, "feature_null_share")
        if info.at_most:
            pair = {"column_A": info.at_most, "column_B": info.name, "or_equal": True}
            pair["ignore_row_if"] = "either_value_is_missing"
            kind = "ExpectColumnPairValuesAToBeGreaterThanB"
            yield Expectation(f"{info.name}_at_most", kind, pair, "feature_at_most")
        if info.implies:
            yield Expectation.holds(f"{info.name}_implies", "feature_implies")


def _result(
    expectation: Expectation, outcome: Outcome, frame: pl.DataFrame, view: ViewInfo, grave: Severities
) -> RuleResult:
    count = len(outcome.rows)
    example = frame[outcome.rows[:1]].to_dicts()
    reason = (
        f"{count} of {frame.height} rows break it, for example {_short(example[0])}" if count else "no row breaks it"
    )
    rule, definition = expectation.rule, expectation.defined_as
    severity = grave.of(definition, view.name, rule)
    return RuleResult(rule, definition, severity, outcome.passed, count, _threshold(expectation), count, reason)


def _short(row: dict[str, object]) -> str:
    return ", ".join(f"{name}={value}" for name, value in row.items() if not isinstance(value, bool))


def _threshold(expectation: Expectation) -> str:
    given = expectation.arguments
    if "min_value" in given:
        return f"{given['min_value']} to {given['max_value']}".replace("None", "any")
    if "column_A" in given:
        return f"at most {given['column_A']}"
    if "mostly" in given:
        return f"null in at most {1 - given['mostly']:g} of the rows"
    return f"one of {given['value_set']}" if "value_set" in given else "not null"


def _null_results(
    view: ViewInfo, frame: pl.DataFrame, window: Window, settings: Settings, grave: Severities
) -> Iterator[RuleResult]:
    if frame.is_empty():
        return
    earlier = _earlier_rows(view, frame, window, settings)
    for info in view.fields:
        yield _gone_result(info, frame, earlier, view, grave)
        yield _nulls_result(info, frame, earlier, view, grave)


def _earlier_rows(view: ViewInfo, frame: pl.DataFrame, window: Window, settings: Settings) -> pl.DataFrame:
    """Rows of the seven days before, of the same hours of the day: at four in the morning, other values are null."""
    table = PartitionedTable(settings.features / view.name, EVENT_TIME, table_schema(view), [EVENT_TIME, view.join_key])
    hours = frame[EVENT_TIME].dt.hour().unique()
    before = Window(window.start + HOUR - HISTORY, window.start + HOUR)
    return table.scan(before).filter(pl.col(EVENT_TIME).dt.hour().is_in(hours.implode())).collect()


def _gone_result(
    info: FieldInfo, frame: pl.DataFrame, earlier: pl.DataFrame, view: ViewInfo, grave: Severities
) -> RuleResult:
    rule = f"{info.name}_gone"
    severity = grave.of("feature_gone", view.name, rule)
    nulls = frame[info.name].null_count()
    usual = earlier[info.name].null_count() / earlier.height if earlier.height else 1.0
    gone = nulls == frame.height and frame.height >= MIN_ROWS_TO_STOP and 1 - usual >= USUAL_SHARE
    threshold = f"a value in some row, of {MIN_ROWS_TO_STOP} or more"
    reason = _null_reason(info, frame, earlier)
    return RuleResult(rule, "feature_gone", severity, not gone, nulls, threshold, nulls if gone else 0, reason)


def _nulls_result(
    info: FieldInfo, frame: pl.DataFrame, earlier: pl.DataFrame, view: ViewInfo, grave: Severities
) -> RuleResult:
    rule = f"{info.name}_nulls"
    severity = grave.of("feature_nulls", view.name, rule)
    nulls = frame[info.name].null_count()
    share = nulls / frame.height
    limit = earlier[info.name].null_count() / earlier.height + NULL_SHARE_RISE if earlier.height else 1.0
    passed = share <= limit
    threshold = f"at most {min(1.0, limit):.4f}" if earlier.height else "none"
    reason = _null_reason(info, frame, earlier)
    return RuleResult(
        rule, "feature_nulls", severity, passed, round(share, 4), threshold, 0 if passed else nulls, reason
    )


def _null_reason(info: FieldInfo, frame: pl.DataFrame, earlier: pl.DataFrame) -> str:
    found = f"{frame[info.name].null_count()} of {frame.height} rows are null"
    if earlier.is_empty():
        return f"{found}; no history yet to compare with"
    usual = earlier[info.name].null_count() / earlier.height
    return f"{found}, {usual:.1%} of those of these hours in the seven days before"

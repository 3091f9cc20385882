"""Every rule there is: what it checks, how grave a breach is, and what a configuration may make of that.

The modules that evaluate rules take the severity from here, so a rule that is not listed cannot be reported. A rule for
columns (`feature_range`) is reported once for each, under a name of its own (`order_count_7d_range`); a configuration
may name either.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from config import Settings
from feature_repo.request_fields import FIELDS

Severity = Literal["reject", "warn", "stop"]
"""`reject`: the rows go to the quarantine. `warn`: people are told. `stop`: the whole batch is refused."""
Subject = Literal["order version", "batch of orders", "source", "feature rows"]

VARIABLE = "ETA_RULE_SEVERITIES"


class RuleError(ValueError):
    """The configuration names a rule or a severity that there is not; the message names those that there are."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule.

    Attributes
    ----------
    name : str
    about : Subject
    checks : str
        What is required, in words for the documentation.
    severity : Severity
        Unless configured otherwise.
    may_be : tuple of Severity
        What it may be configured as. What would damage the tables cannot be a warning.
    """

    name: str
    about: Subject
    checks: str
    severity: Severity
    may_be: tuple[Severity, ...]


def _row(name: str, checks: str) -> Rule:
    return Rule(name, "order version", checks, "reject", ("reject", "stop"))


def _batch(name: str, checks: str, severity: Severity) -> Rule:
    return Rule(name, "batch of orders", checks, severity, ("warn", "stop"))


def _source(name: str, checks: str) -> Rule:
    return Rule(name, "source", checks, "warn", ("warn", "stop"))


def _value(name: str, checks: str, severity: Severity = "stop") -> Rule:
    return Rule(name, "feature rows", checks, severity, ("warn", "stop"))


def _form(name: str, checks: str) -> Rule:
    return Rule(name, "feature rows", checks, "stop", ("stop",))


_RULES = (
    _row("converted", "the source's row could be converted; it is kept under the rule that refused it there"),
    _row("order_id_not_null", "`order_id` is there"),
    _row("restaurant_id_not_null", "`restaurant_id` is there"),
    _row("placed_at_not_null", "`placed_at` is there"),
    _row("status_not_null", "`status` is there"),
    _row("updated_at_not_null", "`updated_at` is there"),
    _row("blank_id", "no id is an empty text: what is unknown is null"),
    _row("status", "`status` is one of the five"),
    _row("known_in_window", "the version belongs to the run's hours"),
    _row("placed_in_future", "`placed_at` is not after the version became known"),
    _row("too_late", "it became known within the lateness horizon after `placed_at`"),
    _row("delivered_before_placed", "`delivered_at` is not before `placed_at`"),
    _row("stage_order", "placed, accepted, picked up, delivered: no stage before an earlier one"),
    _row("cancelled_before_placed", "`cancelled_at` is not before `placed_at`"),
    _row("delivered_without_time", "status `delivered` has `delivered_at`"),
    _row("delivery_minutes", "an ASAP order takes at most 24 hours"),
    _row("updated_before_event", "`updated_at` is not before any of the order's times"),
    _row("finite_numbers", "no NaN, no infinity"),
    *[_row(field.name, field.bounds) for field in FIELDS],
    _row("conflicting_version", "one version for an `order_id` and `updated_at`"),
    _row("duplicate_version", "each version once"),
    _row("order_changed", "restaurant and time of placing (to a minute) are those of the order's first version"),
    _batch("order_id_not_all_null", "`order_id` is there in some row", "stop"),
    _batch("restaurant_id_not_all_null", "`restaurant_id` is there in some row", "stop"),
    _batch("placed_at_not_all_null", "`placed_at` is there in some row", "stop"),
    _batch("status_not_all_null", "`status` is there in some row", "stop"),
    _batch("updated_at_not_all_null", "`updated_at` is there in some row", "stop"),
    _batch(
        "rejected_share",
        "at most a fifth of the versions, and of those of each hour, is rejected, from 10 rejected ones on",
        "stop",
    ),
    _batch("no_rows", "at least one version", "warn"),
    _batch("row_count", "a quarter to four times the versions of the same hours in up to four weeks before", "warn"),
    _batch(
        "found_late", "no version was put into hours of the landing folder that had been run, however long ago", "warn"
    ),
    _batch("fact_withdrawn", "no version lacks what an earlier one of its order told; what was known is kept", "warn"),
    _batch("mean_shift", "a column's mean is that of the baseline", "warn"),
    _batch("null_shift", "a column's share of nulls is that of the baseline", "warn"),
    _batch("distinct_shift", "a column has as many distinct values as the baseline has in as many orders", "warn"),
    _source("source_silent", "the newest version that became known is no older than the baseline knows it"),
    _source("source_stale", "the newest `updated_at` is no older than the baseline knows it"),
    _form("schema", "columns and types are those of the definition"),
    _form("key_not_null", "the entity's key is there"),
    _form("event_timestamp_not_null", "`event_timestamp` is there"),
    _form("event_timestamp_in_window", "`event_timestamp` is an end of one of the run's hours"),
    _form("on_the_step", "`event_timestamp` is a multiple of the view's step: a full hour, but for live views"),
    _form("created_after_delay", "`created` is `event_timestamp` and the publication delay"),
    _form("one_row_per_key", "one row for a key and `event_timestamp`"),
    _value("feature_finite", "no NaN, no infinity"),
    _value("feature_range", "tags `minimum` and `maximum`"),
    _value("feature_allowed", "tag `allowed`"),
    _value("feature_null_share", "tag `max_null_share`"),
    _value("feature_at_most", "tag `at_most`: no more than the other feature has"),
    _value("feature_implies", "tag `implies`: where it has a value, so has the other feature"),
    _value(
        "feature_nulls", "the share of nulls is at most 50 points above that of these hours in the week before", "warn"
    ),
    _value("feature_gone", "not null in all rows (10 or more) where at least half of the week's rows had a value"),
)
RULES: Mapping[str, Rule] = {rule.name: rule for rule in _RULES}


@dataclass(frozen=True, slots=True)
class Severities:
    """The severities in force. `overrides` has names of rules, or `SUITE.NAME` for one column's."""

    overrides: Mapping[str, Severity]

    def of(self, rule: str, suite: str = "orders", reported_as: str | None = None) -> Severity:
        """The severity of a rule, for the result that is reported under a name in a suite (`orders`, or a view)."""
        if own := self.overrides.get(f"{suite}.{reported_as or rule}"):
            return own
        return self.overrides.get(rule, RULES[rule].severity)


def severities(settings: Settings) -> Severities:
    """The severities that the settings ask for.

    Raises
    ------
    RuleError
        There is no such rule, or it cannot have that severity.
    """
    return Severities({name: _severity(name, asked) for name, asked in settings.rule_severities.items()})


def _severity(name: str, asked: str) -> Severity:
    rule = RULES.get(name) or _reported(name)
    for severity in get_args(Severity):
        if severity == asked and severity in rule.may_be:
            return severity  # type: ignore[no-any-return]
    reason = "" if len(rule.may_be) > 1 else ": rows that break it would damage the tables"
    raise RuleError(f"{VARIABLE}: {name} can be {' or '.join(rule.may_be)}, not {asked!r}{reason}")


def _reported(name: str) -> Rule:
    """The rule behind `SUITE.NAME`."""
    suite, _, reported = name.partition(".")
    found = reported_names().get(suite, {}).get(reported)
    if found is None:
        known = [*RULES, *(f"{suite}.{one}" for suite, names in reported_names().items() for one in names)]
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise RuleError(f"{VARIABLE}: there is no rule {name!r}: {hint}They are listed in docs/quality.md")
    return RULES[found]


def reported_names() -> dict[str, dict[str, str]]:
    """By suite (`orders`, and each view), the names under which results are reported, with their rules."""
    from feature_repo.catalog import batch_views
    from feature_repo.quality import features, shift

    shifts = shift.reported_names()
    whole = [rule.name for rule in _RULES if rule.about != "feature rows" and rule.name not in shifts.values()]
    return {
        "orders": {name: name for name in whole} | shifts,
        **{view.name: features.reported_names(view) for view in batch_views()},
    }


_CONSEQUENCES: Mapping[Severity, str] = {
    "reject": "the row goes to the quarantine, the others go on",
    "warn": "an alert; the batch goes on",
}
_STOPS: Mapping[Subject, str] = {
    "order version": "the whole batch goes to the quarantine, the run ends red",
    "batch of orders": "the whole batch goes to the quarantine, the run ends red",
    "source": "the whole batch goes to the quarantine, the run ends red",
    "feature rows": "nothing is published, the run ends red",
}


def consequence(rule: Rule, severity: Severity) -> str:
    """What happens when a rule of that severity is broken."""
    return _STOPS[rule.about] if severity == "stop" else _CONSEQUENCES[severity]


def table(grave: Severities | None = None) -> str:
    """The rules as a Markdown table, with their own severities or those of a configuration."""
    lines = ["| rule | about | it requires | severity | may be | when it is broken |", "|---|---|---|---|---|---|"]
    for rule in _RULES:
        severity = (grave or Severities({})).of(rule.name)
        others = ", ".join(f"`{one}`" for one in rule.may_be if one != severity) or "-"
        cells = (f"`{rule.name}`", rule.about, rule.checks, f"`{severity}`", others, consequence(rule, severity))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)

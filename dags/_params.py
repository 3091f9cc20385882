"""The parameters that a DAG may be triggered with, and what they must be.

Airflow itself refuses a value of the wrong type when a run is asked for. Whatever else is wrong ends each task at its
first try, before it does anything: the same parameters would be as wrong at the second and third.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from airflow.sdk import Param
from airflow.sdk.exceptions import AirflowFailException

from feature_repo.window import as_utc, floor_hour

WINDOW = ("start", "end")
AS_OF = "as_of"
INSTANTS: Mapping[str, str] = {
    "start": "Start of the window, a full hour with its time zone",
    "end": "End of the window, a full hour with its time zone, not in the future",
    AS_OF: "Train on what was known at this full hour, with its time zone, not in the future",
}
"""All parameters that there are; every one is an instant. A new one gets its check in `_problem_of`."""


def params_named(names: Iterable[str]) -> dict[str, Param]:
    """The parameters of a DAG, by name; none has a value unless somebody gives one.

    Raises
    ------
    KeyError
        A name is none of `INSTANTS`: nobody would check its value.
    """
    return {name: Param(None, INSTANTS[name], type=["null", "string"], format="date-time") for name in names}


def given_instant(context: Any, name: str) -> datetime | None:
    """The value of a parameter, in UTC; None where it was not given."""
    value = context["params"].get(name)
    return None if value is None else as_utc(value)


def require_usable_params(context: Any) -> None:
    """Before each task: end it without a retry if the run was triggered with parameters that cannot be meant.

    Raises
    ------
    AirflowFailException
        One is unknown, malformed, without a zone, not a full hour or in the future, or two do not make a window. The
        message names each that is wrong, and its value.
    """
    known = dict.fromkeys(context["dag"].params)
    given = {name: value for name, value in context["params"].items() if value is not None}
    problems = [*_unknown(given, known), *_wrong(given, known, _asked_at(context["dag_run"]))]
    if problems := problems or list(_no_window(given, known)):
        raise AirflowFailException(f"refused: {'; '.join(problems)}. Trigger the run again with what was meant")


def _unknown(given: Mapping[str, Any], known: Iterable[str]) -> Iterator[str]:
    listed = ", ".join(known) or "none at all"
    for name in given:
        if name not in known:
            yield f"there is no parameter {name!r} (given as {given[name]!r}), this DAG's are: {listed}"


def _wrong(given: Mapping[str, Any], known: Iterable[str], now: datetime) -> Iterator[str]:
    for name in known:
        if name in given and (problem := _problem_of(given[name], now)):
            yield f"parameter {name} = {given[name]!r} {problem}"


def _problem_of(value: Any, now: datetime) -> str | None:
    try:
        instant = as_utc(value)
    except ValueError as error:
        return str(error) if "no time zone" in str(error) else "is no time: write one like 2026-05-01T14:00Z"
    if instant != floor_hour(instant):
        return f"is not a full hour; {floor_hour(instant).isoformat()} would be one"
    return f"lies in the future: it is {now:%Y-%m-%dT%H:%MZ} now" if instant > now else None


def _no_window(given: Mapping[str, Any], known: Iterable[str]) -> Iterator[str]:
    if not set(WINDOW) <= set(known) or not set(WINDOW) & set(given):
        return
    start, end = (given.get(name) for name in WINDOW)
    if start is None or end is None:
        yield f"give both parameters start and end, or neither (start = {start!r}, end = {end!r})"
    elif as_utc(end) <= as_utc(start):
        yield f"parameter end = {end!r} is not after parameter start = {start!r}"


def _asked_at(dag_run: Any) -> datetime:
    """When the run began: a run that was queued for an earlier instant may still be about the hours since then."""
    return max(as_utc(instant) for instant in (dag_run.run_after, getattr(dag_run, "start_date", None)) if instant)

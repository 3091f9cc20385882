"""Parameters that cannot be meant, and what is said of them; that every DAG asks is seen in `test_structure`."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

NOW = datetime(2026, 5, 2, 3, 30, tzinfo=UTC)
GOOD = ("2026-05-01T00:00Z", "2026-05-01T05:00:00+02:00")


def context(known: tuple[str, ...] = ("start", "end"), **given: Any) -> dict[str, Any]:
    return {
        "dag": SimpleNamespace(params=dict.fromkeys(known)),
        "params": dict.fromkeys(known) | given,
        "dag_run": SimpleNamespace(run_after=NOW, start_date=None),
    }


@pytest.mark.parametrize(
    "value", ["yesterday", "", " ", "2026-13-01T00:00Z", "1777600000", "24:00", "null", "{{ ds }}"]
)
@pytest.mark.parametrize("name", ["start", "end", "as_of"])
def test_what_is_no_time_is_named(name: str, value: str) -> None:
    refused(context((name,), **{name: value}), f"parameter {name} = {value!r} is no time: write one like")


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"start": "2026-05-01T00:00", "end": GOOD[1]}, "parameter start = '2026-05-01T00:00' .*has no time zone"),
        ({"start": "2026-05-01", "end": GOOD[1]}, "parameter start = '2026-05-01' .*has no time zone"),
        ({"start": "2026-05-01T00:30Z", "end": GOOD[1]}, "start = '2026-05-01T00:30Z' is not a full hour; .*T00:00:00"),
        ({"start": GOOD[0], "end": "2026-05-01T03:00:00.5Z"}, "parameter end = .* is not a full hour"),
        ({"start": GOOD[0], "end": "2026-05-01T05:00+05:30"}, "parameter end = .* is not a full hour"),
        (
            {"start": GOOD[0], "end": "2026-05-02T04:00Z"},
            "parameter end = .* lies in the future: it is 2026-05-02T03:30Z",
        ),
        (
            {"start": "2027-01-01T00:00Z", "end": "2027-01-02T00:00Z"},
            "parameter start .* future.*; parameter end .* future",
        ),
        ({"start": GOOD[0]}, r"both parameters start and end, or neither \(start = '2026-05-01T00:00Z', end = None\)"),
        ({"end": GOOD[1]}, "give both parameters start and end, or neither"),
        ({"start": GOOD[1], "end": GOOD[0]}, "parameter end = '2026-05-01T00:00Z' is not after parameter start = "),
        ({"start": GOOD[0], "end": GOOD[0]}, "parameter end = .* is not after parameter start"),
        ({"strat": GOOD[0], "end": GOOD[1]}, r"no parameter 'strat' \(given as .*\), this DAG's are: start, end"),
    ],
)
def test_a_window_that_cannot_be_meant_is_refused_with_its_parameter(given: dict[str, str], reason: str) -> None:
    refused(context(**given), reason)


def test_a_dag_without_parameters_takes_none() -> None:
    refused(context((), as_of=GOOD[0]), "there is no parameter 'as_of' .* this DAG's are: none at all")


@pytest.mark.parametrize(
    "usable",
    [
        context(),
        context(start=GOOD[0], end=GOOD[1]),
        context(start="2026-05-02T02:00Z", end="2026-05-02T03:00Z"),
        context(("as_of",), as_of="2026-05-02T03:00:00+00:00"),
        context(()),
    ],
)
def test_what_can_be_meant_is_not_refused(usable: dict[str, Any]) -> None:
    from dags._params import require_usable_params

    require_usable_params(usable)


def test_a_run_that_begins_late_may_be_about_the_hours_since_it_was_due() -> None:
    from dags._params import require_usable_params

    late = context(start="2026-05-02T02:00Z", end="2026-05-02T05:00Z")
    late["dag_run"].start_date = datetime(2026, 5, 2, 5, 1, tzinfo=UTC)
    require_usable_params(late)


def test_a_parameter_that_nobody_checks_cannot_be_given_to_a_dag() -> None:
    from dags._params import params_named

    with pytest.raises(KeyError, match="model"):
        params_named(["start", "model"])


def refused(given: dict[str, Any], reason: str) -> None:
    from airflow.sdk.exceptions import AirflowFailException

    from dags._params import require_usable_params

    with pytest.raises(AirflowFailException, match=reason):
        require_usable_params(given)

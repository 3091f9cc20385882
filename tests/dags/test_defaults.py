from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from feature_repo.window import DAY, Window


def context(start: str | None = None, end: str | None = None, interval: tuple | None = None, **params) -> dict:
    return {
        "params": {"start": start, "end": end},
        "data_interval_start": interval[0] if interval else None,
        "data_interval_end": interval[1] if interval else None,
        "dag_run": SimpleNamespace(run_after=datetime(2026, 5, 2, 3, 40, tzinfo=UTC)),
    }


INTERVAL = (datetime(2026, 5, 1, 7, tzinfo=UTC), datetime(2026, 5, 1, 8, tzinfo=UTC))


def test_the_window_is_the_data_interval() -> None:
    from dags._defaults import run_window

    assert run_window(context(interval=INTERVAL)) == Window(*INTERVAL)


def test_instants_of_airflow_become_plain_ones_that_can_be_reckoned_with() -> None:
    import pendulum

    from dags._defaults import run_as_of, run_window

    interval = (pendulum.datetime(2026, 5, 1, 7, tz="Europe/Berlin"), pendulum.datetime(2026, 5, 1, 8, tz="UTC"))
    window = run_window(context(interval=interval))
    assert {type(instant) for instant in (window.start, window.end, run_as_of(context(interval=interval)))} == {
        datetime
    }
    assert (window.start + DAY).isoformat() == "2026-05-02T05:00:00+00:00"


def test_parameters_override_the_data_interval() -> None:
    from dags._defaults import run_window

    asked = context("2026-04-01T00:00+02:00", "2026-04-01T06:00+02:00", INTERVAL)
    assert str(run_window(asked)) == "[2026-03-31 22:00, 2026-04-01 04:00) UTC"


@pytest.mark.parametrize(("span", "window"), [({}, "[2026-05-02 02:00"), ({"span": DAY}, "[2026-05-01 03:00")])
def test_without_either_it_is_the_last_full_span_before_the_run(span, window: str) -> None:
    from dags._defaults import run_window

    assert str(run_window(context(), **span)).startswith(window)
    assert str(run_window(context(), **span)).endswith("2026-05-02 03:00) UTC")


def test_as_of_is_the_end_of_the_interval_or_when_the_run_was_asked_for() -> None:
    from dags._defaults import run_as_of

    assert run_as_of(context(interval=INTERVAL)) == INTERVAL[1]
    assert run_as_of(context()) == datetime(2026, 5, 2, 3, tzinfo=UTC)


def test_a_refusal_names_its_reasons_and_is_not_retried() -> None:
    from airflow.sdk.exceptions import AirflowFailException

    from dags._defaults import refuse

    with pytest.raises(AirflowFailException, match="refused: the batch: a; b"):
        refuse("the batch", {"failures": ["a", "b"]})
    with pytest.raises(AirflowFailException, match="refused: the audit: 3 differ"):
        refuse("the audit", {"passed": False, "reasons": ["3 differ"]})
    with pytest.raises(AirflowFailException, match="missing': 3"):
        refuse("the audit", {"passed": False, "missing": 3})

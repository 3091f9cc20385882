"""The soak tells what went wrong: each of its checks sees the fault that it is there for."""

from __future__ import annotations

from dataclasses import replace

import polars as pl
import pytest

from benchmarks.soak import PLAN, Phase, faults

PHASES = [
    replace(phase, begun=1_000.0 + 100 * number, ended=1_099.9 + 100 * number, memory=200.0)
    for number, phase in enumerate(PLAN)
]
CUSTOMERS = 1_000
MINUTES = {"1": 30.0, "2": 40.0, "3": 50.0}


def of_phase(phase: Phase) -> list[dict]:
    """An answer to every customer, half a minute into a phase."""
    found = []
    for number in range(CUSTOMERS):
        canary = number < CUSTOMERS * phase.canary
        version = "3" if canary else phase.champion
        found.append(
            {
                "sent": phase.begun + 30.0,
                "seconds": 0.002,
                "http": 200,
                "customer": f"c-{number}",
                "order": f"o-{number}",
                "prediction_id": f"{phase.name}-{number}",
                "status": "ok" if phase.redis else "degraded",
                "minutes": MINUTES[version] if phase.redis else 1.0,
                "version": version,
                "variant": "canary" if canary else "champion",
            }
        )
    return found


ANSWERS = [answer for phase in PHASES for answer in of_phase(phase)]
LOGGED = ["before", *(answer["prediction_id"] for answer in ANSWERS)]


def found(
    changed: dict[int, dict] | None = None, logged: list[str] = LOGGED, phases: list[Phase] = PHASES
) -> list[str]:
    """The faults of the good answers with some changed."""
    answers = [answer | (changed or {}).get(number, {}) for number, answer in enumerate(ANSWERS)]
    return faults(pl.DataFrame(answers), logged, ["before"], phases)


def test_good_answers_have_no_fault():
    assert found() == []


LAST, SWITCHED, STOPPED = CUSTOMERS - 1, 2 * CUSTOMERS - 1, 3 * CUSTOMERS - 1


@pytest.mark.parametrize(
    ("number", "change", "fault"),
    [
        (LAST, {"http": 503}, "1 answers of status 503"),
        (LAST, {"http": 0}, "1 answers of status 0"),
        (SWITCHED, {"version": "1"}, "champion switched: 1 answers by version 1 as champion"),
        (LAST, {"version": "3"}, "undisturbed: 1 answers by version 3 as champion"),
        (0, {"version": "1"}, "undisturbed: 1 answers by version 1 as canary"),
        (LAST, {"variant": "shadow"}, "undisturbed: 1 answers by version 1 as shadow"),
        (5 * CUSTOMERS, {"variant": "canary", "version": "3"}, "canary taken back: 1 answers by version 3 as canary"),
        (LAST, {"customer": "c-0"}, "undisturbed: 1 customers were answered by several variants"),
        (LAST, {"status": "degraded"}, "undisturbed: 1 of 1000 answers were not ok"),
        (STOPPED, {"status": "ok"}, "Redis stopped: 1 of 1000 answers were not degraded"),
        (SWITCHED, {"minutes": 30.0}, "1 orders were given different minutes by the same version"),
    ],
)
def test_a_wrong_answer_is_told(number: int, change: dict, fault: str):
    assert fault in found({number: change})


def test_an_answer_while_a_change_settles_may_be_of_either_side():
    early = {"sent": PHASES[1].begun + 9.0, "version": "1", "minutes": 30.0}
    assert found({SWITCHED: early}) == []
    late = early | {"sent": PHASES[1].begun + 11.0}
    assert found({SWITCHED: late}) == ["champion switched: 1 answers by version 1 as champion"]


def test_a_canary_of_another_size_or_other_customers_is_told():
    nobody = {number: {"variant": "champion", "version": "1", "minutes": 30.0} for number in range(50)}
    assert "undisturbed: the canary has 0 of 1000 customers, its share is 5%" in found(nobody)
    # Customers 0 to 49 of the small canary change places with 300 to 349 of the large one.
    raised = 4 * CUSTOMERS
    leaving = {raised + each: {"variant": "champion", "version": "2", "minutes": 40.0} for each in range(50)}
    coming = {raised + each: {"variant": "canary", "version": "3", "minutes": 50.0} for each in range(300, 350)}
    assert found(leaving | coming) == ["50 customers of a canary of 5% are not among those of 30%"]


def test_lines_that_the_log_lost_made_up_or_repeats_are_told():
    assert found(logged=LOGGED[1:]) == ["1 of 6001 answers are not in the log"]
    assert found(logged=[*LOGGED, "unknown"]) == ["1 lines of the log were never answered"]
    assert found(logged=[*LOGGED, "before"]) == ["1 lines of the log are there twice"]


def test_a_server_that_grows_and_a_phase_without_answers_are_told():
    grown = [*PHASES[:-1], replace(PHASES[-1], memory=230.0)]
    assert found(phases=grown) == ["the server grew from 200 to 230 MiB"]
    silent = [*PHASES, replace(PHASES[-1], name="after", begun=5_000.0, ended=5_100.0)]
    assert found(phases=silent) == ["after: nothing was answered"]

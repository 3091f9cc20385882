"""Windows: half-open, UTC, on the hour, and nothing else."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pendulum
import pytest

from feature_repo.window import HOUR, Window, as_utc, floor_hour

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)


def test_a_naive_instant_is_refused() -> None:
    with pytest.raises(ValueError, match="has no time zone"):
        as_utc("2026-05-01T12:00:00")


def test_an_instant_of_another_zone_becomes_utc() -> None:
    assert as_utc(datetime(2026, 5, 1, 14, tzinfo=timezone(timedelta(hours=2)))) == NOON


def test_a_pendulum_instant_becomes_a_plain_one() -> None:
    instant = as_utc(pendulum.datetime(2026, 5, 1, 14, tz="Europe/Berlin"))
    assert type(instant) is datetime
    assert instant + HOUR == NOON + HOUR


def test_floor_hour_keeps_a_full_hour() -> None:
    assert floor_hour(NOON) == NOON
    assert floor_hour(NOON + timedelta(minutes=59, seconds=59)) == NOON


def test_a_window_off_the_hour_is_refused() -> None:
    with pytest.raises(ValueError, match=r"window end .* is not on the full hour"):
        Window(NOON, NOON + timedelta(minutes=90))


@pytest.mark.parametrize("end", [NOON, NOON - HOUR])
def test_an_empty_window_is_refused(end: datetime) -> None:
    with pytest.raises(ValueError, match="not after its start"):
        Window(NOON, end)


def test_days_and_hours_cover_the_window_once() -> None:
    window = Window(NOON + 10 * HOUR, NOON + 14 * HOUR)
    assert [day.day for day in window.days()] == [1, 2]
    assert [hour.start for hour in window.hours()] == [NOON + n * HOUR for n in range(10, 14)]


def test_a_window_that_ends_at_midnight_does_not_touch_the_next_day() -> None:
    midnight = datetime(2026, 5, 2, tzinfo=UTC)
    assert list(Window.last(HOUR, midnight).days()) == [datetime(2026, 5, 1, tzinfo=UTC)]

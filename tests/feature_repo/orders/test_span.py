"""One outlier moves neither the span that is computed nor the watermark; a sparse history stays whole."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from config import Settings
from feature_repo.orders import read_watermark
from feature_repo.orders.mapping_file import MappingError
from feature_repo.orders.ownership import read_record
from feature_repo.orders.span import Group, Landed, groups_of, landed_void, require_no_void, set_aside
from feature_repo.orders.watermark import Watermark, write_watermark
from feature_repo.window import DAY
from stack.summary import _allowed
from stack.walkthrough import WalkError, _span
from tests.feature_repo.orders.bringing import bring, outcomes, reasons
from tests.feature_repo.orders.builders import NOON, land, placed

HEADER = "id,shop,placed,delivered"
MAY = date(2026, 5, 4)
SETTINGS = Settings(data_dir=Path("unused"))


def day(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def rows(count: int, start: str = "2026-05-04", first: int = 100) -> list[str]:
    """Orders from noon of a day on, a minute apart, delivered half an hour later."""
    times = [day(start) + timedelta(hours=12, minutes=number) for number in range(count)]
    return [
        f"{first + n},r1,{at:%Y-%m-%d %H:%M},{at + timedelta(minutes=30):%Y-%m-%d %H:%M}" for n, at in enumerate(times)
    ]


def ingest(settings, *lines: str, now: datetime | None = None, allow: tuple[str, ...] = ()):
    return bring([HEADER, *lines], settings, columns={"delivered_at": "delivered"}, now=now, allow=allow)


OUTLIERS = [
    ("1970-01-02", "1970"),
    ("2025-11-04", "half a year before"),
    ("2026-11-04", "half a year ahead"),
    ("2099-05-04", "decades ahead"),
    ("2026-07-01", "two months ahead"),
]


@pytest.mark.parametrize("outlier", [text for text, _ in OUTLIERS], ids=[name for _, name in OUTLIERS])
@pytest.mark.parametrize("many", [4, 60])
def test_an_outlier_in_the_first_export_is_set_aside(settings, outlier, many):
    report = ingest(settings, *rows(many), *rows(1, outlier, first=900))
    assert report.refused == {"out_of_span": 1}
    assert f"known at {outlier} 12:30:00 UTC" in report.summary()
    assert "far from all other orders (ALLOW=out-of-span if it is meant)" in reasons(settings)["900"]
    assert read_watermark(settings) == Watermark(
        day("2026-05-04 14:00" if many > 30 else "2026-05-04 13:00"), "shop", NOON
    )


@pytest.mark.parametrize("outlier", [text for text, _ in OUTLIERS], ids=[name for _, name in OUTLIERS])
def test_an_outlier_in_a_later_export_is_set_aside(settings, outlier):
    ingest(settings, *rows(10))
    report = ingest(settings, *rows(2, "2026-05-05", first=200), *rows(1, outlier, first=900))
    assert (report.refused, report.landed) == ({"out_of_span": 1}, 2)
    assert read_watermark(settings) == Watermark(day("2026-05-05 13:00"), "shop", NOON)


def test_an_export_of_one_outlier_lands_nothing_and_says_how_to_take_it(settings):
    ingest(settings, *rows(10))
    before = read_watermark(settings)
    with pytest.raises(
        MappingError, match=r"(?s)1 of 1 order versions do not convert \(1 out_of_span\).*ALLOW=out-of-span"
    ):
        ingest(settings, *rows(1, "2027-05-04", first=900))
    assert read_watermark(settings) == before
    report = ingest(settings, *rows(1, "2027-05-04", first=900), allow=("out-of-span",))
    assert (report.landed, report.complete_until) == (1, day("2027-05-04 13:00"))
    assert "  allowed: out-of-span" in report.summary()
    assert _allowed(settings) == ["out-of-span"]


def test_what_was_placed_far_from_all_others_is_set_aside_although_it_was_recorded_among_them(settings):
    report = ingest(settings, *rows(20), "900,r1,2025-05-04 12:00,2026-05-04 12:20")
    assert report.refused == {"out_of_span": 1}
    assert "known at 2026-05-04 12:20:00 UTC, placed at 2025-05-04 12:00:00 UTC" in reasons(settings)["900"]


def test_a_share_of_outliers_is_set_aside_as_a_whole(settings):
    report = ingest(settings, *rows(200), *rows(9, "1970-01-01", first=900))
    assert report.refused == {"out_of_span": 9}


def test_an_order_from_the_future_is_told_as_such(settings):
    report = ingest(settings, *rows(20), *rows(1, "2026-11-04", first=900), now=day("2026-06-01"))
    assert report.refused == {"known_in_future": 1}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (rows(40, "2026-05-04"), rows(40, "2026-06-10", first=500)),
        (rows(40, "2026-05-04"), rows(30, "2026-11-04", first=500)),
        (
            [*rows(5, "2026-01-01"), *rows(5, "2026-04-01", 200)],
            [*rows(5, "2026-07-01", 300), *rows(5, "2026-10-01", 400)],
        ),
    ],
    ids=["a month of holidays", "two seasons", "a market four times a year"],
)
def test_a_sparse_history_stays_whole_in_one_export_or_in_two(settings, tmp_path, first, second):
    assert ingest(settings, *first, *second).refused == {}
    other = settings.model_copy(update={"data_dir": tmp_path / "other" / "data"})
    other.data_dir.mkdir(parents=True)
    assert (ingest(other, *first).refused, ingest(other, *second).refused) == ({}, {})
    assert outcomes(other, "placed_at") == outcomes(settings, "placed_at")


def test_a_small_new_season_is_no_outlier_of_a_long_one(settings):
    ingest(settings, *rows(200))
    assert ingest(settings, *rows(5, "2026-11-04", first=900)).refused == {}


def test_two_groups_a_lifetime_apart_are_refused_whole_unless_a_person_says_they_are_meant(settings):
    lines = [*rows(20), *rows(20, "1990-05-04", first=500)]
    with pytest.raises(MappingError, match=r"nothing between 20 versions of 1990-05-04 and 20 versions of 2026-05-04"):
        ingest(settings, *lines)
    assert read_watermark(settings) is None
    assert ingest(settings, *lines, allow=("out-of-span",)).landed == 40


def test_an_archive_is_appended_on_purpose(settings):
    ingest(settings, *rows(20))
    archive = rows(30, "2020-05-04", first=500)
    with pytest.raises(MappingError, match=r"for more than ETA_SPAN_MAX_GAP_DAYS=366 days.*ALLOW=out-of-span"):
        ingest(settings, *archive)
    ingest(settings, *archive, allow=("out-of-span",))
    watermark = read_watermark(settings)
    assert watermark is not None
    assert watermark.started_at == day("2020-05-04 12:00")


def test_the_same_outlier_again_is_recognised(settings):
    lines = [*rows(20), *rows(1, "1970-01-02", first=900)]
    ingest(settings, *lines)
    report = ingest(settings, *lines)
    assert (report.landed, report.files) == (0, [])


def test_the_limits_are_settings(settings):
    wide = settings.model_copy(update={"span_gap_days": 200})
    assert ingest(wide, *rows(20), *rows(1, "2026-11-04", first=900)).refused == {}


@pytest.mark.parametrize(
    ("counts", "landed", "aside"),
    [
        ([100, 4], None, [4]),
        ([100, 5], None, []),
        ([3, 1], None, [1]),
        ([2, 1], None, []),
        ([1, 1], None, []),
        ([1], 3, [1]),
        ([1], 2, []),
        ([3], None, []),
        ([4], 10_000, []),
        ([3], 10_000, [3]),
    ],
)
def test_which_groups_are_outliers(counts, landed, aside):
    groups = [Group(MAY + number * 100 * DAY, MAY + number * 100 * DAY, count) for number, count in enumerate(counts)]
    earlier = Landed(MAY - 300 * DAY, MAY - 200 * DAY, landed) if landed else None
    assert [group.versions for group in set_aside(groups, earlier, SETTINGS)] == aside


def test_what_lies_near_what_has_landed_is_none():
    groups = [Group(MAY, MAY, 1), Group(MAY + 100 * DAY, MAY + 100 * DAY, 50)]
    assert set_aside(groups, Landed(MAY - 50 * DAY, MAY - 40 * DAY, 1_000), SETTINGS) == []


def test_days_within_the_gap_are_one_group():
    days = [(MAY, 1), (MAY + 45 * DAY, 2), (MAY + 91 * DAY, 3)]
    assert groups_of(days, 45) == [Group(MAY, MAY + 45 * DAY, 3), Group(MAY + 91 * DAY, MAY + 91 * DAY, 3)]


def test_a_gap_as_long_as_the_limit_is_computed():
    kept = [Group(MAY, MAY, 9), Group(MAY + 366 * DAY, MAY + 366 * DAY, 9)]
    require_no_void(kept, None, SETTINGS)
    with pytest.raises(MappingError, match="there is nothing between 9 versions of 2026-05-04"):
        require_no_void([kept[0], Group(MAY + 367 * DAY, MAY + 367 * DAY, 9)], None, SETTINGS)


def test_make_run_computes_no_void_that_a_hand_made_watermark_opens(settings):
    land(settings, placed("o1"))
    write_watermark(settings, Watermark(NOON + 3 * DAY, "mine", day("1970-01-01")))
    assert landed_void(settings, day("1970-01-01"), NOON + 3 * DAY) == (date(1970, 1, 1), MAY)
    with pytest.raises(WalkError, match=r"no orders have landed between 1970-01-01 and 2026-05-04.*started_at"):
        _span(settings)


def test_the_record_counts_what_has_landed(settings):
    ingest(settings, *rows(3))
    ingest(settings, *rows(5))
    record = read_record(settings)
    assert record is not None
    assert record.landed == 5

"""By which clock an installation's market lives, and who says so."""

from __future__ import annotations

import json

import pytest

from config import Settings
from feature_repo.market import MarketError, clock
from feature_repo.orders.columns import mapping_record
from feature_repo.transforms.request_time import Clock
from tests.feature_repo.orders.bringing import bring, landed

PEAK_HOURS = (11, 12, 13, 18, 19, 20)
ROWS = ["id,shop,placed", "1,r1,2026-05-04 14:00:00"]


def test_without_a_mapping_the_clock_is_utc_unless_the_setting_says_otherwise(settings: Settings):
    assert clock(settings) == Clock("UTC", PEAK_HOURS)
    assert clock(settings.model_copy(update={"market_zone": "Asia/Kolkata"})) == Clock("Asia/Kolkata", PEAK_HOURS)


@pytest.mark.parametrize(
    ("time", "zone", "said"),
    [
        ({}, "UTC", "time.zone; no time.market_zone"),
        ({"zone": "Europe/Berlin"}, "Europe/Berlin", "time.zone; no time.market_zone"),
        ({"market_zone": "America/Los_Angeles"}, "America/Los_Angeles", "time.market_zone"),
        ({"zone": "Europe/Berlin", "market_zone": "Asia/Kolkata"}, "Asia/Kolkata", "time.market_zone"),
    ],
)
def test_a_mapping_s_zone_is_noted_with_what_landed_through_it(settings: Settings, time: dict, zone: str, said: str):
    assert f"\n  market's clock    {zone} ({said})\n" in bring(ROWS, settings, time=time).summary() + "\n"
    assert clock(settings) == Clock(zone, PEAK_HOURS)
    other = settings.model_copy(update={"market_zone": "Asia/Tokyo", "peak_hours": (8,)})
    assert bring(ROWS, other, time=time).market_clock == "Asia/Tokyo (ETA_MARKET_ZONE)"
    assert clock(other) == Clock("Asia/Tokyo", (8,))


def test_another_market_zone_changes_no_order_and_counts_from_the_next_ingestion(settings: Settings):
    bring(ROWS, settings)
    before = landed(settings)
    again = bring(ROWS, settings, time={"market_zone": "Asia/Kolkata"})
    assert (again.landed, again.already_landed) == (0, 1)
    assert landed(settings).equals(before)
    assert clock(settings).zone == "Asia/Kolkata"


def test_a_folder_from_before_the_zone_was_noted_is_of_utc_until_the_next_ingestion(settings: Settings):
    time = {"zone": "Europe/Berlin"}
    bring(ROWS, settings, time=time)
    path = mapping_record(settings)
    noted = json.loads(path.read_text())
    del noted["market_zone"]
    path.write_text(json.dumps(noted))
    assert clock(settings).zone == "UTC"
    bring(ROWS, settings, time=time)
    assert clock(settings).zone == "Europe/Berlin"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ('{"market_zone": "Europe/Berlim"}', "'Europe/Berlim' is no time zone.*Did you mean 'Europe/Berlin'"),
        ('{"market_zone": 7}', "'7' is no time zone"),
        ("[]", "list"),
        ("{", "JSON|property name"),
    ],
)
def test_a_note_that_names_no_zone_is_refused_with_its_file(settings: Settings, content: str, why: str):
    mapping_record(settings).parent.mkdir(parents=True)
    mapping_record(settings).write_text(content)
    with pytest.raises(MarketError, match=f"(?s)_mapping.json does not say .*{why}.*make ingest.*ETA_MARKET_ZONE"):
        clock(settings)
    assert clock(settings.model_copy(update={"market_zone": "UTC"})).zone == "UTC"

"""Times that can be read in two ways: decided by the whole source and told, or refused and counted, never by row."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feature_repo.orders import read_watermark
from feature_repo.orders.conversion.clocks import AMBIGUOUS, NONEXISTENT, odd_hours
from feature_repo.orders.mapping_file import MappingError
from feature_repo.orders.ownership import read_record
from tests.feature_repo.orders.bringing import bring, landed, outcomes, reasons

DAY_FIRST, MONTH_FIRST = "%d/%m/%Y %H:%M", "%m/%d/%Y %H:%M"
BOTH = {"formats": [DAY_FIRST, MONTH_FIRST]}
HEADER = "id,shop,placed,delivered"
DELIVERED = {"delivered_at": "delivered"}
# Far apart on purpose: what a format makes of a day and month is seen in the dates.
MEANT = ["out-of-span"]


def lines(*placed: str, delivered: str = "") -> list[str]:
    return [HEADER, *(f'{number},r1,"{text}",{delivered}' for number, text in enumerate(placed, 1))]


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def read(settings, *texts: str, allow=(), **time) -> list:
    """What each text becomes as `placed_at`: an instant as text, or the rule that refuses it."""
    bring(lines(*texts), settings, time=time, allow=[*MEANT, *allow])
    found = outcomes(settings, "placed_at")
    return [value if isinstance(value, str) else f"{value:%Y-%m-%d %H:%M}" for _, value in sorted(found.items())]


# Formats.


@pytest.mark.parametrize(
    ("texts", "first"),
    [
        (["03/05/2026 12:00", "03/13/2026 12:00"], ["2026-03-05 12:00", "2026-03-13 12:00"]),
        (["03/05/2026 12:00", "13/03/2026 12:00"], ["2026-05-03 12:00", "2026-03-13 12:00"]),
        (["05/05/2026 12:00", "07/07/2026 12:00"], ["2026-05-05 12:00", "2026-07-07 12:00"]),
        (["03/05/2026 12:00", "03/13/2026 12:00", "soon"], ["2026-03-05 12:00", "2026-03-13 12:00", "unparsable"]),
    ],
)
@pytest.mark.parametrize("formats", [[DAY_FIRST, MONTH_FIRST], [MONTH_FIRST, DAY_FIRST]])
def test_the_one_format_that_fits_all_is_meant_whatever_the_order(settings, texts, first, formats):
    assert read(settings, *texts, formats=formats) == first


def test_the_decision_is_told_and_kept_for_the_next_export(settings):
    report = bring(lines("03/05/2026 12:00", "03/13/2026 12:00"), settings, time=BOTH)
    assert f"1 times such as '03/05/2026 12:00' fit both '{MONTH_FIRST}' and '{DAY_FIRST}'" in report.summary()
    assert (
        f"were read by '{MONTH_FIRST}': 1 others of the source fit it alone, none the other alone" in report.summary()
    )
    report = bring([HEADER, "9,r1,03/11/2026 12:00,"], settings, time=BOTH)
    assert "an earlier ingestion of this source decided so" in report.summary()
    assert outcomes(settings, "placed_at")["9"] == utc("2026-03-11 12:00")


def test_another_column_of_the_source_may_decide(settings):
    bring([HEADER, "1,r1,03/05/2026 12:00,03/13/2026 12:00"], settings, time=BOTH, columns=DELIVERED)
    assert outcomes(settings, "placed_at") == {"1": utc("2026-03-05 12:00")}


def test_an_expression_s_text_counts_as_well(settings):
    columns = {"placed_at": "replace(placed, '.', '/')"}
    bring(lines("03.05.2026 12:00", "03.13.2026 12:00"), settings, time=BOTH, columns=columns)
    assert outcomes(settings, "placed_at")["1"] == utc("2026-03-05 12:00")


def test_a_source_that_does_not_decide_is_refused_with_both_readings(settings):
    with pytest.raises(MappingError) as refusal:
        bring(lines("03/05/2026 12:00", "04/06/2026 12:00"), settings, time=BOTH, quarantine={"max_share": 0.5})
    told = str(refusal.value)
    assert "2 of 2 order versions do not convert (2 ambiguous_time)" in told
    assert (
        f'column placed_at: "03/05/2026 12:00" is 2026-05-03 12:00:00 UTC in the format {DAY_FIRST} and '
        f"2026-03-05 12:00:00 UTC in {MONTH_FIRST}" in told
    )
    assert '"04/06/2026 12:00" is' in told
    assert read_watermark(settings) is None


def test_a_source_that_mixes_both_loses_what_is_ambiguous_to_the_quarantine(settings):
    texts = ["03/05/2026 12:00", "03/13/2026 12:00", "13/03/2026 12:00", "07/07/2026 12:00"]
    found = read(settings, *texts, **BOTH)
    assert found == ["ambiguous_time", "2026-03-13 12:00", "2026-03-13 12:00", "2026-07-07 12:00"]


def test_a_new_export_that_speaks_against_an_earlier_decision_is_refused(settings):
    bring(lines("03/05/2026 12:00", "03/13/2026 12:00"), settings, time=BOTH)
    bring([HEADER, "8,r1,13/03/2026 12:00,", "9,r1,03/13/2026 12:01,", "7,r1,03/04/2026 12:00,"], settings, time=BOTH)
    assert outcomes(settings, "placed_at")["7"] == "ambiguous_time"


def test_a_person_may_say_which_format_is_meant_and_it_is_on_record(settings):
    allow = [f"formats={MONTH_FIRST}"]
    report = bring(lines("03/05/2026 12:00", "03/06/2026 12:00"), settings, time=BOTH, allow=allow)
    assert outcomes(settings, "placed_at")["1"] == utc("2026-03-05 12:00")
    assert f"  allowed: formats={MONTH_FIRST}" in report.summary()
    record = read_record(settings)
    assert record is not None
    assert (record.allowed, record.formats) == (allow, [(MONTH_FIRST, DAY_FIRST)])
    assert bring(lines("03/13/2026 12:00"), settings, time=BOTH).allowed == allow


@pytest.mark.parametrize(
    ("formats", "texts", "expected"),
    [
        (["%d.%m.%Y %H:%M", "%d.%m.%Y %H:%M:%S"], ["01.02.2026 10:00", "01.02.2026 10:00:30"], "2026-02-01 10:00"),
        (["%Y", "%Y-%m-%d %H:%M"], ["2026-02-01 10:00"], "2026-02-01 10:00"),
        (["%d/%m/%y %I:%M %p", "%d/%m/%Y %I:%M %p"], ["01/02/26 10:00 AM", "01/02/2026 10:00 AM"], "2026-02-01 10:00"),
        (["%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M %z"], ["2026-02-01 10:00", "2026-02-01 12:00 +0200"], "2026-02-01 10:00"),
        (
            ["unix", "unix_ms", "unix_us", "unix_ns"],
            ["1769940000", "1769940000000", "1769940000000000"],
            "2026-02-01 10:00",
        ),
        (["%d.%m.%Y %H:%M Uhr"], ["01.02.2026 10:00 Uhr"], "2026-02-01 10:00"),
    ],
)
def test_formats_of_which_each_value_fits_one_go_together(settings, formats, texts, expected):
    assert read(settings, *texts, formats=formats, zone="UTC") == [expected] * len(texts)


@pytest.mark.parametrize(
    ("first", "second", "text", "decisive", "expected"),
    [
        ("%y-%m-%d %H:%M", "%d-%m-%y %H:%M", "05-03-26 12:00", "99-03-26 12:00", "2005-03-26 12:00"),
        ("%Y/%m/%d %H:%M", "%Y/%d/%m %H:%M", "2026/03/05 12:00", "2026/13/05 12:00", "2026-05-03 12:00"),
        ("%Y%m%d%H%M", "%Y%d%m%H%M", "202603051200", "202613051200", "2026-05-03 12:00"),
    ],
)
def test_other_pairs_that_read_a_value_differently_are_found(settings, first, second, text, decisive, expected):
    assert read(settings, text, decisive, formats=[first, second])[0] == expected


# Units since 1970.


@pytest.mark.parametrize(
    ("formats", "text", "unit"),
    [
        (["unix_ms"], "1777632600", "unix"),
        (["unix"], "1777632600000", "unix_ms"),
        (["unix"], "1777632600000000", "unix_us"),
        (["unix_ms"], "1777632600000000000", "unix_ns"),
        (["unix_us"], "1777632600000", "unix_ms"),
    ],
)
def test_a_number_of_another_unit_is_refused_and_the_unit_is_named(settings, formats, text, unit):
    with pytest.raises(MappingError, match=rf'"{text}" is no time in the formats .*: as {unit} it would be one'):
        bring(lines(text), settings, time={"formats": formats}, quarantine={"max_share": 0.5})


def test_one_row_in_seconds_among_milliseconds_is_set_aside(settings):
    numbers = [1_777_632_600_000 + 60_000 * number for number in range(20)]
    report = bring(lines(*map(str, numbers), "1777632600"), settings, time={"formats": ["unix_ms"]})
    assert report.refused == {"wrong_time_unit": 1}
    assert (report.first_known, report.landed) == (utc("2026-05-01 10:50"), 20)


@pytest.mark.parametrize(
    "text", ["0", "-1", "46146.5", "99999", "1_777_632_600", "1e9_", "1.777632e9", "1.77763E+09", "soon", "∞"]
)
def test_other_numbers_are_no_times(settings, text):
    assert read(settings, text, "1777632600", formats=["unix"])[0] == "unparsable"


def test_numbers_of_a_typed_column_are_read_by_the_unit_that_fits(settings, tmp_path):
    seconds, milliseconds = 1_777_632_600, 1_777_632_600_000
    rows = {"id": ["1", "2", "3"], "shop": "r1", "placed": [seconds, milliseconds, 7]}
    pl.DataFrame(rows).write_parquet(tmp_path / "o.parquet")
    bring(tmp_path / "o.parquet", settings, time={"formats": ["unix", "unix_ms"]})
    at = utc("2026-05-01 10:50")
    assert outcomes(settings, "placed_at") == {"1": at, "2": at, "3": "unparsable"}


# Zones.


def test_naive_times_without_any_zone_are_utc_and_told(settings):
    report = bring(lines("2026-05-04 12:00"), settings)
    assert report.told == ["no time names its zone, and neither does the mapping: all are taken to be UTC"]
    assert bring(lines("2026-05-04 12:00"), settings, time={"zone": "UTC"}).told == []


@pytest.mark.parametrize("zoned", ["2026-05-04T12:00Z", "2026-05-04 12:00+02", "2026-05-04 12:00:00.5+02:00"])
def test_naive_times_beside_zoned_ones_need_a_zone(settings, tmp_path, zoned):
    assert read(settings, "2026-05-04 12:00", zoned)[0] == "no_time_zone"
    assert "add `time: {zone: ...}`" in reasons(settings)["1"]
    other = settings.model_copy(update={"data_dir": tmp_path / "other" / "data"})
    other.data_dir.mkdir(parents=True)
    report = bring(lines("2026-05-04 12:00", zoned), other, time={"zone": "Asia/Tokyo"})
    assert outcomes(other, "placed_at")["1"] == utc("2026-05-04 03:00")
    assert report.told == ["1 rows have times without a zone beside 1 with one: taken to be of Asia/Tokyo"]


def test_a_naive_column_beside_a_zoned_one_needs_a_zone(settings, tmp_path):
    at = datetime(2026, 5, 4, 12, tzinfo=UTC)
    rows = pl.DataFrame({"id": ["1"], "shop": "r1", "placed": [at], "delivered": [at]})
    rows = rows.with_columns(pl.col("delivered").dt.replace_time_zone(None))
    rows.write_parquet(tmp_path / "o.parquet")
    with pytest.raises(MappingError, match=r"1 no_time_zone"):
        bring(tmp_path / "o.parquet", settings, columns=DELIVERED)
    bring(tmp_path / "o.parquet", settings, columns=DELIVERED, time={"zone": "Europe/Paris"})
    assert landed(settings)["delivered_at"].item() == utc("2026-05-04 10:00")


@pytest.mark.parametrize("name", ["PST", "CET", "IST", "Europe/Paris"])
def test_a_zone_s_name_in_a_value_is_refused(settings, name):
    assert read(settings, f"2026-05-04 12:00:00 {name}", "2026-05-04 12:00:00 UTC")[0] == "unparsable"
    assert f'12:00:00 {name}" names its zone' in reasons(settings)["1"]


def int96(tmp_path):
    path = tmp_path / "o.parquet"
    at = pa.array([datetime(2026, 5, 4, 12)], pa.timestamp("ns"))  # noqa: DTZ001  it has none
    pq.write_table(pa.table({"id": ["1"], "shop": ["r1"], "placed": at}), path, use_deprecated_int96_timestamps=True)
    return path


@pytest.mark.parametrize(
    ("time", "instant"),
    [
        ({}, "2026-05-04 12:00"),
        ({"zone": "UTC"}, "2026-05-04 12:00"),
        ({"zone": "Europe/Paris", "int96": "utc"}, "2026-05-04 12:00"),
        ({"zone": "Europe/Paris", "int96": "zone"}, "2026-05-04 10:00"),
    ],
)
def test_int96_times_are_told(settings, tmp_path, time, instant):
    report = bring(int96(tmp_path), settings, time=time)
    assert landed(settings)["placed_at"].item() == utc(instant)
    assert any("INT96 times of ['placed'] are taken to be of" in sentence for sentence in report.told)


def test_int96_times_beside_a_zone_have_to_be_decided(settings, tmp_path):
    with pytest.raises(MappingError, match=r"\['placed'\] are INT96 times, which name no zone: Spark writes UTC"):
        bring(int96(tmp_path), settings, time={"zone": "Europe/Paris"})


# Local hours that clocks repeat or skip.


@pytest.mark.parametrize(
    ("zone", "repeated", "skipped"),
    [
        ("Europe/Berlin", "2026-10-25 02:30", "2026-03-29 02:30"),
        ("America/New_York", "2026-11-01 01:30", "2026-03-08 02:30"),
        ("Australia/Sydney", "2026-04-05 02:30", "2026-10-04 02:30"),
        ("Australia/Lord_Howe", "2026-04-05 01:45", "2026-10-04 02:15"),
        ("America/Santiago", "2026-04-04 23:30", "2026-09-06 00:30"),
        ("Antarctica/Troll", "2026-10-25 01:30", "2026-03-29 02:30"),
    ],
)
@pytest.mark.parametrize("form", ["%Y-%m-%d %H:%M", None], ids=["format", "iso"])
def test_an_hour_that_clocks_repeat_or_skip_is_refused_unless_a_person_decides(
    settings, tmp_path, zone, repeated, skipped, form
):
    time = {"zone": zone} | ({"formats": [form]} if form else {})
    assert read(settings, repeated, skipped, "2026-06-01 12:00", **time)[:2] == [AMBIGUOUS, NONEXISTENT]
    assert f"an hour that the clocks of {zone} have twice" in reasons(settings)["1"]
    for choice in ("earlier", "later"):
        other = settings.model_copy(update={"data_dir": tmp_path / choice / "data"})
        other.data_dir.mkdir(parents=True)
        found = read(other, repeated, skipped, **time, ambiguous=choice, nonexistent=choice)
        assert found == [both_readings(text, zone)[choice == "later"] for text in (repeated, skipped)]


def both_readings(text: str, zone: str) -> list[str]:
    """The instants by the two offsets of the zone around a local time, in order."""
    naive = datetime.fromisoformat(text)
    offsets = {naive.replace(tzinfo=ZoneInfo(zone), fold=fold).utcoffset() or timedelta() for fold in (0, 1)}
    return sorted(f"{naive - offset:%Y-%m-%d %H:%M}" for offset in offsets)


@pytest.mark.parametrize("text", ["2026-10-25 01:59", "2026-10-25 03:00", "2026-03-29 01:59", "2026-03-29 03:00"])
def test_the_hours_beside_them_are_read(settings, text):
    expected = datetime.fromisoformat(text).replace(tzinfo=ZoneInfo("Europe/Berlin")).astimezone(UTC)
    assert read(settings, text, zone="Europe/Berlin") == [f"{expected:%Y-%m-%d %H:%M}"]


@pytest.mark.parametrize("text", ["2026-10-25 02:30+02:00", "2026-10-25T00:30Z"])
def test_a_time_with_an_offset_is_never_ambiguous(settings, text):
    assert read(settings, text, zone="Europe/Berlin") == ["2026-10-25 00:30"]


def test_what_was_decided_for_one_ingestion_is_told(settings):
    allow = ["out-of-span", "ambiguous=later, nonexistent=earlier"]
    found = bring(lines("2026-10-25 02:30", "2026-03-29 02:30"), settings, time={"zone": "Europe/Berlin"}, allow=allow)
    assert found.refused == {}
    assert "1 rows have local times that the clocks of Europe/Berlin have twice: taken to be the later" in found.told
    assert "1 rows have local times that the clocks of Europe/Berlin skip: taken to be the earlier" in found.told
    assert found.allowed == ["out-of-span", "ambiguous=later", "nonexistent=earlier"]


def test_typed_local_times_are_judged_like_text(settings, tmp_path):
    local = [datetime(2026, 10, 25, 2, 30), datetime(2026, 10, 25, 3, 30)]  # noqa: DTZ001  local, as in the file
    pl.DataFrame({"id": ["1", "2"], "shop": "r1", "placed": local}).write_parquet(tmp_path / "o.parquet")
    bring(tmp_path / "o.parquet", settings, time={"zone": "Europe/Berlin"})
    assert outcomes(settings, "placed_at") == {"1": AMBIGUOUS, "2": utc("2026-10-25 02:30")}


@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo", "Etc/GMT+5"])
def test_zones_whose_clocks_nobody_sets_have_no_such_hours(zone):
    assert [hours for hours in odd_hours(zone) if hours.start.year > 1980] == []


# What is no time at all.


@pytest.mark.parametrize(
    "text",
    [
        "epoch",
        "infinity",
        "26-05-04 12:00",
        "12026-05-04",
        "2026-05-04 (BC)",
        "2101-01-01",
        "1969-12-31",
        "2026-05-04 12:00 PM",
    ],
)
def test_odd_words_and_years_are_no_times(settings, text):
    assert read(settings, text, "2026-05-04 12:00") == ["unparsable", "2026-05-04 12:00"]


@pytest.mark.parametrize("text", ["2026-05-04", "2026/05/04"])
def test_a_date_is_no_time_unless_somebody_says_that_midnight_is_meant(settings, text):
    assert read(settings, text, "2026-05-04 12:00") == ["unparsable", "2026-05-04 12:00"]
    assert f'"{text}" is a date without a time of day' in reasons(settings)["1"]


def test_a_typed_date_is_no_time_either(settings, tmp_path):
    pl.DataFrame({"id": ["1"], "shop": ["r1"], "placed": [date(2026, 5, 4)]}).write_parquet(tmp_path / "o.parquet")
    with pytest.raises(MappingError, match=r'"2026-05-04" is a date without a time of day: .*CAST.column AS TIMESTAMP'):
        bring(tmp_path / "o.parquet", settings)
    bring(tmp_path / "o.parquet", settings, columns={"placed_at": "CAST(placed AS TIMESTAMP)"})
    assert landed(settings)["placed_at"].item() == utc("2026-05-04")


def test_a_format_may_read_a_date_alone(settings):
    assert read(settings, "04.05.2026", formats=["%d.%m.%Y"]) == ["2026-05-04 00:00"]


def test_an_hour_of_twelve_needs_its_half_of_the_day(settings):
    with pytest.raises(MappingError, match=r"has %I, an hour of twelve, without %p"):
        read(settings, "05/04/2026 01:10", formats=["%m/%d/%Y %I:%M"])

"""Whatever becomes of the landing folder, of refused hours, of killed runs: no order is lost, let in or forgotten."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from config import Settings
from feature_repo import live, pipeline
from feature_repo.lake import CorruptPartition, PartitionedTable
from feature_repo.orders.refused import RefusedBefore, read_refused
from feature_repo.orders.schema import LANDING_SCHEMA, orders_table, quarantine_table
from feature_repo.orders.watermark import Watermark, write_watermark
from feature_repo.quality.results import ValidationReport
from feature_repo.quality.suite import Expectation, Outcome
from feature_repo.stores.audit import AuditReport, Bounds
from feature_repo.transforms import evolution
from feature_repo.transforms.coverage import HistoryMissing, covered_hours, read_coverage
from feature_repo.transforms.tables import feature_table, tile_table
from feature_repo.transforms.views import TRANSFORMS
from feature_repo.window import DAY, HOUR, Window
from tests.feature_repo import quick

START = datetime(2026, 5, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def flags(
    _name: str, frame: pl.DataFrame, expectations: Sequence[Expectation], _kept: Any = None
) -> dict[str, Outcome]:
    """What Great Expectations says of boolean columns and of numbers of rows; the other rules pass."""
    found = {}
    for each in expectations:
        name, least = each.arguments.get("column"), each.arguments.get("min_value", 0)
        wrong = (
            frame.with_row_index("n").filter(~pl.col(name))["n"].to_list()
            if name in frame.columns and frame.schema[name] == pl.Boolean()
            else []
        )
        few = each.kind == "ExpectTableRowCountToBeBetween" and frame.height < least
        many = len(wrong) > (1 - each.arguments.get("mostly", 1)) * frame.height
        found[each.rule] = Outcome(not many and not few, wrong, None)
    return found


@pytest.fixture(autouse=True)
def one_view(monkeypatch: pytest.MonkeyPatch) -> None:
    quick.only(["zone_stats"], monkeypatch, flags)


@pytest.fixture
def house(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data")


def order(number: int, at: datetime, **changes: Any) -> dict[str, Any]:
    row = {"order_id": f"o{number}", "restaurant_id": "r", "zone_id": "centre", "placed_at": at, "status": "placed"}
    return row | {"item_count": 1, "order_value": 9.0, "updated_at": at} | changes


def every(step: timedelta, window: Window, first: int = 0, **changes: Any) -> list[dict[str, Any]]:
    count = int((window.end - window.start) / step)
    return [order(first + n, window.start + n * step + MINUTE, **changes) for n in range(count)]


def land(rows: list[dict[str, Any]], settings: Settings, until: datetime, name: str = "orders") -> list[Path]:
    """Each version into the folder of its day."""
    paths = []
    frame = pl.DataFrame(rows, schema=LANDING_SCHEMA)
    for (day,), part in frame.group_by(pl.col("updated_at").dt.date(), maintain_order=True):
        paths.append(settings.landing_orders / f"day={day}" / f"{name}.parquet")
        paths[-1].parent.mkdir(parents=True, exist_ok=True)
        part.write_parquet(paths[-1])
    write_watermark(settings, Watermark(until, "test", START))
    return paths


def quietly(_text: str) -> None:
    pass


def content(settings: Settings) -> list[str]:
    transform = TRANSFORMS["zone_stats"]
    tables = [orders_table(settings), tile_table(transform, settings), feature_table(transform, settings)]
    return [table.content_hash() for table in tables]


def hourly(window: Window, settings: Settings) -> None:
    """The offline part of the hourly run, as the DAG does it."""
    pipeline.close_gap(window, settings, quietly)
    pipeline.ingest_orders(window, settings)
    if pipeline.validate_orders(window, settings)["stopped"]:
        pipeline.quarantine_batch(window, settings)
        return
    pipeline.accept_orders(window, settings)
    pipeline.compute_features(window, settings)
    pipeline.publish_features(window, settings)


# A landing folder of which less is left than the lake has.

WEEKS = Window(START, START + 4 * DAY)


@pytest.fixture
def computed(house: Settings) -> Settings:
    land(every(4 * HOUR, WEEKS), house, WEEKS.end)
    pipeline.backfill(WEEKS, house, quietly)
    return house


def prune(settings: Settings, *days: int) -> None:
    for day in days:
        shutil.rmtree(settings.landing_orders / f"day={START + day * DAY:%Y-%m-%d}")


@pytest.mark.parametrize("days", [(0, 1), (2,)])
def test_a_backfill_after_the_landing_folder_was_pruned_loses_nothing(days, computed, caplog):
    before = content(computed)
    prune(computed, *days)
    told = pipeline.backfill(WEEKS, computed, quietly)
    assert content(computed) == before
    assert (told["ingested"], told["accepted"], told["kept"]) == (24, 24, 6 * len(days))
    assert f"{6 * len(days)} versions that the lake has of {WEEKS} are no longer in the landing folder" in caplog.text


def test_a_file_that_lost_some_of_its_rows_takes_none_out_of_the_lake(computed):
    before = content(computed)
    land(every(4 * HOUR, WEEKS)[::2], computed, WEEKS.end)
    assert pipeline.backfill(WEEKS, computed, quietly)["kept"] == 12
    assert content(computed) == before


def test_what_is_corrected_in_the_landing_folder_is_corrected(computed):
    land([row | {"order_value": 7.0} for row in every(4 * HOUR, WEEKS)], computed, WEEKS.end)
    assert pipeline.backfill(WEEKS, computed, quietly)["kept"] == 0
    assert orders_table(computed).read()["order_value"].unique().to_list() == [7.0]


def test_what_is_gone_leaves_the_lake_when_that_is_asked_for(computed):
    prune(computed, 1)
    told = pipeline.backfill(WEEKS, computed, quietly, take_out=True)
    assert (told["taken_out"], told["accepted"], told["kept"]) == (6, 18, 0)
    assert orders_table(computed).read().height == 18


def test_the_evidence_of_a_pruned_day_stays(house):
    rows = [row | (BAD if n == 3 else GOOD) for n, row in enumerate(every(4 * HOUR, WEEKS))]
    land(rows, house, WEEKS.end)
    pipeline.backfill(WEEKS, house, quietly)
    evidence = quarantine_table(house).read()
    assert evidence["rule"].to_list() == ["delivered_without_time"]
    prune(house, 0)
    pipeline.backfill(WEEKS, house, quietly)
    assert quarantine_table(house).read().equals(evidence)


# Files that come however late.


def test_files_that_land_days_behind_are_recorded_and_told(house):
    week = Window(START, START + 6 * DAY)
    land([order(0, START + MINUTE)], house, week.end + DAY)
    pipeline.backfill(week, house, quietly)
    land(every(2 * HOUR, Window(START, START + DAY), first=1), house, week.end + DAY, name="late")
    found = [pipeline.ingest_orders(hour, house)["found_late"] for hour in [Window(week.end, week.end + HOUR)]]
    assert found == [12]
    hourly(Window(week.end, week.end + HOUR), house)
    assert orders_table(house).read().height == 1
    assert quarantine_table(house).read().select("rule", "known_at").unique().rows() == [("too_late", week.end)]
    assert quarantine_table(house).read().height == 12
    for hour in Window(week.end, week.end + 2 * HOUR).hours():
        hourly(hour, house)
    assert quarantine_table(house).read().height == 12, "once, whatever is run again"


def test_rows_that_come_too_late_do_not_shut_out_the_hour_in_which_they_are_found(house):
    week = Window(START, START + 6 * DAY)
    land([order(0, START + MINUTE)], house, week.end + DAY)
    pipeline.backfill(week, house, quietly)
    land(every(20 * MINUTE, Window(START, START + DAY), first=100), house, week.end + DAY, name="late")
    land(every(20 * MINUTE, Window(week.end, week.end + HOUR), first=500), house, week.end + DAY)
    hourly(Window(week.end, week.end + HOUR), house)
    assert orders_table(house).read(Window(week.end, week.end + HOUR)).height == 3
    assert quarantine_table(house).read().height == 72


# Every landed row, hour by hour and at once.


def known(row: dict[str, Any]) -> datetime:
    return max(row["updated_at"], row.get("arrived_at") or row["updated_at"])


def random_rows(seed: int, window: Window) -> list[dict[str, Any]]:
    """Versions of a few ids that orders share, corrected, repeated, and on their way for up to 100 minutes."""
    dice = random.Random(seed)
    rows = []
    for _ in range(40):
        placed = window.start + dice.randrange(10 * 60) * MINUTE
        row = order(dice.randrange(12), placed, restaurant_id=dice.choice("rrs"), order_value=dice.choice([1.0, 2.0]))
        row |= {"updated_at": placed + dice.choice([0, 0, 5, 70]) * MINUTE}
        copies = 1 + (dice.random() < 0.15)
        rows += [row | {"arrived_at": row["updated_at"] + dice.choice([0, 3, 90, 100]) * MINUTE} for _ in range(copies)]
    return [row for row in rows if known(row) < window.end]


def record(window: Window, settings: Settings) -> tuple[pl.DataFrame, pl.DataFrame]:
    """What the lake and the quarantine hold after a window."""
    for step in (pipeline.ingest_orders, pipeline.validate_orders, pipeline.accept_orders):
        step(window, settings)
    evidence = quarantine_table(settings).read().select("known_at", "order_id", "rule", "row")
    return orders_table(settings).read(), evidence.sort(pl.all())


def test_hour_by_hour_and_at_once_the_same_is_recorded_and_it_is_all_that_landed(tmp_path):
    whole, options = Window(START, START + 9 * HOUR), {"rule_severities": {"rejected_share": "warn"}}
    rows = random_rows(3, whole)
    hourly_house = Settings(data_dir=tmp_path / "hourly", lateness_horizon_hours=2, **options)
    for hour in whole.hours():
        landed = [row for row in rows if known(row) < hour.end]
        land(landed, hourly_house, hour.end)
        accepted, rejected = record(hour, hourly_house)
        assert accepted.height + rejected.height == len(landed), hour
    at_once = Settings(data_dir=tmp_path / "at-once", lateness_horizon_hours=2, **options)
    land(rows, at_once, whole.end)
    again = record(whole, at_once)
    assert accepted.equals(again[0])
    assert rejected.equals(again[1])
    assert set(rejected["rule"]) >= {"order_changed", "duplicate_version"}
    shutil.rmtree(hourly_house.landing_orders)
    land([order(99, whole.end)], hourly_house, whole.end)
    assert record(whole, hourly_house)[0].equals(accepted), "nor is anything lost with the landing folder"


# Hours that were refused.

BAD, GOOD = {"status": "delivered"}, {}
DAY_ONE = Window(START, START + 8 * HOUR)
HOUR_3 = Window(START + 3 * HOUR, START + 4 * HOUR)


def hours_of(count: int, bad: int, bad_hour: int = 3) -> list[dict[str, Any]]:
    """Eight hours of 40 orders, `bad` of one hour's broken."""
    rows = []
    for n, hour in enumerate(DAY_ONE.hours()):
        for k in range(count):
            broken = BAD if n == bad_hour and k < bad else GOOD
            rows.append(order(1000 * n + k, hour.start + k * MINUTE, **broken))
    return rows


@pytest.fixture
def refused(house: Settings) -> Settings:
    """The hour from 03:00 was refused by its own run: 24 of 40 orders are broken."""
    land(hours_of(40, bad=24), house, DAY_ONE.end)
    hourly(HOUR_3, house)
    return house


def assert_only_hour_3_is_refused(settings: Settings) -> None:
    kept = quarantine_table(settings).read()
    assert kept.select("rule", "window").unique().rows() == [("batch_stopped", HOUR_3.slug)]
    assert kept.height == 40
    assert orders_table(settings).read()["known_at"].max() < HOUR_3.start
    assert covered_hours(settings).end == HOUR_3.start


def test_a_refused_hour_does_not_get_in_with_the_good_ones_after_it(refused):
    assert_only_hour_3_is_refused(refused)
    last = Window(START + 6 * HOUR, START + 7 * HOUR)
    with pytest.raises(pipeline.BatchStopped, match=r"\[2026-05-01 03:00, 2026-05-01 04:00\) UTC were refused"):
        hourly(last, refused)
    assert_only_hour_3_is_refused(refused)
    with pytest.raises(RefusedBefore, match=r"holds \[2026-05-01 03:00.*24 of 40 rows are rejected.*backfill"):
        pipeline.ingest_orders(Window(HOUR_3.start, last.end), refused)


def test_a_backfill_refuses_the_hour_that_hourly_runs_refuse_and_completes_those_before(house):
    land(hours_of(40, bad=24), house, DAY_ONE.end)
    with pytest.raises(pipeline.BatchStopped, match="03:00"):
        pipeline.backfill(DAY_ONE, house, quietly)
    assert_only_hour_3_is_refused(house)
    assert list(read_refused(house)) == [HOUR_3]


@pytest.mark.parametrize("bad", [9])
def test_an_hour_that_would_not_be_refused_by_itself_is_not(bad, house):
    land(hours_of(40, bad=bad), house, DAY_ONE.end)
    assert pipeline.backfill(DAY_ONE, house, quietly)["quarantined"] == bad


def test_a_mended_hour_comes_in_and_is_forgotten_as_refused(refused):
    land(hours_of(40, bad=0), refused, DAY_ONE.end)
    hourly(Window(DAY_ONE.end - HOUR, DAY_ONE.end), refused)
    assert orders_table(refused).read().height == 320
    assert quarantine_table(refused).read().is_empty()
    assert read_refused(refused) == {}


def test_what_another_rule_refused_is_judged_apart_too(house):
    """One hour without orders, which the configuration does not allow, among others that have some."""
    strict = house.model_copy(update={"rule_severities": {"no_rows": "stop"}})
    land([row for row in hours_of(3, bad=0) if not row["order_id"].startswith("o3")], strict, DAY_ONE.end)
    hourly(HOUR_3, strict)
    with pytest.raises(pipeline.BatchStopped, match="no_rows"):
        hourly(Window(START + 6 * HOUR, START + 7 * HOUR), strict)
    assert covered_hours(strict).end == HOUR_3.start


def test_nothing_live_comes_of_a_refused_hour(refused):
    as_of = HOUR_3.start + 30 * MINUTE
    assert "24 of 40 rows are rejected" in str(live.why_not(as_of, refused))
    with pytest.raises(live.LiveUnavailable, match="24 of 40 rows are rejected"):
        live.rows_until(as_of, refused)


def test_nothing_live_comes_of_the_rest_of_an_hour_that_is_mostly_bad(house):
    land(hours_of(40, bad=24), house, DAY_ONE.end)
    pipeline.backfill(Window(START, HOUR_3.start), house, quietly)
    with pytest.raises(live.LiveUnavailable, match=r"24 of 30 order versions .* are rejected: none of them"):
        live.rows_until(HOUR_3.start + 30 * MINUTE, house)


# An old hour that is run again, and killed.


class Killed(BaseException):
    """As a kill: no `except Exception` sees it."""


OLD = Window(START + 8 * HOUR, START + 9 * HOUR)


def calls(monkeypatch: pytest.MonkeyPatch, die_at: int | None) -> list[str]:
    """Names each change of a file of the lake, and dies before one of them."""
    made: list[str] = []

    def counted(owner: Any, name: str, label: Callable[..., str]) -> None:
        real = getattr(owner, name)

        def call(*arguments: Any, **named: Any) -> Any:
            if len(made) == die_at:
                raise Killed
            made.append(label(*arguments))
            return real(*arguments, **named)

        monkeypatch.setattr(owner, name, call)

    from feature_repo.transforms import coverage, publish

    counted(PartitionedTable, "replace", lambda table, *_: table.root.name)
    for module in (coverage, publish):
        counted(module, "write_coverage", lambda *_: "coverage")
    return made


DAY_LONG = Window(START, START + DAY)
AFTER = Window(DAY_LONG.end, DAY_LONG.end + HOUR)


@pytest.fixture
def changed(house: Settings) -> Settings:
    """A computed day; in one of its hours more orders have landed since."""
    land(every(HOUR, DAY_LONG), house, AFTER.end)
    pipeline.backfill(DAY_LONG, house, quietly)
    land(every(10 * MINUTE, OLD, first=900), house, AFTER.end, name="more")
    return house


def test_an_old_hour_killed_at_any_point_is_completed_by_the_next_run(changed, tmp_path, monkeypatch):
    points: list[str] = []
    with monkeypatch.context() as patched:
        whole = Settings(data_dir=tmp_path / "whole")
        shutil.copytree(changed.data_dir, whole.data_dir)
        points = calls(patched, die_at=None)
        hourly(OLD, whole)
    assert points == ["coverage", "orders", "orders", "coverage", *["zone_stats"] * 3, "coverage"]
    hourly(AFTER, whole)
    expected = content(whole)
    for point in (1, 3):  # before the orders change, and after; a publication that is killed has a test of its own
        killed = Settings(data_dir=tmp_path / f"killed-{point}")
        shutil.copytree(changed.data_dir, killed.data_dir)
        with monkeypatch.context() as patched:
            calls(patched, die_at=point)
            with pytest.raises(Killed):
                hourly(OLD, killed)
        hourly(AFTER, killed)
        assert content(killed) == expected, f"killed before change {point}, {points[point]}"


def test_what_is_not_published_is_vouched_for_by_nobody(changed):
    for step in (pipeline.ingest_orders, pipeline.validate_orders, pipeline.accept_orders):
        step(OLD, changed)
    assert read_coverage(changed).unpublished == (OLD,)
    command = f"recompute {OLD.start.isoformat()} {OLD.end.isoformat()}"
    with pytest.raises(HistoryMissing, match=r"other orders of .* have been accepted") as refused:
        covered_hours(changed)
    assert command in str(refused.value)
    with pytest.raises(HistoryMissing, match=r"other orders of .* have been accepted"):
        pipeline.compute_features(Window(OLD.end, OLD.end + HOUR), changed)
    pipeline.recompute_features(OLD, changed, quietly)
    assert read_coverage(changed).unpublished == ()


def test_an_old_hour_with_the_same_orders_costs_nothing_of_the_later_ones(house):
    day = Window(START, START + DAY)
    land(every(HOUR, day), house, day.end)
    pipeline.backfill(day, house, quietly)
    before = read_coverage(house)
    pipeline.ingest_orders(OLD, house)
    pipeline.validate_orders(OLD, house)
    pipeline.accept_orders(OLD, house)
    assert read_coverage(house) == before


# What is damaged, and what is kept.


def test_the_advice_about_a_damaged_file_helps(computed):
    transform, before = TRANSFORMS["zone_stats"], content(computed)
    day = START + DAY
    for table, command, start in (
        (orders_table(computed), "backfill", day),
        (tile_table(transform, computed), "recompute", day),
        (feature_table(transform, computed), "recompute", day - HOUR),  # which wrote the row of midnight
    ):
        path = table.file(day)
        path.write_bytes(path.read_bytes()[:100])
        with pytest.raises(CorruptPartition, match=f"{path} cannot be read .*restore it .*delete it and run") as damage:
            table.read()
        bounds = f"{start.isoformat()} {(day + DAY).isoformat()}"
        assert f"python -m feature_repo {command} {bounds}" in str(damage.value)
        path.unlink()
        again = {"backfill": pipeline.backfill, "recompute": pipeline.recompute_features}[command]
        again(Window(start, day + DAY), computed, quietly)
        write_watermark(computed, Watermark(WEEKS.end + HOUR, "test", START))
        pipeline.close_gap(Window(WEEKS.end, WEEKS.end + HOUR), computed, quietly)
        assert content(computed) == before


def test_a_damaged_file_of_tiles_is_made_again_without_deleting_it(computed):
    before, day = content(computed), Window(START + DAY, START + 2 * DAY)
    tile_table(TRANSFORMS["zone_stats"], computed).file(day.start).write_bytes(b"PAR1")
    pipeline.recompute_features(Window(day.start, WEEKS.end), computed, quietly)
    assert content(computed) == before


def test_reports_are_kept_for_so_many_days(house):
    short = house.model_copy(update={"report_retention_days": 2})
    for back in (3, 2, 1, 0):
        start = START - back * DAY
        ValidationReport("orders", Window(start, start + HOUR).slug, 0, 0).write(short)
        AuditReport(start, Bounds()).write(short)
    first = f"{START - 2 * DAY:%Y%m%d}"
    for folder in (short.reports / "quality" / "orders", short.reports / "audit"):
        assert sorted(path.name[:8] for path in folder.glob("*.json"))[0] == first
        assert len(list(folder.glob("*.json"))) == 3


def test_as_many_replaced_tables_are_kept_as_the_settings_say(house):
    superseded = house.features.parent / "_superseded"
    for name in ("zone_stats-1", "zone_stats-9", "zone_stats-10", "zone_stats-11", "zone_stats_more-1"):
        (superseded / name / "features").mkdir(parents=True)
    evolution._forget_superseded("zone_stats", house)
    assert sorted(path.name for path in superseded.iterdir()) == ["zone_stats-10", "zone_stats-11", "zone_stats_more-1"]

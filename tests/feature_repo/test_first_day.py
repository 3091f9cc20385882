"""That nothing is on record never means that nothing is missing."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from config import Settings
from feature_repo import live, pipeline
from feature_repo.__main__ import main
from feature_repo.lake import PartitionedTable
from feature_repo.locking import exclusive
from feature_repo.orders.schema import LANDING_SCHEMA
from feature_repo.orders.watermark import Watermark, write_watermark
from feature_repo.transforms.coverage import Coverage, CoverageLost, left_out, read_coverage, write_coverage
from feature_repo.transforms.replaced import read_replaced
from feature_repo.transforms.tables import feature_table, tile_table
from feature_repo.transforms.versions import note_span
from feature_repo.transforms.views import TRANSFORMS
from feature_repo.window import DAY, HOUR, Window
from tests.feature_repo import quick

END = datetime(2026, 5, 6, 12, tzinfo=UTC)
START = END - 20 * DAY
LAST = Window(END - HOUR, END)


@pytest.fixture(autouse=True)
def zones_only(monkeypatch: pytest.MonkeyPatch) -> None:
    quick.only(["zone_stats"], monkeypatch)


@pytest.fixture
def landed(tmp_path: Path) -> Settings:
    """An order every five hours; no Redis is needed here."""
    settings = Settings(data_dir=tmp_path / "data")
    rows = [
        {"order_id": f"o{n}", "restaurant_id": "r", "zone_id": "centre", "placed_at": at, "status": "placed"}
        | {"is_asap": True, "item_count": 1, "order_value": 9.0, "updated_at": at}
        for n in range(int((END - START) / (5 * HOUR)))
        for at in [START + 5 * n * HOUR + timedelta(minutes=12)]
    ]
    for (day,), part in pl.DataFrame(rows, schema=LANDING_SCHEMA).group_by(pl.col("updated_at").dt.date()):
        folder = settings.landing_orders / f"day={day}"
        folder.mkdir(parents=True)
        part.write_parquet(folder / "orders.parquet")
    write_watermark(settings, Watermark(END, "test", START))
    return settings


def hour(window: Window, settings: Settings) -> None:
    for step in ("ingest_orders", "validate_orders", "accept_orders", "compute_features", "publish_features"):
        getattr(pipeline, step)(window, settings)


def covered(settings: Settings) -> tuple[datetime, datetime]:
    coverage = read_coverage(settings)
    assert coverage is not None
    return coverage.start, coverage.until


def test_the_gap_of_an_empty_installation_is_all_that_has_landed(landed) -> None:
    said: list[str] = []
    told = pipeline.close_gap(LAST, landed, said.append)
    assert told["gap"] == str(Window(START, LAST.start))
    assert covered(landed) == (START, LAST.start)
    assert said[0] == f"{Window(START, LAST.start)}: not computed yet, which is done first"
    assert sum("feature rows published" in line for line in said) == 2, "a line for each chunk"


def test_stopped_under_way_it_goes_on_where_it_was(landed, monkeypatch) -> None:
    real, ends = pipeline.runs._run_offline, []

    def only_one(window, *arguments):
        ends.append(window.end)
        if len(ends) == 2:
            raise TimeoutError("the task's time is up")
        return real(window, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(pipeline.runs, "_run_offline", only_one)
        with pytest.raises(TimeoutError):
            pipeline.close_gap(LAST, landed)
    assert covered(landed) == (START, ends[0])
    assert pipeline.close_gap(LAST, landed)["gap"] == str(Window(ends[0], LAST.start))
    assert covered(landed) == (START, LAST.start)


def test_nothing_landed_or_later_only_is_no_gap(landed, tmp_path) -> None:
    assert pipeline.close_gap(Window(START, START + HOUR), landed) == {}
    empty = Settings(data_dir=tmp_path / "empty")
    assert pipeline.close_gap(LAST, empty) == {}
    assert "no orders have landed" in str(pipeline.nothing_landed(LAST, empty))
    assert "since" in str(pipeline.nothing_landed(Window(START - HOUR, START), landed))
    assert pipeline.nothing_landed(LAST, landed) is None


def test_who_begins_in_the_middle_of_a_history_is_told(landed, caplog) -> None:
    pipeline.backfill(Window(END - DAY, END), landed)
    told = str(left_out(landed))
    assert "features begin at 2026-05-05T12:00:00+00:00, although orders have landed since 2026-04-16T12:00" in told
    command = f"python -m feature_repo backfill {START.isoformat()} {END.isoformat()}"
    assert command in told
    pipeline.close_gap(Window(END, END + HOUR), landed)
    assert command in caplog.text
    assert covered(landed) == (END - DAY, END), "it is a choice, and stays"
    pipeline.backfill(Window(START, END), landed)
    assert left_out(landed) is None


def _remove(path: Path) -> None:
    path.unlink()


def _empty(path: Path) -> None:
    path.write_text("")


def _other(path: Path) -> None:
    path.write_text('{"start": "yesterday"}')


@pytest.mark.parametrize("damage", [_remove, _empty, _other])
def test_a_lost_record_is_an_error_with_advice_that_works(
    damage: Callable[[Path], None], landed, monkeypatch, capsys
) -> None:
    first = Window(START, END - DAY)
    pipeline.backfill(first, landed)
    expected = feature_table(TRANSFORMS["zone_stats"], landed).content_hash(Window(START, END))
    damage(landed.tiles / "_coverage.json")
    with pytest.raises(CoverageLost, match="restore it together with the tables") as caught:
        pipeline.close_gap(LAST, landed)
    with pytest.raises(CoverageLost):
        hour(LAST, landed)
    with pytest.raises(CoverageLost):
        pipeline.backfill(Window(START + DAY, END), landed)
    monkeypatch.setattr("feature_repo.__main__.get_settings", lambda: landed)
    command = str(caught.value).partition("`python -m feature_repo ")[2].partition("`")[0]
    assert command.startswith(f"backfill {START.isoformat()} ")
    assert main(command.split()) == 0
    assert covered(landed)[0] == START
    assert feature_table(TRANSFORMS["zone_stats"], landed).content_hash(Window(START, END)) == expected
    noted = read_replaced(landed)
    assert noted is not None
    assert noted.views == {"zone_stats"}


@pytest.mark.parametrize("writes", [0, 1, 2])
def test_a_first_run_killed_half_way_is_no_lost_record(writes, landed, monkeypatch) -> None:
    window = Window(START, START + DAY)
    for step in ("ingest_orders", "validate_orders", "accept_orders", "compute_features"):
        getattr(pipeline, step)(window, landed)
    real, calls = PartitionedTable.replace, iter(range(10))

    def dies(self, *arguments):
        if next(calls) == writes:
            raise KeyboardInterrupt
        return real(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(PartitionedTable, "replace", dies)
        with pytest.raises(KeyboardInterrupt):
            pipeline.publish_features(window, landed)
    assert covered(landed) == (START, START)
    pipeline.close_gap(Window(window.end, window.end + HOUR), landed)
    assert covered(landed) == (START, window.end)
    assert tile_table(TRANSFORMS["zone_stats"], landed).read().height


def test_a_damaged_record_of_empty_tables_can_be_deleted(landed) -> None:
    write_coverage(Coverage(START, START), landed)
    (landed.tiles / "_coverage.json").write_text("{")
    with pytest.raises(CoverageLost, match="delete it; nothing has been computed yet"):
        read_coverage(landed)


@pytest.mark.parametrize(("behind", "waits"), [(HOUR, False), (2 * HOUR, False), (3 * HOUR, True)])
def test_live_values_go_on_beside_the_run_of_an_hour_but_not_beside_one_of_the_past(behind, waits, landed) -> None:
    note_span(Window(START, END - behind), landed)
    write_coverage(Coverage(START, END - behind), landed)
    with exclusive(landed, "run", "make run"):
        assert ("are being computed (process" in str(live.why_not(END, landed))) is waits


def test_live_values_wait_for_the_past_that_is_being_computed_and_are_missed_if_it_is_not(landed) -> None:
    note_span(Window(START, START + DAY), landed)
    write_coverage(Coverage(START, START + DAY), landed)
    with exclusive(landed, "run", "backfilling"):
        assert "are being computed (process" in str(live.why_not(END, landed))
    assert live.why_not(END, landed) is None
    with pytest.raises(live.LiveUnavailable, match="the last computed hour ends at"):
        live.refresh(END, landed, online=object())

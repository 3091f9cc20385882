"""History and its continuation: the same world however it is cut, whole files, honest errors."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from simulator import landing as landing_module
from simulator.drills import Drill
from simulator.errors import SimulatorBusy, SimulatorError
from simulator.generate import REQUEST, advance, placed_between, start_drill, stop_drills, write_history
from simulator.landing import Landing
from simulator.versions import LANDING
from tests.simulator.conftest import END, known_before, landed, with_known_at

HOUR = timedelta(hours=1)


def test_equal_seeds_give_equal_rows_and_other_seeds_do_not(tmp_path):
    for name, seed in (("one", 4), ("same", 4), ("other", 5)):
        write_history(tmp_path / name, END, days=1, orders=300, seed=seed)
    assert_frame_equal(landed(tmp_path / "one"), landed(tmp_path / "same"))
    assert not landed(tmp_path / "other").equals(landed(tmp_path / "one"))


@pytest.mark.parametrize(
    "cuts_in_minutes",
    [[72 * 60], [60, 120, 180, 72 * 60], [7, 7, 61, 1_440, 1_441, 72 * 60]],
    ids=["in one call", "hour by hour", "at odd instants"],
)
def test_a_continued_history_equals_one_made_at_once(world, at_once, cuts_in_minutes):
    for minutes in cuts_in_minutes:
        advance(world, END + timedelta(minutes=minutes))
    assert_frame_equal(landed(world), at_once)
    assert Landing(world).watermark() == END + timedelta(hours=72)


def test_a_history_may_end_between_two_hours_and_microseconds(tmp_path):
    odd = END + timedelta(minutes=17, microseconds=5)
    write_history(tmp_path / "odd", odd, days=2, orders=600, seed=3)
    advance(tmp_path / "odd", odd + timedelta(microseconds=3))
    advance(tmp_path / "odd", odd + timedelta(hours=2))
    write_history(tmp_path / "once", odd + timedelta(hours=2), days=2 + 2 / 24, orders=625, seed=3)
    assert_frame_equal(landed(tmp_path / "odd"), landed(tmp_path / "once"))


def test_a_large_market_in_small_chunks_equals_the_same_in_large_chunks(tmp_path, monkeypatch):
    write_history(tmp_path / "large", END, days=2, orders=600, seed=3)
    monkeypatch.setattr("simulator.generate.ORDERS_IN_MEMORY", 40)
    write_history(tmp_path / "small", END, days=2, orders=600, seed=3)
    assert_frame_equal(landed(tmp_path / "small"), landed(tmp_path / "large"))
    assert len(list((tmp_path / "small").glob("day=*/*"))) > len(list((tmp_path / "large").glob("day=*/*")))


def test_landing_files_have_the_format_and_the_day_of_arrival(world):
    for path in world.glob("day=*/*.parquet"):
        assert dict(pl.read_parquet_schema(path)) == LANDING
        days = with_known_at(pl.read_parquet(path, hive_partitioning=False))["known_at"].dt.strftime("day=%Y-%m-%d")
        assert days.unique().to_list() == [path.parent.name]
    assert [path.name for path in sorted((world / "day=2026-04-30").iterdir())] == [
        "20260430T000000_20260501T000000.parquet"
    ]


def test_the_watermark_says_who_writes_and_until_when(world):
    assert json.loads((world / "_watermark.json").read_text()) == {
        "complete_until": "2026-05-01T00:00:00+00:00",
        "source": "simulator",
        "started_at": "2026-04-21T00:00:00+00:00",
    }


def test_nothing_known_at_or_after_the_end_is_written(world):
    assert with_known_at(landed(world))["known_at"].max() < END
    advance(world, END + timedelta(minutes=30))
    assert with_known_at(landed(world))["known_at"].max() < END + timedelta(minutes=30)


def test_an_order_under_way_at_the_end_has_its_first_version_until_it_is_finished(tmp_path):
    noon = END - timedelta(hours=11.5)
    write_history(tmp_path, noon, days=5, orders=5_000, seed=3)
    recent = placed_between(tmp_path, noon - timedelta(minutes=10), noon)
    closed = landed(tmp_path).filter(pl.col("status") != "placed")
    open_orders = recent.join(closed, on="order_id", how="anti")["order_id"].implode()
    assert len(open_orders[0]) > 0.8 * recent.height > 5
    mine = pl.col("order_id").is_in(open_orders)
    advance(tmp_path, noon + timedelta(hours=12))
    finished = landed(tmp_path).filter(mine, pl.col("status") != "placed")
    assert finished["order_id"].n_unique() == len(open_orders[0])


def test_the_summary_counts_what_was_written(tmp_path):
    summary = write_history(tmp_path, END, days=5, orders=1_500, seed=3)
    assert summary["rows"] == landed(tmp_path).height
    assert summary["files"] == len(list(tmp_path.glob("day=*/*.parquet")))
    assert summary["orders"] == pytest.approx(1_500, rel=0.2)
    more = advance(tmp_path, END + 24 * HOUR)
    assert summary["rows"] + more["rows"] == landed(tmp_path).height
    assert (more["start"], more["complete_until"]) == ("2026-05-01T00:00:00+00:00", "2026-05-02T00:00:00+00:00")


def test_progress_is_told_in_at_most_ten_lines(tmp_path):
    lines: list[str] = []
    write_history(tmp_path, END, days=12, orders=300, progress=lines.append)
    assert 5 <= len(lines) <= 10
    assert "(50 %)" in " ".join(lines)


def test_advancing_to_the_watermark_again_changes_nothing(world):
    before = landed(world)
    assert advance(world, END)["rows"] == 0
    assert_frame_equal(landed(world), before)


def test_advancing_before_the_watermark_is_refused(world):
    with pytest.raises(SimulatorError, match=r"already complete until 2026-05-01T00:00:00\+00:00.*later instant"):
        advance(world, END - HOUR)


def test_advancing_without_a_history_is_refused(tmp_path):
    with pytest.raises(SimulatorError, match=r"no finished history.*simulator history"):
        advance(tmp_path, END)


def test_an_instant_without_a_zone_is_refused(world):
    with pytest.raises(SimulatorError, match="no time zone"):
        advance(world, END.replace(tzinfo=None))


def test_a_history_over_another_one_needs_force(world):
    with pytest.raises(SimulatorError, match=r"already holds a world.*--force"):
        write_history(world, END, days=1, orders=100)
    (world / "day=2026-04-30" / "somebody-elses.parquet").write_bytes(b"")
    write_history(world, END, days=1, orders=100, force=True)
    assert sorted(path.name for path in world.glob("day=*/*")) == [
        "20260430T000000_20260501T000000.parquet",
        "somebody-elses.parquet",
    ]


def test_a_folder_of_another_source_is_refused_even_with_force(world):
    mark = world / "_watermark.json"
    mark.write_text(mark.read_text().replace('"simulator"', '"case_study"'))
    for action in (
        lambda: write_history(world, END, days=1, orders=100, force=True),
        lambda: advance(world, END + HOUR),
    ):
        with pytest.raises(SimulatorError, match=r"orders from 'case_study'.*another folder"):
            action()


@pytest.mark.parametrize("name", ["_watermark.json", "_simulator.json"])
def test_a_damaged_file_is_named(world, name):
    (world / name).write_text("{")
    with pytest.raises(SimulatorError, match=f"{name} is damaged"):
        advance(world, END + HOUR)


@pytest.mark.parametrize(("days", "orders"), [(0, 10), (10, 0)])
def test_an_empty_history_is_refused(tmp_path, days, orders):
    with pytest.raises(SimulatorError, match="above 0"):
        write_history(tmp_path, END, days=days, orders=orders)


def test_two_writers_at_once_are_refused(world):
    with Landing(world).locked(), pytest.raises(SimulatorBusy, match="another simulator is writing"):
        advance(world, END + HOUR)


def test_a_killed_advance_leaves_the_watermark_and_is_completed_by_the_next(world, at_once, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Landing, "move_watermark", killed)
        with pytest.raises(KeyboardInterrupt):
            advance(world, END + 5 * HOUR)
    assert Landing(world).watermark() == END
    assert list((world / "day=2026-05-01").iterdir()) != []
    advance(world, END + 24 * HOUR)
    assert_frame_equal(landed(world), known_before(at_once, END + 24 * HOUR))


def test_a_file_that_cannot_be_written_leaves_nothing_behind(world, monkeypatch):
    def full(*_, **__):
        raise OSError("no space left on device")

    before = (world / "_watermark.json").read_text()
    monkeypatch.setattr(pl.DataFrame, "write_parquet", full)
    with pytest.raises(OSError, match="no space left"):
        advance(world, END + 5 * HOUR)
    assert (world / "_watermark.json").read_text() == before
    assert [path.name for path in world.rglob("*.tmp")] == []
    assert not list(world.glob("day=2026-05-01/*"))


def test_a_watermark_is_replaced_in_one_rename_after_the_files(world, monkeypatch):
    written: list[str] = []
    original = landing_module._write_json

    def spy(path: Path, content):
        written.append(f"{path.name} after {len(list(world.glob('day=2026-05-0*/*.parquet')))} files")
        original(path, content)

    monkeypatch.setattr(landing_module, "_write_json", spy)
    advance(world, END + 48 * HOUR)
    assert written == ["_watermark.json after 1 files", "_watermark.json after 2 files"]


def test_an_unfinished_history_is_begun_again(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Landing, "move_watermark", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            write_history(tmp_path, END, days=3, orders=300, seed=1)
    with pytest.raises(SimulatorError, match=r"no finished history"):
        advance(tmp_path, END + HOUR)
    write_history(tmp_path, END, days=1, orders=100, seed=2)
    assert [path.name for path in tmp_path.glob("day=*")] == ["day=2026-04-30"]


def test_placed_between_gives_each_request_once(world):
    start, end = END - 12 * HOUR, END - 3 * HOUR
    requests = placed_between(world, start, end)
    expected = landed(world).filter(
        pl.col("placed_at").is_between(start, end, closed="left"), pl.col("status") == "placed"
    )
    assert requests.columns == list(REQUEST)
    assert requests["order_id"].is_unique().all()
    assert set(requests["order_id"]) == set(expected["order_id"])
    assert requests["placed_at"].is_sorted()
    assert placed_between(world, end, end).height == 0
    assert placed_between(world, END + HOUR, END + 2 * HOUR).schema == requests.schema


def test_the_oracle_is_written_apart_with_one_row_per_order(tmp_path):
    summary = write_history(tmp_path / "landing", END, days=2, orders=600, oracle=tmp_path / "oracle.parquet")
    oracle = pl.read_parquet(tmp_path / "oracle.parquet")
    assert oracle.height == summary["orders"] == oracle["order_id"].n_unique()
    assert oracle["expected_minutes"].is_between(5, 480).all()
    with pytest.raises(SimulatorError, match="lies in the landing folder"):
        advance(tmp_path / "landing", END + HOUR, oracle=tmp_path / "landing" / "oracle.parquet")


class TestDrills:
    def test_drift_lengthens_orders_from_its_start_on_and_stays(self, world, at_once):
        advance(world, END + 24 * HOUR, drill="drift")
        advance(world, END + 72 * HOUR)
        calm, drifted = _preparation(at_once), _preparation(landed(world))
        before, after = pl.col("placed_at") < END, pl.col("placed_at") >= END + 24 * HOUR
        assert_frame_equal(calm.filter(before), drifted.filter(before))
        ratio = drifted.filter(after).mean()["minutes"][0] / calm.filter(after).mean()["minutes"][0]
        assert 1.2 < ratio < 1.5
        assert drifted.filter(after)["distance_km"].mean() > 1.2 * calm.filter(after)["distance_km"].mean()

    def test_dirty_breaks_its_share_of_the_rows_and_then_stops(self, world):
        advance(world, END + 24 * HOUR, drill="dirty")
        advance(world, END + 48 * HOUR)
        rows = with_known_at(landed(world))
        broken = _is_broken(rows)
        during = pl.col("known_at").is_between(END, END + 24 * HOUR, closed="left")
        assert rows.filter(during).select(broken.mean()).item() == pytest.approx(0.3, abs=0.1)
        assert rows.filter(~during).select(broken.mean()).item() < 0.02

    def test_during_an_outage_nothing_arrives_and_afterwards_everything(self, world, at_once):
        start, end = END + 10 * HOUR, END + 15 * HOUR
        start_drill(world, Drill("outage", start, end))
        assert advance(world, END + 12 * HOUR)["complete_until"] == start.isoformat()
        assert advance(world, END + 13 * HOUR)["rows"] == 0
        assert advance(world, end)["rows"] == 0
        assert Landing(world).watermark() == start
        advance(world, END + 24 * HOUR)
        rows, calm = with_known_at(landed(world)), with_known_at(known_before(at_once, END + 24 * HOUR))
        assert_frame_equal(*(_versions(frame) for frame in (rows, calm)))
        held = calm["known_at"].is_between(start, end, closed="left").sum()
        assert held > 20
        assert (rows["known_at"] == end).sum() == held
        assert rows["known_at"].is_between(start, end, closed="left").sum() == 0

    def test_an_outage_by_name_lasts_until_the_given_instant(self, world):
        assert advance(world, END + 20 * HOUR, drill="outage")["rows"] == 0
        assert Landing(world).watermark() == END
        assert advance(world, END + 21 * HOUR)["rows"] > 0

    def test_stopped_drills_leave_the_future_as_it_would_have_been(self, world, at_once):
        start_drill(world, Drill("drift", END))
        start_drill(world, Drill("dirty", END + HOUR))
        assert stop_drills(world) == 2
        advance(world, END + 24 * HOUR)
        assert_frame_equal(landed(world), known_before(at_once, END + 24 * HOUR))

    def test_a_drill_cannot_change_the_past(self, world):
        with pytest.raises(SimulatorError, match="already written: start it later"):
            advance(world, END + HOUR, drill=Drill("drift", END - HOUR))

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("flood", END), "unknown drill 'flood': choose one of drift, dirty, outage"),
            (("outage", END), "an outage needs an end"),
            (("drift", END, END), "not after its start"),
            (("dirty", END, None, 1.5), "share 1.5 is not above 0 and at most 1"),
        ],
    )
    def test_a_senseless_drill_is_refused(self, arguments, message):
        with pytest.raises(SimulatorError, match=message):
            Drill(*arguments)


def _preparation(rows: pl.DataFrame) -> pl.DataFrame:
    minutes = (pl.col("picked_up_at") - pl.col("accepted_at")).dt.total_seconds() / 60
    picked = rows.filter(pl.col("picked_up_at").is_not_null(), pl.col("distance_km") < 100, pl.col("is_asap"))
    return picked.select("order_id", "placed_at", "distance_km", minutes=minutes).unique("order_id").sort("order_id")


def _versions(rows: pl.DataFrame) -> pl.DataFrame:
    kept = rows.drop("arrived_at", "known_at")
    return kept.sort(kept.columns)


def _is_broken(rows: pl.DataFrame) -> pl.Expr:
    return (
        pl.col("restaurant_id").is_null()
        | ~pl.col("status").is_in(["placed", "delivered", "cancelled"])
        | (pl.col("distance_km") > 100).fill_null(False)
        | (pl.col("order_value") < 0)
        | (pl.col("item_count") < 1)
    )

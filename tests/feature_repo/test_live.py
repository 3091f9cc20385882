"""Live views between the hourly runs: what is online two minutes later is what the hourly run computes afterwards."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from config import Settings
from feature_repo import live, pipeline
from feature_repo.__main__ import main
from feature_repo.orders.landing import SourceNotReady
from feature_repo.orders.schema import LANDING_SCHEMA, orders_table
from feature_repo.orders.watermark import Watermark, write_watermark
from feature_repo.store import apply, feature_store
from feature_repo.stores.redis_online import LatestWinsRedisOnlineStore
from feature_repo.transforms.spec import LIVE_STEP
from feature_repo.transforms.tables import CREATED, EVENT_TIME, feature_table
from feature_repo.transforms.views import LIVE
from feature_repo.window import DAY, HOUR, Moments, Window
from tests.conftest import free_port

LAST = datetime(2026, 5, 1, 18, tzinfo=UTC)
START = LAST - 5 * HOUR
MINUTE = timedelta(minutes=1)
ZONE_LIVE = LIVE["zone_live"]
VALUES = list(ZONE_LIVE.features)


def order(number: int, placed: datetime, **changes: object) -> dict:
    return {
        "order_id": f"order-{number}",
        "restaurant_id": "r",
        "zone_id": f"zone-{number % 2}",
        "placed_at": placed,
        "status": "placed",
        "is_asap": number % 5 != 0,
        "item_count": 2,
        "updated_at": placed,
    } | changes


def versions(until: datetime) -> list[dict]:
    """An order every three minutes; each is delivered after 17 minutes by one of three drivers."""
    rows = []
    for number in range(int((until - START) / (3 * MINUTE)) + 1):
        placed = START + number * 3 * MINUTE
        delivered = placed + 17 * MINUTE
        rows.append(order(number, placed))
        done = {"status": "delivered", "delivered_at": delivered, "updated_at": delivered}
        rows.append(rows[-1] | done | {"driver_id": f"d{number % 3}"})
    return [row for row in rows if row["updated_at"] < until]


def land(rows: list[dict], settings: Settings, until: datetime, file: str = "orders") -> None:
    frame = pl.DataFrame(rows, schema=LANDING_SCHEMA)
    for (day,), part in frame.group_by(pl.col("updated_at").dt.strftime("%Y-%m-%d")):
        folder = settings.landing_orders / f"day={day}"
        folder.mkdir(parents=True, exist_ok=True)
        part.write_parquet(folder / f"{file}.parquet")
    write_watermark(settings, Watermark(until, "test", START))


@pytest.fixture(scope="module")
def computed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory in which all hours but the last are computed; orders have landed until its end."""
    made = Settings(data_dir=tmp_path_factory.mktemp("computed"))
    land(versions(LAST), made, LAST)
    pipeline.backfill(Window(START, LAST - HOUR), made)
    return made.data_dir


@pytest.fixture
def running(computed: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A copy of it, with an empty Redis. It is the end of the last hour now."""
    monkeypatch.setattr(LatestWinsRedisOnlineStore, "_now", lambda _: LAST)
    shutil.copytree(computed, settings.data_dir, dirs_exist_ok=True)
    apply(settings)
    return settings


def online(settings: Settings) -> dict[str, dict]:
    """What Feast reads of the two zones, by zone; its store enforces the time to live."""
    zones = [{"zone_id": f"zone-{number}"} for number in range(2)]
    answer = feature_store(settings).get_online_features([f"zone_live:{name}" for name in VALUES], zones).to_df()
    return {row.pop("zone_id"): row for row in answer[["zone_id", *VALUES]].to_dict("records")}


def test_each_refresh_writes_what_the_hourly_run_computes_afterwards(running: Settings):
    steps = [LAST - HOUR + minutes * MINUTE for minutes in (2, 4, 6, 30, 60)]
    for step in steps:
        told = live.refresh(step, running)
        assert told == {"as_of": step.isoformat(), "rows": {"zone_live": 2}}
    last = Window(LAST - HOUR, LAST)
    results = pipeline.run_window(last, running)
    served = results["audit"]["live"]["zone_live"]
    assert results["audit"]["passed"], results["audit"]["reasons"]
    assert served["refreshes"] == len(steps)
    offline = feature_table(ZONE_LIVE, running).read().filter(pl.col(EVENT_TIME).is_in(steps))
    assert served["compared"] >= offline.height * len(VALUES) > 0
    assert served["different"] == 0


def test_what_is_online_is_what_the_orders_say(running: Settings):
    live.refresh(LAST, running)
    known = [row for row in versions(LAST) if row["updated_at"] < LAST]
    for zone, found in online(running).items():
        mine = [row for row in known if row["zone_id"] == zone]
        delivered = {row["order_id"] for row in mine if row["status"] == "delivered"}
        waiting = [row for row in mine if row["status"] == "placed" and row["order_id"] not in delivered]
        recent = [row for row in mine if row["updated_at"] >= LAST - HOUR]
        assert found["open_order_count"] == len(waiting) > 0
        assert found["open_asap_order_count"] == sum(row["is_asap"] for row in waiting)
        assert found["order_count_60m"] == sum(row["status"] == "placed" for row in recent)
        assert found["active_driver_count"] == 3
        assert found["delivery_minutes_mean_60m"] == 17


def test_a_row_is_promised_two_minutes_later_and_training_does_not_see_it_before(running: Settings):
    import pandas as pd

    pipeline.run_window(Window(LAST - HOUR, LAST), running)
    rows = feature_table(ZONE_LIVE, running).read().filter(pl.col("zone_id") == "zone-0").sort(EVENT_TIME)
    assert (rows[CREATED] - rows[EVENT_TIME]).unique().to_list() == [2 * MINUTE]
    step, before = rows.row(-1, named=True), rows.row(-2, named=True)
    assert step["order_count_60m"], before["order_count_60m"]
    promised = step[EVENT_TIME] + 2 * MINUTE
    asked = pd.DataFrame({"zone_id": ["zone-0"] * 2, "event_timestamp": [promised - MINUTE, promised]})
    got = feature_store(running).get_historical_features(asked, [f"zone_live:{name}" for name in VALUES]).to_df()
    for name in VALUES:
        assert got[name].to_list() == pytest.approx([before[name], step[name]]), name


def test_a_bad_version_is_not_counted(running: Settings):
    live.refresh(LAST, running)
    good = online(running)
    bad = order(9_002, LAST - 5 * MINUTE, item_count=0)
    land([bad], running, LAST, "bad")
    live.refresh(LAST, running)
    assert online(running) == good
    land([bad | {"item_count": 1}], running, LAST, "bad")
    live.refresh(LAST, running)
    assert online(running)["zone-0"]["order_count_60m"] == good["zone-0"]["order_count_60m"] + 1


def test_values_that_differ_from_the_offline_rows_are_told(running: Settings):
    step = LAST - 30 * MINUTE
    rows = live.rows_until(step, running)
    wrong = {"zone_live": rows["zone_live"].with_columns(pl.col("open_order_count") + 1)}
    live.bring_online(wrong, step, running, live.Online(running))
    results = pipeline.run_window(Window(LAST - HOUR, LAST), running)
    assert not results["audit"]["passed"]
    served = results["audit"]["live"]["zone_live"]
    assert 0 < served["different"] <= served["compared"] / len(VALUES)
    assert served["examples"][0]["open_order_count"] == served["examples"][0]["open_order_count__offline"] + 1
    assert "zone_live: " in results["audit"]["reasons"][-1]
    assert "differ from the offline rows" in results["audit"]["reasons"][-1]


def test_the_lake_and_the_offline_rows_stay_as_they_were(running: Settings):
    tables = [orders_table(running), feature_table(ZONE_LIVE, running)]
    before = [table.content_hash() for table in tables]
    live.refresh(LAST, running)
    assert [table.content_hash() for table in tables] == before


def test_a_refresh_fills_an_empty_store_also_when_the_last_hour_has_just_been_computed(running: Settings):
    pipeline.backfill(Window(LAST - HOUR, LAST), running)
    assert all(row["open_order_count"] is None for row in online(running).values())
    assert live.refresh(LAST, running)["rows"] == {"zone_live": 2}
    assert all(row["open_order_count"] > 0 for row in online(running).values())


def test_orders_that_have_not_landed_are_waited_for(running: Settings):
    with pytest.raises(SourceNotReady, match="complete until"):
        live.refresh(LAST + LIVE_STEP, running)


def test_no_row_is_written_of_a_time_that_has_not_come_whatever_the_source_vouches_for(running: Settings):
    live.refresh(LAST, running)
    good = online(running)
    land(versions(LAST), running, LAST + HOUR)
    with pytest.raises(
        live.LiveUnavailable, match=r"2026-05-01T18:02:00\+00:00 has not come yet, it is 2026-05-01T18:00"
    ):
        live.refresh(LAST + LIVE_STEP, running)
    assert online(running) == good
    assert live.landed_until(running, now=LAST + MINUTE) == LAST


def test_without_a_computed_hour_or_far_behind_it_says_what_has_to_run_first(settings: Settings):
    land(versions(LAST), settings, LAST)
    assert live.why_not(LAST, settings) == "no hour has been computed yet"
    with pytest.raises(live.LiveUnavailable, match="first run of the hourly pipeline"):
        live.refresh(LAST, settings)
    pipeline.backfill(Window(START, START + HOUR), settings)
    assert live.why_not(LAST, settings) is None
    assert "does not send those of these minutes" in str(live.why_not(LAST + 2 * HOUR, settings))
    later = START + HOUR + live.LONGEST_TAIL + LIVE_STEP
    with pytest.raises(live.LiveUnavailable, match="run the hourly pipeline first"):
        live.refresh(later, settings)


def test_a_view_that_is_not_registered_is_named(computed: Path, settings: Settings):
    shutil.copytree(computed, settings.data_dir, dirs_exist_ok=True)
    with pytest.raises(live.LiveUnavailable, match=r"\['zone_live'\] are not registered: run `feast"):
        live.refresh(LAST, settings)


def test_an_instant_between_two_steps_is_refused(running: Settings):
    with pytest.raises(ValueError, match="not on a full step"):
        live.refresh(LAST - MINUTE, running)


def test_a_dead_redis_is_named(running: Settings, monkeypatch: pytest.MonkeyPatch):
    from config import get_settings

    port = free_port()
    monkeypatch.setenv("ETA_REDIS_URL", f"redis://127.0.0.1:{port}/0")
    get_settings.cache_clear()
    with pytest.raises(ConnectionError, match=rf"127\.0\.0\.1:{port}"):
        live.refresh(LAST, get_settings())


class Clock:
    """A clock that is moved by waiting, and orders that land with it."""

    def __init__(self, now: datetime, settings: Settings, delay: timedelta) -> None:
        self.now, self.settings, self.delay = now, settings, delay

    def __call__(self) -> datetime:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += timedelta(seconds=max(seconds, 1))
        land(versions(self.now - self.delay), self.settings, self.now - self.delay)


def test_following_refreshes_each_step_as_soon_as_its_orders_have_landed(running: Settings, monkeypatch):
    done: list[tuple[datetime, datetime]] = []
    clock = Clock(LAST - 20 * MINUTE, running, 45 * timedelta(seconds=1))
    monkeypatch.setattr(live, "POLL_SECONDS", 15)
    refresh = live.refresh

    def noted(as_of, settings, online):
        told = refresh(as_of, settings, online)
        done.append((as_of, clock.now - as_of))
        return told

    monkeypatch.setattr(live, "refresh", noted)
    write_watermark(running, Watermark(clock.now - clock.delay, "test", START))
    told = live.follow(LAST - 12 * MINUTE, running, clock, clock.wait)
    assert told == {"refreshed": 4, "left_out": 0}
    assert [as_of for as_of, _ in done] == [LAST - minutes * MINUTE for minutes in (20, 18, 16, 14)]
    assert all(timedelta() <= late <= MINUTE for _, late in done)


def test_a_source_that_is_later_than_a_step_costs_steps_and_one_that_is_silent_is_an_error(running, monkeypatch):
    monkeypatch.setattr(live, "POLL_SECONDS", 30)
    clock = Clock(LAST - 20 * MINUTE, running, delay=HOUR)
    write_watermark(running, Watermark(LAST - HOUR, "test", START))
    with pytest.raises(SourceNotReady, match="complete until"):
        live.follow(LAST - 16 * MINUTE, running, clock, clock.wait)
    with pytest.raises(live.LiveUnavailable, match="the next run does the later ones"):
        live.follow(LAST - 16 * MINUTE, running, clock, clock.wait)


def test_what_was_written_is_forgotten_after_a_week(running: Settings):
    table = live._written_table(ZONE_LIVE, running)
    kept = LAST.replace(hour=0) - live.KEPT_FOR
    old = [kept - DAY, kept - 30 * DAY]  # with days between on which nothing was written or forgotten
    for day in (*old, kept):
        row = dict.fromkeys(table.schema) | {live.WRITTEN_AT: day, "zone_id": "z"}
        table.replace(Moments(day, day + MINUTE), pl.DataFrame([row], schema=table.schema))
    live.refresh(LAST, running)
    assert not any(table.file(day).exists() for day in old)
    assert table.file(kept).exists()


def test_the_command_refreshes_up_to_what_has_landed(running: Settings, capsys: pytest.CaptureFixture[str]):
    assert main(["refresh"]) == 0
    assert f'"as_of": "{LAST.isoformat()}"' in capsys.readouterr().out
    assert main(["refresh", "--as-of", (LAST - MINUTE).isoformat()]) == 1
    assert "not on a full step" in capsys.readouterr().err

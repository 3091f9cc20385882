"""Whatever is replaced offline is taken back online, without a moment of emptiness and wherever a process is killed."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
import redis
from feast.infra.online_stores.helpers import _mmh3
from feast.protos.feast.types.Value_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp

from config import Settings
from feature_repo import live, pipeline
from feature_repo.__main__ import main
from feature_repo.lake import PartitionedTable
from feature_repo.orders.schema import LANDING_SCHEMA, orders_table
from feature_repo.orders.watermark import Watermark, write_watermark
from feature_repo.store import apply, feature_store
from feature_repo.stores import audit, retract
from feature_repo.stores.encoding import stamps
from feature_repo.stores.held import decoded_key, held_keys
from feature_repo.stores.redis_write import stamp_field
from feature_repo.transforms import replaced
from feature_repo.transforms.coverage import read_coverage
from feature_repo.transforms.views import LIVE, TRANSFORMS
from feature_repo.window import DAY, HOUR, Window
from tests.feature_repo import quick

END = datetime(2026, 5, 6, 12, tzinfo=UTC)  # a Wednesday
START = END - 3 * DAY
LAST = Window(END - HOUR, END)
WHOLE = Window(START, END)
VIEWS = ("customer_stats", "zone_live")
EVENT = "_ts:customer_stats"


def _only_what_matters(patched: pytest.MonkeyPatch) -> None:
    """A view with a weekly beat and a lifetime, and a live one."""
    quick.only(VIEWS, patched)


@pytest.fixture(autouse=True)
def two_views(monkeypatch: pytest.MonkeyPatch) -> None:
    _only_what_matters(monkeypatch)


def versions() -> list[dict[str, Any]]:
    """Five orders a day of each of four customers; that of `late` is under way when the last hour begins."""
    rows = []
    placed = [(START + 5 * number * HOUR + timedelta(minutes=7), number % 4) for number in range(14)]
    for number, (at, customer) in enumerate([*placed, (LAST.start - timedelta(minutes=20), "late")]):
        base = {
            "order_id": f"order-{number}",
            "restaurant_id": "r",
            "customer_id": f"customer-{customer}",
            "zone_id": "centre",
            "placed_at": at,
            "status": "placed",
            "is_asap": True,
            "item_count": 2,
            "order_value": 20.0,
            "updated_at": at,
        }
        delivered = at + timedelta(minutes=31)
        done = {"status": "delivered", "delivered_at": delivered, "updated_at": delivered, "driver_id": "d"}
        rows += [base, base | done]
    return rows


def land(rows: list[dict[str, Any]], settings: Settings, until: datetime = END) -> None:
    frame = pl.DataFrame(rows, schema=LANDING_SCHEMA)
    for (day,), part in frame.group_by(pl.col("updated_at").dt.strftime("%Y-%m-%d")):
        folder = settings.landing_orders / f"day={day}"
        folder.mkdir(parents=True, exist_ok=True)
        part.write_parquet(folder / "orders.parquet")
    write_watermark(settings, Watermark(until, "test", START))


@pytest.fixture
def landed(settings: Settings) -> Settings:
    land(versions(), settings)
    apply(settings)
    return settings


@pytest.fixture(scope="module")
def computed_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A data directory in which all hours are computed."""
    made = Settings(data_dir=tmp_path_factory.mktemp("computed"))
    land(versions(), made)
    with pytest.MonkeyPatch.context() as patched:
        _only_what_matters(patched)
        pipeline.backfill(WHOLE, made)
        yield made.data_dir


@pytest.fixture
def computed(computed_once: Path, settings: Settings) -> Settings:
    """A copy of it, materialised."""
    shutil.copytree(computed_once, settings.data_dir, dirs_exist_ok=True)
    apply(settings)
    pipeline.materialize(LAST, settings)
    return settings


@pytest.fixture
def removals(settings: Settings) -> Callable[[], set[str]]:
    """Returns the entities of which anything has been removed from Redis since the test began."""
    client = redis.Redis.from_url(settings.redis_url)
    client.config_set("notify-keyspace-events", "Egh")
    listener = client.pubsub()
    listener.psubscribe("__keyevent@*__:*")
    gone: set[str] = set()

    def read() -> set[str]:
        client.publish("__keyevent@0__:end", "end")
        while (message := listener.get_message(timeout=30)) is not None and message["data"] != b"end":
            if message["type"] == "pmessage" and message["channel"].rpartition(b":")[2] in (b"hdel", b"del"):
                gone.update(decoded_key(message["data"], "delivery_eta").values())
        return gone

    return read


def hourly(window: Window, settings: Settings) -> dict[str, Any]:
    """The steps of an hour, and nothing of what is before it."""
    for step in ("ingest_orders", "validate_orders", "accept_orders", "compute_features", "publish_features"):
        getattr(pipeline, step)(window, settings)
    return pipeline.materialize(window, settings)


def faults(settings: Settings) -> list[str]:
    """What the audit of all keys finds wrong."""
    report = audit.audit(END, settings, sample=10_000)
    assert report.compared > 0
    return report.reasons


def customers(settings: Settings) -> dict[str, datetime]:
    """The event time of each customer's online row."""
    client, found = redis.Redis.from_url(settings.redis_url), {}
    for keys in held_keys(client, ["customer_id"], "delivery_eta", 100):
        for key in keys:
            if raw := client.hget(key, EVENT):
                found[decoded_key(key, "delivery_eta")["customer_id"]] = Timestamp.FromString(raw).ToDatetime(UTC)
    return found


def test_a_first_hour_without_history_is_taken_back_by_the_backfill(landed, removals) -> None:
    hourly(LAST, landed)
    assert customers(landed) == {"customer-late": END}
    pipeline.backfill(WHOLE, landed)
    told = pipeline.materialize(LAST, landed)
    assert faults(landed) == []
    assert customers(landed)["customer-late"] == LAST.start
    assert told["reconciled"]["customer_stats"]["overwritten"] == 1
    assert removals() == set()
    assert replaced.read_replaced(landed) is None


def _other_customer(settings: Settings) -> None:
    """The last hour's order was somebody else's: its rows are corrected in the landing folder."""
    named = [row | {"customer_id": "customer-true"} if row["order_id"] == "order-13" else row for row in versions()]
    land(named, settings)


def _corrected(settings: Settings) -> None:
    _other_customer(settings)
    pipeline.backfill(WHOLE, settings)


def _recomputed(settings: Settings) -> None:
    table = orders_table(settings)
    table.replace(WHOLE, table.read(WHOLE).filter(pl.col("customer_id") != "customer-1"))
    pipeline.recompute_features(WHOLE, settings)


def _run_again(settings: Settings) -> None:
    hour = Window(END - 3 * HOUR, END)
    rows = [row for row in versions() if row["updated_at"] < hour.start]
    land(rows, settings)
    pipeline.ingest_orders(WHOLE, settings)
    pipeline.validate_orders(WHOLE, settings)
    pipeline.accept_orders(WHOLE, settings)
    pipeline.recompute_features(hour, settings)


@pytest.mark.parametrize(
    ("change", "removed"),
    [(_corrected, {"customer-1"}), (_recomputed, {"customer-1"}), (_run_again, {"customer-late"})],
)
def test_what_a_change_of_the_past_replaces_is_taken_back(change, removed, computed, removals) -> None:
    change(computed)
    pipeline.materialize(LAST, computed)
    assert faults(computed) == []
    assert removals() <= removed


def test_a_rebuild_takes_back_the_rows_of_the_former_definition(landed, monkeypatch, removals) -> None:
    weekly = TRANSFORMS["customer_stats"]
    with monkeypatch.context() as before:
        before.setitem(TRANSFORMS, "customer_stats", replace(weekly, beat=DAY))
        pipeline.backfill(WHOLE, landed)
        pipeline.materialize(LAST, landed)
    pipeline.rebuild("customer_stats", landed)
    pipeline.materialize(LAST, landed)
    assert faults(landed) == []
    assert removals() == set()


def test_an_ordinary_hour_reconciles_nothing(computed, monkeypatch) -> None:
    land(versions(), computed, END + HOUR)
    monkeypatch.setattr(retract, "reconcile", lambda *_: pytest.fail("costs a look at every key"))
    told = hourly(Window(END, END + HOUR), computed)
    assert list(told) == ["rows"]
    assert list(hourly(Window(END, END + HOUR), computed)) == ["rows"], "nor does the same hour again"


class Killed(BaseException):
    """As a kill: no `except Exception` sees it."""


def _kill_in(owner: Any, name: str, call: int) -> Callable[[pytest.MonkeyPatch], None]:
    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        real, calls = getattr(owner, name), iter(range(1000))

        def dies(*arguments: Any, **named: Any) -> Any:
            if next(calls) == call:
                raise Killed
            return real(*arguments, **named)

        monkeypatch.setattr(owner, name, dies)

    return patch


KILLS = {
    "before the first row is replaced": _kill_in(PartitionedTable, "replace", 2),
    "half-way through the rows": _kill_in(PartitionedTable, "replace", 4),
    "after the rows": _kill_in(pipeline.online, "_write_newest", 0),
    "before anything is taken back": _kill_in(retract, "reconcile", 0),
    "between two views": _kill_in(retract, "reconcile", 1),
    "before the note is taken away": _kill_in(replaced, "forget_replaced", 0),
}


def _backfill_and_materialize(settings: Settings) -> None:
    pipeline.backfill(WHOLE, settings)
    pipeline.materialize(LAST, settings)


@pytest.mark.parametrize("name", KILLS)
def test_killed_anywhere_it_is_completed_by_the_next_run(name, computed, monkeypatch, removals) -> None:
    _other_customer(computed)
    with monkeypatch.context() as patched:
        KILLS[name](patched)
        with pytest.raises(Killed):
            _backfill_and_materialize(computed)
    write_watermark(computed, Watermark(END + HOUR, "test", START))
    told = pipeline.run_window(Window(END, END + HOUR), computed)
    assert told["audit"]["passed"], told["audit"]["reasons"]
    assert audit.audit(END + HOUR, computed, sample=10_000).reasons == []
    assert removals() <= {"customer-1"}


def test_hours_that_are_being_computed_again_do_not_take_online_back_to_the_past(computed, removals) -> None:
    before = customers(computed)
    rows = [row | {"order_value": 25.0} if row["order_id"] == "order-3" else row for row in versions()]
    land(rows, computed)
    first, rest = Window(START, START + DAY), Window(START + DAY, END)
    pipeline.backfill(first, computed)
    told = pipeline.materialize(first, computed)
    assert "have to be computed again" in told["not_reconciled"]
    with pytest.raises(
        pipeline.NotComputedAgain, match=re.escape(f"backfill {first.end.isoformat()} {END.isoformat()}")
    ):
        pipeline.reconcile(computed)
    assert customers(computed) == before
    pipeline.backfill(rest, computed)
    assert "reconciled" in pipeline.materialize(LAST, computed)
    assert faults(computed) == []
    assert removals() == set()


def _stamp(settings: Settings, view: str, keys: dict[str, str], at: datetime, feature: str) -> None:
    """Write a row that no run has computed, as one of ours with a wrong clock would."""
    client = redis.Redis.from_url(settings.redis_url)
    (join_key,) = keys
    for found in held_keys(client, [join_key], "delivery_eta", 100):
        for key in found:
            if decoded_key(key, "delivery_eta") == keys:
                instant = pa.array([at], pa.timestamp("us", "UTC"))
                stamp = stamps(instant, instant)[0].as_py()
                value = Value(int64_val=99).SerializeToString()
                row = {f"_ts:{view}": stamp[16:], stamp_field(view): stamp, _mmh3(f"{view}:{feature}"): value}
                client.hset(key, mapping=row)


@pytest.mark.parametrize("years", [1, 70, 5000])
def test_a_row_of_the_future_is_found_and_healed(years, computed, capsys, removals) -> None:
    future = END.replace(year=END.year + years)
    _stamp(computed, "customer_stats", {"customer_id": "customer-2"}, future, "order_count_30d")
    _stamp(computed, "zone_live", {"zone_id": "centre"}, future, "order_count_30m")
    pipeline.materialize(LAST, computed)
    assert main(["audit", "--all"]) == 1
    told = capsys.readouterr().err
    assert "customer_stats__order_count_30d: 1 of 5 values extra" in told
    assert "customer-2" in told
    assert "zone_live__" in told
    assert "python -m feature_repo reconcile" in told
    assert main(["reconcile"]) == 0
    assert main(["audit", "--all"]) == 0
    assert removals() == set()


def test_what_offline_has_never_had_is_found_and_removed_and_nothing_else(computed, removals) -> None:
    client = redis.Redis.from_url(computed.redis_url)
    (keys,) = held_keys(client, ["customer_id"], "delivery_eta", 100)
    ghost = keys[0].replace(b"customer-", b"stranger-")
    other = keys[0].removesuffix(b"delivery_eta") + b"my_delivery_eta"
    for key in (ghost, other):
        client.copy(keys[0], key)
    assert any(reason.startswith("customer_stats__") and "extra" in reason for reason in faults(computed))
    pipeline.reconcile(computed)
    assert faults(computed) == []
    assert not client.exists(ghost)
    assert client.exists(other), "another project's"
    assert all(name.startswith("stranger-") for name in removals())


def test_live_values_of_after_the_last_hour_stay(computed, removals) -> None:
    at = END + timedelta(minutes=20)
    order = versions()[0] | {"order_id": "new", "placed_at": END, "updated_at": END + timedelta(minutes=1)}
    land([*versions(), order], computed, at)
    live.refresh(at, computed)
    client = redis.Redis.from_url(computed.redis_url)
    (keys,) = held_keys(client, ["zone_id"], "delivery_eta", 100)
    before = {key: client.hgetall(key) for key in keys}
    assert pipeline.reconcile(computed)["reconciled"]["zone_live"]["held"] == 1
    assert {key: client.hgetall(key) for key in keys} == before
    assert faults(computed) == []
    assert removals() == set()


def test_what_is_written_between_judgement_and_correction_stays(computed, monkeypatch) -> None:
    _stamp(computed, "customer_stats", {"customer_id": "customer-2"}, END + DAY, "order_count_30d")
    real, right = retract._Rows.offline, []

    def meanwhile(self, keys, period):
        if self.view.name == "customer_stats" and not right:
            right.append("written")
            _stamp(computed, "customer_stats", {"customer_id": "customer-2"}, END + 2 * DAY, "order_count_30d")
        return real(self, keys, period)

    exchanged = []
    exchange = retract._Rows.exchange
    monkeypatch.setattr(retract._Rows, "offline", meanwhile)
    monkeypatch.setattr(retract._Rows, "exchange", lambda *given: exchanged.append(exchange(*given)) or exchanged[-1])
    pipeline.reconcile(computed)
    assert exchanged == [False, True], "the first saw another row than the one that was judged"
    assert faults(computed) == []


def test_more_keys_than_a_batch_holds(computed, monkeypatch) -> None:
    monkeypatch.setattr(retract, "KEYS_PER_BATCH", 2)
    monkeypatch.setattr(retract, "READS_PER_ROUND_TRIP", 1)
    for number in range(4):
        _stamp(computed, "customer_stats", {"customer_id": f"customer-{number}"}, END + DAY, "order_count_30d")
    assert pipeline.reconcile(computed)["reconciled"]["customer_stats"] == {
        "held": 5,
        "overwritten": 4,
        "removed": 0,
        "left": 0,
    }
    assert faults(computed) == []


def test_a_damaged_note_says_what_to_do(computed) -> None:
    (computed.features / "_replaced.json").write_text("{")
    with pytest.raises(replaced.ReplacedUnknown, match=r"delete it.*python -m feature_repo reconcile"):
        pipeline.materialize(LAST, computed)


def test_nothing_computed_is_nothing_to_hold_online_against(landed) -> None:
    with pytest.raises(RuntimeError, match="nothing has been computed yet"):
        pipeline.reconcile(landed)
    assert main(["audit", "--all"]) == 1


def test_the_first_hour_computes_all_that_has_landed(landed) -> None:
    told = pipeline.run_window(LAST, landed)
    coverage = read_coverage(landed)
    assert coverage is not None
    assert (coverage.start, coverage.until) == (START, END)
    assert told["audit"]["passed"]
    assert faults(landed) == []
    assert set(customers(landed)) == {*(f"customer-{number}" for number in range(4)), "customer-late"}
    assert feature_store(landed).list_feature_views()
    assert set(LIVE) == {"zone_live"}

"""The steps, one by one and all together, on landed orders, with a real Redis."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from config import Settings, get_settings
from feature_repo import pipeline
from feature_repo.__main__ import main
from feature_repo.catalog import batch_views
from feature_repo.locking import AnotherRunHolds, exclusive
from feature_repo.orders.landing import SourceNotReady
from feature_repo.orders.schema import LANDING_SCHEMA, orders_table, quarantine_table
from feature_repo.orders.watermark import Watermark, write_watermark
from feature_repo.quality import features as quality
from feature_repo.store import apply, feature_store
from feature_repo.transforms.tables import feature_table
from feature_repo.transforms.versions import DefinitionChanged
from feature_repo.transforms.views import TRANSFORMS
from feature_repo.window import DAY, HOUR, Window, floor_hour
from tests.conftest import free_port

# Up to last midnight: reading through Feast applies the TTL by the real clock.
END = floor_hour(datetime.now(UTC)).replace(hour=0)
START = END - 2 * DAY
WINDOW = Window(START, END)


def landed_versions(until: datetime = END) -> pl.DataFrame:
    """An order every twenty minutes, each in two versions: placed, and 31 minutes later delivered."""
    rows = []
    for number in range(int((until - START) / timedelta(minutes=20))):
        placed = START + number * timedelta(minutes=20)
        base = {
            "order_id": f"order-{number}",
            "restaurant_id": f"restaurant-{number % 4}",
            "customer_id": f"customer-{number % 9}",
            "zone_id": "centre",
            "placed_at": placed,
            "status": "placed",
            "is_asap": True,
            "distance_km": 2.5,
            "item_count": 2,
            "order_value": 20.0,
            "updated_at": placed,
        }
        delivered = placed + timedelta(minutes=31)
        rows.append(base)
        if delivered < until:
            rows.append(base | {"status": "delivered", "delivered_at": delivered, "updated_at": delivered})
            rows[-1] |= {"driver_id": "driver-1", "accepted_at": placed, "picked_up_at": placed + timedelta(minutes=9)}
    return pl.DataFrame(rows, schema=LANDING_SCHEMA)


def land(versions: pl.DataFrame, settings: Settings, until: datetime = END) -> None:
    for (day,), part in versions.group_by(pl.col("updated_at").dt.strftime("%Y-%m-%d")):
        folder = settings.landing_orders / f"day={day}"
        folder.mkdir(parents=True, exist_ok=True)
        part.write_parquet(folder / "orders.parquet")
    write_watermark(settings, Watermark(until, "test", START))


def test_a_backfill_and_an_hour_bring_orders_online(settings: Settings):
    land(landed_versions(), settings)
    apply(settings)
    said: list[str] = []
    first = Window(START, END - HOUR)
    total = pipeline.backfill(first, settings, said.append)
    assert total["ingested"] == total["accepted"] == landed_versions(END - HOUR).height
    assert total["quarantined"] == 0
    assert any("feature rows published" in line for line in said)
    results = pipeline.run_window(Window(END - HOUR, END), settings, said.append)
    assert results["audit"]["passed"], results["audit"]
    assert results["materialize"]["rows"]["restaurant_stats"] == 4
    noon = END.replace(hour=12)
    online = feature_store(settings).get_online_features(
        features=[
            "restaurant_stats:order_count_7d",
            "zone_stats:open_order_count",
            "request_features:is_peak_hour",
            "request_features:hour_of_day_cos",
            "request_features:order_value_to_restaurant_mean",
        ],
        entity_rows=[
            {"restaurant_id": "restaurant-0", "zone_id": "centre", "placed_at": noon, "order_value": 30.0}
            | {"distance_km": 1.0, "item_count": 1, "promised_minutes": 30.0}
        ],
    )
    values = {name: value[0] for name, value in online.to_dict().items()}
    assert values["order_count_7d"] == 36
    assert values["open_order_count"] == 1
    assert (values["is_peak_hour"], values["hour_of_day_cos"]) == (1, -1.0)
    assert values["order_value_to_restaurant_mean"] == 1.5


def test_an_old_hour_can_be_run_again(settings: Settings):
    land(landed_versions(), settings)
    apply(settings)
    pipeline.backfill(Window(START, END - 2 * HOUR), settings, lambda _: None)
    old, new = Window(END - 2 * HOUR, END - HOUR), Window(END - HOUR, END)
    for window in (old, new, old):
        audit = pipeline.run_window(window, settings, lambda _: None)["audit"]
        assert audit["passed"], (window, audit)
        assert audit["compared"] > 0
    assert audit["as_of"] == END.isoformat()


def test_a_refused_batch_is_kept_and_changes_nothing_else(settings: Settings):
    land(landed_versions().with_columns(order_value=pl.lit(-1.0)), settings)
    with pytest.raises(
        pipeline.BatchStopped, match=r"the orders of .* were refused by .*: \d+ rows are kept in"
    ) as stop:
        pipeline.backfill(WINDOW, settings, lambda _: None)
    assert any(failure["severity"] == "stop" for failure in stop.value.failures)
    assert quarantine_table(settings).read().height == landed_versions().height
    assert orders_table(settings).read().is_empty()
    assert feature_table(TRANSFORMS["zone_stats"], settings).read().is_empty()


def test_features_outside_of_their_range_are_not_published(settings: Settings, monkeypatch: pytest.MonkeyPatch):
    from feature_repo.transforms import compute

    land(landed_versions(), settings)
    real = compute.compute_rows

    def broken(*arguments):
        return {
            view: rows.with_columns(pl.lit(-1, dtype=pl.Int64).alias("open_order_count"))
            if "open_order_count" in rows.columns
            else rows
            for view, rows in real(*arguments).items()
        }

    monkeypatch.setattr(compute, "compute_rows", broken)
    with pytest.raises(pipeline.BatchStopped, match=r"the features of .* were refused by .*open_order_count_range"):
        pipeline.backfill(WINDOW, settings, lambda _: None)
    assert feature_table(TRANSFORMS["zone_stats"], settings).read().is_empty()


def test_a_source_that_is_not_ready_is_told(settings: Settings):
    land(landed_versions(), settings)
    with pytest.raises(SourceNotReady, match="wait for the source"):
        pipeline.run_window(Window(END, END + HOUR), settings)


def test_a_lost_landing_folder_does_not_empty_the_lake(settings: Settings):
    land(landed_versions(), settings)
    pipeline.ingest_orders(WINDOW, settings)
    pipeline.validate_orders(WINDOW, settings)
    pipeline.accept_orders(WINDOW, settings)
    for path in settings.landing_orders.glob("day=*/*.parquet"):
        path.unlink()
    with pytest.raises(pipeline.LandingLost, match="recompute features from the lake"):
        pipeline.ingest_orders(WINDOW, settings)
    assert orders_table(settings).read().height == landed_versions().height


@pytest.mark.parametrize(
    ("step", "first"),
    [
        ("validate_orders", "ingest_orders"),
        ("accept_orders", "validate_orders"),
        ("quarantine_batch", "validate_orders"),
        ("validate_features", "compute_features"),
        ("publish_features", "compute_features"),
    ],
)
def test_a_step_without_its_input_names_the_step_before(step: str, first: str, settings: Settings):
    with pytest.raises(pipeline.StepMissing, match=f"run {first} for"):
        getattr(pipeline, step)(WINDOW, settings)


def test_a_dead_redis_is_named_with_its_address(settings: Settings, monkeypatch: pytest.MonkeyPatch):
    port = free_port()
    monkeypatch.setenv("ETA_REDIS_URL", f"redis://:secret@127.0.0.1:{port}/0")
    get_settings.cache_clear()
    with pytest.raises(pipeline.OnlineStoreUnavailable, match=f"Redis at 127.0.0.1:{port} does not answer") as caught:
        pipeline.materialize(WINDOW, get_settings())
    assert "make up" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_materialising_before_apply_says_so(settings: Settings):
    with pytest.raises(pipeline.StepMissing, match="run `feast -c feature_repo apply` first"):
        pipeline.materialize(WINDOW, settings)


def test_old_staged_files_are_forgotten(settings: Settings):
    land(landed_versions(), settings)
    old = settings.staging / "orders" / f"{Window(START - 9 * DAY, START - 8 * DAY).slug}.parquet"
    recent = settings.staging / "orders" / f"{Window(START - DAY, START).slug}.parquet"
    old.parent.mkdir(parents=True)
    old.touch()
    recent.touch()
    pipeline.ingest_orders(WINDOW, settings)
    assert not old.exists()
    assert recent.exists()


def test_a_second_run_waits_and_says_for_whom(settings: Settings, caplog: pytest.LogCaptureFixture):
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with exclusive(settings, "run", "the first"):
            entered.set()
            leave.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    entered.wait()
    try:
        with pytest.raises(AnotherRunHolds, match=r"another run holds the run lock .*the first"):
            exclusive(settings, "run", "the second", wait_seconds=0.3).__enter__()
    finally:
        leave.set()
        holder.join()
    assert "another run holds the run lock" in caplog.text
    with exclusive(settings, "run", "the third", wait_seconds=0):
        pass


def test_who_holds_a_lock_may_ask_again_and_the_others_wait_until_all_of_it_has_ended(settings: Settings):
    refused: list[str] = []

    def ask() -> None:
        try:
            with exclusive(settings, "run", "another thread", wait_seconds=0):
                refused.append("")
        except AnotherRunHolds as error:
            refused.append(str(error))

    def asked() -> str:
        other = threading.Thread(target=ask)
        other.start()
        other.join()
        return refused[-1]

    with exclusive(settings, "run", "the whole"):
        with exclusive(settings, "run", "a part", wait_seconds=0):
            assert "the whole" in asked()
        assert "the whole" in asked(), "the end of a part is not the end of the whole"
        with exclusive(settings, "tables", "another lock", wait_seconds=0):
            pass
    assert asked() == ""


def test_the_command_line_reports_refusals_without_a_traceback(settings: Settings, capsys: pytest.CaptureFixture[str]):
    land(landed_versions(), settings)
    assert main(["backfill", "2026-03-02T00:00", "2026-03-03T00:00+00:00"]) == 1
    assert "has no time zone" in capsys.readouterr().err
    assert main(["run", END.isoformat(), (END + HOUR).isoformat()]) == 1
    assert "SourceNotReady" in capsys.readouterr().err


def test_the_command_line_backfills_and_recomputes(settings: Settings, capsys: pytest.CaptureFixture[str]):
    land(landed_versions(), settings)
    bounds = [START.isoformat(), END.isoformat()]
    assert main(["backfill", *bounds]) == 0
    before = feature_table(TRANSFORMS["zone_stats"], settings).content_hash()
    assert main(["recompute", *bounds]) == 0
    assert feature_table(TRANSFORMS["zone_stats"], settings).content_hash() == before
    assert '"accepted"' in capsys.readouterr().out


@pytest.mark.parametrize("start", [None, START + DAY])
def test_a_count_backfilled_later_may_be_null_before_it_began(start, settings, monkeypatch):
    """Counts are never null, by their tag; the rows from before a feature existed are no breach of that."""
    land(landed_versions(), settings)
    with monkeypatch.context() as before:
        whole = TRANSFORMS["zone_stats"]
        fewer = {name: feature for name, feature in whole.features.items() if name != "order_count_1h"}
        before.setitem(TRANSFORMS, "zone_stats", replace(whole, features=fewer))
        before.setattr(quality, "batch_views", _views_without("order_count_1h"))
        pipeline.backfill(WINDOW, settings, lambda _: None)
    with pytest.raises(DefinitionChanged, match="new, not in the rows on disk"):
        pipeline.backfill(WINDOW, settings, lambda _: None)
    pipeline.backfill_features(["zone_stats.order_count_1h"], start, settings, lambda _: None)
    rows = feature_table(TRANSFORMS["zone_stats"], settings).read()
    begins = (start or START) + HOUR
    assert rows.filter(pl.col("order_count_1h").is_null())["event_timestamp"].to_list() == [
        at for at in rows["event_timestamp"] if at < begins
    ]


def _views_without(feature: str):
    views = [replace(view, fields=tuple(one for one in view.fields if one.name != feature)) for view in batch_views()]
    return lambda: views

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from config import Settings
from feature_repo import files
from feature_repo.window import DAY, Window
from serving import log_files, log_rows, prediction_log
from serving.bundle import Estimates
from serving.errors import PredictionLogError
from serving.prediction_log import PREDICTION_SCHEMA, LogEntry, PredictionLog, read_predictions, to_table
from serving.predictor import Order, Predictions
from serving.status import FeatureStatus
from tests.serving.conftest import NOON
from tests.waiting import wait_until

DAY_OF_NOON = Window(NOON.replace(hour=0), NOON.replace(hour=0) + DAY)


def entry(rows: int = 1, at: datetime = NOON, prefix: str = "p", **changes: object) -> LogEntry:
    """An entry of rows that differ only in their ids."""
    predictions = Predictions(
        inputs=[[31.25, math.nan]] * rows,
        statuses=[bytes([FeatureStatus.PRESENT, FeatureStatus.STALE])] * rows,
        event_times=[((NOON - timedelta(hours=1)).timestamp(),)] * rows,
        estimates=Estimates([30.0] * rows, [24.5] * rows, [41.0] * rows),
        reasons=[()] * rows,
    )
    values: dict = {
        "source": "online",
        "model_name": "delivery_time",
        "model_version": "3",
        "variant": "champion",
        "input_names": ("a", "b"),
        "view_names": ("view",),
        "prediction_ids": [f"{prefix}{row}" for row in range(rows)],
        "orders": [Order("r1", at, order_id=f"o{row}", zone_id="zürich", order_value=12.5) for row in range(rows)],
        "predictions": predictions,
        "predicted_at": at,
        "latencies_ms": [0.75] * rows,
        "request_ids": ["q1"] * rows,
        "callers": ["app"] * rows,
    }
    return LogEntry(**values | changes)


@pytest.fixture
def log(settings: Settings) -> PredictionLog:
    return PredictionLog(settings.predictions)


def test_a_row_is_logged_with_every_value(log: PredictionLog, settings: Settings):
    log.offer(entry(at=NOON + timedelta(microseconds=7)))
    log.stop()

    (row,) = read_predictions(settings, DAY_OF_NOON).to_dicts()

    assert row == {
        "prediction_id": "p0",
        "order_id": "o0",
        "placed_at": NOON + timedelta(microseconds=7),
        "predicted_at": NOON + timedelta(microseconds=7),
        "model_name": "delivery_time",
        "model_version": "3",
        "variant": "champion",
        "source": "online",
        "status": "ok",
        "delivery_minutes": 30.0,
        "p10_minutes": 24.5,
        "p90_minutes": 41.0,
        "latency_ms": 0.75,
        "restaurant_id": "r1",
        "driver_id": None,
        "customer_id": None,
        "zone_id": "zürich",
        "inputs": '{"a":31.25,"b":null}',
        "statuses": '{"a":"present","b":"stale"}',
        "event_times": '{"view":"2026-05-01T11:00:00+00:00"}',
        "request_id": "q1",
        "reasons": "[]",
        "request": '{"distance_km":null,"item_count":null,"order_value":12.5,"promised_minutes":null,"is_asap":true}',
        "caller": "app",
    }


def test_what_is_absent_is_null(log: PredictionLog, settings: Settings):
    nothing = entry(latencies_ms=None, request_ids=None, callers=None)
    nothing.predictions.event_times = [(math.nan,)]
    nothing.predictions.reasons[0] = ("the store is down",)
    log.offer(nothing)
    log.stop()

    (row,) = read_predictions(settings, DAY_OF_NOON).to_dicts()

    assert (row["latency_ms"], row["request_id"], row["event_times"]) == (None, None, '{"view":null}')
    assert (row["status"], row["reasons"], row["caller"]) == ("degraded", '["the store is down"]', None)


def test_a_file_lies_under_its_day_and_hour_and_grows(log: PredictionLog, settings: Settings):
    for number in range(3):
        log.offer(entry(prefix=f"p{number}-"))
        log.flush()

    (path,) = settings.predictions.rglob("*.parquet")

    assert path.parent.name == "day=2026-05-01"
    assert path.name.startswith("hour-12-")
    assert pl.read_parquet(path)["prediction_id"].to_list() == ["p0-0", "p1-0", "p2-0"]
    assert (log.queued, log.written, log.dropped) == (0, 3, 0)


def test_the_next_hour_and_a_full_file_begin_a_new_one(settings: Settings):
    log = PredictionLog(settings.predictions, part_rows=2)
    for number, at in enumerate([NOON, NOON, NOON, NOON + timedelta(hours=1)]):
        log.offer(entry(prefix=f"p{number}-", at=at))
        log.flush()

    files = sorted(settings.predictions.rglob("*.parquet"))

    assert [pl.read_parquet(path).height for path in files] == [2, 1, 1]
    assert [path.name[:7] for path in files] == ["hour-12", "hour-12", "hour-13"]


def test_two_processes_never_share_a_file(settings: Settings):
    for prefix in ("a", "b"):
        log = PredictionLog(settings.predictions)
        log.offer(entry(prefix=prefix))
        log.stop()

    assert len(list(settings.predictions.rglob("*.parquet"))) == 2
    assert read_predictions(settings, DAY_OF_NOON)["prediction_id"].to_list() == ["a0", "b0"]


def test_the_thread_writes_within_its_interval_and_the_rest_when_stopped(settings: Settings):
    log = PredictionLog(settings.predictions, flush_seconds=0.05)
    log.start()
    log.offer(entry(prefix="first"))
    wait_until(lambda: log.written, "the first row is written")
    log.flush_seconds = 60
    log.offer(entry(prefix="second"))
    log.stop()

    assert read_predictions(settings, DAY_OF_NOON)["prediction_id"].to_list() == ["first0", "second0"]
    assert log.offer(entry()) is False


def test_what_does_not_fit_is_dropped_and_counted(settings: Settings):
    log = PredictionLog(settings.predictions, capacity=10)

    taken = [log.offer(entry(6, prefix=str(number))) for number in range(3)]
    taken.append(log.offer(entry(4, prefix="last")))

    assert taken == [True, False, False, True]
    assert (log.queued, log.dropped) == (10, 12)
    log.stop()
    assert read_predictions(settings, DAY_OF_NOON).height == 10


def test_a_disk_that_refuses_is_tried_again_and_nothing_is_written_twice(
    log: PredictionLog, settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    write, refused = prediction_log.write_table, []

    def refuse_one_o_clock(table: object, path: Path) -> None:
        if path.name.startswith("hour-13") and not refused:
            refused.append(path)
            raise OSError("no space left on device")
        write(table, path)

    monkeypatch.setattr(prediction_log, "write_table", refuse_one_o_clock)
    log.offer(entry(2, prefix="noon"))
    log.offer(entry(3, at=NOON + timedelta(hours=1), prefix="one"))

    log.flush()
    assert (log.queued, log.written) == (3, 2)
    assert "predictions cannot be logged" in caplog.text
    assert "no space left on device" in caplog.text
    log.flush()

    assert (log.queued, log.written, log.dropped) == (0, 5, 0)
    ids = read_predictions(settings, DAY_OF_NOON)["prediction_id"].to_list()
    assert ids == ["noon0", "noon1", "one0", "one1", "one2"]


def test_what_cannot_be_written_at_the_end_is_counted_as_lost(settings: Settings, caplog: pytest.LogCaptureFixture):
    settings.predictions.parent.mkdir(parents=True)
    settings.predictions.write_text("a file where a directory should be")
    log = PredictionLog(settings.predictions)
    log.offer(entry(4))

    log.stop()

    assert (log.written, log.dropped) == (0, 4)
    assert "4 predictions could not be logged and are lost" in caplog.text


def test_reading_takes_the_window_of_placement_whatever_the_day_of_prediction(log: PredictionLog, settings: Settings):
    for number, placed in enumerate([NOON - DAY, NOON, NOON + timedelta(minutes=59), NOON + timedelta(hours=1)]):
        log.offer(entry(prefix=f"p{number}-", orders=[Order("r1", placed)], predicted_at=NOON + 3 * DAY))
    log.stop()

    read = read_predictions(settings, Window(NOON, NOON + timedelta(hours=1)))

    assert read["prediction_id"].to_list() == ["p1-0", "p2-0"]


def test_without_files_there_are_no_rows_but_all_columns(settings: Settings):
    read = read_predictions(settings, DAY_OF_NOON)

    assert (read.height, read.columns) == (0, PREDICTION_SCHEMA.names)
    assert read.schema["placed_at"] == pl.Datetime("us", "UTC")


def test_half_written_files_are_not_seen_and_a_damaged_one_is_named(log: PredictionLog, settings: Settings):
    log.offer(entry())
    log.stop()
    (path,) = settings.predictions.rglob("*.parquet")
    (path.parent / f".{path.stem}-x.tmp").write_bytes(b"PAR1 half")
    (path.parent / ".hidden.parquet").write_bytes(b"PAR1 half")
    assert read_predictions(settings, DAY_OF_NOON).height == 1

    damaged = path.with_name("hour-12-damaged.parquet")
    damaged.write_bytes(b"PAR1 half")
    with pytest.raises(PredictionLogError, match=r"hour-12-damaged\.parquet cannot be read .*: move it away"):
        read_predictions(settings, DAY_OF_NOON)


def test_a_file_replaced_while_it_is_read_stays_what_it_was(
    log: PredictionLog, settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    log.offer(entry())
    log.flush()
    opened = log_files.pq.ParquetFile

    def replaced_meanwhile(file: object) -> object:
        parquet = opened(file)
        log.offer(entry(500, prefix="later"))
        log.flush()
        return parquet

    monkeypatch.setattr(log_files.pq, "ParquetFile", replaced_meanwhile)

    assert read_predictions(settings, DAY_OF_NOON)["prediction_id"].to_list() == ["p0"]


def test_json_columns_are_json_whatever_the_names():
    table = to_table([entry(input_names=('quo"te', "ü"))])

    assert json.loads(table.column("inputs")[0].as_py()) == {'quo"te': 31.25, "ü": None}


def test_times_before_1970_and_in_2099_survive():
    instants = [datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC), datetime(2099, 1, 1, tzinfo=UTC)]
    table = to_table([entry(2, orders=[Order("r1", instant) for instant in instants])])

    assert table.column("placed_at").to_pylist() == instants


def aside(settings: Settings) -> list[dict]:
    """What was set aside."""
    directory = settings.predictions.with_name("predictions-aside")
    return [json.loads(line) for path in directory.glob("*.jsonl") for line in path.read_text().splitlines()]


def read_ids(settings: Settings) -> list[str]:
    return read_predictions(settings, DAY_OF_NOON)["prediction_id"].to_list()


MILLISECONDS = 1_777_636_800_000.0
"""A time stamp in another unit than seconds: no year that a date can have."""


@pytest.mark.parametrize("rows", [2, prediction_log.FEW_ROWS + 1])
def test_a_row_that_cannot_be_made_is_set_aside_and_the_others_are_logged(
    settings: Settings, rows: int, caplog: pytest.LogCaptureFixture
):
    log = PredictionLog(settings.predictions, flush_seconds=0.01)
    log.start()
    bad = entry(rows, prefix="bad")
    bad.predictions.event_times = [(MILLISECONDS,), *[(NOON.timestamp(),)] * (rows - 1)]
    log.offer(entry(prefix="before"))
    log.offer(bad)
    wait_until(lambda: log.aside, "the row is set aside")
    log.offer(entry(prefix="after"))
    log.stop()

    assert sorted(read_ids(settings)) == sorted(["before0", "after0", *(f"bad{row}" for row in range(1, rows))])
    (kept,) = aside(settings)
    assert (kept["prediction_ids"], kept["error"]) == (["bad0"], "ValueError: year 58301 is out of range")
    assert (log.written, log.aside, log.dropped, log.queued, log.faults) == (rows + 1, 1, 0, 0, 0)
    assert "ALARM: 1 predictions cannot be logged as rows (ValueError" in caplog.text


def test_a_row_that_is_no_row_of_a_table_is_set_aside_alone(log: PredictionLog, settings: Settings):
    log.offer(entry(prefix="good"))
    log.offer(entry(prefix="half an emoji", orders=[Order("\ud83d", NOON)]))
    log.stop()

    assert read_ids(settings) == ["good0"]
    (kept,) = aside(settings)
    assert (kept["prediction_id"], kept["restaurant_id"]) == ("half an emoji0", "\ud83d")
    assert kept["error"].startswith("UnicodeEncodeError")


def test_rows_that_can_not_even_be_set_aside_are_counted_as_lost(log: PredictionLog, settings: Settings):
    settings.predictions.parent.mkdir(parents=True)
    settings.predictions.with_name("predictions-aside").write_text("a file where a directory should be")
    log.offer(entry(orders=[Order("\ud83d", NOON)]))
    log.stop()

    assert (log.aside, log.dropped) == (1, 1)


def test_what_nobody_thought_of_neither_ends_the_thread_nor_loses_a_row(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    log, refused = PredictionLog(settings.predictions, flush_seconds=0.01), []

    def refuse_once(table: object, path: Path) -> None:
        refused.append(path)
        monkeypatch.undo()
        raise RuntimeError("no such codec")

    monkeypatch.setattr(prediction_log, "write_table", refuse_once)
    log.start()
    log.offer(entry())
    wait_until(lambda: log.written, "the row is written at the second try")
    assert not log.is_dead
    log.stop()

    assert "ALARM: predictions cannot be logged to" in caplog.text
    assert "no such codec" in caplog.text
    assert (len(refused), read_ids(settings)) == (1, ["p0"])


def test_a_file_without_the_later_columns_is_read(log: PredictionLog, settings: Settings):
    path = settings.predictions / "day=2026-05-01" / "hour-12-older-000001.parquet"
    log_files.write_table(to_table([entry()]).drop_columns(sorted(log_rows.LATER_COLUMNS)), path)
    log.offer(entry(prefix="new"))
    log.stop()

    rows = read_predictions(settings, DAY_OF_NOON)
    assert rows.select("prediction_id", "caller").rows() == [("new0", "app"), ("p0", None)]


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    steps: list[str] = []
    fsync, replace = files.os.fsync, Path.replace
    monkeypatch.setattr(files.os, "fsync", lambda file: (steps.append("synced"), fsync(file))[1])
    monkeypatch.setattr(Path, "replace", lambda self, to: (steps.append("named"), replace(self, to))[1])

    log_files.write_table(to_table([entry()]), tmp_path / "a.parquet")

    assert steps == ["synced", "named", "synced"], "the file, its name, the folder that has the name"

"""The command line: results as JSON on stdout, progress on stderr, and messages that say what to do."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from simulator.__main__ import main
from simulator.landing import Landing
from tests.conftest import free_port
from tests.simulator.conftest import END
from tests.waiting import GENEROUS_SECONDS, wait_until

HISTORY = ["history", "--end", "2026-05-01T00:00+00:00", "--days", "3", "--orders", "300"]


def test_history_then_advance_then_a_drill(tmp_path, capsys):
    folder = ["--out", str(tmp_path)]
    assert main([*HISTORY, *folder]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["complete_until"] == END.isoformat()
    assert "simulated until" in captured.err
    assert main(["advance", "--until", "2026-05-01T10:30+00:00", *folder]) == 0
    assert json.loads(capsys.readouterr().out)["complete_until"] == "2026-05-01T10:30:00+00:00"
    assert main(["drill", "outage", "--to", "2026-05-01T12:00+00:00", *folder]) == 0
    assert json.loads(capsys.readouterr().out)["start"] == "2026-05-01T10:30:00+00:00"
    assert main(["advance", "--until", "2026-05-01T11:30+00:00", *folder]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 0
    assert main(["drill", "stop", *folder]) == 0
    assert json.loads(capsys.readouterr().out) == {"stopped": 1}
    assert main(["advance", "--until", "2026-05-01T20:00+00:00", "--drill", "dirty", "--share", "0.5", *folder]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] > 0
    assert [drill.kind for drill in Landing(tmp_path).state().drills] == ["dirty"]


def test_the_default_folder_is_the_installations(settings):
    assert main(HISTORY) == 0
    assert (settings.landing_orders / "_watermark.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["advance", "--until", "2026-05-01T10:00+00:00"], "no finished history"),
        (["drill", "drift"], "no finished history"),
        (["advance", "--until", "2026-05-01T10:00+00:00", "--drill", "drift"], "no finished history"),
        ([*HISTORY, "--orders", "0"], "above 0"),
    ],
)
def test_a_senseless_request_is_explained(tmp_path, capsys, arguments, message):
    assert main([*arguments, "--out", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("simulator: ")
    assert message in captured.err
    assert captured.out == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["advance", "--until", "2026-05-01T00:00+00:00"], "already complete until 2026-05-01T05:00"),
        (HISTORY, "continue it with `python -m simulator advance`, or replace it with --force"),
        (["drill", "outage"], "an outage needs an end"),
        (["drill", "drift", "--from", "2026-05-01T00:00+00:00"], "start it later"),
        (["advance", "--until", "2026-05-01T06:00+00:00", "--drill", "dirty", "--share", "2"], "share 2.0"),
    ],
)
def test_a_request_that_does_not_fit_the_world_is_explained(tmp_path, capsys, arguments, message):
    folder = ["--out", str(tmp_path)]
    main([*HISTORY, *folder])
    main(["advance", "--until", "2026-05-01T05:00+00:00", *folder])
    capsys.readouterr()
    assert main([*arguments, *folder]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["advance", "--until", "yesterday"], "'yesterday' is no ISO 8601 instant"),
        (["advance", "--until", "2026-05-01T00:00"], "no time zone"),
        (["history", "--days", "0"], "0 is not above 0"),
        (["advance"], "--until"),
        ([], "COMMAND"),
    ],
)
def test_an_argument_that_cannot_be_read_is_named(capsys, arguments, message):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert message in capsys.readouterr().err


def test_a_stream_starts_from_nothing_and_stops_when_told(tmp_path):
    command = [sys.executable, "-m", "simulator", "stream", "--days", "2", "--orders", "200", "--interval", "0.2"]
    environment = {**os.environ, "ETA_DATA_DIR": str(tmp_path), "ETA_SERVING_PORT": str(free_port())}
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        log = tmp_path / "log"
        wait_until(lambda: "new orders" in log.read_text(), "new orders", detail=log.read_text)
        process.send_signal(signal.SIGTERM)
        assert process.wait(GENEROUS_SECONDS) == 0
    finally:
        process.kill()
        process.wait()
    assert Landing(tmp_path / "landing" / "orders").watermark() is not None

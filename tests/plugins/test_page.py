from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import httpx
import polars as pl
import pytest
from fastapi import HTTPException, Request
from fastapi.testclient import TestClient

from config import Settings, get_settings
from feature_repo.orders.columns import mapping_record
from plugins.loop_state import Section, _champion_of, loop_state
from plugins.notify import Alert, send_alert
from plugins.page import create_app, render
from tests.conftest import free_port

ROOT = Path(__file__).resolve().parents[2]
SLUG = "20260501T00_20260502T00"


async def anybody(request: Request) -> None:
    """Lets everybody in."""


async def nobody(request: Request) -> None:
    raise HTTPException(401, "log in first")


def facts(settings: Settings) -> dict[str, dict[str, str]]:
    return {section.title: dict(section.rows) for section in loop_state(settings)}


def write_table(path: Path, frame: pl.DataFrame) -> None:
    path.parent.mkdir(parents=True)
    frame.write_parquet(path)


def test_an_empty_installation_says_what_to_do_for_each_part(house) -> None:
    found = facts(house)
    assert found["Orders"]["landing complete until"].startswith("no watermark yet")
    assert found["Orders"]["quarantined rows"] == "none"
    assert found["Features"]["feature rows"].startswith("none yet")
    assert found["Champion"]["registry"].startswith("shown only when MLflow is a server")
    assert found["Monitoring"]["verdict"] == "none yet: run the monitoring pipeline"
    assert found["Last alerts"]["alerts"] == "none"


def test_the_state_of_a_running_loop(house) -> None:
    house.landing_orders.mkdir(parents=True)
    (house.landing_orders / "_watermark.json").write_text(json.dumps({"complete_until": "2026-05-02T00:00Z"}))
    rules = pl.DataFrame({"rule": ["stage_order", "too_late", "stage_order"]})
    write_table(house.quarantine / "orders" / "day=2026-05-01" / "rows.parquet", rules)
    noon = datetime(2026, 5, 1, 12, tzinfo=UTC)
    rows = pl.DataFrame({"event_timestamp": [noon]})
    write_table(house.features / "zone_stats" / "day=2026-05-01" / "rows.parquet", rows)
    verdict = house.reports / "monitoring" / SLUG / "verdict.json"
    verdict.parent.mkdir(parents=True)
    verdict.write_text(json.dumps({"window": "[w)", "action": "alert", "reasons": ["too few"]}))
    send_alert(Alert("something", "warning", ""), house)
    found = facts(house)
    assert found["Orders"]["landing complete until"] == "2026-05-02T00:00Z"
    assert found["Orders"]["quarantined by stage_order (last 1 days with any)"] == "2"
    assert found["Features"]["zone_stats"] == "newest 2026-05-01 12:00 UTC, 1 rows on that day"
    assert found["Monitoring"] == {"window": "[w)", "verdict": "alert", "reason": "too few"}
    assert found["Last alerts"] == {"warning": "something"}


def test_a_damaged_file_hides_only_its_own_section(house) -> None:
    house.landing_orders.mkdir(parents=True)
    (house.landing_orders / "_watermark.json").write_text("{torn")
    found = facts(house)
    assert found["Orders"]["cannot be shown"].startswith("JSONDecodeError")
    assert "feature rows" in found["Features"]


def test_a_registry_that_does_not_answer_is_named(tmp_path) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    settings = Settings(data_dir=tmp_path, mlflow_tracking_uri_override=nowhere)
    assert facts(settings)["Champion"]["registry"].startswith(f"MLflow does not answer at {nowhere}")


def test_values_and_addresses_are_escaped() -> None:
    section = Section(
        "<i>", [("<b>", "<script>alert(1)</script>")], [("x", "javascript:alert(1)"), ('"', 'http://h/"')]
    )
    page = render([section])
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "javascript:" not in page
    assert 'href="http://h/&quot;"' in page


@pytest.fixture
def client(tmp_path, monkeypatch):
    monkeypatch.setenv("ETA_DATA_DIR", str(tmp_path))
    get_settings.cache_clear()
    yield TestClient(create_app(anybody))
    get_settings.cache_clear()


def test_the_page_answers_on_an_empty_installation(client) -> None:
    answer = client.get("/")
    assert answer.status_code == 200
    assert "the state of the loop" in answer.text


def test_the_drift_report_is_served_and_nothing_else_is(client, tmp_path) -> None:
    page = tmp_path / "reports" / "monitoring" / SLUG / "drift.html"
    page.parent.mkdir(parents=True)
    page.write_text("<p>drift</p>")
    assert client.get(f"/reports/{SLUG}/drift.html").text == "<p>drift</p>"
    for other in ("20260501T00_20260503T00", "..", "%2e%2e", "x"):
        assert client.get(f"/reports/{other}/drift.html").status_code == 404


def test_who_is_not_logged_in_sees_nothing() -> None:
    refused = TestClient(create_app(nobody))
    assert [refused.get(path).status_code for path in ("/", f"/reports/{SLUG}/drift.html")] == [401, 401]


LOAD = """
import json
from airflow import plugins_manager
plugins, errors = plugins_manager._get_plugins()
ours = [plugin for plugin in plugins if str(plugin.source).startswith("$PLUGINS_FOLDER")]
(app,) = ours[0].fastapi_apps
print("LOADED " + json.dumps([[plugin.name for plugin in ours], errors, app["url_prefix"], ours[0].external_views]))
"""


def test_airflow_loads_the_plugin_and_only_it(tmp_path) -> None:
    environment = {
        **os.environ,
        "AIRFLOW_HOME": str(tmp_path),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    }
    ended = subprocess.run([sys.executable, "-c", LOAD], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-3000:]
    (line,) = [line for line in ended.stdout.splitlines() if line.startswith("LOADED ")]
    names, errors, prefix, views = json.loads(line.removeprefix("LOADED "))
    assert (names, errors, prefix) == (["delivery_eta"], {}, "/delivery-eta")
    assert views[0]["href"] == "/delivery-eta/"


def champion_answered(settings: Settings, alias: tuple[int, dict], run: tuple[int, dict]) -> dict[str, str]:
    def answer(request: httpx.Request) -> httpx.Response:
        status, content = alias if request.url.path.endswith("alias") else run
        return httpx.Response(status, json=content)

    with httpx.Client(base_url="http://mlflow.test", transport=httpx.MockTransport(answer)) as client:
        return dict(_champion_of(client, settings).rows)


def test_a_champion_whose_run_is_gone_is_still_shown(settings: Settings) -> None:
    version = {"model_version": {"name": "delivery_time", "version": "3", "run_id": "abc"}}
    rows = champion_answered(settings, (200, version), (404, {"error_code": "RESOURCE_DOES_NOT_EXIST"}))
    assert rows == {"version": "delivery_time 3", "run": "abc is gone from MLflow, and its errors with it"}


@pytest.mark.parametrize("status", [400, 404])
def test_a_model_without_a_champion_is_no_server_that_is_down(settings: Settings, status: int) -> None:
    rows = champion_answered(settings, (status, {"message": "Registered model alias champion not found."}), (500, {}))
    assert rows["version"].startswith("none yet")


def test_a_view_without_rows_says_what_the_source_lacks(settings: Settings) -> None:
    for view in ("customer_stats", "zone_stats"):
        (settings.features / view).mkdir(parents=True)
    record = mapping_record(settings)
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps({"columns": ["order_id", "zone_id"]}))
    shown = facts(settings)["Features"]
    assert shown == {"customer_stats": "no rows: the source has no customer_id", "zone_stats": "no rows"}

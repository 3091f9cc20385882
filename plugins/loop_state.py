"""The state of the loop as facts with names, read from files and from the registry's REST interface.

Whatever is absent, damaged or out of reach is a fact too ("no watermark yet"), never an error: this page is opened
exactly when something is wrong.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from config import Settings
from plugins.notify import recent_alerts

logger = logging.getLogger(__name__)

MODEL = "delivery_time"
REGISTRY_TIMEOUT_SECONDS = 2.0


@dataclass(frozen=True)
class Section:
    """One part of the page: rows of (name, value), and links of (text, address)."""

    title: str
    rows: list[tuple[str, str]] = field(default_factory=list)
    links: list[tuple[str, str]] = field(default_factory=list)


def loop_state(settings: Settings) -> list[Section]:
    """All sections, in the order in which data flows."""
    parts: list[tuple[str, Callable[[Settings], Section]]] = [
        ("Orders", _orders),
        ("Features", _features),
        ("Champion", _champion),
        ("Monitoring", _monitoring),
        ("Last alerts", _alerts),
    ]
    return [*(_guarded(title, part, settings) for title, part in parts), _links(settings)]


def _guarded(title: str, part: Callable[[Settings], Section], settings: Settings) -> Section:
    try:
        return part(settings)
    except Exception as error:  # one damaged file must not hide the rest of the page
        logger.exception("the section %r of the loop's page failed", title)
        return Section(title, [("cannot be shown", f"{type(error).__name__}: {error}")])


def _orders(settings: Settings) -> Section:
    watermark = settings.landing_orders / "_watermark.json"
    rows = [("landing complete until", "no watermark yet: start the simulator or run `make ingest`")]
    if watermark.exists():
        content = json.loads(watermark.read_text())
        rows = [
            ("landing complete until", str(content.get("complete_until"))),
            ("source", str(content.get("source"))),
        ]
    rows.append(("last day in the lake", _last_day(settings.orders)))
    rows.extend(_quarantine(settings))
    return Section("Orders", rows)


def _quarantine(settings: Settings) -> list[tuple[str, str]]:
    import polars as pl

    files = sorted((settings.quarantine / "orders").glob("day=*/rows.parquet"))[-7:]
    if not files:
        return [("quarantined rows", "none")]
    counts = (
        pl.scan_parquet(files, hive_partitioning=False)
        .group_by("rule")
        .agg(pl.len().alias("rows"))
        .sort("rows", "rule", descending=[True, False])
        .collect()
    )
    return [
        (f"quarantined by {rule} (last {len(files)} days with any)", f"{rows:,}") for rule, rows in counts.iter_rows()
    ]


def _features(settings: Settings) -> Section:
    from feature_repo.absence import views_without_rows
    from feature_repo.orders.columns import absent_columns

    views = sorted(path for path in settings.features.glob("*") if path.is_dir())
    if not views:
        return Section("Features", [("feature rows", "none yet: run the feature pipeline or `make backfill`")])
    without = views_without_rows(absent_columns(settings))
    return Section("Features", [(view.name, _newest_rows(view, without.get(view.name))) for view in views])


def _newest_rows(view: Path, absent_key: str | None) -> str:
    import polars as pl

    files = sorted(view.glob("day=*/rows.parquet"))
    if not files:
        return f"no rows: the source has no {absent_key}" if absent_key else "no rows"
    scan = pl.scan_parquet(files[-1], hive_partitioning=False)
    newest, count = scan.select(pl.col("event_timestamp").max(), pl.len()).collect().row(0)
    return f"newest {_minute(newest)}, {count:,} rows on that day"


def _champion(settings: Settings) -> Section:
    if not settings.mlflow_tracking_uri.startswith("http"):
        return Section("Champion", [("registry", "shown only when MLflow is a server (ETA_MLFLOW_TRACKING_URI)")])
    import httpx

    try:
        with httpx.Client(base_url=settings.mlflow_tracking_uri, timeout=REGISTRY_TIMEOUT_SECONDS) as client:
            return _champion_of(client, settings)
    except httpx.HTTPError as error:
        return Section("Champion", [("registry", f"MLflow does not answer at {settings.mlflow_tracking_uri}: {error}")])


def _champion_of(client: Any, settings: Settings) -> Section:
    answer = client.get("/api/2.0/mlflow/registered-models/alias", params={"name": MODEL, "alias": "champion"})
    if answer.status_code in (400, 404):  # 400: the model is there, the alias is not
        return Section("Champion", [("version", "none yet: run the training pipeline or `make train`")])
    version = answer.raise_for_status().json()["model_version"]
    rows = [("version", f"{version['name']} {version['version']}")]
    rows.extend(_errors_of_run(client, str(version["run_id"])))
    address = f"{settings.mlflow_tracking_uri}/#/models/{MODEL}/versions/{version['version']}"
    return Section("Champion", rows, [("in MLflow", address)])


def _errors_of_run(client: Any, run_id: str) -> list[tuple[str, str]]:
    answer = client.get("/api/2.0/mlflow/runs/get", params={"run_id": run_id})
    if answer.status_code == 404:
        return [("run", f"{run_id} is gone from MLflow, and its errors with it")]
    metrics = answer.raise_for_status().json()["run"]["data"].get("metrics", [])
    values = {metric["key"]: metric["value"] for metric in metrics if "mae" in metric["key"]}
    return [(name, f"{value:.3f}") for name, value in sorted(values.items())]


def _monitoring(settings: Settings) -> Section:
    verdicts = sorted((settings.reports / "monitoring").glob("*/verdict.json"), key=_window_end)
    if not verdicts:
        return Section("Monitoring", [("verdict", "none yet: run the monitoring pipeline")])
    content = json.loads(verdicts[-1].read_text())
    rows = [("window", str(content.get("window"))), ("verdict", str(content.get("action")))]
    rows.extend(("reason", str(reason)) for reason in content.get("reasons", []))
    folder = verdicts[-1].parent
    links = [("drift report", f"reports/{folder.name}/drift.html")] if (folder / "drift.html").exists() else []
    return Section("Monitoring", rows, links)


def _window_end(path: Path) -> tuple[str, str]:
    start, _, end = path.parent.name.partition("_")
    return end, start


def _alerts(settings: Settings) -> Section:
    alerts = recent_alerts(settings, limit=5)
    rows = [(str(alert.get("severity")), str(alert.get("title"))) for alert in alerts]
    return Section("Last alerts", rows or [("alerts", "none")])


def _links(settings: Settings) -> Section:
    links = [("predictions (API docs)", f"{settings.serving_url}/docs")]
    if settings.mlflow_tracking_uri.startswith("http"):
        links.append(("MLflow", settings.mlflow_tracking_uri))
    return Section("Where to look", links=links)


def _last_day(table: Path) -> str:
    days = sorted(table.glob("day=*"))
    return days[-1].name.removeprefix("day=") if days else "empty"


def _minute(instant: datetime | None) -> str:
    return f"{instant.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if instant else "nothing"

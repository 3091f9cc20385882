"""Alerts: always to the log and to `alerts.jsonl`; to a mail server and to a webhook where they are configured.

One failing channel is logged and named in the file, and never keeps the others from being tried.
"""

from __future__ import annotations

import json
import logging
import smtplib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from email.message import EmailMessage
from typing import Any, Literal

from config import Settings

logger = logging.getLogger(__name__)

Severity = Literal["info", "warning", "error"]
LEVELS: dict[Severity, int] = {"info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
CHANNEL_TIMEOUT_SECONDS = 10


@dataclass(frozen=True)
class Alert:
    """Something that a person should know.

    Attributes
    ----------
    title : str
        One line: what happened.
    severity : "info", "warning" or "error"
    body : str
        What it means and what to do about it.
    context : mapping
        Names for the search: DAG, run, window, rule. Values must go into JSON (others become text).
    """

    title: str
    severity: Severity
    body: str
    context: Mapping[str, Any] = field(default_factory=dict)

    def text(self) -> str:
        """Body and context as plain text."""
        return "\n".join([self.body, "", *(f"{key}: {value}" for key, value in self.context.items())]).strip()


def send_alert(alert: Alert, settings: Settings) -> list[str]:
    """Tell people, through every configured channel.

    Returns
    -------
    list of str
        The channels that took the alert: always "log", then "smtp", "webhook" and "file".
    """
    logger.log(LEVELS[alert.severity], "ALERT [%s] %s\n%s", alert.severity, alert.title, alert.text())
    delivered = ["log"]
    failures: dict[str, str] = {}
    for name, deliver in _configured(settings).items():
        try:
            deliver(alert, settings)
            delivered.append(name)
        except Exception as error:  # whatever a channel does, the next one must still be tried
            failures[name] = f"{type(error).__name__}: {error}"
            logger.exception("alert %r was NOT delivered through %s", alert.title, name)
    if _record(alert, delivered, failures, settings):
        delivered.append("file")
    return delivered


def recent_alerts(settings: Settings, limit: int = 20) -> list[dict[str, Any]]:
    """The last alerts on file, newest first; a damaged line is shown as such."""
    path = settings.reports / "alerts.jsonl"
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()[-limit:]
    return [_parsed(line) for line in reversed(lines)]


def _parsed(line: str) -> dict[str, Any]:
    try:
        return dict(json.loads(line))
    except (ValueError, TypeError):
        return {"title": "unreadable line in alerts.jsonl", "severity": "warning", "body": line, "context": {}}


def _configured(settings: Settings) -> dict[str, Callable[[Alert, Settings], None]]:
    channels: dict[str, Callable[[Alert, Settings], None]] = {}
    if settings.smtp_host and _recipients(settings):
        channels["smtp"] = _send_mail
    if settings.webhook_url:
        channels["webhook"] = _post_webhook
    return channels


def _recipients(settings: Settings) -> list[str]:
    return [address.strip() for address in settings.alert_emails.split(",") if address.strip()]


def _send_mail(alert: Alert, settings: Settings) -> None:
    message = EmailMessage()
    # A line break in a header is refused, and an alert must not be lost to its own title.
    message["Subject"] = " ".join(f"[delivery-eta] {alert.severity}: {alert.title}".split())
    message["From"] = settings.smtp_from
    message["To"] = ", ".join(_recipients(settings))
    message.set_content(alert.text())
    with smtplib.SMTP(settings.smtp_host, settings.smtp_port, timeout=CHANNEL_TIMEOUT_SECONDS) as server:
        refused = server.send_message(message)
    if refused:
        raise smtplib.SMTPRecipientsRefused(refused)


def _post_webhook(alert: Alert, settings: Settings) -> None:
    import httpx

    content = json.dumps(asdict(alert), default=str)
    response = httpx.post(
        settings.webhook_url,
        content=content,
        headers={"Content-Type": "application/json"},
        timeout=CHANNEL_TIMEOUT_SECONDS,
    )
    response.raise_for_status()


def _record(alert: Alert, delivered: list[str], failures: dict[str, str], settings: Settings) -> bool:
    line = json.dumps({**asdict(alert), "channels": delivered, "failures": failures}, default=str)
    try:
        settings.reports.mkdir(parents=True, exist_ok=True)
        with (settings.reports / "alerts.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")
    except OSError:
        logger.exception("alert %r could not be written to %s", alert.title, settings.reports / "alerts.jsonl")
        return False
    return True

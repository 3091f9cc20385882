"""Alerts against a real SMTP conversation and a real HTTP server on loopback."""

from __future__ import annotations

import json
import logging
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from config import Settings
from plugins.notify import Alert, recent_alerts, send_alert

ALERT = Alert("batch refused", "error", "40 % of the rows have no id", {"dag": "feature_pipeline", "run": "r1"})


@contextmanager
def serving(server: socketserver.BaseServer) -> Iterator[int]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Mailbox(socketserver.TCPServer):
    """As much of RFC 5321 as a client needs to leave a message; refuses recipients at `refused`."""

    def __init__(self, refused: str = "") -> None:
        self.messages: list[tuple[list[str], EmailMessage]] = []
        self.refused = refused
        super().__init__(("127.0.0.1", 0), MailHandler)


class MailHandler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        self.answer("220 ready")
        recipients: list[str] = []
        while line := self.rfile.readline():
            verb, _, argument = line.decode().strip().partition(" ")
            match verb.upper():
                case "RCPT" if self.server.refused and self.server.refused in argument:
                    self.answer("550 no such mailbox")
                case "RCPT":
                    recipients.append(argument.removeprefix("TO:").strip("<>"))
                    self.answer("250 ok")
                case "DATA":
                    self.answer("354 go on")
                    body = b"".join(iter(self.rfile.readline, b".\r\n"))
                    self.server.messages.append((recipients, message_from_bytes(body, policy=policy.default)))
                    self.answer("250 ok")
                case "QUIT":
                    return self.answer("221 bye")
                case _:
                    self.answer("250 ok")

    def answer(self, line: str) -> None:
        self.wfile.write(f"{line}\r\n".encode())


class Hook(HTTPServer):
    def __init__(self, status: int = 200) -> None:
        self.status, self.bodies = status, []
        super().__init__(("127.0.0.1", 0), HookHandler)


class HookHandler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.server.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        """Keeps the test's output quiet."""


def settings(tmp_path: Path, **values) -> Settings:
    return Settings(data_dir=tmp_path, **values)


def on_file(tmp_path: Path) -> list[dict]:
    return [json.loads(line) for line in (tmp_path / "reports" / "alerts.jsonl").read_text().splitlines()]


def test_without_channels_an_alert_goes_to_the_log_and_the_file(tmp_path, caplog) -> None:
    with caplog.at_level(logging.ERROR):
        assert send_alert(ALERT, settings(tmp_path)) == ["log", "file"]
    assert "ALERT [error] batch refused\n40 % of the rows have no id\n\ndag: feature_pipeline\nrun: r1" in caplog.text
    (entry,) = on_file(tmp_path)
    assert (entry["title"], entry["context"], entry["failures"]) == ("batch refused", dict(ALERT.context), {})


def test_a_mail_reaches_all_recipients(tmp_path) -> None:
    mailbox = Mailbox()
    with serving(mailbox) as port:
        config = settings(tmp_path, smtp_host="127.0.0.1", smtp_port=port, alert_emails="a@example.org, b@example.org,")
        assert send_alert(ALERT, config) == ["log", "smtp", "file"]
    ((recipients, message),) = mailbox.messages
    assert recipients == ["a@example.org", "b@example.org"]
    assert message["Subject"] == "[delivery-eta] error: batch refused"
    assert message["From"] == "delivery-eta@localhost"
    assert "40 % of the rows have no id" in message.get_content()


def test_a_title_with_line_breaks_cannot_add_headers_to_a_mail(tmp_path) -> None:
    mailbox = Mailbox()
    with serving(mailbox) as port:
        config = settings(tmp_path, smtp_host="127.0.0.1", smtp_port=port, alert_emails="a@example.org")
        assert "smtp" in send_alert(Alert("x\r\nBcc: evil@example.org", "info", "b"), config)
    ((recipients, message),) = mailbox.messages
    assert (recipients, message["Bcc"]) == (["a@example.org"], None)


def test_a_refused_recipient_is_a_failure_of_the_channel(tmp_path, caplog) -> None:
    with serving(Mailbox(refused="b@")) as port:
        config = settings(tmp_path, smtp_host="127.0.0.1", smtp_port=port, alert_emails="a@example.org,b@example.org")
        assert send_alert(ALERT, config) == ["log", "file"]
    assert "was NOT delivered through smtp" in caplog.text
    assert "SMTPRecipientsRefused" in on_file(tmp_path)[0]["failures"]["smtp"]


def test_a_webhook_gets_the_alert_as_json(tmp_path) -> None:
    hook = Hook()
    with serving(hook) as port:
        config = settings(tmp_path, webhook_url=f"http://127.0.0.1:{port}/hook")
        assert send_alert(ALERT, config) == ["log", "webhook", "file"]
    assert hook.bodies == [
        {
            "title": "batch refused",
            "severity": "error",
            "body": "40 % of the rows have no id",
            "context": {"dag": "feature_pipeline", "run": "r1"},
        }
    ]


def test_one_dead_channel_does_not_keep_the_others_from_the_alert(tmp_path, caplog) -> None:
    hook = Hook(status=500)
    mailbox = Mailbox()
    with serving(hook) as hook_port, serving(mailbox) as mail_port:
        config = settings(
            tmp_path,
            webhook_url=f"http://127.0.0.1:{hook_port}/hook",
            smtp_host="127.0.0.1",
            smtp_port=mail_port,
            alert_emails="a@example.org",
        )
        assert send_alert(ALERT, config) == ["log", "smtp", "file"]
    assert "was NOT delivered through webhook" in caplog.text
    assert "500" in on_file(tmp_path)[0]["failures"]["webhook"]


def test_a_mail_server_that_is_not_there_loses_nothing(tmp_path, caplog) -> None:
    config = settings(tmp_path, smtp_host="127.0.0.1", smtp_port=1, alert_emails="a@example.org")
    assert send_alert(ALERT, config) == ["log", "file"]
    assert "was NOT delivered through smtp" in caplog.text


def test_an_unwritable_file_is_logged_and_not_raised(tmp_path, caplog) -> None:
    (tmp_path / "reports").write_text("a file in the way")
    assert send_alert(ALERT, settings(tmp_path)) == ["log"]
    assert "could not be written" in caplog.text


def test_recent_alerts_are_newest_first_and_survive_a_damaged_line(tmp_path) -> None:
    config = settings(tmp_path)
    assert recent_alerts(config) == []
    for number in range(3):
        send_alert(Alert(f"alert {number}", "info", ""), config)
    with (tmp_path / "reports" / "alerts.jsonl").open("a") as file:
        file.write("{torn")
    found = [alert["title"] for alert in recent_alerts(config, limit=3)]
    assert found == ["unreadable line in alerts.jsonl", "alert 2", "alert 1"]

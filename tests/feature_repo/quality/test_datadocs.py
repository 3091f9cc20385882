"""Validation results as pages: complete, bounded in number, and without anything from the network."""

from __future__ import annotations

import logging
import os
import re
from html import unescape

import pytest

from feature_repo.quality import datadocs, validate_orders
from feature_repo.quality.datadocs import docs_folder, docs_index, write_page
from feature_repo.quality.results import RuleResult, ValidationReport
from feature_repo.window import HOUR, Window
from tests.feature_repo.orders.builders import NOON, lake_frame, version

WINDOW = Window(NOON, NOON + HOUR)


def page(settings, *rows, window=WINDOW) -> str:
    validate_orders(lake_frame(*rows), window, settings)
    return (docs_folder(settings) / "orders" / f"{window.slug}.html").read_text()


def test_a_page_has_every_rule_with_what_was_found_and_allowed(settings):
    report = validate_orders(lake_frame(version("a"), version("b", distance_km=5000.0)), WINDOW, settings).report
    text = unescape((docs_folder(settings) / "orders" / f"{WINDOW.slug}.html").read_text())
    assert [result.rule for result in report.results if f"<td>{result.rule}</td>" not in text] == []
    assert "distance_km 5000.0 is not 0 to 100" in text
    assert '<span class="rejected">rejected</span>' in text
    assert "values must be greater than or equal to" in re.sub(r"<[^>]*>", "", text), (
        "what Great Expectations says of it"
    )
    assert "5000.0" in text.split("As Great Expectations found it")[1]


def test_a_page_loads_nothing_and_runs_nothing(settings):
    text = page(settings, version())
    assert re.findall(r"<script|<link|<img|<iframe|@import|url\(|javascript:", text) == []
    assert re.findall(r"https?://", docs_index(settings).read_text()) == []
    assert re.findall(r"src=|http", text) == []


def test_values_from_the_orders_are_text_and_no_markup(settings):
    text = page(settings, version("a"), version("b", status="<script>alert(1)</script> --> <b>"))
    assert "<script" not in text
    assert "<b>" not in text
    assert "&lt;script&gt;alert(1)" in text


def test_the_number_of_examples_is_bounded(settings):
    few = len(page(settings, *(version(f"o{number}", item_count=0) for number in range(30))))
    many = len(page(settings, *(version(f"o{number}", item_count=0) for number in range(3000))))
    assert many < 1.2 * few


def test_the_index_lists_the_pages_newest_first_with_their_verdicts(settings):
    page(settings, version())
    page(settings, window=Window(NOON + HOUR, NOON + 2 * HOUR))
    text = docs_index(settings).read_text()
    links = re.findall(r'href="([^"]*)">([^<]*)</a></td><td><span class="(\w+)"', text)
    assert links == [
        ("orders/20260504T13_20260504T14.html", "20260504T13_20260504T14", "warned"),
        ("orders/20260504T12_20260504T13.html", "20260504T12_20260504T13", "passed"),
    ]
    assert "no_rows" in text
    for link, _, _ in links:
        up = re.search(r'href="([^"]*)">all results', (docs_folder(settings) / link).read_text())
        assert ((docs_folder(settings) / link).parent / up.group(1)).resolve() == docs_index(settings).resolve()


def report_of(window, suite="features/zone_stats", **changes) -> ValidationReport:
    result = RuleResult("schema", "schema", "stop", False, 1, 2, 0, "missing: ['a -- b']")
    return ValidationReport(suite, window.slug, 1, 0, [result], **changes)


def test_a_stop_before_any_expectation_has_a_page_too(settings):
    path = write_page(report_of(WINDOW), [], settings)
    assert "missing: [&#39;a -- b&#39;]" in path.read_text()
    assert '<span class="stopped">stopped</span>' in docs_index(settings).read_text()
    assert 'href="../../index.html"' in path.read_text()


def test_only_the_newest_pages_of_a_suite_stay(settings, monkeypatch):
    monkeypatch.setattr(datadocs, "KEPT_PAGES", 3)
    windows = [Window(NOON + number * HOUR, NOON + (number + 1) * HOUR) for number in (9, 1, 2, 3)]
    write_page(report_of(WINDOW, "orders"), [], settings)
    for age, window in enumerate(windows):
        path = write_page(report_of(window), [], settings)
        os.utime(path, (age, age))
    write_page(report_of(windows[3]), [], settings)
    kept = sorted(path.stem for path in (docs_folder(settings) / "features" / "zone_stats").iterdir())
    assert kept == [window.slug for window in windows[1:]], (
        "the page that was written first has gone, not the oldest hour"
    )
    assert (docs_folder(settings) / "orders" / f"{WINDOW.slug}.html").exists()


def test_a_page_that_cannot_be_drawn_is_logged_and_stops_no_orders(settings, monkeypatch, caplog):
    def broken(*_):
        raise RuntimeError("no ink")

    monkeypatch.setattr(datadocs, "_render", broken)
    verdict = validate_orders(lake_frame(version()), WINDOW, settings)
    assert verdict.accepted.height == 1
    assert "could not be rendered" in caplog.text
    assert "no ink" in caplog.text
    assert (settings.reports / "quality" / "orders" / f"{WINDOW.slug}.json").exists()


def test_the_log_says_where_the_page_is(settings, caplog):
    with caplog.at_level(logging.INFO, logger="feature_repo"):
        page(settings, version())
    assert f"validation results of orders: {docs_folder(settings) / 'orders' / WINDOW.slug}.html" in caplog.text


@pytest.mark.parametrize(
    ("severities", "verdict"),
    [([], "passed"), (["warn"], "warned"), (["warn", "reject"], "rejected"), (["reject", "stop", "warn"], "stopped")],
)
def test_a_verdict_is_the_gravest_of_the_failures(severities, verdict):
    results = [RuleResult("r", "r", severity, False, 0, 0, 0, "") for severity in severities]
    assert ValidationReport("orders", WINDOW.slug, 0, 0, results).verdict == verdict

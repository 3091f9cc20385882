"""The register of rules: what is reported is in it, what is in it is documented, and configurations must fit it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from config import Settings, get_settings
from config.settings import ROOT
from feature_repo import pipeline
from feature_repo.quality import RuleError
from feature_repo.quality.__main__ import main
from feature_repo.quality.rules import RULES, reported_names, severities, table
from feature_repo.window import HOUR, Window
from tests.feature_repo.orders.builders import NOON, complete, land, version

WINDOW = Window(NOON, NOON + HOUR)


def with_severities(settings: Settings, **overrides: str) -> Settings:
    return settings.model_copy(update={"rule_severities": overrides})


def test_the_table_in_the_docs_is_that_of_the_code():
    assert table() in (ROOT / "docs" / "quality.md").read_text(), "python -m feature_repo.quality prints the table"


def test_every_rule_s_default_is_among_what_it_may_be():
    assert [rule.name for rule in RULES.values() if rule.severity not in rule.may_be] == []


def test_every_reported_name_belongs_to_a_rule_and_every_rule_to_a_name():
    definitions = {rule for names in reported_names().values() for rule in names.values()}
    assert definitions == set(RULES)


def test_without_a_configuration_a_rule_has_its_own_severity(settings):
    grave = severities(settings)
    assert {name: grave.of(name) for name in RULES} == {rule.name: rule.severity for rule in RULES.values()}


def test_a_rule_is_configured_as_a_whole_or_for_one_column(settings):
    grave = severities(
        with_severities(
            settings,
            **{
                "null_shift": "stop",
                "orders.driver_id_null_shift": "warn",
                "zone_stats.open_order_count_range": "warn",
                "row_count": "stop",
            },
        )
    )
    assert grave.of("row_count") == "stop"
    assert grave.of("null_shift", "orders", "zone_id_null_shift") == "stop"
    assert grave.of("null_shift", "orders", "driver_id_null_shift") == "warn"
    assert grave.of("feature_range", "zone_stats", "open_order_count_range") == "warn"
    assert grave.of("feature_range", "zone_stats", "order_count_7d_range") == "stop"


@pytest.mark.parametrize(
    ("name", "severity", "message"),
    [
        ("row_cuont", "stop", r"there is no rule 'row_cuont': did you mean 'row_count'\?.*docs/quality.md"),
        ("zone_stats.open_orders_range", "warn", r"did you mean 'zone_stats.open_order_count_range'"),
        ("nothing.like.it", "warn", r"ETA_RULE_SEVERITIES: there is no rule 'nothing.like.it'"),
        ("zone_stats.segment_allowed", "warn", r"there is no rule 'zone_stats.segment_allowed'"),
        ("orders.mean_shift", "warn", r"there is no rule 'orders.mean_shift'"),
        ("row_count", "halt", r"row_count can be warn or stop, not 'halt'"),
        ("row_count", "reject", r"row_count can be warn or stop, not 'reject'"),
        ("distance_km", "warn", r"distance_km can be reject or stop, not 'warn'"),
        ("one_row_per_key", "warn", r"one_row_per_key can be stop, not 'warn': rows that break it would damage"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused_with_the_reason(name, severity, message, settings):
    with pytest.raises(RuleError, match=message):
        severities(with_severities(settings, **{name: severity}))


def test_a_wrong_configuration_ends_a_run_before_it_does_anything(settings):
    land(settings, version())
    complete(settings, WINDOW.end)
    with pytest.raises(RuleError, match="there is no rule 'row_cuont'"):
        pipeline.run_window(WINDOW, with_severities(settings, row_cuont="stop"))
    assert not (settings.staging / "orders").exists()
    with pytest.raises(RuleError, match="there is no rule 'row_cuont'"):
        pipeline.ingest_orders(WINDOW, with_severities(settings, row_cuont="stop"))


def test_a_warning_configured_as_stop_refuses_the_batch(settings):
    complete(settings, WINDOW.end)
    verdicts = []
    for configured in (settings, with_severities(settings, no_rows="stop")):
        pipeline.ingest_orders(WINDOW, configured)
        verdicts.append(pipeline.validate_orders(WINDOW, configured))
    assert [verdict["stopped"] for verdict in verdicts] == [False, True]
    assert [failure["severity"] for verdict in verdicts for failure in verdict["failures"]] == ["warn", "stop"]


def test_a_rejection_configured_as_stop_refuses_the_batch_and_names_the_row_s_rule(settings):
    land(settings, version("good"), version("bad", item_count=0))
    complete(settings, WINDOW.end)
    configured = with_severities(settings, item_count="stop")
    pipeline.ingest_orders(WINDOW, configured)
    verdict = pipeline.validate_orders(WINDOW, configured)
    assert verdict["stopped"]
    assert [(failure["rule"], failure["severity"]) for failure in verdict["failures"]] == [("item_count", "stop")]


def test_severities_come_from_the_environment(settings, monkeypatch, capsys):
    monkeypatch.setenv("ETA_RULE_SEVERITIES", '{"row_count": "stop"}')
    get_settings.cache_clear()
    assert main() == 0
    said = capsys.readouterr().out
    assert "configured: row_count = stop" in said
    assert next(line for line in said.splitlines() if "`row_count`" in line).count("`stop`") == 1
    monkeypatch.setenv("ETA_RULE_SEVERITIES", '{"row_count": "halt"}')
    get_settings.cache_clear()
    assert main() == 1
    assert "row_count can be warn or stop, not 'halt'" in capsys.readouterr().err


def test_the_table_costs_no_import_of_great_expectations():
    code = (
        "import sys; from feature_repo.quality.__main__ import main; main(); print('great_expectations' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert ended.stdout.splitlines()[-1] == "False"

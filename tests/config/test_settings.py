"""Settings: defaults work in development, and production refuses them."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from config import Settings
from config.urls import redacted


def test_development_runs_without_any_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REDIS_URL", "ETA_REDIS_URL", "MLFLOW_TRACKING_URI", "ETA_MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    settings = Settings(_env_file=None)
    assert settings.redis_url == "redis://127.0.0.1:6390/0"
    assert settings.mlflow_tracking_uri == "http://127.0.0.1:5050"


def test_production_refuses_the_default_api_key() -> None:
    with pytest.raises(ValidationError, match="ETA_API_KEY has its development default"):
        Settings(_env_file=None, environment="production")


def test_production_accepts_a_secret_of_its_own() -> None:
    settings = Settings(_env_file=None, environment="production", api_key="a-long-secret")
    assert settings.api_key.get_secret_value() == "a-long-secret"


def test_secrets_do_not_show_in_the_representation() -> None:
    assert "a-long-secret" not in repr(Settings(_env_file=None, api_key="a-long-secret"))


@pytest.mark.parametrize("name", ["ETA_REDIS_URL", "REDIS_URL"])
def test_redis_url_can_be_overridden_by_either_name(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.delenv("ETA_REDIS_URL", raising=False)
    monkeypatch.setenv(name, "redis://elsewhere:1/2")
    assert Settings(_env_file=None).redis_url == "redis://elsewhere:1/2"


def test_every_path_hangs_off_the_data_directory(tmp_path: Path) -> None:
    settings = Settings(_env_file=None, data_dir=tmp_path)
    names = [*Settings.model_fields, *(name for name, kind in vars(Settings).items() if isinstance(kind, property))]
    paths = [value for name in names if isinstance(value := getattr(settings, name), Path)]
    assert len(paths) > 10
    assert all(path.is_relative_to(tmp_path) for path in paths)


def test_importing_settings_makes_nothing(tmp_path: Path) -> None:
    Settings(_env_file=None, data_dir=tmp_path / "data")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("blank", ["", "  "])
def test_a_blank_api_key_is_none_and_production_refuses_it(blank: str) -> None:
    assert Settings(_env_file=None, api_key=blank).accepted_keys == {"default": "development-only"}
    with pytest.raises(ValidationError, match="ETA_API_KEY has its development default"):
        Settings(_env_file=None, environment="production", api_key=blank)
    with pytest.raises(ValidationError, match=r"ETA_API_KEYS has blank keys or names \(\['app'\]\)"):
        Settings(_env_file=None, api_keys={"app": blank})


def test_named_keys_count_beside_the_own_and_instead_of_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ETA_API_KEYS", '{"app": "s1", "app-next": "s2"}')
    monkeypatch.setenv("ETA_ENVIRONMENT", "production")

    both = Settings(_env_file=None, api_key="own")
    assert both.accepted_keys == {"default": "own", "app": "s1", "app-next": "s2"}
    named = Settings(_env_file=None)
    assert (named.accepted_keys, named.client_key) == ({"app": "s1", "app-next": "s2"}, "s1")


def test_an_invalid_setting_shows_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ETA_REDIS_URL", "redis://:hunter2@host:6379/0")
    with pytest.raises(ValidationError) as error:
        Settings(_env_file=None, environment="production", serving_port="hunter3")
    assert "hunter" not in str(error.value)
    with pytest.raises(ValidationError) as error:
        Settings(_env_file=None, environment="production")
    assert "hunter" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://user:secret@mlflow:5000 does not answer", "http://***@mlflow:5000 does not answer"),
        ("redis://:pa/ss@word@host:6379/0", "redis://***@host:6379/0"),
        ("postgresql://host/db?user=u&password=secret: set", "postgresql://host/db?*** set"),
        ("a@b has no address", "a@b has no address"),
        ("http://host/a and http://u:p@host/b", "http://host/a and http://***@host/b"),
    ],
)
def test_addresses_are_shown_without_secrets(text: str, shown: str) -> None:
    assert redacted(text) == shown


@pytest.mark.parametrize(
    "address", ["s3://bucket/lake", "s3:bucket", "gs://bucket", "file:///data", "hdfs://host/lake"]
)
def test_an_address_is_no_data_directory(address, monkeypatch):
    monkeypatch.setenv("ETA_DATA_DIR", address)
    with pytest.raises(ValidationError, match=f"ETA_DATA_DIR={address} is an address"):
        Settings()


@pytest.mark.parametrize(
    ("zone", "near"),
    [
        ("Europe/Berlim", "Did you mean 'Europe/Berlin'?"),
        ("europe/berlin", "Did you mean 'Europe/Berlin'?"),
        ("los angeles", "Did you mean 'America/Los_Angeles'?"),
        ("Middle-earth/Bree", "write one like 'UTC' or 'Europe/Paris'."),
        ("localtime", "write one like"),
        ("../etc/passwd", "write one like"),
    ],
)
def test_a_market_zone_that_does_not_exist_is_refused_with_what_to_write(zone, near, monkeypatch):
    monkeypatch.setenv("ETA_MARKET_ZONE", zone)
    with pytest.raises(ValidationError) as error:
        Settings(_env_file=None)
    assert f"ETA_MARKET_ZONE: {zone!r} is no time zone" in str(error.value)
    assert near in str(error.value)


@pytest.mark.parametrize(("given", "zone"), [("Asia/Kolkata", "Asia/Kolkata"), ("", None), (" ", None)])
def test_a_blank_market_zone_is_none(given, zone, monkeypatch):
    monkeypatch.setenv("ETA_MARKET_ZONE", given)
    assert Settings(_env_file=None).market_zone == zone


@pytest.mark.parametrize("given", ["[20, 12, 0]", "20,12,0", " 0, 12,20 "])
def test_peak_hours_are_hours_of_a_day(given, monkeypatch):
    monkeypatch.setenv("ETA_PEAK_HOURS", given)
    assert Settings(_env_file=None).peak_hours == (0, 12, 20)


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ("[11, 24]", r"at fault: \['24'\]"),
        ("11-14", r"at fault: \['11-14'\]"),
        ("-1,3", r"at fault: \['-1'\]"),
        ("7,7", r"at fault: \['7'\]"),
        ("11.5", r"at fault: \['11.5'\]"),
        ("", "at least one and not all"),
        ("[]", "at least one and not all"),
        (",".join(map(str, range(24))), "at least one and not all"),
    ],
)
def test_other_peak_hours_are_refused_with_those_at_fault(given, fault, monkeypatch):
    monkeypatch.setenv("ETA_PEAK_HOURS", given)
    with pytest.raises(ValidationError, match=rf"ETA_PEAK_HOURS=.*{fault}"):
        Settings(_env_file=None)

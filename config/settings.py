"""One settings object, read from `ETA_*` variables and an optional `.env` file at the repository's root.

Every path hangs off `data_dir` and every address off a port, so a second, independent installation
(a test, another checkout) needs only another `ETA_DATA_DIR` and other ports.
"""

from __future__ import annotations

import re
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from config.zones import time_zone

ROOT = Path(__file__).resolve().parent.parent
DEVELOPMENT_API_KEY = "development-only"


class Settings(BaseSettings):
    """All that can differ between two installations.

    Raises
    ------
    pydantic.ValidationError
        A variable has the wrong type, or a secret has its development default outside development.
    """

    model_config = SettingsConfigDict(
        env_prefix="ETA_",
        env_file=ROOT / ".env",
        extra="ignore",
        populate_by_name=True,
        frozen=True,
        hide_input_in_errors=True,  # among it are passwords
    )

    environment: Literal["development", "production"] = "development"
    data_dir: Path = ROOT / "data"

    # Time: see docs/architecture.md, "What is known when".
    lateness_horizon_hours: int = Field(default=72, ge=1)
    publication_delay_minutes: int = Field(default=10, ge=0, lt=60)
    live_publication_delay_minutes: int = Field(default=2, ge=0, lt=60)

    # By which clock the market lives, and its full hours of lunch and dinner (docs/features.md, "The market's clock").
    # Without a zone, the one that was noted with the mapping of the orders, else UTC.
    market_zone: str | None = None
    peak_hours: Annotated[tuple[int, ...], NoDecode] = (11, 12, 13, 18, 19, 20)

    # Ingestion: what counts as an outlier in time, see docs/inputs.md. Versions with more than `span_gap_days` between
    # them and all others are set aside when they are fewer than this share of the largest group; with more than
    # `span_max_gap_days` between two groups, nothing lands.
    span_gap_days: int = Field(default=45, ge=1)
    span_outlier_share: float = Field(default=0.05, ge=0, le=1)
    span_max_gap_days: int = Field(default=366, ge=1)

    # What computes features: DuckDB in the process, or Spark (needs the extra `spark`, and Java).
    engine: Literal["duckdb", "spark"] = "duckdb"
    # What it may take before it spills to disk; DuckDB's own limit is 80 % of the machine, Spark is given 4 GiB.
    engine_memory_gib: float | None = Field(default=None, gt=0)

    # What is kept beside the tables: reports of validations and audits, in days before the newest one; tables that a
    # rebuild or a new feature replaced, in number by view.
    report_retention_days: int = Field(default=90, ge=1)
    superseded_kept: int = Field(default=2, ge=1)

    # Addresses. All servers listen on `host`, loopback unless changed.
    host: str = "127.0.0.1"
    redis_port: int = 6390
    mlflow_port: int = 5050
    serving_port: int = 8000
    airflow_port: int = 8080
    redis_url_override: str | None = Field(
        default=None, validation_alias=AliasChoices("ETA_REDIS_URL", "REDIS_URL", "redis_url_override")
    )
    mlflow_tracking_uri_override: str | None = Field(
        default=None,
        validation_alias=AliasChoices("ETA_MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_URI", "mlflow_tracking_uri_override"),
    )
    feast_registry_url_override: str | None = Field(
        default=None, validation_alias=AliasChoices("ETA_FEAST_REGISTRY_URL", "feast_registry_url_override")
    )

    # Validation: severities other than the rules' own (docs/quality.md). JSON, by rule or SUITE.RULE:
    # ETA_RULE_SEVERITIES='{"row_count": "stop", "orders.driver_id_null_shift": "warn"}'
    rule_severities: dict[str, str] = Field(default_factory=dict)

    # Training: gate thresholds other than the model's own, since what error is good depends on the noise of a market.
    # JSON, by model and gate: ETA_GATE_THRESHOLDS='{"delivery_time": {"validation_mae": 13}}'
    gate_thresholds: dict[str, dict[str, float]] = Field(default_factory=dict)
    # A person is asked in Airflow before a version that passed its gates becomes the champion.
    training_approval: bool = False

    # Serving. A blank key is none. Further keys by the names of who has them, JSON, so that one can be replaced while
    # the other still counts: ETA_API_KEYS='{"app": "...", "app-next": "..."}'
    api_key: SecretStr = SecretStr(DEVELOPMENT_API_KEY)
    api_keys: dict[str, SecretStr] = Field(default_factory=dict)
    champion_poll_seconds: float = Field(default=5.0, gt=0)
    online_timeout_ms: int = Field(default=50, gt=0)
    serving_concurrency: int = Field(default=256, gt=0)
    # How long after SIGTERM requests are still taken, while `/ready` says that they should go elsewhere.
    drain_seconds: float = Field(default=2.0, ge=0, le=60)
    # When a request's order may have been placed, by the server's clock; see docs/serving.md, "Time".
    placed_at_max_age_hours: float = Field(default=24, gt=0)
    placed_at_max_ahead_minutes: float = Field(default=10, ge=0)
    model_dir_override: Path | None = Field(
        default=None, validation_alias=AliasChoices("ETA_MODEL_DIR", "model_dir_override")
    )

    # Alerts: always to the log; also by mail and webhook where configured.
    alert_emails: str = ""
    smtp_host: str = ""
    smtp_port: int = 25
    smtp_from: str = "delivery-eta@localhost"
    webhook_url: str = ""

    @field_validator("api_key")
    @classmethod
    def _blank_is_unset(cls, key: SecretStr) -> SecretStr:
        return key if key.get_secret_value().strip() else SecretStr(DEVELOPMENT_API_KEY)

    @field_validator("api_keys")
    @classmethod
    def _refuse_blanks(cls, keys: dict[str, SecretStr]) -> dict[str, SecretStr]:
        blank = sorted(name for name, key in keys.items() if not name.strip() or not key.get_secret_value().strip())
        if blank:
            raise ValueError(f"ETA_API_KEYS has blank keys or names ({blank}): leave them out, or set them")
        return keys

    @field_validator("market_zone")
    @classmethod
    def _known_zone(cls, name: str | None) -> str | None:
        if name is None or not name.strip():
            return None
        try:
            return time_zone(name)
        except ValueError as error:
            raise ValueError(f"ETA_MARKET_ZONE: {error}") from error

    @field_validator("peak_hours", mode="before")
    @classmethod
    def _hours_of_a_day(cls, given: Any) -> tuple[int, ...]:
        words = given.strip().removeprefix("[").removesuffix("]").split(",") if isinstance(given, str) else given
        texts = [str(word).strip() for word in words]
        hours = [int(text) for text in texts if re.fullmatch(r"[0-9]{1,2}", text)]
        odd = sorted({text for text in texts if text not in map(str, range(24)) or texts.count(text) > 1})
        if odd or not 0 < len(hours) < 24:
            raise ValueError(
                f"ETA_PEAK_HOURS={','.join(texts)}: write full hours of the day, 0 to 23, each once, at least one and "
                f"not all, such as 11,12,13,18,19,20{f' (at fault: {odd})' if odd else ''}"
            )
        return tuple(sorted(hours))

    @field_validator("data_dir", mode="before")
    @classmethod
    def _refuse_addresses(cls, value: Any) -> Any:
        if "://" in str(value) or re.match(r"(s3|gs|az|abfss?|hdfs|https?|file):", str(value)):
            raise ValueError(
                f"ETA_DATA_DIR={value} is an address, and would become a folder of that name: write the path of a "
                "folder of this machine (one that a file system mounts, where the data lie elsewhere)"
            )
        return value

    @model_validator(mode="after")
    def _refuse_default_secrets_in_production(self) -> Settings:
        if self.environment == "production" and DEVELOPMENT_API_KEY in self.accepted_keys.values():
            raise ValueError(
                "ETA_API_KEY has its development default: set it, or ETA_API_KEYS, to secrets of your own in production"
            )
        return self

    @property
    def accepted_keys(self) -> dict[str, str]:
        """The API keys that count, by name; `default` is `api_key`, unless that is unset and there are others."""
        named = {name: key.get_secret_value() for name, key in self.api_keys.items()}
        default = self.api_key.get_secret_value()
        return named if named and default == DEVELOPMENT_API_KEY else {"default": default, **named}

    @property
    def client_key(self) -> str:
        """The API key by which our own programs ask."""
        return next(iter(self.accepted_keys.values()))

    # Where things are kept.
    @property
    def landing_orders(self) -> Path:
        return self.data_dir / "landing" / "orders"

    @property
    def staging(self) -> Path:
        return self.data_dir / "staging"

    @property
    def orders(self) -> Path:
        return self.data_dir / "lake" / "orders"

    @property
    def quarantine(self) -> Path:
        return self.data_dir / "lake" / "quarantine"

    @property
    def baselines(self) -> Path:
        return self.data_dir / "lake" / "baselines"

    @property
    def tiles(self) -> Path:
        return self.data_dir / "lake" / "tiles"

    @property
    def features(self) -> Path:
        return self.data_dir / "lake" / "features"

    @property
    def live(self) -> Path:
        return self.data_dir / "lake" / "live"

    @property
    def predictions(self) -> Path:
        return self.data_dir / "lake" / "predictions"

    @property
    def datasets(self) -> Path:
        return self.data_dir / "datasets"

    @property
    def reports(self) -> Path:
        return self.data_dir / "reports"

    @property
    def run_dir(self) -> Path:
        return self.data_dir / "run"

    @property
    def airflow_home(self) -> Path:
        return self.data_dir / "airflow"

    @property
    def mlflow_dir(self) -> Path:
        return self.data_dir / "mlflow"

    # Addresses.
    @property
    def redis_url(self) -> str:
        return self.redis_url_override or f"redis://{self.host}:{self.redis_port}/0"

    @property
    def mlflow_tracking_uri(self) -> str:
        return self.mlflow_tracking_uri_override or f"http://{self.host}:{self.mlflow_port}"

    @property
    def serving_url(self) -> str:
        return f"http://{self.host}:{self.serving_port}"

    @property
    def airflow_url(self) -> str:
        return f"http://{self.host}:{self.airflow_port}"

    @property
    def feast_registry_url(self) -> str:
        return self.feast_registry_url_override or f"sqlite:///{self.data_dir / 'feast' / 'registry.db'}"

    # Durations.
    @property
    def report_retention(self) -> timedelta:
        return timedelta(days=self.report_retention_days)

    @property
    def lateness_horizon(self) -> timedelta:
        return timedelta(hours=self.lateness_horizon_hours)

    @property
    def publication_delay(self) -> timedelta:
        return timedelta(minutes=self.publication_delay_minutes)

    @property
    def live_publication_delay(self) -> timedelta:
        return timedelta(minutes=self.live_publication_delay_minutes)


@lru_cache
def get_settings() -> Settings:
    """The process's settings, read once. Tests call `get_settings.cache_clear()` after changing the environment."""
    return Settings()

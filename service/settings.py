"""The service's settings, read from `FORECASTER_*` variables. The README lists each; a test holds it to that."""

import ipaddress
import re
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from forecaster.database.uris import DEFAULT_DATABASE_URL, DEFAULT_TRACKING_URI

_LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})
_RATE = re.compile(r"[1-9]\d{0,8}/(second|minute|hour|day)")


class Settings(BaseSettings):
    """What can be set; every field's variable is its name in capitals behind `FORECASTER_`."""

    model_config = SettingsConfigDict(env_prefix="FORECASTER_", frozen=True, extra="ignore")

    host: str = Field("127.0.0.1", description="address to listen on; beyond loopback only with API keys")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    tracking_uri: str = Field(DEFAULT_TRACKING_URI, description="MLflow's URI; empty serves the cache alone")
    mlflow_url: str = Field("", description="where people see MLflow's runs, for the dashboard's links")
    database_url: str = Field(
        DEFAULT_DATABASE_URL, description="the ledger, the keys and the jobs: SQLite, or `postgresql://…`"
    )
    cache_dir: Path = Field(Path("mlruns/cache"), description="folder of the version-keyed cache")
    bars_dir: Path = Field(Path("mlruns/bars"), description="folder of the bar store, for forecasts by unique_ids")
    stale_after_hours: float = Field(
        24, ge=0, le=1e7, description="how long a session may have ended and not be stored"
    )
    refresh_seconds: float = Field(60, gt=0, description="how often MLflow is asked for new versions and aliases")
    sync_timeout_seconds: float = Field(120, gt=0, description="how long such a request to MLflow may take")
    trial_seconds: float = Field(60, gt=0, description="processor time that the trial of a new version may take")
    trial_memory_mb: int = Field(1024, gt=0, description="MiB that a version may take for its largest batch")
    allowed_hosts: str = Field(
        "",
        description="names that requests may call it by, with commas, beside those of loopback; empty: these alone, or "
        "any where it listens beyond loopback",
    )
    keys_refresh_seconds: float = Field(5, gt=0, description="how long a revoked key may still be good")
    rate_limit: str = Field("", description="requests of each key or address, such as `600/minute`; empty: no limit")
    max_concurrent: int = Field(64, gt=0, description="most requests whose forecasts are made at once")
    batch_size: int = Field(32, gt=0, description="most requests that are forecast in one run of a model")
    batch_delay_seconds: float = Field(
        0, ge=0, le=1, description="how long one may wait for others; 0: only those that came at the same time"
    )
    max_connections: int = Field(
        500, gt=0, description="most connections; beyond it the one that has kept the service waiting longest is closed"
    )
    max_body_bytes: int = Field(16 * 2**20, gt=0, description="largest request body")
    max_values: int = Field(510_000, gt=0, description="most numbers, times, names, lists and objects in a body's JSON")
    max_bytes_in_flight: int = Field(
        64 * 2**20, gt=0, description="most bytes of large bodies at once, and as many of large answers"
    )
    body_timeout_seconds: float = Field(30, gt=0, description="how long a request's head and body may take to come")
    write_timeout_seconds: float = Field(30, gt=0, description="how long a client may read nothing of its answer")
    max_points: int = Field(1_000_000, gt=0, description="most series times steps times columns in one answer")
    max_series: int = Field(5000, gt=0, description="most series in one request")
    max_actuals: int = Field(100_000, gt=0, description="most actuals in one request")
    shadow_share: float = Field(
        0.2, ge=0, le=1, description="share of the champion's requests that a challenger answers too"
    )
    without_skill: Literal["model", "baseline"] = Field(
        "model", description="what is served where a model shows no skill: its forecast, or the `baseline`'s"
    )
    adapt_intervals: bool = Field(True, description="whether intervals follow what they covered of each series so far")
    evidence_scores: int = Field(200, gt=0, description="steps that must have come before they are evidence")
    evidence_inputs: int = Field(2000, gt=0, description="requests' series that must be seen before drift is evidence")
    evidence_relative_mae: float = Field(1.02, gt=0, description="realised error over the last value's, beyond which")
    evidence_coverage: float = Field(0.1, gt=0, description="distance of a coverage from its level, beyond which")
    evidence_psi: float = Field(0.25, gt=0, description="drift of the inputs, beyond which a retraining is asked for")
    keep_days: float = Field(0, ge=0, le=36500, description="how long the ledger keeps what was served; 0: for ever")
    drain_seconds: float = Field(1, ge=0, description="from SIGTERM, which ends readiness, to the end of listening")
    stop_seconds: int = Field(30, gt=0, description="how long requests in flight may then take")
    traces_endpoint: str = Field(
        "",
        description="where spans are sent, such as `http://collector:4318/v1/traces` (extra `telemetry`); empty: none",
    )
    log_format: Literal["text", "json"] = Field("text", description="lines for people, or JSON for machines")
    log_level: Literal["critical", "error", "warning", "info", "debug"] = Field(
        "info", description="least level logged"
    )

    @property
    def is_loopback(self) -> bool:
        """Say whether nobody but this machine can reach the service."""
        return self.host == "localhost" or _is_loopback_address(self.host)

    @property
    def hosts(self) -> frozenset[str]:
        """Return the names that requests may call this service by, any where there is none."""
        named = frozenset(name.strip().lower() for name in self.allowed_hosts.split(",") if name.strip())
        if not named and not self.is_loopback:
            return named
        # a page elsewhere could otherwise reach a service without keys by a name of its own (DNS rebinding); nobody
        # elsewhere can have a name of loopback, and health checks ask by it
        return named | _LOCAL | ({self.host.lower()} if self.is_loopback else set())

    @field_validator("rate_limit")
    @classmethod
    def _is_a_rate(cls, rate: str) -> str:
        if rate and not _RATE.fullmatch(rate):
            raise ValueError("write it as 600/minute, or per second, hour or day")
        return rate

    @field_validator("mlflow_url")
    @classmethod
    def _is_web_address(cls, url: str) -> str:
        if url and not url.startswith(("http://", "https://")):
            raise ValueError("must begin with http:// or https://, as http://127.0.0.1:5000")
        return url.rstrip("/")


def _is_loopback_address(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

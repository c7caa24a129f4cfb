"""The service's settings, read from `FORECASTER_*` environment variables."""

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
    """Settings of the service. The variable of each field is its name in capitals, prefixed with `FORECASTER_`."""

    model_config = SettingsConfigDict(env_prefix="FORECASTER_", frozen=True, extra="ignore")

    host: str = Field("127.0.0.1", description="address to listen on; beyond loopback an API key is required")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0: any free port")
    tracking_uri: str = Field(DEFAULT_TRACKING_URI, description="MLflow's URI; empty: serve only the cache")
    mlflow_url: str = Field("", description="address of MLflow's web interface, for links on the dashboard")
    database_url: str = Field(
        DEFAULT_DATABASE_URL,
        description="database of the ledger, API keys and jobs: SQLite or `postgresql://…`",
    )
    cache_dir: Path = Field(Path("mlruns/cache"), description="folder of the model cache")
    bars_dir: Path = Field(Path("mlruns/bars"), description="folder of the bar store, for forecasts by `unique_ids`")
    stale_after_hours: float = Field(
        24, ge=0, le=1e7, description="hours after the end of a session until stored bars without it are stale"
    )
    refresh_seconds: float = Field(60, gt=0, description="interval between checks of MLflow for versions and aliases")
    sync_timeout_seconds: float = Field(120, gt=0, description="time limit of a check of MLflow")
    trial_seconds: float = Field(60, gt=0, description="CPU time limit of the trial of a new version")
    trial_memory_mb: int = Field(1024, gt=0, description="memory limit of a version with its largest batch, in MiB")
    allowed_hosts: str = Field(
        "",
        description="host names that requests may use, separated by commas, in addition to loopback's; empty: only "
        "loopback's, or any if the service listens beyond loopback",
    )
    keys_refresh_seconds: float = Field(
        5, gt=0, description="interval between reads of the API keys; a revoked key may work for so long"
    )
    rate_limit: str = Field("", description="requests per key or address, such as `600/minute`; empty: no limit")
    max_concurrent: int = Field(64, gt=0, description="maximum number of forecast requests that run at once")
    batch_size: int = Field(32, gt=0, description="maximum number of requests in a batch")
    batch_delay_seconds: float = Field(
        0, ge=0, le=1, description="how long a request may wait for others to join its batch; 0: no wait"
    )
    max_connections: int = Field(
        500,
        gt=0,
        description="maximum number of connections; beyond it, the one idle for longest is closed",
    )
    max_body_bytes: int = Field(16 * 2**20, gt=0, description="maximum size of a request body")
    max_values: int = Field(510_000, gt=0, description="maximum number of JSON values in a request body")
    max_bytes_in_flight: int = Field(
        64 * 2**20, gt=0, description="maximum total size of large request bodies at once; the same for large answers"
    )
    body_timeout_seconds: float = Field(30, gt=0, description="time limit for receiving a request's head and its body")
    write_timeout_seconds: float = Field(30, gt=0, description="how long a client may read none of its answer")
    max_points: int = Field(1_000_000, gt=0, description="maximum of series × steps × columns in an answer")
    max_series: int = Field(5000, gt=0, description="maximum number of series in a request")
    max_actuals: int = Field(100_000, gt=0, description="maximum number of actuals in a request")
    shadow_share: float = Field(
        0.2, ge=0, le=1, description="share of the champion's requests that a challenger forecasts in the shadow"
    )
    without_skill: Literal["model", "baseline"] = Field(
        "model", description="forecast that is served if a model shows no skill: the model's or the baseline's"
    )
    adapt_intervals: bool = Field(True, description="whether intervals adapt to the realised coverage of each series")
    evidence_scores: int = Field(200, gt=0, description="minimum number of scored steps to judge realised skill")
    evidence_inputs: int = Field(2000, gt=0, description="minimum number of forecast series to judge input drift")
    evidence_relative_mae: float = Field(
        1.02, gt=0, description="realised `relative_mae` above which a retraining is requested"
    )
    evidence_coverage: float = Field(
        0.1, gt=0, description="difference of coverage and level above which a retraining is requested"
    )
    evidence_psi: float = Field(0.25, gt=0, description="PSI of the inputs above which a retraining is requested")
    keep_days: float = Field(0, ge=0, le=36500, description="days that the ledger keeps forecasts; 0: for ever")
    drain_seconds: float = Field(1, ge=0, description="time from SIGTERM, which ends readiness, until listening stops")
    stop_seconds: int = Field(30, gt=0, description="time limit for requests in flight after listening stops")
    traces_endpoint: str = Field(
        "",
        description="OTLP address for traces, such as `http://collector:4318/v1/traces` (extra `telemetry`); "
        "empty: no traces",
    )
    log_format: Literal["text", "json"] = Field("text", description="format of log lines: text or JSON")
    log_level: Literal["critical", "error", "warning", "info", "debug"] = Field(
        "info", description="minimum level of log lines"
    )

    @property
    def is_loopback(self) -> bool:
        """Return whether only this machine can reach the service."""
        return self.host == "localhost" or _is_loopback_address(self.host)

    @property
    def hosts(self) -> frozenset[str]:
        """Return the accepted host names; an empty set accepts any."""
        named = frozenset(name.strip().lower() for name in self.allowed_hosts.split(",") if name.strip())
        if not named and not self.is_loopback:
            return named
        # prevent DNS rebinding of a service without keys; names of loopback are safe, and health checks use them
        return named | _LOCAL | ({self.host.lower()} if self.is_loopback else set())

    @field_validator("rate_limit")
    @classmethod
    def _check_rate(cls, rate: str) -> str:
        if rate and not _RATE.fullmatch(rate):
            raise ValueError("must be a number per second, minute, hour or day, such as 600/minute")
        return rate

    @field_validator("mlflow_url")
    @classmethod
    def _check_web_address(cls, url: str) -> str:
        if url and not url.startswith(("http://", "https://")):
            raise ValueError("must begin with http:// or https://, such as http://127.0.0.1:5000")
        return url.rstrip("/")


def _is_loopback_address(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

"""The service's settings, read from `FORECASTER_*` variables. The README lists each; a test holds it to that."""

import ipaddress
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """What can be set; every field's variable is its name in capitals behind `FORECASTER_`."""

    model_config = SettingsConfigDict(env_prefix="FORECASTER_", frozen=True, extra="ignore")

    host: str = Field("127.0.0.1", description="address to listen on; loopback only, for there are no keys yet")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    tracking_uri: str = Field("sqlite:///mlruns/mlflow.db", description="MLflow's URI; empty serves the cache alone")
    mlflow_url: str = Field("", description="where people see MLflow's runs, for the dashboard's links")
    database_url: str = Field(
        "sqlite:///mlruns/service.db", description="the ledger, the keys and the jobs: SQLite, or `postgresql://…`"
    )
    cache_dir: Path = Field(Path("mlruns/cache"), description="folder of the version-keyed cache")
    bars_dir: Path = Field(Path("mlruns/bars"), description="folder of the bar store, for forecasts by unique_ids")
    stale_after_hours: float = Field(24, ge=0, description="how long a session may have ended and not be stored")
    refresh_seconds: float = Field(60, gt=0, description="how often MLflow is asked for new versions and aliases")
    sync_timeout_seconds: float = Field(120, gt=0, description="how long one such asking may take")
    max_body_bytes: int = Field(16 * 2**20, gt=0, description="largest request body")
    max_series: int = Field(5000, gt=0, description="most series in one request")
    max_actuals: int = Field(100_000, gt=0, description="most actuals in one request")
    shadow_share: float = Field(
        0, ge=0, le=1, description="share of the champion's requests that a challenger answers too"
    )
    without_skill: Literal["model", "baseline"] = Field(
        "model", description="what is served where a model shows no skill: its forecast, or the `baseline`'s"
    )
    log_level: Literal["critical", "error", "warning", "info", "debug"] = Field(
        "info", description="least level logged"
    )

    @field_validator("host")
    @classmethod
    def _is_loopback(cls, host: str) -> str:
        if host != "localhost" and not _is_loopback_address(host):
            raise ValueError(
                "must be a loopback address: the service has no keys yet; put a proxy that asks for them before it"
            )
        return host

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

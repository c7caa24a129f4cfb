"""Settings: docs/settings.md lists all of them, and the service refuses invalid values by name."""

import re
import socket
from pathlib import Path

import pytest

from service.settings import Settings
from tests.conftest import ROOT, run_module


def test_docs_list_every_variable_with_its_default() -> None:
    page = (ROOT / "docs" / "settings.md").read_text()
    table = dict(re.findall(r"^\| `FORECASTER_(\w+)` \| (?:`([^|`]*)` )?\|", page, re.MULTILINE))
    expected = {name.upper(): str(field.default) for name, field in Settings.model_fields.items()}
    assert table == expected


def test_variables_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORECASTER_MAX_SERIES", "7")
    monkeypatch.setenv("FORECASTER_CACHE_DIR", "/somewhere else")
    settings = Settings()
    assert settings.max_series == 7
    assert settings.cache_dir == Path("/somewhere else")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("FORECASTER_HOST", "0.0.0.0", "listening beyond loopback requires an API key; create one"),
        ("FORECASTER_RATE_LIMIT", "a lot", "such as 600/minute"),
        ("FORECASTER_DATABASE_URL", "mysql://me:secret@host/db", "'mysql' is not supported"),
        ("FORECASTER_PORT", "eighty", "valid integer"),
        ("FORECASTER_PORT", "70000", "less than or equal to 65535"),
        ("FORECASTER_REFRESH_SECONDS", "0", "greater than 0"),
        ("FORECASTER_MLFLOW_URL", "mlflow:5000", "must begin with http:// or https://"),
        ("FORECASTER_LOG_LEVEL", "loud", "'critical', 'error', 'warning', 'info' or 'debug'"),
    ],
)
def test_invalid_setting_is_named_and_stops_the_start(tmp_path: Path, name: str, value: str, message: str) -> None:
    done = run_module("service", cwd=tmp_path, **{name: value})
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {name}: ")
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert "secret" not in done.stderr


def test_occupied_port_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run_module("service", cwd=tmp_path, FORECASTER_PORT=str(port))
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: FORECASTER_PORT: cannot listen on 127.0.0.1:{port}")
    assert "Traceback" not in done.stderr

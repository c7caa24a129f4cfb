"""The tutorials run: their files are written, and their commands and programs run, in the order of the page."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest
import yaml

from forecaster.data.calendars import get_calendar
from forecaster.data.store import BarStore
from forecaster.domain.config import build_config
from pipelines.fetch import FetchConfig
from tests.conftest import ROOT

PAGES = ROOT / "docs" / "tutorials"
_BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```', re.MULTILINE | re.DOTALL)
_SERVICE = "127.0.0.1:8000"
_READY_WITHIN_SECONDS = 60

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed here (apt install curl)")


class Reader:
    """A reader who follows a tutorial in a new folder.

    Args:
        folder: where files are written and commands run; `forecaster` and `python` are on its path.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        programs = folder / ".bin"
        programs.mkdir()
        command = programs / "forecaster"
        command.write_text('#!/bin/sh\nexec python -m pipelines "$@"\n')
        command.chmod(0o755)
        self.environment = {
            **os.environ,
            "PATH": os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PYTHONPATH": str(ROOT),
            "FORECASTER_PORT": self.address.rpartition(":")[2],
            "FORECASTER_DATABASE_URL": "sqlite:///mlruns/service.db",
        }

    @contextmanager
    def following(self, page: Path) -> Iterator[list[str]]:
        """Follow a page to its end, and yield what each command printed; what runs beside it ends then."""
        services: list[subprocess.Popen[bytes]] = []
        printed: list[str] = []
        try:
            for language, title, text in _BLOCK.findall(page.read_text()):
                block = text.replace(_SERVICE, self.address)
                if title == "another terminal":
                    services.append(self._start(block))
                elif title:
                    (self.folder / title).write_text(block)
                elif language == "bash":
                    printed.append(self._run("sh", "-ec", block))
                elif language == "python":
                    printed.append(self._run("python", "-c", block))
            yield printed
        finally:
            for service in services:
                service.terminate()
                service.wait(timeout=30)

    def get(self, path: str) -> bytes:
        """Return what the service answers."""
        with urllib.request.urlopen(f"http://{self.address}{path}", timeout=10) as answer:
            content: bytes = answer.read()
        return content

    def _run(self, *command: str) -> str:
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False, timeout=300
        )
        assert done.returncode == 0, f"{command[-1]}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def _start(self, command: str) -> "subprocess.Popen[bytes]":
        with (self.folder / "service.log").open("wb") as log:
            process = subprocess.Popen(
                ["sh", "-c", f"exec {command}"], cwd=self.folder, env=self.environment, stdout=log, stderr=log
            )
        deadline = time.monotonic() + _READY_WITHIN_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            try:
                self.get("/health/ready")
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.2)
            else:
                return process
        process.kill()
        process.wait()
        raise AssertionError((self.folder / "service.log").read_text())


@needs_curl
def test_first_series_has_the_same_forecast_in_python_and_over_http(tmp_path: Path) -> None:
    page = PAGES / "first-series.md"
    with Reader(tmp_path).following(page) as printed:
        _, trained, promoted, _, _, answered, skill = printed
    (shown,) = [text for language, _, text in _BLOCK.findall(page.read_text()) if language == "text"]
    assert (tmp_path / "sales.csv").read_text().startswith(shown)
    assert json.loads(trained.splitlines()[-1])["metrics"]["relative_mae"] < 0.7
    assert json.loads(promoted.splitlines()[-1])["aliases"]["champion"] == 1
    frame = pd.read_csv(tmp_path / "forecast.csv", float_precision="round_trip")
    answer = json.loads(answered)
    assert answer["skill"]["is_shown"] is True
    for forecast in answer["forecasts"]:
        rows = frame[frame["unique_id"] == forecast["unique_id"]]
        for column in ("mean", "lo-80", "hi-80", "lo-95", "hi-95"):
            assert forecast[column] == rows[column].tolist()
        assert [day[:10] for day in forecast["ds"]] == rows["ds"].tolist()
    accepted, realised = (json.loads(text) for text in skill.replace("}{", "}\n{").splitlines())
    assert accepted == {"accepted": 2, "changed": 2}
    assert realised["realised"][0]["n_scores"] == 2


@needs_curl
def test_daily_prices_go_from_the_source_to_the_dashboard(tmp_path: Path) -> None:
    reader = Reader(tmp_path)
    with reader.following(PAGES / "daily-prices.md") as printed:
        _, retrained, answered, scored = printed
        assert json.loads(reader.get("/v1/series")) == {"series": ["WAVE"]}
        assert b"<title>" in reader.get("/")
    assert json.loads(retrained.splitlines()[-1])["outcome"] == "promoted"
    (forecast,) = json.loads(answered)["forecasts"]
    bars = BarStore(tmp_path / "mlruns" / "bars").read("WAVE")
    assert bars is not None
    coming = get_calendar("XNYS").after(bars.sessions[-1], 5)
    assert [day[:10] for day in forecast["ds"]] == [str(day) for day in coming]
    assert json.loads(scored.splitlines()[-1])["changed"] == {"WAVE": 0}


def test_section_for_real_prices_is_valid() -> None:
    ((_, _, text),) = [
        block for block in _BLOCK.findall((PAGES / "daily-prices.md").read_text()) if block[:2] == ("yaml", "")
    ]
    config = build_config(yaml.safe_load(text)["fetch"], FetchConfig, "daily-prices.md")
    assert (config.source, config.symbols) == ("yahoo", ("SPY", "AAPL"))

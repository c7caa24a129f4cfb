"""The client's documentation: its programs run against a service, and its tables name all calls and errors."""

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from forecaster import client, errors
from tests.client.conftest import frame
from tests.conftest import ROOT, TrainedModels

PAGE = (ROOT / "docs" / "client.md").read_text()
PROGRAMS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def _run(program: str, url: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    (folder / "mlruns" / "demo").mkdir(parents=True)
    frame().to_csv(folder / "mlruns" / "demo" / "known.csv", index=False)
    monkeypatch.chdir(folder)
    assert "http://127.0.0.1:8000" in program
    names: dict[str, Any] = {}
    exec(program.replace("http://127.0.0.1:8000", url), names)
    return names


def test_the_documented_programs_return_the_predictors_forecasts(
    url: str, models: TrainedModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = PROGRAMS
    found = _run(first, url, tmp_path / "one", monkeypatch)["forecast"]
    expected = models.predictor(1).predict_frame(frame(), horizon=4, level=[80, 95])
    pd.testing.assert_frame_equal(found[list(expected)], expected, check_exact=True)
    for found in _run(second, url, tmp_path / "two", monkeypatch)["forecasts"]:
        columns = ["unique_id", "cutoff", "ds", "mean"]
        pd.testing.assert_frame_equal(found[columns], expected[columns], check_exact=True)


def test_the_tables_list_all_calls_and_errors() -> None:
    calls = {name for name in vars(client.Client) if not name.startswith("_")} - {"close"}
    assert set(re.findall(r"^\| `(\w+)\(", PAGE, re.MULTILINE)) == calls
    every = {name for name in errors.__all__ if issubclass(getattr(errors, name), errors.ClientError)}
    assert set(re.findall(r"^\| `([A-Z]\w+)` \|", PAGE, re.MULTILINE)) == every - {"ClientError"}
    assert calls == {name for name in vars(client.AsyncClient) if not name.startswith("_")} - {"close"}

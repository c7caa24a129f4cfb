"""The demo: on the sine, and on a price file in Yahoo's format, in a soak twice."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from forecaster.data.sources import RandomWalkSource
from forecaster.registry.store import Store
from tests.conftest import ROOT, run_module

# a run trains two models, which takes half a minute
RUNS = 2 if os.environ.get("FORECASTER_SOAK") == "1" else 1


def _write_prices(path: Path) -> None:
    # the smallest number of rows that the recipe accepts
    frame = RandomWalkSource(length=355, seed=9).load()
    prices = frame["y"].round(4)
    rows = [
        f"{day:%Y-%m-%d},{price},{price},{price},{price},{price},100"
        for day, price in zip(frame["ds"], prices, strict=True)
    ]
    path.write_text("\n".join(["Date,Open,High,Low,Close,Adj Close,Volume", *rows]) + "\n")


def test_demo_trains_serves_and_forecasts(tmp_path: Path) -> None:
    folder = tmp_path / "a b"
    folder.mkdir()
    done = run_module("pipelines.demo", cwd=folder)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    # the LSTM, which is better on this sine
    assert answer["model"]["version"] == 1
    assert answer["mae"] < 0.3 * answer["naive_mae"]
    for text in ("lo-80", "hi-95", "actual", "naive", "make ui", "make serve", "/docs"):
        assert text in done.stdout
    assert "epoch" in done.stderr
    assert Path(folder / answer["plot"]).read_bytes().startswith(b"\x89PNG")
    _run_readme_example(folder)
    assert Store(f"sqlite:///{folder}/mlruns/mlflow.db").find("sine").aliases == {"champion": 1}
    assert [path.name for path in folder.iterdir()] == ["mlruns"]


@pytest.mark.skipif(RUNS == 1, reason="a minute: make soak")
def test_demo_runs_on_a_price_file(tmp_path: Path) -> None:
    _write_prices(tmp_path / "prices.csv")
    # both trainings are repeatable, so the same one of the two versions is better each time
    champions = []
    for _ in range(RUNS):
        done = run_module("pipelines", "demo", "--data", "prices.csv", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "forecaster serve" in done.stdout
        assert "make" not in done.stdout
        model = json.loads(done.stdout.splitlines()[-1])["model"]
        assert model["name"] == "stock"
        champions.append(model["version"])
        # too few calibration windows for a 95 % interval
        assert "lo-80" in done.stdout
        assert "lo-95" not in done.stdout
        assert "No 95 % interval: " in done.stdout
    assert champions in ([1, 3][:RUNS], [2, 4][:RUNS])
    aliases = Store(f"sqlite:///{tmp_path}/mlruns/mlflow.db").find("stock").aliases
    assert aliases == dict(zip(["champion", "previous"], reversed(champions), strict=False))


def _run_readme_example(folder: Path) -> None:
    """Run the README's Python example on the output of the demo; it prints the README's rows, but for rounding."""
    ((example, shown),) = re.findall(
        r"```python\n(.*?)```\n\n((?:    [^\n]*\n)+)", (ROOT / "README.md").read_text(), re.DOTALL
    )
    command = [sys.executable, "-c", example]
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    printed, expected = ([line.split() for line in text.splitlines()] for text in (done.stdout, shown))
    assert [words[:5] for words in printed] == [words[:5] for words in expected]
    for line, expected_line in zip(printed[1:], expected[1:], strict=True):
        numbers = [float(word) for word in expected_line[5:]]
        assert [float(word) for word in line[5:]] == pytest.approx(numbers, abs=0.05)


@pytest.mark.parametrize(
    ("text", "message"), [("", "is empty"), ("Date,Close\n2026-01-05,1\n2026-01-06,1e999\n", "line 3")]
)
def test_demo_names_the_error_in_a_file(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "bad.csv").write_text(text)
    done = run_module("pipelines.demo", "--data", "bad.csv", cwd=tmp_path)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["bad.csv"]

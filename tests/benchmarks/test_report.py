"""Benchmarks end with one JSON object of a fixed form, and say what they need."""

import json
from pathlib import Path

import pytest

from benchmarks.report import Row, report
from forecaster.data.sources import RandomWalkSource
from tests.conftest import run_module


def test_a_report_is_a_table_and_one_json_object_last(capsys: pytest.CaptureFixture[str]) -> None:
    report([Row("a", 1.0, 2.0, "s"), Row("b", 3.0, 2.0, "s"), Row("c", 3.0, None, "MB")])
    *table, last = capsys.readouterr().out.splitlines()
    answer = json.loads(last)
    assert answer["rows"][1] == {"name": "b", "value": 3.0, "bar": 2.0, "unit": "s", "met": False}
    assert [row["met"] for row in answer["rows"]] == [True, False, None]
    assert set(answer) == {"rows", "machine", "revision"}
    assert answer["machine"]["cpus"] >= 1
    assert [line.split()[-1] for line in table[1:]] == ["met", "MISSED", "MB"]


def test_the_daily_close_task_measures_each_cell_on_the_file_that_it_is_given(tmp_path: Path) -> None:
    frame = RandomWalkSource(length=500, seed=3).load()
    frame.rename(columns={"ds": "Date", "y": "Close"})[["Date", "Close"]].to_csv(tmp_path / "walk.csv", index=False)
    done = run_module("benchmarks.accuracy", "--task", "daily-close", "--data", "walk.csv", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads(done.stdout.splitlines()[-1])["rows"]}
    for cell in ("simple_rnn", "lstm", "gru"):
        row = rows[f"many_to_one {cell}"]
        assert (row["bar"], row["unit"], row["met"]) == (1.02, "relative_mae", row["value"] <= 1.02)
        assert 0.9 < row["value"] < 1.3
    assert [path.name for path in tmp_path.iterdir()] == ["walk.csv"]


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--task", "daily-close"], 2, "--data is needed by the task daily-close"),
        (["--task", "two-sines", "--data", "x.csv"], 2, "--data is not for the task two-sines"),
        (["--task", "daily-close", "--data", "absent.csv"], 1, "absent.csv: cannot be read"),
    ],
)
def test_what_is_missing_is_said(tmp_path: Path, arguments: list[str], status: int, said: str) -> None:
    done = run_module("benchmarks.accuracy", *arguments, cwd=tmp_path)
    assert done.returncode == status
    assert said in done.stderr

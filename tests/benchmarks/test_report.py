"""Benchmarks end with one JSON object of a fixed form, fail where a bar is missed, and say what they need."""

import json
import re
from pathlib import Path

import pytest

from benchmarks.accuracy import CONFIGS, TASKS, runs_of
from benchmarks.choose import GRIDS, Try, choose, read_log, validation_error
from benchmarks.report import Row, report
from forecaster.data.sources import RandomWalkSource
from forecaster.domain.config import load_config
from forecaster.training.config import TrainConfig
from tests.conftest import ROOT, run_module

BENCHMARKS = ROOT / "benchmarks"


def test_a_report_is_a_table_and_one_json_object_last(capsys: pytest.CaptureFixture[str]) -> None:
    report([Row("a", 1.0, 2.0, "s"), Row("b", 3.0, 2.0, "s", extremes=(2.5, 4.0)), Row("c", 3.0, None, "MB")])
    *table, last = capsys.readouterr().out.splitlines()
    answer = json.loads(last)
    assert {"name": "b", "value": 3.0, "bar": 2.0, "unit": "s", "met": False}.items() <= answer["rows"][1].items()
    assert [row["met"] for row in answer["rows"]] == [True, False, None]
    assert set(answer) == {"rows", "machine", "revision"}
    assert answer["machine"]["cpus"] >= 1
    assert [line.split()[-1] for line in table[1:]] == ["met", "MISSED", "MB"]
    assert table[2].split() == ["b", "3", "2.5", "to", "4", "<=", "2", "s", "MISSED"]


@pytest.mark.parametrize(
    ("rows", "missed"),
    [
        ([Row("as much as the bar", 2.0, 2.0, "s"), Row("no bar", 9.0, None, "s")], []),
        ([Row("above the most", 2.1, 2.0, "s"), Row("well below it", 1.0, 2.0, "s")], ["above the most"]),
        ([Row("below the least", 0.1, 0.3, "", is_least=True), Row("above it", 1, 0.3, "", is_least=True)], ["below"]),
        ([Row("not a number", float("nan"), 2.0, "s")], ["not a number"]),
    ],
)
def test_a_missed_bar_is_in_the_exit_status(
    rows: list[Row], missed: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert report(rows) == bool(missed)
    said = capsys.readouterr().err
    assert bool(said) == bool(missed)
    assert all(name in said for name in missed)


def test_every_benchmark_ends_with_the_status_of_its_report() -> None:
    found = [path.stem for path in BENCHMARKS.glob("*.py") if "report(" in path.read_text() and path.stem != "report"]
    assert {"accuracy", "backtest", "calibration", "choose", "scale", "serving", "training", "updating"} <= set(found)
    for name in found:
        source = (BENCHMARKS / f"{name}.py").read_text()
        assert source.count("report(") == source.count("return report("), name
        assert "sys.exit(" in source.split('if __name__ == "__main__":')[1], name


def test_the_daily_close_task_measures_each_cell_on_the_file_that_it_is_given(tmp_path: Path) -> None:
    frame = RandomWalkSource(length=500, seed=3).load()
    frame.rename(columns={"ds": "Date", "y": "Close"})[["Date", "Close"]].to_csv(tmp_path / "walk.csv", index=False)
    given = ["--task", "daily-close", "--data", "walk.csv", "--seeds", "2"]
    done = run_module("benchmarks.accuracy", *given, cwd=tmp_path)
    rows = {row["name"]: row for row in json.loads(done.stdout.splitlines()[-1])["rows"]}
    assert done.returncode == (False in {row["met"] for row in rows.values()}), done.stderr
    for cell in ("simple_rnn", "lstm", "gru"):
        row = rows[f"many_to_one {cell}"]
        assert (row["bar"], row["unit"], row["met"]) == (1.02, "relative_mae", row["value"] <= 1.02)
        lowest, highest = row["extremes"]
        assert 0.9 < lowest < highest < 1.3
        assert row["value"] == pytest.approx((lowest + highest) / 2)
        # the figures that the median is of, as they were found
        for seed, value in zip((7, 8), _said(done.stderr, f"many_to_one {cell}"), strict=True):
            assert f"many_to_one {cell}, seed {seed}: {value}" in done.stderr
            assert lowest <= float(value) * 1.0001
            assert highest >= float(value) * 0.9999
    assert [path.name for path in tmp_path.iterdir()] == ["walk.csv"]


def _said(log: str, name: str) -> list[str]:
    return re.findall(rf"{name}, seed \d+: (\S+)", log)


@pytest.mark.parametrize("task", GRIDS)
def test_the_configuration_has_the_setting_that_the_log_of_the_choice_chooses(task: str) -> None:
    tries = read_log(task)
    config = load_config(CONFIGS / TASKS[task].config, TrainConfig)
    assert config.fit.learning_rate == choose(tries)
    assert min(GRIDS[task]) < config.fit.learning_rate < max(GRIDS[task])
    cells = {contestant.cell for contestant in TASKS[task].contestants}
    assert {(one.learning_rate, one.cell) for one in tries} == {(rate, cell) for rate in GRIDS[task] for cell in cells}
    assert {one.seed for one in tries} == {config.seed}


def test_the_setting_with_the_smallest_mean_error_is_chosen() -> None:
    tries = [Try(0.1, "a", 0, 1.0), Try(0.1, "b", 0, 4.0), Try(0.2, "a", 0, 2.0), Try(0.2, "b", 0, 2.0)]
    assert choose(tries) == 0.2


def test_a_choice_ignores_the_test_part(tmp_path: Path) -> None:
    frame = RandomWalkSource(length=400, seed=3).load().rename(columns={"ds": "Date", "y": "Close"})
    errors = []
    for name, factor in (("one", 1.0), ("other", 7.0)):
        changed = frame.copy()
        # the last 15 % are the test part
        changed.loc[changed.index[345:], "Close"] *= factor
        changed[["Date", "Close"]].to_csv(tmp_path / f"{name}.csv", index=False)
        (run, *_) = runs_of(TASKS["daily-close"], tmp_path / f"{name}.csv", 1, ["fit.epochs=2"])
        errors.append(validation_error(run.config))
    assert errors[0] == errors[1]


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

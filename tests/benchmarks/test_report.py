"""Reports of benchmarks, the accuracy benchmark, and the selection of learning rates."""

import json
import re
from pathlib import Path

import pytest

from benchmarks.accuracy import CONFIGS, TASKS, runs_of
from benchmarks.choose import GRIDS, Trial, choose, read_trials, validation_error
from benchmarks.report import Row, report
from forecaster.data.sources import RandomWalkSource
from forecaster.domain.config import load_config
from forecaster.training.config import TrainConfig
from tests.conftest import ROOT, run_module

BENCHMARKS = ROOT / "benchmarks"


def test_report_prints_table_and_json(capsys: pytest.CaptureFixture[str]) -> None:
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
    ("rows", "stderr"),
    [
        ([Row("equal to the bar", 2.0, 2.0, "s"), Row("no bar", 9.0, None, "s")], ""),
        ([Row("above the bar", 2.1, 2.0, "s"), Row("below the bar", 1.0, 2.0, "s")], "missed: above the bar\n"),
        ([Row("low", 0.1, 0.3, "", is_least=True), Row("high", 1, 0.3, "", is_least=True)], "missed: low\n"),
        ([Row("not a number", float("nan"), 2.0, "s")], "missed: not a number\n"),
    ],
)
def test_report_fails_if_a_bar_is_missed(rows: list[Row], stderr: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert report(rows) == bool(stderr)
    assert capsys.readouterr().err == stderr


def test_every_benchmark_exits_with_the_status_of_its_report() -> None:
    names = [path.stem for path in BENCHMARKS.glob("*.py") if "report(" in path.read_text() and path.stem != "report"]
    assert {"accuracy", "backtest", "calibration", "choose", "scale", "serving", "training", "updating"} <= set(names)
    for name in names:
        source = (BENCHMARKS / f"{name}.py").read_text()
        assert source.count("report(") == source.count("return report("), name
        assert "sys.exit(" in source.split('if __name__ == "__main__":')[1], name


def test_accuracy_measures_each_cell_on_the_given_file(tmp_path: Path) -> None:
    frame = RandomWalkSource(length=500, seed=3).load()
    frame.rename(columns={"ds": "Date", "y": "Close"})[["Date", "Close"]].to_csv(tmp_path / "walk.csv", index=False)
    arguments = ["--task", "daily-close", "--data", "walk.csv", "--seeds", "2"]
    done = run_module("benchmarks.accuracy", *arguments, cwd=tmp_path)
    rows = {row["name"]: row for row in json.loads(done.stdout.splitlines()[-1])["rows"]}
    assert done.returncode == (False in {row["met"] for row in rows.values()}), done.stderr
    for cell in ("simple_rnn", "lstm", "gru"):
        row = rows[f"many_to_one {cell}"]
        assert (row["bar"], row["unit"], row["met"]) == (1.02, "relative_mae", row["value"] <= 1.02)
        lowest, highest = row["extremes"]
        assert 0.9 < lowest < highest < 1.3
        assert row["value"] == pytest.approx((lowest + highest) / 2)
        logged = {
            int(seed): float(value)
            for seed, value in re.findall(rf"many_to_one {cell}, seed (\d+): (\S+)", done.stderr)
        }
        assert set(logged) == {7, 8}
        assert sorted(logged.values()) == pytest.approx([lowest, highest], rel=1e-4)
    assert [path.name for path in tmp_path.iterdir()] == ["walk.csv"]


@pytest.mark.parametrize("task", GRIDS)
def test_configuration_has_the_selected_learning_rate(task: str) -> None:
    trials = read_trials(task)
    config = load_config(CONFIGS / TASKS[task].config, TrainConfig)
    assert config.fit.learning_rate == choose(trials)
    assert min(GRIDS[task]) < config.fit.learning_rate < max(GRIDS[task])
    cells = {contestant.cell for contestant in TASKS[task].contestants}
    grid = {(rate, cell) for rate in GRIDS[task] for cell in cells}
    assert {(trial.learning_rate, trial.cell) for trial in trials} == grid
    assert {trial.seed for trial in trials} == {config.seed}


def test_choose_selects_the_smallest_mean_error() -> None:
    trials = [Trial(0.1, "a", 0, 1.0), Trial(0.1, "b", 0, 4.0), Trial(0.2, "a", 0, 2.0), Trial(0.2, "b", 0, 2.0)]
    assert choose(trials) == 0.2


def test_validation_error_ignores_the_test_part(tmp_path: Path) -> None:
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
    ("arguments", "status", "message"),
    [
        (["--task", "daily-close"], 2, "--data is required for the task daily-close"),
        (["--task", "two-sines", "--data", "x.csv"], 2, "--data is not allowed for the task two-sines"),
        (["--task", "daily-close", "--data", "absent.csv"], 1, "absent.csv: cannot be read"),
    ],
)
def test_accuracy_refuses_invalid_arguments(tmp_path: Path, arguments: list[str], status: int, message: str) -> None:
    done = run_module("benchmarks.accuracy", *arguments, cwd=tmp_path)
    assert done.returncode == status
    assert message in done.stderr

"""The command `forecaster`."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from forecaster.inference.predictor import load_predictor
from pipelines.__main__ import COMMANDS
from tests.conftest import ROOT, TrainedModels, run_module


def complete(line: str) -> list[str]:
    """Return what argcomplete's shell function would be offered for a command line."""
    request = {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line))}
    read, write = os.pipe()
    # argcomplete writes to descriptor 8
    command = f"exec {shlex.quote(sys.executable)} -m pipelines 8>&{write}"
    subprocess.run(["bash", "-c", command], cwd=ROOT, env=os.environ | request, pass_fds=(write,), check=False)
    os.close(write)
    with os.fdopen(read) as completions:
        return [word.strip() for word in completions.read().split("\013") if word.strip()]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command_has_an_example_of_its_own(command: str, tmp_path: Path) -> None:
    finished = run_module("pipelines", command, "--help", cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.startswith(f"usage: forecaster {command}")
    assert f"\n  forecaster {command}" in finished.stdout
    assert "python -m" not in finished.stdout


def test_every_pipeline_is_a_command() -> None:
    modules = {path.stem for path in (ROOT / "pipelines").glob("*.py")} - {"__init__", "__main__", "command"}
    assert modules | {"serve"} == set(COMMANDS)


def test_unknown_command_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    finished = run_module("pipelines", "tarin", cwd=tmp_path)
    assert finished.returncode == 2
    assert "'tarin'" in finished.stderr
    assert "train" in finished.stderr


def test_init_writes_configurations_that_train_reads_and_overwrites_none(tmp_path: Path) -> None:
    assert run_module("pipelines", "init", cwd=tmp_path).returncode == 0
    recipe = yaml.safe_load((tmp_path / "configs" / "sine.yaml").read_text())
    assert recipe["train"]["name"] == "sine"
    schedule = yaml.safe_load((tmp_path / "configs" / "schedule.yaml").read_text())
    for job in schedule["schedule"]["jobs"]:
        assert "config" not in job or (tmp_path / job["config"]).exists()
    refused = run_module("pipelines", "train", "configs/sine.yaml", "--set", "modle=1", cwd=tmp_path)
    assert refused.returncode == 2
    assert "configs/sine.yaml, train: modle: unknown key" in refused.stderr
    (tmp_path / "configs" / "sine.yaml").write_text("mine")
    again = run_module("pipelines", "init", cwd=tmp_path)
    assert again.returncode == 1
    assert "configs/sine.yaml" in again.stderr
    assert (tmp_path / "configs" / "sine.yaml").read_text() == "mine"


def test_shell_completes_commands_and_their_options() -> None:
    assert complete("forecaster tr") == ["train"]
    assert "--set" in complete("forecaster train --s")
    assert complete("forecaster keys cr") == ["create"]


def test_load_predictor_follows_the_tracking_uri_of_the_environment(
    models: TrainedModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORECASTER_TRACKING_URI", models.config.tracking.uri)
    predictor = load_predictor("sine", cache=tmp_path / "cache")
    assert predictor.manifest.name == "sine"


@pytest.mark.parametrize("folder", ["a #b", "my: configs", '"quoted"', "- x", "x/pipelines/configs/mine"])
def test_init_quotes_the_folder_in_the_schedule(folder: str, tmp_path: Path) -> None:
    finished = run_module("pipelines", "init", folder, cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    schedule = yaml.safe_load((tmp_path / folder / "schedule.yaml").read_text())
    configs = [job["config"] for job in schedule["schedule"]["jobs"] if "config" in job]
    assert configs == [f"{folder}/stock.yaml"] * 2


def test_init_writes_nothing_through_a_dangling_link(tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "sine.yaml").symlink_to(tmp_path / "elsewhere.yaml")
    finished = run_module("pipelines", "init", cwd=tmp_path)
    assert finished.returncode == 1
    assert "configs/sine.yaml: exists already" in finished.stderr
    assert not (tmp_path / "elsewhere.yaml").exists()

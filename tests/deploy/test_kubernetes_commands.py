"""deploy/kubernetes: what containers run, and when jobs are started and retried."""

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import yaml
from apscheduler.triggers.cron import CronTrigger

from forecaster.domain.exits import BAD_CONFIG, TRAINING_FAILED
from tests.conftest import ROOT
from tests.deploy.image import stages
from tests.deploy.manifests import (
    PODS,
    Pod,
    each_container,
    named,
)


@each_container
def test_each_command_can_run_in_its_image(pod: Pod, container: dict[str, Any]) -> None:
    # a command would replace the entrypoint, which reads the secrets
    assert "command" not in container
    target = container["image"].removeprefix("forecaster-")
    for module, *words in _commands(container["args"]):
        _check_command(module, words, target)


def _commands(args: list[str]) -> list[list[str]]:
    """Return the module and the arguments of each Python command that a container runs, also those of a shell."""
    if args[0] == "python":
        assert args[1] == "-m"
        return [args[2:]]
    assert args[:2] == ["sh", "-c"]
    return [command.split() for command in re.findall(r"python -m ([^&|;\n]+)", args[2])]


def _check_command(module: str, words: list[str], target: str) -> None:
    if module == "service":
        assert ("CMD", '["python", "-m", "service"]') in stages()[target]
        assert find_spec("service.__main__")
        return
    done = subprocess.run(
        [sys.executable, "-m", module, *words, "--help"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert {word for word in words if word.startswith("--")} <= set(re.findall(r"--[a-z-]+", done.stdout))
    for file in (word for word in words if word.endswith(".yaml")):
        assert yaml.safe_load((ROOT / file).read_text()).keys() >= _sections(module)
    # the image that serves has no TensorFlow
    assert target == ("serve" if module == "pipelines.keys" else "train")


@pytest.mark.parametrize(
    ("fetched", "scored", "status", "called"),
    [
        (0, 0, 0, "fetch score"),
        # some symbols failed: the others are scored, and the job is retried
        (3, 0, 3, "fetch score"),
        (1, 0, 1, "fetch"),
        (2, 0, 2, "fetch"),
        (0, 1, 1, "fetch score"),
    ],
)
def test_stored_symbols_are_scored_if_others_cannot_be_fetched(
    fetched: int, scored: int, status: int, called: str, tmp_path: Path
) -> None:
    (container,) = PODS["forecaster-score"].containers
    program = tmp_path / "python"
    program.write_text(
        '#!/bin/sh\necho "$2" >> "$CALLS"\n'
        f'case "$2" in pipelines.fetch) exit {fetched};; pipelines.score) exit {scored};; esac\n'
    )
    program.chmod(0o755)
    calls = tmp_path / "calls"
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "CALLS": str(calls)}
    done = subprocess.run(container["args"], env=environment, check=False)
    assert done.returncode == status
    assert calls.read_text().split() == [f"pipelines.{name}" for name in called.split()]


def _sections(module: str) -> set[str]:
    """Return the sections that a pipeline needs in its file."""
    return {"train", "backtest", "promote"} if module == "pipelines.retrain" else {module.rpartition(".")[2]}


@pytest.mark.parametrize("name", ["forecaster-retrain", "forecaster-score"])
def test_job_runs_once_and_is_retried_only_if_a_retry_can_help(name: str) -> None:
    spec = named("CronJob", name)["spec"]
    CronTrigger.from_crontab(spec["schedule"])
    assert ZoneInfo(spec["timeZone"]).key == "America/New_York"
    assert spec["concurrencyPolicy"] == "Forbid"
    job = spec["jobTemplate"]["spec"]
    assert job["backoffLimit"] > 0
    assert PODS[name].spec["restartPolicy"] == "Never"
    ignored, failed = job["podFailurePolicy"]["rules"]
    assert (ignored["action"], ignored["onPodConditions"][0]["type"]) == ("Ignore", "DisruptionTarget")
    final = {BAD_CONFIG, TRAINING_FAILED} if name == "forecaster-retrain" else {BAD_CONFIG}
    assert (failed["action"], set(failed["onExitCodes"]["values"])) == ("FailJob", final)


def test_key_is_created_only_on_request_and_never_retried() -> None:
    spec = named("CronJob", "forecaster-create-key")["spec"]
    assert spec["suspend"] is True
    assert spec["jobTemplate"]["spec"]["backoffLimit"] == 0

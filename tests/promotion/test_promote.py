"""Promotion: the gate, rollbacks, concurrent promotions, and the contest between cells."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import yaml

from forecaster.backtesting.backtest import BacktestConfig
from forecaster.backtesting.tracking import BacktestRun, run_backtest
from forecaster.domain.errors import BundleError, RegistryError, StoreUnavailable, UnknownModel
from forecaster.evaluation.forecasts import Forecasts
from forecaster.evaluation.metrics import mae
from forecaster.promotion.gate import GateConfig
from forecaster.promotion.judge import check_certified, judge
from forecaster.promotion.selection import choose
from forecaster.registry.store import Store
from forecaster.training.job import train
from tests.conftest import ROOT, TrainedModels, run_module, small_config
from tests.mlflow_server import free_port, mlflow_server
from tests.registry.bundle_faults import edit_graph, slow
from tests.registry.registry_copy import copy_registry

GOOD = {"epochs": 12, "batch_size": 32, "learning_rate": 0.02, "patience": 12}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a store with two versions: a bad one and a good one."""
    folder = tmp_path_factory.mktemp("promotion")
    for fit in ({"epochs": 1, "learning_rate": 3.0}, GOOD):
        train(small_config(folder, fit=fit))
    job = {"name": "sine", "tracking": {"uri": f"sqlite:///{folder}/mlflow.db"}, "backtest": {"n_windows": 60}}
    job["gate"] = {"coverage_tolerance": 0.2}
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    return folder


def promote(folder: Path, *arguments: str) -> tuple[dict[str, Any], str]:
    done = run_module("pipelines.promote", "job.yaml", *arguments, cwd=folder)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer, done.stdout


def test_gate_promotes_the_good_version_and_not_the_bad_one(folder: Path) -> None:
    bad, stdout = promote(folder, "--set", "version=1")
    assert not bad["promoted"]
    assert bad["aliases"] == {"challenger": 1}
    assert "not promoted: the champion stays" in stdout
    assert "NOT MET  relative_mae" in stdout
    good, stdout = promote(folder)
    assert good["promoted"], stdout
    assert good["aliases"] == {"champion": 2, "challenger": 2}
    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
    runs = Store(f"sqlite:///{folder}/mlflow.db").find("sine").runs
    tags = {version: client.get_run(run).data.tags for version, run in runs.items()}
    assert (tags[1]["gate"], tags[2]["gate"]) == ("kept", "promoted")
    assert tags[1]["gate/baseline"].startswith("not met: relative_mae")
    assert tags[2]["gate/champion"] == "met: first: there is no other champion yet"
    again, _ = promote(folder, "--set", "version=1")
    experiment = client.get_experiment_by_name("forecaster").experiment_id
    backtests = client.search_runs([experiment], "tags.tried_as != ''", order_by=["attributes.start_time"])
    assert [(run.data.tags["tried_as"], run.data.tags["version"]) for run in backtests] == [
        *(("challenger", "1"), ("challenger", "2")),
        *(("challenger", "1"), ("champion", "2")),
    ]
    # the same recipe at the same cutoffs, as challenger and as champion
    assert backtests[1].data.metrics == backtests[3].data.metrics
    assert "test/relative_mae" in backtests[0].data.metrics
    (champion,) = [criterion for criterion in again["criteria"] if criterion["name"] == "champion"]
    assert not champion["is_met"]
    assert "of the champion's MAE" in champion["reason"]
    assert again["aliases"]["champion"] == 2


def test_rollback_swaps_the_champion_and_the_previous_version(folder: Path) -> None:
    promote(folder, "--without-gate", "--set", "version=2")
    forced, _ = promote(folder, "--without-gate", "--set", "version=1")
    assert (forced["aliases"]["champion"], forced["aliases"]["previous"]) == (1, 2)
    back, _ = promote(folder, "--rollback")
    assert (back["aliases"]["champion"], back["aliases"]["previous"]) == (2, 1)
    forth, _ = promote(folder, "--rollback")
    assert (forth["aliases"]["champion"], forth["aliases"]["previous"]) == (1, 2)


def test_errors_say_why_a_version_cannot_be_judged(folder: Path, tmp_path: Path) -> None:
    store = Store(f"sqlite:///{folder}/mlflow.db")
    with pytest.raises(UnknownModel, match=r"no version 9; it has \[1, 2\]"):
        judge(store, "sine", 9, GateConfig(), BacktestConfig())
    with pytest.raises(UnknownModel, match="no previous champion"):
        train(small_config(tmp_path, fit={"epochs": 1}))
        Store(f"sqlite:///{tmp_path}/mlflow.db").roll_back("sine")
    store.promote("sine", 2)
    other = train(small_config(folder, horizon=3, fit={"epochs": 1}))
    with pytest.raises(
        RegistryError, match=r"horizon and freq are \(3, None\), but the champion's \(version 2\) are \(4, None\)"
    ):
        judge(store, "sine", other.version, GateConfig(), BacktestConfig(n_windows=10))


def test_version_without_a_certificate_is_not_promoted_even_without_the_gate(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    Store(uri, create=True)
    client = mlflow.MlflowClient(uri)
    experiment = client.create_experiment("old", artifact_location=(tmp_path / "artifacts").as_uri())
    run = client.create_run(experiment)
    client.log_artifacts(run.info.run_id, str(ROOT / "tests" / "registry" / "bundles" / "schema-1"), "model")
    Store(uri).register("old", f"{run.info.artifact_uri}/model", run.info.run_id)
    (tmp_path / "job.yaml").write_text(yaml.safe_dump({"name": "old", "tracking": {"uri": uri}}))
    done = run_module("pipelines.promote", "job.yaml", "--without-gate", cwd=tmp_path)
    assert done.returncode == 1
    assert "model 'old' version 1 has no leakage certificate; train it again" in done.stderr
    assert Store(uri).find("old").aliases == {}


def test_version_that_fails_its_trial_is_not_promoted_with_or_without_the_gate(
    models: TrainedModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = copy_registry(models, tmp_path / "registry")
    version = registry.add("bad", registry.bundle("bad", edit_graph(slow(20_000))), alias=None)
    monkeypatch.setenv("FORECASTER_TRIAL_SECONDS", "2")
    message = "model 'bad' version 1: (its trial took more than 2 s|.*Failed to allocate)"
    with pytest.raises(BundleError, match=message):
        check_certified(registry.store, "bad", version)
    with pytest.raises(BundleError, match=message):
        judge(registry.store, "bad", version, GateConfig(), BacktestConfig())


PROMOTER = """
import sys
from forecaster.registry.store import Store
store = Store(sys.argv[1])
for version in map(int, sys.argv[2].split(",")):
    aliases = store.promote("sine", version)
    print(aliases["champion"], aliases.get("previous"), flush=True)
"""


@pytest.fixture(scope="module")
def shared_uri(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URI of a Postgres with two versions in MLflow's tables."""
    folder = tmp_path_factory.mktemp("on postgres")
    with pytest.MonkeyPatch.context() as patch:
        # without a server, artifacts are stored below the current folder
        patch.chdir(folder)
        for number in (1, 2):
            train(small_config(folder, fit={"epochs": number}, tracking={"uri": postgres}))
    return postgres


def test_run_does_not_contain_the_password(shared_uri: str) -> None:
    store = Store(shared_uri)
    recipe = store.read_artifact(store.find("sine").runs[1], "config.yaml")
    assert "postgresql+pg8000://forecaster:***@127.0.0.1" in recipe
    run = mlflow.MlflowClient(shared_uri).get_run(store.find("sine").runs[1])
    assert "p%40ss" not in f"{recipe} {run.to_dictionary()}"
    with pytest.raises(StoreUnavailable, match=r"^postgresql\+pg8000://forecaster:\*\*\*@") as caught:
        Store(shared_uri.replace("p%40ss", "wrong"))
    assert "wrong" not in str(caught.value)
    with pytest.raises(StoreUnavailable, match=r"\*\*\*@.*: needs psycopg; write postgresql\+pg8000://"):
        Store(shared_uri.replace("+pg8000", ""))


@pytest.fixture
def uri(request: pytest.FixtureRequest, folder: Path) -> Iterator[str]:
    """The URI of a store with two versions: SQLite, Postgres, or a server while the service uses Postgres."""
    own = f"sqlite:///{folder}/mlflow.db"
    if request.param == "server":
        with mlflow_server(own, folder / "kept", free_port()) as address, pytest.MonkeyPatch.context() as patch:
            patch.setenv("FORECASTER_DATABASE_URL", request.getfixturevalue("postgres"))
            yield address
    else:
        yield request.getfixturevalue("shared_uri") if request.param == "postgres" else own


@pytest.mark.parametrize("uri", ["sqlite", "postgres", "server"], indirect=True)
def test_concurrent_promotions_leave_consistent_aliases(uri: str, tmp_path: Path) -> None:
    """4 processes make 64 promotions, and each reads back its own version as champion."""
    store = Store(uri)
    store.promote("sine", 1)
    orders = [",".join(["1,2"] * 8), ",".join(["2,1"] * 8)] * 2
    processes = []
    for number, order in enumerate(orders):
        # no shared temporary folder, as in containers
        (own := tmp_path / str(number)).mkdir()
        command = [sys.executable, "-W", "ignore", "-c", PROMOTER, uri, order]
        environment = {**os.environ, "TMPDIR": str(own)}
        processes.append(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True))
    answers = []
    for process, order in zip(processes, orders, strict=True):
        stdout, _ = process.communicate(timeout=240)
        assert process.returncode == 0
        lines = [line.split() for line in stdout.splitlines()]
        assert [int(champion) for champion, _ in lines] == [int(version) for version in order.split(",")]
        answers += lines
    assert len(answers) == 64
    aliases = store.find("sine").aliases
    assert {aliases["champion"], aliases["previous"]} == {1, 2}


def test_contest_trains_judges_and_promotes(tmp_path: Path) -> None:
    recipe = small_config(tmp_path, fit=GOOD).model_dump(mode="json")
    backtest_config = {"n_windows": 60, "cells": ["gru", "simple_rnn"]}
    job = {
        "train": recipe,
        "backtest": backtest_config,
        "promote": {"name": "sine", "gate": {"coverage_tolerance": 0.2}},
    }
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    done = run_module("pipelines.contest", "job.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    first, second = answer["contestants"]
    assert (first["cell"], first["version"], second["cell"], second["version"]) == ("gru", 1, "simple_rnn", 2)
    assert second["n_parameters"] < first["n_parameters"]
    (chosen,) = [contestant for contestant in answer["contestants"] if contestant["is_chosen"]]
    assert (answer["version"], answer["promoted"]) == (chosen["version"], True)
    assert answer["aliases"]["champion"] == chosen["version"]
    assert "gru, version 1" in done.stdout
    assert "for the best of 2 tries" in done.stdout


def test_selection_chooses_the_smallest_network_within_one_standard_error(tmp_path: Path) -> None:
    config = small_config(tmp_path, fit={"epochs": 1})
    backtest_config = BacktestConfig(n_windows=40, baselines=("naive",))
    run = run_backtest(config, backtest_config)
    difficulty = np.random.default_rng(0).uniform(0.5, 2, (len(run.result.actual), 1))

    def with_errors(size: float, noise: float, seed: int) -> BacktestRun:
        """Return a backtest with errors of this size, times each window's difficulty, which is the same for all."""
        luck = np.random.default_rng(seed).normal(0, noise, difficulty.shape)
        mean = run.result.actual + difficulty * (size + luck)
        result = replace(run.result, predicted=Forecasts(mean))
        return replace(run, result=result, metrics={"mae": mae(result.actual, mean)})

    def choice(**sizes: tuple[float, float]) -> str:
        runs = {cell: with_errors(*size, seed) for seed, (cell, size) in enumerate(sizes.items())}
        (chosen,) = [candidate.cell for candidate in choose(config, runs, backtest_config) if candidate.is_chosen]
        return chosen

    # windows differ much more than cells
    assert choice(lstm=(1.0, 0.01), simple_rnn=(1.1, 0.01)) == "lstm"
    assert choice(lstm=(1.0, 0.3), simple_rnn=(1.01, 0.3)) == "simple_rnn"
    assert choice(lstm=(1.0, 0.3), simple_rnn=(1.01, 0.3), gru=(1.5, 0.3)) == "simple_rnn"
    assert choice(gru=(1.0, 0.01)) == "gru"

"""Fleets: a failing symbol or a killed worker does not affect the others, and finished work is not repeated."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
import yaml

from forecaster.backtesting.backtest import BacktestConfig, backtest
from forecaster.backtesting.report import score
from forecaster.data.store import BarStore
from forecaster.domain.config import build_config, load_config
from forecaster.domain.errors import ConfigError
from forecaster.fleet.plan import FleetConfig, Order, plan
from forecaster.fleet.ray_workers import run_on_ray
from forecaster.fleet.work import execute_order
from forecaster.promotion.gate import GateConfig
from forecaster.registry.store import Store
from forecaster.training.config import TrainConfig, prepare
from forecaster.training.job import train
from tests.conftest import run_module, start_module
from tests.data.prices import Company

SOAK = bool(os.environ.get("FORECASTER_SOAK"))
NOPE = "NOPE: is not in mlruns/bars; run pipelines.fetch for it"


def make_fleet(folder: Path, *symbols: str, **fleet: Any) -> Path:
    """Store bars of each symbol, write a job for them and for a symbol without bars, and return the job's file."""
    (folder / "mlruns" / "bars").mkdir(parents=True)
    for seed, symbol in enumerate(symbols):
        bars = Company(symbol, first="2024-01-02", last="2024-12-31", seed=seed).bars()
        BarStore(folder / "mlruns" / "bars").write(bars, datetime(2025, 1, 2, 22, tzinfo=UTC))
    job = {
        "fleet": {"name": "walk-{symbol}", "workers": 2, **fleet},
        "train": {
            "name": "walk",
            "data": {"source": "store", "symbols": [*symbols, "NOPE"], "max_age_sessions": None, "calendar": "XNYS"},
            "freq": "XNYS",
            "input_size": 5,
            "folds": 1,
            "horizon": 1,
            "transforms": [{"kind": "log"}, {"kind": "last_value"}, {"kind": "standardize"}],
            "model": {"cell": "gru", "widths": [4]},
            "fit": {"epochs": 2},
            "refit": False,
        },
        "backtest": {"n_windows": 30, "levels": [80]},
        "promote": {"name": "walk", "gate": {"margin": 1.0, "coverage_tolerance": 0.9, "latency_seconds": 5}},
    }
    file = folder / "job.yaml"
    file.write_text(yaml.safe_dump(job))
    return file


def run_fleet(folder: Path, *overrides: str) -> tuple[int, dict[str, Any], dict[str, dict[str, Any]]]:
    """Run a fleet; return the exit status, the JSON of the last line, and the table's rows by symbol."""
    done = run_module("pipelines.fleet", "job.yaml", *(["--set", *overrides] if overrides else []), cwd=folder)
    assert done.stdout, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    table = pd.read_parquet(folder / answer["out"])
    return done.returncode, answer, {row["symbol"]: dict(row) for _, row in table.iterrows()}


def wait_until(condition: Callable[[], Any], process: "subprocess.Popen[str]") -> None:
    """Wait for a condition while a process runs."""
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_killed_fleet_continues_and_gives_the_result_of_a_single_training(tmp_path: Path) -> None:
    make_fleet(tmp_path, "AAA", "BBB")
    process = start_module("pipelines.fleet", "job.yaml", "--set", "fleet.workers=1", cwd=tmp_path)
    started: set[str] = set()

    def second_has_started() -> bool:
        # a finished training renames its folder to `.done` before it removes it
        started.update(file.parent.stem for file in (tmp_path / "mlruns" / "checkpoints").glob("*/recipe.npz"))
        return len(started) == 2

    wait_until(second_has_started, process)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate()
    # workers end with their fleet: the next fleet must not find them running
    assert psutil.wait_procs(workers, timeout=20)[1] == []

    status, answer, rows = run_fleet(tmp_path)
    assert (status, answer["failed"]) == (3, {"NOPE": NOPE})
    assert (rows["AAA"]["outcome"], rows["BBB"]["outcome"]) == ("kept", "promoted")
    assert "nothing has changed since it was trained" in rows["AAA"]["reason"]
    store = Store(f"sqlite:///{tmp_path}/mlruns/mlflow.db")
    assert {name: sorted(store.read(name).runs) for name in store.names()} == {"walk-AAA": [1], "walk-BBB": [1]}

    config = load_config(tmp_path / "job.yaml", TrainConfig, section="train")
    data = config.data.model_copy(update={"symbols": ("BBB",), "folder": tmp_path / "mlruns" / "bars"})
    tracking = {"uri": f"sqlite:///{tmp_path}/single.db", "checkpoints": tmp_path / "single"}
    registered = train(
        config.model_copy(update={"data": data, "tracking": config.tracking.model_copy(update=tracking)})
    )
    assert rows["BBB"]["relative_mae"] == pytest.approx(registered.metrics["relative_mae"], rel=1e-5)
    assert rows["BBB"]["coverage"] == registered.metrics["coverage-80"]


def results(folder: Path) -> dict[str, Any]:
    """Return the files of finished backtests, by symbol."""
    return {file.stem: json.loads(file.read_text()) for file in (folder / "mlruns").glob("fleet/*/*.json")}


@pytest.fixture(scope="module")
def backtested(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a fleet of backtests whose worker was killed during the first symbol."""
    folder = tmp_path_factory.mktemp("a fleet")
    make_fleet(folder, "AAA", "BBB", do="backtest", workers=1)
    process = start_module("pipelines.fleet", "job.yaml", cwd=folder)
    wait_until(lambda: list((folder / "mlruns" / "checkpoints").glob("*/0/recipe.npz")), process)
    (worker,) = psutil.Process(process.pid).children()
    worker.kill()
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 3, stderr
    answer = json.loads(stdout.splitlines()[-1])
    assert answer["outcomes"] == {"failed": 2, "tried": 1}
    assert answer["failed"]["NOPE"] == NOPE
    assert "its worker was killed by SIGKILL" in answer["failed"]["AAA"]
    assert list(results(folder)) == ["BBB"]
    return folder


@pytest.mark.skipif(not SOAK, reason="half a minute: make soak")
def test_only_the_symbol_of_a_killed_worker_is_backtested_again(backtested: Path) -> None:
    before = results(backtested)
    (log,) = (backtested / "mlruns").glob("fleet/*/worker-0.log")
    started = log.read_text().count("process ")
    status, _, rows = run_fleet(backtested, "fleet.symbols_per_worker=1")
    assert log.read_text().count("process ") == started + 3
    assert status == 3
    assert (rows["AAA"]["outcome"], rows["AAA"]["reason"]) == ("tried", "")
    assert rows["BBB"]["reason"] == "backtested before, and nothing has changed since"
    after = results(backtested)
    assert after["BBB"] == before["BBB"]

    config = load_config(backtested / "job.yaml", TrainConfig, section="train")
    backtest_config = load_config(backtested / "job.yaml", BacktestConfig, section="backtest")
    data = config.data.model_copy(update={"symbols": ("AAA",), "folder": backtested / "mlruns" / "bars"})
    series = prepare(config, data.load())
    assert after["AAA"]["metrics"] == pytest.approx(
        score(backtest(config, backtest_config, series, backtested / "alone"), backtest_config, series), rel=1e-5
    )


@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed (pip install 'forecaster[ray]')")
def test_local_ray_gives_the_same_results_and_listens_only_on_loopback(backtested: Path, tmp_path: Path) -> None:
    make_fleet(tmp_path, "AAA", "BBB", do="backtest", on="ray", workers=1)
    process = start_module("pipelines.fleet", "job.yaml", cwd=tmp_path)
    wait_until(lambda: list((tmp_path / "mlruns" / "checkpoints").glob("*/0/recipe.npz")), process)
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    connections = [connection for member in family for connection in member.net_connections("inet")]
    listening = {connection.laddr.ip for connection in connections if connection.status == "LISTEN"}
    # only this fleet's actor, not one of another fleet
    (actor,) = [member for member in family if member.name().startswith("ray::_Worker")]
    actor.send_signal(signal.SIGKILL)
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 3, stderr
    assert listening
    assert listening <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
    answer = json.loads(stdout.splitlines()[-1])
    assert answer["outcomes"] == {"failed": 2, "tried": 1}
    assert answer["failed"]["NOPE"] == NOPE
    assert "its worker was lost" in answer["failed"]["AAA"]
    assert results(tmp_path) == {"BBB": results(backtested)["BBB"]}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"name": "walk"}, r"must contain \{symbol\}, such as stock-\{symbol\}"),
        ({"symbols": ["A", "B", "A"]}, r"\['A'\] are listed twice"),
        ({"out": "table.xlsx"}, r"must end with \.parquet or \.csv"),
        ({"ray_address": "10.0.0.1:6379"}, "ray_address: needs on: ray"),
        ({"on": "ray", "ray_address": "ray://10.0.0.1"}, "ray_address: String should match pattern"),
    ],
)
def test_error_names_an_invalid_setting(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        build_config(changes, FleetConfig, "fleet")


def _orders(folder: Path, **fleet: Any) -> list[Order]:
    file = make_fleet(folder, "AAA", **fleet)
    config = load_config(file, FleetConfig, section="fleet")
    return plan(config, load_config(file, TrainConfig, section="train"), BacktestConfig(), GateConfig())


def test_symbol_without_a_valid_model_name_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"fleet\.name: '\{symbol\}' gives no valid model name .* for \['\^GSPC'\]"):
        _orders(tmp_path, name="{symbol}", symbols=["AAA", "^GSPC"])


def test_error_without_ray_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    for name in ("RAY_USAGE_STATS_ENABLED", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"):
        monkeypatch.setenv(name, "")
    with pytest.raises(ConfigError, match=r"fleet\.on: Ray is not installed; pip install 'forecaster\[ray\]', or "):
        list(run_on_ray(FleetConfig(on="ray"), ["{}"], tmp_path))


@pytest.mark.skipif(not SOAK, reason="half a minute: with FORECASTER_SOAK=1")
def test_order_is_retried_while_the_store_is_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    order = _orders(tmp_path)[0]
    Store(order.train.tracking.uri, create=True)
    holder = sqlite3.connect(tmp_path / "mlruns" / "mlflow.db", check_same_thread=False)
    holder.execute("BEGIN EXCLUSIVE")
    # longer than MLflow itself waits
    release = threading.Timer(25, holder.rollback)
    release.start()
    answer = json.loads(execute_order(order.model_dump_json()))
    release.join()
    assert answer["version"] == 1, answer
    assert answer["seconds"] > 20

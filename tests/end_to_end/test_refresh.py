"""A simulated year under the scheduler: retraining refreshes versions and replaces a stale champion."""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import yaml
from sqlalchemy import Engine, select

from forecaster.database.engine import open_engine, transaction
from forecaster.database.schema import upgrade_schema
from forecaster.database.tables import RUNS
from forecaster.domain.config import load_config
from forecaster.domain.instants import to_microseconds
from forecaster.domain.series import Floats
from forecaster.registry.bundle import read_bundle
from forecaster.registry.predictor import ArrayPredictor
from forecaster.registry.store import Store
from forecaster.scheduling.config import ScheduleConfig
from forecaster.scheduling.metrics import Metrics
from forecaster.scheduling.reports import FailureReporter
from forecaster.scheduling.runner import Runner, Stop
from tests.conftest import ROOT

SOAK = bool(os.environ.get("FORECASTER_SOAK"))
BEGIN, INPUT_SIZE, HORIZON = datetime(2025, 1, 1, tzinfo=UTC), 14, 3
# the first row after a regime change
CHANGE = datetime(2026, 7, 1, tzinfo=UTC)
JOB: dict[str, Any] = {
    "train": {
        "name": "wave",
        "data": {"source": "files", "path": "series.csv"},
        "input_size": INPUT_SIZE,
        "horizon": HORIZON,
        "folds": 1,
        # the training part must reach into the new regime, or early stopping would end the fit at once
        "split": {"train": 0.8, "validation": 0.05, "calibration": 0.08, "test": 0.07},
        "transforms": [{"kind": "standardize"}],
        "model": {"cell": "gru", "widths": [8]},
        "fit": {"epochs": 20, "batch_size": 32, "learning_rate": 0.03, "patience": 20},
    },
    "backtest": {"n_windows": 45, "baselines": ["naive"], "levels": [80]},
    # few rows need a wide margin and a wide tolerance
    "promote": {
        "name": "wave",
        "gate": {"margin": 0.15, "coverage_tolerance": 0.1, "latency_seconds": 5, "refits": 2},
    },
}
QUARTERLY = {"name": "retrain", "run": "retrain", "config": "job.yaml", "when": {"cron": "0 6 1 1,4,7,10 *"}}
SCHEDULE = {"schedule": {"jobs": [QUARTERLY], "retry": {"attempts": 1}}}


@dataclass
class Year:
    """A folder with a series that grows by a row a day, and a scheduler with a simulated clock."""

    folder: Path
    engine: Engine
    runner: Runner
    config: ScheduleConfig
    patch: pytest.MonkeyPatch
    now: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    broken: bool = False
    _clock: list[int] = field(default_factory=list)

    def live_until(self, day: datetime) -> None:
        """Advance the clock day by day; each day adds a row, and the scheduler checks its jobs at noon."""
        while self.now < day:
            self.now += timedelta(days=1)
            self.write()
            noon = to_microseconds(self.now + timedelta(hours=12))
            for module in ("runner", "runs"):
                self.patch.setattr(f"forecaster.scheduling.{module}.now_microseconds", partial(int, noon))
            for job in self.config.jobs:
                self.runner.run_if_due(job)

    def rows(self, until: datetime) -> "pd.Series[float]":
        """Return the series up to a day: a noisy sine, whose period, amplitude and level differ after the change."""
        days = pd.date_range(BEGIN, until, freq="D").tz_localize(None)
        number = np.arange(len(days))
        is_old = days < pd.Timestamp(CHANGE).tz_localize(None)
        wave = np.where(is_old, np.sin(number * 2 * np.pi / 12), 4 + 3 * np.sin(number * 2 * np.pi / 7))
        return pd.Series(wave + np.random.default_rng(0).normal(0, 0.1, 2000)[: len(days)], index=days)

    def write(self) -> None:
        rows = self.rows(self.now)
        frame = pd.DataFrame({"ds": rows.index.astype(str), "y": rows.to_numpy()})
        if self.broken:
            # the latest week is duplicated
            frame = pd.concat([frame, frame.tail(7)])
        frame.to_csv(self.folder / "series.csv", index=False)

    def runs(self) -> list[Any]:
        statement = select(RUNS).where(RUNS.c.state != "added").order_by(RUNS.c.run_id)
        with transaction(self.engine) as connection:
            return list(connection.execute(statement))

    def outcome(self) -> dict[str, Any]:
        """Return the JSON result of the latest run."""
        return dict(json.loads(self.runs()[-1].outcome))

    def aliases(self) -> dict[str, int]:
        return Store(f"sqlite:///{self.folder}/mlruns/mlflow.db").find("wave").aliases

    def recipe_error(self, version: int) -> float:
        """Return the MAE of a version's recipe on the latest rows, as measured for the gate."""
        client = mlflow.MlflowClient(f"sqlite:///{self.folder}/mlruns/mlflow.db")
        experiment = client.get_experiment_by_name("forecaster").experiment_id
        runs = client.search_runs([experiment], f"tags.version = '{version}' and tags.tried_as = 'challenger'")
        return float(min(run.data.metrics["test/mae"] for run in runs))

    def served_error(self, begin: datetime, end: datetime) -> float:
        """Return the MAE of the champion's forecasts from `begin` to `end`."""
        store = Store(f"sqlite:///{self.folder}/mlruns/mlflow.db")
        download = self.folder / "served"
        shutil.rmtree(download, ignore_errors=True)
        download.mkdir()
        predictor = ArrayPredictor(
            read_bundle(store.download("wave", store.find("wave").aliases["champion"], download))
        )
        y = self.rows(end).to_numpy(dtype=np.float64)
        cutoffs = np.arange((begin - BEGIN).days, len(y) - HORIZON)
        windows: Floats = np.stack([y[cutoff - INPUT_SIZE + 1 : cutoff + 1] for cutoff in cutoffs]).astype(np.float64)
        actual = np.stack([y[cutoff + 1 : cutoff + 1 + HORIZON] for cutoff in cutoffs])
        return float(np.abs(actual - predictor.predict_arrays(windows)).mean())


@pytest.fixture
def year(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Year]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(JOB))
    (tmp_path / "schedule.yaml").write_text(yaml.safe_dump(SCHEDULE))
    config = load_config(tmp_path / "schedule.yaml", ScheduleConfig, [], "schedule")
    engine = open_engine(f"sqlite:///{tmp_path}/service.db")
    upgrade_schema(engine)
    metrics = Metrics(config.jobs)
    runner = Runner(config, engine, metrics, FailureReporter(metrics), Stop())
    yield Year(tmp_path, engine, runner, config, monkeypatch)
    engine.dispose()


@pytest.mark.skipif(not SOAK, reason="three minutes: make soak")
def test_year_of_retraining_refreshes_and_replaces_the_champion(year: Year) -> None:
    year.live_until(datetime(2026, 4, 2, tzinfo=UTC))
    assert [run.state for run in year.runs()] == ["succeeded"]
    assert (year.outcome()["outcome"], year.aliases().get("champion")) == ("promoted", 1), year.outcome()
    assert "first: " in year.outcome()["reason"]

    # a quarter without a regime change: the same recipe on later rows
    year.live_until(datetime(2026, 7, 1, tzinfo=UTC))
    before = year.served_error(datetime(2026, 5, 1, tzinfo=UTC), datetime(2026, 6, 30, tzinfo=UTC))
    assert year.outcome()["outcome"] == "promoted", year.outcome()
    assert "fresher: " in year.outcome()["reason"]
    assert year.aliases() == {"champion": 2, "previous": 1, "challenger": 2}
    assert before < 0.2

    # the regime changes, and the data of a retraining are broken
    year.broken = True
    year.live_until(datetime(2026, 10, 1, tzinfo=UTC))
    assert year.runs()[-1].state == "failed"
    assert "series.csv" in year.outcome()["reason"]
    assert year.aliases()["champion"] == 2
    stale = year.served_error(datetime(2026, 8, 1, tzinfo=UTC), datetime(2026, 9, 30, tzinfo=UTC))

    # with repaired data, the next retraining replaces the champion
    year.broken = False
    year.live_until(datetime(2027, 1, 2, tzinfo=UTC))
    assert year.outcome()["outcome"] == "promoted", year.outcome()
    assert "better: " in year.outcome()["reason"]
    assert year.aliases() == {"champion": 3, "previous": 2, "challenger": 3}
    served = year.served_error(datetime(2027, 1, 1, tzinfo=UTC), datetime(2027, 2, 28, tzinfo=UTC))
    assert served < stale / 2
    # the served version is about as good as its recipe in the backtest
    assert served < 1.5 * year.recipe_error(3)

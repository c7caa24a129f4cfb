"""A challenger beside the champion as it is served, on rows that it has not seen."""

import shutil
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest

from forecaster.backtesting.backtest import BacktestConfig
from forecaster.promotion.gate import GateConfig
from forecaster.promotion.promote import PromotionResult, judge, judge_and_promote
from forecaster.registry.bundle import read_bundle
from forecaster.registry.predictor import Predictor
from forecaster.registry.store import Store
from forecaster.training.config import TrainConfig
from forecaster.training.job import WarmStart, train
from tests.backup.installation import move_artifacts
from tests.conftest import small_config

CHANGE, ROWS = 600, 760
# an 80 % interval is known from few calibration windows
TRIAL = BacktestConfig(n_windows=60, refit=30, baselines=("naive",), levels=(80,))
# their coverage is the matter of other tests
GATE = GateConfig(coverage_tolerance=0.9, latency_seconds=5, refits=2)


def write_series(folder: Path, n_rows: int, change: int = ROWS) -> None:
    """Write a noisy sine, hourly; from row `change` on the wave is shorter and higher."""
    rows = np.arange(n_rows)
    wave = np.where(rows < change, np.sin(rows * 2 * np.pi / 12), 4 + 3 * np.sin(rows * 2 * np.pi / 7))
    noise = np.random.default_rng(0).normal(0, 0.1, ROWS)[:n_rows]
    times = pd.date_range("2026-01-01", periods=n_rows, freq="h")
    pd.DataFrame({"ds": times, "y": wave + noise}).to_csv(folder / "series.csv", index=False)


def recipe(folder: Path, **changes: Any) -> TrainConfig:
    settings: dict[str, Any] = {
        "data": {"source": "files", "path": str(folder / "series.csv")},
        "horizon": 3,
        # intervals are the matter of other tests
        "folds": 0,
        "input_size": 14,
        "model": {"cell": "gru", "widths": [8]},
        "fit": {"epochs": 12, "batch_size": 64, "learning_rate": 0.03, "patience": 12},
    }
    return small_config(folder, **(settings | changes))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A champion that has seen the series up to the change."""
    folder = tmp_path_factory.mktemp("trained")
    write_series(folder, CHANGE)
    train(recipe(folder))
    Store(f"sqlite:///{folder}/mlflow.db").promote("sine", 1)
    return folder


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    folder = tmp_path / "copy"
    shutil.copytree(trained, folder)
    move_artifacts(folder / "mlflow.db", trained.as_uri(), folder.as_uri())
    return folder


def store_of(folder: Path) -> Store:
    return Store(f"sqlite:///{folder}/mlflow.db")


def settle_newest(
    folder: Path, warm: WarmStart | None = None, gate: GateConfig = GATE, **changes: Any
) -> PromotionResult:
    version = train(recipe(folder, **changes), warm, force_new=False).version
    return judge_and_promote(store_of(folder), "sine", version, gate, TRIAL)


def champion_reason(settled: PromotionResult) -> str:
    return next(str(one["reason"]) for one in settled.criteria if one["name"] == "champion")


def runs(folder: Path, tags: str) -> list[Any]:
    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("forecaster").experiment_id
    return list(client.search_runs([experiment], tags))


def test_after_a_change_of_regime_the_same_recipe_replaces_a_stale_champion(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    write_series(folder, CHANGE + 120, CHANGE)
    settled = settle_newest(folder)
    assert settled.outcome == "promoted", settled
    assert settled.aliases == {"champion": 2, "previous": 1, "challenger": 2}
    # by hand: what the champion's own weights forecast of rows that it has not seen
    bundle = read_bundle(store_of(folder).download("sine", 1, tmp_path_factory.mktemp("champion")))
    y = pd.read_csv(folder / "series.csv")["y"].to_numpy()
    cutoffs = np.arange(CHANGE - 1, len(y) - 3)[-TRIAL.n_windows :]
    windows = np.stack([y[cutoff - 13 : cutoff + 1] for cutoff in cutoffs])
    actual = np.stack([y[cutoff + 1 : cutoff + 4] for cutoff in cutoffs])
    error = np.abs(actual - Predictor(bundle).predict_arrays(windows)).mean()
    (run,) = runs(folder, "tags.rows = 'since version 1 was trained'")
    ratio = run.data.metrics["test/mae"] / error
    assert champion_reason(settled).startswith(f"better: {ratio:.3g} of the champion's MAE")
    assert "60 windows since version 1 was trained" in champion_reason(settled)


def test_without_a_change_the_same_recipe_is_promoted_as_fresher(folder: Path) -> None:
    write_series(folder, ROWS)
    settled = settle_newest(folder, gate=GATE.model_copy(update={"margin": 0.15}))
    assert settled.outcome == "promoted", settled
    assert champion_reason(settled).startswith("fresher: ")


def test_with_too_few_new_rows_a_fresher_version_forecasts_in_the_shadow(folder: Path) -> None:
    write_series(folder, CHANGE + 6)
    settled = settle_newest(folder)
    assert settled.outcome == "shadow"
    assert settled.aliases == {"champion": 1, "challenger": 2}
    assert "too few windows for a test: 4 windows since version 1 was trained" in settled.reason
    # asked again, it is the same decision
    again = settle_newest(folder)
    assert again.outcome == "shadow"
    assert again.reason.startswith("judged before, and nothing has changed since")
    # a later one that cannot be told apart either does not take its place, for its scores would be lost
    # another unit of intervals does not make it another recipe
    write_series(folder, CHANGE + 7)
    later = settle_newest(folder, intervals="ewma")
    assert (later.outcome, later.aliases) == ("shadow", {"champion": 1, "challenger": 2})
    assert "version 2 already forecasts in the shadow and is decided on first" in later.reason


def test_without_new_rows_another_recipe_is_compared_with_the_champions(folder: Path) -> None:
    backtest_config = TRIAL.model_copy(update={"refit": "never"})
    reasons = []
    for seed in (1, 2):
        version = train(recipe(folder, fit={"epochs": 1}, seed=seed)).version
        decision = judge(store_of(folder), "sine", version, GATE, backtest_config)
        assert decision.outcome == "kept"
        reasons += [one.reason for one in decision.criteria if one.name == "champion"]
    assert "60 windows that both recipes forecast" in reasons[0]
    assert "tries" not in reasons[0]
    assert "for the best of 2 tries" in reasons[1]
    # the same recipe on the same rows
    again = train(recipe(folder))
    decision = judge(store_of(folder), "sine", again.version, GATE, backtest_config)
    assert decision.outcome == "kept"
    (reason,) = [one.reason for one in decision.criteria if one.name == "champion"]
    assert reason == "too few windows for a test: 0 windows since version 1 was trained"


def test_a_warm_start_is_tried_from_the_champions_weights(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    write_series(folder, CHANGE + 120, CHANGE)
    weights = store_of(folder).download("sine", 1, tmp_path_factory.mktemp("champion")) / "model.keras"
    assert settle_newest(folder, WarmStart(weights, 1, 3)).outcome == "promoted"
    (run,) = runs(folder, "tags.rows = 'since version 1 was trained'")
    assert (run.data.tags["warm_started_from"], run.data.tags["warm_epochs"]) == ("1", "3")
    # but never where the champion has seen what is forecast
    (cold,) = [one for one in runs(folder, "tags.tried_as = 'challenger'") if "rows" not in one.data.tags]
    assert "warm_started_from" not in cold.data.tags

"""The comparison of a challenger with the served champion, on rows that the champion has not seen."""

import shutil
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest

from forecaster.backtesting.backtest import BacktestConfig
from forecaster.domain.errors import RegistryError
from forecaster.promotion.gate import GateConfig
from forecaster.promotion.judge import judge
from forecaster.promotion.promote import PromotionResult, judge_and_promote
from forecaster.registry.bundle import read_bundle
from forecaster.registry.predictor import ArrayPredictor
from forecaster.registry.store import Store
from forecaster.training.config import TrainConfig
from forecaster.training.job import train
from forecaster.training.warm_start import WarmStart
from tests.backup.installation import move_artifacts
from tests.conftest import small_config

CHANGE, ROWS = 600, 760
# an 80 % interval needs only few calibration windows
BACKTEST = BacktestConfig(n_windows=60, refit=30, baselines=("naive",), levels=(80,))
# other tests check the coverage
GATE = GateConfig(coverage_tolerance=0.9, latency_seconds=5, refits=2)


def write_series(folder: Path, n_rows: int, change: int = ROWS) -> None:
    """Write an hourly noisy sine, with a shorter and higher wave from row `change` on."""
    rows = np.arange(n_rows)
    wave = np.where(rows < change, np.sin(rows * 2 * np.pi / 12), 4 + 3 * np.sin(rows * 2 * np.pi / 7))
    noise = np.random.default_rng(0).normal(0, 0.1, ROWS)[:n_rows]
    times = pd.date_range("2026-01-01", periods=n_rows, freq="h")
    pd.DataFrame({"ds": times, "y": wave + noise}).to_csv(folder / "series.csv", index=False)


def recipe(folder: Path, **changes: Any) -> TrainConfig:
    settings: dict[str, Any] = {
        "data": {"source": "files", "path": str(folder / "series.csv")},
        "horizon": 3,
        # other tests check the intervals
        "folds": 0,
        "input_size": 14,
        "model": {"cell": "gru", "widths": [8]},
        "fit": {"epochs": 12, "batch_size": 64, "learning_rate": 0.03, "patience": 12},
    }
    return small_config(folder, **(settings | changes))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a champion that was trained on the rows before the change."""
    folder = tmp_path_factory.mktemp("trained")
    write_series(folder, CHANGE)
    train(recipe(folder))
    Store(f"sqlite:///{folder}/mlflow.db").promote("sine", 1)
    return folder


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    """A copy of the store."""
    folder = tmp_path / "copy"
    shutil.copytree(trained, folder)
    move_artifacts(folder / "mlflow.db", trained.as_uri(), folder.as_uri())
    return folder


def store_of(folder: Path) -> Store:
    return Store(f"sqlite:///{folder}/mlflow.db")


def train_and_judge(
    folder: Path, warm: WarmStart | None = None, gate: GateConfig = GATE, **changes: Any
) -> PromotionResult:
    version = train(recipe(folder, **changes), warm, force_new=False).version
    return judge_and_promote(store_of(folder), "sine", version, gate, BACKTEST)


def champion_reason(result: PromotionResult) -> str:
    return next(str(criterion["reason"]) for criterion in result.criteria if criterion["name"] == "champion")


def runs(folder: Path, tags: str) -> list[Any]:
    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("forecaster").experiment_id
    return list(client.search_runs([experiment], tags))


def test_same_recipe_replaces_the_champion_after_a_change_of_regime(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    write_series(folder, CHANGE + 120, CHANGE)
    result = train_and_judge(folder)
    assert result.outcome == "promoted", result
    assert result.aliases == {"champion": 2, "previous": 1, "challenger": 2}
    # the champion's error on rows that it has not seen, computed here
    bundle = read_bundle(store_of(folder).download("sine", 1, tmp_path_factory.mktemp("champion")))
    y = pd.read_csv(folder / "series.csv")["y"].to_numpy()
    cutoffs = np.arange(CHANGE - 1, len(y) - 3)[-BACKTEST.n_windows :]
    windows = np.stack([y[cutoff - 13 : cutoff + 1] for cutoff in cutoffs])
    actual = np.stack([y[cutoff + 1 : cutoff + 4] for cutoff in cutoffs])
    error = np.abs(actual - ArrayPredictor(bundle).predict_arrays(windows)).mean()
    (run,) = runs(folder, "tags.rows = 'since version 1 was trained'")
    ratio = run.data.metrics["test/mae"] / error
    assert champion_reason(result).startswith(f"better: {ratio:.3g} of the champion's MAE")
    assert "60 windows since version 1 was trained" in champion_reason(result)


def test_same_recipe_is_promoted_as_fresher_without_a_change(folder: Path) -> None:
    write_series(folder, ROWS)
    result = train_and_judge(folder, gate=GATE.model_copy(update={"margin": 0.15}))
    assert result.outcome == "promoted", result
    assert champion_reason(result).startswith("fresher: ")


def test_fresher_version_forecasts_in_the_shadow_with_too_few_new_rows(folder: Path) -> None:
    write_series(folder, CHANGE + 6)
    result = train_and_judge(folder)
    assert result.outcome == "shadow"
    assert result.aliases == {"champion": 1, "challenger": 2}
    assert "too few windows for a test: 4 windows since version 1 was trained" in result.reason
    # a second call repeats the decision
    again = train_and_judge(folder)
    assert again.outcome == "shadow"
    assert again.reason.startswith("judged before, and nothing has changed since")
    # a later version does not replace the shadow challenger, whose scores would be lost;
    # another unit of intervals is still the same recipe
    write_series(folder, CHANGE + 7)
    later = train_and_judge(folder, intervals="ewma")
    assert (later.outcome, later.aliases) == ("shadow", {"champion": 1, "challenger": 2})
    assert "version 2 already forecasts in the shadow and is decided on first" in later.reason


def test_another_recipe_is_compared_with_the_champions_recipe_without_new_rows(folder: Path) -> None:
    backtest_config = BACKTEST.model_copy(update={"refit": "never"})
    reasons = []
    for seed in (1, 2):
        version = train(recipe(folder, fit={"epochs": 1}, seed=seed)).version
        decision = judge(store_of(folder), "sine", version, GATE, backtest_config)
        assert decision.outcome == "kept"
        reasons += [criterion.reason for criterion in decision.criteria if criterion.name == "champion"]
    assert "60 windows that both recipes forecast" in reasons[0]
    assert "tries" not in reasons[0]
    assert "for the best of 2 tries" in reasons[1]
    # the same recipe on the same rows
    again = train(recipe(folder))
    decision = judge(store_of(folder), "sine", again.version, GATE, backtest_config)
    assert decision.outcome == "kept"
    (reason,) = [criterion.reason for criterion in decision.criteria if criterion.name == "champion"]
    assert reason == "too few windows for a test: 0 windows since version 1 was trained"


def test_warm_started_challenger_is_backtested_from_the_champions_weights(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    write_series(folder, CHANGE + 120, CHANGE)
    weights = store_of(folder).download("sine", 1, tmp_path_factory.mktemp("champion")) / "model.keras"
    assert train_and_judge(folder, WarmStart(weights, 1, 3)).outcome == "promoted"
    (run,) = runs(folder, "tags.rows = 'since version 1 was trained'")
    assert (run.data.tags["warm_started_from"], run.data.tags["warm_epochs"]) == ("1", "3")
    # but not on rows that the champion has seen
    (cold,) = [run for run in runs(folder, "tags.tried_as = 'challenger'") if "rows" not in run.data.tags]
    assert "warm_started_from" not in cold.data.tags


def test_champion_that_takes_no_missing_values_is_named(folder: Path) -> None:
    write_series(folder, ROWS)
    table = pd.read_csv(folder / "series.csv")
    table.loc[[630, 631, 650], "y"] = np.nan
    table.to_csv(folder / "series.csv", index=False)
    with pytest.raises(RegistryError, match=r"\(y: 3\), which the champion \(version 1\) does not take"):
        train_and_judge(folder, missing="mask", fit={"epochs": 1})

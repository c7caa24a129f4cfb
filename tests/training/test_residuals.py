"""Out-of-sample calibration: intervals are sized by windows that their network was not fitted on."""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forecaster.data.windows import Windows
from forecaster.evaluation.forecasts import Forecasts
from forecaster.training import stages
from forecaster.training.config import TrainConfig, prepare, split
from forecaster.training.examples import Examples
from forecaster.training.fit import History
from forecaster.training.folds import forward_folds
from forecaster.training.residuals import calibrate_naive, calibrate_on
from forecaster.training.stages import fit_recipe
from tests.conftest import small_config


def target_rows(windows: Windows) -> set[int]:
    starts = windows.starts(np.arange(len(windows))) + windows.input_size
    return set((starts[:, None] + np.arange(windows.horizon)).ravel().tolist())


def all_rows(windows: Windows) -> set[int]:
    starts = windows.starts(np.arange(len(windows)))
    return set((starts[:, None] + np.arange(windows.input_size + windows.horizon)).ravel().tolist())


@dataclass
class MemorisingNetwork:
    """A network that forecasts the rows it was fitted on exactly, and the last value for all other rows."""

    seen: set[int]

    def forecast(self, windows: Windows) -> Forecasts:
        rows = windows.starts(np.arange(len(windows)))[:, None] + windows.input_size + np.arange(windows.horizon)
        last = windows.inputs().target[:, -1:]
        return Forecasts(np.where(np.isin(rows, list(self.seen)), windows.values[rows, 0], last))


def use_memorising_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def fit(
        config: TrainConfig, train: Examples, validation: Examples | None, *rest: Any
    ) -> tuple[MemorisingNetwork, History]:
        rows = all_rows(train.windows) | (all_rows(validation.windows) if validation else set())
        return MemorisingNetwork(rows), History(best_epoch=0)

    monkeypatch.setattr(stages, "_fit", fit)


def random_walks(tmp_path: Path, **changes: Any) -> tuple[TrainConfig, dict[str, Windows]]:
    data = {"source": "random_walk", "length": 600, "n_series": 2, "seed": 1}
    config = small_config(tmp_path, data=data, **changes)
    return config, split(config, prepare(config, config.data.load()))


def test_memorised_train_rows_do_not_narrow_the_intervals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_memorising_network(monkeypatch)
    config, parts = random_walks(tmp_path, folds=3)
    trained, _, calibration = fit_recipe(config, parts, tmp_path)
    # on unseen windows the network is the last-value baseline, so its intervals are the baseline's
    np.testing.assert_array_equal(calibration.residuals, calibrate_naive(config, parts).residuals)
    in_sample = calibrate_on(config, [(parts["train"], trained.forecast(parts["train"]))])
    assert np.ptp(in_sample.residuals) == 0


@pytest.mark.parametrize("step_size", [1, 7])
def test_fold_is_fitted_only_on_rows_before_its_forecasts(tmp_path: Path, step_size: int) -> None:
    _, parts = random_walks(tmp_path, step_size=step_size)
    folds = list(forward_folds(parts["train"], parts["validation"], 3))
    assert len(folds) == 3
    times = parts["train"].timestamps
    for fitted, held_out in folds:
        assert times[sorted(all_rows(fitted))].max() < times[sorted(target_rows(held_out))].min()
    # the folds' targets are successive, and end before the calibration part begins
    ends = [times[sorted(target_rows(held_out))] for _, held_out in folds]
    for before, after in itertools.pairwise(ends):
        assert before.max() < after.min()
    assert ends[-1].max() < times[sorted(all_rows(parts["calibration"]))].min()


def test_split_by_series_calibrates_only_on_the_calibration_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_memorising_network(monkeypatch)
    shares = {"by": "series", "train": 0.25, "validation": 0.25, "calibration": 0.25, "test": 0.25}
    data = {"source": "random_walk", "length": 200, "n_series": 4, "seed": 1}
    config = small_config(tmp_path, data=data, split=shares, folds=3)
    parts = split(config, prepare(config, config.data.load()))
    _, _, calibration = fit_recipe(config, parts, tmp_path)
    assert calibration.n_windows == len(parts["calibration"])


def test_calibration_part_changes_the_calibration_but_not_the_network(tmp_path: Path) -> None:
    config = small_config(tmp_path, fit={"epochs": 1})
    frame = config.data.load()
    calibration = split(config, prepare(config, frame))["calibration"]
    rows = sorted(all_rows(calibration))
    fits = []
    for change in (0.0, 9.0):
        changed = frame.assign(y=frame["y"] + change * np.isin(np.arange(len(frame)), rows))
        (folder := tmp_path / str(change)).mkdir()
        fits.append(fit_recipe(config, split(config, prepare(config, changed)), folder))
    for weights, others in zip(*(trained.model.get_weights() for trained, _, _ in fits), strict=True):
        np.testing.assert_array_equal(weights, others)
    assert not np.array_equal(fits[0][2].residuals, fits[1][2].residuals)

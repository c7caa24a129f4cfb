"""The leakage audit: honest trainings pass, each planted leak is found and its version kept out of the registry."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest

from forecaster.data.transforms import MeanStd
from forecaster.data.windows import SplitConfig, Windows
from forecaster.domain.errors import LeakageError
from forecaster.domain.series import Inputs, Series
from forecaster.registry.store import Store
from forecaster.training import recipe, stages
from forecaster.training.job import train
from forecaster.training.leakage import N_CUTOFFS, certify
from forecaster.training.recipe import TrainConfig, prepare, split
from forecaster.training.stages import evaluate
from tests.conftest import House, small_config

ROWS = 700


def write_table(folder: Path) -> Path:
    random = np.random.default_rng(0)
    y = np.sin(np.arange(ROWS) / 4) + random.normal(0, 0.1, ROWS) + 3
    times = pd.date_range("2026-01-01", periods=ROWS, freq="h")
    frame = pd.DataFrame({"ds": times, "y": y, "wind": random.normal(size=ROWS), "sun": random.normal(size=ROWS)})
    frame.to_csv(folder / "a.csv", index=False)
    return folder / "a.csv"


def leaky_config(folder: Path, **changes: Any) -> TrainConfig:
    settings: dict[str, Any] = {
        "data": {"source": "files", "path": str(write_table(folder))},
        "hist_exog": ["wind"],
        "futr_exog": ["sun"],
        "calendar_features": ["hour_of_day"],
        "fit": {"epochs": 1},
        "model": {"cell": "gru", "widths": [4], "topology": "many_to_many"},
    }
    return small_config(folder, **(settings | changes))


@pytest.mark.parametrize("topology", ["many_to_one", "many_to_many"])
@pytest.mark.parametrize("kinds", [["standardize"], ["log", "last_value", "standardize"], ["mean_std"], ["difference"]])
def test_an_honest_training_is_certified(tmp_path: Path, topology: str, kinds: list[str]) -> None:
    model = {"cell": "simple_rnn", "widths": [4], "topology": topology}
    train(leaky_config(tmp_path, transforms=[{"kind": kind} for kind in kinds], model=model, refit=False))


@pytest.mark.parametrize(
    "data",
    [
        {"source": "sine", "length": 300, "n_series": 6},
        {"source": "sine", "length": 800, "n_series": 1, "start": "2026-03-20T00:00:00"},
        {"source": "random_walk", "length": 500},
        # constant but for its noise
        {"source": "sine", "length": 400, "sines": [], "noise": 0.001, "level": -7.0},
    ],
)
@pytest.mark.parametrize("by", ["time", "series"])
def test_many_kinds_of_honest_data_are_certified(tmp_path: Path, data: dict[str, Any], by: str) -> None:
    shares = {"by": by, "train": 0.4, "validation": 0.2, "calibration": 0.2, "test": 0.2}
    config = small_config(tmp_path, data=data, split=shares, fit={"epochs": 1}, input_size=12)
    if by == "series" and data.get("n_series", 1) < 4:
        config = config.model_copy(update={"split": SplitConfig()})
    frame = config.data.load()
    evaluated = evaluate(config, split(config, prepare(config, frame)), tmp_path)
    certificate = certify(config, frame, evaluated, evaluated.trained)
    assert len(certificate.cutoffs) == N_CUTOFFS
    assert list(certificate.digests) == ["validation", "calibration", "test"]
    assert len(set(certificate.digests.values())) == 3


def test_the_certificate_travels_in_the_manifest(house: House) -> None:
    certificate = house.predictor(2).manifest.certificate
    assert certificate is not None
    assert len(certificate.cutoffs) == N_CUTOFFS


def _scaler_sees_all(patch: pytest.MonkeyPatch) -> None:
    honest = stages.fit_preprocessing
    patch.setattr(
        stages,
        "fit_preprocessing",
        lambda config, windows: honest(config, replace(windows, counts=windows.counts + ROWS - 560)),
    )


def _split_is_shuffled(patch: pytest.MonkeyPatch) -> None:
    def shuffled(config: TrainConfig, series: Series, *arguments: Any) -> dict[str, Windows]:
        starts = np.random.default_rng(0).permutation(len(series.values) - 28)
        parts = honest(config, series, *arguments)
        return {
            name: replace(part, first=chosen, counts=np.ones_like(chosen), owners=np.zeros_like(chosen))
            for (name, part), chosen in zip(parts.items(), np.array_split(starts, len(parts)), strict=True)
        }

    honest = recipe.split
    patch.setattr(recipe, "split", shuffled)


def _parts_overlap(patch: pytest.MonkeyPatch) -> None:
    def overlapping(config: TrainConfig, series: Series, *arguments: Any) -> dict[str, Windows]:
        parts = honest(config, series, *arguments)
        # the last train window's targets reach into validation
        return parts | {"train": replace(parts["train"], counts=parts["train"].counts + 1)}

    honest = recipe.split
    patch.setattr(recipe, "split", overlapping)


def _horizon_is_misaligned(patch: pytest.MonkeyPatch) -> None:
    honest = Windows.targets_each_step
    patch.setattr(Windows, "targets_each_step", lambda windows, index: np.roll(honest(windows, index), 1, axis=2))


def _targets_begin_too_early(patch: pytest.MonkeyPatch) -> None:
    def early(windows: Windows, index: np.ndarray | None = None) -> np.ndarray:
        return np.concatenate([windows.inputs(index).values[:, -1:, 0], honest(windows, index)[:, :-1]], axis=1)

    honest = Windows.targets
    patch.setattr(Windows, "targets", early)


def _window_mean_sees_the_future(patch: pytest.MonkeyPatch) -> None:
    def forward(self: MeanStd, x: Any, is_causal: bool) -> Any:
        xp = x.__array_namespace__()
        mean = xp.mean(x, axis=1, keepdims=True)
        deviation = xp.sqrt(xp.mean((x - mean) ** 2, axis=1, keepdims=True))
        return (x - mean) / deviation, (mean[..., None] + 0 * x[..., None], deviation[..., None] + 0 * x[..., None])

    patch.setattr(MeanStd, "forward", forward)


def _covariate_is_a_row_ahead(patch: pytest.MonkeyPatch) -> None:
    def prepare(config: TrainConfig, frame: pd.DataFrame) -> Series:
        series = honest(config, frame)
        values = series.values.copy()
        values[:-1, 1] = values[1:, 1]
        return replace(series, values=values)

    honest = recipe.prepare
    patch.setattr(recipe, "prepare", prepare)


def _target_is_smoothed_with_the_future(patch: pytest.MonkeyPatch) -> None:
    def prepare(config: TrainConfig, frame: pd.DataFrame) -> Series:
        smooth = frame["y"].rolling(3, center=True, min_periods=1).mean()
        return honest(config, frame.assign(y=smooth))

    honest = recipe.prepare
    patch.setattr(recipe, "prepare", prepare)


def _inputs_reach_over_the_cutoff(patch: pytest.MonkeyPatch) -> None:
    honest = Windows.inputs

    def inputs(windows: Windows, index: np.ndarray | None = None) -> Inputs:
        shifted = replace(windows, values=np.roll(windows.values, -1, axis=0))
        return honest(shifted, index)

    patch.setattr(Windows, "inputs", inputs)


LEAKS: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], dict[str, Any], str]] = {
    "a scaler fitted on all data": (_scaler_sees_all, {"refit": False}, "after the train part changes what is fitted"),
    "a shuffled split": (_split_is_shuffled, {}, "the train part reaches"),
    "parts that overlap": (_parts_overlap, {}, "the train part reaches"),
    "a misaligned horizon, at each step": (_horizon_is_misaligned, {}, "the targets of a window"),
    "a misaligned horizon": (
        _targets_begin_too_early,
        {"model": {"topology": "many_to_one", "widths": [4]}},
        "the targets of a window",
    ),
    "a window's mean that sees the future": (
        _window_mean_sees_the_future,
        {"transforms": [{"kind": "mean_std"}]},
        "a step's answer changes",
    ),
    "a covariate a row ahead": (_covariate_is_a_row_ahead, {}, "the inputs 'wind' of a window"),
    "a target smoothed with the future": (_target_is_smoothed_with_the_future, {}, "the inputs 'y' of a window"),
    "inputs that reach over the cutoff": (_inputs_reach_over_the_cutoff, {}, "the inputs 'y' of a window"),
}


@pytest.mark.parametrize("name", LEAKS)
def test_each_planted_leak_is_found_and_nothing_is_registered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    plant, changes, said = LEAKS[name]
    config = leaky_config(tmp_path, **changes)
    plant(monkeypatch)
    # the job has its own names of what it imported
    for function in ("prepare", "split"):
        monkeypatch.setattr(f"forecaster.training.job.{function}", getattr(recipe, function))
    with pytest.raises(LeakageError, match=said):
        train(config)
    assert Store(config.tracking.uri).names() == []
    client = mlflow.MlflowClient(config.tracking.uri)
    (run,) = client.search_runs([client.get_experiment_by_name("forecaster").experiment_id])
    assert run.info.status == "FAILED"
    assert run.data.tags["error"].startswith("LeakageError: ")

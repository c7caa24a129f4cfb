"""Truncated backpropagation: rows are read in order, the state is carried, and gradients flow over few rows."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest

from forecaster.data.preprocessing import Preprocessing
from forecaster.data.transforms import Chain, Standardize
from forecaster.data.windows import Windows, cut_windows
from forecaster.domain.errors import ConfigError
from forecaster.domain.series import Series
from forecaster.models.network import ModelConfig, build_model
from forecaster.training.examples import Examples
from forecaster.training.fit import fit
from forecaster.training.fit_config import FitConfig, Truncation
from forecaster.training.job import train
from forecaster.training.stateful import Streams, reader_of, run_epoch
from tests.conftest import small_config

INPUT_SIZE, HORIZON = 5, 2
MODEL = ModelConfig.model_validate({"cell": "gru", "encoder": {"widths": [4]}, "decoder": "each_step"})
STATEFUL: dict[str, Any] = {"chunk": 12, "backprop_steps": 4}


def examples(*lengths: int, missing: Sequence[int] = ()) -> Examples:
    """Return all windows of series of these lengths, with a column that is known ahead, and missing rows."""
    random, rows = np.random.default_rng(0), sum(lengths)
    names = tuple(f"series {number}" for number in range(len(lengths)))
    values, known = random.normal(size=(rows, 1)), random.normal(size=(rows, 1))
    values[[*missing]] = np.nan
    times = np.concatenate([np.arange(length) for length in lengths]).astype("M8[h]")
    series = Series(names, values, times, np.cumsum([0, *lengths]), "h", known)
    target = Chain(steps=(), is_causal=True, is_masked=bool(missing))
    preprocessing = Preprocessing(target=target, known=(Standardize(),), is_masked=target.is_masked)
    windows = cut_windows(series, INPUT_SIZE, HORIZON)
    return Examples(windows, _fitted(preprocessing, windows), MODEL)


def _fitted(preprocessing: Preprocessing, windows: Windows) -> Preprocessing:
    return preprocessing.fit(lambda: [windows.inputs()])


def run(
    train: Examples, folder: Path, stateful: dict[str, int] | None, on_epoch: Any = None, **changes: Any
) -> tuple[Any, list[float]]:
    config = FitConfig.model_validate({"epochs": 1, "stateful": stateful, **changes})
    model = build_model(MODEL, train.shape)
    history = fit(model, config, train, None, 0, folder / "a.npz", on_epoch or (lambda *losses: None), "test")
    return model, history.loss


def test_each_row_is_read_once_in_order_with_its_targets() -> None:
    all_examples = examples(30, 12)
    known_rows = all_examples.windows.known
    assert known_rows is not None
    streams = Streams(all_examples, FitConfig(), Truncation(**STATEFUL))
    (group,) = streams.groups
    (x, known), targets, weights = streams.read(group, np.random.default_rng(0))
    # 28 and 10 rows have all their targets; the longer stretch has three chunks of 12 rows
    assert streams.chunks == 3
    assert x.shape == (9 * 2, 4, 1)
    first = 0
    for position, length in enumerate((30, 12)):
        rows = all_examples.windows.values[first : first + length, 0]
        read = weights[position::2].ravel() == 1
        assert read.sum() == length - HORIZON
        np.testing.assert_allclose(x[position::2].ravel()[read], rows[:-HORIZON], rtol=1e-6)
        for step in range(HORIZON):
            found = targets[position::2, :, step].ravel()[read]
            np.testing.assert_allclose(found, rows[1 + step : 1 + step + len(found)], rtol=1e-6)
        scale = all_examples.preprocessing.known[0]
        column, _ = scale.forward(known_rows[first : first + length, 0], is_causal=False)
        np.testing.assert_allclose(known[position], column[: 4 + HORIZON, None], rtol=1e-5)
        first += length


@pytest.mark.parametrize("missing", [(), (3, 9, 29, 35)])
def test_state_is_carried_over_a_whole_series_and_begins_anew_with_the_next(
    tmp_path: Path, missing: Sequence[int]
) -> None:
    """With weights that stay the same, reading in pieces gives the loss of reading each series at once."""
    both = examples(30, 18, missing=missing)
    totals = []
    for stretch, rows in enumerate((28, 16)):
        windows = both.windows.choose(np.array([stretch]))
        whole = replace(both, windows=replace(windows, input_size=rows, counts=np.ones(1, dtype=np.int64)))
        (tmp_path / str(stretch)).mkdir()
        _, (loss,) = run(whole, tmp_path / str(stretch), None, learning_rate=1e-12)
        totals.append(loss * rows)
    for width in (1, 2):
        folder = tmp_path / f"width {width}"
        folder.mkdir()
        _, (loss,) = run(both, folder, STATEFUL, learning_rate=1e-12, batch_size=width)
        assert loss == pytest.approx(sum(totals) / (28 + 16), rel=1e-5)


def test_a_step_takes_the_gradients_of_a_chunk_over_few_rows(tmp_path: Path) -> None:
    """A single chunk with gradients over all of its rows takes the step of a window of these rows."""
    one = examples(26)
    whole = replace(one, windows=replace(one.windows, input_size=24, counts=np.ones(1, dtype=np.int64)))
    found = {}
    for name, case, stateful in (
        ("window", whole, None),
        ("full", one, {"chunk": 24, "backprop_steps": 24}),
        ("truncated", one, {"chunk": 24, "backprop_steps": 4}),
    ):
        (tmp_path / name).mkdir()
        found[name] = run(case, tmp_path / name, stateful)[0].get_weights()
    for window, full in zip(found["window"], found["full"], strict=True):
        np.testing.assert_allclose(window, full, atol=1e-6)
    # Adam's first step has the same size, so the direction of some weights must differ
    assert max(np.abs(a - b).max() for a, b in zip(found["full"], found["truncated"], strict=True)) > 1e-4
    # a single step: Adam's first step moves a weight by the learning rate
    start = build_model(MODEL, one.shape).get_weights()
    assert max(np.abs(a - b).max() for a, b in zip(start, found["truncated"], strict=True)) < 0.0011


def test_cosine_schedule_falls_over_all_epochs() -> None:
    config = FitConfig(epochs=4, schedule="cosine", learning_rate=0.1, stateful=Truncation(**STATEFUL))
    train = examples(30)
    streams = Streams(train, config, Truncation(**STATEFUL))
    reader = reader_of(build_model(MODEL, train.shape), streams, 0)
    for _ in range(2):
        run_epoch(reader, streams, np.random.default_rng(0))
    assert float(reader.optimizer.learning_rate) == pytest.approx(0.05)


def test_interrupted_fit_ends_with_the_same_weights(tmp_path: Path) -> None:
    def kill(epoch: int, *losses: Any) -> None:
        if epoch == 1:
            raise KeyboardInterrupt

    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    options: dict[str, Any] = {"epochs": 3, "batch_size": 1, "schedule": "cosine", "learning_rate": 0.01}
    whole, losses = run(examples(30, 18), tmp_path / "whole", STATEFUL, **options)
    with pytest.raises(KeyboardInterrupt):
        run(examples(30, 18), tmp_path / "killed", STATEFUL, kill, **options)
    resumed, again = run(examples(30, 18), tmp_path / "killed", STATEFUL, **options)
    assert losses == again
    for weight, other in zip(whole.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, other)


def test_stateful_training_is_certified_and_registered(tmp_path: Path) -> None:
    model = {"cell": "gru", "encoder": {"widths": [8], "dropout": 0.1}, "decoder": "each_step"}
    fit_options = {"epochs": 12, "learning_rate": 0.02, "stateful": {"chunk": 24, "backprop_steps": 12}}
    registered = train(small_config(tmp_path, model=model, fit=fit_options, folds=0))
    assert registered.version == 1
    assert registered.metrics["relative_mae"] < 0.5
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    assert client.get_run(registered.run_id).info.status == "FINISHED"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"decoder": "last"}}, "fit.stateful and decoder: .*set decoder: each_step"),
        ({"transforms": [{"kind": "last_value"}]}, "fit.stateful and transforms: mean_std, last_value and last_season"),
        (
            {"hist_exog": [{"column": "wind", "transforms": [{"kind": "mean_std"}]}]},
            "fit.stateful and transforms: mean_std, last_value and last_season",
        ),
        (
            {"model": {"decoder": "each_step", "encoder": {"widths": [4], "dilations": [2]}}},
            "fit.stateful and encoder.dilations: ",
        ),
        (
            {"model": {"decoder": "each_step", "inputs": {"channels": "shared"}}},
            "fit.stateful and inputs.channels: shared: ",
        ),
        ({"fit": {"stateful": {"chunk": 10, "backprop_steps": 4}}}, "chunk: must be a multiple of backprop_steps, 4"),
    ],
)
def test_settings_that_conflict_with_a_carried_state_are_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    sound: dict[str, Any] = {"model": {"decoder": "each_step"}, "fit": {"stateful": STATEFUL}}
    small_config(tmp_path, **sound)
    with pytest.raises(ConfigError, match=message):
        small_config(tmp_path, **(sound | changes))

"""The fit: early stopping, best weights, gradient clipping, sample weights and checkpoints."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forecaster.data.preprocessing import Preprocessing
from forecaster.data.transforms import Chain, MeanStd, Standardize
from forecaster.data.windows import Windows, cut_windows, split_windows
from forecaster.domain.errors import TrainingError
from forecaster.domain.series import Series
from forecaster.models.decoders import EachStep
from forecaster.models.encoders import Encoder
from forecaster.models.network import ModelConfig, build_model
from forecaster.models.shape import NetworkShape
from forecaster.training import networks
from forecaster.training.config import prepare
from forecaster.training.examples import Examples
from forecaster.training.fit import History, fit, validation_loss
from forecaster.training.fit_config import FitConfig
from forecaster.training.stages import evaluate
from tests.conftest import small_config

INPUT_SIZE, HORIZON = 12, 3


def windows(seed: int, length: int = 200) -> Windows:
    y = np.random.default_rng(seed).normal(size=(length, 1))
    times = np.arange(length).astype("M8[h]")
    return cut_windows(Series(("a",), y, times, np.array([0, length]), "h"), INPUT_SIZE, HORIZON)


MODEL = ModelConfig(cell="gru", encoder=Encoder(widths=(24,)))


def compiled(config: FitConfig) -> Any:
    """Return the untrained network, compiled for a fit on the windows of a series."""
    model = build_model(MODEL, NetworkShape(INPUT_SIZE, HORIZON), seed=5)
    return networks.compile_network(model, MODEL, config, networks.Batches(config.batch_size, 11))


def run(folder: Path, **changes: Any) -> tuple[Any, History, Examples, FitConfig]:
    """Fit on noise: the network overfits, so the validation loss soon rises."""
    preprocessing = Preprocessing(target=Chain(steps=(), is_causal=False))
    train, validation = (Examples(windows(seed), preprocessing, MODEL) for seed in (1, 2))
    config = FitConfig(**({"epochs": 40, "batch_size": 16, "learning_rate": 0.02, "patience": 4} | changes))
    model = compiled(config)
    history = fit(model, config, train, validation, 0, folder / "a.npz", lambda *arguments: None, "test")
    return model, history, validation, config


def test_fit_stops_early_and_restores_the_best_weights(tmp_path: Path) -> None:
    model, history, validation, config = run(tmp_path)
    best = int(np.argmin(history.validation_loss))
    assert history.best_epoch == best
    assert history.epochs == best + 1 + config.patience < config.epochs
    assert validation_loss(model, config, validation) == pytest.approx(history.validation_loss[best], rel=1e-6)
    assert history.validation_loss[-1] > 1.001 * history.validation_loss[best]


def test_fit_whose_last_step_breaks_the_weights_diverges(tmp_path: Path) -> None:
    """The loss is measured before the step, and a refit has no validation part."""
    config = FitConfig(epochs=1, batch_size=1000, learning_rate=1e39)
    train = Examples(windows(1), Preprocessing(target=Chain(steps=(), is_causal=False)), ModelConfig(cell="gru"))
    model = build_model(train.model, NetworkShape(INPUT_SIZE, HORIZON))
    with pytest.raises(TrainingError, match="epoch 0: the fit diverges: a weight is not finite"):
        fit(model, config, train, None, 0, tmp_path / "a.npz", lambda *arguments: None, "test")
    assert not (tmp_path / "a.npz").exists()


def test_clip_norm_limits_the_gradients(tmp_path: Path) -> None:
    """Adam's steps do not depend on the gradients' size, so the clipping shows in its second moments."""
    import keras

    (tmp_path / "clipped").mkdir()
    (tmp_path / "free").mkdir()
    clipped, clipped_history, *_ = run(tmp_path / "clipped", epochs=2, clip_norm=1e-6)
    free, free_history, *_ = run(tmp_path / "free", epochs=2, clip_norm=1e6)
    assert (clipped_history.clipped, free_history.clipped) == ([1.0, 1.0], [0.0, 0.0])
    assert clipped.optimizer.global_clipnorm == 1e-6
    moments = [
        max(float(keras.ops.max(keras.ops.abs(v))) for v in model.optimizer.variables if "velocity" in v.path)
        for model in (clipped, free)
    ]
    assert moments[0] < 1e-12 < moments[1]


def test_served_weights_are_the_moving_average_of_those_after_each_step() -> None:
    decay, random = 0.7, np.random.default_rng(3)
    steps = [(random.normal(size=(16, INPUT_SIZE, 1)), random.normal(size=(16, HORIZON))) for _ in range(4)]
    configs = [FitConfig(batch_size=16, learning_rate=0.02, ema_decay=each) for each in (None, decay)]
    free, averaged = map(compiled, configs)
    after: list[list[np.ndarray]] = []
    for inputs, targets in steps:
        for model in (free, averaged):
            networks.fit_batches(model, 16, [inputs.astype(np.float32)], targets.astype(np.float32), None)
        after.append(free.get_weights())
    expected = after[0]
    for weights in after[1:]:
        expected = [decay * old + (1 - decay) * new for old, new in zip(expected, weights, strict=True)]
    with networks.averaged_weights(averaged, configs[1]):
        served = averaged.get_weights()
    for found, average, last, own in zip(served, expected, after[-1], averaged.get_weights(), strict=True):
        np.testing.assert_allclose(found, average, atol=1e-6)
        # the fit goes on from the weights of the last step
        np.testing.assert_array_equal(own, last)


def test_fit_validates_and_keeps_the_averaged_weights(tmp_path: Path) -> None:
    model, history, validation, config = run(tmp_path, ema_decay=0.95)
    assert validation_loss(model, config, validation) == min(history.validation_loss)


def test_preprocessing_is_fitted_only_on_the_train_part(tmp_path: Path) -> None:
    config = small_config(tmp_path, fit={"epochs": 1})
    chains = []
    for name, change in (("original", 0.0), ("changed", 50.0)):
        frame = config.data.load()
        frame.loc[frame.index[560:], "y"] += change
        parts = split_windows(prepare(config, frame), config.split, config.input_size, config.horizon)
        (tmp_path / name).mkdir()
        chains.append(evaluate(config, parts, tmp_path / name).trained.preprocessing)
    assert chains[0] == chains[1]


def test_steps_within_the_warm_up_of_a_transform_have_no_weight(tmp_path: Path) -> None:
    model = ModelConfig(decoder=EachStep())
    examples = Examples(windows(1), Preprocessing(target=Chain(steps=(MeanStd(),), is_causal=True)), model)
    weights = examples.weights(2)
    assert weights is not None
    np.testing.assert_array_equal(weights, [[0.0] * 3 + [1.0] * 9] * 2)
    scaled = Chain(steps=(Standardize(offset=0, scale=1),), is_causal=True)
    assert Examples(windows(1), Preprocessing(target=scaled), model).weights(2) is None


def test_error_names_a_damaged_checkpoint(tmp_path: Path) -> None:
    run(tmp_path, epochs=1)
    whole = (tmp_path / "a.npz").read_bytes()
    for content in (b"", whole[: len(whole) // 2], b"PK" + whole[2:200]):
        (tmp_path / "a.npz").write_bytes(content)
        with pytest.raises(TrainingError, match=r"a\.npz: cannot be read .*remove it"):
            run(tmp_path)

"""The loop over batches gives the weights of Keras' own `fit`, and a shared batch those of a whole one."""

from typing import Any

import numpy as np
import pytest

from forecaster.models.network import ModelConfig, build_model
from forecaster.models.shape import NetworkShape
from forecaster.training import devices, networks
from forecaster.training.batch_loop import Batching, plan_batches
from forecaster.training.fit_config import FitConfig
from forecaster.training.networks import Batches, compile_network, fit_batches

SHAPE, BATCH, BATCHES = NetworkShape(12, 3), 64, 3


def fit(model: ModelConfig, parts: int, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, float]:
    """Fit an epoch in batches of several parts; return the network and its loss."""
    monkeypatch.setattr(networks, "plan_batches", lambda size, steps, is_stateless: Batching(size, parts, parts > 1))
    random = np.random.default_rng(0)
    network = build_model(model, SHAPE, 0)
    inputs = random.normal(size=(BATCH * BATCHES, 12, 1)).astype(np.float32)
    targets = random.normal(size=(len(inputs), *network.output_shape[1:-1])).astype(np.float32)
    weights = random.uniform(size=targets.shape[:-1]).astype(np.float32)
    compiled = compile_network(network, model, FitConfig(learning_rate=0.01), Batches(BATCH, BATCHES))
    return network, fit_batches(compiled, BATCH, [inputs], targets, weights)


def test_loop_gives_the_weights_and_the_loss_of_keras_own_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    model = ModelConfig.model_validate({"cell": "gru", "encoder": {"widths": [6]}})
    own, loss = fit(model, 1, monkeypatch)
    monkeypatch.setattr(devices, "is_tensorflow_on_cpu", lambda: False)
    network, loss_of_fit = fit(model, 1, monkeypatch)
    assert loss == pytest.approx(loss_of_fit, rel=1e-6)
    for weight, other in zip(own.get_weights(), network.get_weights(), strict=True):
        np.testing.assert_allclose(weight, other, atol=1e-7)


@pytest.mark.parametrize("decoder", ["last", "each_step"])
@pytest.mark.parametrize("cell", ["simple_rnn", "lstm", "gru"])
def test_parts_give_the_weights_and_the_loss_of_the_whole(
    cell: str, decoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ModelConfig.model_validate({"cell": cell, "encoder": {"widths": [6]}, "decoder": decoder})
    whole, loss = fit(model, 1, monkeypatch)
    shared, loss_of_parts = fit(model, 4, monkeypatch)
    assert loss_of_parts == pytest.approx(loss, rel=1e-5)
    for weight, other in zip(whole.get_weights(), shared.get_weights(), strict=True):
        np.testing.assert_allclose(weight, other, atol=1e-6)


def test_batches_have_equal_parts_of_at_least_32_rows_in_long_fits() -> None:
    sizes = (1, 32, 63, 64, 96, 100, 127, 256, 1000, 4096)
    plans = [plan_batches(size, 10_000, is_stateless=True) for size in sizes]
    assert [plan.parts for plan in plans] == [1, 1, 1, 2, 3, 2, 1, 8, 8, 8]
    assert all(plan.is_compiled for plan in plans)
    # parts would draw their dropout masks one after the other, because each draw changes the generator
    assert plan_batches(64, 10_000, is_stateless=False) == Batching(64, 1, is_compiled=True)
    # a compilation would take longer than the fit
    assert plan_batches(64, 100, is_stateless=True) == Batching(64, 1, is_compiled=False)

"""The loop over batches gives the weights of Keras' own `fit`, and a shared batch those of a whole one."""

from typing import Any

import numpy as np
import pytest

from forecaster.models.network import ModelConfig, build_model
from forecaster.models.shape import NetworkShape
from forecaster.training import batch_loop, devices, networks
from forecaster.training.batch_loop import StepPlan, plan_steps
from forecaster.training.fit_config import FitConfig
from forecaster.training.networks import Batches, compile_network, fit_batches

SHAPE, BATCH, BATCHES = NetworkShape(12, 3), 64, 3


def fit(model: ModelConfig, parts: int, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, float]:
    """Fit an epoch in batches of several parts; return the network and its loss."""
    monkeypatch.setattr(networks, "plan_steps", lambda size, steps, carries_states: StepPlan(size, parts, parts > 1))
    random = np.random.default_rng(0)
    network = build_model(model, SHAPE, 0)
    inputs = random.normal(size=(BATCH * BATCHES, 12, 1)).astype(np.float32)
    targets = random.normal(size=(len(inputs), *network.output_shape[1:-1])).astype(np.float32)
    weights = random.uniform(size=targets.shape[:-1]).astype(np.float32)
    compiled = compile_network(network, model, FitConfig(learning_rate=0.01), Batches(BATCH, BATCHES))
    return compiled, fit_batches(compiled, BATCH, [inputs], targets, weights)


def test_loop_gives_the_weights_and_the_loss_of_keras_own_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    model = ModelConfig.model_validate({"cell": "gru", "encoder": {"widths": [6]}})
    own, loss = fit(model, 1, monkeypatch)
    monkeypatch.setattr(devices, "is_tensorflow_on_cpu", lambda: False)
    network, loss_of_fit = fit(model, 1, monkeypatch)
    assert loss == pytest.approx(loss_of_fit, rel=1e-6)
    for weight, other in zip(own.get_weights(), network.get_weights(), strict=True):
        np.testing.assert_allclose(weight, other, atol=1e-7)


@pytest.mark.parametrize(
    ("cell", "decoder"), [("simple_rnn", "last"), ("lstm", "last"), ("lstm", "each_step"), ("gru", "last")]
)
def test_parts_give_the_weights_and_the_loss_of_the_whole(
    cell: str, decoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ModelConfig.model_validate({"cell": cell, "encoder": {"widths": [6]}, "decoder": decoder})
    whole, loss = fit(model, 1, monkeypatch)
    shared, loss_of_parts = fit(model, 4, monkeypatch)
    assert loss_of_parts == pytest.approx(loss, rel=1e-5)
    for weight, other in zip(whole.get_weights(), shared.get_weights(), strict=True):
        np.testing.assert_allclose(weight, other, atol=1e-6)


@pytest.mark.parametrize(
    "parts",
    [
        {"cell": "simple_rnn", "encoder": {"widths": [6], "bidirectional": True}},
        {"cell": "lstm", "encoder": {"widths": [6, 6]}, "decoder": {"kind": "seq2seq", "attention": "additive"}},
        {"cell": "lstm", "encoder": {"widths": [6], "recurrent_dropout": 0.5}, "decoder": "each_step"},
    ],
    ids=["bidirectional", "initial states", "recurrent dropout"],
)
def test_compiled_loop_of_a_layer_gives_the_weights_of_keras_loop(
    parts: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ModelConfig.model_validate(parts)
    own, loss = fit(model, 2, monkeypatch)
    monkeypatch.setattr(batch_loop, "scan_layers", lambda network: None)
    keras_own, loss_of_keras = fit(model, 2, monkeypatch)
    assert loss == pytest.approx(loss_of_keras, rel=1e-5)
    for weight, other in zip(own.get_weights(), keras_own.get_weights(), strict=True):
        # Adam turns the rounding of a gradient of 0, as of the bias below a softmax, into a small step
        np.testing.assert_allclose(weight, other, atol=1e-5)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_parts_scale_the_loss_of_mixed_precision(cell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small gradients underflow in float16, so the loss is multiplied by a scale that the optimizer divides by."""
    model = ModelConfig.model_validate({"cell": cell, "encoder": {"widths": [6]}})
    devices.prepare(0, mixed_precision=True)
    try:
        moments = [
            max(
                float(np.abs(variable.numpy()).max())
                for variable in fitted.optimizer.variables
                if "momentum" in variable.path
            )
            for fitted, _ in (fit(model, parts, monkeypatch) for parts in (1, 4))
        ]
    finally:
        devices.prepare(0, mixed_precision=False)
    assert moments[1] == pytest.approx(moments[0], rel=0.05)


def test_each_part_and_step_draws_its_own_dropout_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    """With rows that are all alike, parts with the same masks would have the gradient of one part."""
    monkeypatch.setattr(networks, "plan_steps", lambda size, steps, carries_states: StepPlan(size, 2, is_compiled=True))
    encoder = {"widths": [6], "dropout": 0.5, "recurrent_dropout": 0.5}
    model = ModelConfig.model_validate({"cell": "gru", "encoder": encoder})
    network = build_model(model, SHAPE, 0)
    generators = [variable for variable in network.non_trainable_variables if variable.name == "seed_generator_state"]
    before = [generator.numpy() for generator in generators]
    # too small a rate to change the weights
    compiled = compile_network(network, model, FitConfig(learning_rate=1e-30), Batches(4, 1))
    losses = []
    for rows in ([1, 1, 0, 0], [0, 0, 1, 1], [1, 1, 1, 1]):
        for generator, state in zip(generators, before, strict=True):
            generator.assign(state)
        weights = np.array(rows, np.float32)
        inputs, targets = np.ones((4, 12, 1), np.float32), np.ones((4, 3), np.float32)
        losses.append(fit_batches(compiled, 4, [inputs], targets, weights))
    first, second, both = losses
    assert first + second == pytest.approx(both, rel=1e-5)
    assert abs(first - second) > 1e-3 * both
    assert fit_batches(compiled, 4, [inputs], targets, weights) != pytest.approx(both, rel=1e-4)
    # two steps since the last reset; a recurrent layer draws a mask for each of its three gates
    assert [generator.numpy().tolist() for generator in generators] == [
        [seed, 2 * draws] for (seed, _), draws in zip(before, (3, 1), strict=True)
    ]


def test_batches_have_equal_parts_of_at_least_32_rows_in_long_fits() -> None:
    sizes = (1, 32, 63, 64, 96, 100, 127, 256, 1000, 4096)
    plans = [plan_steps(size, 10_000, carries_states=False) for size in sizes]
    assert [plan.parts for plan in plans] == [1, 1, 1, 2, 3, 2, 1, 4, 4, 4]
    assert all(plan.is_compiled for plan in plans)
    # a state belongs to its place in the batch
    assert plan_steps(64, 10_000, carries_states=True) == StepPlan(64, 1, is_compiled=True)
    # a compilation would take longer than the fit
    assert plan_steps(64, 100, carries_states=False) == StepPlan(64, 1, is_compiled=False)

"""Networks: shapes, causality, seeds, and a served graph that gives the network's forecasts."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from forecaster.data.preprocessing import Preprocessing
from forecaster.domain.config import build_config
from forecaster.domain.errors import ParityError, TrainingError
from forecaster.domain.series import Inputs
from forecaster.models.cells import CELLS
from forecaster.models.network import ModelConfig, build_model, forecast_parameters
from forecaster.models.shape import NetworkShape
from forecaster.models.trained import TrainedNetwork, network_inputs
from forecaster.training.export import check_parity
from forecaster.training.networks import loss_of

INPUT_SIZE, HORIZON = 20, 5
TRANSFORMS = [
    [], ["standardize"], ["min_max"], ["log", "last_value", "standardize"], ["difference", "standardize"], ["mean_std"],
]  # fmt: skip
TOPOLOGIES = ("many_to_one", "many_to_many")


def _config(topology: str, cell: str, widths: tuple[int, ...] = (6, 5), dropout: float = 0.0) -> ModelConfig:
    """Return a configuration with the keys of earlier releases."""
    raw: dict[str, Any] = {"topology": topology, "cell": cell, "widths": widths, "dropout": dropout}
    return ModelConfig.model_validate(raw)


def _trained(topology: str, cell: str, kinds: Sequence[str | tuple[str, Any]], inputs: Inputs) -> TrainedNetwork:
    config = _config(topology, cell)
    is_causal = config.decoder.answers_each_step
    hist, known = inputs.values.shape[2] - 1, 0 if inputs.known is None else inputs.known.shape[2]
    steps = [{"kind": kind} if isinstance(kind, str) else {"kind": kind[0], **kind[1]} for kind in kinds]
    raw = {
        "target": {"steps": steps, "is_causal": is_causal},
        "hist": [{"steps": [{"kind": "mean_std"}], "is_causal": is_causal}] * hist,
        "known": [{}] * known,
    }
    preprocessing = build_config(raw, Preprocessing, "test").fit(lambda: [inputs])
    shape = NetworkShape(INPUT_SIZE, HORIZON, 1 + hist, known)
    model = build_model(config, shape, seed=3)
    random = np.random.default_rng(0)
    model.set_weights([weight + random.normal(0, 0.3, weight.shape) for weight in model.get_weights()])
    return TrainedNetwork(model, config, shape, preprocessing)


def _with_exogenous(values: np.ndarray) -> Inputs:
    """Return windows with two `hist_exog` columns beside the target, and three columns known ahead."""
    random = np.random.default_rng(7)
    hist = random.uniform(1, 9, (*values.shape, 2))
    known = random.uniform(-5, 5, (len(values), INPUT_SIZE + HORIZON, 3))
    return Inputs(np.concatenate([values[:, :, None], hist], axis=2), known)


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("cell", CELLS)
def test_output_shape_follows_the_topology(topology: str, cell: str) -> None:
    model = build_model(_config(topology, cell), NetworkShape(INPUT_SIZE, HORIZON, values=2))
    assert model.input_shape == (None, INPUT_SIZE, 2)
    each_step = (INPUT_SIZE,) if topology == "many_to_many" else ()
    assert model.output_shape == (None, *each_step, HORIZON, 1)


@pytest.mark.parametrize("kinds", TRANSFORMS, ids="-".join)
def test_many_to_many_output_ignores_later_steps(kinds: list[str]) -> None:
    inputs = _with_exogenous(np.random.default_rng(1).uniform(0.5, 1.5, (8, INPUT_SIZE)))
    assert inputs.known is not None
    trained = _trained("many_to_many", "gru", kinds, inputs)
    values, known = inputs.values.copy(), inputs.known.copy()
    values[:, 12:] *= 1.3
    # the output at step 11 depends on the known values of steps 12 to 16
    known[:, 12 + HORIZON :] += 1

    def every_step(values: np.ndarray, known: np.ndarray) -> np.ndarray:
        prepared, contexts = trained.preprocessing.forward(Inputs(values, known).feeds)
        outputs = np.asarray(trained.model.predict_on_batch(network_inputs(prepared)))[..., 0]
        return np.asarray(trained.preprocessing.target.inverse(outputs.astype(np.float64), contexts))

    before, after = every_step(inputs.values, inputs.known), every_step(values, known)
    np.testing.assert_array_equal(before[:, :12], after[:, :12])
    assert (before[:, 12:] != after[:, 12:]).any()


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("step", range(HORIZON))
def test_forecast_depends_on_the_known_values_of_every_horizon_step(topology: str, step: int) -> None:
    inputs = _with_exogenous(np.random.default_rng(1).uniform(0.5, 1.5, (1, INPUT_SIZE)))
    assert inputs.known is not None
    trained = _trained(topology, "gru", [], inputs)
    known = inputs.known.copy()
    known[:, INPUT_SIZE + step] += 1
    assert (trained.predict(inputs).mean != trained.predict(Inputs(inputs.values, known)).mean).all()


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("kinds", TRANSFORMS, ids="-".join)
def test_served_graph_gives_the_networks_forecasts(topology: str, kinds: list[str]) -> None:
    windows = np.cumsum(np.random.default_rng(2).normal(0, 1, (40, INPUT_SIZE)), axis=1) + 100
    for inputs in (Inputs(windows[:, :, None]), _with_exogenous(windows)):
        trained = _trained(topology, "lstm", kinds, inputs)
        mean = check_parity(trained, trained.trace(), inputs)["mean"]
        assert mean.shape == (40, HORIZON)
        assert mean.dtype == np.float64


def test_served_graph_repeats_the_last_season() -> None:
    windows = Inputs(np.random.default_rng(2).uniform(50, 150, (40, INPUT_SIZE, 1)))
    # shorter than the horizon, and longer
    for season in (3, 12):
        trained = _trained("many_to_one", "lstm", [("log", {}), ("last_season", {"season": season})], windows)
        check_parity(trained, trained.trace(), windows)


def test_parity_check_refuses_a_graph_with_other_forecasts() -> None:
    windows = Inputs(np.random.default_rng(2).uniform(50, 150, (40, INPUT_SIZE, 1)))
    trained = _trained("many_to_one", "lstm", ["standardize"], windows)
    graph = trained.trace()
    head = trained.model.get_layer("head")
    head.set_weights([weight + 0.01 for weight in head.get_weights()])
    with pytest.raises(ParityError, match="nothing was registered"):
        check_parity(trained, graph, windows)


def test_forecast_that_is_not_finite_is_refused() -> None:
    windows = Inputs(np.random.default_rng(2).uniform(50, 150, (40, INPUT_SIZE, 1)))
    trained = _trained("many_to_one", "lstm", ["log", "last_value"], windows)
    kernel, bias = trained.model.get_layer("head").get_weights()
    # its exponential overflows
    trained.model.get_layer("head").set_weights([kernel, bias + 800])
    with pytest.raises(TrainingError, match="forecasts of 40 of 40 windows are not finite; lower fit"):
        check_parity(trained, trained.trace(), windows)


def test_seed_determines_the_weights() -> None:
    first, again, other = (
        build_model(_config("many_to_one", "gru"), NetworkShape(5, 2), seed=seed) for seed in (1, 1, 2)
    )
    for weights, same, different in zip(first.get_weights(), again.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(weights, same)
        assert weights.ndim == 1 or not np.array_equal(weights, different) or not weights.any()


def test_dropout_applies_only_in_training() -> None:
    import keras

    model = build_model(_config("many_to_one", "lstm", dropout=0.5), NetworkShape(5, 2))
    x = [np.ones((4, 5, 1), np.float32)]
    predicted = [keras.ops.convert_to_numpy(model(x, training=False)) for _ in range(2)]
    np.testing.assert_array_equal(*predicted)
    trained = [keras.ops.convert_to_numpy(model(x, training=True)) for _ in range(2)]
    assert not np.array_equal(*trained)


def test_keys_of_earlier_releases_are_read_and_conflicts_refused() -> None:
    raw: dict[str, Any] = {"topology": "many_to_many", "widths": [3], "encoder": {"residual": True}}
    config = ModelConfig.model_validate(raw)
    assert (config.topology, config.encoder.widths, config.encoder.residual) == ("many_to_many", (3,), True)
    for conflict, message in (
        ({"topology": "many_to_one", "decoder": "repeat"}, "topology and decoder set the same"),
        ({"widths": [3], "encoder": {"widths": [4]}}, "widths and encoder.widths set the same"),
        ({"topology": "one_to_many"}, "must be one of many_to_one, many_to_many"),
    ):
        with pytest.raises(ValueError, match=message):
            ModelConfig.model_validate(conflict)


def test_several_members_forecast_the_mean_and_each_learns_by_itself() -> None:
    config = ModelConfig.model_validate({"encoder": {"widths": [6]}, "decoder": "repeat", "members": 3})
    shape, random = NetworkShape(INPUT_SIZE, HORIZON), np.random.default_rng(0)
    joined, single = build_model(config, shape, seed=3), build_model(config.model_copy(update={"members": 1}), shape)
    inputs, actual = random.normal(size=(8, INPUT_SIZE, 1)), random.normal(size=(8, HORIZON))
    outputs, losses = [], []
    for number in range(3):
        for layer in single.layers:
            layer.set_weights(joined.get_layer(f"member_{number}_{layer.name}").get_weights() if layer.weights else [])
        outputs.append(np.asarray(single([inputs])))
        losses.append(np.asarray(loss_of(config.head).call(actual, outputs[-1])))
    assert np.ptp(outputs, axis=0).min() > 0
    parameters = np.asarray(joined([inputs]))
    np.testing.assert_allclose(forecast_parameters(config, parameters), np.mean(outputs, axis=0), atol=1e-6)
    np.testing.assert_allclose(
        loss_of(config.head, members=3).call(actual, parameters), np.mean(losses, axis=0), rtol=1e-5
    )

"""Compile a network for a fit, or reuse a compiled network after resetting its variables.

Compiling a network takes as long as several short fits of it.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from forecaster.training import devices
from forecaster.training.batch_loop import StepPlan, batch_loop, mirrored_loop, plan_steps
from forecaster.training.learning_rates import Constant, learning_rate
from forecaster.training.optimizer import assign_averages, build_optimizer

if TYPE_CHECKING:
    import keras

    from forecaster.models.heads import Head
    from forecaster.models.network import ModelConfig
    from forecaster.models.shape import NetworkShape
    from forecaster.training.fit_config import FitConfig


@dataclass(frozen=True)
class NetworkKey:
    """Everything that determines an untrained, compiled network.

    Args:
        seed: the seed.
        model: its configuration.
        shape: its shape.
        is_masked: whether targets may be missing, which changes its loss.
        batch_size: the size of every batch, if the network keeps its states from batch to batch.
    """

    seed: int
    model: "ModelConfig"
    shape: "NetworkShape"
    is_masked: bool = False
    batch_size: int | None = None


@dataclass(frozen=True)
class Batches:
    """The batches of a fit.

    Args:
        size: the number of rows of each.
        count: their number per epoch.
        per_step: the number of them whose mean gradient a step of the optimizer takes.
    """

    size: int
    count: int
    per_step: int = 1


@dataclass
class NetworkCache:
    """Compiled networks, each with the initial values of its variables.

    Args:
        networks: by network key, fit configuration, plan of a step, and the number of batches per epoch, None if the
            learning rate does not depend on it.
        most: how many networks are kept, the latest; None keeps all.
    """

    networks: dict[tuple[NetworkKey, "FitConfig", StepPlan, int | None], tuple["keras.Model", list[Any]]] = field(
        default_factory=dict
    )
    most: int | None = None


_cache: ContextVar[NetworkCache | None] = ContextVar("network_cache", default=None)


@contextlib.contextmanager
def reuse_networks(most: int | None = None) -> Iterator[NetworkCache]:
    """Compile each network once for all fits in this context, or in calls of the function that this decorates.

    Args:
        most: how many networks are kept, the latest; None keeps all.
    """
    cache = NetworkCache(most=most)
    token = _cache.set(cache)
    try:
        yield cache
    finally:
        _cache.reset(token)


def get_compiled(
    build: Callable[[], "keras.Model"], key: NetworkKey, config: "FitConfig", batches: Batches
) -> "keras.Model":
    """Return an untrained, compiled network.

    Args:
        build: builds the network.
        key: everything that determines the network.
        config: how it will be fitted.
        batches: the batches that it will be fitted on.
    """
    cache = _cache.get()
    if cache is None:
        return compile_network(build(), key.model, config, batches, key.is_masked)
    scheduled = None if config.schedule == Constant() else batches.count
    cache_key = (key, config, _plan(config, batches), scheduled)
    if cache_key not in cache.networks:
        model = compile_network(build(), key.model, config, batches, key.is_masked)
        if cache.most and len(cache.networks) >= cache.most:
            del cache.networks[next(iter(cache.networks))]
        cache.networks[cache_key] = model, [_to_numpy(variable) for variable in variables(model)]
    model, initial = cache.networks[cache_key]
    for variable, value in zip(variables(model), initial, strict=True):
        variable.assign(value)
    return model


def compile_network(
    model: "keras.Model", described: "ModelConfig", config: "FitConfig", batches: Batches, is_masked: bool = False
) -> "keras.Model":
    """Return a network, compiled with its head's loss and its optimizer; it shares the layers of `model`.

    Args:
        model: the network.
        described: its configuration, whose head has its loss.
        config: how it will be fitted.
        batches: the batches that it will be fitted on.
        is_masked: whether targets may be missing.
    """
    rate = learning_rate(config.learning_rate, config.schedule, config.epochs, batches.count)
    optimizer = build_optimizer(config, rate, batches.per_step)
    if devices.is_mirrored():
        model = mirrored_loop(model, batches.size)
    elif devices.is_tensorflow_on_cpu():
        model = batch_loop(model, _plan(config, batches))
    loss = loss_of(described.head, is_masked, described.members)
    model.compile(optimizer, loss, steps_per_execution=devices.steps_per_execution(), jit_compile="auto")
    model.optimizer.build(model.trainable_variables)
    return model


def _plan(config: "FitConfig", batches: Batches) -> StepPlan:
    return plan_steps(batches.size, config.epochs * batches.count, carries_states=config.stateful is not None)


def fit_batches(model: "keras.Model", batch_size: int, inputs: list[Any], targets: Any, weights: Any) -> float:
    """Fit a compiled network on whole batches, in order, and return the mean loss.

    Args:
        model: the compiled network.
        batch_size: the rows of a batch.
        inputs: the network's inputs, `(rows, …)` each; `rows` is a multiple of `batch_size`.
        targets: the targets, `(rows, horizon)` or `(rows, input_size, horizon)`.
        weights: the weights of the losses, `(rows,)` or `(rows, input_size)`; None for 1.
    """
    if hasattr(model, "fit_batches"):
        data = (inputs, targets) if weights is None else (inputs, targets, weights)
        return float(model.fit_batches(*data))
    fitted = model.fit(inputs, targets, batch_size, sample_weight=weights, shuffle=False, verbose=0)
    return float(fitted.history["loss"][0])


@contextlib.contextmanager
def averaged_weights(model: "keras.Model", config: "FitConfig") -> Iterator[None]:
    """Give a compiled network the moving average of its weights in this context, if the fit keeps one."""
    if config.ema_decay is None:
        yield
        return
    own = model.get_weights()
    assign_averages(model)
    try:
        yield
    finally:
        model.set_weights(own)


def loss_of(head: "Head", is_masked: bool = False, members: int = 1) -> "keras.losses.Loss":
    """Return a head's loss: its `call` returns the mean over the horizon, `(batch,)` or `(batch, input_size)`.

    If targets may be missing, the mean is over those that are observed, and 0 if none is. Of several members, the mean
    of their losses: each learns by itself.
    """
    import keras

    ops = keras.ops

    def losses(actual: Any, parameters: Any) -> Any:
        if members == 1:
            return head.losses(actual, parameters)
        return ops.mean(head.losses(actual[..., None], parameters), axis=-1)

    # a class, not a function: Keras squeezes a last axis of size 1 before it calls a loss function
    class HeadLoss(keras.losses.Loss):  # type: ignore[misc]
        def call(self, actual: Any, parameters: Any) -> Any:
            return ops.mean(losses(actual, parameters), axis=-1)

    class MaskedLoss(keras.losses.Loss):  # type: ignore[misc]
        def call(self, actual: Any, parameters: Any) -> Any:
            is_missing = ops.isnan(actual)
            # replaced before the errors are computed: the gradient of a NaN error is NaN, even if the error is masked
            errors = losses(ops.where(is_missing, ops.zeros_like(actual), actual), parameters)
            observed = ops.sum(ops.where(is_missing, ops.zeros_like(errors), errors), axis=-1)
            count = ops.sum(ops.cast(ops.logical_not(is_missing), errors.dtype), axis=-1)
            return observed / ops.maximum(count, 1)

    return MaskedLoss() if is_masked else HeadLoss()


def release() -> None:
    """Free the memory of networks that are no longer used: Keras keeps some of it."""
    if "keras" in sys.modules:
        import keras

        keras.backend.clear_session()


def variables(model: "keras.Model") -> list[Any]:
    """Return all variables of a compiled network: weights, dropout seeds, and the optimizer's variables."""
    return [*model.variables, *model.optimizer.variables]


def _to_numpy(variable: Any) -> Any:
    import keras

    return keras.ops.convert_to_numpy(variable).copy()

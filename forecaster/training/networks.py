"""Where a fit gets its network: built and compiled for it, or, while several alike are fitted, set back to its start.

To trace and compile a network takes as long as several short fits of it.
"""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from forecaster.training import devices

if TYPE_CHECKING:
    import keras

    from forecaster.models.network import ModelConfig
    from forecaster.training.fit import FitConfig


@dataclass(frozen=True)
class Decides:
    """What an untrained network depends on: the seed, which network, and the lengths and columns that shape it."""

    seed: int
    model: "ModelConfig"
    shape: tuple[object, ...]


@dataclass
class Reused:
    """Compiled networks, each with the values of its variables before any fit.

    Args:
        networks: by what decides them, how they are fitted, and on how many batches an epoch.
    """

    networks: dict[tuple[Decides, "FitConfig", int], tuple["keras.Model", list[Any]]] = field(default_factory=dict)


_reused: ContextVar[Reused | None] = ContextVar("reused", default=None)


@contextlib.contextmanager
def reused() -> Iterator[Reused]:
    """Compile each network once for all fits in this context."""
    kept = Reused()
    token = _reused.set(kept)
    try:
        yield kept
    finally:
        _reused.reset(token)


def compiled(
    build: Callable[[], "keras.Model"], decides: Decides, config: "FitConfig", n_windows: int
) -> "keras.Model":
    """Return an untrained network, compiled.

    Args:
        build: makes it.
        decides: all that it depends on.
        config: how it will be fitted.
        n_windows: on how many windows.
    """
    kept, batches = _reused.get(), n_windows // min(config.batch_size, n_windows)
    if kept is None:
        return compile_network(build(), config, batches)
    key = (decides, config, batches)
    if key not in kept.networks or not devices.are_shared_by_networks():
        model = compile_network(build(), config, batches)
        kept.networks[key] = model, [_array(variable) for variable in variables(model)]
    model, start = kept.networks[key]
    for variable, value in zip(variables(model), start, strict=True):
        variable.assign(value)
    return model


def compile_network(model: "keras.Model", config: "FitConfig", batches: int) -> "keras.Model":
    """Return a network with its loss and its optimizer, for `batches` batches an epoch."""
    import keras

    rate: Any = config.learning_rate
    if config.schedule == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(config.learning_rate, config.epochs * batches)
    optimizer = keras.optimizers.Adam(rate, global_clipnorm=config.clip_norm)
    model.compile(optimizer, config.loss, steps_per_execution=devices.steps_per_execution(batches), jit_compile="auto")
    model.optimizer.build(model.trainable_variables)
    return model


def variables(model: "keras.Model") -> list[Any]:
    """Return every variable of a compiled network: weights, the dropout masks' seeds, and the optimizer's."""
    return [*model.variables, *model.optimizer.variables]


def _array(variable: Any) -> Any:
    import keras

    return keras.ops.convert_to_numpy(variable).copy()

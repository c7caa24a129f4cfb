"""Fit a network on many batches in one call of TensorFlow, and share each batch among processor cores or GPUs.

Keras' own `fit` builds a data pipeline in each call, which takes longer than a short epoch. XLA runs the loop of a
recurrent layer on a single core; so the rows of a batch are split into equal parts, whose gradients are computed side
by side and averaged. The number of parts depends on the recipe and its number of windows, not on the machine: the same
training gives the same weights on any number of cores.

On several GPUs each computes an equal part. Keras' own `fit` would clip the gradient of each part and not that of the
batch, and fails there with several steps per call.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from forecaster.training.scan import scan_layers

if TYPE_CHECKING:
    import keras

# smaller parts cost more than they gain
_LEAST_ROWS, _MOST_PARTS = 32, 4
# a compilation takes two seconds of a core, and saves some milliseconds of each step
_LEAST_STEPS = 500
# the variable of a layer that draws dropout masks
_GENERATOR = "seed_generator_state"


@dataclass(frozen=True)
class StepPlan:
    """How a step of the optimizer reads its batch.

    Args:
        size: the rows of each batch.
        parts: the number of equal parts of a batch; if it is above 1, layers may not carry states.
        is_compiled: whether XLA compiles a step; parts of a batch are always compiled.
    """

    size: int
    parts: int
    is_compiled: bool


def plan_steps(size: int, steps: int, *, carries_states: bool) -> StepPlan:
    """Return the plan for each step of a fit.

    Args:
        size: the rows of a batch.
        steps: the number of steps; a short fit is not compiled, and its batches stay whole.
        carries_states: whether layers carry states from batch to batch, which belong to the rows of a whole batch.
    """
    is_compiled = steps >= _LEAST_STEPS
    most = min(_MOST_PARTS, size // _LEAST_ROWS) if is_compiled and not carries_states else 1
    return StepPlan(size, max((parts for parts in range(1, most + 1) if size % parts == 0), default=1), is_compiled)


def batch_loop(model: "keras.Model", plan: StepPlan) -> "keras.Model":
    """Return a network with the layers and variables of `model`, whose method `fit_batches` is a faster `fit`.

    It is for TensorFlow on processors. Sharing a batch is synchronous data parallelism; Goyal et al. (2017), arXiv
    1706.02677, section 3: the mean of the gradients of equal parts is the gradient of the batch.
    """
    if plan.is_compiled:
        scan_layers(model)
    loop = _loop_class(plan) if plan.parts == 1 else _shared_class(plan)
    return loop(model.inputs, model.outputs, name=model.name)


def mirrored_loop(model: "keras.Model", size: int) -> "keras.Model":
    """Return what `batch_loop` returns, for the scope of a `MirroredStrategy`: each device takes an equal part.

    Args:
        model: a network that was built in the scope.
        size: the rows of a batch, a multiple of the number of devices.
    """
    loop = _mirrored_class(StepPlan(size, 1, is_compiled=False))
    return loop(model.inputs, model.outputs, name=model.name)


def _loop_class(plan: StepPlan) -> Any:
    import keras
    import tensorflow as tf

    class BatchLoop(keras.Model):  # type: ignore[misc]
        _fit_all: Any = None

        def fit_batches(self, *data: Any) -> float:
            """Take a step for each batch of inputs, targets and weights, `(rows, …)`; return the mean loss."""
            self.reset_metrics()
            batches = tf.nest.map_structure(lambda array: array.reshape(-1, plan.size, *array.shape[1:]), data)
            if not self._fit_all:
                # of any number of batches, so that it is traced once
                specs = tf.nest.map_structure(
                    lambda array: tf.TensorSpec((None, *array.shape[1:]), array.dtype), batches
                )
                self._fit_all = tf.function(self._fit_each, input_signature=[specs])
            return float(self._fit_all(batches))

        def _fit_each(self, batches: Any) -> Any:
            loss = 0.0
            for number in tf.range(tf.shape(batches[1])[0]):
                loss = self._step(tf.nest.map_structure(lambda array, number=number: array[number], batches))
            return loss

        @tf.function(jit_compile=plan.is_compiled)  # type: ignore[untyped-decorator]
        def _step(self, batch: Any) -> Any:
            with _philox_masks():
                return self.train_step(batch)["loss"]

    return BatchLoop


@contextlib.contextmanager
def _philox_masks() -> Iterator[None]:
    """Let a step that is traced here draw its dropout masks by Philox; XLA's default takes 40 times as long.

    Keras does not pass the choice of the generator on to TensorFlow.
    """
    from tensorflow.nn import experimental

    original = experimental.stateless_dropout
    experimental.stateless_dropout = partial(original, rng_alg="philox")
    try:
        yield
    finally:
        experimental.stateless_dropout = original


def _parts_class(plan: StepPlan) -> Any:
    import keras
    import tensorflow as tf

    class BatchParts(_loop_class(plan)):  # type: ignore[misc]
        def _gradients(self, batch: Any, seeds: list[Any]) -> tuple[Any, list[Any], list[Any]]:
            """Return a part's loss, its gradients, and the states of the generators after drawing from `seeds`."""
            inputs, targets, weights = keras.utils.unpack_x_y_sample_weight(batch)
            # drawing a dropout mask changes the layer's generator, and parts that change the same variable would wait
            # for each other; in this scope, each part has states of its own
            states = list(zip(self._generators, seeds, strict=True))
            with keras.StatelessScope(states) as scope, tf.GradientTape() as tape, _philox_masks():
                loss = self.compute_loss(inputs, targets, self(inputs, training=True), weights)
                # mixed precision's optimizer divides the gradients by this scale
                scaled = self.optimizer.scale_loss(loss)
            drawn = [scope.get_current_value(generator) for generator in self._generators]
            return loss, tape.gradient(scaled, self.trainable_weights), drawn

        def _advance(self, seeds: Any) -> None:
            """Set the generators to their states after a step."""
            for generator, seed in zip(self._generators, seeds, strict=True):
                generator.assign(seed)

        @property
        def _generators(self) -> list[Any]:
            return [variable for variable in self.non_trainable_variables if variable.name == _GENERATOR]

        def _seeds(self, part: Any) -> list[Any]:
            """Return the generators' states for a part of the batch, which count up from far apart."""
            apart = np.array([0, 1 << 28])
            return [generator.value + apart * part for generator in self._generators]

    return BatchParts


def _shared_class(plan: StepPlan) -> Any:
    import tensorflow as tf

    class SharedBatches(_parts_class(plan)):  # type: ignore[misc]
        def _step(self, batch: Any) -> Any:
            pieces = [tf.split(array, plan.parts) for array in tf.nest.flatten(batch)]
            results = [
                self._gradients(tf.nest.pack_sequence_as(batch, piece), self._seeds(number))
                for number, piece in enumerate(zip(*pieces, strict=True))
            ]
            losses, gradients, (seeds, *_) = zip(*results, strict=True)
            self._advance(seeds)
            self._apply([tf.add_n(each) / plan.parts for each in zip(*gradients, strict=True)])
            self._loss_tracker.update_state(tf.add_n(losses) / plan.parts)
            return self._loss_tracker.result()

        # compiled by itself: the operations of a single program do not run side by side
        @tf.function(jit_compile=True)  # type: ignore[untyped-decorator]
        def _gradients(self, batch: Any, seeds: list[Any]) -> Any:
            return super()._gradients(batch, seeds)

        @tf.function(jit_compile=True)  # type: ignore[untyped-decorator]
        def _apply(self, gradients: list[Any]) -> None:
            self.optimizer.apply(gradients, self.trainable_weights)

    return SharedBatches


def _mirrored_class(plan: StepPlan) -> Any:
    import tensorflow as tf

    class MirroredBatches(_parts_class(plan)):  # type: ignore[misc]
        def _step(self, batch: Any) -> Any:
            drawn = self.distribute_strategy.run(self._step_of_device, (batch,))
            self._advance([self.distribute_strategy.experimental_local_results(seeds)[0] for seeds in drawn])
            return self._loss_tracker.result()

        def _step_of_device(self, batch: Any) -> Any:
            """Take a device's part in a step; return the states of the generators after it."""
            device = tf.distribute.get_replica_context()
            number, count = device.replica_id_in_sync_group, device.num_replicas_in_sync
            part = tf.nest.map_structure(lambda array: tf.stack(tf.split(array, count))[number], batch)
            loss, gradients, drawn = self._gradients(part, self._seeds(tf.cast(number, tf.int64)))
            # Keras divides a loss by the number of devices, so that the sum is the gradient of the batch
            sums = device.all_reduce("SUM", [tf.convert_to_tensor(gradient) for gradient in gradients])
            # the optimizer clips what each device gives it, and adds up the results: only the first has a gradient
            is_first = tf.equal(number, 0)
            self.optimizer.apply(
                [tf.where(is_first, gradient, tf.zeros_like(gradient)) for gradient in sums], self.trainable_weights
            )
            self._loss_tracker.update_state(loss * count)
            return drawn

    return MirroredBatches

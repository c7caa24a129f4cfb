"""The optimizer of all fits: Adam, which counts the steps whose gradient it clips and may average the weights."""

from typing import TYPE_CHECKING, Any

from forecaster.training.fit_config import FitConfig

if TYPE_CHECKING:
    import keras


def build_optimizer(config: FitConfig, rate: Any, per_step: int) -> "keras.optimizers.Optimizer":
    """Return an optimizer; Kingma & Ba (2015), arXiv 1412.6980, algorithm 1.

    Args:
        config: how it clips and averages.
        rate: the learning rate, a number or a schedule.
        per_step: the number of batches whose mean gradient a step takes.
    """
    return _adam_class()(
        rate,
        global_clipnorm=config.clip_norm,
        gradient_accumulation_steps=per_step if per_step > 1 else None,
        use_ema=config.ema_decay is not None,
        ema_momentum=config.ema_decay or 0.0,
    )


def clipped_steps(model: "keras.Model") -> float:
    """Return the number of batches so far whose gradient was longer than `clip_norm`."""
    import keras

    return float(keras.ops.convert_to_numpy(_own(model).clipped))


def assign_averages(model: "keras.Model") -> None:
    """Replace the weights of a compiled network by their moving average."""
    _own(model).assign_averages(model.trainable_variables)


def _own(model: "keras.Model") -> Any:
    # mixed precision wraps the optimizer
    return getattr(model.optimizer, "inner_optimizer", model.optimizer)


def _adam_class() -> Any:
    import keras

    ops = keras.ops

    class Adam(keras.optimizers.Adam):  # type: ignore[misc]
        def build(self, variables: Any) -> None:
            super().build(variables)
            # devices that share a batch all have its gradient
            self.clipped = self.add_variable((), name="clipped", aggregation="only_first_replica")

        def apply(self, grads: Any, trainable_variables: Any = None) -> None:
            norm = ops.sqrt(sum(ops.sum(ops.square(ops.cast(each, "float32"))) for each in grads if each is not None))
            self.clipped.assign_add(ops.cast(norm > self.global_clipnorm, self.clipped.dtype))
            super().apply(grads, trainable_variables)

        def finalize_variable_values(self, var_list: Any) -> None:
            """Leave the weights as they are: after each `fit`, Keras would replace them by their average."""

        def assign_averages(self, weights: Any) -> None:
            super().finalize_variable_values(weights)
            for weight in weights:
                # JAX deletes the array of a weight that a call replaces, which its average must not share
                weight.assign(ops.copy(weight))

    return Adam

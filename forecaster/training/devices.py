"""Set up Keras on the available devices. Only this module and `batch_loop` may name a backend."""

import contextlib
import functools
import logging
import os
import random
from collections.abc import Iterator
from typing import Any

# loaded before TensorFlow, whose own libcurl would take the place of curl_cffi's and break requests to Yahoo
import curl_cffi  # noqa: F401

_log = logging.getLogger("forecaster.training")


def prepare(seed: int, mixed_precision: bool) -> None:
    """Seed all random generators, make operations deterministic and set the precision; call before building a model."""
    import keras

    # Keras seeds from Python's generator what has no seed of its own. `keras.utils.set_random_seed` would also seed
    # generators that Keras does not use, and so make TensorFlow forget its kernels, which costs each fit 0.2 s.
    random.seed(seed)
    keras.config.set_dtype_policy("mixed_float16" if mixed_precision else "float32")
    if keras.backend.backend() == "tensorflow":
        import tensorflow

        tensorflow.config.experimental.enable_op_determinism()


def accelerators() -> list[str]:
    """Return the names of this machine's GPUs."""
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow

        return [gpu.name for gpu in tensorflow.config.list_logical_devices("GPU")]
    # asked for GPUs, JAX fails where there is none; without a kind, it lists the fastest kind of device there is
    return [name for name in keras.distribution.list_devices() if not name.startswith("cpu")]


def count_of(rows: int, most: int) -> int:
    """Return how many of `most` devices can take equal shares of `rows` rows.

    Only the mean of the gradients of equal shares is the gradient of all rows.
    """
    return max((count for count in range(1, most + 1) if rows % count == 0), default=1)


@contextlib.contextmanager
def all_devices(rows: int) -> Iterator[int]:
    """Enter the scope in which a model is built on several GPUs; yield how many share a batch.

    Args:
        rows: the rows of a batch that may be shared.
    """
    import keras

    names = accelerators()
    count = count_of(rows, len(names))
    if len(names) > 1:
        _log.info("%d of %d GPUs share each batch of %d rows", count, len(names), rows)
    if count == 1:
        yield 1
        return
    if keras.backend.backend() == "tensorflow":
        shared = _mirrored(tuple(names[:count]))
    else:
        shared = keras.distribution.DataParallel(devices=names[:count])
    with shared.scope():
        yield count


@functools.cache
def _mirrored(names: tuple[str, ...]) -> Any:
    """Return the strategy for these GPUs, always the same one, so that the networks in its scope can be reused."""
    import tensorflow

    # the collective operations of two strategies in a process, on other GPUs, are taken for each other
    sums = tensorflow.distribute.ReductionToOneDevice()
    return tensorflow.distribute.MirroredStrategy(names, cross_device_ops=sums)


def is_mirrored() -> bool:
    """Return whether TensorFlow shares each batch among several GPUs."""
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow

        return bool(tensorflow.distribute.has_strategy())
    return False


def is_tensorflow_on_cpu() -> bool:
    """Return whether TensorFlow trains on processors."""
    import keras

    return keras.backend.backend() == "tensorflow" and not accelerators()


def describe() -> dict[str, str]:
    """Return the backend, the devices and the number of CPUs, as tags for a run."""
    import keras

    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow

        names = [device.name for device in tensorflow.config.list_logical_devices()]
    else:
        names = keras.distribution.list_devices()
    return {"backend": backend, "devices": ", ".join(names), "cpus": str(os.cpu_count())}


def steps_per_execution() -> int:
    """Return how many batches to run per call into the backend; 1 on JAX, which would compile them for minutes."""
    import keras

    return 25 if keras.backend.backend() == "tensorflow" else 1

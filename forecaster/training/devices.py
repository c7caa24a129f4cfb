"""Set up Keras on the available devices. Only this module and `batch_loop` may name a backend."""

import contextlib
import os
import random
from collections.abc import Iterator

# loaded before TensorFlow, whose own libcurl would take the place of curl_cffi's and break requests to Yahoo
import curl_cffi  # noqa: F401


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


@contextlib.contextmanager
def all_devices() -> Iterator[int]:
    """Enter the scope in which a model is built on all available GPUs; yield how many devices share a batch."""
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow

        gpus = tensorflow.config.list_logical_devices("GPU")
        if len(gpus) > 1:
            strategy = tensorflow.distribute.MirroredStrategy([gpu.name for gpu in gpus])
            with strategy.scope():
                yield len(gpus)
            return
    elif len(keras.distribution.list_devices("gpu")) > 1:
        devices = keras.distribution.list_devices("gpu")
        distribution = keras.distribution.DataParallel(devices=devices)
        with distribution.scope():
            yield len(devices)
        return
    yield 1


def can_reuse_networks() -> bool:
    """Return whether an existing network can be fitted here: a network belongs to the GPU scope it was built in."""
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow

        return not tensorflow.distribute.has_strategy()
    return True


def is_tensorflow_on_cpu() -> bool:
    """Return whether TensorFlow trains on processors, on a single device."""
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow

        return not (tensorflow.distribute.has_strategy() or tensorflow.config.list_logical_devices("GPU"))
    return False


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

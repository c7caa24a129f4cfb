"""From a fitted network to a bundle on disk, whose graph is first proven to answer as the network does."""

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from forecaster.data.preprocessing import Preprocessing
from forecaster.data.windows import Windows
from forecaster.domain.errors import BundleError, ParityError, WorkspaceError
from forecaster.domain.manifest import CALIBRATION, GOLDEN, HASHED_FILES, KERAS_MODEL, MANIFEST, MODEL, Manifest
from forecaster.domain.series import Floats, Inputs
from forecaster.evaluation.conformal import Calibration
from forecaster.models.network import ModelConfig, trace_forecast
from forecaster.models.topologies import TOPOLOGIES
from forecaster.registry.bundle import GOLDEN_TOLERANCE, read_bundle, window_scale, write_json
from forecaster.registry.files import hash_file
from forecaster.training.fit import predict_raw

if TYPE_CHECKING:
    import keras
    import onnx

GOLDEN_WINDOWS = 8
# what fits a processor's cache
_BATCH = 256
_LIBRARIES = ("keras", "mlflow", "ndonnx", "numpy", "onnx", "onnxruntime", "spox", "tensorflow")


@dataclass(frozen=True)
class Trained:
    """A fitted network with all that a forecast needs: float32 weights, its declaration, fitted transforms."""

    model: "keras.Model"
    config: ModelConfig
    preprocessing: Preprocessing

    def predict(self, inputs: Inputs) -> Floats:
        """Return raw forecasts `(n, horizon)` for raw inputs."""
        return predict_raw(self.model, self.preprocessing, TOPOLOGIES[self.config.topology], inputs)

    def forecast(self, windows: Windows) -> Floats:
        """Return raw forecasts `(n, horizon)` of every window, as the served graph makes them, in bounded memory.

        The graph is three times as fast as the network on a processor.
        """
        feeds = (windows.inputs(index).feeds for index in windows.chunks(_BATCH))
        return np.concatenate([np.asarray(self.session.run(None, batch)[0]) for batch in feeds])

    @cached_property
    def session(self) -> Any:
        """Return an ONNX Runtime session of the served graph."""
        return open_session(self.trace(int(self.model.inputs[0].shape[1])))

    def trace(self, input_size: int) -> "onnx.ModelProto":
        """Return the graph that serves it."""
        horizon = self.model.output_shape[-1]
        return trace_forecast(self.model, self.config, self.preprocessing, input_size, horizon)


def write_bundle(
    trained: Trained,
    calibrations: Mapping[str, Calibration],
    promises: Mapping[str, Any],
    inputs: Inputs,
    folder: Path,
) -> Manifest:
    """Write a bundle into `folder`, which must not exist; nothing is left there if it fails.

    Args:
        trained: the network to serve.
        calibrations: the residuals of its recipe, `model`, and of the baseline.
        promises: the manifest's fields that are not about files.
        inputs: raw windows on which parity is proven; some become the golden inputs.
        folder: where to write.

    Raises:
        ParityError: the graph and the network differ by more than `GOLDEN_TOLERANCE` of a window's scale.
        BundleError: the files cannot be written, or would not be read again.
    """
    graph = trained.trace(inputs.values.shape[1])
    mean = check_parity(trained, graph, inputs)
    golden = np.linspace(0, len(inputs) - 1, min(len(inputs), GOLDEN_WINDOWS)).astype(np.int64)
    try:
        _save_onnx(graph, folder, inputs, mean)
        trained.model.save(folder / KERAS_MODEL)
        write_json(folder / CALIBRATION, {name: _plain(one) for name, one in calibrations.items()})
        feeds = {name: array.tolist() for name, array in inputs.take(golden).feeds.items()}
        write_json(folder / GOLDEN, {"inputs": feeds, "mean": mean[golden].tolist()})
        manifest = Manifest(
            **promises,
            graphs={"forecast": MODEL},
            libraries={"python": platform.python_version(), **_versions()},
            sha256={name: hash_file(folder / name) for name in HASHED_FILES},
        )
        write_json(folder / MANIFEST, manifest.model_dump())
        # what no service would take is not registered
        read_bundle(folder)
    except BundleError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise WorkspaceError(f"{folder}: the bundle cannot be written ({error}); free space, start again") from error
    except ValueError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise BundleError(f"{folder}: the bundle cannot be written ({error}); nothing was registered") from error
    return manifest


def check_parity(trained: Trained, graph: "onnx.ModelProto", inputs: Inputs) -> Floats:
    """Return the graph's answers `(n, horizon)` to raw inputs, proven equal to the network's.

    Raises:
        ParityError: they differ, or are not finite.
    """
    mean = np.asarray(open_session(graph).run(None, inputs.feeds)[0])
    worst = float(np.max(np.abs(mean - trained.predict(inputs)) / window_scale(inputs.target, mean)))
    if not worst <= GOLDEN_TOLERANCE:
        raise ParityError(
            f"the exported graph is {worst:.1e} of a window's scale off the trained network "
            f"(limit {GOLDEN_TOLERANCE:g}); nothing was registered; report it with the config"
        )
    return mean


def open_session(graph: "onnx.ModelProto") -> Any:
    """Return an ONNX Runtime session of a graph, on all cores that this process has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    return onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _plain(calibration: Calibration) -> dict[str, Any]:
    return {
        "probabilities": calibration.probabilities.tolist(),
        "residuals": calibration.residuals.tolist(),
        "n_windows": calibration.n_windows,
        "n_effective": calibration.n_effective,
        "is_adaptive": calibration.is_adaptive,
        **asdict(calibration.unit),
    }


def _save_onnx(graph: "onnx.ModelProto", folder: Path, inputs: Inputs, mean: Floats) -> None:
    import mlflow.onnx
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    double = np.dtype(np.float64)
    mlflow.onnx.save_model(
        graph,
        str(folder),
        signature=ModelSignature(
            Schema([TensorSpec(double, (-1, *array.shape[1:]), name) for name, array in inputs.feeds.items()]),
            Schema([TensorSpec(double, (-1, mean.shape[1]), "mean")]),
        ),
        # without this list MLflow spends 15 s finding out; the names are all that serving it needs
        pip_requirements=[f"{name}=={importlib.metadata.version(name)}" for name in ("mlflow", "onnx", "onnxruntime")],
        # the default adds a file of random name
        save_as_external_data=False,
    )


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in _LIBRARIES}

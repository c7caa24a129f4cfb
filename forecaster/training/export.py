"""Export a trained network as a bundle, after checking that its graph gives the network's forecasts."""

import importlib
import importlib.metadata
import platform
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from forecaster.domain.errors import BundleError, ParityError, WorkspaceError
from forecaster.domain.manifest import CALIBRATION, GOLDEN, HASHED_FILES, KERAS_MODEL, MANIFEST, MODEL, Manifest
from forecaster.domain.series import Floats, Inputs
from forecaster.evaluation.conformal import Calibration
from forecaster.models.trained import TrainedNetwork, check_finite, open_session
from forecaster.registry.bundle import GOLDEN_TOLERANCE, largest_difference, read_bundle, write_json
from forecaster.registry.files import hash_file

if TYPE_CHECKING:
    import onnx

GOLDEN_WINDOWS = 8
_LIBRARIES = ("keras", "mlflow", "ndonnx", "numpy", "onnx", "onnxruntime", "spox")


def write_bundle(
    trained: TrainedNetwork,
    calibrations: Mapping[str, Calibration],
    fields: Mapping[str, Any],
    inputs: Inputs,
    folder: Path,
) -> Manifest:
    """Write a bundle into `folder`, which must not exist; remove the folder again on failure.

    Args:
        trained: the network to serve.
        calibrations: the calibrations of its recipe (`model`) and of the baseline (`naive`).
        fields: the manifest's fields that do not describe files.
        inputs: raw windows for the parity check; some become the golden inputs.
        folder: where to write.

    Raises:
        ParityError: the graph and the network differ by more than `GOLDEN_TOLERANCE` of a window's scale.
        TrainingError: a forecast is not finite.
        BundleError: a value cannot be written as JSON, or `read_bundle` refuses the bundle.
        WorkspaceError: a file cannot be written.
    """
    graph = trained.trace()
    outputs = check_parity(trained, graph, inputs)
    golden = np.linspace(0, len(inputs) - 1, min(len(inputs), GOLDEN_WINDOWS)).astype(np.int64)
    try:
        _save_onnx(graph, folder, inputs, outputs)
        trained.model.save(folder / KERAS_MODEL)
        write_json(folder / CALIBRATION, {name: _as_json(calibration) for name, calibration in calibrations.items()})
        feeds = {name: _with_nulls(array) for name, array in inputs.take(golden).feeds.items()}
        expected = {name: array[golden].tolist() for name, array in outputs.items()}
        write_json(folder / GOLDEN, {"inputs": feeds, "outputs": expected})
        manifest = Manifest(
            **fields,
            graphs={"forecast": MODEL},
            libraries={"python": platform.python_version(), **_versions()},
            sha256={name: hash_file(folder / name) for name in HASHED_FILES},
        )
        write_json(folder / MANIFEST, manifest.model_dump())
        # a bundle that no service would load must not be registered
        read_bundle(folder)
    except BundleError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise WorkspaceError(
            f"{folder}: the bundle cannot be written ({error}); free disk space and start again"
        ) from error
    except ValueError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise BundleError(f"{folder}: the bundle cannot be written ({error}); nothing was registered") from error
    return manifest


def check_parity(trained: TrainedNetwork, graph: "onnx.ModelProto", inputs: Inputs) -> dict[str, Floats]:
    """Return the graph's outputs for raw inputs, after comparing its forecasts with the network's.

    Raises:
        ParityError: the forecasts differ.
        TrainingError: a forecast is not finite.
    """
    session = open_session(graph)
    names = [output.name for output in session.get_outputs()]
    outputs = dict(zip(names, session.run(names, inputs.feeds), strict=True))
    served = trained.config.head.forecasts(outputs, trained.preprocessing.target.needs_positive)
    check_finite(served)
    worst = largest_difference(inputs, served, trained.predict(inputs))
    if not worst <= GOLDEN_TOLERANCE:
        raise ParityError(
            f"the exported graph differs from the trained network by {worst:.1e} of a window's scale "
            f"(limit {GOLDEN_TOLERANCE:g}); nothing was registered; report this with the config"
        )
    return outputs


def _with_nulls(array: Floats) -> Any:
    """Return nested lists with None in place of missing values."""
    plain = array.astype(object)
    plain[np.isnan(array)] = None
    return plain.tolist()


def _as_json(calibration: Calibration) -> dict[str, Any]:
    return {
        "probabilities": calibration.probabilities.tolist(),
        "residuals": calibration.residuals.tolist(),
        "n_windows": calibration.n_windows,
        "n_effective": calibration.n_effective,
        "is_adaptive": calibration.is_adaptive,
        **({} if calibration.templates is None else {"templates": calibration.templates.tolist()}),
        **asdict(calibration.unit),
    }


def _save_onnx(graph: "onnx.ModelProto", folder: Path, inputs: Inputs, outputs: Mapping[str, Floats]) -> None:
    import mlflow.onnx
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    double = np.dtype(np.float64)
    mlflow.onnx.save_model(
        graph,
        str(folder),
        signature=ModelSignature(
            *(
                Schema([TensorSpec(double, (-1, *array.shape[1:]), name) for name, array in tensors.items()])
                for tensors in (inputs.feeds, outputs)
            ),
        ),
        # without this list MLflow takes 15 s to infer it; serving needs only these packages
        pip_requirements=[f"{name}=={importlib.metadata.version(name)}" for name in ("mlflow", "onnx", "onnxruntime")],
        # the default adds a file with a random name
        save_as_external_data=False,
    )


def _versions() -> dict[str, str]:
    import keras

    # TensorFlow is installed as `tensorflow` or as `tensorflow-cpu`
    backend = importlib.import_module(keras.backend.backend())
    return {name: importlib.metadata.version(name) for name in _LIBRARIES} | {backend.__name__: backend.__version__}

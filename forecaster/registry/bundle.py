"""A bundle on disk: read only if it is exactly what its manifest says, so that nothing unknown is ever loaded."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pydantic import ValidationError

from forecaster.domain.errors import BundleError
from forecaster.domain.manifest import CALIBRATION, DOWNLOAD_EXTRAS, GOLDEN, HASHED_FILES, MANIFEST, Manifest
from forecaster.domain.series import Floats, Inputs
from forecaster.evaluation.conformal import SCALES, Calibration

# the ONNX graph computes in float32, whose rounding differs by processor and batch
GOLDEN_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Golden:
    """Inputs, and the means `(n, horizon)` that the exporting process got for them."""

    inputs: Inputs
    mean: Floats

    def check(self, mean: Floats, where: str) -> None:
        """Raise BundleError unless `mean` `(n, horizon)` agrees, relative to each window's scale."""
        scale = window_scale(self.inputs.target, self.mean)
        worst = float(np.max(np.abs(mean - self.mean) / scale))
        if not worst <= GOLDEN_TOLERANCE:
            raise BundleError(
                f"{where}: golden answers are {worst:.1e} of a window's scale off (limit {GOLDEN_TOLERANCE:g}); "
                "export the model again with this version of onnxruntime"
            )


@dataclass(frozen=True)
class Bundle:
    """A verified bundle: its folder, its promises, and its numbers; `baseline` is None before schema version 2."""

    folder: Path
    manifest: Manifest
    calibration: Calibration
    golden: Golden
    baseline: Calibration | None = None

    def graph(self, name: str) -> Path:
        """Return the file of the graph called `name`."""
        return self.folder / self.manifest.graphs[name]


def read_bundle(folder: Path) -> Bundle:
    """Return the bundle in `folder`, every file of it named, hashed and of the expected form.

    Raises:
        BundleError: a file is missing, unknown, changed or malformed, or MLmodel would run code.
    """
    manifest = _read_manifest(folder)
    _check_files(folder, manifest)
    _check_mlmodel(folder)
    raw, golden = _read_json(folder / CALIBRATION), _read_json(folder / GOLDEN)
    try:
        # schema version 1 had the model's alone
        calibrations = {"model": raw} if manifest.schema_version == 1 else raw
        return Bundle(
            folder,
            manifest,
            _calibration(calibrations["model"]),
            Golden(_golden_inputs(golden["inputs"]), np.array(golden["mean"], dtype=np.float64)),
            _calibration(calibrations["naive"]) if "naive" in calibrations else None,
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BundleError(
            f"{folder}: {CALIBRATION} or {GOLDEN} is malformed ({error}); register the model again"
        ) from error


def write_json(path: Path, content: Any) -> None:
    """Write `content` as JSON; NaN and infinity are refused."""
    path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def hash_file(path: Path) -> str:
    """Return a file's SHA-256 as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def window_scale(inputs: Floats, mean: Floats) -> Floats:
    """Return what differences are measured against, `(n, 1)`: each window's range, and where it is flat the usual one.

    Where all windows are flat it is the size of the largest value or forecast.
    """
    spread = np.ptp(inputs, axis=1, keepdims=True)
    size = max(float(np.abs(inputs).max()), float(np.abs(mean).max()), 1e-12)
    usual = float(np.median(spread)) or float(spread.max()) or size
    return np.asarray(np.where(spread > 1e-9 * size, spread, usual))


def _calibration(raw: Any) -> Calibration:
    scale = raw.get("scale", "constant")
    if scale not in SCALES:
        raise ValueError(f"scale {scale!r} is unknown")
    return Calibration(
        np.array(raw["probabilities"], dtype=np.float64),
        np.array(raw["residuals"], dtype=np.float64),
        int(raw["n_windows"]),
        str(scale),
        float(raw.get("least", 1.0)),
    )


def _golden_inputs(raw: Any) -> Inputs:
    # schema version 1 wrote the target alone
    arrays = {"x": np.array(raw)[:, :, None]} if isinstance(raw, list) else raw
    known = arrays.get("known")
    x = np.array(arrays["x"], dtype=np.float64)
    return Inputs(x, None if known is None else np.array(known, dtype=np.float64))


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise BundleError(f"{path}: cannot be read as JSON ({error}); register the model again") from error


def _read_manifest(folder: Path) -> Manifest:
    raw = _read_json(folder / MANIFEST)
    try:
        return Manifest.model_validate(raw)
    except ValidationError as error:
        where = ", ".join(".".join(map(str, mistake["loc"])) for mistake in error.errors())
        raise BundleError(
            f"{folder / MANIFEST}: not a manifest this version reads ({where}); register the model again"
        ) from error


def _check_files(folder: Path, manifest: Manifest) -> None:
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    links = [name for name in found if (folder / name).is_symlink()]
    unknown = sorted(found - {MANIFEST, *HASHED_FILES, *DOWNLOAD_EXTRAS}) + links
    missing = sorted({MANIFEST, *HASHED_FILES} - found)
    if unknown or missing or set(manifest.sha256) != set(HASHED_FILES):
        raise BundleError(f"{folder}: unknown files {unknown}, missing files {missing}; register the model again")
    changed = [name for name, digest in manifest.sha256.items() if hash_file(folder / name) != digest]
    if changed:
        raise BundleError(f"{folder}: {changed} changed since the bundle was written; fetch or register it again")


def _check_mlmodel(folder: Path) -> None:
    described = yaml.safe_load((folder / "MLmodel").read_text(encoding="utf-8"))
    function = described.get("flavors", {}).get("python_function", {})
    if function.get("loader_module") != "mlflow.onnx" or function.get("code") is not None:
        raise BundleError(f"{folder / 'MLmodel'}: asks for code other than MLflow's ONNX loader; do not serve it")

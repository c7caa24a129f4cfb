"""A bundle on disk. It is read only if its files are exactly those of its manifest, so nothing unknown is loaded.

Error messages name files inside the bundle but not its folder, so that they can be shown to any client.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from forecaster.domain.errors import BundleError
from forecaster.domain.manifest import CALIBRATION, GOLDEN, MANIFEST, MAX_JSON_INTEGER, MODEL, Manifest
from forecaster.domain.series import MEAN, Floats, Inputs, X
from forecaster.evaluation.conformal import PROBABILITIES, Calibration
from forecaster.evaluation.forecasts import Forecasts
from forecaster.evaluation.paths import max_templates
from forecaster.evaluation.units import DECAY, SCALES, Unit
from forecaster.models.heads import AnyHead
from forecaster.models.names import ATTENTION
from forecaster.registry.files import check_folder, check_hashes, check_mlmodel, hash_file, read_json
from forecaster.registry.graph import check_graph

# the ONNX graph computes in float32, whose rounding differs by processor and batch
GOLDEN_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Golden:
    """Inputs, and the forecasts that the exporting process computed for them."""

    inputs: Inputs
    forecasts: Forecasts

    def check(self, found: Forecasts) -> None:
        """Raise BundleError if forecasts are too far from the golden ones.

        The limit is `GOLDEN_TOLERANCE` of each window's scale.
        """
        worst = largest_difference(self.inputs, found, self.forecasts)
        if not worst <= GOLDEN_TOLERANCE:
            raise BundleError(
                f"golden forecasts are off by {worst:.1e} of a window's scale (limit {GOLDEN_TOLERANCE:g}); "
                "export the model again with this version of onnxruntime"
            )


@dataclass(frozen=True)
class Bundle:
    """A verified bundle. `baseline` is the calibration of the baseline, None before schema version 2."""

    folder: Path
    manifest: Manifest
    head: AnyHead
    calibration: Calibration
    golden: Golden
    baseline: Calibration | None = None

    @property
    def graph(self) -> Path:
        """Return the file of the forecast graph."""
        return self.folder / self.manifest.graphs["forecast"]


def read_bundle(folder: Path) -> Bundle:
    """Return the bundle in `folder`, after checking every file.

    Raises:
        BundleError: a file is missing, unknown, changed, too large, not regular or malformed, the graph is not one that
            this program exports or contradicts the manifest, or MLmodel would run code.
    """
    try:
        check_folder(folder)
        manifest = _read_manifest(folder)
        check_hashes(folder, manifest.sha256)
        check_mlmodel(folder)
        check_graph((folder / MODEL).read_bytes(), manifest)
        _check_example(manifest)
    except OSError as error:
        raise BundleError(f"its files cannot be read ({error.strerror}); download or register it again") from error
    raw, golden = read_json(folder / CALIBRATION), read_json(folder / GOLDEN)
    try:
        # schema version 1 had only the model's calibration
        calibrations = {"model": raw} if manifest.schema_version == 1 else raw
        head = _head(manifest)
        return Bundle(
            folder,
            manifest,
            head,
            _calibration(calibrations["model"], manifest, has_distribution=head.output is not None),
            _golden(golden, manifest, head),
            _calibration(calibrations["naive"], manifest) if "naive" in calibrations else None,
        )
    except (AttributeError, LookupError, TypeError, ValueError, OverflowError) as error:
        raise BundleError(f"{CALIBRATION} or {GOLDEN} is malformed ({error}); register the model again") from error


def identity(folder: Path) -> str:
    """Return the hash that identifies a verified bundle: its manifest's, since that holds the hashes of all others."""
    return hash_file(folder / MANIFEST)


def write_json(path: Path, content: Any) -> None:
    """Write `content` as JSON; NaN and infinity are refused."""
    path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def window_scale(inputs: Floats, mean: Floats) -> Floats:
    """Return the scale of each window `(n, 1)`: its range, or the median range if the window is constant.

    If all windows are constant, the scale is the largest absolute value or forecast.
    """
    ranges = np.nanmax(inputs, axis=1, keepdims=True) - np.nanmin(inputs, axis=1, keepdims=True)
    largest = max(float(np.nanmax(np.abs(inputs))), float(np.abs(mean).max()), 1e-12)
    usual = float(np.median(ranges)) or float(ranges.max()) or largest
    return np.asarray(np.where(ranges > 1e-9 * largest, ranges, usual))


def largest_difference(inputs: Inputs, found: Forecasts, expected: Forecasts) -> float:
    """Return the largest difference between forecasts of the same inputs, in units of each window's scale.

    A distribution that is wider than its window counts in units of its own width.
    """
    scale = window_scale(inputs.target, expected.mean)
    worst = float(np.max(np.abs(found.mean - expected.mean) / scale))
    if found.offsets is None or expected.offsets is None:
        return worst
    widths = scale[:, :, None] + np.ptp(expected.offsets, axis=2, keepdims=True)
    # unlike `max`, this keeps NaN
    return float(np.maximum(worst, np.max(np.abs(found.offsets - expected.offsets) / widths)))


def _head(manifest: Manifest) -> AnyHead:
    head: AnyHead = TypeAdapter(AnyHead).validate_python(manifest.head)
    expected = head.output_shapes(manifest.horizon)
    if {name: shape for name, shape in manifest.outputs.items() if name != ATTENTION} != expected:
        raise ValueError(f"outputs of a {manifest.head.get('kind')!a} head must be {expected}, besides attention")
    return head


def _check_example(manifest: Manifest) -> None:
    if manifest.example is None:
        return
    n_inputs, n_rows = manifest.input_size, manifest.input_size + manifest.horizon
    lengths = {"ds": n_rows, "y": n_rows}
    lengths |= {f"hist_exog.{name}": n_inputs for name in manifest.hist_exog}
    lengths |= {f"futr_exog.{name}": n_rows for name in manifest.futr_exog}
    lengths |= {f"forecast.{name}": manifest.horizon for name in (MEAN, *manifest.example.forecast)}
    if manifest.example.lengths != lengths:
        raise BundleError(
            f"{MANIFEST}: the columns of example must have the lengths {lengths}, but have {manifest.example.lengths}; "
            "register the model again"
        )


def _calibration(raw: Mapping[str, Any], manifest: Manifest, has_distribution: bool = False) -> Calibration:
    # defaults for bundles of earlier releases: RiskMetrics' decay, no long-run variance, adaptive intervals
    defaults: dict[str, Any] = {"scale": "constant", "decay": DECAY, "pull": 0.0, "long_run": 0.0, "least": 1.0}
    fields = defaults | {"n_effective": raw["n_windows"], "is_adaptive": True} | dict(raw)
    unit = Unit(str(fields["scale"]), *(float(fields[name]) for name in ("decay", "pull", "long_run", "least")))
    calibration = Calibration(
        np.array(raw["probabilities"], dtype=np.float64),
        np.array(raw["residuals"], dtype=np.float64),
        int(raw["n_windows"]),
        float(fields["n_effective"]),
        unit,
        is_adaptive=bool(fields["is_adaptive"]),
        templates=_templates(raw["templates"], manifest.horizon) if "templates" in raw else None,
        support=manifest.support,
    )
    grid, residuals = calibration.probabilities, calibration.residuals
    if grid.ndim != 1 or not len(grid) or not (np.diff(grid, prepend=0, append=1) > 0).all():
        raise ValueError("probabilities must increase between 0 and 1")
    if not np.allclose(grid + grid[::-1], 1):
        raise ValueError("probabilities must be symmetric around 0.5")
    if residuals.shape != (manifest.horizon, len(grid)):
        raise ValueError(f"residuals must have {manifest.horizon} rows and {len(grid)} columns")
    # the quantiles of a distribution are moved by residuals of their own, which need not increase
    if not np.isfinite(residuals).all() or (not has_distribution and (np.diff(residuals) < 0).any()):
        raise ValueError("residuals must be finite and increase with the probabilities")
    if has_distribution and not set(grid.tolist()) <= set(PROBABILITIES):
        raise ValueError(f"probabilities must be among {PROBABILITIES}")
    if not 1 <= calibration.n_windows < MAX_JSON_INTEGER or not 0 < calibration.n_effective <= calibration.n_windows:
        raise ValueError("n_windows must be between 1 and 2**53, and n_effective between 0 and n_windows")
    _check_unit(unit, manifest)
    return calibration


def _templates(raw: Any, horizon: int) -> NDArray[np.int64]:
    templates, most = np.array(raw), max_templates(horizon)
    if templates.dtype.kind != "i" or templates.ndim != 2 or templates.shape[1] != horizon:
        raise ValueError(f"templates must be whole numbers in {horizon} columns")
    if not 1 <= len(templates) <= most or templates.min() < 0 or templates.max() >= len(templates):
        raise ValueError(f"templates must have 1 to {most} rows, and ranks from 0 below their number")
    return templates


def _check_unit(unit: Unit, manifest: Manifest) -> None:
    if unit.scale not in SCALES:
        raise ValueError(f"scale {unit.scale!a} is unknown")
    if unit.scale == "returns" and not manifest.is_positive:
        raise ValueError("scale returns needs a target above 0")
    if not (0 < unit.decay <= 1 and 0 <= unit.pull <= 1 and 0 <= unit.long_run < np.inf and 0 < unit.least < np.inf):
        raise ValueError("decay and pull must lie between 0 and 1, long_run and least must be finite and positive")


def _golden(raw: Mapping[str, Any], manifest: Manifest, head: AnyHead) -> Golden:
    # schema version 1 held only the target
    feeds = {"x": np.array(raw["inputs"])[:, :, None]} if isinstance(raw["inputs"], list) else raw["inputs"]
    arrays = {name: np.array(feed, dtype=np.float64) for name, feed in feeds.items()}
    # schema versions 1 and 2 held only the mean
    recorded = raw["outputs"] if manifest.schema_version >= 3 else {MEAN: raw["mean"]}
    outputs = {name: np.array(values, dtype=np.float64) for name, values in recorded.items()}
    n = len(outputs[MEAN])
    for what, found, wanted in (("inputs", arrays, manifest.shapes), ("outputs", outputs, manifest.outputs)):
        shapes = {name: array.shape for name, array in found.items()}
        expected = {name: (n, *shape) for name, shape in wanted.items()}
        if not n or shapes != expected:
            raise ValueError(f"{what} must have the shapes {expected}, but they have {shapes}")
        for name, array in found.items():
            may_miss = what == "inputs" and name == X and manifest.is_masked
            if not np.isfinite(array[~np.isnan(array)] if may_miss else array).all():
                raise ValueError(f"{what} must be finite")
    return Golden(Inputs.of(arrays), head.forecasts(outputs, manifest.is_positive))


def _read_manifest(folder: Path) -> Manifest:
    raw = read_json(folder / MANIFEST)
    try:
        return Manifest.model_validate(raw)
    except ValidationError as error:
        where = ", ".join(
            ".".join(map(str, mistake["loc"])) or mistake["msg"].removeprefix("Value error, ")
            for mistake in error.errors()
        )
        raise BundleError(f"{MANIFEST}: this version cannot read it ({where}); register the model again") from error

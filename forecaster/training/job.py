"""The job: a configuration in, a registered version out, tracked on the way; killed and run again, it ends the same.

What is registered has seen every window up to the latest observation; the manifest says which figures belong to the
recipe that was evaluated before.
"""

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from forecaster.data.windows import Windows, cut_windows
from forecaster.database.uris import without_password
from forecaster.domain.errors import LeakageError, UnknownModel
from forecaster.domain.manifest import Certificate, Example
from forecaster.domain.series import MEAN, Series, lower, upper
from forecaster.evaluation.choice import LEVELS
from forecaster.registry.store import Store
from forecaster.training import devices, past_runs, tracking
from forecaster.training.attempts import ATTEMPT, CHECKPOINTS, MODEL, WORK, attempt_in, discard, work_of
from forecaster.training.config import TrainConfig, check_adjustment, prepare, split, title
from forecaster.training.epoch_log import EpochLog
from forecaster.training.example import last_test_window
from forecaster.training.export import Trained, write_bundle
from forecaster.training.leakage import certify
from forecaster.training.manifest import build_manifest
from forecaster.training.residuals import calibrate_naive
from forecaster.training.stages import Evaluated, evaluate, refit

_PARITY_WINDOWS = 256


@dataclass(frozen=True)
class WarmStart:
    """What a served network starts from.

    Args:
        model: the file that holds its weights, as a bundle has it.
        version: whose it is.
        epochs: how long it is fitted.
    """

    model: Path
    version: int
    epochs: int

    @property
    def tags(self) -> dict[str, str]:
        """Return what the run says of it."""
        return {past_runs.WARM_FROM: str(self.version), past_runs.WARM_EPOCHS: str(self.epochs)}


@dataclass(frozen=True)
class Registered:
    """What a training leaves: a run, a version of a model, and the recipe's metrics on the test part."""

    run_id: str
    model: str
    version: int
    metrics: dict[str, float]


def train(config: TrainConfig, warm: WarmStart | None = None, *, is_anew: bool = True) -> Registered:
    """Run the recipe and register what it gives; killed and started again, it ends the same.

    Args:
        config: the recipe.
        warm: what the served network starts from, in place of random weights; by itself no reason to train again.
        is_anew: whether the same recipe on the same data makes another version; if not, the one there is, is returned.

    Raises:
        ConfigError, DataError, TrainingError, WorkspaceError, BundleError, StoreUnavailable: as their names say;
            nothing is registered then.
    """
    check_adjustment(config)
    frame = config.data.load(config.exogenous)
    series = prepare(config, frame)
    parts = split(config, series)
    store = Store(config.tracking.uri, create=True)
    digest = digest_series(series)
    work = work_of(config.model_dump_json(exclude={"tracking"}), digest)
    with past_runs.at_work(config.tracking, work) as checkpoints:
        found = None if is_anew else _find_trained(config, store, work)
        if found is None:
            tags = {WORK: work, ATTEMPT: attempt_in(checkpoints), MODEL: config.name, CHECKPOINTS: work}
            tags |= warm.tags if warm else {}
            with tracking.tracked_run(config.tracking, title(config), tags) as run_id:
                log_inputs(config, frame, digest, {"kind": "training"})
                found = _train(config, frame, series, parts, store, run_id, digest, checkpoints, warm)
        discard(checkpoints)
    return found


def _train(
    config: TrainConfig,
    frame: pd.DataFrame,
    series: Series,
    parts: dict[str, Windows],
    store: Store,
    run_id: str,
    digest: str,
    checkpoints: Path,
    warm: WarmStart | None,
) -> Registered:
    on_epoch = EpochLog(checkpoints / "epochs.jsonl", config.tracking.patience_seconds)
    evaluated = evaluate(config, parts, checkpoints, on_epoch)
    on_epoch.deliver()
    tracking.log_test(evaluated.metrics)
    example = last_test_window(config, series, parts["test"], evaluated)
    _log_plot(example, title(config))
    served, seen = evaluated.trained, parts["train"]
    if config.refit:
        seen = cut_windows(series, config.input_size, config.horizon, config.step_size)
        epochs = warm.epochs if warm else evaluated.history.best_epoch + 1
        served = refit(config, seen, epochs, checkpoints, on_epoch, warm.model if warm else None)
    certificate = _certify(config, frame, evaluated, served, checkpoints, warm)
    on_epoch.deliver()
    said = build_manifest(config, series, digest, evaluated, served, seen, parts["test"])
    said |= {"certificate": certificate, "example": example}
    version = _register(config, store, run_id, served, evaluated, said, seen, parts, checkpoints / "bundle")
    return Registered(run_id, config.name, version, evaluated.metrics)


def _certify(
    config: TrainConfig,
    frame: pd.DataFrame,
    evaluated: Evaluated,
    served: Trained,
    checkpoints: Path,
    warm: WarmStart | None,
) -> Certificate:
    try:
        return certify(config, frame, evaluated, served, warm.version if warm else None)
    except LeakageError:
        # the same training begins anew once its code is mended
        for fit in checkpoints.glob("*.npz"):
            fit.unlink()
        raise


def _find_trained(config: TrainConfig, store: Store, work: str) -> Registered | None:
    """Return the version that the same recipe on the same data has made, None where there is none."""
    try:
        versions = {run: version for version, run in store.find(config.name).runs.items()}
    except UnknownModel:
        return None
    for run_id, metrics in past_runs.runs_of(config.tracking, work):
        if run_id in versions:
            past_runs.close_run(config.tracking, run_id)
            return Registered(run_id, config.name, versions[run_id], metrics)
    return None


def digest_series(series: Series) -> str:
    """Return the SHA-256 of the series' names, times and values."""
    digest = hashlib.sha256()
    known = () if series.known is None else (series.known,)
    for part in ("\0".join(series.unique_ids).encode(), series.bounds, series.timestamps, series.values, *known):
        digest.update(part if isinstance(part, bytes) else np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()


def _register(
    config: TrainConfig,
    store: Store,
    run_id: str,
    served: Trained,
    evaluated: Evaluated,
    said: dict[str, Any],
    seen: Windows,
    parts: dict[str, Windows],
    folder: Path,
) -> int:
    sample = np.linspace(0, len(seen) - 1, min(len(seen), _PARITY_WINDOWS)).astype(np.int64)
    inputs = seen.inputs(sample)
    # what a killed training left half-written
    shutil.rmtree(folder, ignore_errors=True)
    calibrations = {"model": evaluated.calibration, "naive": calibrate_naive(config, parts)}
    write_bundle(served, calibrations, said, inputs, folder)
    source = tracking.log_bundle(folder)
    return store.register(config.name, source, run_id)


def log_inputs(config: TrainConfig, frame: pd.DataFrame, digest: str, more: dict[str, str]) -> None:
    """Record what decides a run of this recipe, in the active run; `more` are further tags."""
    model = config.model
    tags = {"cell": model.cell, "topology": model.topology, "horizon": str(config.horizon), "dataset_digest": digest}
    recipe = config.model_dump(mode="json")
    recipe["tracking"]["uri"] = without_password(config.tracking.uri)
    tracking.log_setup(recipe, tags | devices.describe() | more)
    tracking.log_dataset(frame, config.data.source, digest, config.data.place)


def _log_plot(example: Example, title: str) -> None:
    forecast = {name: np.array(values) for name, values in example.forecast.items()}
    bands = {level: (forecast[lower(level)], forecast[upper(level)]) for level in LEVELS if lower(level) in forecast}
    times = np.array(example.ds, dtype="M8[us]")
    tracking.log_forecast_plot(times, np.array(example.y), forecast[MEAN], bands, f"{title}: last test window")

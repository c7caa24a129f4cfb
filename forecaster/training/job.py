"""The job: a configuration in, a registered version out, tracked on the way; killed and run again, it ends the same.

What is registered has seen every window up to the latest observation; the manifest says which figures belong to the
recipe that was evaluated before.
"""

import contextlib
import fcntl
import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from forecaster.data.preprocessing import Preprocessing
from forecaster.data.windows import Windows, cut_windows
from forecaster.database.uris import without_password
from forecaster.domain.errors import TrainingError
from forecaster.domain.manifest import Reference, Skill, TrainingData
from forecaster.domain.series import Floats, Series, Times
from forecaster.evaluation.baselines import last_value
from forecaster.evaluation.conformal import Calibration, calibrate
from forecaster.evaluation.drift import reference_bins
from forecaster.evaluation.significance import LEAST_WINDOWS, diebold_mariano
from forecaster.registry.store import Store
from forecaster.training import devices, tracking
from forecaster.training.export import Trained, write_bundle
from forecaster.training.leakage import certify
from forecaster.training.recipe import (
    LEVELS,
    Evaluated,
    TrainConfig,
    evaluate,
    prepare,
    refit,
    sessions_of,
    split,
    title,
)

# no roll-out longer than this many trained horizons: it feeds on its own output
MAX_ROLL_OUT = 10
_PARITY_WINDOWS = 256


@dataclass(frozen=True)
class Registered:
    """What a training leaves: a run, a version of a model, and the recipe's metrics on the test part."""

    run_id: str
    model: str
    version: int
    metrics: dict[str, float]


def train(config: TrainConfig) -> Registered:
    """Run the recipe and register what it gives; killed and started again, it ends the same.

    Raises:
        DataError, TrainingError, BundleError, StoreUnavailable: as their names say; nothing is registered then.
    """
    frame = config.data.load(config.exogenous)
    series = prepare(config, frame)
    parts = split(config, series)
    store = Store(config.tracking.uri, create=True)
    digest = digest_series(series)
    key = hashlib.sha256(f"{config.model_dump_json()}{digest}".encode()).hexdigest()[:16]
    with (
        _checkpoints(config.tracking.checkpoints / key) as checkpoints,
        tracking.tracked_run(config.tracking, title(config), _known_run(checkpoints)) as run_id,
    ):
        (checkpoints / "run_id").write_text(run_id, encoding="utf-8")
        log_inputs(config, frame, digest, {"kind": "training"})
        evaluated = evaluate(config, parts, checkpoints, tracking.log_epoch)
        tracking.log_test(evaluated.metrics)
        _log_plot(parts["test"], series, evaluated, title(config))
        served, seen = evaluated.trained, parts["train"]
        if config.refit:
            seen = cut_windows(series, config.input_size, config.horizon, config.step_size)
            served = refit(config, seen, evaluated.history.best_epoch + 1, checkpoints, tracking.log_epoch)
        certificate = certify(config, frame, served)
        skill = _skill(config, series, parts["test"], evaluated)
        promises = _promises(config, series, digest, evaluated, _trained_until(series, seen), skill)
        promises["certificate"] = certificate
        version = _register(config, store, run_id, served, evaluated, promises, seen, parts, checkpoints / "bundle")
        # at once, for a folder that lost its run's id in mid-removal would be a new run and a second version
        done = checkpoints.rename(checkpoints.with_suffix(".done"))
        shutil.rmtree(done)
    return Registered(run_id, config.name, version, evaluated.metrics)


def digest_series(series: Series) -> str:
    """Return the SHA-256 of the series' names, times and values."""
    digest = hashlib.sha256()
    known = () if series.known is None else (series.known,)
    for part in ("\0".join(series.unique_ids).encode(), series.bounds, series.timestamps, series.values, *known):
        digest.update(part if isinstance(part, bytes) else np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()


def _reference(series: Series, is_positive: bool) -> dict[str, Reference]:
    """Return how the target and its changes (of logarithms where it is positive) are spread."""
    targets = [series.values[within, 0] for _, within in series]
    changes = [np.diff(np.log(target) if is_positive else target) for target in targets]
    bins = {
        name: reference_bins(np.concatenate(parts)) for name, parts in {"values": targets, "changes": changes}.items()
    }
    return {name: Reference(edges=tuple(edges), shares=tuple(shares)) for name, (edges, shares) in bins.items()}


def _promises(
    config: TrainConfig, series: Series, digest: str, evaluated: Evaluated, trained_until: str, skill: Skill
) -> dict[str, Any]:
    return {
        "name": config.name,
        "topology": config.model.topology,
        "cell": config.model.cell,
        "input_size": config.input_size,
        "horizon": config.horizon,
        # a roll-out knows no more of the future than the model's own output
        "max_horizon": config.horizon * (1 if config.exogenous else MAX_ROLL_OUT),
        "freq": series.freq,
        "sessions": sessions_of(config),
        "is_positive": evaluated.trained.preprocessing.target.needs_positive,
        "training_data": TrainingData(
            digest=digest,
            n_series=len(series),
            rows=len(series.values),
            first=str(series.timestamps.min()),
            last=str(series.timestamps.max()),
            reference=_reference(series, evaluated.trained.preprocessing.target.needs_positive),
        ),
        "trained_until": trained_until,
        "recipe_metrics": evaluated.metrics,
        "skill": skill,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _skill(config: TrainConfig, series: Series, test: Windows, evaluated: Evaluated) -> Skill:
    every = np.arange(len(test))
    cutoffs = test.input_times(series.timestamps, every)[:, -1]
    actual, naive = test.targets(), last_value(test.inputs().target, config.horizon)
    ours, theirs = (
        _by_cutoff(cutoffs, np.abs(actual - mean).mean(axis=1)) for mean in (evaluated.trained.forecast(test), naive)
    )
    is_enough = len(ours) >= max(LEAST_WINDOWS, config.horizon + 1)
    coming = test.target_times(series.timestamps, every)
    return Skill(
        baseline="naive",
        relative_mae=evaluated.metrics.get("relative_mae"),
        n_windows=len(test),
        p_value=diebold_mariano(ours, theirs, config.horizon, "less").p_value if is_enough else None,
        coverage={
            str(level): evaluated.metrics[f"coverage-{level}"]
            for level in LEVELS
            if f"coverage-{level}" in evaluated.metrics
        },
        first=str(coming.min()),
        last=str(coming.max()),
    )


def _calibrate_naive(config: TrainConfig, held_back: Windows) -> Calibration:
    past = held_back.inputs().target
    return calibrate(held_back.targets(), last_value(past, config.horizon), past, config.intervals)


def _by_cutoff(cutoffs: Times, losses: Floats) -> Floats:
    """Return the mean loss of each cutoff, in their order: windows of one cutoff say little more than one."""
    numbers = np.unique(cutoffs, return_inverse=True)[1]
    return np.asarray(np.bincount(numbers, losses) / np.bincount(numbers))


def _trained_until(series: Series, seen: Windows) -> str:
    last = seen.first + (seen.counts - 1) * seen.step_size + seen.input_size + seen.horizon - 1
    return str(series.timestamps[last].max())


def _preprocessing(config: TrainConfig, fitted: Preprocessing) -> dict[str, Any]:
    """Return what the manifest says of the inputs, with the numbers that were fitted."""
    hist = zip(config.hist_exog, fitted.hist, strict=True)
    known = [scale.model_dump() for scale in fitted.known]
    n_futr = len(config.futr_exog)
    return {
        "transforms": [step.model_dump() for step in fitted.target.steps],
        "hist_exog": {one.column: [step.model_dump() for step in chain.steps] for one, chain in hist},
        "futr_exog": dict(zip(config.futr_exog, known[:n_futr], strict=True)),
        "calendar_features": dict(zip(config.calendar_features, known[n_futr:], strict=True)),
    }


def _register(
    config: TrainConfig,
    store: Store,
    run_id: str,
    served: Trained,
    evaluated: Evaluated,
    promises: dict[str, Any],
    seen: Windows,
    parts: dict[str, Windows],
    folder: Path,
) -> int:
    sample = np.linspace(0, len(seen) - 1, min(len(seen), _PARITY_WINDOWS)).astype(np.int64)
    inputs = seen.inputs(sample)
    promises |= _preprocessing(config, served.preprocessing)
    # what a killed training left half-written
    shutil.rmtree(folder, ignore_errors=True)
    calibrations = {"model": evaluated.calibration, "naive": _calibrate_naive(config, parts["calibration"])}
    write_bundle(served, calibrations, promises, inputs, folder)
    source = tracking.log_bundle(folder)
    return store.register(promises["name"], source, run_id)


def log_inputs(config: TrainConfig, frame: pd.DataFrame, digest: str, more: dict[str, str]) -> None:
    """Record what decides a run of this recipe, in the active run; `more` are further tags."""
    model = config.model
    tags = {"cell": model.cell, "topology": model.topology, "horizon": str(config.horizon), "dataset_digest": digest}
    recipe = config.model_dump(mode="json")
    recipe["tracking"]["uri"] = without_password(config.tracking.uri)
    tracking.log_setup(recipe, tags | devices.describe() | more)
    tracking.log_dataset(frame, config.data.source, digest, config.data.place)


def _log_plot(test: Windows, series: Series, evaluated: Evaluated, title: str) -> None:
    last = np.array([len(test) - 1])
    inputs, actual = test.inputs(last), test.targets(last)[0]
    times = np.concatenate(
        [test.input_times(series.timestamps, last)[0], test.target_times(series.timestamps, last)[0]]
    )
    mean = evaluated.trained.predict(inputs)[0]
    bands = {
        level: (mean + low[0], mean + high[0])
        for level, (low, high) in evaluated.calibration.bands(inputs.target, LEVELS).items()
    }
    tracking.log_forecast_plot(
        times, np.concatenate([inputs.target[0], actual]), mean, bands, f"{title}: last test window"
    )


@contextlib.contextmanager
def _checkpoints(folder: Path) -> Iterator[Path]:
    """Hold a fit's folder for this process alone; the lock ends with the process, however it ends."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = folder.with_suffix(".lock").open("w")
    except OSError as error:
        raise TrainingError(f"{folder}: cannot be written ({error}); set tracking.checkpoints") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise TrainingError(f"{folder}: another process is training this configuration; wait for it") from error
        yield folder
        folder.with_suffix(".lock").unlink()


def _known_run(checkpoints: Path) -> str | None:
    file = checkpoints / "run_id"
    return file.read_text(encoding="utf-8") if file.exists() else None

"""The recipe: from a configuration to a registered version.

A network is fitted on the train part, stopped on validation, its residuals taken on calibration, and looked at once on
test. The same recipe, for as many epochs, is then fitted on every window up to the latest observation, and that is what
is registered; the manifest says which figures belong to the recipe.
"""

import contextlib
import fcntl
import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field

from forecaster.data.long_frame import check_long_frame
from forecaster.data.sources import AnySource, FilesSource
from forecaster.data.transforms import AnyTransform, Chain, Log
from forecaster.data.windows import SplitConfig, Windows, cut_windows, split_windows
from forecaster.domain.config import Config
from forecaster.domain.errors import TrainingError
from forecaster.domain.manifest import Skill, TrainingData
from forecaster.domain.series import Floats, Series
from forecaster.evaluation.baselines import last_value
from forecaster.evaluation.conformal import Calibration, calibrate
from forecaster.evaluation.metrics import METRICS, mase, relative_mae
from forecaster.models.network import ModelConfig, build_model
from forecaster.registry.store import Store
from forecaster.training import devices, tracking
from forecaster.training.export import Trained, write_bundle
from forecaster.training.fit import Examples, FitConfig, History, fit
from forecaster.training.tracking import TrackingConfig

# no roll-out longer than this many trained horizons: it feeds on its own output
MAX_ROLL_OUT = 10
_PARITY_WINDOWS = 256


class TrainConfig(Config):
    """All that decides a trained version.

    Args:
        name: the registered model that gains a version.
        freq: the series' frequency; inferred when null.
        input_size: rows of input.
        horizon: rows of forecast.
        step_size: rows from one training window's start to the next one's.
        transforms: applied to the inputs in this order.
        seed: decides the weights, the order of windows and the dropout masks.
        refit: whether the registered version is fitted once more, through the latest observation.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    data: AnySource
    freq: str | None = None
    input_size: int = Field(ge=2)
    horizon: int = Field(ge=1)
    step_size: int = Field(1, ge=1)
    split: SplitConfig = SplitConfig()
    transforms: tuple[AnyTransform, ...] = ()
    model: ModelConfig = ModelConfig()
    fit: FitConfig = FitConfig()
    refit: bool = True
    seed: int = Field(0, ge=0)
    tracking: TrackingConfig = TrackingConfig()


@dataclass(frozen=True)
class Registered:
    """What a training leaves: a run, a version of a model, and the recipe's metrics on the test part."""

    run_id: str
    model: str
    version: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class Evaluated:
    """A recipe's fit and what the held-out parts say of it."""

    trained: Trained
    history: History
    calibration: Calibration
    metrics: dict[str, float]


def train(config: TrainConfig) -> Registered:
    """Run the recipe and register what it gives; killed and started again, it ends the same.

    Raises:
        DataError, TrainingError, BundleError, StoreUnavailable: as their names say; nothing is registered then.
    """
    frame = config.data.load()
    series = prepare(config, frame)
    parts = split_windows(series, config.split, config.input_size, config.horizon, config.step_size)
    store = Store(config.tracking.uri, create=True)
    digest = digest_series(series)
    key = hashlib.sha256(f"{config.model_dump_json()}{digest}".encode()).hexdigest()[:16]
    with (
        _checkpoints(config.tracking.checkpoints / key) as checkpoints,
        tracking.tracked_run(config.tracking, _title(config), _known_run(checkpoints)) as run_id,
    ):
        (checkpoints / "run_id").write_text(run_id, encoding="utf-8")
        _log_inputs(config, frame, digest)
        evaluated = evaluate(config, parts, checkpoints)
        tracking.log_test(evaluated.metrics)
        _log_plot(parts["test"], series, evaluated, _title(config))
        served = _refit(config, series, evaluated, checkpoints) if config.refit else evaluated.trained
        seen = cut_windows(series, config.input_size, config.horizon) if config.refit else parts["train"]
        promises = _promises(config, series, digest, evaluated, _trained_until(series, seen), len(parts["test"]))
        version = _register(store, run_id, served, evaluated, promises, seen)
        shutil.rmtree(checkpoints)
    return Registered(run_id, config.name, version, evaluated.metrics)


def prepare(config: TrainConfig, frame: pd.DataFrame) -> Series:
    """Return a long frame checked against what the configuration needs of it.

    Raises:
        DataError: the frame is not fit for the configuration.
    """
    where = str(config.data.path) if isinstance(config.data, FilesSource) else config.data.source
    series = check_long_frame(frame, config.freq, config.input_size + config.horizon, where)
    chain = Chain(steps=config.transforms, is_causal=config.model.how.answers_each_step)
    for unique_id, rows in series:
        chain.check(series.values[rows, 0], f"{where}, series '{unique_id}'")
    return series


def evaluate(config: TrainConfig, parts: dict[str, Windows], checkpoints: Path) -> Evaluated:
    """Fit on train and validation, calibrate on calibration, measure on test.

    Args:
        config: the recipe.
        parts: the windows of each part.
        checkpoints: the folder in which an interrupted fit is kept.
    """
    devices.prepare(config.seed, config.fit.mixed_precision)
    chain = _fit_chain(config, parts["train"])
    how = config.model.how
    trained, history = _fit(
        config,
        config.fit,
        Examples(parts["train"], chain, how),
        Examples(parts["validation"], chain, how),
        checkpoints / "recipe.npz",
    )
    held_back = parts["calibration"]
    calibration = calibrate(held_back.targets(_all(held_back)), trained.predict(_inputs(held_back)))
    return Evaluated(trained, history, calibration, _measure(config, parts, trained, calibration))


def digest_series(series: Series) -> str:
    """Return the SHA-256 of the series' names, times and values."""
    digest = hashlib.sha256()
    for part in ("\0".join(series.unique_ids).encode(), series.bounds, series.timestamps, series.values):
        digest.update(part if isinstance(part, bytes) else np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()


def _fit(
    config: TrainConfig, how: FitConfig, train: Examples, validation: Examples | None, checkpoint: Path
) -> tuple[Trained, History]:
    phase = checkpoint.stem
    with devices.all_devices():
        model = build_model(config.model, config.input_size, config.horizon, seed=config.seed)
        history = fit(
            model,
            how,
            train,
            validation,
            config.seed,
            checkpoint,
            on_epoch=lambda epoch, loss, held_out: tracking.log_epoch(phase, epoch, loss, held_out),
            label=f"{_title(config)} {phase}",
        )
    return Trained(_in_float32(config, model), config.model, train.chain), history


def _in_float32(config: TrainConfig, model: Any) -> Any:
    """Return the network as it is exported and measured: float32 whatever it was trained in, on one device."""
    devices.prepare(config.seed, mixed_precision=False)
    plain = build_model(config.model, config.input_size, config.horizon, seed=config.seed)
    plain.set_weights(model.get_weights())
    return plain


def _fit_chain(config: TrainConfig, windows: Windows) -> Chain:
    chain = Chain(steps=config.transforms, is_causal=config.model.how.answers_each_step)
    size = max(1, 2**22 // windows.input_size)
    index = _all(windows)
    return chain.fit(
        lambda: (windows.inputs(index[begin : begin + size])[:, :, 0] for begin in range(0, len(index), size))
    )


def _refit(config: TrainConfig, series: Series, evaluated: Evaluated, checkpoints: Path) -> Trained:
    windows = cut_windows(series, config.input_size, config.horizon, config.step_size)
    chain = _fit_chain(config, windows)
    how = config.fit.model_copy(update={"epochs": evaluated.history.best_epoch + 1})
    devices.prepare(config.seed, config.fit.mixed_precision)
    examples = Examples(windows, chain, config.model.how)
    return _fit(config, how, examples, None, checkpoints / "served.npz")[0]


def _measure(
    config: TrainConfig, parts: dict[str, Windows], trained: Trained, calibration: Calibration
) -> dict[str, float]:
    windows = parts["test"]
    inputs, actual = _inputs(windows), windows.targets(_all(windows))
    mean, naive = trained.predict(inputs), last_value(inputs, config.horizon)
    scale = _naive_scale(config, parts["train"], inputs)
    metrics = {name: metric(actual, mean) for name, metric in METRICS.items()}
    metrics |= {f"naive-{name}": metric(actual, naive) for name, metric in METRICS.items()}
    metrics |= {"mase": mase(actual, mean, scale), "naive-mase": mase(actual, naive, scale)}
    metrics["relative_mae"] = relative_mae(actual, mean, naive)
    for level in (80, 95):
        edges = np.array([0.5 - level / 200, 0.5 + level / 200])
        if calibration.probabilities[0] <= edges[0]:
            spread = calibration.quantiles(edges)
            inside = (actual >= mean + spread[:, 0]) & (actual <= mean + spread[:, 1])
            metrics[f"coverage-{level}"] = float(inside.mean())
    return {name: value for name, value in metrics.items() if np.isfinite(value)}


def _naive_scale(config: TrainConfig, train: Windows, test_inputs: Floats) -> float:
    """Return the in-sample MAE of the one-step naive forecast, on train rows or, where series are split, on inputs."""
    if config.split.by == "series":
        return float(np.abs(np.diff(test_inputs, axis=1)).mean())
    lengths = (train.counts - 1) * train.step_size + train.input_size + train.horizon
    steps = [np.abs(np.diff(train.values[a : a + n, 0])) for a, n in zip(train.first, lengths, strict=True)]
    return float(np.concatenate(steps).mean())


def _promises(
    config: TrainConfig, series: Series, digest: str, evaluated: Evaluated, trained_until: str, n_windows: int
) -> dict[str, Any]:
    return {
        "name": config.name,
        "topology": config.model.topology,
        "cell": config.model.cell,
        "input_size": config.input_size,
        "horizon": config.horizon,
        "max_horizon": config.horizon * MAX_ROLL_OUT,
        "freq": series.freq,
        "transforms": [step.model_dump() for step in evaluated.trained.chain.steps],
        "is_positive": any(isinstance(step, Log) for step in config.transforms),
        "training_data": TrainingData(
            digest=digest,
            n_series=len(series),
            rows=len(series.values),
            first=str(series.timestamps.min()),
            last=str(series.timestamps.max()),
        ),
        "trained_until": trained_until,
        "recipe_metrics": evaluated.metrics,
        "skill": Skill(baseline="naive", relative_mae=evaluated.metrics.get("relative_mae"), n_windows=n_windows),
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _trained_until(series: Series, seen: Windows) -> str:
    last = seen.first + (seen.counts - 1) * seen.step_size + seen.input_size + seen.horizon - 1
    return str(series.timestamps[last].max())


def _register(
    store: Store, run_id: str, served: Trained, evaluated: Evaluated, promises: dict[str, Any], seen: Windows
) -> int:
    sample = np.linspace(0, len(seen) - 1, min(len(seen), _PARITY_WINDOWS)).astype(np.int64)
    inputs = np.ascontiguousarray(seen.inputs(sample)[:, :, 0])
    promises = {**promises, "transforms": [step.model_dump() for step in served.chain.steps]}
    with tempfile.TemporaryDirectory(prefix="bundle-") as scratch:
        folder = Path(scratch) / "bundle"
        write_bundle(served, evaluated.calibration, promises, inputs, folder)
        source = tracking.log_bundle(folder)
    return store.register(promises["name"], source, run_id)


def _log_inputs(config: TrainConfig, frame: pd.DataFrame, digest: str) -> None:
    model = config.model
    tags = {"cell": model.cell, "topology": model.topology, "horizon": str(config.horizon), "dataset_digest": digest}
    tracking.log_setup(config.model_dump(mode="json"), tags | devices.describe())
    source = str(config.data.path) if isinstance(config.data, FilesSource) else config.data.source
    tracking.log_dataset(frame, config.data.source, digest, source)


def _log_plot(test: Windows, series: Series, evaluated: Evaluated, title: str) -> None:
    last = np.array([len(test) - 1])
    inputs, actual = test.inputs(last)[:, :, 0], test.targets(last)[0]
    times = np.concatenate(
        [test.input_times(series.timestamps, last)[0], test.target_times(series.timestamps, last)[0]]
    )
    mean = evaluated.trained.predict(inputs)[0]
    least = evaluated.calibration.probabilities[0]
    bands = {}
    for level in (80, 95):
        if least <= 0.5 - level / 200:
            spread = evaluated.calibration.quantiles(np.array([0.5 - level / 200, 0.5 + level / 200]))
            bands[level] = (mean + spread[:, 0], mean + spread[:, 1])
    tracking.log_forecast_plot(times, np.concatenate([inputs[0], actual]), mean, bands, f"{title}: last test window")


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


def _title(config: TrainConfig) -> str:
    return f"{config.name} {config.model.cell} {config.model.topology}"


def _all(windows: Windows) -> NDArray[np.int64]:
    return np.arange(len(windows))


def _inputs(windows: Windows) -> Floats:
    return windows.inputs(_all(windows))[:, :, 0]

"""Train a recipe: evaluate it, audit it for leakage, register a version, and track all of it as an MLflow run.

A killed training that is started again continues its run and ends with the same version. The registered network is
fitted on every window up to the latest observation; the metrics in its manifest belong to the recipe, which was
evaluated on held-out parts before.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from forecaster.data.windows import Windows, cut_windows
from forecaster.domain.errors import ConfigError, LeakageError, UnknownModel
from forecaster.domain.levels import LEVELS
from forecaster.domain.manifest import Certificate, Example
from forecaster.domain.series import MEAN, Inputs, lower, upper
from forecaster.evaluation.plots import attention_figure
from forecaster.models.trained import TrainedNetwork
from forecaster.registry.store import Store
from forecaster.training import networks, past_runs, tracking
from forecaster.training.attempts import ATTEMPT, CHECKPOINTS, MODEL, WORK, get_attempt, remove_checkpoints, work_key
from forecaster.training.auto import choose_recipe
from forecaster.training.config import TrainConfig, check_adjustment, split, title
from forecaster.training.dataset import Dataset, load_dataset, log_inputs, prepare_again
from forecaster.training.diagnostics import log_diagnostics
from forecaster.training.epoch_log import EpochLog
from forecaster.training.example import last_test_window
from forecaster.training.export import write_bundle
from forecaster.training.leakage import certify
from forecaster.training.manifest import build_manifest
from forecaster.training.residuals import calibrate_naive
from forecaster.training.stages import Evaluation, evaluate, refit
from forecaster.training.warm_start import WarmStart

_PARITY_WINDOWS = 256
# the bundle's folder, beside the checkpoints
_BUNDLE = "bundle"


@dataclass(frozen=True)
class RegisteredVersion:
    """The result of a training: a run, a version of a model, and the recipe's metrics."""

    run_id: str
    model: str
    version: int
    metrics: dict[str, float]


def train(
    config: TrainConfig, warm: WarmStart | None = None, *, store: Store | None = None, force_new: bool = True
) -> RegisteredVersion:
    """Train a recipe and register the result; a killed training that is started again continues.

    Args:
        config: the recipe.
        warm: the weights that the served network starts from; None for random weights. Another warm start alone is no
            reason to train again.
        store: the registry at `config.tracking.uri`; opened, and created if needed, when None.
        force_new: if the same recipe was already trained on the same data, whether to register another version; with
            False, the existing version is returned.

    Raises:
        ConfigError, DataError, TrainingError, WorkspaceError, BundleError, StoreUnavailable: as their names say;
            nothing is registered.
    """
    if config.is_open and warm:
        raise ConfigError("retrain.warm_epochs and model: auto: another network may be chosen; set warm_epochs to null")
    if not config.is_open:
        check_adjustment(config)
    dataset = load_dataset(config)
    parts = split(config, dataset.series)
    store = store or Store(config.tracking.uri, create=True)
    work = work_key(config.model_dump_json(exclude={"tracking"}), dataset.digest)
    with past_runs.locked_checkpoints(config.tracking, work) as checkpoints:
        registered = None if force_new else _find_registered(config, store, work)
        if registered is None:
            choice = choose_recipe(config, dataset, checkpoints) if config.is_open else None
            if choice:
                config = choice.config
                dataset = prepare_again(config, dataset)
                parts = split(config, dataset.series)
            tags = {WORK: work, ATTEMPT: get_attempt(checkpoints), MODEL: config.name, CHECKPOINTS: work}
            tags |= warm.tags if warm else {}
            with tracking.tracked_run(config.tracking, title(config), tags) as run_id:
                log_inputs(config, dataset, {"kind": "training"} | (choice.tags if choice else {}))
                if choice:
                    tracking.log_table(choice.table, "choice.json")
                metrics = _write_bundle(config, dataset, parts, checkpoints, warm)
                source = tracking.log_bundle(checkpoints / _BUNDLE)
                version = store.register(config.name, source, run_id)
                registered = RegisteredVersion(run_id, config.name, version, metrics)
        remove_checkpoints(checkpoints)
    return registered


@networks.reuse_networks(most=4)
def _write_bundle(
    config: TrainConfig, dataset: Dataset, parts: dict[str, Windows], checkpoints: Path, warm: WarmStart | None
) -> dict[str, float]:
    """Evaluate, refit and audit the recipe, and write its bundle; return the recipe's metrics."""
    on_epoch = EpochLog(checkpoints / "epochs.jsonl", config.tracking.patience_seconds)
    evaluated = evaluate(config, parts, checkpoints, on_epoch)
    on_epoch.deliver()
    tracking.log_test(evaluated.metrics)
    example = last_test_window(config, dataset.series, parts["test"], evaluated)
    if example:
        _log_plot(example, title(config))
    _log_attention(evaluated.trained, parts["test"], title(config))
    if config.tracking.diagnostics:
        log_diagnostics(evaluated.trained, evaluated.history, parts["validation"], title(config))
    served, seen = evaluated.trained, parts["train"]
    if config.refit:
        seen = cut_windows(dataset.series, config.input_size, config.horizon, config.step_size)
        # a network that is left out stays so
        epochs = warm.epochs if warm and config.fit.epochs else evaluated.history.best_epoch + 1
        served = refit(config, seen, epochs, checkpoints, on_epoch, warm.model if warm else None)
    certificate = _certify(config, dataset, evaluated, served, checkpoints, warm)
    on_epoch.deliver()
    fields = build_manifest(config, dataset, evaluated, served, seen, parts["test"])
    fields |= {"certificate": certificate, "example": example}
    calibrations = {"model": evaluated.calibration, "naive": calibrate_naive(config, parts)}
    # left half-written by a killed training
    shutil.rmtree(checkpoints / _BUNDLE, ignore_errors=True)
    write_bundle(served, calibrations, fields, _parity_inputs(seen), checkpoints / _BUNDLE)
    return evaluated.metrics


def _parity_inputs(seen: Windows) -> Inputs:
    sample = np.linspace(0, len(seen) - 1, min(len(seen), _PARITY_WINDOWS)).astype(np.int64)
    return seen.inputs(sample)


def _certify(
    config: TrainConfig,
    dataset: Dataset,
    evaluated: Evaluation,
    served: TrainedNetwork,
    checkpoints: Path,
    warm: WarmStart | None,
) -> Certificate:
    try:
        return certify(config, dataset.frame, evaluated, served, warm.version if warm else None)
    except LeakageError:
        # so that the same training starts afresh once its code is fixed
        for fit in checkpoints.glob("*.npz"):
            fit.unlink()
        raise


def _find_registered(config: TrainConfig, store: Store, work: str) -> RegisteredVersion | None:
    """Return the version that the same recipe on the same data has already registered, if any."""
    try:
        versions = {run: version for version, run in store.find(config.name).runs.items()}
    except UnknownModel:
        return None
    for run_id, metrics in past_runs.runs_of_work(config.tracking, work):
        if run_id in versions:
            past_runs.close_run(config.tracking, run_id)
            return RegisteredVersion(run_id, config.name, versions[run_id], metrics)
    return None


def _log_attention(trained: TrainedNetwork, test: Windows, title: str) -> None:
    """Log the attention weights of the last window of the test part, if the decoder attends."""
    weights = trained.attention(test.inputs(np.array([len(test) - 1])))
    if weights is not None:
        tracking.log_figure(
            attention_figure(weights[0], f"{title}: attention in the last test window"), "attention.png"
        )


def _log_plot(example: Example, title: str) -> None:
    forecast = {name: np.array(values) for name, values in example.forecast.items()}
    bands = {level: (forecast[lower(level)], forecast[upper(level)]) for level in LEVELS if lower(level) in forecast}
    times = np.array(example.ds, dtype="M8[us]")
    tracking.log_forecast_plot(times, np.array(example.y), forecast[MEAN], bands, f"{title}: last test window")

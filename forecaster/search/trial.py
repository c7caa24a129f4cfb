"""One trial: a recipe is fitted on the train part and measured on the validation part. The test part is not used."""

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from forecaster.data.windows import PARTS, Windows, choose_windows, split_windows
from forecaster.domain.config import with_values
from forecaster.domain.errors import ConfigError, DataError, TooShortError, TrainingError
from forecaster.domain.series import Series
from forecaster.evaluation.metrics import mae
from forecaster.search.config import SearchConfig
from forecaster.search.study import Study
from forecaster.training import networks, tracking
from forecaster.training.attempts import ATTEMPT, work_key
from forecaster.training.config import TrainConfig, prepare, split
from forecaster.training.stages import fit_network

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True)
class Work:
    """What all trials of a search have in common.

    Args:
        name: the search's name, and the name of its folder of checkpoints.
        study_name: the name of its study.
        run_id: the search's run.
        recipe: the recipe whose keys are searched.
        config: what is searched.
        frame: the data.
        cutoffs: the first target row of each window of the validation part that trials are measured on.
    """

    name: str
    study_name: str
    run_id: str
    recipe: TrainConfig
    config: SearchConfig
    frame: pd.DataFrame
    cutoffs: NDArray[np.int64]


def find_common_cutoffs(recipe: TrainConfig, series: Series, sizes: tuple[int, int]) -> NDArray[np.int64]:
    """Return the first target row of each window of the validation part that trials of any `input_size` have.

    A long window must fit into the part. A short window must have an observed value among its inputs.

    Raises:
        TooShortError: there is none.
    """
    shortest, longest = (
        _cutoffs(split_windows(series, recipe.split, size, recipe.horizon, recipe.step_size)["validation"])
        for size in sizes
    )
    common: NDArray[np.int64] = np.intersect1d(shortest, longest)
    if not len(common):
        raise TooShortError(f"the validation part has no window of both {sizes[0]} and {sizes[1]} inputs; add rows")
    return common


def _cutoffs(windows: Windows) -> NDArray[np.int64]:
    return windows.starts(np.arange(len(windows))) + windows.input_size


def trial_parts(config: TrainConfig, frame: pd.DataFrame, cutoffs: NDArray[np.int64]) -> dict[str, Windows]:
    """Return the windows of each part but the test part; of the validation part, those with these cutoffs."""
    parts = split(config, prepare(config, frame))
    validation = parts["validation"]
    is_common = np.isin(_cutoffs(validation), cutoffs)
    return {name: parts[name] for name in PARTS if name != "test"} | {
        "validation": choose_windows(validation, is_common)
    }


def run_trial(work: Work, study: Study, number: int, lost: str | None = None) -> None:
    """Run a trial that has not ended, and record it in the study and as a run nested in the search's run.

    Args:
        work: what all trials have in common.
        study: the study that the trial belongs to.
        number: the trial's number.
        lost: why the trial cannot be run; None to run it.

    Raises:
        MlflowException, StoreUnavailable, DatabaseUnavailable, WorkspaceError: the trial can be resumed.
    """
    trial, values = study.resume(number)
    digest = work_key(json.dumps(values, sort_keys=True))
    checkpoints = work.recipe.tracking.checkpoints / work.name / digest
    # one run, however often the trial is resumed
    tags = {ATTEMPT: f"{work.name}-{digest}"}
    parameters = {key: json.dumps(value) for key, value in values.items()}
    name = f"trial {number}"
    try:
        with tracking.nested_run(name, tags, parameters, parent_id=work.run_id):
            if lost:
                raise TrainingError(lost)
            if study.is_hopeless(trial):
                raise TrainingError("its process ended before the first epoch, each time; is there enough memory?")
            error = _measure(work, study, trial, values, checkpoints)
            if error is None:
                tracking.set_tag("outcome", "pruned")
            else:
                tracking.log_validation({"mae": error})
        study.complete(number, error)
    except (ConfigError, DataError, TrainingError) as error:
        # these values do not work: a combination that is refused, or a fit that diverges
        tqdm.write(f"{name} failed: {error}", file=sys.stderr)
        study.fail(trial, str(error))
    shutil.rmtree(checkpoints, ignore_errors=True)
    networks.release()


def _measure(
    work: Work, study: Study, trial: "optuna.Trial", values: dict[str, Any], checkpoints: Path
) -> float | None:
    """Return the MAE on the validation part; None if the trial is pruned."""
    import optuna

    config = with_values(work.recipe, {**values, "folds": 0}, "search.space")
    parts = trial_parts(config, work.frame, work.cutoffs)
    reported, prunes = study.losses(trial), work.config.prunes(work.recipe)

    def on_epoch(phase: str, epoch: int, loss: float, held_out: float | None) -> None:
        if phase != "recipe" or held_out is None:
            return
        tracking.log_validation({"loss": held_out}, epoch)
        # an epoch that a kill interrupted is repeated
        if epoch not in reported:
            trial.report(held_out, epoch)
        if prunes and trial.should_prune():
            raise optuna.TrialPruned

    checkpoints.mkdir(parents=True, exist_ok=True)
    try:
        trained, _ = fit_network(config, parts, checkpoints, on_epoch)
    except optuna.TrialPruned:
        return None
    error = mae(parts["validation"].targets(), trained.forecast(parts["validation"]).mean)
    if not np.isfinite(error):
        raise TrainingError("forecasts of the validation part are not finite; lower fit.learning_rate")
    return error

"""Search for a recipe by trials, which the validation part decides.

A search that is killed and started again continues: Optuna's database keeps the finished trials, and a trial that was
running resumes from its checkpoint.
"""

import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from forecaster.database.locks import LockCheck, exclusive_lock
from forecaster.registry.store import Store
from forecaster.search.config import SearchConfig, check_space
from forecaster.search.ray_trials import run_on_ray
from forecaster.search.study import Study, open_study, storage_url
from forecaster.search.trial import Work, find_common_cutoffs, run_trial
from forecaster.training import past_runs, tracking
from forecaster.training.attempts import ATTEMPT, CHECKPOINTS, WORK, work_key
from forecaster.training.config import TrainConfig, check_chosen, title
from forecaster.training.dataset import load_dataset, log_inputs


@dataclass(frozen=True)
class SearchResult:
    """The outcome of a search.

    Args:
        run_id: the run of the search.
        values: the best trial's values, by key of the recipe.
        validation_mae: its MAE on the validation part, in the target's unit.
        trials: the number of trials by their outcome.
    """

    run_id: str
    values: dict[str, Any]
    validation_mae: float
    trials: dict[str, int]


def search(recipe: TrainConfig, config: SearchConfig, on_wait: Callable[[], None] = lambda: None) -> SearchResult:
    """Run the trials that remain, and track each as a run nested in the search's run.

    Args:
        recipe: the recipe whose keys are searched; trials use no folds, and nothing is registered.
        config: what to search.
        on_wait: called if another process runs the same search, which this one then waits for.

    Raises:
        ConfigError: no combination of values is accepted, or no trial succeeded.
        DatabaseUnavailable: the database of the trials cannot be reached, read or written.
        DataError, FleetError, WorkspaceError, StoreUnavailable: as their names say.
    """
    check_chosen(recipe)
    check_space(recipe, config)
    dataset = load_dataset(recipe)
    cutoffs = find_common_cutoffs(recipe, dataset.series, config.input_sizes(recipe))
    searched = config.model_dump(mode="json", include={"space", "seed"})
    key = work_key(recipe.model_dump_json(exclude={"tracking"}), searched, dataset.digest)
    name = f"search-{key}"
    # the same attempt on every start, so that a killed search continues its run
    attempt = f"{name}-{work_key(recipe.tracking.model_dump_json())}"
    tags = {"kind": "search", WORK: key, ATTEMPT: attempt, CHECKPOINTS: name}
    Store(recipe.tracking.uri, create=True)
    with (
        exclusive_lock(storage_url(config.storage), name, on_wait) as check,
        past_runs.locked_checkpoints(recipe.tracking, name) as checkpoints,
        tracking.tracked_run(recipe.tracking, f"{title(recipe)} search", tags) as run_id,
        open_study(config, f"{recipe.name}-{name}") as study,
    ):
        log_inputs(recipe, dataset, tags)
        tracking.log_setup({"search": searched}, {}, "search.yaml")
        work = Work(name, study.study.study_name, run_id, recipe, config, dataset.frame, cutoffs)
        _EXECUTORS[config.on](work, study, _shown(study, check))
        best, error = study.best()
        tracking.log_validation({"mae": error})
        _log_figures(study)
        shutil.rmtree(checkpoints)
        states = [trial.state.name.lower() for trial in study.finished]
        return SearchResult(run_id, best, error, {state: states.count(state) for state in sorted(set(states))})


def _run_here(work: Work, study: Study, numbers: Iterator[int]) -> None:
    for number in numbers:
        run_trial(work, study, number)


_EXECUTORS: dict[str, Callable[[Work, Study, Iterator[int]], None]] = {"local": _run_here, "ray": run_on_ray}


def _shown(study: Study, check: LockCheck) -> Iterator[int]:
    """Yield the numbers of the trials to run, with a progress bar."""
    with tqdm(total=study.config.trials, desc="search", unit="trial", dynamic_ncols=True) as bar:
        for number in study.numbers():
            check()
            bar.n = len(study.finished)
            bar.refresh()
            yield number
        bar.n = len(study.finished)


def _log_figures(study: Study) -> None:
    import optuna.visualization.matplotlib as plots

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, plot in (("history.png", plots.plot_optimization_history), ("trials.png", plots.plot_slice)):
            axes: Any = plot(study.study)
            tracking.log_figure(np.ravel(axes)[0].figure, name)

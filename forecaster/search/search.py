"""Search for a recipe: each trial is fitted on the train part and measured on the validation part.

The test part is not used. A search that is killed and started again continues: Optuna's storage keeps the finished
trials, and the trial that was running resumes from its checkpoint.
"""

import json
import shutil
import socket
import sys
import time
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field, field_validator
from tqdm import tqdm

from forecaster.data.windows import Windows
from forecaster.database.engine import open_engine
from forecaster.domain.config import Config, with_values
from forecaster.domain.errors import ConfigError, TooShortError, TrainingError
from forecaster.evaluation.metrics import mae
from forecaster.registry.store import Store
from forecaster.search.space import Space
from forecaster.training import past_runs, tracking
from forecaster.training.attempts import ATTEMPT, CHECKPOINTS, WORK, work_key
from forecaster.training.config import TrainConfig, check_chosen, prepare, split, title
from forecaster.training.dataset import Dataset, load_dataset, log_inputs
from forecaster.training.stages import fit_network

if TYPE_CHECKING:
    import optuna

# keys that change what a trial is measured on, or that a trial does not use
_FIXED = (
    "data", "folds", "freq", "horizon", "intervals", "missing", "name", "refit", "seed", "split", "support",
    "tracking",
)  # fmt: skip
# keys that change the unit of the validation loss, so that the losses of trials cannot be compared
_UNITS = ("transforms", "model.head")
# attributes of a trial: the machine that runs it, and why it failed
_HOST, _ERROR = "host", "error"
# repeated trials in a row, after which all combinations of values are taken to have been tried
_MOST_REPEATS = 50


class SearchConfig(Config):
    """What a search tries.

    Args:
        space: for each dotted key of the recipe, a list of values, or `{low: …, high: …, log: true}`.
        trials: the number of trials.
        minutes: no trial starts after these; null for no limit.
        prune: whether a trial stops early whose validation loss is worse than the median of the trials before it, at
            the same epoch. Trials whose losses have different units are not pruned.
        storage: the URL of the database that keeps the trials.
        seed: determines the trials.
    """

    space: Space = Field(min_length=1)
    trials: int = Field(50, ge=1, le=100_000)
    minutes: float | None = Field(None, gt=0, le=1e6)
    prune: bool = True
    storage: str = "sqlite:///mlruns/search.db"
    seed: int = Field(0, ge=0, lt=2**31)

    @field_validator("space")
    @classmethod
    def _keys_are_free(cls, space: Space) -> Space:
        for key in space:
            if key.split(".")[0] in _FIXED:
                raise ValueError(f"{key}: trials could not be compared if it changed; remove it")
        return space


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


def search(recipe: TrainConfig, config: SearchConfig) -> SearchResult:
    """Run the trials that remain, and track each as a run nested in the search's run.

    Args:
        recipe: the recipe whose keys are searched; trials use no folds, and nothing is registered.
        config: what to search.

    Raises:
        ConfigError: a key of the space does not exist, or all trials were refused.
        DataError, WorkspaceError, StoreUnavailable: as their names say.
    """
    check_chosen(recipe)
    dataset = load_dataset(recipe)
    key = work_key(
        recipe.model_dump_json(exclude={"tracking"}), config.model_dump_json(include={"space"}), dataset.digest
    )
    name = f"search-{key}"
    # the same attempt on every start, so that a killed search continues its run
    tags = {"kind": "search", WORK: key, ATTEMPT: name, CHECKPOINTS: name}
    Store(recipe.tracking.uri, create=True)
    study = _open_study(recipe, config, name)
    with past_runs.locked_checkpoints(recipe.tracking, name) as checkpoints:
        with tracking.tracked_run(recipe.tracking, f"{title(recipe)} search", tags) as run_id:
            log_inputs(recipe, dataset, tags)
            tracking.log_setup({"search": config.model_dump(mode="json")}, {}, "search.yaml")
            trials = _Trials(recipe, config, dataset, study, checkpoints)
            trials.run()
            best, error = _best(study)
            tracking.log_validation({"mae": error})
            _log_figures(study)
        shutil.rmtree(checkpoints)
    states = [trial.state.name.lower() for trial in trials.finished]
    return SearchResult(run_id, _values(best), error, {state: states.count(state) for state in sorted(set(states))})


def _open_study(recipe: TrainConfig, config: SearchConfig, name: str) -> "optuna.Study":
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # creates the folder, and checks the URL
    engine = open_engine(config.storage)
    url = engine.url.render_as_string(hide_password=False)
    engine.dispose()
    pruner = optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=1)
    storage = optuna.storages.RDBStorage(url)
    found = optuna.create_study(
        storage=storage, study_name=f"{recipe.name}-{name}", load_if_exists=True, pruner=pruner, direction="minimize"
    )
    # another seed after each start, because the sampler would draw its first values again
    found.sampler = optuna.samplers.TPESampler(seed=config.seed + len(found.get_trials(deepcopy=False)))
    return found


@dataclass(frozen=True)
class _Trials:
    recipe: TrainConfig
    config: SearchConfig
    dataset: Dataset
    study: "optuna.Study"
    checkpoints: Path

    def run(self) -> None:
        """Run the trials that remain."""
        self._enqueue_interrupted()
        end = time.monotonic() + 60 * self.config.minutes if self.config.minutes else float("inf")
        repeats = 0
        with tqdm(total=self.config.trials, desc="search", unit="trial", dynamic_ncols=True) as bar:
            while len(self.finished) < self.config.trials and repeats < _MOST_REPEATS and time.monotonic() < end:
                bar.n = len(self.finished)
                bar.refresh()
                trial = self.study.ask()
                values = {key: dimension.suggest(trial, key) for key, dimension in self.config.space.items()}
                if self._is_repeated(trial):
                    repeats += 1
                    self._fail(trial.number)
                    continue
                repeats = 0
                self._run_trial(trial, values)

    @property
    def finished(self) -> "list[optuna.trial.FrozenTrial]":
        """Return the trials that need not be run again: not those that were interrupted, and not repetitions."""
        import optuna

        closed = [trial for trial in self.study.get_trials(deepcopy=False) if trial.state.is_finished()]
        return [trial for trial in closed if trial.state != optuna.trial.TrialState.FAIL or _ERROR in trial.user_attrs]

    def _enqueue_interrupted(self) -> None:
        """Queue the trials that killed processes of this machine left open."""
        import optuna

        for trial in self.study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.RUNNING]):
            if trial.user_attrs.get(_HOST) == socket.gethostname():
                self._fail(trial.number)
                self.study.enqueue_trial(trial.params)

    def _fail(self, number: int) -> None:
        import optuna

        self.study.tell(number, state=optuna.trial.TrialState.FAIL)

    def _is_repeated(self, trial: "optuna.Trial") -> bool:
        return any(other.params == trial.params for other in self.finished)

    def _run_trial(self, trial: "optuna.Trial", values: dict[str, Any]) -> None:
        import optuna

        trial.set_user_attr(_HOST, socket.gethostname())
        checkpoints = self.checkpoints / work_key(json.dumps(values, sort_keys=True))
        name = f"trial {trial.number}"
        try:
            with tracking.nested_run(name, parameters={key: json.dumps(value) for key, value in values.items()}):
                found = self._measure(trial, values, checkpoints)
                if found is None:
                    tracking.set_tag("outcome", "pruned")
                else:
                    tracking.log_validation({"mae": found})
            self.study.tell(trial, found, optuna.trial.TrialState.PRUNED if found is None else None)
        except (ConfigError, TooShortError, TrainingError) as error:
            # these values do not work: a combination that is refused, or a fit that diverges
            tqdm.write(f"{name} failed: {error}", file=sys.stderr)
            trial.set_user_attr(_ERROR, str(error))
            self._fail(trial.number)
        shutil.rmtree(checkpoints, ignore_errors=True)

    def _measure(self, trial: "optuna.Trial", values: dict[str, Any], checkpoints: Path) -> float | None:
        """Return the MAE on the validation part; None if the trial is pruned."""
        import optuna

        config = with_values(self.recipe, values, f"trial {trial.number}")
        parts = split(config, prepare(config, self.dataset.frame))
        del parts["test"]
        parts["validation"] = _common(parts["validation"], self._longest)

        def on_epoch(phase: str, epoch: int, loss: float, held_out: float | None) -> None:
            if phase == "recipe" and held_out is not None:
                tracking.log_validation({"loss": held_out}, epoch)
                trial.report(held_out, epoch)
                if self._prunes and trial.should_prune():
                    raise optuna.TrialPruned

        checkpoints.mkdir(parents=True, exist_ok=True)
        try:
            trained, _ = fit_network(config, parts, checkpoints, on_epoch)
        except optuna.TrialPruned:
            return None
        return mae(parts["validation"].targets(), trained.forecast(parts["validation"]).mean)

    @property
    def _longest(self) -> int:
        """Return the largest `input_size` of all trials."""
        searched = self.config.space.get("input_size")
        return self.recipe.input_size if searched is None else int(searched.largest)

    @property
    def _prunes(self) -> bool:
        return self.config.prune and not any(key.startswith(_UNITS) for key in self.config.space)


def _common(windows: Windows, longest: int) -> Windows:
    """Return the windows whose targets follow `longest` rows of the part, which those of every trial do."""
    skipped = (longest - windows.input_size) // windows.step_size
    counts = windows.counts - skipped
    if not (counts > 0).any():
        raise TooShortError(
            f"the validation part has no window of {longest} inputs; shorten input_size in search.space"
        )
    kept = counts > 0
    return replace(
        windows,
        first=windows.first[kept] + skipped * windows.step_size,
        counts=counts[kept],
        owners=windows.owners[kept],
    )


def _best(study: "optuna.Study") -> "tuple[optuna.trial.FrozenTrial, float]":
    """Return the best trial, and its error."""
    import optuna

    if not study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.COMPLETE]):
        raise ConfigError("search.space: no trial succeeded; the errors of the trials are above, and in their runs")
    return study.best_trial, study.best_value


def _values(trial: "optuna.trial.FrozenTrial") -> dict[str, Any]:
    return {key: json.loads(value) if isinstance(value, str) else value for key, value in trial.params.items()}


def _log_figures(study: "optuna.Study") -> None:
    import optuna.visualization.matplotlib as plots

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, plot in (("history.png", plots.plot_optimization_history), ("trials.png", plots.plot_slice)):
            axes: Any = plot(study)
            tracking.log_figure(np.ravel(axes)[0].figure, name)

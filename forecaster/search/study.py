"""The trials of a search, which Optuna keeps in a database: the values to try next, and the outcome of each trial."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import event, inspect
from sqlalchemy.exc import SQLAlchemyError

from forecaster.database.engine import MAINTENANCE_TIMEOUT_SECONDS, open_engine
from forecaster.database.sqlite_files import SqliteFile, create_sqlite_file
from forecaster.database.uris import mask_password, sqlite_file, without_password
from forecaster.domain.errors import ConfigError, DatabaseUnavailable
from forecaster.search.config import SearchConfig
from forecaster.search.space import find_untried, suggest_values

if TYPE_CHECKING:
    import optuna

# attributes of a trial: why it failed, and how often it was started
_ERROR, _STARTS = "error", "starts"
# a trial that ends its process so often before its first epoch, for example by its need of memory, is given up
_MOST_STARTS = 3
# repeated trials in a row, after which all values are taken to have been tried; only ranges of fractions get there
_MOST_REPEATS = 50


@dataclass(frozen=True)
class Study:
    """The trials of one search.

    Args:
        study: Optuna's study.
        storage: the database that it is kept in.
        config: what is searched.
    """

    study: "optuna.Study"
    storage: "optuna.storages.BaseStorage"
    config: SearchConfig

    def numbers(self) -> Iterator[int]:
        """Yield the number of each trial to run: first those that were interrupted, then new ones.

        The caller must hold the lock on the search, so that no other process runs one of them.
        """
        end = time.monotonic() + 60 * self.config.minutes if self.config.minutes else float("inf")
        for number in [trial.number for trial in self._counted() if not trial.state.is_finished()]:
            trial, _ = self.resume(number)
            # a process may have been killed before it had dropped a repetition
            if self._parameters(trial) in self._tried_before(number):
                self._drop(trial)
            else:
                yield number
        while len(self._counted()) < self.config.trials and time.monotonic() < end:
            asked = self._ask()
            if asked is None:
                return
            yield asked

    def resume(self, number: int) -> "tuple[optuna.Trial, dict[str, Any]]":
        """Return a trial that has not ended, and its values by key of the recipe."""
        import optuna

        # a process may have been killed before it had drawn all values
        self._seed_sampler(number)
        study = self.storage.get_study_id_from_name(self.study.study_name)
        trial = optuna.Trial(self.study, self.storage.get_trial_id_from_study_id_trial_number(study, number))
        return trial, suggest_values(self.config.space, trial)

    def is_hopeless(self, trial: "optuna.Trial") -> bool:
        """Count a start of a trial, and return whether it has ended its process too often."""
        starts = trial.user_attrs.get(_STARTS, 0)
        trial.set_user_attr(_STARTS, starts + 1)
        return starts >= _MOST_STARTS and not self.losses(trial)

    def losses(self, trial: "optuna.Trial") -> dict[int, float]:
        """Return the validation losses that a trial has reported, by epoch."""
        return self._trials()[trial.number].intermediate_values

    def complete(self, number: int, error: float | None) -> None:
        """End a trial with its error on the validation part; None for a trial that was pruned."""
        import optuna

        self.study.tell(number, error, optuna.trial.TrialState.PRUNED if error is None else None)

    def fail(self, trial: "optuna.Trial", reason: str) -> None:
        """End a trial whose values do not work."""
        trial.set_user_attr(_ERROR, reason)
        self._drop(trial)

    @property
    def finished(self) -> "list[optuna.trial.FrozenTrial]":
        """Return the trials that have ended, without repetitions."""
        return [trial for trial in self._counted() if trial.state.is_finished()]

    def best(self) -> tuple[dict[str, Any], float]:
        """Return the values of the trial with the smallest error, and the error.

        Raises:
            ConfigError: no trial has succeeded.
        """
        import optuna

        if not self.study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.COMPLETE]):
            reasons = [trial.user_attrs[_ERROR] for trial in self.finished if _ERROR in trial.user_attrs]
            raise ConfigError(f"search.space: no trial succeeded; the last: {reasons[-1] if reasons else 'none ended'}")
        fixed: Any = optuna.trial.FixedTrial(self.study.best_params)
        return suggest_values(self.config.space, fixed), self.study.best_value

    def _trials(self) -> "list[optuna.trial.FrozenTrial]":
        return self.study.get_trials(deepcopy=False)

    def _counted(self) -> "list[optuna.trial.FrozenTrial]":
        """Return the trials that have been started, without repetitions of others."""
        import optuna

        states = optuna.trial.TrialState
        started = [trial for trial in self._trials() if trial.state != states.WAITING]
        return [trial for trial in started if trial.state != states.FAIL or _ERROR in trial.user_attrs]

    def _ask(self) -> int | None:
        """Return the number of a new trial with values that no other has; None if all values have been tried."""
        space = self.config.space
        is_finite = all(dimension.parameters is not None for dimension in space.values())
        for _ in range(_MOST_REPEATS):
            self._seed_sampler(len(self._trials()))
            trial = self.study.ask()
            suggest_values(space, trial)
            tried = self._tried_before(trial.number)
            if self._parameters(trial) not in tried:
                return trial.number
            self._drop(trial)
            if is_finite:
                untried = find_untried(space, tried)
                if untried is None:
                    return None
                self.study.enqueue_trial(untried)
        return None

    def _tried_before(self, number: int) -> set[tuple[Any, ...]]:
        return {self._parameters(trial) for trial in self._counted() if trial.number < number}

    def _parameters(self, trial: "optuna.trial.BaseTrial") -> tuple[Any, ...]:
        """Return a trial's values as Optuna keeps them, in the order of the space's keys."""
        return tuple(map(trial.params.get, self.config.space))

    def _seed_sampler(self, number: int) -> None:
        """Give each trial a seed of its own, so that a search that was killed goes on as if it had not been."""
        import optuna

        self.study.sampler = optuna.samplers.TPESampler(seed=self.config.seed + number)

    def _drop(self, trial: "optuna.Trial") -> None:
        import optuna

        self.study.tell(trial, state=optuna.trial.TrialState.FAIL)


@contextlib.contextmanager
def open_study(config: SearchConfig, name: str) -> Iterator[Study]:
    """Create or open the study with this name, and close its connections at the end.

    Raises:
        ConfigError: the database holds tables of another program.
        DatabaseUnavailable: it cannot be reached, read or written, also later in the block.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    pruner = optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=1)
    with _translated_errors(config.storage):
        storage = _open_storage(config.storage)
        try:
            study = optuna.create_study(
                storage=storage, study_name=name, load_if_exists=True, pruner=pruner, direction="minimize"
            )
            yield Study(study, storage, config)
        finally:
            storage.remove_session()
            storage.engine.dispose()


def storage_url(url: str) -> str:
    """Return the URL of a search's database as libraries take it, and create the folder of a SQLite file."""
    engine = open_engine(url)
    engine.dispose()
    return engine.url.render_as_string(hide_password=False)


def _open_storage(url: str) -> "optuna.storages.RDBStorage":
    import optuna

    file = sqlite_file(url)
    if file is not None:
        create_sqlite_file(file.absolute())
    _check_holds_nothing_else(url)
    if file is None:
        return optuna.storages.RDBStorage(storage_url(url), {"pool_pre_ping": True})
    opened = SqliteFile(Path(file).absolute(), MAINTENANCE_TIMEOUT_SECONDS)
    storage = optuna.storages.RDBStorage(url, {"creator": opened.connect})
    event.listen(storage.engine, "commit", lambda connection: connection.connection.dbapi_connection.check_in_place())
    return storage


def _check_holds_nothing_else(url: str) -> None:
    """Raise ConfigError if a database holds tables of another program: MLflow's and Optuna's share a name."""
    engine = open_engine(url)
    with engine.connect() as connection:
        tables = inspect(connection).get_table_names()
    engine.dispose()
    if tables and "studies" not in tables:
        raise ConfigError(
            f"search.storage: {without_password(url)} holds tables of another program; give the search a database of "
            "its own"
        )


@contextlib.contextmanager
def _translated_errors(url: str) -> Iterator[None]:
    import optuna

    try:
        yield
    except (optuna.exceptions.StorageInternalError, SQLAlchemyError) as error:
        reason = mask_password(str(error.__cause__ or error).splitlines()[0], url)
        raise DatabaseUnavailable(
            f"search.storage: {without_password(url)} does not answer ({reason}); is it up, and is its disk full?"
        ) from error

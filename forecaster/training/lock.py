"""One training of a model at a time, and no run left open by a process that was killed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from forecaster.database.locks import LockCheck, exclusive_lock
from forecaster.registry.store import Store
from forecaster.training.config import TrainConfig
from forecaster.training.past_runs import end_abandoned


@contextmanager
def training_lock(config: TrainConfig, on_wait: Callable[[str], None] = lambda model: None) -> Iterator[LockCheck]:
    """Hold the training of a model for this process; runs that a killed process left open are ended.

    Args:
        config: whose `name` is trained; its store is made where there is none.
        on_wait: told the model's name where another process has the turn.

    Yields:
        What raises where the turn was lost meanwhile, to be asked before anything is decided.

    Raises:
        StoreUnavailable: as `exclusive_lock` says.
    """
    # makes the store's tables, before anything is locked in it
    Store(config.tracking.uri, create=True)
    with exclusive_lock(config.tracking.uri, f"train {config.name}", lambda: on_wait(config.name)) as check:
        end_abandoned(config.tracking, config.name)
        yield check

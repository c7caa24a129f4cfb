"""Train a model in one process at a time, and end the runs that killed processes left open."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from forecaster.database.locks import LockCheck, exclusive_lock
from forecaster.registry.store import Store
from forecaster.training.config import TrainConfig
from forecaster.training.past_runs import end_abandoned_runs


@contextmanager
def training_lock(
    config: TrainConfig, store: Store, on_wait: Callable[[str], None] = lambda model: None
) -> Iterator[LockCheck]:
    """Hold the lock on the training of a model.

    Args:
        config: the recipe of the model.
        store: the registry at the recipe's tracking URI.
        on_wait: called with the model's name if another process holds the lock.

    Yields:
        a function that raises if the lock was lost; call it before an irreversible step.

    Raises:
        StoreUnavailable: as `exclusive_lock` raises it.
    """
    with exclusive_lock(store.uri, f"train {config.name}", lambda: on_wait(config.name)) as check:
        end_abandoned_runs(config.tracking, config.name)
        yield check

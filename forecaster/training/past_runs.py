"""Read and update MLflow runs other than the active one."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from forecaster.database.uris import mask_password, without_password
from forecaster.domain.errors import StoreUnavailable, WorkspaceError
from forecaster.training.attempts import (
    CHECKPOINTS,
    MODEL,
    WORK,
    find_runs,
    lock_checkpoints,
    lock_folder,
    remove_checkpoints,
    was_started_here,
)
from forecaster.training.tracking import TrackingConfig, read_test_metrics

# tags: the gate's outcome, the champion and settings that it was judged against, and when the version became champion
GATE, JUDGED_AGAINST, PROMOTED_AT = "gate", "gate/beside", "promoted_at"
# tags: the version whose weights the served network started from, and for how many epochs it was fitted
WARM_FROM, WARM_EPOCHS = "warm_started_from", "warm_epochs"


def runs_of_work(config: TrackingConfig, work: str) -> list[tuple[str, dict[str, float]]]:
    """Return the id and the metrics of each run of the same work, newest first; names as `log_test` takes them.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    with _client(config.uri) as client:
        runs = _find_tagged(client, config, WORK, work)
    return [(run.info.run_id, read_test_metrics(run.data.metrics)) for run in runs]


@contextlib.contextmanager
def locked_checkpoints(config: TrackingConfig, name: str) -> Iterator[Path]:
    """End the runs that killed processes of this machine left open, then lock and yield a checkpoint folder.

    Raises:
        WorkspaceError: as `lock_checkpoints` raises it.
        StoreUnavailable: the store does not answer.
    """
    end_killed_runs(config)
    with lock_checkpoints(config.checkpoints / name) as folder:
        yield folder


def end_killed_runs(config: TrackingConfig) -> None:
    """Set the status KILLED on each open run that was started on this machine and that no process is working on.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    with _client(config.uri) as client:
        experiment = client.get_experiment_by_name(config.experiment)
        runs = client.search_runs([experiment.experiment_id], "attributes.status = 'RUNNING'") if experiment else []
        for run in runs:
            name = run.data.tags.get(CHECKPOINTS)
            if name and was_started_here(config.checkpoints / name):
                _end_unless_held(client, run, config.checkpoints / name)


def end_abandoned_runs(config: TrackingConfig, model: str) -> None:
    """Set the status KILLED on a model's open runs, on any machine; the caller must hold the model's training lock.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    with _client(config.uri) as client:
        for run in _unfinished(client, config, model):
            if run.info.status != "RUNNING":
                continue
            folder = config.checkpoints / run.data.tags[CHECKPOINTS]
            if was_started_here(folder):
                # a promotion does not take the training lock, and may be backtesting the model
                _end_unless_held(client, run, folder)
            else:
                client.set_terminated(run.info.run_id, "KILLED")


def remove_abandoned_checkpoints(config: TrackingConfig, model: str) -> None:
    """Remove the checkpoints of a model's unfinished runs; call it when a later run of the model has finished.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    with _client(config.uri) as client:
        names = {run.data.tags[CHECKPOINTS] for run in _unfinished(client, config, model)}
    for folder in (config.checkpoints / name for name in names):
        # a process that uses the folder holds its lock, and keeps it
        with contextlib.suppress(WorkspaceError):
            if folder.exists():
                with lock_folder(folder):
                    remove_checkpoints(folder)


def _end_unless_held(client: Any, run: Any, folder: Path) -> None:
    # holding the lock meanwhile, so that no process continues the run
    with contextlib.suppress(WorkspaceError), lock_folder(folder):
        client.set_terminated(run.info.run_id, "KILLED")


def _unfinished(client: Any, config: TrackingConfig, model: str) -> list[Any]:
    runs = _find_tagged(client, config, MODEL, model)
    return [run for run in runs if run.info.status != "FINISHED" and CHECKPOINTS in run.data.tags]


def _find_tagged(client: Any, config: TrackingConfig, tag: str, value: str) -> list[Any]:
    experiment = client.get_experiment_by_name(config.experiment)
    return find_runs(client, experiment.experiment_id, tag, value) if experiment else []


def close_run(config: TrackingConfig, run_id: str) -> None:
    """Set the status FINISHED on a run that was killed after its last step; a finished run stays as it is.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    with _client(config.uri) as client:
        if client.get_run(run_id).info.status != "FINISHED":
            client.set_terminated(run_id)


def log_decision(uri: str, run_id: str, decision: dict[str, Any], key: str) -> None:
    """Record the gate's decision on a version with the version's run: `gate.json`, a tag per criterion, the outcome.

    Args:
        uri: the tracking URI.
        run_id: the version's run.
        decision: the content of `gate.json`, with `outcome` and `criteria` (each `name`, `is_met`, `reason`).
        key: the judgement's key, as `judgement_key` returns it.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    with _client(uri) as client:
        # cleared first: after a kill in between there is no decision, rather than parts of two
        client.set_tag(run_id, JUDGED_AGAINST, "")
        client.log_dict(run_id, decision, "gate.json")
        for criterion in decision["criteria"]:
            verdict = "met" if criterion["is_met"] else "not met"
            client.set_tag(run_id, f"gate/{criterion['name']}", f"{verdict}: {criterion['reason']}")
        client.set_tag(run_id, GATE, decision["outcome"])
        # set last: it marks the decision as complete
        client.set_tag(run_id, JUDGED_AGAINST, key)


def find_judged_runs(config: TrackingConfig, model: str, champion: int | None) -> set[str]:
    """Return the run ids of a model's versions that the gate judged against this champion (None: against none).

    Raises:
        StoreUnavailable: the store does not answer.
    """
    with _client(config.uri) as client:
        runs = _find_tagged(client, config, MODEL, model)
    prefix = f"{champion or 'none'} "
    return {run.info.run_id for run in runs if run.data.tags.get(JUDGED_AGAINST, "").startswith(prefix)}


def log_tag(uri: str, run_id: str, name: str, value: str) -> None:
    """Set a tag on a finished run.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    with _client(uri) as client:
        client.set_tag(run_id, name, value)


def read_tags(uri: str, run_id: str) -> dict[str, str]:
    """Return a run's tags.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    with _client(uri) as client:
        return dict(client.get_run(run_id).data.tags)


@contextlib.contextmanager
def _client(uri: str) -> Iterator[Any]:
    """Yield an MLflow client; raise StoreUnavailable if MLflow does not answer."""
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        yield mlflow.MlflowClient(uri)
    except (MlflowException, OSError) as error:
        raise StoreUnavailable(
            f"{without_password(uri)}: the MLflow store does not answer ({mask_password(str(error), uri)}); is it up?"
        ) from error

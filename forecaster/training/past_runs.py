"""Runs that are over, asked and written to beside the active one: what was found, decided and done since."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from forecaster.database.uris import without_password
from forecaster.domain.errors import StoreUnavailable, WorkspaceError
from forecaster.training.attempts import (
    CHECKPOINTS,
    MODEL,
    WORK,
    alone_in,
    discard,
    find_runs,
    holding,
    was_begun_here,
)
from forecaster.training.tracking import TrackingConfig, as_logged

# what the gate decided on a version, what else decides that, and when the version became champion
GATE, GATE_BESIDE, PROMOTED_AT = "gate", "gate/beside", "promoted_at"
# the version whose weights a served network started from, and for how many epochs it was fitted
WARM_FROM, WARM_EPOCHS = "warm_started_from", "warm_epochs"


def runs_of(config: TrackingConfig, work: str) -> list[tuple[str, dict[str, float]]]:
    """Return the runs of the same work, newest first: each one's id, and its figures, named as `log_test` takes them.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    with _asking(config.uri) as client:
        found = _tagged(client, config, WORK, work)
    return [(run.info.run_id, as_logged(run.data.metrics)) for run in found]


@contextlib.contextmanager
def at_work(config: TrackingConfig, name: str) -> Iterator[Path]:
    """Hold a run's folder of checkpoints by name; runs that processes of this machine left open are ended before.

    Raises:
        WorkspaceError: as `holding` says.
        StoreUnavailable: the store does not answer.
    """
    end_killed(config)
    with holding(config.checkpoints / name) as folder:
        yield folder


def end_killed(config: TrackingConfig) -> None:
    """End, as killed, each open run that was begun on this machine and that no process is at work on.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    with _asking(config.uri) as client:
        experiment = client.get_experiment_by_name(config.experiment)
        found = client.search_runs([experiment.experiment_id], "attributes.status = 'RUNNING'") if experiment else []
        for run in found:
            name = run.data.tags.get(CHECKPOINTS)
            if name and was_begun_here(config.checkpoints / name):
                _end_unless_held(client, run, config.checkpoints / name)


def end_abandoned(config: TrackingConfig, model: str) -> None:
    """End, as killed, a model's open runs, on whatever machine they were begun; the caller has the model's turn.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    with _asking(config.uri) as client:
        for run in _unfinished(client, config, model):
            if run.info.status != "RUNNING":
                continue
            folder = config.checkpoints / run.data.tags[CHECKPOINTS]
            if was_begun_here(folder):
                # a promotion takes no turn, and may be trying the model just now
                _end_unless_held(client, run, folder)
            else:
                client.set_terminated(run.info.run_id, "KILLED")


def discard_abandoned(config: TrackingConfig, model: str) -> None:
    """Remove the checkpoints of a model's runs that did not end well: another has, and nobody goes on with them.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    with _asking(config.uri) as client:
        names = {run.data.tags[CHECKPOINTS] for run in _unfinished(client, config, model)}
    for folder in (config.checkpoints / name for name in names):
        # a process that is at work in it takes no turn, and goes on
        with contextlib.suppress(WorkspaceError):
            if folder.exists():
                with alone_in(folder):
                    discard(folder)


def _end_unless_held(client: Any, run: Any, folder: Path) -> None:
    # held while it is ended, so that nobody goes on with the run meanwhile
    with contextlib.suppress(WorkspaceError), alone_in(folder):
        client.set_terminated(run.info.run_id, "KILLED")


def _unfinished(client: Any, config: TrackingConfig, model: str) -> list[Any]:
    found = _tagged(client, config, MODEL, model)
    return [run for run in found if run.info.status != "FINISHED" and CHECKPOINTS in run.data.tags]


def _tagged(client: Any, config: TrackingConfig, tag: str, value: str) -> list[Any]:
    experiment = client.get_experiment_by_name(config.experiment)
    return find_runs(client, experiment.experiment_id, tag, value) if experiment else []


def close_run(config: TrackingConfig, run_id: str) -> None:
    """End a run that was killed when all was done but this, or leave it as it is.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    with _asking(config.uri) as client:
        if client.get_run(run_id).info.status != "FINISHED":
            client.set_terminated(run_id)


def log_decision(uri: str, run_id: str, decision: dict[str, Any], beside: str) -> None:
    """Record with a finished run what the gate decided on its version: the table, a tag per criterion, the outcome.

    Args:
        uri: MLflow's.
        run_id: whose.
        decision: the `outcome`, the `criteria` (`name`, `is_met`, `reason`) and what else is to be known of it.
        beside: what else decides it.
    """
    with _asking(uri) as client:
        # killed in between, there is no decision rather than parts of two
        client.set_tag(run_id, GATE_BESIDE, "")
        client.log_dict(run_id, decision, "gate.json")
        for criterion in decision["criteria"]:
            word = "met" if criterion["is_met"] else "not met"
            client.set_tag(run_id, f"gate/{criterion['name']}", f"{word}: {criterion['reason']}")
        client.set_tag(run_id, GATE, decision["outcome"])
        # last: where it is, the rest is
        client.set_tag(run_id, GATE_BESIDE, beside)


def judged_beside_champion(config: TrackingConfig, model: str, champion: int | None) -> set[str]:
    """Return the ids of a model's runs whose versions the gate judged beside this champion, or beside none.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    with _asking(config.uri) as client:
        found = _tagged(client, config, MODEL, model)
    beside = f"{champion or 'none'} "
    return {run.info.run_id for run in found if run.data.tags.get(GATE_BESIDE, "").startswith(beside)}


def log_tag(uri: str, run_id: str, name: str, value: str) -> None:
    """Record a tag with a finished run.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    with _asking(uri) as client:
        client.set_tag(run_id, name, value)


def read_tags(uri: str, run_id: str) -> dict[str, str]:
    """Return a run's tags.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    with _asking(uri) as client:
        return dict(client.get_run(run_id).data.tags)


@contextlib.contextmanager
def _asking(uri: str) -> Iterator[Any]:
    """Yield MLflow's client for what is not of the active run; raises StoreUnavailable where it does not answer."""
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        yield mlflow.MlflowClient(uri)
    except (MlflowException, OSError) as error:
        raise StoreUnavailable(
            f"{without_password(uri)}: the MLflow store does not answer ({error}); is it up?"
        ) from error

"""Runs that are over, asked and written to beside the active one: what was found, decided and done since."""

import contextlib
from collections.abc import Iterator
from typing import Any

from forecaster.database.uris import without_password
from forecaster.domain.errors import StoreUnavailable
from forecaster.training.attempts import WORK, find_runs
from forecaster.training.tracking import TrackingConfig, as_logged

# what the gate decided on a version, beside which champion, and when the version became champion
GATE, GATE_BESIDE, PROMOTED_AT = "gate", "gate/beside", "promoted_at"


def runs_of(config: TrackingConfig, work: str) -> list[tuple[str, dict[str, float]]]:
    """Return the runs of the same work, newest first: each one's id, and its figures, named as `log_test` takes them.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    with _asking(config.uri) as client:
        experiment = client.get_experiment_by_name(config.experiment)
        found = find_runs(client, experiment.experiment_id, WORK, work) if experiment else []
    return [(run.info.run_id, as_logged(run.data.metrics)) for run in found]


def close_run(config: TrackingConfig, run_id: str) -> None:
    """End a run that was killed when all was done but this.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    with _asking(config.uri) as client:
        client.set_terminated(run_id)


def log_decision(
    uri: str, run_id: str, criteria: list[dict[str, Any]], is_promoted: bool, champion: int | None
) -> None:
    """Record with a finished run what the gate decided on its version: the table, a tag per criterion, the decision."""
    with _asking(uri) as client:
        client.log_dict(run_id, {"is_promoted": is_promoted, "criteria": criteria}, "gate.json")
        client.set_tag(run_id, GATE_BESIDE, str(champion or ""))
        for criterion in criteria:
            word = "met" if criterion["is_met"] else "not met"
            client.set_tag(run_id, f"gate/{criterion['name']}", f"{word}: {criterion['reason']}")
        # last: where it is, the rest is
        client.set_tag(run_id, GATE, "promoted" if is_promoted else "kept")


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

"""Which runs belong to the same work, so that what is killed and started again leaves no second run.

A run has the tag `work`, a digest of all that decides it, and the tag `attempt`, which lies with its checkpoints: the
same work on another machine is another attempt.
"""

import hashlib
import uuid
from pathlib import Path
from typing import Any

WORK, ATTEMPT = "work", "attempt"
_FILE = "attempt"


def work_of(*decides: object) -> str:
    """Return the digest of all that decides some work, 16 hexadecimal digits."""
    return hashlib.sha256("".join(map(str, decides)).encode()).hexdigest()[:16]


def attempt_in(checkpoints: Path) -> str:
    """Return the attempt that a folder of checkpoints belongs to, a new one where there is none."""
    file = checkpoints / _FILE
    if file.exists():
        return file.read_text(encoding="utf-8")
    attempt = uuid.uuid4().hex
    draft = file.with_suffix(".new")
    draft.write_text(attempt, encoding="utf-8")
    draft.replace(file)
    return attempt


def find_runs(client: Any, experiment: str, tag: str, value: str) -> list[Any]:
    """Return an experiment's runs that have a tag, newest first.

    Args:
        client: MLflow's.
        experiment: its id.
        tag: such as `WORK`.
        value: the tag's.
    """
    return list(client.search_runs([experiment], f"tags.{tag} = '{value}'", order_by=["attributes.start_time DESC"]))


def discard_runs(client: Any, experiment: str, work: str) -> None:
    """Delete what was begun, or done before, of the same work: runs, the runs within them, and their files."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    for run in find_runs(client, experiment, WORK, work):
        for one in (*find_runs(client, experiment, "`mlflow.parentRunId`", run.info.run_id), run):
            get_artifact_repository(one.info.artifact_uri, tracking_uri=client.tracking_uri).delete_artifacts()
            client.delete_run(one.info.run_id)

"""Tags that connect a run with its work and its checkpoints, so that a restarted training continues its run.

The tag `work` is a digest of everything that determines the result. The tag `attempt` is an id that is stored with the
checkpoints: the same work on another machine is another attempt.
"""

import contextlib
import hashlib
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from forecaster.domain.errors import WorkspaceError
from forecaster.domain.files import write_atomically

# MODEL is the model's name and CHECKPOINTS the folder's name; both serve to find abandoned checkpoints
WORK, ATTEMPT, MODEL, CHECKPOINTS = "work", "attempt", "model", "checkpoints"
_FILE = "attempt"
# another process holds the lock for a moment when it looks whether the folder is in use
_WAIT_SECONDS = 1


def work_key(*inputs: object) -> str:
    """Return a digest of everything that determines the result, as 16 hexadecimal digits."""
    return hashlib.sha256("".join(map(str, inputs)).encode()).hexdigest()[:16]


def get_attempt(checkpoints: Path) -> str:
    """Return the id of a checkpoint folder's attempt; the first call creates it."""
    file = checkpoints / _FILE
    if file.exists():
        return file.read_text(encoding="utf-8")
    attempt = uuid.uuid4().hex
    with write_atomically(file) as draft:
        draft.write_text(attempt, encoding="utf-8")
    return attempt


@contextlib.contextmanager
def lock_checkpoints(checkpoints: Path) -> Iterator[Path]:
    """Create a checkpoint folder and hold its lock, which ends with the process at the latest.

    Raises:
        WorkspaceError: the folder cannot be written, or another process holds the lock.
    """
    try:
        checkpoints.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(checkpoints, error) from error
    with lock_folder(checkpoints, _WAIT_SECONDS):
        # left by a process that was killed during a removal
        shutil.rmtree(_removed(checkpoints), ignore_errors=True)
        yield checkpoints


@contextlib.contextmanager
def lock_folder(checkpoints: Path, wait_seconds: float = 0) -> Iterator[None]:
    """Hold the lock of a checkpoint folder, which need not exist; remove the lock file unless an error occurs.

    Raises:
        WorkspaceError: another process holds the lock for longer than `wait_seconds`, or it cannot be written.
    """
    lock = FileLock(_lock_file(checkpoints), timeout=wait_seconds)
    try:
        lock.acquire()
    except Timeout as error:
        raise WorkspaceError(f"{checkpoints}: another process is training this configuration; wait for it") from error
    except OSError as error:
        raise _unwritable(checkpoints, error) from error
    try:
        yield
        _lock_file(checkpoints).unlink()
    finally:
        lock.release()


def was_started_here(checkpoints: Path) -> bool:
    """Return whether a process of this machine has used a checkpoint folder without finishing its work."""
    return checkpoints.exists() or _lock_file(checkpoints).exists()


def remove_checkpoints(checkpoints: Path) -> None:
    """Remove a checkpoint folder whose lock is held."""
    # renamed first: a half-removed folder without its attempt id would start a second run and a second version
    shutil.rmtree(checkpoints.rename(_removed(checkpoints)))


def _unwritable(checkpoints: Path, error: OSError) -> WorkspaceError:
    return WorkspaceError(f"{checkpoints}: cannot be written ({error}); set tracking.checkpoints")


def _lock_file(checkpoints: Path) -> Path:
    return checkpoints.with_suffix(".lock")


def _removed(checkpoints: Path) -> Path:
    return checkpoints.with_suffix(".done")


def find_runs(client: Any, experiment: str, tag: str, value: str) -> list[Any]:
    """Return the runs of an experiment that have a tag, newest first.

    Args:
        client: an MLflow client.
        experiment: the experiment's id.
        tag: the tag's name, such as `WORK`.
        value: the tag's value.
    """
    return list(client.search_runs([experiment], f"tags.{tag} = '{value}'", order_by=["attributes.start_time DESC"]))


def delete_runs(client: Any, experiment: str, work: str) -> None:
    """Delete all runs of the same work, with their nested runs and their files."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    for parent in find_runs(client, experiment, WORK, work):
        nested = find_runs(client, experiment, "`mlflow.parentRunId`", parent.info.run_id)
        for run in (*nested, parent):
            get_artifact_repository(run.info.artifact_uri, tracking_uri=client.tracking_uri).delete_artifacts()
            client.delete_run(run.info.run_id)

"""Which runs belong to the same work, so that what is killed and started again leaves no second run.

A run has the tag `work`, a digest of all that decides it, and the tag `attempt`, which lies with its checkpoints: the
same work on another machine is another attempt.
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

# with MODEL, whose it is, and CHECKPOINTS, the folder's name, what nobody will go on with is found
WORK, ATTEMPT, MODEL, CHECKPOINTS = "work", "attempt", "model", "checkpoints"
_FILE = "attempt"
# another process may be looking whether somebody is at work there
_LOOK_SECONDS = 1


def work_of(*decides: object) -> str:
    """Return the digest of all that decides some work, 16 hexadecimal digits."""
    return hashlib.sha256("".join(map(str, decides)).encode()).hexdigest()[:16]


def attempt_in(checkpoints: Path) -> str:
    """Return the attempt that a folder of checkpoints belongs to, a new one where there is none."""
    file = checkpoints / _FILE
    if file.exists():
        return file.read_text(encoding="utf-8")
    attempt = uuid.uuid4().hex
    with write_atomically(file) as draft:
        draft.write_text(attempt, encoding="utf-8")
    return attempt


@contextlib.contextmanager
def holding(checkpoints: Path) -> Iterator[Path]:
    """Hold a fit's folder, which is made, for this process alone; the lock ends with the process, however it ends.

    Raises:
        WorkspaceError: it cannot be written, or another process has it.
    """
    try:
        checkpoints.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(checkpoints, error) from error
    with alone_in(checkpoints, _LOOK_SECONDS):
        # of one that was killed in mid-removal
        shutil.rmtree(_going(checkpoints), ignore_errors=True)
        yield checkpoints


@contextlib.contextmanager
def alone_in(checkpoints: Path, wait_seconds: float = 0) -> Iterator[None]:
    """Hold the lock of a fit's folder, which need not be there; the lock's file is removed unless an error ends it.

    Raises:
        WorkspaceError: another process has it, for longer than `wait_seconds`; or it cannot be written.
    """
    lock = FileLock(_lock_of(checkpoints), timeout=wait_seconds)
    try:
        lock.acquire()
    except Timeout as error:
        raise WorkspaceError(f"{checkpoints}: another process is training this configuration; wait for it") from error
    except OSError as error:
        raise _unwritable(checkpoints, error) from error
    try:
        yield
        _lock_of(checkpoints).unlink()
    finally:
        lock.release()


def was_begun_here(checkpoints: Path) -> bool:
    """Say whether a process of this machine has worked in a folder and has not ended well."""
    return checkpoints.exists() or _lock_of(checkpoints).exists()


def discard(checkpoints: Path) -> None:
    """Remove a fit's folder, which is held."""
    # at once, for a folder that lost its attempt in mid-removal would be a new run and a second version
    shutil.rmtree(checkpoints.rename(_going(checkpoints)))


def _unwritable(checkpoints: Path, error: OSError) -> WorkspaceError:
    return WorkspaceError(f"{checkpoints}: cannot be written ({error}); set tracking.checkpoints")


def _lock_of(checkpoints: Path) -> Path:
    return checkpoints.with_suffix(".lock")


def _going(checkpoints: Path) -> Path:
    return checkpoints.with_suffix(".done")


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

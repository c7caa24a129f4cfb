"""Make the stack's secrets, a file each: `python -m deploy.make_secrets [FOLDER]`. What is there already stays.

Then containers, whose accounts are not the checkout's owner, are let read what is mounted into them.
"""

import secrets
import sys
from collections.abc import Iterable
from pathlib import Path

FOLDER = Path("deploy/secrets")
_ROOT = Path(__file__).parents[1]
# a test holds this to docker-compose.yml
MOUNTED = tuple(
    _ROOT / name for name in ("deploy/postgres", "deploy/prometheus", "deploy/grafana", "pipelines/configs")
)


def make_secrets(folder: Path) -> list[Path]:
    """Write the secrets that are missing, random ones.

    Args:
        folder: where to; only its owner gets in, and whoever has it mounted can read the files in it.

    Returns:
        the files that were made.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    missing = {name: text for name, text in _drafts().items() if not (folder / name).exists()}
    for name, text in missing.items():
        # a container's account is not the owner of the file that it is given
        (folder / name).write_text(text, encoding="utf-8")
        (folder / name).chmod(0o444)
    return [folder / name for name in missing]


def let_read(files: Iterable[Path]) -> None:
    """Let every account read files, and folders with all that is in them, whatever umask they were written with.

    Raises:
        OSError: one is somebody else's.
    """
    for file in files:
        mode = file.stat().st_mode
        # as `chmod a+rX` has it; what is so already may be somebody else's
        wanted = mode | (0o555 if file.is_dir() or mode & 0o100 else 0o444)
        if wanted != mode:
            file.chmod(wanted)
        if file.is_dir():
            let_read(file.iterdir())


def _drafts() -> dict[str, str]:
    def random() -> str:
        return secrets.token_hex(24)

    return {
        "postgres_password": random(),
        "database_url": f"postgresql://forecaster:{random()}@postgres:5432/forecaster",
        "mlflow_store_uri": f"postgresql+pg8000://mlflow:{random()}@postgres:5432/mlflow",
        "mlflow_password": random(),
        "mlflow_session_key": random(),
        "grafana_password": random(),
        "schedule_token": random(),
    }


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    for made in make_secrets(folder):
        sys.stdout.write(f"{made}\n")
    try:
        # the key of Prometheus among the secrets, which the service has made
        let_read([*folder.iterdir(), *MOUNTED])
    except OSError as error:
        sys.exit(f"error: {error.filename}: containers must be able to read it ({error}); let its owner run this")

"""Create the missing secrets of docker-compose.yml, one file each: `python -m deploy.make_secrets [FOLDER]`.

It also makes the mounted files readable for the containers, whose accounts do not own the checkout.
"""

import secrets
import sys
from collections.abc import Iterable
from pathlib import Path

FOLDER = Path("deploy/secrets")
_ROOT = Path(__file__).parents[1]
# A test compares these with docker-compose.yml.
MOUNTED = tuple(
    _ROOT / name for name in ("deploy/postgres", "deploy/prometheus", "deploy/grafana", "pipelines/configs")
)


def make_secrets(folder: Path) -> list[Path]:
    """Write the missing secrets, with random values; existing files stay as they are.

    Args:
        folder: created for its owner alone; the files in it can be read by every account that they are mounted for.

    Returns:
        The new files.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    missing = {name: text for name, text in _drafts().items() if not (folder / name).exists()}
    for name, text in missing.items():
        # A container's account does not own the files that are mounted into it.
        (folder / name).write_text(text, encoding="utf-8")
        (folder / name).chmod(0o444)
    return [folder / name for name in missing]


def make_readable(files: Iterable[Path]) -> None:
    """Let every account read files, and folders with their content, like `chmod -R a+rX`.

    Raises:
        OSError: a file belongs to another account.
    """
    for file in files:
        mode = file.stat().st_mode
        # A file that is readable already may belong to another account.
        wanted = mode | (0o555 if file.is_dir() or mode & 0o100 else 0o444)
        if wanted != mode:
            file.chmod(wanted)
        if file.is_dir():
            make_readable(file.iterdir())


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
    for file in make_secrets(folder):
        sys.stdout.write(f"{file}\n")
    try:
        # The folder may also hold metrics_key, which pipelines.keys created.
        make_readable([*folder.iterdir(), *MOUNTED])
    except OSError as error:
        sys.exit(f"error: {error.filename}: containers must be able to read it ({error}); run this as its owner")

"""Make the stack's secrets, a file each: `python -m deploy.make_secrets [FOLDER]`. What is there already stays."""

import secrets
import sys
from pathlib import Path

FOLDER = Path("deploy/secrets")


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
    for file in make_secrets(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER):
        sys.stdout.write(f"{file}\n")

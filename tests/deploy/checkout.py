"""A checkout that only its owner can read, as under the umask 077."""

import shutil
from pathlib import Path

from tests.conftest import ROOT


def owner_only_checkout(folder: Path) -> Path:
    """Copy the files that images and containers use from this checkout, readable by their owner only."""
    ignored = shutil.ignore_patterns("__pycache__", "secrets")
    for name in ("deploy", "forecaster", "pipelines", "service"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    shutil.copy2(ROOT / "docker-compose.yml", folder)
    for path in folder.rglob("*"):
        path.chmod(path.stat().st_mode & 0o700)
    return folder


def unreadable(folder: Path) -> list[Path]:
    """Return the paths that other accounts cannot read, or cannot execute or enter though the owner can."""
    needed = {path: 0o005 if path.stat().st_mode & 0o100 else 0o004 for path in (folder, *folder.rglob("*"))}
    return [path for path, mode in needed.items() if path.stat().st_mode & mode != mode]

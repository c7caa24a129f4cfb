"""A checkout made under the umask 077: nobody but its owner can read it."""

import shutil
from pathlib import Path

from tests.conftest import ROOT


def closed_checkout(folder: Path) -> Path:
    """Return a copy of what images and containers take from this checkout, each file and folder its owner's alone."""
    ignored = shutil.ignore_patterns("__pycache__", "secrets")
    for name in ("deploy", "forecaster", "pipelines", "service"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    shutil.copy2(ROOT / "docker-compose.yml", folder)
    for path in folder.rglob("*"):
        path.chmod(path.stat().st_mode & 0o700)
    return folder


def closed(folder: Path) -> list[Path]:
    """Return what of a folder, or of a file, other accounts cannot read, or not run or enter though its owner can."""
    needed = {path: 0o005 if path.stat().st_mode & 0o100 else 0o004 for path in (folder, *folder.rglob("*"))}
    return [path for path, mode in needed.items() if path.stat().st_mode & mode != mode]

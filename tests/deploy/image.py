"""Build images of the Dockerfile without a container engine, each in a folder that stands for its root."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from dockerfile_parse import DockerfileParser

from tests.conftest import ROOT

# This step needs root, and would create accounts on this machine.
_CREATES_ACCOUNTS = "groupadd"
_PATHS = ("/opt/venv", "/build", "/app", "/var/lib/mlflow", "/tmp")
Stages = dict[str, list[tuple[str, str]]]


def stages() -> Stages:
    """Return the instructions of each stage by its name, starting with FROM."""
    found: Stages = {}
    for step in DockerfileParser(path=str(ROOT / "Dockerfile")).structure:
        instruction, value = step["instruction"], step["value"]
        if instruction == "FROM":
            origin, _, name = value.partition(" AS ")
            found[name] = [("FROM", origin)]
        elif found and instruction != "COMMENT":
            found[list(found)[-1]].append((instruction, value))
    return found


def build(target: str, folder: Path, checkout: Path = ROOT) -> Path:
    """Build the stage `target` of a checkout, and the stages that it needs, below `folder`; return its root."""
    base = folder / "base"
    if not base.exists():
        subprocess.run([sys.executable, "-m", "venv", base], check=True)
    root, steps = folder / target, stages()
    [(_, origin), *rest] = steps[target]
    if origin in steps:
        shutil.copytree(build(origin, folder, checkout), root, symlinks=True)
    root.mkdir(exist_ok=True)
    variables = {"PATH": f"{root}/opt/venv/bin:{base}/bin:/usr/bin:/bin", "GIT_PYTHON_REFRESH": "quiet"}
    for instruction, value in rest:
        if instruction == "COPY":
            _copy(value, root, folder, checkout)
        elif instruction == "RUN" and not value.startswith(_CREATES_ACCOUNTS):
            _run(value, root, variables)
    return root


def _copy(value: str, root: Path, folder: Path, checkout: Path) -> None:
    *sources, target = value.split()
    origin = checkout
    if sources[0].startswith("--from="):
        origin = build(sources.pop(0).removeprefix("--from="), folder, checkout)
    for source in sources:
        place = root / ("app" if not target.startswith("/") else ".") / target.lstrip("/")
        if target.endswith("/"):
            place /= Path(source).name
        place.parent.mkdir(parents=True, exist_ok=True)
        found = origin / source.lstrip("/")
        if found.is_dir():
            shutil.copytree(found, place, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(found, place)


def _run(command: str, root: Path, variables: dict[str, str]) -> None:
    here = re.sub(rf"(?<![\w./-])({'|'.join(_PATHS)})(?![\w-])", lambda match: f"{root}{match[0]}", command)
    done = subprocess.run(
        ["sh", "-e", "-c", here], cwd=root / "app" if (root / "app").exists() else root, text=True, check=False,
        capture_output=True, env={**_pip_environment(), **variables},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def _pip_environment() -> dict[str, str]:
    """Return the variables that configure pip's package index and proxies."""
    return {name: value for name, value in os.environ.items() if name.startswith("PIP_") or name.endswith("_proxy")}


def size_mb(folder: Path) -> float:
    """Return the size on disk of a folder's files, in MB."""
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*")) / 1e6


def build_replacement(target: str, lock: str, folder: Path) -> Path:
    """Return a quick replacement for an image: this checkout and Python, which refuse packages outside a lock file."""
    allowed = re.findall(r"^([\w.-]+)==", (ROOT / "deploy" / lock).read_text(), re.MULTILINE)
    root = folder / f"{target} stand-in"
    (root / "opt/venv/bin").mkdir(parents=True)
    (root / "refusing").mkdir()
    (root / "app").symlink_to(ROOT)
    (root / "refusing" / "sitecustomize.py").write_text(_REFUSING.format(allowed=allowed))
    program = root / "opt/venv/bin/python"
    program.write_text(f'#!/bin/sh\nPYTHONPATH="{root}/refusing" exec "{sys.executable}" "$@"\n')
    program.chmod(0o755)
    return root


_REFUSING = """
import importlib.abc, importlib.metadata, re, sys

plain = lambda name: re.sub("[-_.]+", "-", name).lower()
allowed = {allowed}
refused = {{
    module
    for module, names in importlib.metadata.packages_distributions().items()
    if not {{plain(name) for name in names}} & set(allowed)
}}


class LockedImports(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in refused:
            raise ModuleNotFoundError(f"{{name}} is not in this image", name=name)


sys.meta_path.insert(0, LockedImports())
"""

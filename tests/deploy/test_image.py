"""The Dockerfile: a linter's findings, hardening, contents. Soak tests also build and run its image."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.deploy.checkout import owner_only_checkout, unreadable
from tests.deploy.image import build, stages
from tests.stack.stack import ENTRYPOINT

# Packages that the serving image must not have.
HEAVY = {"tensorflow", "keras", "mlflow", "pandas", "pyarrow", "scipy", "matplotlib", "yfinance"}


def _locked(name: str) -> set[str]:
    text = (ROOT / "deploy" / f"requirements-{name}.lock").read_text()
    assert text.count("==") <= text.count("--hash=sha256:")
    return set(re.findall(r"^([\w.-]+)==", text, re.MULTILINE))


def test_the_dockerfile_has_no_lint_findings() -> None:
    linter = Path(sys.executable).with_name("hadolint")
    if not linter.exists():
        pytest.skip("hadolint is not installed here (its package is for Linux)")
    done = subprocess.run([linter, "Dockerfile"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("target", ["serve", "train", "train-gpu"])
def test_an_image_runs_unprivileged_and_without_pip(target: str) -> None:
    found = stages()
    [(_, origin), *steps] = found[target]
    everything = [*found[origin], *steps]
    assert [value for name, value in everything if name == "USER"][-1] == "10001:10001"
    assert ("ENTRYPOINT", f'["{ENTRYPOINT}"]') in everything
    assert any(name == "HEALTHCHECK" for name, _ in steps)
    assert not any(re.search(r"\bpip\b", value) for name, value in everything if name == "RUN")
    for stage in found:
        for name, value in found[stage]:
            if name == "RUN" and re.search(r"\bpip\b", value):
                assert {"--require-hashes", "--only-binary", ":all:"} <= set(value.split())
    # The default target.
    assert list(found)[-1] == "serve"


def test_the_images_account_can_read_a_checkout_of_any_umask(tmp_path: Path) -> None:
    checkout = owner_only_checkout(tmp_path / "checkout")
    assert unreadable(checkout / "deploy" / "entrypoint.sh")
    app = build("application", tmp_path / "images", checkout) / "app"
    assert list(app.rglob("__pycache__/*.pyc"))
    assert unreadable(app) == []


def test_the_locks_have_what_each_image_needs_and_agree() -> None:
    serve, train, gpu = _locked("serve"), _locked("train"), _locked("gpu")
    assert not serve & HEAVY
    assert {"onnxruntime", "fastapi", "mlflow-skinny", "alembic", "pg8000", "prometheus-client"} <= serve
    assert train >= serve | HEAVY | {"flask-wtf"}
    assert any(name.startswith("nvidia-") for name in gpu - train)
    assert "pytest" not in train | gpu
    whole = (ROOT / "requirements.lock").read_text()
    for name in ("serve", "train", "gpu"):
        text = (ROOT / "deploy" / f"requirements-{name}.lock").read_text()
        ours = set(re.findall(r"^([\w.-]+==\S+)", text, re.MULTILINE))
        theirs = set(re.findall(r"^([\w.-]+==\S+)", whole, re.MULTILINE))
        assert {one for one in ours - theirs if name != "gpu"} == set()


def test_the_build_context_has_only_what_is_copied() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    assert "deploy/secrets" in lines
    taken = {line[1:] for line in lines if line.startswith("!")}
    copied = {
        source.partition("/")[0]
        for steps in stages().values()
        for name, value in steps
        if name == "COPY" and not value.startswith("--from")
        for source in value.split()[:-1]
    }
    assert copied == taken

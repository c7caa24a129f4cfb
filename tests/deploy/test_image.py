"""The Dockerfile: what a linter says of it, that it matches what the stack runs, and in a soak: made and run."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.deploy.checkout import closed, closed_checkout
from tests.deploy.image import stages, unpack
from tests.stack.stack import ENTRYPOINT

# neither in an image that serves
HEAVY = {"tensorflow", "keras", "mlflow", "pandas", "pyarrow", "scipy", "matplotlib", "yfinance"}


def _locked(name: str) -> set[str]:
    text = (ROOT / "deploy" / f"requirements-{name}.lock").read_text()
    assert text.count("==") <= text.count("--hash=sha256:")
    return set(re.findall(r"^([\w.-]+)==", text, re.MULTILINE))


def test_the_linter_finds_nothing() -> None:
    linter = Path(sys.executable).with_name("hadolint")
    if not linter.exists():
        pytest.skip("hadolint is not here (its package is for Linux)")
    done = subprocess.run([linter, "Dockerfile"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("target", ["serve", "train", "train-gpu"])
def test_an_image_is_small_and_starts_without_rights(target: str) -> None:
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
    # the default one
    assert list(found)[-1] == "serve"


def test_whatever_the_checkouts_umask_the_account_of_an_image_can_read_it(tmp_path: Path) -> None:
    checkout = closed_checkout(tmp_path / "checkout")
    assert closed(checkout / "deploy" / "entrypoint.sh")
    app = unpack("application", tmp_path / "images", checkout) / "app"
    assert list(app.rglob("__pycache__/*.pyc"))
    assert closed(app) == []


def test_the_locks_hold_what_each_image_needs_and_agree() -> None:
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


def test_only_what_is_copied_is_sent_to_the_builder() -> None:
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

"""A bundle is read only if it is exactly what its manifest says."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from forecaster.domain.errors import BundleError
from forecaster.domain.manifest import HASHED_FILES, MANIFEST
from forecaster.registry.bundle import read_bundle
from forecaster.registry.cache import bundle_folder
from forecaster.registry.files import hash_file
from forecaster.registry.predictor import Predictor
from tests.conftest import House


@pytest.fixture
def folder(house: House, tmp_path: Path) -> Path:
    """Return a copy of the champion's bundle."""
    return Path(shutil.copytree(bundle_folder(house.cache, "sine", 1), tmp_path / "bundle"))


def _edit(name: str, change: Callable[[Any], None]) -> Callable[[Path], None]:
    """Return a change of a JSON or YAML file whose hash is then set right, as one who means harm would."""

    def edit(folder: Path) -> None:
        reads = json if name.endswith("json") else yaml
        content: Any = (
            reads.loads((folder / name).read_text()) if reads is json else yaml.safe_load((folder / name).read_text())
        )
        change(content)
        (folder / name).write_text(json.dumps(content) if reads is json else yaml.safe_dump(content))
        _hash_anew(folder, name)

    return edit


def _hash_anew(folder: Path, name: str) -> None:
    if name != MANIFEST:
        manifest = json.loads((folder / MANIFEST).read_text())
        manifest["sha256"][name] = hash_file(folder / name)
        (folder / MANIFEST).write_text(json.dumps(manifest))


def _write(name: str, content: bytes) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)

    return write


def _link(folder: Path) -> None:
    (folder / "model.keras").rename(folder.parent / "elsewhere")
    (folder / "model.keras").symlink_to(folder.parent / "elsewhere")


BAD: dict[str, tuple[Callable[[Path], None], str]] = {
    "changed file": (_write("model.onnx", b"x"), r"\['model.onnx'\] changed"),
    "missing file": (lambda folder: (folder / "golden.json").unlink(), r"missing files \['golden.json'\]"),
    "unknown file": (_write("run.py", b"print()"), r"unknown files \['run.py'\]"),
    "file in a folder": (_write("code/run.py", b"print()"), r"unknown files \['code/run.py'\]"),
    "a link": (_link, r"unknown files \['model.keras'\]"),
    "no manifest": (lambda folder: (folder / MANIFEST).unlink(), r"missing files \['manifest.json'\]"),
    "manifest is no JSON": (_write(MANIFEST, b"{"), "manifest.json: cannot be read as JSON"),
    "unknown schema": (_edit(MANIFEST, lambda m: m.update(schema_version=99)), r"\(schema_version\)"),
    "unknown key": (_edit(MANIFEST, lambda m: m.update(hook="x")), r"\(hook\)"),
    "a hash too few": (_edit(MANIFEST, lambda m: m["sha256"].pop("MLmodel")), "unknown files"),
    "loader that runs code": (
        _edit("MLmodel", lambda m: m["flavors"]["python_function"].update(loader_module="os")),
        "asks for code",
    ),
    "code beside it": (
        _edit("MLmodel", lambda m: m["flavors"]["python_function"].update(code="code")),
        "asks for code",
    ),
    "golden of another form": (_edit("golden.json", lambda g: g.pop("inputs")), "malformed"),
    "calibration of another form": (_edit("calibration.json", lambda c: c["model"].update(residuals="x")), "malformed"),
    "no calibration of the model": (_edit("calibration.json", lambda c: c.pop("model")), "malformed"),
    "residuals in an unknown unit": (_edit("calibration.json", lambda c: c["naive"].update(scale="x")), "malformed"),
}


@pytest.mark.parametrize(("spoil", "said"), BAD.values(), ids=BAD.keys())
def test_a_spoilt_bundle_is_refused(folder: Path, spoil: Callable[[Path], None], said: str) -> None:
    spoil(folder)
    with pytest.raises(BundleError, match=said):
        read_bundle(folder)


def test_every_file_of_a_bundle_is_hashed_and_none_is_a_pickle(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} - {"registered_model_meta"} == {MANIFEST, *HASHED_FILES}
    assert set(read_bundle(folder).manifest.sha256) == set(HASHED_FILES)
    assert not [path for path in folder.iterdir() if path.read_bytes()[:1] == b"\x80"]


def test_a_graph_that_answers_otherwise_is_refused(folder: Path) -> None:
    _edit("golden.json", lambda golden: golden["mean"][0].__setitem__(0, golden["mean"][0][0] + 0.01))(folder)
    with pytest.raises(BundleError, match=r"golden answers are .* of a window's scale off"):
        Predictor(read_bundle(folder))


def test_a_graph_that_cannot_run_is_refused(folder: Path) -> None:
    _write("model.onnx", b"not a graph")(folder)
    _hash_anew(folder, "model.onnx")
    with pytest.raises(BundleError, match=r"model\.onnx: cannot be run"):
        Predictor(read_bundle(folder))


def test_a_bundle_of_the_first_schema_still_answers() -> None:
    bundle = read_bundle(Path(__file__).parent / "bundles" / "schema-1")
    assert bundle.manifest.schema_version == 1
    predictor = Predictor(bundle)
    mean = predictor.predict_arrays(bundle.golden.inputs.target)
    np.testing.assert_allclose(mean, bundle.golden.mean, rtol=1e-6)
    assert predictor.predict_arrays(bundle.golden.inputs.target, horizon=5).shape == (8, 5)

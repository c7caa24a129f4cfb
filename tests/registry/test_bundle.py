"""Bundles: reading one verifies every file, and refuses anything unexpected."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forecaster.domain.errors import BundleError
from forecaster.domain.manifest import HASHED_FILES, MANIFEST
from forecaster.registry.bundle import read_bundle
from forecaster.registry.cache import bundle_folder
from forecaster.registry.predictor import ArrayPredictor
from tests.conftest import TrainedModels
from tests.registry.bundle_faults import MANY, edit, insert, pipe, rehash, write


@pytest.fixture
def folder(models: TrainedModels, tmp_path: Path) -> Iterator[Path]:
    """A copy of the champion's bundle."""
    folder = Path(shutil.copytree(bundle_folder(models.cache, "sine", 1), tmp_path / "bundle"))
    yield folder
    # some of these folders are too deep for the recursion with which pytest removes old folders
    subprocess.run(["rm", "-r", folder], check=True)


def _link(folder: Path) -> None:
    (folder / "model.keras").rename(folder.parent / "elsewhere")
    (folder / "model.keras").symlink_to(folder.parent / "elsewhere")


def _nest(folder: Path) -> None:
    # deeper than Python's recursion goes
    for _ in range(1200):
        folder /= "d"
    subprocess.run(["mkdir", "-p", folder], check=True)


def _add_many_folders(folder: Path) -> None:
    for number in range(100):
        (folder / f"empty-{number}").mkdir()


def _enlarge(folder: Path) -> None:
    with (folder / "model.keras").open("r+b") as file:
        # a sparse file, which uses no space
        file.truncate(3 * 2**30)


def _sessions(weekmask: str) -> dict[str, Any]:
    return {"name": "XNYS", "first": "2020-01-01", "last": "2021-01-01", "weekmask": weekmask, "closed": []}


# these few lines expand to 10⁹ entries
BOMB = b"".join(
    b"%c: &%c [%s]\n" % (97 + depth, 97 + depth, b",".join([b"*%c" % (96 + depth) if depth else b"lol"] * 10))
    for depth in range(10)
)
BAD: dict[str, tuple[Callable[[Path], None], str]] = {
    "changed file": (write("model.onnx", b"x"), r"\['model.onnx'\] changed"),
    "missing file": (lambda folder: (folder / "golden.json").unlink(), r"missing files \['golden.json'\]"),
    "unknown file": (write("run.py", b"print()"), r"unknown files \['run.py'\]"),
    "file in a folder": (write("code/run.py", b"print()"), r"unknown files \['code/run.py'\]"),
    "a link": (_link, "'model.keras' is not a regular file"),
    "no manifest": (lambda folder: (folder / MANIFEST).unlink(), r"missing files \['manifest.json'\]"),
    "invalid JSON in the manifest": (write(MANIFEST, b"{"), "manifest.json: cannot be read as JSON"),
    "unknown schema": (edit(MANIFEST, lambda m: m.update(schema_version=99)), r"\(schema_version\)"),
    "unknown key": (edit(MANIFEST, lambda m: m.update(hook="x")), r"\(hook\)"),
    "a missing hash": (edit(MANIFEST, lambda m: m["sha256"].pop("MLmodel")), "hashes of unknown files, or lacks some"),
    "loader that runs code": (
        edit("MLmodel", lambda m: m["flavors"]["python_function"].update(loader_module="os")),
        "asks for code",
    ),
    "code beside it": (
        edit("MLmodel", lambda m: m["flavors"]["python_function"].update(code="code")),
        "asks for code",
    ),
    "golden file without inputs": (edit("golden.json", lambda g: g.pop("inputs")), "malformed"),
    "residuals that are not numbers": (
        edit("calibration.json", lambda c: c["model"].update(residuals="x")),
        "malformed",
    ),
    "no calibration of the model": (edit("calibration.json", lambda c: c.pop("model")), "malformed"),
    "deeply nested folders": (_nest, "more than 100 files and folders"),
    "many empty folders": (_add_many_folders, "more than 100 files and folders"),
    "a file of gigabytes": (_enlarge, "model.keras: has 3221225472 bytes, more than the limit"),
    "a pipe in place of the graph": (pipe("model.onnx"), "is not a regular file"),
    "a pipe in place of the manifest": (pipe(MANIFEST), "is not a regular file"),
    "deep JSON": (write("golden.json", b"[" * 100_000 + b"]" * 100_000, hashed=True), "recursion limit"),
    "a number of 5,000 digits": (insert("calibration.json", "model", "9" * 5000), "number out of range"),
    "a number of 4,000 digits": (edit("calibration.json", lambda c: c["model"].update(n_windows=MANY)), "malformed"),
    "NaN": (insert("golden.json", "mean", "NaN"), "golden.json: cannot be read as JSON"),
    "infinity": (insert(MANIFEST, "recipe_metrics", '{"mae": 1e999}'), r"\(recipe_metrics.mae\)"),
    "infinity in a transform": (insert(MANIFEST, "transforms", '[{"offset": 1e999}]'), r"\(transforms.0.offset"),
    "half a character": (insert(MANIFEST, "topology", '"\\ud800"'), "cannot be read as JSON"),
    "a date without a zone": (edit(MANIFEST, lambda m: m.update(created_at="2026-01-01T00:00:00")), r"\(created_at\)"),
    "an invalid date": (edit(MANIFEST, lambda m: m.update(trained_until="soon")), r"\(trained_until\)"),
    "a graph outside the bundle": (
        edit(MANIFEST, lambda m: m.update(graphs={"forecast": "../model.onnx"})),
        "graphs.forecast",
    ),
    "another graph": (edit(MANIFEST, lambda m: m["graphs"].update(other="model.keras")), "graphs.other"),
    "no graph": (edit(MANIFEST, lambda m: m.update(graphs={})), r"\(graphs\)"),
    "another input size": (edit(MANIFEST, lambda m: m.update(input_size=23)), "inputs do not match input_size"),
    "another horizon": (
        edit(MANIFEST, lambda m: m.update(horizon=5)),
        "inputs do not match input_size|outputs must have mean",
    ),
    "another feature": (edit(MANIFEST, lambda m: m.update(hist_exog={"volume": []})), "inputs do not match"),
    "an endless roll-out": (edit(MANIFEST, lambda m: m.update(max_horizon=10**9)), "max_horizon must be"),
    "an invalid calendar": (edit(MANIFEST, lambda m: m.update(sessions=_sessions("00000000"))), "sessions.weekmask"),
    "an invalid histogram": (
        edit(MANIFEST, lambda m: m["training_data"]["reference"]["values"].update(edges=[2, 1])),
        r"\(training_data.reference.values",
    ),
    "a missing histogram": (
        edit(MANIFEST, lambda m: m["training_data"]["reference"].pop("values")),
        r"\(training_data\)",
    ),
    "an example without an actual": (edit(MANIFEST, lambda m: m["example"]["y"].pop()), "example must have"),
    "an example without a forecast": (
        edit(MANIFEST, lambda m: m["example"]["forecast"].pop("mean")),
        "example must have",
    ),
    "an example of no column of the model": (
        edit(MANIFEST, lambda m: m["example"]["hist_exog"].update(volume=[0.0] * 24)),
        "example must have",
    ),
    "an example that is not finite": (
        edit(MANIFEST, lambda m: m["example"].update(y=["inf"] * 28)),
        r"\(example.y.0",
    ),
    "windows of another shape": (edit("golden.json", lambda g: g["inputs"]["x"].pop()), "inputs must have the shapes"),
    "windows that are not finite": (
        write("golden.json", b'{"inputs": {"x": [[[1e999]]]}, "mean": [[1e999]]}', hashed=True),
        "malformed",
    ),
    "probabilities in disorder": (
        edit("calibration.json", lambda c: c["model"]["probabilities"].reverse()),
        "probabilities must increase",
    ),
    "probabilities that are not symmetric": (
        edit("calibration.json", lambda c: c["model"]["probabilities"].__setitem__(0, 1e-5)),
        "probabilities must be symmetric around 0.5",
    ),
    "residuals in disorder": (
        edit("calibration.json", lambda c: c["model"]["residuals"][0].reverse()),
        "residuals must be finite",
    ),
    "residuals with a missing step": (
        edit("calibration.json", lambda c: c["naive"]["residuals"].pop()),
        "residuals must have 4 rows",
    ),
    "residuals that are not finite": (
        insert(
            "calibration.json",
            "naive",
            '{"probabilities": [0.5], "residuals": [[1e999], [1], [1], [1]], "n_windows": 1}',
        ),
        "residuals must be finite",
    ),
    "templates of another horizon": (
        edit("calibration.json", lambda c: c["model"].update(templates=[row[1:] for row in c["model"]["templates"]])),
        "templates must be whole numbers in 4 columns",
    ),
    "templates that are not whole numbers": (
        edit("calibration.json", lambda c: c["naive"]["templates"][0].__setitem__(0, 0.5)),
        "templates must be whole numbers",
    ),
    "a rank beyond the number of templates": (
        edit("calibration.json", lambda c: c["model"]["templates"][0].__setitem__(0, 500)),
        "templates must have 1 to 500 rows",
    ),
    "a negative rank": (
        edit("calibration.json", lambda c: c["model"]["templates"][0].__setitem__(0, -1)),
        "ranks from 0 below their number",
    ),
    "too many templates": (
        edit("calibration.json", lambda c: c["model"].update(templates=[[0] * 4] * 501)),
        "templates must have 1 to 500 rows",
    ),
    "no templates": (edit("calibration.json", lambda c: c["model"].update(templates=[])), "templates must be"),
    "no windows": (edit("calibration.json", lambda c: c["model"].update(n_windows=0)), "n_windows"),
    "more effective windows than there are": (
        edit("calibration.json", lambda c: c["model"].update(n_effective=1e6)),
        "n_effective",
    ),
    "a decay that grows": (edit("calibration.json", lambda c: c["model"].update(decay=1.5)), "decay"),
    "a pull beyond the long run": (edit("calibration.json", lambda c: c["model"].update(pull=-1)), "pull"),
    "returns of values below 0": (edit("calibration.json", lambda c: c["model"].update(scale="returns")), "above 0"),
    "MLmodel is a list": (write("MLmodel", b"- flavors", hashed=True), r"MLmodel: is malformed \(TypeError\)"),
    "MLmodel is empty": (write("MLmodel", b"", hashed=True), "MLmodel: is malformed"),
    "MLmodel with aliases": (write("MLmodel", BOMB, hashed=True), r"MLmodel: is malformed \(ValueError\)"),
    "MLmodel with a tag": (write("MLmodel", b"flavors: !!python/object:os.x {}", hashed=True), "MLmodel: is malformed"),
    "deep MLmodel": (write("MLmodel", b"[" * 5000, hashed=True), "MLmodel: is malformed"),
    "MLmodel with a number of 5,000 digits": (write("MLmodel", b"a: " + b"9" * 5000, hashed=True), "is malformed"),
    "MLmodel with an invalid date": (write("MLmodel", b"a: 2026-99-99", hashed=True), "is malformed"),
    "MLmodel with another flavor": (edit("MLmodel", lambda m: m["flavors"].update(keras={})), "asks for code"),
    "residuals in an unknown unit": (edit("calibration.json", lambda c: c["naive"].update(scale="x")), "malformed"),
}


@pytest.mark.parametrize(("damage", "message"), BAD.values(), ids=BAD.keys())
def test_damaged_bundle_is_refused(folder: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(folder)
    with pytest.raises(BundleError, match=message):
        read_bundle(folder)


def test_every_file_of_a_bundle_is_hashed_and_none_is_a_pickle(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} - {"registered_model_meta"} == {MANIFEST, *HASHED_FILES}
    assert set(read_bundle(folder).manifest.sha256) == set(HASHED_FILES)
    assert not [path for path in folder.iterdir() if path.read_bytes()[:1] == b"\x80"]


def test_graph_with_other_golden_forecasts_is_refused(folder: Path) -> None:
    def add(golden: Any) -> None:
        golden["outputs"]["mean"][0][0] += 0.01

    edit("golden.json", add)(folder)
    with pytest.raises(BundleError, match=r"golden forecasts are off by .* of a window's scale"):
        ArrayPredictor(read_bundle(folder))


def test_file_that_is_not_a_graph_is_refused(folder: Path) -> None:
    write("model.onnx", b"not a graph")(folder)
    rehash(folder, "model.onnx")
    with pytest.raises(BundleError, match=r"model\.onnx: is not an ONNX model"):
        read_bundle(folder)


def test_calibration_of_an_earlier_release_gets_default_values(folder: Path) -> None:
    def remove_new_fields(calibrations: Any) -> None:
        for fields in calibrations.values():
            fields["scale"] = "ewma"
            for name in ("n_effective", "is_adaptive", "decay", "pull", "long_run"):
                del fields[name]

    edit("calibration.json", remove_new_fields)(folder)
    calibration = read_bundle(folder).calibration
    assert (calibration.unit.decay, calibration.unit.pull, calibration.is_adaptive) == (0.94, 0.0, True)
    assert calibration.n_effective == calibration.n_windows


def test_bundle_of_schema_version_2_still_forecasts() -> None:
    bundle = read_bundle(Path(__file__).parent / "bundles" / "schema-2")
    assert bundle.manifest.schema_version == 2
    assert bundle.manifest.inputs["known"].columns == ("price", "day_of_week")
    predictor, inputs = ArrayPredictor(bundle), bundle.golden.inputs
    mean = predictor.predict_arrays(inputs.values, known=inputs.known)
    np.testing.assert_allclose(mean, bundle.golden.forecasts.mean, rtol=1e-6)
    assert np.isfinite(predictor.quantiles(inputs.values, bundle.golden.forecasts, (0.1, 0.9))).all()


def test_bundle_of_schema_version_1_still_forecasts() -> None:
    bundle = read_bundle(Path(__file__).parent / "bundles" / "schema-1")
    assert bundle.manifest.schema_version == 1
    predictor = ArrayPredictor(bundle)
    mean = predictor.predict_arrays(bundle.golden.inputs.target)
    np.testing.assert_allclose(mean, bundle.golden.forecasts.mean, rtol=1e-6)
    assert predictor.predict_arrays(bundle.golden.inputs.target, horizon=5).shape == (8, 5)

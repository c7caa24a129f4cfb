"""Bundles made with intent, their hashes set right: each is refused in words, and the old version goes on serving."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from starlette.testclient import TestClient

from forecaster.registry.cache import ModelIndex, bundle_folder, read_indexes, write_index
from service.app import create_app
from service.settings import Settings
from tests.conftest import TrainedModels
from tests.registry.bundle_faults import edit_graph, loop, outer_product, pipe, slow
from tests.registry.registry_copy import Registry, copy_registry
from tests.service.test_models import answered_by, wait_until


def _largest(model: ModelProto) -> TensorProto:
    """Return the largest weights, which are constants of the graph."""
    constants: list[TensorProto] = [
        one.t for node in model.graph.node if node.op_type == "Constant" for one in node.attribute
    ]
    return max(constants, key=lambda one: int(np.prod(one.dims)))


def _weights_of_nan(model: ModelProto) -> None:
    largest = _largest(model)
    array = numpy_helper.to_array(largest)
    largest.CopyFrom(numpy_helper.from_array(np.full_like(array, np.nan), largest.name))


def _weights_from_elsewhere(model: ModelProto) -> None:
    largest = _largest(model)
    largest.ClearField("raw_data")
    largest.ClearField("float_data")
    largest.data_location = TensorProto.EXTERNAL
    entry = largest.external_data.add()
    entry.key, entry.value = "location", "../../../../../../etc/passwd"


def _operator_of_somebody(model: ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("somebody", 1))
    before = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["inner" if name == before else name for name in node.output]
    model.graph.node.append(helper.make_node("Run", ["inner"], [before], domain="somebody"))


def _another_shape(model: ModelProto) -> None:
    before = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["inner" if name == before else name for name in node.output]
    model.graph.node.append(helper.make_node("Concat", ["inner", "inner"], [before], axis=1))
    del model.graph.output[0].type.tensor_type.shape.dim[1:]
    model.graph.output[0].type.tensor_type.shape.dim.add().dim_param = "other"


def _another_input(model: ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 7


POISONS = {
    "weights of nan": _weights_of_nan,
    "weights from elsewhere": _weights_from_elsewhere,
    "operator of somebody": _operator_of_somebody,
    "another shape": _another_shape,
    "another input": _another_input,
    "an endless loop": loop("always"),
    "a loop for large values": loop("is_large"),
    "gigabytes": outer_product(17_500),
}


@pytest.fixture(scope="module")
def served(models: TrainedModels, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TestClient, Path]]:
    folder = tmp_path_factory.mktemp("poisoned")
    cache = Path(shutil.copytree(models.cache, folder / "cache"))
    app = create_app(Settings(cache_dir=cache, tracking_uri="", database_url=f"sqlite:///{folder}/l.db"))
    with TestClient(app, raise_server_exceptions=False) as client:
        wait_until(lambda: answered_by(client) == 1)
        yield client, cache


@pytest.mark.parametrize(("number", "change"), [*enumerate(POISONS.values())], ids=POISONS.keys())
def test_a_poisoned_version_is_refused_and_the_old_one_serves(
    served: tuple[TestClient, Path], number: int, change: Callable[[ModelProto], None]
) -> None:
    client, cache = served
    version = 10 + number
    folder = Path(shutil.copytree(bundle_folder(cache, "sine", 1), bundle_folder(cache, "sine", version)))
    edit_graph(change)(folder)
    runs = read_indexes(cache)["sine"].runs
    write_index(cache, "sine", ModelIndex({"champion": version}, {**runs, version: "0" * 32}))
    wait_until(lambda: f"version {version}: " in (client.get("/health/ready").json()["last_problem"] or ""))
    assert client.get("/health/ready").status_code == 200
    assert answered_by(client) == 1
    assert "forecaster_load_failures_total" in client.get("/metrics").text


@pytest.fixture
def registry(models: TrainedModels, tmp_path: Path) -> Registry:
    return copy_registry(models, tmp_path / "registry")


def _serving(registry: Registry, cache: Path) -> TestClient:
    settings = Settings(
        cache_dir=cache,
        tracking_uri=registry.uri,
        database_url=f"sqlite:///{registry.folder}/l.db",
        refresh_seconds=0.5,
        trial_seconds=1,
    )
    return TestClient(create_app(settings), raise_server_exceptions=False)


def _last_problem(client: TestClient) -> str:
    return client.get("/health/ready").json()["last_problem"] or ""


def test_bad_versions_in_the_registry_stop_no_swap_and_are_told(registry: Registry, tmp_path: Path) -> None:
    registry.add("bad", registry.bundle("bad", edit_graph(slow(20_000))))
    registry.add("sine", registry.bundle("sine", pipe("golden.json")), alias="challenger")
    registry.execute("INSERT INTO registered_models (name) VALUES (?)", 'it\'s "both"')
    with _serving(registry, tmp_path / "cache") as client:
        wait_until(lambda: answered_by(client) == 1)
        wait_until(lambda: "model 'bad' version 1: its trial took more than 1 s" in _last_problem(client))
        problem = _last_problem(client)
        assert "model 'sine' version 3: 'golden.json' is not a regular file" in problem
        assert "its name cannot be served" in problem
        assert str(tmp_path) not in problem
        failures = 'forecaster_load_failures_total{where="sync"} 3.0'
        assert failures in client.get("/metrics").text
        new = registry.add("sine", registry.bundle("sine"))
        wait_until(lambda: answered_by(client) == new)
        # told once, however often it is found
        assert failures in client.get("/metrics").text
        assert client.get("/health/ready").json()["models"]["sine"]["champion"] == new


def test_an_emptied_registry_leaves_what_is_served(registry: Registry, tmp_path: Path) -> None:
    with _serving(registry, tmp_path / "cache") as client:
        wait_until(lambda: answered_by(client) == 1)
        registry.execute("DELETE FROM model_versions")
        registry.execute("DELETE FROM registered_models")
        wait_until(lambda: "--allow-empty" in _last_problem(client))
        assert answered_by(client) == 1
        registry.file.write_bytes(b"")
        wait_until(lambda: "MLflow does not answer" in _last_problem(client))
        assert answered_by(client) == 1
    # a process that starts now serves it too
    with _serving(registry, tmp_path / "cache") as client:
        wait_until(lambda: answered_by(client) == 1)


def test_any_error_of_one_version_leaves_the_others_loaded(models: TrainedModels, tmp_path: Path) -> None:
    cache = Path(shutil.copytree(models.cache, tmp_path / "cache"))
    for name in ("aaa", "zzz"):
        shutil.copytree(cache / "sine", cache / name)
    (cache / "aaa" / "index.json").write_text("[" * 100_000)
    # where a folder is due
    shutil.rmtree(bundle_folder(cache, "zzz", 1))
    os.mkfifo(bundle_folder(cache, "zzz", 1))
    settings = Settings(cache_dir=cache, tracking_uri="", database_url=f"sqlite:///{tmp_path}/l.db")
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        wait_until(lambda: answered_by(client) == 1)
        listed = client.get("/health/ready").json()["models"]
        assert set(listed) == {"sine", "zzz"}
        assert client.get("/v1/models/zzz").json()["versions"].keys() == {"2"}
        assert "model 'aaa': " in _last_problem(client)
        assert "model 'zzz' version 1: " in _last_problem(client)
        assert client.get("/metrics").status_code == 200

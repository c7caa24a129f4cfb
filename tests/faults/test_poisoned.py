"""Malicious bundles with correct hashes: each is refused and reported, and the previous version is served."""

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
from tests.registry.ruined import Registry, registry_of
from tests.registry.spoiling import loop, outer_product, pipe, poison, slow
from tests.service.test_models import answered_by, wait_until


def _largest(model: ModelProto) -> TensorProto:
    """Return the largest constant of the graph."""
    constants: list[TensorProto] = [
        attribute.t for node in model.graph.node if node.op_type == "Constant" for attribute in node.attribute
    ]
    return max(constants, key=lambda constant: int(np.prod(constant.dims)))


def _nan_weights(model: ModelProto) -> None:
    largest = _largest(model)
    array = numpy_helper.to_array(largest)
    largest.CopyFrom(numpy_helper.from_array(np.full_like(array, np.nan), largest.name))


def _external_weights(model: ModelProto) -> None:
    largest = _largest(model)
    largest.ClearField("raw_data")
    largest.ClearField("float_data")
    largest.data_location = TensorProto.EXTERNAL
    entry = largest.external_data.add()
    entry.key, entry.value = "location", "../../../../../../etc/passwd"


def _custom_operator(model: ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("custom", 1))
    before = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["inner" if name == before else name for name in node.output]
    model.graph.node.append(helper.make_node("Run", ["inner"], [before], domain="custom"))


def _other_output_shape(model: ModelProto) -> None:
    before = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["inner" if name == before else name for name in node.output]
    model.graph.node.append(helper.make_node("Concat", ["inner", "inner"], [before], axis=1))
    del model.graph.output[0].type.tensor_type.shape.dim[1:]
    model.graph.output[0].type.tensor_type.shape.dim.add().dim_param = "other"


def _other_input_shape(model: ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 7


POISONS = {
    "nan weights": _nan_weights,
    "external weights": _external_weights,
    "custom operator": _custom_operator,
    "other output shape": _other_output_shape,
    "other input shape": _other_input_shape,
    "endless loop": loop("always"),
    "loop for large values": loop("is_large"),
    "gigabytes of memory": outer_product(17_500),
}


@pytest.fixture(scope="module")
def service(models: TrainedModels, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TestClient, Path]]:
    folder = tmp_path_factory.mktemp("poisoned")
    cache = Path(shutil.copytree(models.cache, folder / "cache"))
    app = create_app(Settings(cache_dir=cache, tracking_uri="", database_url=f"sqlite:///{folder}/l.db"))
    with TestClient(app, raise_server_exceptions=False) as client:
        wait_until(lambda: answered_by(client) == 1)
        yield client, cache


@pytest.mark.parametrize(("number", "change"), [*enumerate(POISONS.values())], ids=POISONS.keys())
def test_malicious_version_is_refused_and_the_previous_one_stays(
    service: tuple[TestClient, Path], number: int, change: Callable[[ModelProto], None]
) -> None:
    client, cache = service
    version = 10 + number
    folder = Path(shutil.copytree(bundle_folder(cache, "sine", 1), bundle_folder(cache, "sine", version)))
    poison(change)(folder)
    runs = read_indexes(cache)["sine"].runs
    write_index(cache, "sine", ModelIndex({"champion": version}, {**runs, version: "0" * 32}))
    wait_until(lambda: f"version {version}: " in (client.get("/health/ready").json()["last_problem"] or ""))
    assert client.get("/health/ready").status_code == 200
    assert answered_by(client) == 1
    assert "forecaster_load_failures_total" in client.get("/metrics").text


@pytest.fixture
def registry(models: TrainedModels, tmp_path: Path) -> Registry:
    return registry_of(models, tmp_path / "registry")


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


def test_bad_versions_in_the_registry_are_reported_and_do_not_block_others(registry: Registry, tmp_path: Path) -> None:
    registry.add("bad", registry.bundle("bad", poison(slow(20_000))))
    registry.add("sine", registry.bundle("sine", pipe("golden.json")), alias="challenger")
    registry.execute("INSERT INTO registered_models (name) VALUES (?)", 'it\'s "both"')
    with _serving(registry, tmp_path / "cache") as client:
        wait_until(lambda: answered_by(client) == 1)
        wait_until(lambda: "model 'bad' version 1: its trial took more than 1 s" in _last_problem(client))
        problem = _last_problem(client)
        assert "model 'sine' version 3: unknown files ['golden.json']" in problem
        assert "its name cannot be served" in problem
        assert str(tmp_path) not in problem
        failures = 'forecaster_load_failures_total{where="sync"} 3.0'
        assert failures in client.get("/metrics").text
        new = registry.add("sine", registry.bundle("sine"))
        wait_until(lambda: answered_by(client) == new)
        # each problem is counted once, though every sync finds it
        assert failures in client.get("/metrics").text
        assert client.get("/health/ready").json()["models"]["sine"]["champion"] == new


def test_emptied_registry_keeps_served_versions(registry: Registry, tmp_path: Path) -> None:
    with _serving(registry, tmp_path / "cache") as client:
        wait_until(lambda: answered_by(client) == 1)
        registry.execute("DELETE FROM model_versions")
        registry.execute("DELETE FROM registered_models")
        wait_until(lambda: "--allow-empty" in _last_problem(client))
        assert answered_by(client) == 1
        registry.file.write_bytes(b"")
        wait_until(lambda: "MLflow does not answer" in _last_problem(client))
        assert answered_by(client) == 1
    # a restarted service serves the cache too
    with _serving(registry, tmp_path / "cache") as client:
        wait_until(lambda: answered_by(client) == 1)


def test_unreadable_version_does_not_prevent_loading_others(models: TrainedModels, tmp_path: Path) -> None:
    cache = Path(shutil.copytree(models.cache, tmp_path / "cache"))
    for name in ("aaa", "zzz"):
        shutil.copytree(cache / "sine", cache / name)
    (cache / "aaa" / "index.json").write_text("[" * 100_000)
    # a FIFO instead of the bundle's folder
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

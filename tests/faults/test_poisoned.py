"""Bundles made with intent, their hashes set right: each is refused in words, and the old version goes on serving."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from starlette.testclient import TestClient

from forecaster.domain.manifest import MANIFEST, MODEL
from forecaster.registry.cache import ModelIndex, bundle_folder, read_indexes, write_index
from forecaster.registry.files import hash_file
from service.app import create_app
from service.settings import Settings
from tests.conftest import House
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


POISONS = (_weights_of_nan, _weights_from_elsewhere, _operator_of_somebody, _another_shape, _another_input)


@pytest.fixture(scope="module")
def served(house: House, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TestClient, Path]]:
    folder = tmp_path_factory.mktemp("poisoned")
    cache = Path(shutil.copytree(house.cache, folder / "cache"))
    app = create_app(Settings(cache_dir=cache, tracking_uri="", database_url=f"sqlite:///{folder}/l.db"))
    with TestClient(app, raise_server_exceptions=False) as client:
        wait_until(lambda: answered_by(client) == 1)
        yield client, cache


@pytest.mark.parametrize("number", range(len(POISONS)), ids=[one.__name__.strip("_") for one in POISONS])
def test_a_poisoned_version_is_refused_and_the_old_one_serves(served: tuple[TestClient, Path], number: int) -> None:
    client, cache = served
    poison: Callable[[ModelProto], None] = POISONS[number]
    version = 10 + number
    folder = Path(shutil.copytree(bundle_folder(cache, "sine", 1), bundle_folder(cache, "sine", version)))
    model = onnx.load(folder / MODEL)
    poison(model)
    (folder / MODEL).write_bytes(model.SerializeToString())
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["sha256"][MODEL] = hash_file(folder / MODEL)
    (folder / MANIFEST).write_text(json.dumps(manifest))
    runs = read_indexes(cache)["sine"].runs
    write_index(cache, "sine", ModelIndex({"champion": version}, {**runs, version: "0" * 32}))
    wait_until(lambda: f"version {version}: " in (client.get("/health/ready").json()["last_problem"] or ""))
    assert client.get("/health/ready").status_code == 200
    assert answered_by(client) == 1
    assert "forecaster_load_failures_total" in client.get("/metrics").text

"""The graph check accepts every graph that this project exports, and no other."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper

from forecaster.data.preprocessing import Preprocessing
from forecaster.data.transforms import AnyTransform, Chain, LastSeason, LastValue
from forecaster.domain.errors import BundleError
from forecaster.domain.manifest import MODEL, Manifest, Tensor
from forecaster.models.decoders import EachStep, Last
from forecaster.models.network import ModelConfig, build_model, output_shapes
from forecaster.models.shape import NetworkShape
from forecaster.models.trained import TrainedNetwork
from forecaster.registry.bundle import read_bundle
from forecaster.registry.cache import bundle_folder
from forecaster.registry.graph import OPERATORS, check_graph
from tests.conftest import TrainedModels
from tests.models.combinations import cover, trained_network
from tests.models.tracing import fast_traces
from tests.registry.bundle_faults import before_the_end, constant, edit_graph, loop

INPUT_SIZE, HORIZON = 5, 3
TRANSFORMS = get_args(get_args(AnyTransform)[0])


def _manifest(trained: TrainedNetwork, manifest: Manifest) -> Manifest:
    """Return a manifest with the tensors of a network's graph."""
    shapes = trained.preprocessing.shapes(trained.shape.input_size, trained.shape.horizon)
    tensors = {name: Tensor(shape=shape, columns=tuple(map(str, range(shape[-1])))) for name, shape in shapes.items()}
    outputs = dict(output_shapes(trained.config, trained.shape))
    return manifest.model_copy(update={"inputs": tensors, "outputs": outputs})


def _networks() -> Iterator[TrainedNetwork]:
    """Yield networks whose graphs have every operator: all pairs of parts, transforms, and a layer of many steps."""
    for combination in cover(2):
        yield trained_network(combination, np.random.default_rng(0))[0]
    long, shape = ModelConfig(cell="simple_rnn"), NetworkShape(200, HORIZON)
    yield TrainedNetwork(build_model(long, shape), long, shape, Preprocessing(target=Chain(steps=(), is_causal=False)))
    for kind, is_causal in product(TRANSFORMS, (False, True)):
        if kind is LastSeason and is_causal:
            continue  # refused: a step has no last season before the window's first season ends
        own = {"season": 2} if kind is LastSeason else {}
        step = kind(**own).fit([np.arange(1.0, 9.0)])
        config = ModelConfig(decoder=EachStep() if is_causal else Last())
        shape = NetworkShape(INPUT_SIZE, HORIZON)
        target = Chain(steps=(step,), is_causal=is_causal)
        yield TrainedNetwork(build_model(config, shape), config, shape, Preprocessing(target=target))
    # one transform whose graph handles missing values in every way
    config, shape = ModelConfig(), NetworkShape(INPUT_SIZE, HORIZON, 2)
    target = Chain(steps=(LastValue(),), is_causal=False, is_masked=True)
    yield TrainedNetwork(build_model(config, shape), config, shape, Preprocessing(target=target, is_masked=True))


def test_allow_list_is_exactly_what_this_project_exports(models: TrainedModels) -> None:
    manifest = read_bundle(bundle_folder(models.cache, "sine", 1)).manifest
    written: dict[str, set[str]] = {}
    for trained in _networks():
        with fast_traces():
            graph = trained.trace()
        check_graph(graph.SerializeToString(), _manifest(trained, manifest))
        for node in graph.graph.node:
            written.setdefault(node.op_type, set()).update(attribute.name for attribute in node.attribute)
    assert written == {name: set(attributes) for name, attributes in OPERATORS.items()}


def _function(model: ModelProto) -> None:
    node = helper.make_node("Identity", ["a"], ["b"])
    model.functions.append(helper.make_function("", "Identity", ["a"], ["b"], [node], model.opset_import))


def _initializer(model: ModelProto) -> None:
    model.graph.initializer.append(helper.make_tensor("weights", TensorProto.DOUBLE, [1], [1.0]))


def _sequence_lengths(model: ModelProto) -> None:
    model.graph.node.append(helper.make_node("Cast", ["inner"], ["lengths"], to=TensorProto.INT64))
    next(node for node in model.graph.node if node.op_type == "GRU").input.append("lengths")


def _opset(model: ModelProto) -> None:
    model.opset_import[0].version = 22


def _wide_input(model: ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 7


def _other_input(model: ModelProto) -> None:
    model.graph.input[0].name = "y"


def _one_window(model: ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


def _float_output(model: ModelProto) -> None:
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT


def _another_output(model: ModelProto) -> None:
    model.graph.output.append(helper.make_tensor_value_info("inner", TensorProto.DOUBLE, ["batch", 4]))


def _short_constant(model: ModelProto) -> None:
    node = constant("short", [1.0, 2.0])
    node.attribute[0].t.dims[0] = 2**40
    model.graph.node.append(node)


def _duplicate_name(model: ModelProto) -> None:
    model.graph.node.append(constant(model.graph.node[0].output[0], 1.0))


def _by_values(kind: str, *inputs: str, **attributes: Any) -> Callable[[ModelProto], None]:
    """Return a change that lets the values from a client determine a shape, or which values are read."""
    return before_the_end(
        helper.make_node("Cast", ["inner"], ["from_input"], to=TensorProto.INT64),
        constant("one", np.array([1], dtype=np.int64)),
        helper.make_node(kind, list(inputs), ["mean"], **attributes),
    )


FOREIGN: dict[str, tuple[Callable[[ModelProto], None], str]] = {
    "an endless loop": (loop("always"), "field 6 of ONNX's Attribute"),
    "a loop for large values only": (loop("is_large"), "field 6 of ONNX's Attribute"),
    "a function": (_function, "field 25 of ONNX's Model"),
    "an initializer": (_initializer, "field 5 of ONNX's Graph"),
    "another opset": (_opset, "opset"),
    "an operator that ONNX has": (before_the_end(helper.make_node("Det", ["inner"], ["mean"])), "operator 'Det'"),
    "an operator of another domain": (
        before_the_end(helper.make_node("Identity", ["inner"], ["mean"], domain="somebody")),
        "operator 'somebody.Identity'",
    ),
    "text": (before_the_end(helper.make_node("Cast", ["inner"], ["mean"], to=8)), "casts to ONNX's type 8"),
    "a shape of gigabytes": (
        before_the_end(
            constant("gigabytes", np.array([300_000_000, 1, 1], dtype=np.int64)),
            helper.make_node("Expand", ["inner", "gigabytes"], ["mean"]),
        ),
        r"Expand takes its parameters from \['Constant'\]",
    ),
    "a shape from values": (
        _by_values("Expand", "inner", "from_input"),
        r"Expand takes its parameters from \['Cast'\]",
    ),
    "a reshape by values": (
        _by_values("Reshape", "inner", "from_input"),
        r"Reshape takes its parameters from \['Cast'\]",
    ),
    "a slice by values": (_by_values("Slice", "inner", "one", "from_input"), "Slice takes its parameters from"),
    "rows by values": (_by_values("Gather", "inner", "from_input"), r"Gather takes its parameters from \['Cast'\]"),
    "rows by the graph's input": (
        _by_values("Gather", "inner", "x"),
        r"Gather takes its parameters from \['an input'\]",
    ),
    "an attribute of another version": (_by_values("CumSum", "inner", "one", other=1), r"attributes \['other'\]"),
    "sequence lengths by values": (_sequence_lengths, "GRU has sequence lengths"),
    "an input of another length": (_wide_input, r"'x': \(7, 1\)"),
    "an input of another name": (_other_input, "'y'"),
    "one window at a time": (_one_window, "not float64 for any batch"),
    "an output of another type": (_float_output, "not float64 for any batch"),
    "another output": (_another_output, "'inner'"),
    "a constant without its bytes": (_short_constant, "a constant does not have its declared type and size"),
    "a duplicate name": (_duplicate_name, "two values have the same name"),
}


@pytest.mark.parametrize(("change", "message"), FOREIGN.values(), ids=FOREIGN.keys())
def test_graph_that_is_not_exported_here_is_refused(
    models: TrainedModels, tmp_path: Path, change: Callable[[ModelProto], None], message: str
) -> None:
    folder = Path(shutil.copytree(bundle_folder(models.cache, "sine", 1), tmp_path / "bundle"))
    edit_graph(change)(folder)
    with pytest.raises(BundleError, match=message):
        read_bundle(folder)


def test_random_bytes_raise_only_bundle_errors(models: TrainedModels) -> None:
    folder = bundle_folder(models.cache, "sine", 1)
    manifest, good = read_bundle(folder).manifest, (folder / MODEL).read_bytes()
    random = np.random.default_rng(0)
    for _ in range(300):
        content = bytearray(good)
        for position in random.integers(0, len(good), 4):
            content[position] = int(random.integers(0, 256))
        with suppress(BundleError):
            check_graph(bytes(content), manifest)

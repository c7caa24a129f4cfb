"""Check that a served graph contains only the ONNX fields, operators and attributes that this project exports.

None of the operators repeats anything, and a shape is determined only by constants or by another value's shape. So time
and memory depend only on the size of the batch, not on the values that a client sends, and a trial run of each served
batch size covers all requests.

The protobuf messages are declared here because the package `onnx` is not installed for serving. Only the fields that an
export writes are declared. All others, such as functions, subgraphs and external data, are unknown fields and refused.
"""

import math
from functools import cache
from typing import Any

from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.unknown_fields import UnknownFieldSet

from forecaster.domain.errors import BundleError
from forecaster.domain.manifest import MODEL, Manifest

OPSETS = frozenset({21})
# each operator with its attributes; a test checks that an export writes each of them
OPERATORS: dict[str, frozenset[str]] = {
    "Abs": frozenset(),
    "Add": frozenset(),
    "Cast": frozenset({"to", "saturate"}),
    "Concat": frozenset({"axis"}),
    "Constant": frozenset({"value"}),
    "CumSum": frozenset({"exclusive", "reverse"}),
    "Div": frozenset(),
    "Exp": frozenset(),
    "Expand": frozenset(),
    "GRU": frozenset({"direction", "hidden_size", "layout", "linear_before_reset"}),
    "Gather": frozenset({"axis"}),
    "Gemm": frozenset({"alpha", "beta", "transA", "transB"}),
    "Greater": frozenset(),
    "Identity": frozenset(),
    "IsNaN": frozenset(),
    "LSTM": frozenset({"direction", "hidden_size", "input_forget", "layout"}),
    "Log": frozenset(),
    "MatMul": frozenset(),
    "Mul": frozenset(),
    "Pow": frozenset(),
    "RNN": frozenset({"activations", "direction", "hidden_size", "layout"}),
    "ReduceProd": frozenset({"keepdims", "noop_with_empty_axes"}),
    "ReduceSum": frozenset({"keepdims", "noop_with_empty_axes"}),
    "Relu": frozenset(),
    "Reshape": frozenset({"allowzero"}),
    "Shape": frozenset({"start"}),
    "Slice": frozenset(),
    "Softmax": frozenset({"axis"}),
    "Softplus": frozenset(),
    "Split": frozenset({"axis", "num_outputs"}),
    "Sqrt": frozenset(),
    "Squeeze": frozenset(),
    "Sub": frozenset(),
    "Tanh": frozenset(),
    "Transpose": frozenset({"perm"}),
    "Unsqueeze": frozenset(),
    "Where": frozenset(),
}
# operators whose inputs after the first determine a shape, or which values are read
_BY_CONSTANTS = frozenset(
    {"CumSum", "Gather", "ReduceProd", "ReduceSum", "Reshape", "Slice", "Split", "Squeeze", "Unsqueeze"}
)
# the position of the sequence lengths among the inputs of a recurrent operator; an export writes none
_LENGTHS = 4
# bytes per value of ONNX's types float32 (1), int64 (7) and float64 (11)
_ITEM_BYTES = {1: 4, 7: 8, 11: 8}
_FLOAT64 = 11

# each field's number, its type (a scalar or another message), and whether it is repeated
_MESSAGES: dict[str, dict[str, tuple[int, str, bool]]] = {
    "Model": {
        "ir_version": (1, "int64", False),
        "producer_name": (2, "bytes", False),
        "producer_version": (3, "bytes", False),
        "domain": (4, "bytes", False),
        "model_version": (5, "int64", False),
        "doc_string": (6, "bytes", False),
        "graph": (7, "Graph", False),
        "opset_import": (8, "Opset", True),
        "metadata_props": (14, "Entry", True),
    },
    "Opset": {"domain": (1, "bytes", False), "version": (2, "int64", False)},
    "Entry": {"key": (1, "bytes", False), "value": (2, "bytes", False)},
    "Graph": {
        "node": (1, "Node", True),
        "name": (2, "bytes", False),
        "doc_string": (10, "bytes", False),
        "input": (11, "Value", True),
        "output": (12, "Value", True),
    },
    "Node": {
        "input": (1, "bytes", True),
        "output": (2, "bytes", True),
        "name": (3, "bytes", False),
        "op_type": (4, "bytes", False),
        "attribute": (5, "Attribute", True),
        "doc_string": (6, "bytes", False),
        "domain": (7, "bytes", False),
    },
    "Attribute": {
        "name": (1, "bytes", False),
        "f": (2, "float", False),
        "i": (3, "int64", False),
        "s": (4, "bytes", False),
        "t": (5, "Tensor", False),
        "ints": (8, "int64", True),
        "strings": (9, "bytes", True),
        "doc_string": (13, "bytes", False),
        "type": (20, "int32", False),
    },
    "Tensor": {
        "dims": (1, "int64", True),
        "data_type": (2, "int32", False),
        "name": (8, "bytes", False),
        "raw_data": (9, "bytes", False),
    },
    "Value": {"name": (1, "bytes", False), "type": (2, "Type", False)},
    "Type": {"tensor_type": (1, "TensorType", False)},
    "TensorType": {"elem_type": (1, "int32", False), "shape": (2, "Shape", False)},
    "Shape": {"dim": (1, "Dimension", True)},
    "Dimension": {"dim_value": (1, "int64", False), "dim_param": (2, "bytes", False)},
}


def check_graph(content: bytes, manifest: Manifest) -> None:
    """Raise BundleError unless this project could have exported a graph, with the manifest's shapes.

    Args:
        content: the bytes of an ONNX model.
        manifest: the manifest of the same bundle.
    """
    model: Any = _message_class("Model")()
    try:
        model.ParseFromString(content)
    except DecodeError as error:
        raise BundleError(f"{MODEL}: is not an ONNX model; register the model again") from error
    _check_fields(model)
    if [(opset.domain, opset.version in OPSETS) for opset in model.opset_import] != [(b"", True)]:
        raise BundleError(f"{MODEL}: does not use ONNX's opset {sorted(OPSETS)}; train the model again")
    _check_names(model.graph)
    producers = {name: node.op_type.decode(errors="replace") for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        _check_node(node, producers)
    _check_values(model.graph.input, manifest.shapes)
    _check_values(model.graph.output, dict(manifest.outputs))


def _check_fields(message: Message) -> None:
    """Raise BundleError if a message, or a nested message, has a field that no export writes."""
    kind = message.DESCRIPTOR.name
    for unknown in UnknownFieldSet(message):
        raise BundleError(
            f"{MODEL}: field {unknown.field_number} of ONNX's {kind} (such as functions, subgraphs, external data) is "
            "not what this program exports; do not serve it"
        )
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in value if field.is_repeated else (value,):
                _check_fields(inner)


def _check_names(graph: Any) -> None:
    names = [value.name for value in graph.input] + [name for node in graph.node for name in node.output if name]
    if len(set(names)) < len(names):
        raise BundleError(f"{MODEL}: two values have the same name; do not serve it")


def _check_node(node: Any, producers: dict[bytes, str]) -> None:
    kind = node.op_type.decode(errors="replace")
    if node.domain or kind not in OPERATORS:
        name = f"{node.domain.decode(errors='replace')}.{kind}".strip(".")
        raise BundleError(f"{MODEL}: has the operator {name!a}, which this program does not export; do not serve it")
    unknown = sorted({attribute.name.decode(errors="replace") for attribute in node.attribute} - OPERATORS[kind])
    if unknown:
        raise BundleError(f"{MODEL}: {kind} has the attributes {unknown!a}, which this program does not export")
    if kind in ("GRU", "LSTM", "RNN") and any(node.input[_LENGTHS : _LENGTHS + 1]):
        raise BundleError(f"{MODEL}: {kind} has sequence lengths, which this program does not export")
    sources = [producers.get(name, "an input") for name in node.input[1:] if name]
    # an embedding is a constant table, whose rows may be chosen by values: that determines no shape
    is_table = kind == "Gather" and producers.get(node.input[0]) == "Constant"
    is_by_constants = kind in _BY_CONSTANTS and not is_table
    allowed = {"Constant"} if is_by_constants else {"Shape"} if kind == "Expand" else set(sources)
    if not allowed.issuperset(sources):
        raise BundleError(
            f"{MODEL}: {kind} takes its parameters from {sources!a}, but this program exports it only with "
            f"{sorted(allowed)}; do not serve it"
        )
    for attribute in node.attribute:
        if kind == "Constant":
            _check_tensor(attribute.t)
        elif kind == "Cast" and attribute.name == b"to" and attribute.i not in _ITEM_BYTES:
            raise BundleError(f"{MODEL}: casts to ONNX's type {attribute.i}, which this program does not export")


def _check_tensor(tensor: Any) -> None:
    size = _ITEM_BYTES.get(tensor.data_type, 0) * math.prod(tensor.dims)
    if tensor.data_type not in _ITEM_BYTES or min(tensor.dims, default=0) < 0 or size != len(tensor.raw_data):
        raise BundleError(f"{MODEL}: a constant does not have its declared type and size; register the model again")


def _check_values(values: Any, expected: dict[str, tuple[int, ...]]) -> None:
    """Raise BundleError unless inputs or outputs are float64, with any batch size and the expected other dimensions."""
    found = {}
    for value in values:
        tensor = value.type.tensor_type
        batch, *others = [dim if dim.HasField("dim_value") else None for dim in tensor.shape.dim] or [None]
        is_any_batch = batch is None and tensor.elem_type == _FLOAT64
        name = value.name.decode(errors="replace")
        found[name] = tuple(dim and dim.dim_value for dim in others) if is_any_batch else "not float64 for any batch"
    if found != expected:
        raise BundleError(f"{MODEL}: has {found!a} where the manifest says {expected}; register the model again")


@cache
def _message_class(name: str) -> type[Message]:
    file = FileDescriptorProto(name="exported.proto", package="exported", syntax="proto2")
    for message, fields in _MESSAGES.items():
        declared = DescriptorProto(name=message)
        for field, (number, kind, is_repeated) in fields.items():
            added = declared.field.add(name=field, number=number)
            added.label = FieldDescriptorProto.LABEL_REPEATED if is_repeated else FieldDescriptorProto.LABEL_OPTIONAL
            if kind in _MESSAGES:
                added.type, added.type_name = FieldDescriptorProto.TYPE_MESSAGE, f".exported.{kind}"
            else:
                added.type = FieldDescriptorProto.Type.Value(f"TYPE_{kind.upper()}")
        file.message_type.append(declared)
    pool = DescriptorPool()
    pool.Add(file)
    found: type[Message] = GetMessageClass(pool.FindMessageTypeByName(f"exported.{name}"))
    return found

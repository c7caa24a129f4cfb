"""The served graph, held to what this project exports: an allow-list of ONNX' fields, operators and attributes.

No operator here repeats anything, and what decides a shape is a constant or another value's shape. So time and memory
depend on the batch's size alone, not on what a client sends, and a trial of each size that is served tells all of it.

The messages are declared here because the package `onnx` is no part of serving. Only fields that an export writes are
declared, so functions, subgraphs, external data and whatever ONNX adds later are unknown fields, and refused.
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
# by operator, its attributes; each one is written by an export, and a test holds that
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
    "Greater": frozenset(),
    "Identity": frozenset(),
    "LSTM": frozenset({"direction", "hidden_size", "input_forget", "layout"}),
    "Log": frozenset(),
    "MatMul": frozenset(),
    "Mul": frozenset(),
    "Pow": frozenset(),
    "RNN": frozenset({"activations", "direction", "hidden_size", "layout"}),
    "ReduceProd": frozenset({"keepdims", "noop_with_empty_axes"}),
    "ReduceSum": frozenset({"keepdims", "noop_with_empty_axes"}),
    "Reshape": frozenset({"allowzero"}),
    "Shape": frozenset({"start"}),
    "Slice": frozenset(),
    "Sqrt": frozenset(),
    "Squeeze": frozenset(),
    "Sub": frozenset(),
    "Transpose": frozenset({"perm"}),
    "Unsqueeze": frozenset(),
    "Where": frozenset(),
}
# those whose inputs behind the first decide a shape, or what is read
_BY_CONSTANTS = frozenset({"CumSum", "Gather", "ReduceProd", "ReduceSum", "Reshape", "Slice", "Squeeze", "Unsqueeze"})
# a recurrent operator's weights come first; lengths and states behind them are for values to decide
_RECURRENT_INPUTS = 4
# ONNX' numbers of float32, int64 and float64, and the bytes of one
_ITEM_BYTES = {1: 4, 7: 8, 11: 8}
_FLOAT64 = 11

# each field: its number, its type (another message by name), whether it is repeated
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
    """Raise BundleError unless a graph is one that this project can have exported, of the manifest's shapes.

    Args:
        content: an ONNX model as its file has it.
        manifest: of the same bundle.
    """
    model: Any = _message_class("Model")()
    try:
        model.ParseFromString(content)
    except DecodeError as error:
        raise BundleError(f"{MODEL}: is no ONNX model; register the model again") from error
    _check_known(model)
    if [(one.domain, one.version in OPSETS) for one in model.opset_import] != [(b"", True)]:
        raise BundleError(f"{MODEL}: is not of ONNX' own opset {sorted(OPSETS)}; train the model again")
    _check_names(model.graph)
    makers = {name: node.op_type.decode(errors="replace") for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        _check_node(node, makers)
    _check_values(model.graph.input, manifest.shapes)
    _check_values(model.graph.output, {"mean": (manifest.horizon,)})


def _check_known(message: Message) -> None:
    """Raise BundleError where a message, or one in it, has a field that no export writes."""
    kind = message.DESCRIPTOR.name
    for unknown in UnknownFieldSet(message):
        raise BundleError(
            f"{MODEL}: field {unknown.field_number} of ONNX' {kind} (such as functions, subgraphs, external data) is "
            "not what this program exports; do not serve it"
        )
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in value if field.is_repeated else (value,):
                _check_known(inner)


def _check_names(graph: Any) -> None:
    made = [one.name for one in graph.input] + [name for node in graph.node for name in node.output if name]
    if len(set(made)) < len(made):
        raise BundleError(f"{MODEL}: a value is made twice; do not serve it")


def _check_node(node: Any, makers: dict[bytes, str]) -> None:
    kind = node.op_type.decode(errors="replace")
    if node.domain or kind not in OPERATORS:
        name = f"{node.domain.decode(errors='replace')}.{kind}".strip(".")
        raise BundleError(f"{MODEL}: has the operator {name!a}, which this program does not export; do not serve it")
    unknown = sorted({one.name.decode(errors="replace") for one in node.attribute} - OPERATORS[kind])
    if unknown:
        raise BundleError(f"{MODEL}: {kind} has the attributes {unknown!a}, which this program does not export")
    if kind in ("GRU", "LSTM", "RNN") and any(node.input[_RECURRENT_INPUTS:]):
        raise BundleError(f"{MODEL}: {kind} has more than weights, which this program does not export")
    deciding = [makers.get(name, "an input") for name in node.input[1:] if name]
    wanted = {"Constant"} if kind in _BY_CONSTANTS else {"Shape"} if kind == "Expand" else set(deciding)
    if not wanted.issuperset(deciding):
        raise BundleError(
            f"{MODEL}: {kind} is decided by {deciding!a}, and only by {sorted(wanted)} in what this program exports; "
            "do not serve it"
        )
    for attribute in node.attribute:
        if kind == "Constant":
            _check_tensor(attribute.t)
        elif kind == "Cast" and attribute.name == b"to" and attribute.i not in _ITEM_BYTES:
            raise BundleError(f"{MODEL}: casts to ONNX' type {attribute.i}, which this program does not export")


def _check_tensor(tensor: Any) -> None:
    size = _ITEM_BYTES.get(tensor.data_type, 0) * math.prod(tensor.dims)
    if tensor.data_type not in _ITEM_BYTES or min(tensor.dims, default=0) < 0 or size != len(tensor.raw_data):
        raise BundleError(f"{MODEL}: a constant is not of the type and size that it says; register the model again")


def _check_values(values: Any, expected: dict[str, tuple[int, ...]]) -> None:
    """Raise BundleError unless inputs or outputs are float64, of these shapes behind the batch, whose size is open."""
    found = {}
    for one in values:
        about = one.type.tensor_type
        first, *others = [one if one.HasField("dim_value") else None for one in about.shape.dim] or [None]
        is_open = first is None and about.elem_type == _FLOAT64
        name = one.name.decode(errors="replace")
        found[name] = tuple(dim and dim.dim_value for dim in others) if is_open else "not float64 for any batch"
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

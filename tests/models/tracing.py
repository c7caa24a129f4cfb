"""Traces of graphs in a fifth of the time.

spox infers the type and the value of every constant by running a model of this one node, and the types of every other
node twice. A constant's type and value are those of its array, and the second inference is the one that counts.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


@contextmanager
def fast_traces() -> Iterator[None]:
    """Trace the same graphs, without running models to infer what is known."""
    import spox
    import spox.opset.ai.onnx.v21 as onnx
    from spox._node import Node
    from spox._value_prop import PropValue

    infer = Node.inference

    def types(node: Any, input_prop_values: Any) -> dict[str, Any]:
        array = node.attrs.value.value
        return {"output": spox.Tensor(array.dtype, array.shape)}

    def values(node: Any, input_prop_values: Any) -> dict[str, Any]:
        array = node.attrs.value.value
        return {"output": PropValue(spox.Tensor(array.dtype, array.shape), array)}

    def second_inference(node: Any, input_prop_values: Any = None, infer_types: bool = True) -> None:
        if input_prop_values is not None:
            infer(node, input_prop_values, infer_types)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx._Constant, "infer_output_types", types)
        patch.setattr(onnx._Constant, "propagate_values", values)
        patch.setattr(Node, "inference", second_inference)
        yield

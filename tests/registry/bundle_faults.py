"""Damage a bundle as an attacker would: change a file or the graph, and update the hashes."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import yaml
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from forecaster.domain.manifest import MANIFEST, MODEL
from forecaster.registry.files import hash_file

Damage = Callable[[Path], None]
MANY = int("9" * 4000)


def rehash(folder: Path, name: str) -> None:
    if name != MANIFEST:
        manifest = json.loads((folder / MANIFEST).read_text())
        manifest["sha256"][name] = hash_file(folder / name)
        (folder / MANIFEST).write_text(json.dumps(manifest))


def edit(name: str, change: Callable[[Any], None]) -> Damage:
    """Return a change of a JSON or YAML file."""

    def damage(folder: Path) -> None:
        text = (folder / name).read_text()
        content: Any = json.loads(text) if name.endswith("json") else yaml.safe_load(text)
        change(content)
        (folder / name).write_text(json.dumps(content) if name.endswith("json") else yaml.safe_dump(content))
        rehash(folder, name)

    return damage


def write(name: str, content: bytes, *, hashed: bool = False) -> Damage:
    """Return a change that replaces a file's content."""

    def damage(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
        if hashed:
            rehash(folder, name)

    return damage


def insert(name: str, key: str, text: str) -> Damage:
    """Return a change that gives a key of a JSON file a value that Python's `json` would not write."""

    def damage(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        content[key] = "HERE"
        (folder / name).write_text(json.dumps(content).replace('"HERE"', text))
        rehash(folder, name)

    return damage


def pipe(name: str) -> Damage:
    """Return a change that replaces a file with a named pipe, which blocks each process that opens it."""

    def damage(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return damage


def edit_graph(change: Callable[[ModelProto], None]) -> Damage:
    """Return a change of the graph."""

    def damage(folder: Path) -> None:
        model = onnx.load(folder / MODEL)
        change(model)
        (folder / MODEL).write_bytes(model.SerializeToString())
        rehash(folder, MODEL)

    return damage


def constant(name: str, values: Any) -> NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.asarray(values)))


def before_the_end(*nodes: NodeProto) -> Callable[[ModelProto], None]:
    """Return a change that renames the output to `inner` and puts nodes between it and a new output `mean`."""

    def change(model: ModelProto) -> None:
        for node in model.graph.node:
            node.output[:] = ["inner" if name == "mean" else name for name in node.output]
        model.graph.node.extend(nodes)

    return change


def loop(condition: str) -> Callable[[ModelProto], None]:
    """Return a change that adds an endless loop, entered if the bool value `condition` is true."""

    def change(model: ModelProto) -> None:
        body = helper.make_graph(
            [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Add", ["carried", "carried"], ["next"])],
            "body",
            [
                helper.make_tensor_value_info("i", TensorProto.INT64, []),
                helper.make_tensor_value_info("go", TensorProto.BOOL, []),
                helper.make_tensor_value_info("carried", TensorProto.DOUBLE, None),
            ],
            [
                helper.make_tensor_value_info("on", TensorProto.BOOL, []),
                helper.make_tensor_value_info("next", TensorProto.DOUBLE, None),
            ],
        )
        before_the_end(
            constant("most", np.int64(2**62)),
            constant("always", np.array(True)),
            constant("limit", np.float64(1e12)),
            constant("all", np.array([0, 1], dtype=np.int64)),
            helper.make_node("ReduceMax", ["inner", "all"], ["largest"], keepdims=0),
            helper.make_node("Greater", ["largest", "limit"], ["is_large"]),
            helper.make_node("Loop", ["most", condition, "inner"], ["mean"], body=body),
        )(model)

    return change


def outer_product(values: int) -> Callable[[ModelProto], None]:
    """Return a change that adds a float64 matrix of `values` × `values`, from allowed operators and small constants."""
    wide, high = np.zeros((1, values)), np.zeros((values, 1))
    return before_the_end(
        constant("wide", wide),
        constant("high", high),
        helper.make_node("Add", ["wide", "high"], ["square"]),
        constant("axes", np.array([0, 1], dtype=np.int64)),
        helper.make_node("ReduceSum", ["square", "axes"], ["nothing"], keepdims=0),
        helper.make_node("Add", ["inner", "nothing"], ["mean"]),
    )


def slow(products: int, size: int = 400) -> Callable[[ModelProto], None]:
    """Return a change that multiplies matrices one after another, in a way that no optimizer can do beforehand."""
    # the matrices depend on the input: constants would be multiplied when the graph is loaded
    nodes = [
        constant("zero", np.zeros((size, size))),
        constant("first", np.array([0], dtype=np.int64)),
        constant("one", np.array([1], dtype=np.int64)),
        constant("axes", np.array([0, 1], dtype=np.int64)),
        helper.make_node("Slice", ["inner", "first", "one", "first"], ["row"]),
        helper.make_node("ReduceSum", ["row", "axes"], ["value"], keepdims=0),
        helper.make_node("Mul", ["zero", "value"], ["matrix0"]),
    ]
    for number in range(products):
        nodes.append(helper.make_node("MatMul", [f"matrix{number}", f"matrix{number}"], [f"matrix{number + 1}"]))
    return before_the_end(
        *nodes,
        helper.make_node("ReduceSum", [f"matrix{products}", "axes"], ["nothing"], keepdims=0),
        helper.make_node("Add", ["inner", "nothing"], ["mean"]),
    )

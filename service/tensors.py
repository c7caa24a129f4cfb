"""Tensors of the Open Inference Protocol as arrays: in a message's JSON, or as bytes behind it."""

import math
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

import numpy as np

from forecaster.domain.errors import RequestError
from forecaster.domain.series import Floats
from service.protocol import InferenceRequest, InputTensor

FP64 = "FP64"
# on the wire every number is little-endian
WIRE: dict[str, np.dtype[Any]] = {
    FP64: np.dtype("<f8"),
    "FP32": np.dtype("<f4"),
    "FP16": np.dtype("<f2"),
    **{f"INT{8 * size}": np.dtype(f"<i{size}") for size in (1, 2, 4, 8)},
    **{f"UINT{8 * size}": np.dtype(f"<u{size}") for size in (1, 2, 4, 8)},
}
# from here on not every whole number is a float64
_INEXACT = 2**53


def read_tensors(
    inputs: list[InputTensor], binary: bytes, wanted: Mapping[str, tuple[int, int]], most: int
) -> dict[str, Floats]:
    """Return the inputs' numbers by name, float64, `(batch, rows, features)`.

    Args:
        inputs: as they came.
        binary: what lies behind the JSON.
        wanted: each input's rows and features.
        most: the largest batch.

    Raises:
        RequestError: an input is missing, unknown, or not of its shape; the bytes are more or fewer than the inputs
            say; a number is not finite, not of its datatype, or so large a whole number that float64 does not hold it.
    """
    names = [tensor.name for tensor in inputs]
    if sorted(names) != sorted(wanted):
        raise RequestError(f"inputs: the model takes {sorted(wanted)}, got {sorted(names)}")
    sizes = [tensor.parameters.binary_data_size for tensor in inputs]
    if sum(size or 0 for size in sizes) != len(binary):
        raise RequestError(
            f"inputs: binary_data_size adds up to {sum(size or 0 for size in sizes)}, and {len(binary)} bytes lie "
            "behind the JSON; give each input's own"
        )
    arrays, begin = {}, 0
    for number, (tensor, size) in enumerate(zip(inputs, sizes, strict=True)):
        where = f"inputs[{number}] ('{tensor.name}')"
        _check_shape(tensor, wanted[tensor.name], most, where)
        end = begin + (size or 0)
        flat = _from_json(tensor, where) if size is None else _from_bytes(tensor, binary[begin:end], where)
        begin = end
        numbers = flat.astype(np.float64)
        wrong = np.flatnonzero(~np.isfinite(numbers))
        if len(wrong):
            raise RequestError(f"{where}: number {wrong[0]} is not finite; correct it, nothing is filled in")
        if _is_whole(tensor) and (inexact := np.flatnonzero(np.abs(numbers) >= _INEXACT)).size:
            raise RequestError(
                f"{where}: number {inexact[0]} is ±2**53 or beyond, where float64 does not hold every whole number; "
                f"use a larger unit, or send {FP64}"
            )
        arrays[tensor.name] = numbers.reshape(tensor.shape)
    return arrays


def _is_whole(tensor: InputTensor) -> bool:
    return WIRE[tensor.datatype].kind in "iu"


def _check_shape(tensor: InputTensor, wanted: tuple[int, int], most: int, where: str) -> None:
    if len(tensor.shape) != 3 or tuple(tensor.shape[1:]) != wanted:
        raise RequestError(f"{where}.shape: {tensor.shape}; the model takes [batch, {wanted[0]}, {wanted[1]}]")
    if not 1 <= tensor.shape[0] <= most:
        raise RequestError(
            f"{where}.shape: a batch of {tensor.shape[0]} is outside 1 to {most}; ask in several requests"
        )


def _from_bytes(tensor: InputTensor, raw: bytes, where: str) -> np.ndarray:
    if tensor.data is not None:
        raise RequestError(f"{where}: data and binary_data_size: give one of them, not both")
    kind = WIRE[tensor.datatype]
    needed = math.prod(tensor.shape) * kind.itemsize
    if len(raw) != needed:
        raise RequestError(f"{where}: binary_data_size is {len(raw)}, its shape and datatype need {needed}")
    return np.frombuffer(raw, kind)


def _from_json(tensor: InputTensor, where: str) -> np.ndarray:
    if tensor.data is None:
        raise RequestError(f"{where}: neither data nor binary_data_size; give one of them")
    if isinstance(tensor.data, np.ndarray):
        if len(tensor.data) != math.prod(tensor.shape):
            raise _wrong_count(tensor, where)
        return _rounded(tensor.data, tensor, where)
    values: list[Any] = [tensor.data]
    is_nested = any(isinstance(one, list) for one in tensor.data)
    for size in tensor.shape if is_nested else [math.prod(tensor.shape)]:
        if any(not isinstance(one, list) or len(one) != size for one in values):
            raise _wrong_count(tensor, where)
        values = list(chain.from_iterable(values))
    for number, one in enumerate(values):
        if type(one) not in (int, float):
            raise RequestError(f"{where}.data: number {number} is no number")
    try:
        numbers = np.array([float(one) for one in values])
    except OverflowError:
        raise RequestError(
            f"{where}.data: a number is beyond what {tensor.datatype} holds; use a larger unit"
        ) from None
    return _rounded(numbers, tensor, where)


def _rounded(numbers: Floats, tensor: InputTensor, where: str) -> np.ndarray:
    """Return numbers as their datatype holds them; of whole numbers, none is rounded."""
    kind = WIRE[tensor.datatype]
    if not _is_whole(tensor):
        # what is too large for the datatype becomes infinite, and is refused as such
        with np.errstate(over="ignore"):
            return numbers.astype(kind)
    limits = np.iinfo(kind)
    wrong = np.flatnonzero(~((np.trunc(numbers) == numbers) & (numbers >= limits.min) & (numbers <= limits.max)))
    if len(wrong):
        raise RequestError(
            f"{where}.data: number {wrong[0]} is no {tensor.datatype}, a whole number from {limits.min} to "
            f"{limits.max}; correct it, or send {FP64}"
        )
    return numbers


def _wrong_count(tensor: InputTensor, where: str) -> RequestError:
    return RequestError(f"{where}.data: not {tensor.shape} numbers; give them row by row, or nested as shape says")


def write_tensors(
    request: InferenceRequest, outputs: Mapping[str, Floats]
) -> tuple[list[dict[str, Any]], bytes | None]:
    """Return the outputs that were asked for, as JSON and the bytes behind it.

    Raises:
        RequestError: there is no such output.
    """
    written, parts = [], []
    for name, is_binary in _asked(request, outputs):
        values = outputs[name]
        one: dict[str, Any] = {"name": name, "datatype": FP64, "shape": list(values.shape)}
        if is_binary:
            parts.append(values.astype(WIRE[FP64]).tobytes())
            written.append(one | {"parameters": {"binary_data_size": len(parts[-1])}})
        else:
            written.append(one | {"data": values.ravel().tolist()})
    return written, b"".join(parts) if parts else None


def _asked(request: InferenceRequest, outputs: Mapping[str, Floats]) -> Iterator[tuple[str, bool]]:
    usual = request.parameters.binary_data_output
    if not request.outputs:
        yield from ((name, usual) for name in outputs)
    for number, one in enumerate(request.outputs or []):
        if one.name not in outputs:
            raise RequestError(f"outputs[{number}].name: there is no such output; there are {sorted(outputs)}")
        yield one.name, usual if one.parameters.binary_data is None else one.parameters.binary_data

"""Convert tensors of the Open Inference Protocol, in JSON or in the bytes after the JSON, to arrays and back."""

import math
from collections.abc import Collection, Iterator, Mapping
from itertools import chain
from typing import Any

import numpy as np

from forecaster.domain.errors import RequestError
from forecaster.domain.series import Floats
from service.protocol import InferenceRequest, InputTensor

FP64 = "FP64"
# the protocol's bytes are little-endian
WIRE: dict[str, np.dtype[Any]] = {
    FP64: np.dtype("<f8"),
    "FP32": np.dtype("<f4"),
    "FP16": np.dtype("<f2"),
    **{f"INT{8 * size}": np.dtype(f"<i{size}") for size in (1, 2, 4, 8)},
    **{f"UINT{8 * size}": np.dtype(f"<u{size}") for size in (1, 2, 4, 8)},
}
# beyond this, float64 cannot represent every integer
_INEXACT = 2**53


def read_tensors(
    inputs: list[InputTensor],
    binary: bytes,
    shapes: Mapping[str, tuple[int, ...]],
    max_batch: int,
    may_miss: Collection[str] = (),
) -> dict[str, Floats]:
    """Return the values of the inputs by name, float64, `(batch, …)`.

    Args:
        inputs: the request's inputs.
        binary: the bytes after the JSON.
        shapes: the expected shape of each input, without the batch axis.
        max_batch: the largest batch.
        may_miss: the inputs that may have missing values: null in JSON, NaN in bytes.

    Raises:
        RequestError: an input is missing, unknown or of another shape; the number of bytes is not the sum of the
            inputs' sizes; or a value is not finite, does not fit its datatype, or is an integer that float64 cannot
            represent.
    """
    names = [tensor.name for tensor in inputs]
    if sorted(names) != sorted(shapes):
        raise RequestError(f"inputs: the model takes {sorted(shapes)}, got {sorted(names)}")
    sizes = [tensor.parameters.binary_data_size for tensor in inputs]
    if sum(size or 0 for size in sizes) != len(binary):
        raise RequestError(
            f"inputs: the binary_data_size of all inputs is {sum(size or 0 for size in sizes)}, but {len(binary)} "
            "bytes follow the JSON; send the size of each input"
        )
    arrays, begin = {}, 0
    for number, (tensor, size) in enumerate(zip(inputs, sizes, strict=True)):
        where = f"inputs[{number}] ('{tensor.name}')"
        _check_shape(tensor, shapes[tensor.name], max_batch, where)
        end = begin + (size or 0)
        is_nullable = tensor.name in may_miss
        if size is None:
            flat = _from_json(tensor, where, is_nullable)
        else:
            flat = _from_bytes(tensor, binary[begin:end], where)
        begin = end
        numbers = flat.astype(np.float64)
        wrong = np.flatnonzero(np.isinf(numbers) if is_nullable else ~np.isfinite(numbers))
        if len(wrong):
            raise RequestError(f"{where}: value {wrong[0]} is not finite; correct it, because nothing is imputed")
        if _is_integer(tensor) and (inexact := np.flatnonzero(np.abs(numbers) >= _INEXACT)).size:
            raise RequestError(
                f"{where}: value {inexact[0]} is ±2**53 or beyond, where float64 cannot represent every integer; "
                f"use a larger unit, or send {FP64}"
            )
        arrays[tensor.name] = numbers.reshape(tensor.shape)
    return arrays


def _is_integer(tensor: InputTensor) -> bool:
    return WIRE[tensor.datatype].kind in "iu"


def _check_shape(tensor: InputTensor, expected: tuple[int, ...], max_batch: int, where: str) -> None:
    if not tensor.shape or tuple(tensor.shape[1:]) != expected:
        raise RequestError(f"{where}.shape: {tensor.shape}; the model takes [batch, {', '.join(map(str, expected))}]")
    if not 1 <= tensor.shape[0] <= max_batch:
        raise RequestError(
            f"{where}.shape: a batch of {tensor.shape[0]} is outside 1 to {max_batch}; split it into several requests"
        )


def _from_bytes(tensor: InputTensor, raw: bytes, where: str) -> np.ndarray:
    if tensor.data is not None:
        raise RequestError(f"{where}: data and binary_data_size: send one of them, not both")
    kind = WIRE[tensor.datatype]
    needed = math.prod(tensor.shape) * kind.itemsize
    if len(raw) != needed:
        raise RequestError(
            f"{where}: binary_data_size is {len(raw)}, but the shape and datatype need {needed}; correct one of them"
        )
    return np.frombuffer(raw, kind)


def _from_json(tensor: InputTensor, where: str, is_nullable: bool) -> np.ndarray:
    if tensor.data is None:
        raise RequestError(f"{where}: data and binary_data_size are both missing; send one of them")
    if isinstance(tensor.data, np.ndarray):
        if len(tensor.data) != math.prod(tensor.shape):
            raise _wrong_count(tensor, where)
        return _rounded(tensor.data, tensor, where)
    values: list[Any] = [tensor.data]
    is_nested = any(isinstance(value, list) for value in tensor.data)
    for size in tensor.shape if is_nested else [math.prod(tensor.shape)]:
        if any(not isinstance(value, list) or len(value) != size for value in values):
            raise _wrong_count(tensor, where)
        values = list(chain.from_iterable(values))
    if is_nullable:
        values = [math.nan if value is None else value for value in values]
    for position, value in enumerate(values):
        if type(value) not in (int, float):
            raise RequestError(f"{where}.data: value {position} is not a number; correct it")
    try:
        numbers = np.array([float(value) for value in values])
    except OverflowError:
        raise RequestError(f"{where}.data: a value is too large for {tensor.datatype}; use a larger unit") from None
    return _rounded(numbers, tensor, where)


def _rounded(numbers: Floats, tensor: InputTensor, where: str) -> np.ndarray:
    """Return numbers rounded to their datatype; a number that is not exactly an integer of its datatype is refused."""
    kind = WIRE[tensor.datatype]
    if not _is_integer(tensor):
        # a value that is too large becomes infinite, and is refused later
        with np.errstate(over="ignore"):
            return numbers.astype(kind)
    limits = np.iinfo(kind)
    wrong = np.flatnonzero(~((np.trunc(numbers) == numbers) & (numbers >= limits.min) & (numbers <= limits.max)))
    if len(wrong):
        raise RequestError(
            f"{where}.data: value {wrong[0]} is not an integer from {limits.min} to {limits.max}, as {tensor.datatype} "
            f"requires; correct it, or send {FP64}"
        )
    return numbers


def _wrong_count(tensor: InputTensor, where: str) -> RequestError:
    return RequestError(
        f"{where}.data: does not have the shape {tensor.shape}; send a flat list, row by row, or nested lists"
    )


def write_tensors(
    request: InferenceRequest, outputs: Mapping[str, Floats]
) -> tuple[list[dict[str, Any]], bytes | None]:
    """Return the requested outputs for the JSON, and the bytes after it; None if no output is binary.

    Raises:
        RequestError: a requested output does not exist.
    """
    written, parts = [], []
    for name, is_binary in _requested_outputs(request, outputs):
        values = outputs[name]
        tensor: dict[str, Any] = {"name": name, "datatype": FP64, "shape": list(values.shape)}
        if is_binary:
            parts.append(values.astype(WIRE[FP64]).tobytes())
            written.append(tensor | {"parameters": {"binary_data_size": len(parts[-1])}})
        else:
            written.append(tensor | {"data": values.ravel().tolist()})
    return written, b"".join(parts) if parts else None


def _requested_outputs(request: InferenceRequest, outputs: Mapping[str, Floats]) -> Iterator[tuple[str, bool]]:
    """Yield the name of each requested output, and whether it is binary."""
    default = request.parameters.binary_data_output
    if not request.outputs:
        yield from ((name, default) for name in outputs)
    for number, output in enumerate(request.outputs or []):
        if output.name not in outputs:
            raise RequestError(f"outputs[{number}].name: there is no such output; there are {sorted(outputs)}")
        yield output.name, default if output.parameters.binary_data is None else output.parameters.binary_data

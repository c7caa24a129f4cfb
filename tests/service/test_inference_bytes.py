"""The Open Inference Protocol with valid, invalid and arbitrary request bodies."""

import json
import re
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from forecaster.domain.series import Floats
from tests.conftest import TrainedModels

LENGTH = "Inference-Header-Content-Length"
INFER = "/v2/models/sine/infer"


def windows(batch: int = 3, features: int = 1) -> Floats:
    return np.random.default_rng(0).normal(size=(batch, 24, features))


# an unlikely value, which no error may repeat
VALUE = 98765.4321


def body(**changes: Any) -> dict[str, Any]:
    x = {"name": "x", "shape": [1, 24, 1], "datatype": "FP64", "data": [VALUE] * 24}
    return {"inputs": [x | changes]}


def test_data_may_be_flat_or_nested(client: TestClient, models: TrainedModels) -> None:
    expected = models.predictor(1).predict_arrays(windows()).ravel().tolist()
    for data in (windows().tolist(), windows().ravel().tolist()):
        answer = client.post(INFER, json=body(shape=[3, 24, 1], data=data))
        assert answer.headers["content-type"] == "application/json"
        (output,) = answer.json()["outputs"]
        assert output == {"name": "mean", "datatype": "FP64", "shape": [3, 4], "data": expected}
    assert "id" not in answer.json()


INTEGERS = [f"{sign}INT{size}" for sign in ("", "U") for size in (8, 16, 32, 64)]
DTYPES = {name: np.dtype(f"<{'u' if name[0] == 'U' else 'i'}{int(name.lstrip('UINT')) // 8}") for name in INTEGERS}
DTYPES |= {"FP16": np.dtype("<f2"), "FP32": np.dtype("<f4"), "FP64": np.dtype("<f8")}


@pytest.mark.parametrize("datatype", DTYPES)
def test_each_numeric_datatype_gets_the_forecast_of_its_values(
    client: TestClient, models: TrainedModels, datatype: str
) -> None:
    # including the limits of 8-bit integers
    numbers = (np.arange(48) % 17 + (0 if datatype[0] == "U" else -8)).reshape(2, 24, 1)
    numbers[0, :2, 0] = (0, 255) if datatype[0] == "U" else (-128, 127)
    values = numbers.astype(DTYPES[datatype])
    expected = models.predictor(1).predict_arrays(numbers.astype(np.float64)).ravel().tolist()
    x = {"name": "x", "shape": [2, 24, 1], "datatype": datatype}
    raw = values.tobytes()
    header = json.dumps({"inputs": [x | {"parameters": {"binary_data_size": len(raw)}}]}).encode()
    for answer in (
        client.post(INFER, json={"inputs": [x | {"data": values.ravel().tolist()}]}),
        client.post(INFER, json={"inputs": [x | {"data": values.tolist()}]}),
        client.post(INFER, content=header + raw, headers={LENGTH: str(len(header))}),
    ):
        assert answer.status_code == 200, answer.text
        assert answer.json()["outputs"][0]["data"] == expected


@pytest.mark.parametrize(
    ("datatype", "number", "message"),
    [
        ("INT8", 128, "data: value 23 is not an integer from -128 to 127, as INT8 requires; correct it, or send FP64"),
        ("INT16", 0.5, "data: value 23 is not an integer from -32768 to 32767, as INT16 requires"),
        ("UINT8", -1, "data: value 23 is not an integer from 0 to 255, as UINT8 requires"),
        ("UINT32", 2**32, "data: value 23 is not an integer from 0 to 4294967295, as UINT32 requires"),
        ("INT64", 2**53 + 1, "value 23 is ±2**53 or beyond, where float64 cannot represent every integer"),
        ("UINT64", 2**63 + 2**11, "value 23 is ±2**53 or beyond"),
        ("FP16", 70000, "value 23 is not finite"),
    ],
)
def test_number_that_does_not_fit_its_datatype_is_refused(
    client: TestClient, datatype: str, number: float, message: str
) -> None:
    for data in ([0] * 23 + [number], [[[0]] * 23 + [[number]]]):
        answer = client.post(INFER, json=body(datatype=datatype, data=data))
        assert answer.status_code == 400
        assert message in answer.json()["error"]


@pytest.mark.parametrize(("datatype", "number"), [("INT64", -(2**63)), ("INT64", 2**53 + 1), ("UINT64", 2**64 - 1)])
def test_bytes_of_integers_beyond_float64_are_refused(client: TestClient, datatype: str, number: int) -> None:
    raw = np.array([0] * 23 + [number], dtype=DTYPES[datatype]).tobytes()
    header = json.dumps(body(datatype=datatype, data=None, parameters={"binary_data_size": len(raw)})).encode()
    answer = client.post(INFER, content=header + raw, headers={LENGTH: str(len(header))})
    assert answer.status_code == 400
    assert "value 23 is ±2**53 or beyond" in answer.json()["error"]


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "text among numbers": (body(data=[VALUE] * 23 + [str(VALUE)]), "data: value 23 is not a number"),
    "a flag among numbers": (body(data=[True] + [VALUE] * 23), "data: value 0 is not a number"),
    "null among numbers": (body(data=[None] + [VALUE] * 23), "data: value 0 is not a number"),
    "an object among numbers": (body(data=[{"a": VALUE}] + [VALUE] * 23), "data: value 0 is not a number"),
    "too few": (body(data=[VALUE] * 23), "data: does not have the shape [1, 24, 1]; send a flat list"),
    "another nesting": (body(data=[[VALUE] * 24]), "data: does not have the shape [1, 24, 1]"),
    "ragged": (
        body(shape=[2, 24, 1], data=[[[VALUE]] * 23, [[VALUE]] * 25]),
        "data: does not have the shape [2, 24, 1]",
    ),
    "nested too deep": (body(data=[[[[VALUE]]] * 24]), "data: value 0 is not a number"),
    "half nested": (body(data=[VALUE] + [[VALUE]] * 23), "data: does not have the shape [1, 24, 1]"),
    "beyond double": (body(data=[10**400] + [VALUE] * 23), "data: a value is too large for FP64"),
    "beyond single": (body(datatype="FP32", data=[1e300] + [VALUE] * 23), "value 0 is not finite"),
    "no data": (body(data=None), "data and binary_data_size are both missing"),
    "data that is not a list": (body(data=VALUE), "inputs[0].data: Input should be a valid array"),
    "negative size": (body(shape=[-1, 24, 1]), "inputs[0].shape[0]: Input should be greater than or equal to 0"),
    "huge size": (body(shape=[10**30, 24, 1]), "inputs[0]"),
    "missing bytes": (body(parameters={"binary_data_size": 8}), "of all inputs is 8, but 0 bytes follow"),
    "flags": (
        body(datatype="BOOL", data=[True] * 24),
        "datatype: BOOL is not numeric; send the values as FP64",
    ),
    "an unknown datatype": (
        body(datatype="BF16"),
        "inputs[0].datatype: Input should be 'FP64', 'FP32', 'FP16', 'INT8',",
    ),
    "both": (body(parameters={"binary_data_size": 0}), "data and binary_data_size: send one of them"),
    "unknown parameter": (body(parameters={"shared_memory_region": "a"}), "shared_memory_region: Extra inputs"),
    "no inputs": ({"inputs": []}, "inputs: List should have at least 1 item"),
    "four inputs": ({"inputs": body()["inputs"] * 4}, "inputs: List should have at most 3 items"),
    "unknown field": (body() | {"input": 1}, "input: Extra inputs are not permitted"),
    "a horizon that is not a number": (
        body() | {"parameters": {"horizon": "4"}},
        "parameters.horizon: Input should be",
    ),
    "a thousand outputs": (body() | {"outputs": [{"name": "mean"}] * 1000}, "outputs: List should have at most 1"),
}


@pytest.mark.parametrize(("request_body", "message"), BAD.values(), ids=BAD.keys())
def test_error_names_the_field_but_does_not_repeat_values(
    client: TestClient, request_body: dict[str, Any], message: str
) -> None:
    answer = client.post(INFER, json=request_body)
    assert answer.status_code == 400
    assert list(answer.json()) == ["error"]
    assert message in answer.json()["error"]
    assert "98765" not in answer.text


def binary_request(values: Floats, size: int | None = None) -> tuple[bytes, bytes]:
    """Return the JSON of a request with binary data, and the bytes after it."""
    raw = values.astype("<f8").tobytes()
    parameters = {"binary_data_size": len(raw) if size is None else size}
    x = {"name": "x", "shape": list(values.shape), "datatype": "FP64", "parameters": parameters}
    return json.dumps({"inputs": [x]}).encode(), raw


@pytest.mark.parametrize(
    ("length", "size", "message"),
    [
        ("-1", None, f"{LENGTH}: must be the length of the body's JSON"),
        ("²", None, LENGTH),
        ("9" * 5000, None, LENGTH),
        ("100000", None, LENGTH),
        ("", None, LENGTH),
        ("1", None, "body: Invalid JSON"),
        (None, None, "body: Invalid JSON"),
        ("right", 191, "of all inputs is 191, but 192 bytes follow the JSON"),
        ("right", 10**30, "bytes follow the JSON"),
        ("right", -1, "binary_data_size: Input should be greater than or equal to 0"),
    ],
)
def test_wrong_lengths_are_refused(client: TestClient, length: str | None, size: int | None, message: str) -> None:
    header, raw = binary_request(windows(1), size)
    headers = {} if length is None else {LENGTH: str(len(header)) if length == "right" else length}
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    answer = client.post(INFER, content=header + raw, headers=encoded)
    assert answer.status_code == 400
    assert message in answer.json()["error"]


def test_too_few_bytes_for_the_shape_are_refused(client: TestClient) -> None:
    header, raw = binary_request(windows(1)[:, :-1])
    header = header.replace(b"[1, 23, 1]", b"[1, 24, 1]")
    answer = client.post(INFER, content=header + raw, headers={LENGTH: str(len(header))})
    assert answer.status_code == 400
    assert "binary_data_size is 184, but the shape and datatype need 192" in answer.json()["error"]


numbers = st.one_of(st.floats(), st.integers(-(2**70), 2**70))
scalars = st.one_of(st.none(), st.booleans(), numbers, st.text(max_size=5))
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)
sizes = st.fixed_dictionaries({}, optional={"binary_data_size": st.sampled_from([96, 192, -1]) | values})
kinds = st.sampled_from(["FP64", "FP32", "FP16", "INT8", "UINT64", "BYTES"])
# one change at a time; otherwise every request would be refused for its first mistake
changed_inputs = st.one_of(
    st.just({}),
    kinds.map(lambda kind: {"datatype": kind, "data": [1e300] * 24}),
    st.builds(lambda kind, size: {"datatype": kind, "parameters": size, "data": None}, kinds, sizes),
    st.lists(numbers, min_size=24, max_size=24).map(lambda data: {"data": data}),
    st.lists(st.sampled_from([0, 1, 2, 24]), max_size=4).map(lambda shape: {"shape": shape}),
    st.tuples(st.sampled_from(["name", "shape", "datatype", "parameters", "data", "more"]), values).map(
        lambda change: dict([change])
    ),
)
changed_requests = st.one_of(
    st.just({}),
    st.integers(-1, 50).map(lambda horizon: {"parameters": {"horizon": horizon}}),
    st.tuples(st.sampled_from(["cutoffs", "unique_ids"]), values).map(lambda change: {"parameters": dict([change])}),
    st.datetimes().map(lambda time: {"parameters": {"cutoffs": [time.isoformat()]}}),
    st.tuples(st.sampled_from(["outputs", "id", "parameters", "inputs"]), values).map(lambda change: dict([change])),
)
requests = st.builds(
    lambda changes, more: {"inputs": [body()["inputs"][0] | change for change in changes]} | more,
    st.lists(changed_inputs, min_size=1, max_size=1) | st.lists(changed_inputs, max_size=2),
    changed_requests,
)
raw_bodies = requests.map(json.dumps).map(str.encode) | st.binary(max_size=100)
bytes_after_json = st.sampled_from([b"", b"1", bytes(96), bytes(192), b"\xff" * 192])
lengths = st.sampled_from([-1] * 8 + [None, 0, 1, 300, b"", b"-1", b"1e2", b"\xb2", b"9" * 30])


@given(content=raw_bodies, binary=bytes_after_json, length=lengths)
@settings(max_examples=400)
def test_arbitrary_bodies_never_cause_an_unexpected_error(
    client: TestClient, content: bytes, binary: bytes, length: int | bytes | None
) -> None:
    # mostly the right length; otherwise few requests would get past the header
    header = str(len(content) if length == -1 else length).encode() if not isinstance(length, bytes) else length
    headers = [] if length is None else [(LENGTH.encode(), re.sub(rb"[\r\n\0]", b"", header))]
    answer = client.post(INFER, content=content + binary, headers=headers)

    assert answer.status_code in (200, 400)
    assert answer.status_code == 200 or isinstance(answer.json()["error"], str)


@given(numbers=st.lists(st.floats(width=64), min_size=24, max_size=24))
def test_every_double_is_forecast_or_refused(client: TestClient, numbers: list[float]) -> None:
    raw = struct.pack("<24d", *numbers)
    header, _ = binary_request(windows(1))
    answer = client.post(INFER, content=header + raw, headers={LENGTH: str(len(header))})
    assert answer.status_code == (200 if np.isfinite(numbers).all() else 400) or "size and unit" in answer.text

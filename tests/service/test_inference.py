"""The Open Inference Protocol, asked by its own client over a real socket, and by whoever sends anything at all."""

import json
import re
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from forecaster.domain.series import Floats
from forecaster.registry.cache import bundle_folder
from forecaster.registry.load import load_predictor
from forecaster.registry.predictor import Predictor
from forecaster.registry.store import Store
from forecaster.training.job import train
from service.app import create_app
from service.settings import Settings
from tests.conftest import ROOT, House, listening, small_config

LENGTH = "Inference-Header-Content-Length"
INFER = "/v2/models/sine/infer"


@pytest.fixture(scope="module")
def address(house: House) -> Iterator[str]:
    settings = Settings(cache_dir=house.cache, tracking_uri="", max_series=50, max_body_bytes=200_000)
    with listening(create_app(settings)) as url:
        yield url.removeprefix("http://")


@pytest.fixture(scope="module")
def triton(address: str) -> Iterator[InferenceServerClient]:
    with InferenceServerClient(address) as client:
        yield client


def windows(batch: int = 3, features: int = 1) -> Floats:
    return np.random.default_rng(0).normal(size=(batch, 24, features))


def tensor(values: np.ndarray, name: str = "x", *, is_binary: bool = True) -> InferInput:
    found = InferInput(name, list(values.shape), "FP32" if values.dtype == np.float32 else "FP64")
    found.set_data_from_numpy(values, binary_data=is_binary)
    return found


def test_the_server_and_its_models_are_described(triton: InferenceServerClient) -> None:
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.is_model_ready("sine")
    assert triton.is_model_ready("sine", "2")
    assert not triton.is_model_ready("sine", "3")
    assert not triton.is_model_ready("nobody")
    assert triton.get_server_metadata() == {
        "name": "forecaster", "version": "0.1.0", "extensions": ["binary_tensor_data"],
    }  # fmt: skip
    for version in ("", "1", "2"):
        assert triton.get_model_metadata("sine", version) == {
            "name": "sine",
            "versions": ["1", "2"],
            "platform": "onnxruntime_onnx",
            "inputs": [{"name": "x", "datatype": "FP64", "shape": [-1, 24, 1]}],
            "outputs": [{"name": "mean", "datatype": "FP64", "shape": [-1, 4]}],
        }


@pytest.mark.parametrize("version", ["", "1", "2"])
@pytest.mark.parametrize("is_binary", [True, False])
@pytest.mark.parametrize("wants_binary", [True, False, None])
def test_inference_equals_the_predictor_bit_by_bit(
    triton: InferenceServerClient, house: House, version: str, is_binary: bool, wants_binary: bool | None
) -> None:
    outputs = None if wants_binary is None else [InferRequestedOutput("mean", binary_data=wants_binary)]
    answer = triton.infer("sine", [tensor(windows(), is_binary=is_binary)], version, outputs=outputs, request_id="7")
    expected = house.predictor(int(version or 1)).predict_arrays(windows())
    np.testing.assert_array_equal(answer.as_numpy("mean"), expected)
    said = answer.get_response()
    assert (said["model_name"], said["model_version"], said["id"]) == ("sine", version or "1", "7")
    assert said["parameters"] == {"forecast_by": "model"}
    (output,) = said["outputs"]
    assert ("data" in output) == (wants_binary is False)
    assert output["datatype"] == "FP64"


@pytest.mark.parametrize("is_binary", [True, False])
def test_single_precision_is_taken_and_answered_in_double(
    triton: InferenceServerClient, house: House, is_binary: bool
) -> None:
    single = windows().astype(np.float32)
    answer = triton.infer("sine", [tensor(single, is_binary=is_binary)])
    expected = house.predictor(1).predict_arrays(single.astype(np.float64))
    np.testing.assert_array_equal(answer.as_numpy("mean"), expected)


def test_a_horizon_may_be_asked_for(triton: InferenceServerClient, house: House) -> None:
    for horizon in (1, 4, 6):
        answer = triton.infer("sine", [tensor(windows())], parameters={"horizon": horizon})
        np.testing.assert_array_equal(
            answer.as_numpy("mean"), house.predictor(1).predict_arrays(windows(), horizon), strict=True
        )


def test_the_baseline_is_served_where_the_settings_say_so(house: House, tmp_path: Path) -> None:
    cache = Path(shutil.copytree(house.cache, tmp_path / "cache"))
    file = bundle_folder(cache, "sine", 1) / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["skill"]["relative_mae"] = 1.5
    file.write_text(json.dumps(manifest))
    with (
        listening(create_app(Settings(cache_dir=cache, tracking_uri="", without_skill="baseline"))) as url,
        InferenceServerClient(url.removeprefix("http://")) as client,
    ):
        answer = client.infer("sine", [tensor(windows())])
        np.testing.assert_array_equal(answer.as_numpy("mean"), np.repeat(windows()[:, -1], 4, axis=1))
        assert answer.get_response()["parameters"] == {"forecast_by": "naive"}


def test_what_the_client_asks_wrongly_is_said_in_our_words(triton: InferenceServerClient) -> None:
    good = tensor(windows())
    whole = InferInput("x", [3, 24, 1], "INT64")
    whole.set_data_from_numpy(windows().astype(np.int64))
    for inputs, asked, status, said in (
        ([tensor(windows(), "y")], {}, "400", r"the model takes \['x'\], got \['y'\]"),
        ([good, good], {}, "400", r"the model takes \['x'\], got \['x', 'x'\]"),
        ([tensor(windows(features=2))], {}, "400", r"shape: \[3, 24, 2\]; the model takes \[batch, 24, 1\]"),
        ([tensor(windows()[:, :-1])], {}, "400", r"shape: \[3, 23, 1\]; the model takes \[batch, 24, 1\]"),
        ([tensor(windows()[:, :, 0])], {}, "400", r"shape: \[3, 24\]; the model takes"),
        ([tensor(windows(51))], {}, "400", "a batch of 51 is outside 1 to 50; ask in several requests"),
        ([tensor(windows(0))], {}, "400", "a batch of 0 is outside"),
        ([whole], {}, "400", r"inputs\[0\].datatype: Input should be 'FP64' or 'FP32'"),
        ([tensor(windows() * np.nan)], {}, "400", r"inputs\[0\] \('x'\): number 0 is not finite"),
        ([good], {"outputs": [InferRequestedOutput("median")]}, "400", "no such output; there are"),
        ([good], {"parameters": {"level": 80}}, "400", "parameters.level: Extra inputs are not permitted"),
        ([good], {"parameters": {"horizon": 41}}, "400", "horizon: 41 is outside 1 to 40"),
        ([good], {"model_name": "nobody"}, "404", "there is no model 'nobody'"),
        ([good], {"model_version": "3"}, "404", r"no version '3'; it has the versions \[1, 2\]"),
        ([good], {"model_version": "two"}, "404", "no version 'two'"),
        ([good], {"request_compression_algorithm": "gzip"}, "400", "Invalid JSON"),
        ([tensor(windows(50, 24)), tensor(windows(50, 24))], {}, "413", "the body is larger than 200000 bytes"),
    ):
        with pytest.raises(InferenceServerException, match=said) as raised:
            triton.infer(**{"model_name": "sine", "inputs": inputs} | asked)
        assert raised.value.status() == status
    with pytest.raises(InferenceServerException, match="Not Found"):
        triton.get_model_config("sine")


# a value that nobody would write by chance, and that no answer may repeat
VALUE = 98765.4321


def body(**changes: Any) -> dict[str, Any]:
    x = {"name": "x", "shape": [1, 24, 1], "datatype": "FP64", "data": [VALUE] * 24}
    return {"inputs": [x | changes]}


def test_json_may_be_flat_or_nested(client: TestClient, house: House) -> None:
    expected = house.predictor(1).predict_arrays(windows()).ravel().tolist()
    for data in (windows().tolist(), windows().ravel().tolist()):
        answer = client.post(INFER, json=body(shape=[3, 24, 1], data=data))
        assert answer.headers["content-type"] == "application/json"
        (output,) = answer.json()["outputs"]
        assert output == {"name": "mean", "datatype": "FP64", "shape": [3, 4], "data": expected}
    assert "id" not in answer.json()


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "text among numbers": (body(data=[VALUE] * 23 + [str(VALUE)]), "data: number 23 is no number"),
    "a flag among numbers": (body(data=[True] + [VALUE] * 23), "data: number 0 is no number"),
    "null among numbers": (body(data=[None] + [VALUE] * 23), "data: number 0 is no number"),
    "an object among numbers": (body(data=[{"a": VALUE}] + [VALUE] * 23), "data: number 0 is no number"),
    "too few": (body(data=[VALUE] * 23), "data: not [1, 24, 1] numbers; give them row by row"),
    "nested otherwise": (body(data=[[VALUE] * 24]), "data: not [1, 24, 1] numbers"),
    "ragged": (body(shape=[2, 24, 1], data=[[[VALUE]] * 23, [[VALUE]] * 25]), "data: not [2, 24, 1] numbers"),
    "nested too deep": (body(data=[[[[VALUE]]] * 24]), "data: number 0 is no number"),
    "half nested": (body(data=[VALUE] + [[VALUE]] * 23), "data: not [1, 24, 1] numbers"),
    "beyond double": (body(data=[10**400] + [VALUE] * 23), "data: a number is beyond what FP64 holds"),
    "beyond single": (body(datatype="FP32", data=[1e300] + [VALUE] * 23), "number 0 is not finite"),
    "no data": (body(data=None), "neither data nor binary_data_size"),
    "data of no list": (body(data=VALUE), "inputs[0].data: Input should be a valid array"),
    "negative size": (body(shape=[-1, 24, 1]), "inputs[0].shape[0]: Input should be greater than or equal to 0"),
    "huge size": (body(shape=[10**30, 24, 1]), "inputs[0]"),
    "bytes that are not there": (body(parameters={"binary_data_size": 8}), "adds up to 8, and 0 bytes lie"),
    "both": (body(parameters={"binary_data_size": 0}), "data and binary_data_size: give one of them"),
    "unknown parameter": (body(parameters={"shared_memory_region": "a"}), "shared_memory_region: Extra inputs"),
    "no inputs": ({"inputs": []}, "inputs: List should have at least 1 item"),
    "three inputs": ({"inputs": body()["inputs"] * 3}, "inputs: List should have at most 2 items"),
    "unknown field": (body() | {"input": 1}, "input: Extra inputs are not permitted"),
    "a horizon that is no number": (body() | {"parameters": {"horizon": "4"}}, "parameters.horizon: Input should be"),
    "outputs by the thousand": (body() | {"outputs": [{"name": "mean"}] * 1000}, "outputs: List should have at most 1"),
}


@pytest.mark.parametrize(("request_body", "said"), BAD.values(), ids=BAD.keys())
def test_a_bad_request_is_told_what_and_where_and_not_its_values(
    client: TestClient, request_body: dict[str, Any], said: str
) -> None:
    answer = client.post(INFER, json=request_body)
    assert answer.status_code == 400
    assert list(answer.json()) == ["error"]
    assert said in answer.json()["error"]
    assert "98765" not in answer.text


def binary_request(values: Floats, size: int | None = None) -> tuple[bytes, bytes]:
    """Return the JSON of a request whose numbers lie behind it, and those bytes."""
    raw = values.astype("<f8").tobytes()
    parameters = {"binary_data_size": len(raw) if size is None else size}
    x = {"name": "x", "shape": list(values.shape), "datatype": "FP64", "parameters": parameters}
    return json.dumps({"inputs": [x]}).encode(), raw


@pytest.mark.parametrize(
    ("length", "size", "said"),
    [
        ("-1", None, f"{LENGTH}: must be the length of the body's JSON"),
        ("²", None, LENGTH),
        ("9" * 5000, None, LENGTH),
        ("100000", None, LENGTH),
        ("", None, LENGTH),
        ("1", None, "body: Invalid JSON"),
        (None, None, "body: Invalid JSON"),
        ("right", 191, "adds up to 191, and 192 bytes lie behind the JSON"),
        ("right", 10**30, "bytes lie behind the JSON"),
        ("right", -1, "binary_data_size: Input should be greater than or equal to 0"),
    ],
)
def test_bytes_that_do_not_fit_are_refused(client: TestClient, length: str | None, size: int | None, said: str) -> None:
    header, raw = binary_request(windows(1), size)
    told = {} if length is None else {LENGTH: str(len(header)) if length == "right" else length}
    encoded = [(name.encode(), value.encode()) for name, value in told.items()]
    answer = client.post(INFER, content=header + raw, headers=encoded)
    assert answer.status_code == 400
    assert said in answer.json()["error"]


def test_too_few_bytes_for_the_shape_are_refused(client: TestClient) -> None:
    header, raw = binary_request(windows(1)[:, :-1])
    header = header.replace(b"[1, 23, 1]", b"[1, 24, 1]")
    answer = client.post(INFER, content=header + raw, headers={LENGTH: str(len(header))})
    assert answer.status_code == 400
    assert "binary_data_size is 184, its shape and datatype need 192" in answer.json()["error"]


def test_errors_below_v2_are_the_protocols_and_elsewhere_problems(client: TestClient) -> None:
    for answer, status in (
        (client.get("/v2/nowhere"), 404),
        (client.get(INFER), 405),
        (client.get("/v2/models/sine/versions/none"), 404),
        (client.get("/v2/models/nobody/ready"), 404),
    ):
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/json"
        assert isinstance(answer.json()["error"], str)
    assert client.get("/v2x").headers["content-type"] == "application/problem+json"
    assert client.get("/v1/v2").headers["content-type"] == "application/problem+json"


def test_nothing_is_ready_before_there_is_a_model(tmp_path: Path) -> None:
    with TestClient(create_app(Settings(cache_dir=tmp_path, tracking_uri=""))) as client:
        assert client.get("/v2/health/live").json() == {"live": True}
        answer = client.get("/v2/health/ready")
        assert (answer.status_code, answer.json()) == (503, {"ready": False})


numbers = st.one_of(st.floats(), st.integers(-(2**70), 2**70))
scalars = st.one_of(st.none(), st.booleans(), numbers, st.text(max_size=5))
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)
sizes = st.fixed_dictionaries({}, optional={"binary_data_size": st.sampled_from([96, 192, -1]) | values})
kinds = st.sampled_from(["FP64", "FP32"])
# one thing is changed at a time, or every request would be refused for its first mistake
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
    st.tuples(st.sampled_from(["outputs", "id", "parameters", "inputs"]), values).map(lambda change: dict([change])),
)
requests = st.builds(
    lambda changes, more: {"inputs": [body()["inputs"][0] | change for change in changes]} | more,
    st.lists(changed_inputs, min_size=1, max_size=1) | st.lists(changed_inputs, max_size=2),
    changed_requests,
)
raw_bodies = requests.map(json.dumps).map(str.encode) | st.binary(max_size=100)
behind_it = st.sampled_from([b"", b"1", bytes(96), bytes(192), b"\xff" * 192])
lengths = st.sampled_from([-1] * 8 + [None, 0, 1, 300, b"", b"-1", b"1e2", b"\xb2", b"9" * 30])


@given(content=raw_bodies, behind=behind_it, length=lengths)
@settings(max_examples=400)
def test_no_bytes_lead_to_an_unexpected_error(
    client: TestClient, content: bytes, behind: bytes, length: int | bytes | None
) -> None:
    # most often the length that is right, or deeper code would hardly be reached
    told = str(len(content) if length == -1 else length).encode() if not isinstance(length, bytes) else length
    headers = [] if length is None else [(LENGTH.encode(), re.sub(rb"[\r\n\0]", b"", told))]
    answer = client.post(INFER, content=content + behind, headers=headers)

    assert answer.status_code in (200, 400)
    assert answer.status_code == 200 or isinstance(answer.json()["error"], str)


@given(numbers=st.lists(st.floats(width=64), min_size=24, max_size=24))
def test_any_double_is_forecast_from_or_refused(client: TestClient, numbers: list[float]) -> None:
    raw = struct.pack("<24d", *numbers)
    header, _ = binary_request(windows(1))
    answer = client.post(INFER, content=header + raw, headers={LENGTH: str(len(header))})
    assert answer.status_code == (200 if np.isfinite(numbers).all() else 400) or "size and unit" in answer.text


@pytest.fixture(scope="module")
def sales(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    """Train a model that takes a column known afterwards, one known ahead, and the weekday."""
    folder = tmp_path_factory.mktemp("sales")
    rows = np.arange(800)
    days = pd.date_range("2023-11-01", periods=len(rows))
    table = pd.DataFrame({"ds": days, "y": np.sin(rows), "visits": np.cos(rows), "promotion": rows % 3.0})
    table.to_csv(folder / "sales.csv", index=False)
    data = {"source": "files", "path": str(folder / "sales.csv")}
    columns = {"hist_exog": ["visits"], "futr_exog": ["promotion"], "calendar_features": ["day_of_week"]}
    registered = train(small_config(folder, name="sales", data=data, fit={"epochs": 1}, **columns))
    uri = f"sqlite:///{folder}/mlflow.db"
    Store(uri).promote("sales", registered.version)
    return load_predictor("sales", tracking_uri=uri, cache=folder / "cache")


def test_what_is_known_ahead_is_a_second_input(sales: Predictor) -> None:
    cache = sales.bundle.folder.parents[1]
    x, known = windows(features=2), np.random.default_rng(1).normal(size=(3, 28, 2))
    with (
        listening(create_app(Settings(cache_dir=cache, tracking_uri=""))) as url,
        InferenceServerClient(url.removeprefix("http://")) as client,
    ):
        described = client.get_model_metadata("sales")["inputs"]
        assert [(one["name"], one["shape"]) for one in described] == [("x", [-1, 24, 2]), ("known", [-1, 28, 2])]
        for order in (1, -1):
            for is_binary in (True, False):
                inputs = [tensor(x), tensor(known, "known", is_binary=is_binary)][::order]
                mean = client.infer("sales", inputs).as_numpy("mean")
                np.testing.assert_array_equal(mean, sales.predict_arrays(x, known=known))
        # what is known ahead reaches over the trained horizon, however few steps are asked for
        fewer = client.infer("sales", [tensor(x), tensor(known, "known")], parameters={"horizon": 2}).as_numpy("mean")
        np.testing.assert_array_equal(fewer, sales.predict_arrays(x, 2, known), strict=True)
        for inputs, said in (
            ([tensor(x)], r"the model takes \['known', 'x'\], got \['x'\]"),
            ([tensor(x), tensor(known[:, :-1], "known")], r"\('known'\).shape: \[3, 27, 2\]; the model takes"),
            ([tensor(x), tensor(known[:2], "known")], "known: shape"),
        ):
            with pytest.raises(InferenceServerException, match=said):
                client.infer("sales", inputs)


def test_the_program_in_the_docs_runs(address: str, house: House) -> None:
    page = (ROOT / "docs" / "http-api.md").read_text().split("## Open Inference Protocol")[1]
    (program,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names: dict[str, Any] = {}
    exec(program.replace("127.0.0.1:8000", address), names)
    np.testing.assert_array_equal(names["mean"], house.predictor(1).predict_arrays(names["x"]))

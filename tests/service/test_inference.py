"""The Open Inference Protocol: Triton's client over a socket, and errors."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from starlette.testclient import TestClient
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from forecaster.domain.manifest import MANIFEST
from forecaster.domain.series import Floats
from forecaster.inference.predictor import load_predictor
from forecaster.registry.bundle import identity
from forecaster.registry.cache import bundle_folder, mark_passed
from forecaster.registry.predictor import ArrayPredictor
from forecaster.registry.store import Store
from forecaster.training.job import train
from service.app import create_app
from service.settings import Settings
from tests.conftest import ROOT, TrainedModels, listening, small_config
from tests.registry.bundle_faults import edit

INFER = "/v2/models/sine/infer"


@pytest.fixture(scope="module")
def address(models: TrainedModels) -> Iterator[str]:
    settings = Settings(cache_dir=models.cache, tracking_uri="", max_series=50, max_body_bytes=200_000)
    with listening(create_app(settings)) as url:
        yield url.removeprefix("http://")


@pytest.fixture(scope="module")
def triton(address: str) -> Iterator[InferenceServerClient]:
    with InferenceServerClient(address) as client:
        yield client


def windows(batch: int = 3, features: int = 1) -> Floats:
    return np.random.default_rng(0).normal(size=(batch, 24, features))


def tensor(values: np.ndarray, name: str = "x", *, is_binary: bool = True) -> InferInput:
    inputs = InferInput(name, list(values.shape), "FP32" if values.dtype == np.float32 else "FP64")
    inputs.set_data_from_numpy(values, binary_data=is_binary)
    return inputs


def test_server_and_models_have_metadata(triton: InferenceServerClient) -> None:
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
def test_output_equals_the_predictors_bit_by_bit(
    triton: InferenceServerClient,
    models: TrainedModels,
    version: str,
    is_binary: bool,
    wants_binary: bool | None,
) -> None:
    outputs = None if wants_binary is None else [InferRequestedOutput("mean", binary_data=wants_binary)]
    answer = triton.infer("sine", [tensor(windows(), is_binary=is_binary)], version, outputs=outputs, request_id="7")
    expected = models.predictor(int(version or 1)).predict_arrays(windows())
    np.testing.assert_array_equal(answer.as_numpy("mean"), expected)
    response = answer.get_response()
    assert (response["model_name"], response["model_version"], response["id"]) == ("sine", version or "1", "7")
    assert response["parameters"] == {"forecast_by": "model"}
    (output,) = response["outputs"]
    assert ("data" in output) == (wants_binary is False)
    assert output["datatype"] == "FP64"


@pytest.mark.parametrize("is_binary", [True, False])
def test_single_precision_input_gets_double_precision_output(
    triton: InferenceServerClient, models: TrainedModels, is_binary: bool
) -> None:
    single = windows().astype(np.float32)
    answer = triton.infer("sine", [tensor(single, is_binary=is_binary)])
    expected = models.predictor(1).predict_arrays(single.astype(np.float64))
    np.testing.assert_array_equal(answer.as_numpy("mean"), expected)


def test_horizon_parameter_sets_the_number_of_steps(triton: InferenceServerClient, models: TrainedModels) -> None:
    for horizon in (1, 4, 6):
        answer = triton.infer("sine", [tensor(windows())], parameters={"horizon": horizon})
        np.testing.assert_array_equal(
            answer.as_numpy("mean"), models.predictor(1).predict_arrays(windows(), horizon), strict=True
        )


def test_without_skill_setting_serves_the_baseline(models: TrainedModels, tmp_path: Path) -> None:
    cache = Path(shutil.copytree(models.cache, tmp_path / "cache"))
    folder = bundle_folder(cache, "sine", 1)
    edit(MANIFEST, lambda manifest: manifest["skill"].update(relative_mae=1.5))(folder)
    # the service would first try a bundle without this record
    mark_passed(folder, identity(folder))
    with (
        listening(create_app(Settings(cache_dir=cache, tracking_uri="", without_skill="baseline"))) as url,
        InferenceServerClient(url.removeprefix("http://")) as client,
    ):
        answer = client.infer("sine", [tensor(windows())])
        np.testing.assert_array_equal(answer.as_numpy("mean"), np.repeat(windows()[:, -1], 4, axis=1))
        parameters = answer.get_response()["parameters"]
        assert parameters["forecast_by"] == "naive"
        assert "no demonstrated skill" in json.loads(parameters["warnings"])[0]


def test_invalid_request_gets_a_clear_error(triton: InferenceServerClient) -> None:
    good = tensor(windows())
    flags = InferInput("x", [3, 24, 1], "BOOL")
    flags.set_data_from_numpy(windows() > 0)
    texts = InferInput("x", [3, 24, 1], "BYTES")
    texts.set_data_from_numpy(windows().astype(str).astype(object))
    times = ["2026-01-01T00:00:00Z"] * 3
    for inputs, changes, status, message in (
        ([tensor(windows(), "y")], {}, "400", r"the model takes \['x'\], got \['y'\]"),
        ([good, good], {}, "400", r"the model takes \['x'\], got \['x', 'x'\]"),
        ([tensor(windows(features=2))], {}, "400", r"shape: \[3, 24, 2\]; the model takes \[batch, 24, 1\]"),
        ([tensor(windows()[:, :-1])], {}, "400", r"shape: \[3, 23, 1\]; the model takes \[batch, 24, 1\]"),
        ([tensor(windows()[:, :, 0])], {}, "400", r"shape: \[3, 24\]; the model takes"),
        ([tensor(windows(51))], {}, "400", "a batch of 51 is outside 1 to 50; split it into several requests"),
        ([tensor(windows(0))], {}, "400", "a batch of 0 is outside"),
        ([flags], {}, "400", r"inputs\[0\].datatype: BOOL is not numeric; send the values as FP64"),
        ([texts], {}, "400", r"inputs\[0\].datatype: BYTES is not numeric"),
        (
            [good],
            {"parameters": {"unique_ids": ["a"] * 3}},
            "400",
            "unique_ids: needs cutoffs too, without which no forecast enters",
        ),
        (
            [good],
            {"parameters": {"cutoffs": times[:2]}},
            "400",
            "cutoffs: needs 3 entries, one for each window, but has 2",
        ),
        (
            [good],
            {"parameters": {"cutoffs": times, "unique_ids": ["a"]}},
            "400",
            "unique_ids: needs 3 entries, one for each window",
        ),
        (
            [good],
            {"parameters": {"cutoffs": [*times[:2], "soon"]}},
            "400",
            r"parameters.cutoffs\[2\]: Input should be a",
        ),
        ([good], {"parameters": {"cutoffs": "soon"}}, "400", "parameters.cutoffs: Input should be a list, or a string"),
        ([good], {"parameters": {"cutoffs": times, "unique_ids": ["a", "b", ""]}}, "400", r"unique_ids\[2\]: String"),
        ([tensor(windows() * np.nan)], {}, "400", r"inputs\[0\] \('x'\): value 0 is not finite"),
        ([good], {"outputs": [InferRequestedOutput("median")]}, "400", "no such output; there are"),
        ([good], {"parameters": {"level": 80}}, "400", "parameters.level: Extra inputs are not permitted"),
        ([good], {"parameters": {"horizon": 41}}, "400", "horizon: 41 is outside 1 to 40"),
        ([good], {"model_name": "nobody"}, "404", "there is no model 'nobody'"),
        ([good], {"model_version": "3"}, "404", r"no version '3'; it has the versions \[1, 2\]"),
        ([good], {"model_version": "two"}, "404", "no version 'two'"),
        ([good], {"request_compression_algorithm": "gzip"}, "400", "Invalid JSON"),
        ([tensor(windows(50, 24)), tensor(windows(50, 24))], {}, "413", "the body is larger than 200000 bytes"),
    ):
        with pytest.raises(InferenceServerException, match=message) as raised:
            triton.infer(**{"model_name": "sine", "inputs": inputs} | changes)
        assert raised.value.status() == status
    with pytest.raises(InferenceServerException, match="Not Found"):
        triton.get_model_config("sine")


def test_errors_follow_the_protocol_below_v2_and_are_problems_elsewhere(client: TestClient) -> None:
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


def test_server_without_a_model_is_live_but_not_ready(tmp_path: Path) -> None:
    with TestClient(create_app(Settings(cache_dir=tmp_path, tracking_uri=""))) as client:
        assert client.get("/v2/health/live").json() == {"live": True}
        answer = client.get("/v2/health/ready")
        assert (answer.status_code, answer.json()) == (503, {"ready": False})


@pytest.fixture(scope="module")
def sales(tmp_path_factory: pytest.TempPathFactory) -> ArrayPredictor:
    """Train a model with a `hist_exog` column, a `futr_exog` column and a calendar feature."""
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


def test_what_is_known_ahead_is_a_second_input(sales: ArrayPredictor) -> None:
    cache = sales.bundle.folder.parents[1]
    x, known = windows(features=2), np.random.default_rng(1).normal(size=(3, 28, 2))
    with (
        listening(create_app(Settings(cache_dir=cache, tracking_uri=""))) as url,
        InferenceServerClient(url.removeprefix("http://")) as client,
    ):
        described = client.get_model_metadata("sales")["inputs"]
        assert [(given["name"], given["shape"]) for given in described] == [("x", [-1, 24, 2]), ("known", [-1, 28, 2])]
        for order in (1, -1):
            for is_binary in (True, False):
                inputs = [tensor(x), tensor(known, "known", is_binary=is_binary)][::order]
                mean = client.infer("sales", inputs).as_numpy("mean")
                np.testing.assert_array_equal(mean, sales.predict_arrays(x, known=known))
        # known columns cover the trained horizon, even if fewer steps are requested
        fewer = client.infer("sales", [tensor(x), tensor(known, "known")], parameters={"horizon": 2}).as_numpy("mean")
        np.testing.assert_array_equal(fewer, sales.predict_arrays(x, 2, known), strict=True)
        # the request holds the calendar features too, so cutoffs do not change the forecast
        parameters = {"cutoffs": ["2026-01-31"] * 3, "horizon": 2}
        recorded = client.infer("sales", [tensor(x), tensor(known, "known")], parameters=parameters)
        np.testing.assert_array_equal(recorded.as_numpy("mean"), fewer, strict=True)
        assert len(recorded.get_response()["parameters"]["request_id"]) == 32
        for inputs, message in (
            ([tensor(x)], r"the model takes \['known', 'x'\], got \['x'\]"),
            ([tensor(x), tensor(known[:, :-1], "known")], r"\('known'\).shape: \[3, 27, 2\]; the model takes"),
            ([tensor(x), tensor(known[:2], "known")], "known: has the shape"),
        ):
            with pytest.raises(InferenceServerException, match=message):
                client.infer("sales", inputs)


def test_documented_program_runs(address: str, models: TrainedModels) -> None:
    page = (ROOT / "docs" / "http-api.md").read_text().split("## Open Inference Protocol")[1]
    (program,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names: dict[str, Any] = {}
    exec(program.replace("127.0.0.1:8000", address), names)
    np.testing.assert_array_equal(names["mean"], models.predictor(1).predict_arrays(names["x"]))

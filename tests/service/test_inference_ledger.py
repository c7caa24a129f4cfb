"""The Open Inference Protocol and the ledger: requests with cutoffs are scored, under the owner of the key."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import func, select, true
from starlette.testclient import TestClient

from forecaster.database.engine import transaction
from forecaster.database.keys import create_key
from forecaster.database.schema import open_database
from forecaster.database.tables import FORECASTS, REQUESTS
from forecaster.domain.series import Floats
from service.app import create_app
from service.settings import Settings
from tests.conftest import TrainedModels
from tests.service.conftest import series, wait_until_ready

INFER = "/v2/models/sine/infer"
DATABASE = "ledger.db"


def windows(batch: int = 3, features: int = 1) -> Floats:
    return np.random.default_rng(0).normal(size=(batch, 24, features))


@pytest.fixture
def ledger_client(models: TrainedModels, tmp_path: Path) -> Iterator[TestClient]:
    """Yield a client of a service with a new ledger."""
    settings = Settings(
        cache_dir=models.cache,
        tracking_uri="",
        database_url=f"sqlite:///{tmp_path}/{DATABASE}",
        keys_refresh_seconds=0.05,
        max_series=50,
    )
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        wait_until_ready(client)
        yield client


def infer_body(values: Floats, **parameters: Any) -> dict[str, Any]:
    x = {"name": "x", "shape": list(values.shape), "datatype": "FP64", "data": values.ravel().tolist()}
    return {"inputs": [x], "parameters": parameters}


def count_forecasts(folder: Path) -> int:
    with open_database(f"sqlite:///{folder}/{DATABASE}") as engine, transaction(engine) as connection:
        return connection.execute(select(func.count()).select_from(FORECASTS)).scalar_one()


@pytest.mark.parametrize("zone", ["", "Z", "+02:00"])
@pytest.mark.parametrize("is_text", [False, True])
def test_forecasts_with_cutoffs_enter_the_ledger_and_are_scored_like_those_of_v1(
    ledger_client: TestClient, tmp_path: Path, zone: str, is_text: bool
) -> None:
    histories = [series(24 + row, name) for row, name in enumerate("abc")]
    for history in histories:
        history["ds"] = [f"{ds}{zone}" for ds in history["ds"]]
    expected = ledger_client.post("/v1/forecasts", json={"model": "sine", "series": histories, "horizon": 3}).json()
    values = np.array([history["y"][-24:] for history in histories])[:, :, None]
    parameters: dict[str, Any] = {
        "unique_ids": ["a", "b", "c"], "cutoffs": [history["ds"][-1] for history in histories],
    }  # fmt: skip
    if is_text:
        parameters = {name: json.dumps(value) for name, value in parameters.items()}
    answer = ledger_client.post(INFER, json=infer_body(values, horizon=3, **parameters)).json()
    assert answer["outputs"][0]["data"] == [mean for served in expected["forecasts"] for mean in served["mean"]]
    for window, served in enumerate(expected["forecasts"]):
        # the 80 and 95 % intervals are scored, even if the request has no levels
        request = {"model": "sine", "series": [histories[window]], "level": [80, 95]}
        with_levels = ledger_client.post("/v1/forecasts", json=request).json()
        forecast_id = f"{answer['parameters']['request_id']}-{window}"
        found = ledger_client.get(f"/v1/forecasts/{forecast_id}").json()
        assert found["forecast"] == served | {"forecast_id": forecast_id}
        assert {name: found[name] for name in ("model", "forecast_by", "skill", "warnings")} == {
            name: expected[name] for name in ("model", "forecast_by", "skill", "warnings")
        }
        y = with_levels["forecasts"][0]["hi-80"][0] + 1e-9
        actuals = [{"unique_id": served["unique_id"], "ds": served["ds"][0], "y": y}]
        assert ledger_client.post("/v1/actuals", json={"actuals": actuals}).json()["changed"] == 1
        assert ledger_client.get(f"/v1/forecasts/{forecast_id}").json()["actual"] == [y, None, None]
    (realised,) = ledger_client.get("/v1/skill", params={"model": "sine"}).json()["realised"]
    # three forecasts of each series: v1 without levels, v1 with levels, and v2
    assert realised["n_scores"] == 9
    assert realised["coverage"] == {"80": 0, "95": 1}
    # all three have the same last value, against which they are scored
    with open_database(f"sqlite:///{tmp_path}/{DATABASE}") as engine, transaction(engine) as connection:
        rows = connection.execute(select(FORECASTS.c.unique_id, FORECASTS.c.last_value).distinct()).all()
    assert sorted(map(tuple, rows)) == [(history["unique_id"], history["y"][-1]) for history in histories]


def test_default_name_of_a_series_is_its_forecast_id(ledger_client: TestClient, tmp_path: Path) -> None:
    cutoffs = ["2026-01-01T00:00:00Z", "2026-01-01T05:00:00Z"]
    path = "/v2/models/sine/versions/2/infer"
    answer = ledger_client.post(path, json=infer_body(windows(2), cutoffs=cutoffs, binary_data_output=True))
    length = int(answer.headers["Inference-Header-Content-Length"])
    request_id = json.loads(answer.content[:length])["parameters"]["request_id"]
    for window, hour in enumerate(("01", "06")):
        name = f"{request_id}-{window}"
        found = ledger_client.get(f"/v1/forecasts/{name}").json()
        assert (found["forecast"]["unique_id"], found["model"]["version"], found["model"]["alias"]) == (name, 2, None)
        assert found["forecast"]["ds"][0] == f"2026-01-01T{hour}:00:00Z"
    assert count_forecasts(tmp_path) == 2


def test_forecasts_without_cutoffs_do_not_enter_the_ledger(ledger_client: TestClient, tmp_path: Path) -> None:
    answer = ledger_client.post(INFER, json=infer_body(windows(2)))
    assert answer.json()["parameters"] == {"forecast_by": "model"}
    assert count_forecasts(tmp_path) == 0


def test_request_with_cutoffs_fails_without_the_ledger(ledger_client: TestClient, tmp_path: Path) -> None:
    (tmp_path / DATABASE).rename(tmp_path / "elsewhere.db")
    answer = ledger_client.post(INFER, json=infer_body(windows(1), cutoffs=["2026-01-01"]))
    assert answer.status_code == 503
    assert answer.json() == {"error": "the database is unavailable; retry"}
    assert "Retry-After" in answer.headers
    # without cutoffs, the ledger is not needed
    assert ledger_client.post(INFER, json=infer_body(windows(1))).status_code == 200


def test_forecasts_belong_to_the_owner_of_the_key(ledger_client: TestClient, tmp_path: Path) -> None:
    with open_database(f"sqlite:///{tmp_path}/{DATABASE}") as engine:
        keys = [create_key(engine, name, ["forecast"]) for name in ("shop", "other")]
    shop, other = ({"Authorization": f"Bearer {key}"} for key in keys)
    deadline = time.monotonic() + 20
    while ledger_client.get("/v2", headers=shop).status_code != 200 or ledger_client.get("/v2").status_code != 401:
        assert time.monotonic() < deadline, "the keys are never read"
    request = infer_body(windows(1), cutoffs=["2026-01-01"], unique_ids=["a"])
    request_id = ledger_client.post(INFER, json=request, headers=shop).json()["parameters"]["request_id"]
    assert ledger_client.get(f"/v1/forecasts/{request_id}-0", headers=shop).status_code == 200
    assert ledger_client.get(f"/v1/forecasts/{request_id}-0", headers=other).status_code == 404
    with open_database(f"sqlite:///{tmp_path}/{DATABASE}") as engine, transaction(engine) as connection:
        (row,) = connection.execute(select(FORECASTS.c.owner, REQUESTS.c.client).join_from(FORECASTS, REQUESTS, true()))
    assert row.owner == "shop"
    assert keys[0].startswith(f"fc_{row.client}_")

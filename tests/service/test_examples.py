"""What the dashboard shows first: the newest served forecast of a model, or the version's example."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import update
from starlette.testclient import TestClient

from forecaster.database.engine import open_engine, transaction
from forecaster.database.keys import create_key
from forecaster.database.schema import upgrade_schema
from forecaster.database.tables import FORECASTS
from forecaster.domain.manifest import MANIFEST
from forecaster.registry.bundle import identity
from forecaster.registry.cache import mark_passed
from service.app import create_app
from service.settings import Settings
from tests.conftest import TrainedModels
from tests.registry.bundle_faults import edit
from tests.service.conftest import forecast_request, series, wait_until_ready

EXAMPLE = "/v1/models/sine/versions/1/example"


def test_example_is_a_valid_forecast_request(client: TestClient, models: TrainedModels) -> None:
    found = client.get(EXAMPLE).json()
    example = models.predictor(1).manifest.example
    assert example is not None
    assert found["series"]["y"] + found["actual"] == list(example.y)
    assert found["forecast"]["mean"] == list(example.forecast["mean"])
    assert found["is_fitted_on"] is True
    answer = client.post("/v1/forecasts", json={"model": "sine", "series": [found["series"]], "level": [80, 95]})
    assert answer.status_code == 200, answer.text
    (served,) = answer.json()["forecasts"]
    assert (served["cutoff"], served["ds"]) == (found["forecast"]["cutoff"], found["forecast"]["ds"])
    assert found["skill"] == answer.json()["skill"]
    # the evaluated network made the example's forecast, and the served network this one
    assert not np.allclose(served["mean"], found["forecast"]["mean"], rtol=1e-4)


def test_list_of_models_tells_which_versions_have_an_example(client: TestClient) -> None:
    for version in client.get("/v1/models/sine").json()["versions"].values():
        assert version["has_example"] is True
        assert "example" not in version


@pytest.mark.parametrize("path", ["/v1/models/nobody/versions/1/example", "/v1/models/sine/versions/9/example"])
def test_example_of_an_unknown_version_is_not_found(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404


def test_version_of_an_earlier_release_is_served_without_an_example(models: TrainedModels, tmp_path: Path) -> None:
    shutil.copytree(models.cache, tmp_path / "cache")
    folder = tmp_path / "cache" / "sine" / "1"
    edit(MANIFEST, lambda manifest: manifest.pop("example"))(folder)
    mark_passed(folder, identity(folder))
    settings = Settings(cache_dir=tmp_path / "cache", tracking_uri="")
    with TestClient(create_app(settings)) as client:
        wait_until_ready(client)
        assert client.get("/v1/models/sine").json()["versions"]["1"]["has_example"] is False
        answer = client.get(EXAMPLE)
        assert (answer.status_code, "has no example" in answer.json()["detail"]) == (404, True)
        assert client.post("/v1/forecasts", json=forecast_request(version=1)).status_code == 200


def test_newest_forecast_excludes_other_owners_and_on_request_the_shadow(models: TrainedModels, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/l.db"
    engine = open_engine(url)
    upgrade_schema(engine)
    keys = {name: {"Authorization": f"Bearer {create_key(engine, name, scopes)}"} for name, scopes in SCOPES.items()}
    settings = Settings(cache_dir=models.cache, tracking_uri="", database_url=url, keys_refresh_seconds=0.05)
    with TestClient(create_app(settings)) as client:
        wait_until_ready(client)
        for name in ("first", "second", "unseen"):
            body = forecast_request(series=[series(unique_id=name)])
            assert client.post("/v1/forecasts", json=body, headers=keys["shop"]).status_code == 200
        with transaction(engine) as connection:
            connection.execute(update(FORECASTS).where(FORECASTS.c.unique_id == "unseen").values(is_shadow=True))

        def newest(key: str, **query: str) -> list[str]:
            found = client.get("/v1/forecasts", params={"model": "sine", "limit": "1"} | query, headers=keys[key])
            return [stored["forecast"]["unique_id"] for stored in found.json()["forecasts"]]

        assert newest("shop") == ["unseen"]
        assert newest("shop", is_shadow="false") == ["second"]
        assert newest("shop", is_shadow="false", unique_id="first") == ["first"]
        assert newest("rival", is_shadow="false") == []
        # the example belongs to no owner, but needs the scope `forecast`
        assert client.get(EXAMPLE, headers=keys["rival"]).status_code == 200
        assert client.get(EXAMPLE, headers=keys["sensor"]).status_code == 403
        assert client.get(EXAMPLE).status_code == 401


SCOPES = {"shop": ["forecast"], "rival": ["forecast"], "sensor": ["actuals"]}

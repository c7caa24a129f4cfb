"""A model of many series with static columns: the same forecasts in Python, over HTTP and in batches."""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from forecaster.client.frames import read_histories
from forecaster.data.windows import cut_windows
from forecaster.domain.config import build_config
from forecaster.domain.errors import RequestError, SeriesError, TrainingError
from forecaster.domain.manifest import KERAS_MODEL
from forecaster.inference.batch import BatchConfig, forecast_batch
from forecaster.inference.predictor import Predictor
from forecaster.training.config import prepare
from forecaster.training.stages import refit
from service.app import create_app
from service.settings import Settings
from tests.conftest import trained_predictor
from tests.service.conftest import wait_until_ready
from tests.shops import AREAS, shop_recipe, shops


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    folder = tmp_path_factory.mktemp("shops")
    return trained_predictor(shop_recipe(folder), folder / "cache")


@pytest.fixture(scope="module")
def client(predictor: Predictor) -> Iterator[TestClient]:
    cache = predictor.bundle.folder.parents[1]
    with TestClient(create_app(Settings(cache_dir=cache, tracking_uri=""))) as client:
        wait_until_ready(client)
        yield client


def with_unknown() -> pd.DataFrame:
    """Return the shops, and one that is new and has a new format."""
    frame = shops()
    new = frame[frame["unique_id"] == "c"].assign(unique_id="z", format="pop-up")
    return pd.concat([frame, new], ignore_index=True)


def bodies(client: TestClient, frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the series as the client sends them."""
    manifest = client.get("/v1/models/shops").json()["versions"]["1"]
    return read_histories(frame, None, manifest, 1000).series


def post(client: TestClient, series: list[dict[str, Any]]) -> Any:
    return client.post("/v1/forecasts", json={"model": "shops", "series": series, "level": [80]})


def means(answer: Any) -> dict[str, list[float]]:
    assert answer.status_code == 200, answer.text
    return {forecast["unique_id"]: forecast["mean"] for forecast in answer.json()["forecasts"]}


def test_python_http_and_batch_forecasts_are_equal(predictor: Predictor, client: TestClient, tmp_path: Path) -> None:
    frame = with_unknown()
    expected = predictor.predict_frame(frame, level=(80,))
    unknown = [
        "the model was not trained on series 'z'; the forecast is that of an unknown series",
        "the model was not trained on the format of series 'z'; the forecast is that of an unknown format",
    ]
    assert expected.attrs["warnings"][-2:] == unknown
    answer = post(client, bodies(client, frame))
    assert [*chain(*means(answer).values())] == expected["mean"].tolist()
    assert answer.json()["warnings"][-2:] == unknown
    frame.to_csv(tmp_path / "new.csv", index=False)
    raw = {
        "name": "shops",
        "data": {"source": "files", "path": tmp_path / "new.csv"},
        "level": [80],
        "out": tmp_path / "out.parquet",
        "cache": predictor.bundle.folder.parents[1],
        "tracking": {"uri": ""},
    }
    batch = forecast_batch(
        build_config(raw, BatchConfig, "test"), f"sqlite:///{tmp_path}/l.db", lambda done, count: None
    )
    assert not batch.failed
    assert batch.head["warnings"][-2:] == unknown
    written = pd.read_parquet(tmp_path / "out.parquet")
    for column in ("mean", "lo-80", "hi-80"):
        assert written[column].tolist() == expected[column].tolist()
    with pytest.raises(RequestError, match=r"the bar store lacks the model's columns \['area', 'format'\]"):
        forecast_batch(
            build_config(raw | {"data": {"source": "store", "folder": tmp_path}}, BatchConfig, "test"),
            f"sqlite:///{tmp_path}/l.db",
            lambda done, count: None,
        )


def test_tensors_give_the_same_forecasts(predictor: Predictor, client: TestClient) -> None:
    frame = shops()
    expected = predictor.predict_frame(frame)["mean"].tolist()
    x = np.stack([rows["y"].to_numpy()[-14:, None] for _, rows in frame.groupby("unique_id")])
    first = frame.drop_duplicates("unique_id")
    values = {name: first[name].tolist() for name in ("area", "format")}
    static = predictor.static_columns.encode_all(first["unique_id"].tolist(), values)
    feeds = {"x": x, "static": static}
    inputs = [
        {"name": name, "shape": list(array.shape), "datatype": "FP64", "data": array.ravel().tolist()}
        for name, array in feeds.items()
    ]
    (output,) = client.post("/v2/models/shops/infer", json={"inputs": inputs}).json()["outputs"]
    assert output["data"] == expected
    assert predictor.predict_arrays(x, static=static).ravel().tolist() == expected
    described = client.get("/v2/models/shops").json()["inputs"]
    assert [(tensor["name"], tensor["shape"]) for tensor in described] == [("x", [-1, 14, 1]), ("static", [-1, 3])]
    refused = client.post("/v2/models/shops/infer", json={"inputs": [inputs[0], inputs[1] | {"shape": [15]}]})
    assert "inputs[1] ('static').shape: [15]; the model takes [batch, 3]" in refused.json()["error"]
    with pytest.raises(RequestError, match=r"static: has the shape None; the model takes a row of \['area', 'unique_"):
        predictor.predict_arrays(x)


def test_forecast_depends_on_each_static_column(predictor: Predictor) -> None:
    frame = shops()
    own = frame[frame["unique_id"] == "a"]
    before = predictor.predict_frame(own)["mean"].to_numpy()
    for change in ({"area": 40.0}, {"format": "hall"}, {"format": "pop-up"}, {"unique_id": "b"}, {"unique_id": "z"}):
        assert (predictor.predict_frame(own.assign(**change))["mean"].to_numpy() != before).all(), change
    gradients = [
        predictor.predict_frame(own.assign(area=area), explain=True).filter(like="gradient-").to_numpy()
        for area in (own["area"].iloc[0], 40.0)
    ]
    assert (gradients[0] != gradients[1]).all()
    # all that is unknown is the same
    first, second = (predictor.predict_frame(own.assign(unique_id=name, format=name)) for name in ("y", "z"))
    assert first["mean"].tolist() == second["mean"].tolist()


@given(order=st.permutations([*AREAS, "z"]))
def test_permuting_the_series_permutes_the_forecasts(client: TestClient, order: list[str]) -> None:
    series = {body["unique_id"]: body for body in bodies(client, with_unknown())}
    expected = means(post(client, [*series.values()]))
    found = means(post(client, [series[name] for name in order]))
    assert list(found) == order
    assert found == expected


@pytest.mark.parametrize(
    ("stat_exog", "detail"),
    [
        ({"area": 1.0}, "stat_exog: the model takes the columns ['area', 'format']; missing: ['format'], unknown: []"),
        ({"area": 1.0, "format": "hall", "city": "Ulm"}, "missing: [], unknown: ['city']"),
        ({"area": "large", "format": "hall"}, "stat_exog.area: is the text 'large'; the model takes a number"),
    ],
)
def test_invalid_stat_exog_is_named(client: TestClient, stat_exog: dict[str, Any], detail: str) -> None:
    answer = post(client, [bodies(client, shops())[0] | {"stat_exog": stat_exog}])
    assert answer.status_code == 422
    assert detail in answer.json()["detail"]


def test_bar_store_has_no_stat_exog(client: TestClient) -> None:
    answer = client.post("/v1/forecasts", json={"model": "shops", "unique_ids": ["SPY"]})
    assert answer.status_code == 422
    assert "the bar store has no stat_exog ['area', 'format']; send series" in answer.json()["detail"]


def test_frames_with_invalid_static_columns_are_refused(predictor: Predictor) -> None:
    frame = shops()
    for changed, message in (
        (frame.drop(columns="format"), r"df: missing columns \['format'\]"),
        (frame.assign(area=frame["area"].where(frame.index != 7)), "df, row 7: area is missing"),
        (frame.assign(area=frame["area"].where(frame.index != 7, 3.0)), "df, row 7: area differs within its series"),
        (frame.assign(area="large"), "df, row 0: area is not a number"),
    ):
        with pytest.raises(SeriesError, match=message):
            predictor.predict_frame(changed)


def test_example_has_the_static_columns_of_its_series(client: TestClient) -> None:
    series = client.get("/v1/models/shops/versions/1/example").json()["series"]
    assert series["stat_exog"] == {"area": AREAS[series["unique_id"]], "format": "kiosk"}
    assert post(client, [series]).status_code == 200


def test_weights_of_other_series_are_no_warm_start(predictor: Predictor, tmp_path: Path) -> None:
    config, weights = shop_recipe(tmp_path), predictor.bundle.folder / KERAS_MODEL

    def warm(folder: str) -> None:
        series = prepare(config, config.load())
        seen = cut_windows(series, config.input_size, config.horizon)
        (tmp_path / folder).mkdir()
        refit(config, seen, 1, tmp_path / folder, weights=weights)

    warm("same")
    shops().replace({"unique_id": {"e": "f"}}).to_csv(tmp_path / "shops.csv", index=False)
    with pytest.raises(TrainingError, match=r"whose series or categories differ .* retrain\.warm_epochs to null"):
        warm("renamed")

"""The client with the real service: its frames equal the predictor's, bit by bit."""

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from forecaster.client import AsyncClient, Client, RequestRefused
from forecaster.data.calendars import get_calendar
from forecaster.domain.errors import SeriesError
from forecaster.inference.predictor import Predictor, load_predictor
from forecaster.registry.store import Store
from forecaster.training.job import train
from service.app import create_app
from service.settings import Settings
from tests.client.conftest import frame
from tests.conftest import ROOT, TrainedModels, listening, small_config
from tests.data.prices import Company

Forecast = Callable[..., pd.DataFrame]


def forecast_blocking(url: str, df: pd.DataFrame, **options: Any) -> pd.DataFrame:
    with Client(url) as client:
        return client.forecast(df, **{"model": "sine"} | options)


def forecast_async(url: str, df: pd.DataFrame, **options: Any) -> pd.DataFrame:
    async def run() -> pd.DataFrame:
        async with AsyncClient(url) as client:
            return await client.forecast(df, **{"model": "sine"} | options)

    return asyncio.run(run())


@pytest.fixture(params=[forecast_blocking, forecast_async])
def forecast(request: pytest.FixtureRequest) -> Forecast:
    chosen: Forecast = request.param
    return chosen


def assert_same(answer: pd.DataFrame, expected: pd.DataFrame) -> None:
    """Compare an answer with the predictor's frame, which has no forecast ids; each series has one."""
    ids = answer.groupby("unique_id")["forecast_id"].unique()
    assert ids.str.len().eq(1).all()
    assert ids.str[0].is_unique
    pd.testing.assert_frame_equal(answer.drop(columns="forecast_id"), expected, check_exact=True)


FRAMES = {
    "one series": frame(),
    "interleaved": pd.concat([frame(30, "b"), frame(24, "a"), frame(40, "c")]).sort_values("ds", kind="stable"),
    "utc": frame(tz="UTC"),
    "berlin, spring": frame(tz="Europe/Berlin", start="2026-03-27 20:00"),
    "berlin, autumn": frame(tz="Europe/Berlin", start="2026-10-23 19:00"),
    "new york": frame(tz="America/New_York", start="2026-03-06 23:00"),
    "fixed offset": frame(tz="+05:30"),
    "microseconds": frame().astype({"ds": "datetime64[us]"}),
    "seconds": frame().astype({"ds": "datetime64[s]"}),
    "numbers for names": pd.concat([frame(unique_id=7), frame(unique_id=3)]),
    "categories for names": frame().astype({"unique_id": "category"}),
    "whole numbers": frame().assign(y=range(30)),
    "other columns": frame().assign(colour="red"),
}


@pytest.mark.parametrize("df", FRAMES.values(), ids=FRAMES.keys())
def test_a_forecast_is_the_predictors(url: str, models: TrainedModels, forecast: Forecast, df: pd.DataFrame) -> None:
    assert_same(forecast(url, df, level=[80, 95]), models.predictor(1).predict_frame(df, level=(80, 95)))


def test_version_horizon_and_quantiles_are_passed_on(url: str, models: TrainedModels, forecast: Forecast) -> None:
    expected = models.predictor(2).predict_frame(frame(), horizon=2, quantiles=(0.1, 0.975))
    answer = forecast(url, frame(), version=2, horizon=2, quantiles=(0.975, 0.1))
    assert_same(answer, expected)
    assert answer.attrs["model"]["version"] == 2


def test_sample_paths_are_the_predictors(url: str, models: TrainedModels, forecast: Forecast) -> None:
    df = pd.concat([frame(), frame(unique_id="b")])
    expected = models.predictor(1).predict_frame(df, horizon=3, level=[80], n_samples=7, seed=5)
    assert_same(forecast(url, df, horizon=3, level=[80], n_samples=7, seed=5), expected)
    assert list(expected.columns[-7:]) == [f"sample-{number}" for number in range(1, 8)]
    assert expected["sample-1"].nunique() == len(expected)


def test_a_horizon_beyond_the_trained_has_no_bounds_and_a_warning(
    url: str, models: TrainedModels, forecast: Forecast
) -> None:
    answer = forecast(url, frame(), horizon=6, level=[80])
    with pytest.warns(UserWarning, match="rolled out"):
        assert_same(answer, models.predictor(1).predict_frame(frame(), horizon=6, level=[80]))
    assert "rolled out" in answer.attrs["warnings"][0]


def test_the_frame_carries_the_version_and_its_skill(url: str, models: TrainedModels, forecast: Forecast) -> None:
    attrs = forecast(url, frame()).attrs
    assert attrs["model"] == {
        "name": "sine", "version": 1, "alias": "champion", "run_id": models.versions[0].run_id,
    }  # fmt: skip
    assert attrs["skill"]["relative_mae"] == models.versions[0].metrics["relative_mae"]
    assert (attrs["forecast_by"], attrs["warnings"]) == ("model", [])


def test_many_series_are_split_into_several_requests(url: str, models: TrainedModels) -> None:
    random = np.random.default_rng(0)
    df = pd.concat([frame(24, str(number)).assign(y=random.normal(size=24)) for number in range(120)])
    with Client(url, series_per_request=50) as client:
        answer = client.forecast(df, model="sine", level=[80])
    assert_same(answer, models.predictor(1).predict_frame(df, level=(80,)))
    assert answer.attrs["model"]["alias"] == "champion"
    with Client(url) as client, pytest.raises(RequestRefused, match="120 series, at most 50"):
        client.forecast(df, model="sine")


INVALID: dict[str, tuple[pd.DataFrame, dict[str, Any], type[Exception], str]] = {
    "no y": (frame().drop(columns="y"), {}, SeriesError, r"df: missing columns \['y'\]"),
    "not a number": (frame().assign(y=np.nan), {}, SeriesError, "df, row 0: y is not a finite number"),
    "text for times": (frame().astype({"ds": str}), {}, SeriesError, "ds holds object, not timestamps"),
    "unsorted": (frame().iloc[::-1], {}, SeriesError, "sort by ds"),
    "older rows last": (pd.concat([frame(30, start="2026-02-01"), frame(30)]), {}, SeriesError, "sort by ds"),
    "too short": (frame(20), {}, RequestRefused, "has 20 values, and the model needs 24"),
    "gap": (frame().drop(index=20), {}, RequestRefused, r"ds\[15\]: .* is not one step of h after"),
    "unknown model": (frame(), {"model": "nobody"}, RequestRefused, "there is no model 'nobody'"),
    "model of any text": (frame(), {"model": "a/../b?c#d"}, RequestRefused, r"refused \(404\)"),
    "unknown alias": (frame(), {"alias": "nobody"}, RequestRefused, "no alias 'nobody'; it has the aliases"),
    "unknown version": (frame(), {"version": 9}, RequestRefused, r"no version 9; .* versions \[1, 2\]"),
    "alias and version": (frame(), {"alias": "champion", "version": 1}, RequestRefused, "not both"),
    "level 100": (frame(), {"level": [100]}, RequestRefused, "below 100"),
    "horizon 0": (frame(), {"horizon": 0}, RequestRefused, "horizon: 0 is outside"),
}


@pytest.mark.parametrize(("df", "options", "error", "message"), INVALID.values(), ids=INVALID.keys())
def test_invalid_frames_and_options_are_refused_with_a_reason(
    url: str, forecast: Forecast, df: pd.DataFrame, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        forecast(url, df, **options)


def test_mistakes_in_a_request_body_are_listed(url: str, forecast: Forecast) -> None:
    with pytest.raises(RequestRefused) as raised:
        forecast(url, frame(unique_id="long" * 100))
    assert raised.value.status == 422
    assert raised.value.errors[0]["location"] == "series[0].unique_id"


def test_models_are_listed(url: str) -> None:
    async def list_models() -> list[dict[str, Any]]:
        async with AsyncClient(url) as client:
            return await client.models()

    with Client(url) as client:
        (model,) = client.models()
    assert model["aliases"]["champion"] == 1
    assert asyncio.run(list_models()) == [model]


def test_actuals_are_sent_and_score_the_forecast(url: str) -> None:
    async def look_up(forecast_id: str) -> dict[str, Any]:
        async with AsyncClient(url) as client:
            return await client.forecast_by_id(forecast_id)

    with Client(url) as client:
        answer = client.forecast(frame(unique_id="scored", tz="Europe/Berlin"), model="sine", level=[80])
        actuals = answer[["unique_id", "ds"]].assign(y=answer["mean"] + 1)
        assert client.actuals(actuals) == {"accepted": 4, "changed": 4}
        assert client.actuals(actuals) == {"accepted": 4, "changed": 0}
        stored = client.forecast_by_id(answer["forecast_id"].iloc[0])
        assert asyncio.run(look_up(answer["forecast_id"].iloc[0])) == stored
        assert stored["forecast"]["mean"] == answer["mean"].tolist()
        assert stored["actual"] == actuals["y"].tolist()
        (skill,) = client.skill("sine")["realised"]
        assert skill["n_scores"] == 4
        assert skill["bias"] == pytest.approx(-1)
        with pytest.raises(RequestRefused, match="there is no forecast 'nobody'"):
            client.forecast_by_id("nobody")


# daily rows with a calendar feature and a column that is known in advance
ROWS = 900
DAYS = pd.DataFrame(
    {
        "ds": pd.date_range("2023-11-01", periods=ROWS),
        "y": np.sin(np.arange(ROWS)),
        "visits": np.cos(np.arange(ROWS)),
        "promotion": np.arange(ROWS) % 3.0,
    }
)


def _trained(folder: Path, name: str, table: pd.DataFrame, **changes: Any) -> Predictor:
    table.to_csv(folder / f"{name}.csv", index=False)
    data = {"source": "files", "path": str(folder / f"{name}.csv")}
    registered = train(small_config(folder, name=name, data=data, fit={"epochs": 1}, **changes))
    uri = f"sqlite:///{folder}/mlflow.db"
    Store(uri).promote(name, registered.version)
    return load_predictor(name, tracking_uri=uri, cache=folder / "cache")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shop")


@pytest.fixture(scope="module")
def sales(folder: Path) -> Predictor:
    columns = {"hist_exog": ["visits"], "futr_exog": ["promotion"], "calendar_features": ["day_of_week"]}
    return _trained(folder, "sales", DAYS, **columns)


@pytest.fixture(scope="module")
def prices(folder: Path) -> Predictor:
    table = Company(first="2022-01-03", last="2025-12-23").bars().long_frame()
    return _trained(folder, "abc", table, freq="XNYS")


@pytest.fixture(scope="module")
def shop(folder: Path, sales: Predictor, prices: Predictor) -> Iterator[str]:
    with listening(create_app(Settings(cache_dir=folder / "cache", tracking_uri=""))) as url:
        yield url


def history_and_future(end: int, tz: str | None = None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the history of two shops at row `end`, and their `futr_exog` for the days after it."""
    whole = DAYS.assign(ds=DAYS["ds"].dt.tz_localize(tz))
    past = [whole.iloc[end - 40 : end].assign(unique_id="a"), whole.iloc[end - 50 : end - 5].assign(unique_id="b")]
    ahead = [whole.iloc[end:].assign(unique_id="a"), whole.iloc[end - 5 :].assign(unique_id="b")]
    return pd.concat(past), pd.concat(ahead)[["ds", "unique_id", "promotion"]]


@pytest.mark.parametrize("tz", [None, "UTC", "Europe/Berlin", "America/New_York"])
def test_futr_exog_is_sent_for_the_next_steps(shop: str, sales: Predictor, forecast: Forecast, tz: str | None) -> None:
    # the clocks change within the steps of one of the shops
    changes = (DAYS["ds"] == pd.Timestamp(day) for day in ("2025-10-26", "2025-11-02", "2026-03-08", "2026-03-29"))
    for end in (int(np.argmax(is_change)) + shift for is_change in changes for shift in (-1, 4)):
        past, ahead = history_and_future(end, tz)
        expected = sales.predict_frame(past, level=(80,), futr_df=ahead)
        shuffled = ahead.sample(frac=1, random_state=1)
        assert_same(forecast(shop, past, model="sales", level=[80], futr_df=shuffled), expected)
        fewer = forecast(shop, past, model="sales", level=[80], futr_df=ahead, horizon=3)
        assert_same(fewer, sales.predict_frame(past, horizon=3, level=(80,), futr_df=ahead))


def test_missing_columns_and_wrong_times_are_refused(shop: str, forecast: Forecast) -> None:
    past, ahead = history_and_future(100)
    two = ahead["ds"].eq(pd.Timestamp("2024-02-11"))
    for df, futr_df, options, message in (
        (past.drop(columns="visits"), ahead, {}, r"df: missing columns \['visits'\]"),
        (past, None, {}, r"futr_df: missing; the model needs \['promotion'\] for the next 4 steps"),
        (past, ahead.drop(columns="promotion"), {}, r"futr_df: missing columns \['promotion'\]"),
        (past, ahead[ahead["unique_id"] == "a"], {}, "futr_df: series 'b' has 0 rows after 2024-02-03"),
        (past, ahead[~two], {}, "series 'a' has 2024-02-12 00:00:00 where the model's step is 2024-02-11 00:00:00"),
        (past, ahead[~two], {"horizon": 1}, "series 'a' has 2024-02-12 00:00:00 where the model's step is"),
        (past, pd.concat([ahead, ahead]), {}, "same unique_id and ds"),
        (past, ahead.assign(promotion=np.inf), {}, "promotion is not a finite number"),
        (past, ahead.assign(ds=ahead["ds"].dt.tz_localize("UTC")), {}, "both have a zone, or neither"),
    ):
        with pytest.raises(SeriesError, match=message):
            forecast(shop, df, model="sales", futr_df=futr_df, **options)
    with pytest.raises(RequestRefused, match="horizon: 5 is outside 1 to 4"):
        forecast(shop, past, model="sales", futr_df=ahead, horizon=5)


def test_forecasts_of_prices_fall_on_sessions(shop: str, prices: Predictor, forecast: Forecast) -> None:
    days = get_calendar("XNYS").sessions(np.datetime64("2022-01-03"), np.datetime64("2025-12-23"))[-30:]
    for tz in (None, "America/New_York"):
        ds = pd.Series(days.astype("M8[ns]")).dt.tz_localize(tz)
        df = pd.DataFrame({"unique_id": "ABC", "ds": ds, "y": np.linspace(100, 110, 30)})
        answer = forecast(shop, df, model="abc", level=[80])
        assert_same(answer, prices.predict_frame(df, level=(80,)))
        assert answer["ds"].dt.strftime("%d").tolist() == ["24", "26", "29", "30"]


SCRIPT = """
import sys
import pandas as pd
from forecaster.client import Client
df = pd.DataFrame({"unique_id": "a", "ds": pd.date_range("2026-01-01", periods=24, freq="h"), "y": 0.5})
with Client(sys.argv[1]) as client:
    assert len(client.forecast(df, model="sine")) == 4
heavy = ("tensorflow", "keras", "mlflow", "onnxruntime", "sqlalchemy", "forecaster.registry", "forecaster.training")
print([name for name in heavy if name in sys.modules])
"""


def test_the_client_imports_no_model_registry_or_training_library(url: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, url], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr

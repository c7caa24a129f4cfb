"""Adjusted prices match values computed by hand and recorded adjusted closes."""

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest

from forecaster.data.bars import COLUMNS, PRICES, SESSION, Bars
from tests.conftest import REAL_DATA, needs_real_data
from tests.data.prices import ORIGIN, Company


def test_adjusted_prices_match_values_computed_by_hand() -> None:
    frame = pd.DataFrame(
        0.0, index=pd.date_range("2026-01-05", periods=4, freq="D", name=SESSION), columns=list(COLUMNS)
    )
    frame[list(PRICES)] = [[100.0] * 4, [100.0] * 4, [95.0] * 4, [95.0] * 4]
    frame.loc["2026-01-07", "dividend"] = 5.0
    adjusted = Bars("ABC", frame, ORIGIN).adjusted()
    # a dividend of 5 on a close of 100 multiplies earlier prices by 0.95
    assert adjusted["close"].tolist() == [95, 95, 95, 95]
    assert adjusted["open"].tolist() == [95, 95, 95, 95]


def test_dividend_on_the_first_session_adjusts_nothing() -> None:
    bars = Company(dividends={"2024-01-02": 5.0}).bars()
    np.testing.assert_array_equal(bars.adjusted()["close"], bars.frame["close"])


def test_adjusted_prices_without_events_equal_the_prices() -> None:
    bars = Company().bars()
    np.testing.assert_array_equal(bars.adjusted()["close"], bars.frame["close"])
    assert bars.long_frame().columns.tolist() == ["unique_id", "ds", "y"]


def _recorded() -> list[Any]:
    files = sorted((REAL_DATA / "yahoo").glob("*/*.json"))
    charts = []
    for file in files:
        body = json.loads(file.read_text()) if file.stat().st_size else {}
        body = body.get("response", body) if isinstance(body, dict) else {}
        results = (body.get("bodyJson", body).get("chart") or {}).get("result") or [{}]
        if results[0].get("meta", {}).get("dataGranularity") == "1d" and "dividends" in results[0].get("events", {}):
            charts.append(pytest.param(results[0], id=file.name))
    return charts


@needs_real_data
@pytest.mark.parametrize("chart", _recorded() if REAL_DATA.is_dir() else [])
def test_adjusted_closes_match_recorded_ones(chart: Any) -> None:
    zone = chart["meta"]["exchangeTimezoneName"]

    def days(seconds: list[int]) -> pd.DatetimeIndex:
        return pd.to_datetime(seconds, unit="s", utc=True).tz_convert(zone).normalize().tz_localize(None)

    quote, adjusted = chart["indicators"]["quote"][0], chart["indicators"]["adjclose"][0]["adjclose"]
    frame = pd.DataFrame(
        {name: quote[name] for name in PRICES} | {"adj_close": adjusted}, index=days(chart["timestamp"])
    )
    frame = frame.assign(volume=0.0, dividend=0.0, split=0.0)
    for event in chart["events"]["dividends"].values():
        frame.loc[days([event["date"]]), "dividend"] = event["amount"]
    ours = Bars(chart["meta"]["symbol"], frame, ORIGIN).adjusted()["close"]
    ratio = frame["adj_close"] / ours
    # Yahoo's adjusted closes include dividends after the recorded range
    np.testing.assert_allclose(ratio / ratio.iloc[-1], 1, rtol=2e-6)

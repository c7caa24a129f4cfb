"""Price files as bars: column names, orders and formats, with given or implied dividends."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from forecaster.data.bars import Bars
from forecaster.data.sources.files import FilesSource
from forecaster.data.sources.price_files import PriceFiles
from forecaster.domain.errors import DataError, FileFormatError, NoData, UnknownSymbol
from tests.conftest import REAL_DATA, needs_real_data
from tests.data.prices import Company

FIRST, LAST = np.datetime64("2024-02-01"), np.datetime64("2024-11-29")
COMPANY = Company(dividends={"2024-03-14": 1.5, "2024-09-12": 0.75}, splits={"2024-06-10": 4})


def fetch(path: Path) -> Bars:
    return PriceFiles({"ABC": path}, "XNYS", "USD").fetch("ABC", FIRST, LAST)


def table() -> pd.DataFrame:
    """Return a year of bars with the header of Yahoo's downloads, dates as text."""
    frame = COMPANY.bars().frame
    names = {"adj_close": "Adj Close", "open": "Open", "high": "High", "low": "Low", "close": "Close"}
    frame = frame.rename(columns={**names, "volume": "Volume"}).drop(columns=["dividend", "split"])
    return frame.reset_index(names="Date").assign(Date=lambda rows: rows["Date"].dt.strftime("%Y-%m-%d"))


def _as_yahoo(folder: Path) -> Path:
    table().to_csv(folder / "a.csv", index=False)
    return folder / "a.csv"


def _newest_first_gzipped(folder: Path) -> Path:
    table().iloc[::-1].to_csv(folder / "a.csv.gz", index=False)
    return folder / "a.csv.gz"


def _prefixed(folder: Path) -> Path:
    names = {"Adj Close": "ABC.Adjusted"} | {name: f"ABC.{name}" for name in ("Open", "High", "Low", "Close", "Volume")}
    table().rename(columns=names).assign(mood="calm").to_csv(folder / "a.csv", index=False)
    return folder / "a.csv"


def _with_slashes_and_capitals(folder: Path) -> Path:
    frame = table().rename(columns=str.upper)
    days = pd.to_datetime(frame["DATE"])
    frame["DATE"] = [f"{day.year}/{day.month}/{day.day}" for day in days]
    frame[["LOW", "DATE", "ADJ CLOSE", "HIGH", "OPEN", "VOLUME", "CLOSE"]].to_csv(folder / "a.csv", index=False)
    return folder / "a.csv"


def _parquet_with_times(folder: Path) -> Path:
    times = pd.to_datetime(table()["Date"]).dt.tz_localize("America/New_York") + pd.Timedelta(hours=16)
    table().assign(Date=times).to_parquet(folder / "a.parquet")
    return folder / "a.parquet"


@pytest.mark.parametrize(
    "write", [_as_yahoo, _newest_first_gzipped, _prefixed, _with_slashes_and_capitals, _parquet_with_times]
)
def test_fetch_accepts_common_column_names_and_orders(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    expected = COMPANY.bars().frame.loc[str(FIRST) : str(LAST)]
    bars = fetch(write(tmp_path))
    assert bars.sessions.tolist() == expected.index.to_numpy().astype("M8[D]").tolist()
    for name in ("open", "high", "low", "close", "volume", "adj_close"):
        np.testing.assert_allclose(bars.frame[name], expected[name], rtol=1e-12)
    # implied by the adjusted closes
    np.testing.assert_allclose(bars.frame["dividend"], expected["dividend"], atol=1e-9)
    assert (bars.origin.source, bars.origin.exchange, bars.origin.zone) == ("files", "XNYS", "America/New_York")


@pytest.mark.parametrize("name", ["Adj.Close", "Adj. Close", "AdjClose", "Adjusted Close", "ABC.Adj.Close"])
def test_fetch_distinguishes_adjusted_close_from_close(tmp_path: Path, name: str) -> None:
    table().rename(columns={"Adj Close": name}).to_csv(tmp_path / "a.csv", index=False)
    expected = COMPANY.bars().frame.loc[str(FIRST) : str(LAST)]
    bars = fetch(tmp_path / "a.csv")
    np.testing.assert_allclose(bars.frame[["close", "adj_close"]], expected[["close", "adj_close"]], rtol=1e-12)
    np.testing.assert_allclose(FilesSource(path=tmp_path / "a.csv").load()["y"], COMPANY.bars().frame["close"])


def test_fetch_reads_dividends_and_splits(tmp_path: Path) -> None:
    frame = COMPANY.bars().frame
    events = {"Dividends": frame["dividend"].to_numpy(), "Stock Splits": frame["split"].to_numpy()}
    table().assign(**events).drop(columns=["Adj Close", "Volume"]).to_csv(tmp_path / "a.csv", index=False)
    bars = fetch(tmp_path / "a.csv")
    expected = frame.loc[str(FIRST) : str(LAST)]
    np.testing.assert_allclose(bars.frame["dividend"], expected["dividend"], rtol=1e-12)
    assert bars.frame["split"].tolist() == expected["split"].tolist()
    assert not bars.frame["volume"].any()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda frame: frame.drop(columns="Date"), FileFormatError, r"missing columns \['date'\]"),
        (lambda frame: frame.drop(columns=["Open", "Low"]), FileFormatError, r"missing columns \['open', 'low'\]"),
        (
            lambda frame: frame.assign(**{"XYZ.Close": 7.0}),
            FileFormatError,
            "columns 'Close' and 'XYZ.Close' are both close",
        ),
        (lambda frame: frame.assign(volume=7.0), FileFormatError, "columns 'Volume' and 'volume' are both volume"),
        (lambda frame: frame.assign(Open=""), FileFormatError, "line 2: column 'Open' holds ''"),
        (lambda frame: frame.iloc[:10], NoData, "has no rows from 2024-02-01"),
    ],
)
def test_error_names_missing_columns_values_and_rows(
    tmp_path: Path, change: Callable[[pd.DataFrame], pd.DataFrame], error: type[DataError], message: str
) -> None:
    change(table()).to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(error, match=message):
        fetch(tmp_path / "a.csv")
    with pytest.raises(UnknownSymbol, match="no file is configured for it"):
        PriceFiles({"ABC": tmp_path / "a.csv"}, "XNYS", "USD").fetch("XYZ", FIRST, LAST)


@needs_real_data
@pytest.mark.parametrize(
    ("name", "dividends"),
    [
        ("yahoofinance-SPY-20080101-20180101.csv", 40),
        ("yahoofinance-AAPL-20040819-20180120.csv", 22),
        ("plotly-finance-charts-apple.csv", 8),
        ("vix-daily.csv", 0),
    ],
)
def test_adjusted_closes_match_those_of_real_files(name: str, dividends: int) -> None:
    bars = PriceFiles({"A": REAL_DATA / "stock" / name}, "XNYS", "USD").fetch(
        "A", np.datetime64("1990-01-01"), np.datetime64("2026-06-01")
    )
    assert (bars.frame["dividend"] > 0).sum() == dividends
    np.testing.assert_allclose(bars.adjusted()["close"], bars.frame["adj_close"], rtol=2e-6)

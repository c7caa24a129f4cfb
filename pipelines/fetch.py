"""Fetch daily prices into the bar store: `python -m pipelines.fetch pipelines/configs/stock.yaml`."""

import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field, model_validator
from tqdm import tqdm

from forecaster.data.session import SessionConfig
from forecaster.data.sources.price_files import PriceFiles
from forecaster.data.sources.tiingo import TiingoSource
from forecaster.data.sources.yahoo import YahooSource
from forecaster.data.store import BarStore
from forecaster.data.update import Source, Updated, update
from forecaster.domain.config import Config
from forecaster.domain.errors import DataError, RateLimited
from forecaster.domain.exits import PARTLY_FAILED
from pipelines.command import config_parser, run_config


class FetchConfig(Config):
    """Which prices, from when to when (null: the latest completed session), from where, into which folder.

    `calendar` is the exchange's market identifier code, where a symbol's exchange is not in the table, and for files.
    `files` names each symbol's file where the source is `files`; `currency` is what their prices are in.
    """

    symbols: tuple[str, ...] = Field(min_length=1)
    start: date
    end: date | None = None
    interval: Literal["1d"] = "1d"
    source: Literal["yahoo", "tiingo", "files"] = "yahoo"
    session: SessionConfig = SessionConfig()
    files: dict[str, Path] = Field({})
    currency: str = "USD"
    calendar: str | None = None
    store: Path = Path("mlruns/bars")

    @model_validator(mode="after")
    def _is_whole(self) -> "FetchConfig":
        if self.end is not None and self.end < self.start:
            raise ValueError(f"end {self.end} lies before start {self.start}")
        if len(set(self.symbols)) < len(self.symbols):
            raise ValueError("symbols: one is named twice")
        if self.source == "files" and self.calendar is None:
            raise ValueError(
                "calendar: a file does not tell its exchange; set its market identifier code, such as XNYS"
            )
        if bool(self.files) != (self.source == "files"):
            raise ValueError("files: set it for source: files, and only there")
        return self


SOURCES: dict[str, Callable[[FetchConfig], Source]] = {
    "yahoo": lambda config: YahooSource(config.session, cache=config.store.parent / "yfinance"),
    "tiingo": lambda config: TiingoSource(config.session),
    "files": lambda config: PriceFiles(config.files, config.calendar or "", config.currency),
}


def fetch(config: FetchConfig) -> dict[str, Any]:
    """Update every symbol; one that fails leaves the others, and a rate limit ends the batch."""
    source = SOURCES[config.source](config)
    return update_all(BarStore(config.store), source, config.symbols, config.start, config.end, config.calendar)


def update_all(
    store: BarStore, source: Source, symbols: tuple[str, ...], start: date, end: date | None, calendar: str | None
) -> dict[str, Any]:
    """Update symbols one by one and say what came of each; returns what was stored and what failed."""
    now = datetime.now(UTC)
    first, last = np.datetime64(start), np.datetime64(end or now.date())
    done: list[Updated] = []
    failed: dict[str, str] = {}
    with tqdm(symbols, unit="symbol", dynamic_ncols=True) as bar:
        for symbol in bar:
            bar.set_description(symbol)
            try:
                done.append(update(store, source, symbol, first, last, now, calendar))
            except RateLimited as error:
                rest = symbols[symbols.index(symbol) + 1 :]
                failed |= {symbol: str(error)} | dict.fromkeys(rest, "not asked: rate limit")
                break
            except DataError as error:
                failed[symbol] = str(error)
    _say(done, failed)
    return {"stored": [asdict(one) for one in done], "failed": failed}


def status(answer: dict[str, Any]) -> int:
    """Return the exit status: 0 only if every symbol succeeded."""
    return PARTLY_FAILED if answer["failed"] else 0


def _say(done: list[Updated], failed: dict[str, str]) -> None:
    if done:
        rows = [
            {
                "symbol": one.symbol,
                "bars": one.bars,
                "new": one.new,
                "refetched": one.refetched or "",
                "issues": "; ".join(one.issues),
            }
            for one in done
        ]
        sys.stdout.write(pd.DataFrame(rows).to_string(index=False) + "\n")
    for reason in failed.values():
        sys.stderr.write(f"error: {reason}\n")


if __name__ == "__main__":
    parser = config_parser(
        "fetch",
        "Fetch daily prices into the bar store. Yahoo's data is for personal use.",
        "python -m pipelines.fetch pipelines/configs/stock.yaml --set symbols=[SPY,AAPL] start=2015-01-01",
    )
    sys.exit(run_config(parser, FetchConfig, fetch, status))

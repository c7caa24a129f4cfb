"""Fetch daily prices into the bar store: `python -m pipelines.fetch pipelines/configs/fetch.yaml`."""

import sys
from dataclasses import asdict
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field, model_validator
from tqdm import tqdm

from forecaster.data.session import SessionConfig
from forecaster.data.sources.yahoo import YahooSource
from forecaster.data.store import BarStore
from forecaster.data.update import Updated, update
from forecaster.domain.config import Config
from forecaster.domain.errors import DataError, RateLimited
from pipelines.command import PARTLY_FAILED, config_parser, run_config


class FetchConfig(Config):
    """Which prices, from when to when (null: the latest completed session), from where, into which folder.

    `calendar` is the exchange's market identifier code, for symbols whose exchange is not in the table.
    """

    symbols: tuple[str, ...] = Field(min_length=1)
    start: date
    end: date | None = None
    interval: Literal["1d"] = "1d"
    source: Literal["yahoo"] = "yahoo"
    session: SessionConfig = SessionConfig()
    calendar: str | None = None
    store: Path = Path("mlruns/bars")

    @model_validator(mode="after")
    def _is_in_order(self) -> "FetchConfig":
        if self.end is not None and self.end < self.start:
            raise ValueError(f"end {self.end} lies before start {self.start}")
        if len(set(self.symbols)) < len(self.symbols):
            raise ValueError("symbols: one is named twice")
        return self


def fetch(config: FetchConfig) -> dict[str, Any]:
    """Update every symbol; one that fails leaves the others, and a rate limit ends the batch."""
    store = BarStore(config.store)
    source = YahooSource(config.session, cache=config.store.parent / "yfinance")
    now = datetime.now(UTC)
    first, last = np.datetime64(config.start), np.datetime64(config.end or now.date())
    done: list[Updated] = []
    failed: dict[str, str] = {}
    with tqdm(config.symbols, unit="symbol", dynamic_ncols=True) as bar:
        for symbol in bar:
            bar.set_description(symbol)
            try:
                done.append(update(store, source, symbol, first, last, now, config.calendar))
            except RateLimited as error:
                failed |= {symbol: str(error)} | dict.fromkeys(_after(config.symbols, symbol), "not asked: rate limit")
                break
            except DataError as error:
                failed[symbol] = str(error)
    _say(done, failed)
    return {"stored": [asdict(one) for one in done], "failed": failed}


def _after(symbols: tuple[str, ...], symbol: str) -> tuple[str, ...]:
    return symbols[symbols.index(symbol) + 1 :]


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
        "python -m pipelines.fetch pipelines/configs/fetch.yaml --set symbols=[SPY,AAPL] start=2015-01-01",
    )
    sys.exit(run_config(parser, FetchConfig, fetch, lambda answer: PARTLY_FAILED if answer["failed"] else 0))

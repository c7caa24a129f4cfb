"""Fetch daily prices into the bar store: `python -m pipelines.fetch pipelines/configs/stock.yaml`."""

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field, model_validator
from tqdm import tqdm

from forecaster.data.calendars import CalendarChoice
from forecaster.data.session import SessionConfig
from forecaster.data.sources.price_files import PriceFiles
from forecaster.data.sources.request import SPELLING, is_symbol
from forecaster.data.sources.tiingo import TiingoSource
from forecaster.data.sources.yahoo import YahooSource
from forecaster.data.store import BarStore
from forecaster.data.update import Source, Updated, update
from forecaster.domain.config import Config, load_config
from forecaster.domain.errors import ConfigError, DataError, RateLimited, SourceUnreachable
from forecaster.domain.exits import PARTLY_FAILED
from pipelines.command import config_parser, run

# by source: a check of a symbol's format, and a description of the format
_SYMBOL_FORMATS: dict[str, tuple[Callable[[str], bool], str]] = {
    "yahoo": (is_symbol, SPELLING),
    # Tiingo accepts BRK/B for BRK-B
    "tiingo": (lambda symbol: is_symbol(symbol.replace("/", "-")), SPELLING),
    # a file's symbol is a free name, since it is not part of a URL
    "files": (lambda symbol: symbol.isprintable() and symbol.strip() == symbol != "", "write printable text"),
}


# well within the range of nanosecond timestamps
Day = Annotated[date, Field(ge=date(1700, 1, 1), le=date(2200, 12, 31))]


class FetchConfig(Config):
    """Symbols, dates, source and store of the prices to fetch.

    Args:
        symbols: the symbols to fetch.
        start: the first day.
        end: the last day; null is the latest completed session.
        interval: the bar size.
        source: where the prices come from.
        session: how the source is requested.
        files: the file of each symbol, for `source: files`.
        currency: the currency of the prices in files.
        calendar: the exchange's market identifier code, such as XNYS, or a code for each symbol. Required for files,
            and for exchanges that the project does not know.
        known_missing: for each symbol, the sessions that the source is known to lack.
        store: the folder of the bar store.
    """

    symbols: tuple[str, ...] = Field(min_length=1)
    start: Day
    end: Day | None = None
    interval: Literal["1d"] = "1d"
    source: Literal["yahoo", "tiingo", "files"] = "yahoo"
    session: SessionConfig = SessionConfig()
    files: dict[str, Path] = Field({})
    currency: str = "USD"
    calendar: str | dict[str, str] | None = None
    known_missing: dict[str, tuple[Day, ...]] = Field({})
    store: Path = Path("mlruns/bars")

    @model_validator(mode="after")
    def _check_source(self) -> "FetchConfig":
        if self.end is not None and self.end < self.start:
            raise ValueError(f"end {self.end} is before start {self.start}")
        mapped = self.calendar if isinstance(self.calendar, dict) else dict.fromkeys(self.symbols, self.calendar)
        without = [symbol for symbol in self.symbols if not mapped.get(symbol)]
        if self.source == "files" and without:
            raise ValueError(
                "calendar: files do not name their exchange; set its market identifier code, such as XNYS, "
                f"for {without}"
            )
        if bool(self.files) != (self.source == "files"):
            raise ValueError("files: is required for source: files, and not allowed for other sources")
        return self

    @model_validator(mode="after")
    def _check_symbols(self) -> "FetchConfig":
        if len(set(self.symbols)) < len(self.symbols):
            raise ValueError("symbols: a symbol is repeated; list each once")
        is_valid, description = _SYMBOL_FORMATS[self.source]
        invalid = [symbol for symbol in self.symbols if not is_valid(symbol)]
        if invalid:
            raise ValueError(f"symbols: {invalid} are not valid symbols of {self.source}: {description}")
        return self


_LOG = logging.getLogger("forecaster.fetch")
SOURCES: dict[str, Callable[[FetchConfig], Source]] = {
    "yahoo": lambda config: YahooSource(
        config.session, cache=config.store.parent / "yfinance", known_missing=config.known_missing
    ),
    "tiingo": lambda config: TiingoSource(config.session, known_missing=config.known_missing),
    "files": lambda config: PriceFiles(config.files, config.calendar, config.currency, config.known_missing),
}


# sources that can return a part of the range; others are read in full each time
INCREMENTAL_SOURCES = frozenset({"yahoo"})


def fetch(
    config: FetchConfig, *, full: bool = False, allow_loss: bool = False, confirmed: Sequence[tuple[str, str]] = ()
) -> dict[str, Any]:
    """Update every symbol. A failed symbol does not stop the others, but a rate limit stops the batch.

    Args:
        config: the symbols and their source.
        full: whether to read all sessions again.
        allow_loss: whether to drop stored sessions that the source no longer has.
        confirmed: pairs of a symbol and a session, ISO 8601, whose price jump is genuine.
    """
    source = SOURCES[config.source](config)
    return update_all(
        BarStore(config.store), source, config.symbols, config.start, config.end, config.calendar,
        full=full or config.source not in INCREMENTAL_SOURCES, allow_loss=allow_loss, confirmed=confirmed,
    )  # fmt: skip


def update_all(
    store: BarStore,
    source: Source,
    symbols: tuple[str, ...],
    start: date,
    end: date | None,
    calendar: CalendarChoice,
    *,
    full: bool = False,
    allow_loss: bool = False,
    confirmed: Sequence[tuple[str, str]] = (),
) -> dict[str, Any]:
    """Update symbols one by one and print a table.

    Returns:
        `stored`, the result of each updated symbol, and `failed`, the reason by symbol that failed or is held back.
    """
    now = datetime.now(UTC)
    first, last = np.datetime64(start), np.datetime64(end or now.date())
    updated: list[Updated] = []
    failed: dict[str, str] = {}
    with tqdm(symbols, unit="symbol", dynamic_ncols=True) as bar:
        for symbol in bar:
            bar.set_description(symbol)
            confirm = [day for name, day in confirmed if name == symbol]
            try:
                result = update(
                    store, source, symbol, first, last, now, calendar, full=full, allow_loss=allow_loss, confirm=confirm
                )
                updated.append(result)
                if result.held:
                    failed[symbol] = f"{symbol}: {result.held}"
            except (RateLimited, SourceUnreachable) as error:
                why = "rate limit" if isinstance(error, RateLimited) else "the source cannot be reached"
                rest = symbols[symbols.index(symbol) + 1 :]
                failed |= {symbol: str(error)} | dict.fromkeys(rest, f"not fetched: {why}")
                break
            except DataError as error:
                message = str(error)
                failed[symbol] = message if message.startswith(f"{symbol}: ") else f"{symbol}: {message}"
            except Exception:
                # a bug in handling one symbol's data must not stop the others
                _LOG.exception("%s: unexpected error", symbol)
                failed[symbol] = f"{symbol}: unexpected error, a bug in this program; report it with the traceback"
    _print_results(updated, failed)
    return {"stored": [asdict(result) for result in updated], "failed": failed}


def status(answer: dict[str, Any]) -> int:
    """Return the exit status: 0 only if every symbol succeeded."""
    return PARTLY_FAILED if answer["failed"] else 0


def _print_results(updated: list[Updated], failed: dict[str, str]) -> None:
    if updated:
        rows = [
            {
                "symbol": result.symbol,
                "bars": result.bars,
                "new": result.new,
                "refetched": result.refetched or "",
                "held": "unconfirmed" if result.held else "",
                "issues": "; ".join(result.issues),
            }
            for result in updated
        ]
        sys.stdout.write(pd.DataFrame(rows).to_string(index=False) + "\n")
    by_reason: dict[str, list[str]] = {}
    for symbol, reason in failed.items():
        by_reason.setdefault(reason, []).append(symbol)
    for reason, symbols in by_reason.items():
        sys.stderr.write(f"error: {_failure_line(reason, symbols)}\n")


def _failure_line(reason: str, symbols: list[str]) -> str:
    """Return why symbols failed, in one line."""
    if reason.startswith(f"{symbols[0]}: "):
        return reason
    shown = ", ".join(symbols[:5])
    return f"{shown}: {reason}" if len(symbols) <= 5 else f"{len(symbols)} symbols ({shown}, …): {reason}"


def _confirmation(text: str) -> tuple[str, str]:
    """Return the symbol and the session of `SYMBOL:DATE`; a symbol may contain colons."""
    symbol, _, day = text.rpartition(":")
    if not symbol:
        raise argparse.ArgumentTypeError(f"'{text}' is not SYMBOL:DATE")
    try:
        return symbol, date.fromisoformat(day).isoformat()
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}' does not end with a date such as 2024-06-10 ({error})") from error


def _check_confirmed(confirmed: Sequence[tuple[str, str]], symbols: tuple[str, ...]) -> None:
    unknown = sorted({symbol for symbol, _ in confirmed} - set(symbols))
    if unknown:
        raise ConfigError(f"--confirm: {unknown} are not in the symbols {list(symbols)}; correct the option")


def main(arguments: argparse.Namespace) -> int:
    """Run the pipeline; return the exit status."""

    def job() -> dict[str, Any]:
        config = load_config(arguments.config, FetchConfig, arguments.overrides, "fetch")
        _check_confirmed(arguments.confirm, config.symbols)
        return fetch(config, full=arguments.full, allow_loss=arguments.replace, confirmed=arguments.confirm)

    return run(job, status)


if __name__ == "__main__":
    parser = config_parser(
        "fetch",
        "Fetch daily prices into the bar store. Yahoo's data is for personal use.",
        "python -m pipelines.fetch pipelines/configs/stock.yaml\n"
        "  python -m pipelines.fetch pipelines/configs/stock.yaml --set symbols=[SPY,AAPL] start=2015-01-01\n"
        "  python -m pipelines.fetch pipelines/configs/stock.yaml --confirm AAPL:2024-06-10",
    )
    parser.add_argument("--full", action="store_true", help="read all sessions again, not only the first and last ones")
    parser.add_argument(
        "--replace",
        action="store_true",
        help="read all sessions again, and drop stored sessions that the source no longer has",
    )
    parser.add_argument(
        "--confirm",
        metavar="SYMBOL:DATE",
        type=_confirmation,
        action="append",
        default=[],
        help="accept a price jump as genuine; may be repeated",
    )
    sys.exit(main(parser.parse_args()))

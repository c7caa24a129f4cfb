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

# whether a source may be asked for a symbol of this spelling, and what to write instead
_SPELLINGS: dict[str, tuple[Callable[[str], bool], str]] = {
    "yahoo": (is_symbol, SPELLING),
    # BRK/B is BRK-B
    "tiingo": (lambda symbol: is_symbol(symbol.replace("/", "-")), SPELLING),
    # what one calls a file's series becomes a part of no URL
    "files": (lambda symbol: symbol.isprintable() and symbol.strip() == symbol != "", "write printable text"),
}


# what times in nanoseconds can hold, with room beside it
Day = Annotated[date, Field(ge=date(1700, 1, 1), le=date(2200, 12, 31))]


class FetchConfig(Config):
    """Which prices, from when to when (null: the latest completed session), from where, into which folder.

    `calendar` is the exchange's market identifier code, or each symbol's, where an exchange is not in the table, and
    for files. `files` names each symbol's file where the source is `files`; `currency` is what their prices are in.
    `known_missing` names the sessions of each symbol that the source is known not to have.
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
    def _is_whole(self) -> "FetchConfig":
        if self.end is not None and self.end < self.start:
            raise ValueError(f"end {self.end} lies before start {self.start}")
        mapped = self.calendar if isinstance(self.calendar, dict) else dict.fromkeys(self.symbols, self.calendar)
        without = [symbol for symbol in self.symbols if not mapped.get(symbol)]
        if self.source == "files" and without:
            raise ValueError(
                "calendar: a file does not tell its exchange; set its market identifier code, such as XNYS, "
                f"for {without}"
            )
        if bool(self.files) != (self.source == "files"):
            raise ValueError("files: set it for source: files, and only there")
        return self

    @model_validator(mode="after")
    def _names_symbols(self) -> "FetchConfig":
        if len(set(self.symbols)) < len(self.symbols):
            raise ValueError("symbols: one is named twice")
        is_spelled, spelling = _SPELLINGS[self.source]
        wrong = [symbol for symbol in self.symbols if not is_spelled(symbol)]
        if wrong:
            raise ValueError(f"symbols: {wrong} cannot be symbols of {self.source}: {spelling}")
        return self


_LOG = logging.getLogger("forecaster.fetch")
SOURCES: dict[str, Callable[[FetchConfig], Source]] = {
    "yahoo": lambda config: YahooSource(
        config.session, cache=config.store.parent / "yfinance", known_missing=config.known_missing
    ),
    "tiingo": lambda config: TiingoSource(config.session, known_missing=config.known_missing),
    "files": lambda config: PriceFiles(config.files, config.calendar, config.currency, config.known_missing),
}


# what answers with any part of the range from less than all of it; others are read whole each time
IN_PARTS = frozenset({"yahoo"})


def fetch(
    config: FetchConfig, *, full: bool = False, allow_loss: bool = False, confirmed: Sequence[tuple[str, str]] = ()
) -> dict[str, Any]:
    """Update every symbol; one that fails leaves the others, and a rate limit ends the batch.

    Args:
        config: what is fetched.
        full: whether all sessions are read again.
        allow_loss: whether stored sessions that the source no longer has may go.
        confirmed: symbols and the sessions whose jumps are right, ISO 8601.
    """
    source = SOURCES[config.source](config)
    return update_all(
        BarStore(config.store), source, config.symbols, config.start, config.end, config.calendar,
        full=full or config.source not in IN_PARTS, allow_loss=allow_loss, confirmed=confirmed,
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
    """Update symbols one by one and say what came of each; returns what was stored, and what failed or is held back."""
    now = datetime.now(UTC)
    first, last = np.datetime64(start), np.datetime64(end or now.date())
    done: list[Updated] = []
    failed: dict[str, str] = {}
    with tqdm(symbols, unit="symbol", dynamic_ncols=True) as bar:
        for symbol in bar:
            bar.set_description(symbol)
            confirm = [day for name, day in confirmed if name == symbol]
            try:
                one = update(
                    store, source, symbol, first, last, now, calendar, full=full, allow_loss=allow_loss, confirm=confirm
                )
                done.append(one)
                if one.held:
                    failed[symbol] = f"{symbol}: {one.held}"
            except (RateLimited, SourceUnreachable) as error:
                why = "rate limit" if isinstance(error, RateLimited) else "the source cannot be reached"
                rest = symbols[symbols.index(symbol) + 1 :]
                failed |= {symbol: str(error)} | dict.fromkeys(rest, f"not asked: {why}")
                break
            except DataError as error:
                said = str(error)
                failed[symbol] = said if said.startswith(f"{symbol}: ") else f"{symbol}: {said}"
            except Exception:
                # a defect met with one symbol's data must not cost the others theirs
                _LOG.exception("%s: failed by a defect", symbol)
                failed[symbol] = f"{symbol}: failed by a defect in this program; report it with the log's traceback"
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
                "held": "unconfirmed" if one.held else "",
                "issues": "; ".join(one.issues),
            }
            for one in done
        ]
        sys.stdout.write(pd.DataFrame(rows).to_string(index=False) + "\n")
    by_reason: dict[str, list[str]] = {}
    for symbol, reason in failed.items():
        by_reason.setdefault(reason, []).append(symbol)
    for reason, symbols in by_reason.items():
        sys.stderr.write(f"error: {_listed(reason, symbols)}\n")


def _listed(reason: str, symbols: list[str]) -> str:
    """Return why symbols failed, in one line however many they are."""
    if reason.startswith(f"{symbols[0]}: "):
        return reason
    shown = ", ".join(symbols[:5])
    return f"{shown}: {reason}" if len(symbols) <= 5 else f"{len(symbols)} symbols ({shown}, …): {reason}"


def _confirmation(text: str) -> tuple[str, str]:
    """Return symbol and session of `SYMBOL:DATE`; a symbol may hold colons."""
    symbol, _, day = text.rpartition(":")
    if not symbol:
        raise argparse.ArgumentTypeError(f"'{text}' is not SYMBOL:DATE")
    try:
        return symbol, date.fromisoformat(day).isoformat()
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}' does not end with a date such as 2024-06-10 ({error})") from error


def _refuse_others(confirmed: Sequence[tuple[str, str]], symbols: tuple[str, ...]) -> None:
    others = sorted({symbol for symbol, _ in confirmed} - set(symbols))
    if others:
        raise ConfigError(f"--confirm: {others} are not among the symbols, {list(symbols)}; correct one of them")


def main(arguments: argparse.Namespace) -> int:
    """Run it; return the exit status."""

    def job() -> dict[str, Any]:
        config = load_config(arguments.config, FetchConfig, arguments.overrides, "fetch")
        _refuse_others(arguments.confirm, config.symbols)
        return fetch(config, full=arguments.full, allow_loss=arguments.replace, confirmed=arguments.confirm)

    return run(job, status)


if __name__ == "__main__":
    parser = config_parser(
        "fetch",
        "Fetch daily prices into the bar store. Yahoo's data is for personal use.",
        "python -m pipelines.fetch pipelines/configs/stock.yaml --set symbols=[SPY,AAPL] start=2015-01-01",
    )
    parser.add_argument("--full", action="store_true", help="read all sessions again, not only the first and the last")
    parser.add_argument(
        "--replace", action="store_true", help="read all again; stored sessions that the source no longer has may go"
    )
    parser.add_argument(
        "--confirm",
        metavar="SYMBOL:DATE",
        type=_confirmation,
        action="append",
        default=[],
        help="say that a jump of the prices is right; may be given several times",
    )
    sys.exit(main(parser.parse_args()))

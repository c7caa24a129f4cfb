"""Score served forecasts by the bars that have come: `python -m pipelines.score`."""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from forecaster.data.store import BarStore
from forecaster.data.tails import read_tail
from forecaster.database.schema import opened
from forecaster.ledger.reading import forecast_spans
from forecaster.ledger.scoring import Actual, take_actuals
from pipelines.command import command_parser, database_option, run


def score(arguments: argparse.Namespace) -> dict[str, Any]:
    """Score every owner's forecasts by the closes of the stored symbols; done again, nothing changes."""
    changed = {}
    with opened(arguments.database) as engine:
        spans = forecast_spans(engine)
        stored = sorted(set(BarStore(arguments.store).symbols()) & spans.keys())
        for symbol in tqdm(stored, unit="symbol", dynamic_ncols=True):
            tail = read_tail(arguments.store, symbol)
            at = tail.days.astype("M8[us]").astype(np.int64)
            first, last = spans[symbol]
            rows = np.flatnonzero((at >= first) & (at <= last))
            actuals = [Actual(symbol, int(at[row]), float(tail.bars["close"][row])) for row in rows]
            changed[symbol] = take_actuals(engine, actuals, is_for_all=True) if actuals else 0
    return {"changed": changed}


if __name__ == "__main__":
    parser = command_parser(
        "score",
        "Take what came from the bar store, and score the forecasts of those sessions.",
        "python -m pipelines.score --store mlruns/bars",
    )
    parser.add_argument("--store", type=Path, default=Path("mlruns/bars"), help="the bar store (default: %(default)s)")
    database_option(parser)
    parsed = parser.parse_args()
    sys.exit(run(lambda: score(parsed)))

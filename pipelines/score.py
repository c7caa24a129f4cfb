"""Score served forecasts by new bars, and promote what the scores favour: `python -m pipelines.score`."""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from forecaster.data.store import BarStore
from forecaster.data.tails import read_tail
from forecaster.database.schema import open_database
from forecaster.domain.exits import PARTLY_FAILED, SUCCESS
from forecaster.ledger.queries import forecast_spans
from forecaster.ledger.scoring import Actual, record_actuals
from forecaster.promotion.shadow import FAILED, settle_shadows
from pipelines.command import command_parser, database_option, run, tracking_option


def score(arguments: argparse.Namespace) -> dict[str, Any]:
    """Score every owner's forecasts by the closes of the stored symbols, then settle the challengers in the shadow.

    Done again, nothing changes.
    """
    changed = {}
    with open_database(arguments.database) as engine:
        spans = forecast_spans(engine)
        stored = sorted(set(BarStore(arguments.store).symbols()) & spans.keys())
        for symbol in tqdm(stored, unit="symbol", dynamic_ncols=True):
            tail = read_tail(arguments.store, symbol)
            at = tail.days.astype("M8[us]").astype(np.int64)
            first, last = spans[symbol]
            rows = np.flatnonzero((at >= first) & (at <= last))
            actuals = [Actual(symbol, int(at[row]), float(tail.bars["close"][row])) for row in rows]
            changed[symbol] = record_actuals(engine, actuals, is_for_all=True) if actuals else 0
        settled = settle_shadows(engine, arguments.tracking_uri)
    for model, one in settled.items():
        sys.stdout.write(f"{model}, version {one['version']}: {one['outcome']}; {one['reason']}\n")
    return {"changed": changed, "shadows": settled}


def status(answer: dict[str, Any]) -> int:
    """Return the exit status: 3 where a challenger could not be judged."""
    return PARTLY_FAILED if any(one["outcome"] == FAILED for one in answer["shadows"].values()) else SUCCESS


if __name__ == "__main__":
    parser = command_parser(
        "score",
        "Score the forecasts whose sessions the bar store has by now. A challenger that the gate left in the shadow\n"
        "is promoted, or kept out, once its scores beside the champion's can tell.",
        "python -m pipelines.score --store mlruns/bars",
    )
    parser.add_argument("--store", type=Path, default=Path("mlruns/bars"), help="the bar store (default: %(default)s)")
    tracking_option(parser)
    database_option(parser)
    parsed = parser.parse_args()
    sys.exit(run(lambda: score(parsed), status))

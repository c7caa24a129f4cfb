"""Score served forecasts with new bars, and judge challengers in the shadow: `python -m pipelines.score`."""

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
from pipelines.command import add_database_option, add_tracking_option, command_parser, run


def score(arguments: argparse.Namespace) -> dict[str, Any]:
    """Score all owners' forecasts of stored symbols by their closes, then judge the challengers in the shadow.

    Running it again changes nothing.
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
    for model, shadow in settled.items():
        sys.stdout.write(f"{model}, version {shadow['version']}: {shadow['outcome']}; {shadow['reason']}\n")
    return {"changed": changed, "shadows": settled}


def status(answer: dict[str, Any]) -> int:
    """Return the exit status: 3 if a challenger could not be judged."""
    return PARTLY_FAILED if any(shadow["outcome"] == FAILED for shadow in answer["shadows"].values()) else SUCCESS


if __name__ == "__main__":
    parser = command_parser(
        "score",
        "Score served forecasts with the bars in the store, and judge challengers in the shadow.\n\n"
        "A challenger is promoted or kept out once its scores and the champion's show which is better.",
        "python -m pipelines.score\n  python -m pipelines.score --store mlruns/bars",
    )
    parser.add_argument(
        "--store",
        metavar="FOLDER",
        type=Path,
        default=Path("mlruns/bars"),
        help="folder of the bar store (default: %(default)s)",
    )
    add_tracking_option(parser)
    add_database_option(parser)
    parsed = parser.parse_args()
    sys.exit(run(lambda: score(parsed), status))

"""Forecast many series without a service: `python -m pipelines.forecast pipelines/configs/stock.yaml`."""

import argparse
import sys
from typing import Any

from tqdm import tqdm

from forecaster.domain.exits import FAILED, PARTLY_FAILED
from forecaster.inference.batch import Batch, BatchConfig, forecast_batch
from pipelines.command import add_database_option, config_parser, format_table, load_sections, run


def forecast(config: BatchConfig, database: str) -> dict[str, Any]:
    """Forecast every series and write the file; return the counts, and the reason for each series that failed."""
    with tqdm(unit="series", dynamic_ncols=True) as bar:

        def show(done: int, count: int) -> None:
            bar.total = count
            bar.update(done - bar.n)

        batch = forecast_batch(config, database, show)
    out = str(config.out) if batch.done else None
    _print_results(batch, out)
    return {
        **batch.head,
        "series": batch.done,
        "rows": batch.rows,
        "entered": batch.entered,
        "failed": batch.failed,
        "out": out,
    }


def status(answer: dict[str, Any]) -> int:
    """Return the exit status: 0 only if every series was forecast."""
    if answer["out"] is None:
        return FAILED
    return PARTLY_FAILED if answer["failed"] else 0


def _print_results(batch: Batch, out: str | None) -> None:
    if batch.failed:
        table = format_table([{"series": name, "reason": reason} for name, reason in batch.failed.items()])
        sys.stdout.write(f"{table}\n")
    for text in batch.head["warnings"]:
        sys.stderr.write(f"warning: {text}\n")
    model = batch.head["model"]
    written = f"{out}: {batch.done} series, {batch.rows} rows, forecast by {model['name']} version {model['version']}"
    sys.stdout.write(f"{written}\n" if out else "no series could be forecast; nothing was written\n")
    if batch.entered is not None and out:
        n_known = batch.done - batch.entered
        known = f"; it already had {n_known}" if n_known else ""
        sys.stdout.write(f"{batch.entered} forecasts were written to the ledger{known}\n")


def _run(arguments: argparse.Namespace) -> dict[str, Any]:
    (config,) = load_sections(arguments, forecast=BatchConfig)
    return forecast(config, arguments.database)


if __name__ == "__main__":
    parser = config_parser(
        "forecast",
        "Forecast the series of a file or of the bar store without a service, and write a Parquet file.",
        "python -m pipelines.forecast pipelines/configs/stock.yaml --set 'data.symbols=[SPY]' horizon=3\n"
        "  python -m pipelines.forecast pipelines/configs/sine.yaml --set data.path=new.csv out=forecasts.parquet",
    )
    add_database_option(parser)
    parsed = parser.parse_args()
    sys.exit(run(lambda: _run(parsed), status))

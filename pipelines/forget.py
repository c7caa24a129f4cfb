"""Delete forecasts and actuals from the ledger: `python -m pipelines.forget --series AAPL`."""

import argparse
import sys
from typing import Any

from forecaster.database.schema import open_database
from forecaster.domain.instants import DAY, now_microseconds
from forecaster.ledger.retention import forget_before, forget_client, forget_owner, forget_series
from pipelines.command import add_database_option, command_parser, run


def forget(arguments: argparse.Namespace) -> dict[str, Any]:
    """Delete from the ledger; return the number of deleted forecasts."""
    with open_database(arguments.database) as engine:
        if arguments.series is not None:
            count = forget_series(engine, arguments.series)
        elif arguments.client is not None:
            count = forget_client(engine, arguments.client)
        elif arguments.owner is not None:
            count = forget_owner(engine, arguments.owner)
        else:
            count = forget_before(engine, now_microseconds() - int(arguments.older_than_days * DAY))
    return {"forgotten": count}


if __name__ == "__main__":
    parser = command_parser(
        "forget",
        "Delete forecasts and their scores from the ledger: of a series, of an API key, of an owner, or old ones.",
        "python -m pipelines.forget --series AAPL\n  python -m pipelines.forget --older-than-days 365",
    )
    selection = parser.add_mutually_exclusive_group(required=True)
    selection.add_argument("--series", metavar="UNIQUE_ID", help="forecasts and actuals of a series")
    selection.add_argument("--client", metavar="KEY_ID", help="forecasts requested with an API key")
    selection.add_argument("--owner", metavar="NAME", help="forecasts and actuals of an owner")
    selection.add_argument("--older-than-days", type=float, metavar="DAYS", help="forecasts older than this")
    add_database_option(parser)
    parsed = parser.parse_args()
    sys.exit(run(lambda: forget(parsed)))

"""Delete from the ledger: `python -m pipelines.forget --series AAPL`."""

import argparse
import sys
from typing import Any

from forecaster.database.schema import open_database
from forecaster.domain.instants import DAY, now_at
from forecaster.ledger.retention import forget_before, forget_client, forget_owner, forget_series
from pipelines.command import command_parser, database_option, run


def forget(arguments: argparse.Namespace) -> dict[str, Any]:
    """Delete what was asked to be, and say how many forecasts that were."""
    with open_database(arguments.database) as engine:
        if arguments.series is not None:
            count = forget_series(engine, arguments.series)
        elif arguments.client is not None:
            count = forget_client(engine, arguments.client)
        elif arguments.owner is not None:
            count = forget_owner(engine, arguments.owner)
        else:
            count = forget_before(engine, now_at() - int(arguments.older_than_days * DAY))
    return {"forgotten": count}


if __name__ == "__main__":
    parser = command_parser(
        "forget",
        "Delete forecasts, their scores and what came: of a series, of a key, of an owner, or old ones.",
        "python -m pipelines.forget --series AAPL\n  python -m pipelines.forget --older-than-days 365",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--series", metavar="UNIQUE_ID", help="all of a series")
    what.add_argument("--client", metavar="KEY_ID", help="all that an API key asked for")
    what.add_argument("--owner", metavar="NAME", help="all that an owner's keys asked for, and its actuals")
    what.add_argument("--older-than-days", type=float, metavar="DAYS", help="all that was answered before then")
    database_option(parser)
    parsed = parser.parse_args()
    sys.exit(run(lambda: forget(parsed)))

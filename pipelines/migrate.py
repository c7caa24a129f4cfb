"""Make the databases' tables, or bring them up to date: `python -m pipelines.migrate`."""

import argparse
import sys
from typing import Any

from forecaster.database.schema import REVISION, opened
from forecaster.database.uris import default_tracking_uri, without_password
from forecaster.registry.tables import migrate_tables
from pipelines.command import command_parser, database_option, run

PARTS = ("database", "registry")


def migrate(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the migrations that the databases lack, and say which revision each has now."""
    answer: dict[str, Any] = {}
    if "database" in arguments.parts:
        with opened(arguments.database):
            answer |= {"database": without_password(arguments.database), "revision": REVISION}
    if "registry" in arguments.parts:
        uri = default_tracking_uri()
        answer |= {"registry": without_password(uri), "registry_revision": migrate_tables(uri)}
    return answer


if __name__ == "__main__":
    parser = command_parser(
        "migrate",
        "Make or bring up to date the tables of ledger, keys and jobs, and MLflow's where FORECASTER_TRACKING_URI "
        "is a database; done again, nothing changes.",
        "python -m pipelines.migrate --database postgresql://me:secret@host/forecaster\n"
        "  python -m pipelines.migrate --parts registry",
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="default: all of them")
    database_option(parser)
    parsed = parser.parse_args()
    sys.exit(run(lambda: migrate(parsed)))

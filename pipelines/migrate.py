"""Create or migrate the tables of the databases: `python -m pipelines.migrate`."""

import argparse
import sys
from typing import Any

from forecaster.database.schema import REVISION, open_database
from forecaster.database.uris import default_tracking_uri, without_password
from forecaster.registry.tables import migrate_tables
from pipelines.command import add_database_option, command_parser, run

PARTS = ("database", "registry")


def migrate(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run missing migrations; return the revision of each database."""
    answer: dict[str, Any] = {}
    if "database" in arguments.parts:
        with open_database(arguments.database):
            answer |= {"database": without_password(arguments.database), "revision": REVISION}
    if "registry" in arguments.parts:
        uri = default_tracking_uri()
        answer |= {"registry": without_password(uri), "registry_revision": migrate_tables(uri)}
    return answer


if __name__ == "__main__":
    parser = command_parser(
        "migrate",
        "Create or migrate the tables of the service's database, and MLflow's tables if FORECASTER_TRACKING_URI is a\n"
        "database. A second run changes nothing.",
        "python -m pipelines.migrate --database postgresql://me:secret@host/forecaster\n"
        "  python -m pipelines.migrate --parts registry",
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="databases to migrate (default: both)")
    add_database_option(parser)
    parsed = parser.parse_args()
    sys.exit(run(lambda: migrate(parsed)))

"""Make the database's tables, or bring them up to date: `python -m pipelines.migrate`."""

import sys
from typing import Any

from forecaster.database.schema import REVISION, opened
from forecaster.database.uris import without_password
from pipelines.command import command_parser, database_option, run


def migrate(url: str) -> dict[str, Any]:
    """Run the migrations that a database lacks, and say which revision it has now."""
    with opened(url):
        return {"database": without_password(url), "revision": REVISION}


if __name__ == "__main__":
    parser = command_parser(
        "migrate",
        "Make the tables of ledger, keys and jobs, or bring them up to date; done again, nothing changes.",
        "python -m pipelines.migrate --database postgresql://me:secret@host/forecaster",
    )
    database_option(parser)
    parsed = parser.parse_args()
    sys.exit(run(lambda: migrate(parsed.database)))

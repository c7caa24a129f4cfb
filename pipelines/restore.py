"""Verify and restore a backup: `python -m pipelines.restore backups/monday.tar.zst`."""

import argparse
import sys
from pathlib import Path
from typing import Any

from forecaster.backup.restore import restore
from forecaster.backup.save import PARTS
from pipelines.backup import add_location_options, locations
from pipelines.command import command_parser, run


def restore_backup(arguments: argparse.Namespace) -> dict[str, Any]:
    """Verify the archive, restore its parts and print their locations."""
    restored: list[str] = []

    def report(location: str) -> None:
        restored.append(location)
        sys.stderr.write(f"restored {location}\n")

    contents = restore(locations(arguments), arguments.archive, arguments.parts, report, force=arguments.force)
    elsewhere = contents.registry.elsewhere if contents.registry else ()
    for location in elsewhere:
        sys.stderr.write(f"warning: {location}: the archive did not hold the artifacts there\n")
    sys.stdout.write(f"{arguments.archive}, made at {contents.made_at}: verified {len(contents.files)} files\n")
    return {
        "archive": str(arguments.archive),
        "made_at": contents.made_at,
        "restored": restored,
        "elsewhere": elsewhere,
    }


if __name__ == "__main__":
    parser = command_parser(
        "restore",
        "Verify a backup and restore it. Nothing is written before all hashes have been verified.\n\n"
        "Stop the service, the scheduler and MLflow first.",
        "python -m pipelines.restore backups/monday.tar.zst\n"
        "  python -m pipelines.restore monday.tar --parts registry --tracking-uri sqlite:///elsewhere/mlflow.db",
    )
    parser.add_argument("archive", type=Path, metavar="ARCHIVE", help="archive of pipelines.backup")
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS, default=(), help="parts to restore (default: all in the archive)"
    )
    parser.add_argument("--force", action="store_true", help="replace existing data")
    add_location_options(parser)
    parsed = parser.parse_args()
    sys.exit(run(lambda: restore_backup(parsed)))

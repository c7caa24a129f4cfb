"""Put a backup back, here or elsewhere: `python -m pipelines.restore backups/monday.tar.zst`."""

import argparse
import sys
from pathlib import Path
from typing import Any

from forecaster.backup.restore import restore
from forecaster.backup.save import PARTS
from pipelines.backup import place_options, places_of
from pipelines.command import command_parser, run


def put_back(arguments: argparse.Namespace) -> dict[str, Any]:
    """Verify the archive, put its parts back and say where."""
    filled: list[str] = []

    def say(place: str) -> None:
        filled.append(place)
        sys.stderr.write(f"restored {place}\n")

    contents = restore(places_of(arguments), arguments.archive, arguments.parts, say, force=arguments.force)
    elsewhere = contents.registry.elsewhere if contents.registry else ()
    for place in elsewhere:
        sys.stderr.write(f"warning: {place}: artifacts there were not in the archive\n")
    sys.stdout.write(
        f"{arguments.archive}, made at {contents.made_at}: {len(contents.files)} files as they were written\n"
    )
    return {"archive": str(arguments.archive), "made_at": contents.made_at, "restored": filled, "elsewhere": elsewhere}


if __name__ == "__main__":
    parser = command_parser(
        "restore",
        "Verify a backup and put it back: nothing is touched before every hash is found right. Stop the "
        "service and whatever else uses the places first.",
        "python -m pipelines.restore backups/monday.tar.zst\n"
        "  python -m pipelines.restore monday.tar --parts registry --tracking-uri sqlite:///elsewhere/mlflow.db",
    )
    parser.add_argument("archive", type=Path, metavar="ARCHIVE", help="as pipelines.backup wrote it")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=(), help="default: all that it has")
    parser.add_argument("--force", action="store_true", help="replace what is there")
    place_options(parser)
    parsed = parser.parse_args()
    sys.exit(run(lambda: put_back(parsed)))

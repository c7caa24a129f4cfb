"""Back up the registry, the bar store and the database: `python -m pipelines.backup backups/monday.tar.zst`."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from forecaster.backup.save import PARTS, Places, back_up
from forecaster.registry.files import hash_file
from pipelines.command import add_database_option, add_tracking_option, command_parser, run


def backup(arguments: argparse.Namespace) -> dict[str, Any]:
    """Write the archive and print its contents."""
    archive: Path = arguments.archive
    with tqdm(unit="file", dynamic_ncols=True) as bar:

        def count(name: str) -> None:
            bar.update()

        contents = back_up(locations(arguments), archive, arguments.parts, count)
    elsewhere = contents.registry.elsewhere if contents.registry else ()
    for location in elsewhere:
        sys.stderr.write(
            f"warning: {location}: the archive does not hold the artifacts there; set --artifacts, or save them too\n"
        )
    size = archive.stat().st_size
    sys.stdout.write(f"{archive}: {', '.join(contents.parts)}; {len(contents.files)} files, {size:,} bytes\n")
    return {
        "archive": str(archive),
        "parts": contents.parts,
        "files": len(contents.files),
        "bytes": size,
        "sha256": hash_file(archive),
        "elsewhere": elsewhere,
    }


def add_location_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that locate the registry, the bar store and the database; they default to the service's."""
    add_tracking_option(parser)
    bars = Path(os.environ.get("FORECASTER_BARS_DIR", "mlruns/bars"))
    parser.add_argument(
        "--artifacts",
        metavar="FOLDER",
        type=Path,
        help="folder of MLflow's artifacts (default: next to its SQLite file, or in mlruns)",
    )
    parser.add_argument(
        "--bars",
        metavar="FOLDER",
        type=Path,
        default=bars,
        help="folder of the bar store (default: FORECASTER_BARS_DIR, or mlruns/bars)",
    )
    add_database_option(parser)


def locations(arguments: argparse.Namespace) -> Places:
    """Return the locations that the options of `add_location_options` give."""
    return Places(arguments.tracking_uri, arguments.artifacts, arguments.bars, arguments.database)


if __name__ == "__main__":
    parser = command_parser(
        "backup",
        "Back up MLflow's registry with its artifacts, the bar store and the service's database.\n"
        "The service and the scheduler may go on running.",
        "python -m pipelines.backup backups/monday.tar.zst\n"
        "  python -m pipelines.backup ledger.tar --parts database --database sqlite:///mlruns/service.db",
    )
    parser.add_argument("archive", type=Path, metavar="ARCHIVE", help="the file to create, .tar or .tar.zst")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="parts to save (default: all)")
    add_location_options(parser)
    parsed = parser.parse_args()
    sys.exit(run(lambda: backup(parsed)))

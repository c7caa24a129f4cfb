"""Save registry, bar store and the service's database: `python -m pipelines.backup backups/monday.tar.zst`."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from forecaster.backup.save import PARTS, Locations, back_up
from forecaster.registry.files import hash_file
from pipelines.command import command_parser, database_option, run, tracking_option


def backup(arguments: argparse.Namespace) -> dict[str, Any]:
    """Write the archive and say what it holds."""
    archive: Path = arguments.archive
    with tqdm(unit="file", dynamic_ncols=True) as bar:

        def count(name: str) -> None:
            bar.update()

        contents = back_up(places_of(arguments), archive, arguments.parts, count)
    elsewhere = contents.registry.elsewhere if contents.registry else ()
    for place in elsewhere:
        sys.stderr.write(
            f"warning: {place}: artifacts there are not in the archive; set --artifacts, or save them too\n"
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


def place_options(parser: argparse.ArgumentParser) -> None:
    """Add where everything is, which is the service's where nothing is said."""
    tracking_option(parser)
    bars = Path(os.environ.get("FORECASTER_BARS_DIR", "mlruns/bars"))
    parser.add_argument(
        "--artifacts", type=Path, help="MLflow's artifacts (default: beside its SQLite file, or mlruns')"
    )
    parser.add_argument("--bars", type=Path, default=bars, help="default: FORECASTER_BARS_DIR, or mlruns/bars")
    database_option(parser)


def places_of(arguments: argparse.Namespace) -> Locations:
    """Return what `place_options` were given."""
    return Locations(arguments.tracking_uri, arguments.artifacts, arguments.bars, arguments.database)


if __name__ == "__main__":
    parser = command_parser(
        "backup",
        "Save MLflow's registry with its artifacts, the bar store and the service's database, at work too.",
        "python -m pipelines.backup backups/monday.tar.zst\n"
        "  python -m pipelines.backup ledger.tar --parts database --database sqlite:///mlruns/service.db",
    )
    parser.add_argument("archive", type=Path, metavar="ARCHIVE", help="a new file, .tar or .tar.zst")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="default: all of them")
    place_options(parser)
    parsed = parser.parse_args()
    sys.exit(run(lambda: backup(parsed)))

"""Copy the example configurations into a folder: `python -m pipelines.init configs`."""

import json
import os
import sys
from pathlib import Path
from typing import Any

from forecaster.domain.errors import ForecasterError
from pipelines.command import command_parser, run

CONFIGS = Path(__file__).parent / "configs"


def init(folder: Path) -> dict[str, Any]:
    """Copy the example configurations into a folder; existing files are not overwritten.

    Raises:
        ForecasterError: a file exists already, or cannot be written.
    """
    examples = sorted(CONFIGS.glob("*.yaml"))
    targets = [folder / example.name for example in examples]
    # also a link that points nowhere, through which a file would be written elsewhere
    existing = [str(target) for target in targets if os.path.lexists(target)]
    if existing:
        raise ForecasterError(f"{', '.join(existing)}: exists already; choose another folder, or remove it")
    quoted = json.dumps(folder.as_posix(), ensure_ascii=False)[1:-1]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for example, target in zip(examples, targets, strict=True):
            # the schedule names the other files, in double quotes, for which JSON escapes as YAML does
            text = example.read_text(encoding="utf-8").replace("pipelines/configs/", f"{quoted}/")
            target.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ForecasterError(f"{folder}: cannot be written ({error}); choose another folder") from error
    return {"files": [str(target) for target in targets]}


if __name__ == "__main__":
    parser = command_parser(
        "init",
        "Copy the example configurations into a folder, where you can edit them.",
        "python -m pipelines.init configs",
    )
    parser.add_argument(
        "folder",
        metavar="FOLDER",
        type=Path,
        nargs="?",
        default=Path("configs"),
        help="folder to create (default: %(default)s)",
    )
    parsed = parser.parse_args()
    sys.exit(run(lambda: init(parsed.folder)))

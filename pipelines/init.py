"""Copy the example configurations into a folder: `python -m pipelines.init configs`."""

import json
import os
import re
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
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for example, target in zip(examples, targets, strict=True):
            # the schedule names the other files
            text = _with_folder(example.read_text(encoding="utf-8"), folder)
            target.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ForecasterError(f"{folder}: cannot be written ({error}); choose another folder") from error
    return {"files": [str(target) for target in targets]}


def _with_folder(text: str, folder: Path) -> str:
    """Return a configuration in which the paths to examples are those in `folder`, quoted as YAML requires."""

    def in_folder(match: re.Match[str]) -> str:
        if match["key"] is None:
            return f"{folder.as_posix()}/"
        return match["key"] + json.dumps((folder / match["file"]).as_posix(), ensure_ascii=False)

    # in one pass, because the folder's own path may contain pipelines/configs/
    return re.sub(r"(?m)^(?P<key> *config: )pipelines/configs/(?P<file>\S+)$|pipelines/configs/", in_folder, text)


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

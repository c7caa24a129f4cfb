"""Search for a recipe: `python -m pipelines.search search.yaml`."""

import json
import shlex
import sys
from dataclasses import asdict
from typing import Any

from forecaster.search.config import SearchConfig
from forecaster.search.search import SearchResult, search
from forecaster.training.config import TrainConfig
from pipelines.command import config_parser, load_sections, run


def _search(recipe: TrainConfig, config: SearchConfig) -> dict[str, Any]:
    result = search(recipe, config, _report_waiting)
    report(result)
    return asdict(result)


def _report_waiting() -> None:
    sys.stderr.write("another process runs this search; waiting for it\n")


def report(result: SearchResult) -> None:
    """Print the best trial's error, and its values as a shell and `--set` take them."""
    # JSON is YAML, except for the pairs of escapes in which it would write characters such as emoji
    changes = shlex.join(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in result.values.items())
    sys.stdout.write(f"validation MAE {result.validation_mae:.4g}; to train this recipe, add --set {changes}\n")


if __name__ == "__main__":
    parser = config_parser(
        "search",
        "Search for values of the recipe's keys that give the smallest error on the validation part.\n"
        "A search that is started again continues.",
        "python -m pipelines.search search.yaml\n  python -m pipelines.search search.yaml --set trials=100 minutes=60",
    )
    arguments = parser.parse_args()
    sys.exit(run(lambda: _search(*load_sections(arguments, train=TrainConfig, search=SearchConfig))))

"""Search for a recipe: `python -m pipelines.search search.yaml`."""

import json
import sys
from dataclasses import asdict
from typing import Any

from forecaster.search.search import SearchConfig, search
from forecaster.training.config import TrainConfig
from pipelines.command import config_parser, load_sections, run


def _search(recipe: TrainConfig, config: SearchConfig) -> dict[str, Any]:
    result = search(recipe, config)
    changes = " ".join(f"'{key}={json.dumps(value)}'" for key, value in result.values.items())
    sys.stdout.write(f"validation MAE {result.validation_mae:.4g}; to train this recipe, add --set {changes}\n")
    return asdict(result)


if __name__ == "__main__":
    parser = config_parser(
        "search",
        "Search for values of the recipe's keys that give the smallest error on the validation part.\n"
        "A search that is started again continues.",
        "python -m pipelines.search search.yaml\n  python -m pipelines.search search.yaml --set trials=100 minutes=60",
    )
    arguments = parser.parse_args()
    sys.exit(run(lambda: _search(*load_sections(arguments, train=TrainConfig, search=SearchConfig))))

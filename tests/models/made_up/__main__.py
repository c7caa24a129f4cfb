"""Register the made-up parts, each by its one entry; train, export and serve a network of them.

Usage: `python -m tests.models.made_up FOLDER`. The last line of the output is JSON.
"""

import json
import sys
from pathlib import Path
from typing import Annotated, Any, get_args
from unittest.mock import patch

from forecaster.models import cells, decoders, heads
from tests.models.made_up.cell import CELL, NAME
from tests.models.made_up.decoder import Ends
from tests.models.made_up.head import Laplace


def _with(union: Any, member: type) -> Any:
    """Return a discriminated union with another member."""
    members, *annotations = get_args(union)
    return Annotated[(members | member, *annotations)]


# before the modules that read the unions
cells.CELLS[NAME] = CELL
decoders.AnyDecoder = _with(decoders.AnyDecoder, Ends)
heads.AnyHead = _with(heads.AnyHead, Laplace)

from pydantic import ValidationError  # noqa: E402

from forecaster.models.network import ModelConfig  # noqa: E402
from forecaster.registry.bundle import read_bundle  # noqa: E402
from forecaster.registry.predictor import ArrayPredictor  # noqa: E402
from forecaster.training.job import train  # noqa: E402
from tests.conftest import small_config  # noqa: E402


def _refusal() -> str:
    try:
        ModelConfig.model_validate({"decoder": "sideways"})
    except ValidationError as error:
        return str(error)
    return ""


def main(folder: Path) -> None:
    """Train the parts on a sine, and print what the bundle serves."""
    model = {"cell": NAME, "widths": [8], "decoder": "ends", "head": "laplace"}
    config = small_config(folder, model=model, folds=0, refit=False)
    # the slow part of the audit, which has tests of its own
    with patch("forecaster.training.leakage.rehearse", lambda *arguments: {}):
        metrics = train(config).metrics
    (manifest,) = folder.rglob("manifest.json")
    predictor = ArrayPredictor(read_bundle(manifest.parent))
    inputs = predictor.bundle.golden.inputs
    predicted = predictor.predict(inputs.values)
    bounds = predictor.bounds(inputs.values, predicted, (80,))
    found = {
        "parts": [predictor.manifest.cell, predictor.manifest.decoder, predictor.manifest.head],
        "outputs": predictor.manifest.outputs,
        "relative_mae": metrics["relative_mae"],
        "coverage": metrics["coverage-80"],
        "mean": predicted.mean.tolist(),
        "golden": predictor.bundle.golden.forecasts.mean.tolist(),
        "bounds": bounds.tolist(),
        "refusal": _refusal(),
    }
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""Time the training of a network, and of NeuralForecast's network of the same size: `python -m benchmarks.training`.

The network has a layer of 64 units, an input size of 50 and a horizon of 10; batches have 64 windows. Run
`make bench-peers` first.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.report import Row, report
from forecaster.data.preprocessing import Preprocessing
from forecaster.data.sources import RandomWalkSource
from forecaster.data.transforms import Chain, Standardize
from forecaster.data.windows import cut_windows
from forecaster.domain.series import Series
from forecaster.models.encoders import Encoder
from forecaster.models.network import ModelConfig, build_model
from forecaster.models.shape import NetworkShape
from forecaster.training import devices
from forecaster.training.examples import Examples
from forecaster.training.fit import fit
from forecaster.training.fit_config import FitConfig

# the cells that NeuralForecast has too, and the most time per window over its own
BARS = {"simple_rnn": 0.4, "lstm": 0.7, "gru": 0.5}
UNITS, INPUT_SIZE, HORIZON, BATCH_SIZE, STEPS, STRETCHES = 64, 50, 10, 64, 200, 4
ROOT = Path(__file__).parents[1]
PEER = ROOT / ".venv-peers" / "bin" / "python"


def our_rate(cell: str) -> float:
    """Return windows per second of this project's fit, with checkpoints and transforms, without the first epoch."""
    devices.prepare(seed=0, mixed_precision=False)
    rows = STEPS * BATCH_SIZE + INPUT_SIZE + HORIZON - 1
    values = RandomWalkSource(length=rows).load()["y"].to_numpy()[:, None]
    series = Series(("a",), values, np.arange(rows).astype("M8[D]"), np.array([0, rows]), "D")
    windows = cut_windows(series, INPUT_SIZE, HORIZON)
    target = Chain(steps=(Standardize(),), is_causal=False)
    preprocessing = Preprocessing(target=target).fit(lambda: [windows.inputs()])
    config = ModelConfig(cell=cell, encoder=Encoder(widths=(UNITS,)))
    examples = Examples(windows, preprocessing, config)
    ends: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        fit(
            build_model(config, NetworkShape(INPUT_SIZE, HORIZON)),
            FitConfig(epochs=STRETCHES + 1, batch_size=BATCH_SIZE, patience=STRETCHES + 1),
            examples,
            None,
            seed=0,
            checkpoint=Path(folder) / "recipe.npz",
            on_epoch=lambda *_: ends.append(time.perf_counter()),
            label=cell,
        )
    return len(windows) / statistics.median(np.diff(ends).tolist())


def peer_rate(cell: str) -> float:
    """Return windows per second of NeuralForecast's fit, without the first stretch."""
    numbers = [str(number) for number in (UNITS, INPUT_SIZE, HORIZON, BATCH_SIZE, STEPS)]
    script = ROOT / "benchmarks" / "peers" / "neuralforecast_training.py"
    done = subprocess.run([PEER, script, cell, *numbers], stdout=subprocess.PIPE, text=True, check=True)
    stretches: list[float] = json.loads(done.stdout.splitlines()[-1])
    return STEPS * BATCH_SIZE / statistics.median(stretches)


def measure() -> Iterator[Row]:
    """Yield the rates of each cell, and the ratio of training times."""
    for cell, bar in BARS.items():
        ours, theirs = our_rate(cell), peer_rate(cell)
        yield Row(f"{cell}, this project", ours, None, "windows/s")
        yield Row(f"{cell}, NeuralForecast", theirs, None, "windows/s")
        yield Row(f"{cell}, time over NeuralForecast's", theirs / ours, bar, "ratio")


def main() -> int:
    """Run the benchmark."""
    argparse.ArgumentParser(
        prog="python -m benchmarks.training", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    if not PEER.exists():
        sys.exit("error: NeuralForecast is not installed; run make bench-peers")
    return report(list(measure()))


if __name__ == "__main__":
    sys.exit(main())

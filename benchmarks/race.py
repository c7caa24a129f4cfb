"""Compare validation errors over training time with NeuralForecast's networks and AutoETS: `python -m benchmarks.race`.

All learn the two sines of `benchmarks.accuracy` on the same series and cores. The recurrent networks have the same
layers, batches and epochs, and each runs at the learning rate that is best for it on the validation part. The time to
the same error is that to the worse of the two lowest errors. Compilation counts as training. Run `make bench-peers`
first.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.accuracy import CONFIGS
from benchmarks.report import Row, report
from benchmarks.training import BARS, PEER, ROOT
from forecaster.data.windows import Windows
from forecaster.domain.config import load_config
from forecaster.domain.series import Floats
from forecaster.training.config import TrainConfig, prepare, split
from forecaster.training.stages import fit_network

SCRIPT = ROOT / "benchmarks" / "peers" / "neuralforecast_race.py"
# of NeuralForecast, by name: the best of `TRIED` for the recurrent networks, the default of NHITS
RATES = {"simple_rnn": 3e-3, "lstm": 1e-2, "gru": 1e-2, "nhits": 1e-3}
# tried by `--tune`
TRIED = (1e-3, 3e-3, 1e-2)
# of every network, fewer than those of the recipe, so that a race takes minutes
EPOCHS = 20
BAR = 0.7


@dataclass(frozen=True)
class Curve:
    """Validation errors over time.

    Args:
        seconds: since the start of the training, increasing.
        errors: the mean squared error at these times.
    """

    seconds: Floats
    errors: Floats

    @property
    def lowest(self) -> float:
        """Return the lowest error."""
        return float(self.errors.min())

    def time_to(self, error: float) -> float:
        """Return the time at which the error is first at most this one."""
        return float(self.seconds[np.argmax(self.errors <= error)])


def our_curve(config: TrainConfig, parts: dict[str, Windows]) -> Curve:
    """Fit a recipe; return its validation errors."""
    points = []
    begin = time.perf_counter()

    def on_epoch(phase: str, epoch: int, loss: float, validation_loss: float | None) -> None:
        points.append((time.perf_counter() - begin, validation_loss))

    with tempfile.TemporaryDirectory() as folder:
        fit_network(config, parts, Path(folder), on_epoch)
    seconds, errors = np.array(points, dtype=float).T
    return Curve(seconds, errors)


def peer_curve(name: str, parts: dict[str, Windows], rate: float, epochs: int) -> Curve:
    """Train a network of NeuralForecast in its own environment; return its validation errors."""
    horizon = parts["train"].horizon
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "series.npz"
        np.savez(file, train=whole(parts["train"]), validation=whole(parts["validation"]))
        command = [str(PEER), str(SCRIPT), name, str(file), str(horizon), str(rate), str(epochs)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    seconds, errors = np.array(json.loads(done.stdout.splitlines()[-1])).T
    return Curve(seconds, errors)


def whole(windows: Windows) -> Floats:
    """Return inputs and targets side by side, `(n, input_size + horizon)`."""
    return np.concatenate([windows.inputs().target, windows.targets()], axis=1)


def ets_curve(windows: Windows) -> Curve:
    """Fit AutoETS to each window; return its error as a single point."""
    from statsforecast.models import AutoETS

    begin = time.perf_counter()
    model = AutoETS(season_length=1)
    forecast = [model.forecast(y, h=windows.horizon)["mean"] for y in windows.inputs().target]
    error = ((np.array(forecast) - windows.targets()) ** 2).mean()
    return Curve(np.array([time.perf_counter() - begin]), np.array([error]))


def measure(curves: dict[str, Curve]) -> Iterator[Row]:
    """Yield the lowest errors, and the ratio of the times to the same error, of each cell."""
    for name, curve in curves.items():
        yield Row(f"{name}, lowest error", curve.lowest, None, "MSE")
        yield Row(f"{name}, whole training", float(curve.seconds[-1]), None, "s")
    for cell in BARS:
        ours, theirs = curves[cell], curves[f"{cell}, NeuralForecast"]
        error = max(ours.lowest, theirs.lowest)
        ratio = ours.time_to(error) / theirs.time_to(error)
        yield Row(f"{cell}, time to the same error over theirs", ratio, BAR, "ratio")


def draw(curves: dict[str, Curve], file: Path) -> None:
    """Draw all curves."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for name, curve in curves.items():
        style = "o" if len(curve.seconds) == 1 else "--" if "NeuralForecast" in name else "-"
        axes.plot(curve.seconds, curve.errors, style, label=name)
    axes.set(xscale="log", yscale="log", xlabel="training time in seconds", ylabel="validation MSE")
    axes.set_title("Two sines: error over training time on the same series and cores")
    axes.legend(fontsize="small")
    axes.grid(visible=True, alpha=0.3)
    figure.savefig(file, dpi=110)


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.race", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--figure", metavar="FILE", type=Path, help="also draw the curves into this PNG file")
    parser.add_argument("--tune", action="store_true", help="print NeuralForecast's lowest error at each learning rate")
    arguments = parser.parse_args()
    if not PEER.exists():
        sys.exit("error: NeuralForecast is not installed; run make bench-peers")
    config = load_config(CONFIGS / "two-sines.yaml", TrainConfig, [f"fit.epochs={EPOCHS}", f"fit.patience={EPOCHS}"])
    parts = split(config, prepare(config, config.data.load()))
    if arguments.tune:
        for name in BARS:
            for rate in TRIED:
                found = peer_curve(name, parts, rate, EPOCHS).lowest
                sys.stdout.write(f"{name} at {rate:g}: {found:.5f}\n")
        return 0
    curves: dict[str, Curve] = {}
    for cell in BARS:
        curves[cell] = our_curve(config.with_cell(cell), parts)
        curves[f"{cell}, NeuralForecast"] = peer_curve(cell, parts, RATES[cell], EPOCHS)
    curves["NHITS, NeuralForecast"] = peer_curve("nhits", parts, RATES["nhits"], EPOCHS)
    curves["AutoETS"] = ets_curve(parts["validation"])
    if arguments.figure:
        draw(curves, arguments.figure)
    return report(list(measure(curves)))


if __name__ == "__main__":
    sys.exit(main())

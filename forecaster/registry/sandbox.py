"""Try bundles in subprocesses with limits on time and memory, before a serving process loads them.

    python -m forecaster.registry.sandbox --seconds 60 --memory-mb 1024 FOLDER...

Each bundle is tried in its own process, forked from a process that has imported onnxruntime, so that many bundles are
tried quickly. A bundle passes its trial if it forecasts batches of every served size; `graph.py` explains why that
covers all requests.
"""

import argparse
import json
import math
import multiprocessing
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from forecaster.domain.errors import BundleError, ConfigError, ForecasterError, RequestError
from forecaster.domain.manifest import CALIBRATION, MANIFEST, MODEL
from forecaster.domain.series import Inputs
from forecaster.evaluation.forecasts import Forecasts
from forecaster.registry.bundle import read_bundle
from forecaster.registry.predictor import BATCH_SIZES, MAX_BATCH, ArrayPredictor

# a trial may have failed because of the machine's state, so it is repeated after this time
RETRY_AFTER_SECONDS = 3600
_ROOT = Path(__file__).parents[2]
_MIB = 2**20
# input values that must not crash a bundle; a forecast that is not finite is no reason to refuse it
_PROBES = (0.0, 1e300, -1e300, 5e-324)
_MOST_TEXT = 2000
# the position in onnxruntime's own source code, in its error messages
_SOURCE = re.compile(r"/onnxruntime_src/\S+ [^()]*\([^()]*\) ")
# the latest datetime that a response can contain
_LAST_TIME = np.datetime64("9999-12-31")


@dataclass(frozen=True)
class Limits:
    """The limits of a trial: seconds of CPU time (and twice as many of elapsed time), and MiB of memory."""

    seconds: float = 60
    memory_mb: int = 1024


def limits_from_environment() -> Limits:
    """Return the limits from `FORECASTER_TRIAL_SECONDS` and `FORECASTER_TRIAL_MEMORY_MB`, the service's variables.

    Raises:
        ConfigError: a variable is not a number above 0.
    """

    def read(name: str, kind: type[float], default: float) -> Any:
        try:
            value = kind(os.environ.get(name) or default)
        except ValueError:
            value = 0
        if not 0 < value < math.inf:
            raise ConfigError(f"{name}: must be a number above 0, got {os.environ[name][:100]!a}")
        return value

    return Limits(
        read("FORECASTER_TRIAL_SECONDS", float, Limits.seconds),
        read("FORECASTER_TRIAL_MEMORY_MB", int, Limits.memory_mb),
    )


def check_bundles(folders: Sequence[Path], limits: Limits) -> list[str | None]:
    """Try bundles in subprocesses, and return the reason for refusing each; None if it passed."""
    if not folders:
        return []
    done = subprocess.run(  # noqa: S603
        [
            *(sys.executable, "-m", "forecaster.registry.sandbox"),
            *("--seconds", str(limits.seconds), "--memory-mb", str(limits.memory_mb)),
            *(str(folder.absolute()) for folder in folders),
        ],
        cwd=_ROOT,
        # a trial computes in one thread; other threads would reserve memory
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    reasons = [json.loads(line) for line in done.stdout.splitlines()]
    if len(reasons) != len(folders):
        raise RuntimeError(f"the sandbox ended with status {done.returncode}: {done.stderr[-_MOST_TEXT:]}")
    return reasons


def _try(folder: Path) -> None:
    """Raise an error if a bundle does not do what its manifest says."""
    predictor = ArrayPredictor(read_bundle(folder))
    golden, manifest = predictor.bundle.golden.inputs, predictor.manifest
    for size in BATCH_SIZES:
        _check_forecast(predictor, golden.take(np.arange(size) % len(golden)))
    for value in _PROBES:
        for size in (1, MAX_BATCH):
            filled = {name: np.full((size, *shape), value) for name, shape in manifest.shapes.items()}
            _check_forecast(predictor, Inputs.of(filled))
    _check_intervals(predictor, golden)
    # the longest roll-out; if it is not finite, requests for it get an error
    if not manifest.calendar_features and not manifest.futr_exog:
        with suppress(RequestError):
            predictor.predict(golden.values, manifest.max_horizon, static=golden.static)
    # sessions always increase, and an exchange's calendar may end before the longest roll-out
    if manifest.sessions:
        return
    times = predictor.frequency.after(np.datetime64("2001-01-01", "us"), manifest.input_size + manifest.max_horizon)
    if not (np.diff(times) > np.timedelta64(0)).all() or times[-1] > _LAST_TIME:
        raise BundleError(
            f"{MANIFEST}: freq gives times that do not increase, or end after {_LAST_TIME}; register the model again"
        )


def _check_forecast(predictor: ArrayPredictor, inputs: Inputs) -> None:
    outputs = predictor.manifest.outputs
    shapes = {name: array.shape for name, array in predictor.run(inputs, list(outputs)).items()}
    expected = {name: (len(inputs), *shape) for name, shape in outputs.items()}
    if shapes != expected:
        raise BundleError(f"{MODEL}: the outputs have the shapes {shapes} instead of {expected}; do not serve it")


def _check_intervals(predictor: ArrayPredictor, inputs: Inputs) -> None:
    bundle = predictor.bundle
    predicted = predictor.predict(inputs.values, known=inputs.known, static=inputs.static)
    naive = Forecasts(predicted.mean)
    for calibration, is_baseline, forecasts in ((bundle.calibration, False, predicted), (bundle.baseline, True, naive)):
        if calibration is not None:
            spread = predictor.quantiles(inputs.values, forecasts, tuple(calibration.probabilities), is_baseline)
            if not np.isfinite(spread).all():
                raise BundleError(f"{CALIBRATION}: gives intervals that are not finite; register the model again")


def _try_in_subprocess(folder: Path, limits: Limits) -> str | None:
    """Try a bundle in its own process, and return the reason for refusing it; None if it passed."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_report, args=(folder, limits, sender))
    process.start()
    sender.close()
    reason = None
    with receiver, suppress(EOFError):
        # bytes, not objects: nothing from a process that a bundle has taken over may be unpickled
        reason = receiver.recv_bytes(_MOST_TEXT).decode(errors="replace")
    process.join()
    return (reason or None) if process.exitcode == 0 and reason is not None else _explain_exit(process.exitcode, limits)


def _report(folder: Path, limits: Limits, sender: Connection) -> None:
    """Try a bundle within the limits, and send the reason for refusing it; empty if it passed."""
    _apply(limits)
    reason = ""
    try:
        _try(folder)
    except ForecasterError as error:
        reason = str(error)
    # a bundle may fail in any way, and every way is a reason to refuse it
    except Exception as error:
        reason = f"it cannot be used ({type(error).__name__}: {error})"
    reason = _SOURCE.sub("", " ".join(reason.split()))
    sender.send_bytes(reason.encode(errors="replace")[:_MOST_TEXT])


def _apply(limits: Limits) -> None:
    """Limit this process; exceeding a limit ends it or raises an error in it, without another process's help."""
    # other systems, such as macOS, do not enforce a limit on memory
    if sys.platform == "linux":
        mapped = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
        memory = mapped + limits.memory_mb * _MIB
        _lower(resource.RLIMIT_AS, memory, memory)
        # if the machine runs out of memory, it must end this process and not a serving process
        with suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    seconds = max(1, round(limits.seconds))
    # the soft limit sends SIGXCPU; the hard limit sends SIGKILL, which cannot be caught
    _lower(resource.RLIMIT_CPU, seconds, seconds + 1)
    _lower(resource.RLIMIT_FSIZE, 0, 0)
    _lower(resource.RLIMIT_CORE, 0, 0)
    signal.setitimer(signal.ITIMER_REAL, 2 * limits.seconds)


def _lower(kind: int, soft: int, hard: int) -> None:
    """Set a limit of this process, at most the hard limit that it inherited."""
    inherited = resource.getrlimit(kind)[1]
    if inherited != resource.RLIM_INFINITY:
        soft, hard = min(soft, inherited), min(hard, inherited)
    resource.setrlimit(kind, (soft, hard))


def _explain_exit(status: int | None, limits: Limits) -> str:
    """Return the reason for refusing a bundle whose process ended without sending one."""
    if status in (-signal.SIGXCPU, -signal.SIGALRM):
        return f"its trial took more than {limits.seconds:g} s of CPU time; do not serve it"
    ending = signal.Signals(-status).name if status and status < 0 else f"status {status}"
    return f"its trial ended with {ending}; do not serve it"


def main() -> int:
    """Try bundles, and print one line of JSON for each: the reason for refusing it, or `null`."""
    parser = argparse.ArgumentParser(prog="python -m forecaster.registry.sandbox", description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--seconds", type=float, default=Limits.seconds)
    parser.add_argument("--memory-mb", type=int, default=Limits.memory_mb)
    arguments = parser.parse_args()
    for folder in arguments.folders:
        reason = _try_in_subprocess(folder, Limits(arguments.seconds, arguments.memory_mb))
        sys.stdout.write(json.dumps(reason) + "\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())

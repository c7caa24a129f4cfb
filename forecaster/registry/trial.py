"""A bundle's trial: it is loaded and asked in a process that may fail, before a process that serves loads it.

    python -m forecaster.registry.trial --seconds 60 --memory-mb 1024 FOLDER...

Each bundle gets a process of its own, forked from one that has onnxruntime imported, so that many are tried quickly. A
bundle that is not refused answered every size of batch that is served; what that says of others is told in `graph.py`.
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
from forecaster.registry.bundle import read_bundle
from forecaster.registry.predictor import MAX_BATCH, SIZES, Predictor

# what ended a trial may have been the machine's state
TRIED_AGAIN_AFTER_SECONDS = 3600
_ROOT = Path(__file__).parents[2]
_MIB = 2**20
# of a batch of one and of the largest; what is not finite is no reason to refuse
_PROBES = (0.0, 1e300, -1e300, 5e-324)
_MOST_TEXT = 2000
# where in its own source onnxruntime fails, in its messages
_SOURCE = re.compile(r"/onnxruntime_src/\S+ [^()]*\([^()]*\) ")
# of datetimes, which answers are written as
_LAST_TIME = np.datetime64("9999-12-31")


@dataclass(frozen=True)
class Limits:
    """What a trial may take: seconds of processor time (twice as many by the clock), and MiB of memory."""

    seconds: float = 60
    memory_mb: int = 1024


def limits_from_environment() -> Limits:
    """Return the limits that the service's own variables set: `FORECASTER_TRIAL_SECONDS`, `FORECASTER_TRIAL_MEMORY_MB`.

    Raises:
        ConfigError: one of them is no number above 0.
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


def try_bundles(folders: Sequence[Path], limits: Limits) -> list[str | None]:
    """Return why each bundle is refused, None for each that is not; this process loads none of them."""
    if not folders:
        return []
    done = subprocess.run(  # noqa: S603
        [
            *(sys.executable, "-m", "forecaster.registry.trial"),
            *("--seconds", str(limits.seconds), "--memory-mb", str(limits.memory_mb)),
            *(str(folder.absolute()) for folder in folders),
        ],
        cwd=_ROOT,
        # a trial computes in one thread, and each further one reserves memory
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    reasons = [json.loads(line) for line in done.stdout.splitlines()]
    if len(reasons) != len(folders):
        raise RuntimeError(f"the trial of bundles ended with status {done.returncode}: {done.stderr[-_MOST_TEXT:]}")
    return reasons


def _try(folder: Path) -> None:
    """Raise where a bundle does not do what its manifest says."""
    predictor = Predictor(read_bundle(folder))
    golden, manifest = predictor.bundle.golden.inputs, predictor.manifest
    for size in SIZES:
        _ask(predictor, golden.take(np.arange(size) % len(golden)))
    for value in _PROBES:
        for size in (1, MAX_BATCH):
            filled = {name: np.full((size, *shape), value) for name, shape in manifest.shapes.items()}
            _ask(predictor, Inputs(filled["x"], filled.get("known")))
    _check_intervals(predictor, golden)
    # the longest roll-out; one that is not finite is told to who asks
    if not manifest.calendar_features and not manifest.futr_exog:
        with suppress(RequestError):
            predictor.predict_arrays(golden.values, manifest.max_horizon)
    # an exchange's sessions increase, and its calendar may be shorter than the longest roll-out
    if manifest.sessions:
        return
    times = predictor.frequency.after(np.datetime64("2001-01-01", "us"), manifest.input_size + manifest.max_horizon)
    if not (np.diff(times) > np.timedelta64(0)).all() or times[-1] > _LAST_TIME:
        raise BundleError(f"{MANIFEST}: freq leads to times that do not increase; register the model again")


def _ask(predictor: Predictor, inputs: Inputs) -> None:
    shape, expected = predictor.run(inputs).shape, (len(inputs), predictor.manifest.horizon)
    if shape != expected:
        raise BundleError(f"{MODEL}: answers {shape} where {expected} is due; do not serve it")


def _check_intervals(predictor: Predictor, inputs: Inputs) -> None:
    bundle = predictor.bundle
    mean = predictor.predict_arrays(inputs.values, known=inputs.known)
    for calibration, is_baseline in ((bundle.calibration, False), (bundle.baseline, True)):
        if calibration is not None:
            spread = predictor.quantiles(inputs.values, mean, tuple(calibration.probabilities), is_baseline)
            if not np.isfinite(spread).all():
                raise BundleError(f"{CALIBRATION}: leads to intervals that are not finite; register the model again")


def _tried(folder: Path, limits: Limits) -> str | None:
    """Return why a bundle is refused, tried in a process of its own."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(folder, limits, sender))
    process.start()
    sender.close()
    reason = None
    with receiver, suppress(EOFError):
        # as bytes: what a bundle has got hold of sends nothing that is unpickled
        reason = receiver.recv_bytes(_MOST_TEXT).decode(errors="replace")
    process.join()
    return (reason or None) if process.exitcode == 0 and reason is not None else _ending(process.exitcode, limits)


def _work(folder: Path, limits: Limits, sender: Connection) -> None:
    _limit(limits)
    reason = ""
    try:
        _try(folder)
    except ForecasterError as error:
        reason = str(error)
    # a bundle can be wrong in ways that nobody has thought of: each is a reason to refuse it
    except Exception as error:
        reason = f"it cannot be used ({type(error).__name__}: {error})"
    reason = _SOURCE.sub("", " ".join(reason.split()))
    sender.send_bytes(reason.encode(errors="replace")[:_MOST_TEXT])


def _limit(limits: Limits) -> None:
    """Bound this process; each limit ends it, or makes it raise, without help from another process."""
    # elsewhere, as on macOS, memory cannot be bounded so
    if sys.platform == "linux":
        mapped = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
        memory = mapped + limits.memory_mb * _MIB
        _lower(resource.RLIMIT_AS, memory, memory)
        # where the machine's own memory ends, this process goes, and not one that serves
        with suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    seconds = max(1, round(limits.seconds))
    # the second one cannot be caught
    _lower(resource.RLIMIT_CPU, seconds, seconds + 1)
    _lower(resource.RLIMIT_FSIZE, 0, 0)
    _lower(resource.RLIMIT_CORE, 0, 0)
    signal.setitimer(signal.ITIMER_REAL, 2 * limits.seconds)


def _lower(kind: int, soft: int, hard: int) -> None:
    """Set a limit of this process, no higher than the hard limit that it was started with."""
    inherited = resource.getrlimit(kind)[1]
    if inherited != resource.RLIM_INFINITY:
        soft, hard = min(soft, inherited), min(hard, inherited)
    resource.setrlimit(kind, (soft, hard))


def _ending(status: int | None, limits: Limits) -> str:
    """Say how a trial ended that gave no reason."""
    if status in (-signal.SIGXCPU, -signal.SIGALRM):
        return f"its trial took more than {limits.seconds:g} s of processor time; do not serve it"
    how = signal.Signals(-status).name if status and status < 0 else f"status {status}"
    return f"its trial ended with {how}; do not serve it"


def main() -> int:
    """Try bundles; print a line of JSON for each, `null` or why it is refused."""
    parser = argparse.ArgumentParser(prog="python -m forecaster.registry.trial", description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--seconds", type=float, default=Limits.seconds)
    parser.add_argument("--memory-mb", type=int, default=Limits.memory_mb)
    arguments = parser.parse_args()
    for folder in arguments.folders:
        reason = _tried(folder, Limits(arguments.seconds, arguments.memory_mb))
        sys.stdout.write(json.dumps(reason) + "\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())

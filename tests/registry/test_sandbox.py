"""The sandbox refuses bundles whose faults only show when they are loaded, and protects the calling process."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from onnx import ModelProto, helper

from forecaster.registry.cache import bundle_folder
from forecaster.registry.sandbox import Limits, check_bundles
from tests.conftest import ROOT, TrainedModels
from tests.registry.bundle_faults import Damage, before_the_end, constant, edit, edit_graph, outer_product, slow

LIMITS = Limits(seconds=2, memory_mb=512)


def _added(values: np.ndarray) -> Callable[[ModelProto], None]:
    return before_the_end(constant("added", values), helper.make_node("Add", ["inner", "added"], ["mean"]))


def _widen(calibrations: Any) -> None:
    n = len(calibrations["model"]["probabilities"])
    calibrations["model"].update(least=1e300, residuals=[[1e300] * n] * 4)


# each has only allowed operators and its manifest's shapes, and reproduces its golden forecasts
BAD: dict[str, tuple[Damage, str]] = {
    "2.4 GB of constants": (edit_graph(outer_product(17_500)), "Failed to allocate memory|bad_alloc"),
    "minutes of multiplying": (edit_graph(slow(20_000)), "took more than 2 s of CPU time|Failed to allocate"),
    "a batch of eight windows only": (edit_graph(_added(np.zeros((8, 1)))), "cannot be used"),
    "times beyond the calendar": (edit("manifest.json", lambda m: m.update(freq="999999D")), "freq gives times"),
    "an invalid frequency": (edit("manifest.json", lambda m: m.update(freq="9" * 99 + "D")), "is not a frequency"),
    "intervals that are not finite": (edit("calibration.json", _widen), "intervals that are not finite"),
    "invalid calendar features": (
        edit("manifest.json", lambda m: m.update(hist_exog={"a": []}, calendar_features={"b": {}})),
        "inputs do not match",
    ),
}


def test_sandbox_tries_each_bundle_in_its_own_process(models: TrainedModels, tmp_path: Path) -> None:
    good = bundle_folder(models.cache, "sine", 1)
    folders = [good]
    for number, (damage, _) in enumerate(BAD.values()):
        folders.append(Path(shutil.copytree(good, tmp_path / str(number))))
        damage(folders[-1])
    # a bundle's process does not affect the next bundle
    reasons = check_bundles([*folders, bundle_folder(models.cache, "sine", 2)], LIMITS)
    assert (reasons[0], reasons[-1]) == (None, None)
    for reason, (name, (_, message)) in zip(reasons[1:-1], BAD.items(), strict=True):
        assert re.search(message, reason or "passed"), name


def test_trial_leaves_no_process_and_does_not_change_the_bundle(models: TrainedModels, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundle_folder(models.cache, "sine", 1), tmp_path / "bundle"))
    edit_graph(slow(20_000))(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    # earlier tests in this process have started helpers of multiprocessing
    running = set(psutil.Process().children(recursive=True))
    (reason,) = check_bundles([folder], LIMITS)
    assert reason is not None
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert set(psutil.Process().children(recursive=True)) <= running


_TRY_UNDER_A_HARD_LIMIT = """
import resource, sys
from pathlib import Path
from forecaster.registry.sandbox import Limits, check_bundles
most = 2 * 2**30
resource.setrlimit(resource.RLIMIT_AS, (most, most))
print(check_bundles([Path(sys.argv[1])], Limits(seconds=30, memory_mb=100_000)))
"""


def test_good_bundle_passes_under_an_inherited_memory_limit(models: TrainedModels) -> None:
    command = [sys.executable, "-c", _TRY_UNDER_A_HARD_LIMIT, str(bundle_folder(models.cache, "sine", 1))]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    assert answer.stdout.strip() == "[None]"


_SLEEP_IN_A_TRIAL = """
import sys, time
from pathlib import Path
from forecaster.registry import sandbox
# uses no CPU time, like reading from a disk that does not respond
sandbox._try = lambda folder: time.sleep(30)
print(sandbox._try_in_subprocess(Path(sys.argv[1]), sandbox.Limits(seconds=0.5)))
"""


def test_sleeping_trial_ends_after_its_elapsed_time(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _SLEEP_IN_A_TRIAL, str(tmp_path)]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    assert answer.stdout.startswith("its trial took more than 0.5 s")

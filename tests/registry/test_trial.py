"""A trial finds what the files alone do not show, in a process of its own."""

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
from forecaster.registry.trial import Limits, try_bundles
from tests.conftest import ROOT, TrainedModels
from tests.registry.spoiling import Spoil, before_the_end, constant, edit, outer_product, poison, slow

LIMITS = Limits(seconds=2, memory_mb=512)


def _added(values: np.ndarray) -> Callable[[ModelProto], None]:
    return before_the_end(constant("added", values), helper.make_node("Add", ["inner", "added"], ["mean"]))


def _widen(calibrations: Any) -> None:
    n = len(calibrations["model"]["probabilities"])
    calibrations["model"].update(least=1e300, residuals=[[1e300] * n] * 4)


# each of these is of allowed operators, has its manifest's shapes and answers its golden inputs
BAD: dict[str, tuple[Spoil, str]] = {
    "2.4 GB of constants": (poison(outer_product(17_500)), "Failed to allocate memory|bad_alloc"),
    "minutes of multiplying": (poison(slow(20_000)), "took more than 2 s of processor time|Failed to allocate"),
    "good for eight windows alone": (poison(_added(np.zeros((8, 1)))), "cannot be used"),
    "times beyond the calendar": (edit("manifest.json", lambda m: m.update(freq="999999D")), "freq leads to times"),
    "a frequency of no sense": (edit("manifest.json", lambda m: m.update(freq="9" * 99 + "D")), "is not a frequency"),
    "intervals that are not finite": (edit("calibration.json", _widen), "intervals that are not finite"),
    "calendar features of no sense": (
        edit("manifest.json", lambda m: m.update(hist_exog={"a": []}, calendar_features={"b": {}})),
        "where the manifest says",
    ),
}


def test_a_good_bundle_passes_and_each_one_is_tried_apart(models: TrainedModels, tmp_path: Path) -> None:
    good = bundle_folder(models.cache, "sine", 1)
    folders = [good]
    for number, (spoil, _) in enumerate(BAD.values()):
        folders.append(Path(shutil.copytree(good, tmp_path / str(number))))
        spoil(folders[-1])
    # what one has done to its process does not reach the next
    reasons = try_bundles([*folders, bundle_folder(models.cache, "sine", 2)], LIMITS)
    assert (reasons[0], reasons[-1]) == (None, None)
    for reason, (name, (_, said)) in zip(reasons[1:-1], BAD.items(), strict=True):
        assert re.search(said, reason or "passed"), name


def test_a_trial_leaves_nothing_running_and_the_bundle_as_it_was(models: TrainedModels, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundle_folder(models.cache, "sine", 1), tmp_path / "bundle"))
    poison(slow(20_000))(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    # helpers of multiprocessing that earlier tests in this process have started
    running = set(psutil.Process().children(recursive=True))
    (reason,) = try_bundles([folder], LIMITS)
    assert reason is not None
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert set(psutil.Process().children(recursive=True)) <= running


_TRY_UNDER_A_HARD_LIMIT = """
import resource, sys
from pathlib import Path
from forecaster.registry.trial import Limits, try_bundles
most = 2 * 2**30
resource.setrlimit(resource.RLIMIT_AS, (most, most))
print(try_bundles([Path(sys.argv[1])], Limits(seconds=30, memory_mb=100_000)))
"""


def test_a_good_bundle_passes_under_a_lower_hard_limit_of_memory(models: TrainedModels) -> None:
    command = [sys.executable, "-c", _TRY_UNDER_A_HARD_LIMIT, str(bundle_folder(models.cache, "sine", 1))]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    assert answer.stdout.strip() == "[None]"


_WAIT_IN_A_TRIAL = """
import sys, time
from pathlib import Path
from forecaster.registry import trial
# as reading from a disk that does not answer: no processor time is used
trial._try = lambda folder: time.sleep(30)
print(trial._tried(Path(sys.argv[1]), trial.Limits(seconds=0.5)))
"""


def test_a_trial_that_only_waits_is_ended_by_the_clock(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _WAIT_IN_A_TRIAL, str(tmp_path)]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    assert answer.stdout.startswith("its trial took more than 0.5 s")

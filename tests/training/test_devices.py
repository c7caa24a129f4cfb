"""A training on two devices ends with the weights of a training on one."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forecaster.training import devices
from tests.conftest import run_module
from tests.training.fit_on_devices import RECIPES

has_no_jax = pytest.mark.skipif(find_spec("jax") is None, reason="JAX is not installed here (pip install jax)")


def run(folder: Path, backend: str, count: int) -> tuple[dict[str, Any], str]:
    """Fit all recipes on `count` devices; return their losses and the log."""
    folder.mkdir()
    flags = f"--xla_force_host_platform_device_count={count}"
    done = run_module("tests.training.fit_on_devices", count, cwd=folder, KERAS_BACKEND=backend, XLA_FLAGS=flags)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


@pytest.mark.parametrize("backend", ["tensorflow", pytest.param("jax", marks=has_no_jax)])
def test_two_devices_give_the_weights_of_one(tmp_path: Path, backend: str) -> None:
    one, _ = run(tmp_path / "1", backend, 1)
    two, log = run(tmp_path / "2", backend, 2)
    assert "2 of 2 GPUs share each batch of 32 rows" in log
    for name in RECIPES:
        assert one[name] == pytest.approx(two[name], rel=1e-5)
        with np.load(tmp_path / "1" / f"{name}.npz") as weights, np.load(tmp_path / "2" / f"{name}.npz") as others:
            for key in weights.files:
                np.testing.assert_allclose(weights[key], others[key], rtol=0, atol=1e-6, err_msg=name)
    # with rows that are all alike, devices with the same masks would have the same losses
    first, second, both, next_step = two["dropout"]
    assert first + second == pytest.approx(both, rel=1e-5)
    assert abs(first - second) > 1e-3 * both
    assert next_step != pytest.approx(both, rel=1e-4)


def test_each_device_takes_an_equal_share_of_a_batch() -> None:
    assert [devices.count_of(rows, 3) for rows in (1, 32, 33, 35)] == [1, 2, 3, 1]

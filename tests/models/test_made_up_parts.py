"""New parts: a cell, a decoder and a head, each in one file and registered by one entry, train and are served."""

import json
from pathlib import Path

import numpy as np

from tests.conftest import run_module

HORIZON = 4


def test_made_up_cell_decoder_and_head_train_and_are_served(tmp_path: Path) -> None:
    done = run_module("tests.models.made_up", tmp_path, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["parts"] == ["relu_rnn", {"kind": "ends"}, {"kind": "laplace"}]
    assert found["outputs"] == {"mean": [HORIZON], "laplace": [HORIZON, 2]}
    # it has learned
    assert found["relative_mae"] < 0.5
    assert 0.6 < found["coverage"] < 0.95
    mean, golden, bounds = (np.array(found[name]) for name in ("mean", "golden", "bounds"))
    np.testing.assert_allclose(mean, golden, atol=1e-4)
    assert (bounds[..., 0] < mean).all()
    assert (mean < bounds[..., 1]).all()
    # its own distribution makes intervals of different widths
    widths = bounds[..., 1] - bounds[..., 0]
    assert widths[:, 0].std() > 0
    # a mistake in the configuration names the made-up decoder too
    assert "'seq2seq', 'segment_parallel', 'ends'" in found["refusal"]

"""Windows become examples chunk by chunk, in little memory."""

import tracemalloc

import numpy as np

from forecaster.data.preprocessing import Preprocessing
from forecaster.data.transforms import Chain, Standardize
from forecaster.data.windows import cut_windows
from forecaster.domain.series import Series
from forecaster.models.network import ModelConfig
from forecaster.training.examples import Examples


def test_epoch_takes_little_memory_beside_the_data() -> None:
    """All windows at once would take 40 bytes for each of 6 million values."""
    rows = 200_000
    times = np.arange(rows).astype("M8[h]")
    series = Series(("a",), np.random.default_rng(0).normal(size=(rows, 1)), times, np.array([0, rows]), "h")
    windows = cut_windows(series, input_size=30, horizon=5)
    preprocessing = Preprocessing(target=Chain(steps=(Standardize(),), is_causal=False))
    fitted = preprocessing.fit(lambda: [windows.inputs(np.arange(1000))])
    examples = Examples(windows, fitted, ModelConfig())
    count = 0
    tracemalloc.start()
    try:
        for index in examples.chunks(np.arange(len(examples)), 256):
            inputs, _ = examples.take(index)
            count += len(inputs[0])
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == len(examples)
    assert most < 64e6

"""Data sets that papers report on: the benchmarks use the rows, the scale and the measures of their protocols."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks import long_horizon, m4
from forecaster.domain.config import load_config
from forecaster.evaluation.baselines import seasonal_naive
from forecaster.training.config import TrainConfig, prepare


def test_etth1_is_scaled_by_its_train_rows_and_tested_on_the_last_2880(tmp_path: Path) -> None:
    rows = np.arange(17_420)
    hours = pd.date_range("2016-07-01", periods=len(rows), freq="h")
    frame = pd.DataFrame({"date": hours, "HUFL": 5.0 + rows, "OT": 100.0 - 2 * rows})
    frame.to_csv(tmp_path / "ETTh1.csv", index=False)
    config = load_config(long_horizon.CONFIGS / "etth1-96.yaml", TrainConfig, [f"data.path={tmp_path / 'ETTh1.csv'}"])
    parts = long_horizon.cut(config, long_horizon.ETTH1, long_horizon.load(config, long_horizon.ETTH1))
    assert [len(parts[name]) for name in ("train", "validation", "test")] == [2 * 8449, 2 * 2785, 2 * 2785]
    # the row that a standardized value of the first channel comes from
    mean, deviation = 8639 / 2, rows[:8640].std()
    targets = {name: windows.targets()[: len(windows) // 2] * deviation + mean for name, windows in parts.items()}
    for name, (first, last) in {"train": (96, 8639), "validation": (8640, 11519), "test": (11520, 14399)}.items():
        np.testing.assert_allclose([targets[name][0, 0], targets[name][-1, -1]], [first, last], atol=1e-6)
    falling = parts["train"].targets()[len(parts["train"]) // 2 :]
    np.testing.assert_allclose(falling, -parts["train"].targets()[: len(falling)], atol=1e-9)


def _write_m4(folder: Path, lengths: tuple[int, ...]) -> list[np.ndarray]:
    """Write series of these lengths in the competition's format; return their values, with those held back."""
    random = np.random.default_rng(0)
    series = [random.uniform(10, 20, length + m4.HORIZON).round(1) for length in lengths]
    names = [f"H{number}" for number in range(1, len(lengths) + 1)]
    for file, values in (
        ("Hourly-train.csv.gz", [y[: -m4.HORIZON] for y in series]),
        ("Hourly-test.csv", [y[-m4.HORIZON :] for y in series]),
    ):
        frame = pd.DataFrame([list(map(float, y)) for y in values], index=pd.Index(names, name="V1"))
        frame.to_csv(folder / file)
    return series


def test_m4_forecasts_the_hours_held_back_from_those_before(tmp_path: Path) -> None:
    values = _write_m4(tmp_path, (700, 960))
    config = load_config(m4.CONFIGS / "m4-hourly.yaml", TrainConfig, [f"data.path={tmp_path}"])
    series = prepare(config, m4.load(tmp_path))
    parts = m4.cut(config, series)
    np.testing.assert_array_equal(parts["test"].targets(), [y[-48:] for y in values])
    np.testing.assert_array_equal(parts["test"].inputs().target, [y[-48 - config.input_size : -48] for y in values])
    last = {name: windows.targets()[np.cumsum(windows.counts) - 1] for name, windows in parts.items()}
    np.testing.assert_array_equal(last["known"], [y[-96:-48] for y in values])
    np.testing.assert_array_equal(last["validation"], [y[-96:-48] for y in values])
    np.testing.assert_array_equal(last["train"], [y[-192:-144] for y in values])
    assert parts["validation"].counts.tolist() == [3, 3]
    # the definitions of the competition, written out
    forecast = seasonal_naive(parts["test"].inputs().target, 48, 24)
    expected = [(y[-48:], np.tile(y[-72:-48], 2), np.abs(y[24:-48] - y[:-72]).mean()) for y in values]
    found = m4.errors(series, parts["test"], forecast)
    assert found.mase == pytest.approx(np.mean([np.abs(y - f).mean() / scale for y, f, scale in expected]))
    assert found.smape == pytest.approx(np.mean([200 * (np.abs(y - f) / (y + f)).mean() for y, f, _ in expected]))

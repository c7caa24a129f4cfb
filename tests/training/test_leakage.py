"""The leakage audit certifies trainings without a leak, and its certificate says what was audited."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from forecaster.domain.manifest import KERAS_MODEL, Certificate
from forecaster.registry.cache import bundle_folder
from forecaster.training.config import TrainConfig, prepare, split
from forecaster.training.job import train
from forecaster.training.leakage import N_CUTOFFS, certify
from forecaster.training.stages import evaluate
from forecaster.training.warm_start import WarmStart
from tests.conftest import TrainedModels, small_config

ROWS = 700


def write_table(folder: Path) -> Path:
    random = np.random.default_rng(0)
    y = np.sin(np.arange(ROWS) / 4) + random.normal(0, 0.1, ROWS) + 3
    times = pd.date_range("2026-01-01", periods=ROWS, freq="h")
    frame = pd.DataFrame({"ds": times, "y": y, "wind": random.normal(size=ROWS), "sun": random.normal(size=ROWS)})
    frame.to_csv(folder / "a.csv", index=False)
    return folder / "a.csv"


def exogenous_config(folder: Path, **changes: Any) -> TrainConfig:
    settings: dict[str, Any] = {
        "data": {"source": "files", "path": str(write_table(folder))},
        "hist_exog": ["wind"],
        "futr_exog": ["sun"],
        "calendar_features": ["hour_of_day"],
        "fit": {"epochs": 1},
        "model": {"cell": "gru", "widths": [4], "topology": "many_to_many"},
    }
    return small_config(folder, **(settings | changes))


@pytest.mark.parametrize(
    ("topology", "kinds"),
    [
        ("many_to_one", ["standardize"]),
        ("many_to_many", ["log", "last_value", "standardize"]),
        ("many_to_one", ["mean_std"]),
        ("many_to_many", ["mean_std"]),
        ("many_to_many", ["difference"]),
    ],
)
def test_audit_certifies_a_training_without_a_leak(tmp_path: Path, topology: str, kinds: list[str]) -> None:
    model = {"cell": "simple_rnn", "widths": [4], "topology": topology}
    train(exogenous_config(tmp_path, transforms=[{"kind": kind} for kind in kinds], model=model, refit=False))


@pytest.mark.parametrize(
    ("transforms", "skip"),
    [
        ([{"kind": "mean_std"}], "none"),
        ([{"kind": "last_season", "season": 12}, {"kind": "standardize"}], "ridge"),
    ],
)
def test_audit_certifies_a_recipe_without_a_network(tmp_path: Path, transforms: list[Any], skip: str) -> None:
    model = {"cell": "simple_rnn", "widths": [1], "skip": skip}
    train(exogenous_config(tmp_path, transforms=transforms, model=model, fit={"epochs": 0}))


@pytest.mark.parametrize(
    ("data", "by"),
    [
        ({"source": "sine", "length": 300, "n_series": 6}, "time"),
        ({"source": "sine", "length": 300, "n_series": 6}, "series"),
        ({"source": "sine", "length": 800, "n_series": 1, "start": "2026-03-20T00:00:00"}, "time"),
        ({"source": "random_walk", "length": 500}, "time"),
        # constant except for noise
        ({"source": "sine", "length": 400, "sines": [], "noise": 0.001, "level": -7.0}, "time"),
    ],
)
def test_audit_certifies_many_kinds_of_data(tmp_path: Path, data: dict[str, Any], by: str) -> None:
    shares = {"by": by, "train": 0.4, "validation": 0.2, "calibration": 0.2, "test": 0.2}
    config = small_config(tmp_path, data=data, split=shares, fit={"epochs": 1}, input_size=12)
    frame = config.data.load()
    evaluated = evaluate(config, split(config, prepare(config, frame)), tmp_path)
    certificate = certify(config, frame, evaluated, evaluated.trained)
    assert len(certificate.cutoffs) == N_CUTOFFS
    assert list(certificate.digests) == ["validation", "calibration", "test"]
    assert len(set(certificate.digests.values())) == 3


def test_manifest_contains_the_certificate(models: TrainedModels) -> None:
    manifest = models.predictor(2).manifest
    certificate = manifest.certificate
    assert certificate is not None
    assert len(certificate.cutoffs) == N_CUTOFFS
    # 800 rows, windows of 24 + 4 rows
    assert certificate.windows == 773
    assert certificate.rehearsed == {"train": 64, "validation": 32, "calibration": 32, "test": 32}
    assert certificate.warm_started_from is None


def test_certificate_names_the_version_of_a_warm_start(models: TrainedModels, tmp_path: Path) -> None:
    warm = WarmStart(bundle_folder(models.cache, "sine", 1) / KERAS_MODEL, version=1, epochs=1)
    registered = train(small_config(tmp_path, fit={"epochs": 1}), warm)
    manifest = tmp_path / "artifacts" / registered.run_id / "artifacts" / "model" / "manifest.json"
    assert json.loads(manifest.read_text())["certificate"]["warm_started_from"] == 1


def test_certificate_of_an_earlier_release_has_no_rehearsal() -> None:
    certificate = Certificate.model_validate({"digests": {"test": "00"}, "cutoffs": ["2026-01-01"]})
    assert (certificate.windows, certificate.rehearsed) == (0, {})

"""Answers obey what a version chose for its intervals, and say on how little they rest."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from forecaster.inference.forecasting import answer, warnings_of
from forecaster.registry.bands import bands
from forecaster.registry.predictor import Predictor
from tests.conftest import TrainedModels


def predictor(models: TrainedModels, **changes: Any) -> Predictor:
    found = models.predictor(1)
    found.bundle = replace(found.bundle, calibration=replace(found.bundle.calibration, **changes))
    return found


@pytest.mark.parametrize("is_adaptive", [True, False])
def test_scores_move_the_intervals_of_adaptive_versions_alone(models: TrainedModels, is_adaptive: bool) -> None:
    found = predictor(models, is_adaptive=is_adaptive)
    values = np.sin(np.arange(24) / 2)[None, :, None]
    known = found.known_ahead(np.arange(24).astype("M8[h]")[None])
    learnt = np.full((4, 2), 0.01)
    static, moved = (
        answer(found, values, known, 4, bands(level=(80.0,)), [one], is_baseline=False) for one in (None, learnt)
    )
    assert moved.is_adapted == [is_adaptive]
    assert np.array_equal(static.spread, moved.spread) is not is_adaptive
    np.testing.assert_array_equal(static.mean, moved.mean)


def test_an_answer_warns_where_its_intervals_rest_on_few_independent_windows(models: TrainedModels) -> None:
    def said(**changes: Any) -> str:
        return "\n".join(warnings_of(predictor(models, **changes), 4, is_baseline=False, has_bands=True))

    assert "worth 16 independent ones: an 80 % interval's coverage is known to ± 20 points" in said(n_effective=16.0)
    assert "independent" not in said(n_effective=200.0)

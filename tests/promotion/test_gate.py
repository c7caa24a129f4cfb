"""The gate: every unmet criterion keeps a version out, and its reason gives the figures."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from forecaster.domain.manifest import MIN_EFFECTIVE_WINDOWS, Certificate
from forecaster.evaluation.significance import Ratio, compare_losses
from forecaster.promotion.gate import ChampionComparison, Evidence, GateConfig, decide

# another recipe, significantly better by 17 %
COMPARISON = ChampionComparison(1, Ratio(0.83, 0.02, 30), 200, True, False, {})
GOOD = Evidence(
    metrics={
        "mae": 0.5,
        "relative_mae": 0.4,
        "naive-mae": 1.25,
        "coverage-80": 0.81,
        "coverage-80-error": 0.005,
        "coverage-95": 0.94,
        "coverage-95-error": 0.005,
    },
    levels=(80, 95),
    certificate=Certificate(digests={"validation": "0"}, cutoffs=("2026-01-01",)),
    latency_seconds=0.001,
    baseline_ratio=Ratio(0.4, 0.02, 32),
    champion_comparison=COMPARISON,
)


def changed(**figures: float | None) -> Evidence:
    metrics = {name: value for name, value in (GOOD.metrics | figures).items() if value is not None}
    return replace(GOOD, metrics=metrics)


def baseline(value: float, error: float, n_blocks: int = 32, **more: Any) -> Evidence:
    return replace(GOOD, baseline_ratio=Ratio(value, error, n_blocks), **more)


def versus_champion(value: float, error: float, n_blocks: int = 30, **more: Any) -> Evidence:
    return replace(GOOD, champion_comparison=replace(COMPARISON, ratio=Ratio(value, error, n_blocks), **more))


def reason_of(evidence: Evidence, name: str, gate: GateConfig | None = None) -> str:
    criteria = decide(evidence, gate or GateConfig()).criteria
    (reason,) = [criterion.reason for criterion in criteria if criterion.name == name]
    return reason


def test_version_that_meets_every_criterion_is_promoted() -> None:
    decision = decide(GOOD, GateConfig())
    assert (decision.is_promoted, decision.outcome) == (True, "promoted")
    assert [criterion.name for criterion in decision.criteria] == [
        "certified", "baseline", "champion", "coverage-80", "coverage-95", "latency",
    ]  # fmt: skip
    first = decide(replace(GOOD, champion_comparison=None), GateConfig())
    assert first.is_promoted
    assert first.criteria[2].reason.startswith("first: ")


@pytest.mark.parametrize(
    ("evidence", "unmet", "message"),
    [
        (replace(GOOD, certificate=None), "certified", "no leakage certificate"),
        (baseline(1.03, 0.001), "baseline", "relative_mae 1.03, at most 1.032 with 0.95 confidence, 1.02 allowed"),
        # as good as measured, but non-inferiority is not significant
        (baseline(1.0, 0.02), "baseline", "at most 1.034 with 0.95 confidence"),
        # the bound for the best of three tries is higher
        (baseline(1.0, 0.011, best_of=3), "baseline", "at most 1.024 with 0.983 confidence"),
        (baseline(1.01, 0.01, tries=3), "baseline", "for the best of 3 tries"),
        (replace(GOOD, baseline_ratio=None), "baseline", "too few windows for a test; raise backtest.n_windows"),
        (replace(changed(**{"naive-mae": 0}), baseline_ratio=None), "baseline", "the last value has no error here"),
        (versus_champion(1.02, 0.005), "champion", "1.02 of the champion's MAE"),
        # significantly better, but by too little; much better, but not significantly
        (versus_champion(0.995, 0.001), "champion", "better needs at most 0.99 and p below 0.05"),
        (versus_champion(0.9, 0.06), "champion", "p 0.11"),
        (replace(versus_champion(0.95, 0.02), tries=4), "champion", "p 0.073 for the best of 4 tries"),
        (changed(**{"coverage-80": 0.77}), "coverage-80", "77.0% covered, 78.0 to 82.0 % allowed"),
        (changed(**{"coverage-80": 0.83}), "coverage-80", "83.0% covered"),
        (changed(**{"coverage-95": None}), "coverage-95", "too few calibration windows"),
        (replace(GOOD, latency_seconds=0.06), "latency", "60 ms, 50 ms allowed"),
    ],
)
def test_single_unmet_criterion_prevents_promotion(evidence: Evidence, unmet: str, message: str) -> None:
    decision = decide(evidence, GateConfig())
    assert decision.outcome == "kept"
    (only,) = [criterion for criterion in decision.criteria if not criterion.is_met]
    assert only.name == unmet
    assert message in only.reason


@pytest.mark.parametrize(
    ("evidence", "message"),
    [
        # worse than the last value, but significantly by less than the margin
        (baseline(1.005, 0.003), ": no skill shown"),
        (versus_champion(0.95, 0.015), "better: 0.95 of the champion's MAE"),
        # as good as the champion, and trained on later rows
        (versus_champion(1.0, 0.005, is_fresher=True), "fresher: 1 of the champion's MAE"),
        # few windows: two standard errors are more than the tolerance
        (changed(**{"coverage-80": 0.75, "coverage-80-error": 0.03}), "75.0% covered"),
        # outside the tolerance, but the champion's coverage is worse on the same rows
        (
            replace(
                changed(**{"coverage-80": 0.7}), champion_comparison=replace(COMPARISON, coverage={80: (0.75, 0.55)})
            ),
            "on the champion's rows 75.0%, and 55.0% by the champion",
        ),
    ],
)  # fmt: skip
def test_version_passes_within_the_tolerances(evidence: Evidence, message: str) -> None:
    decision = decide(evidence, GateConfig())
    assert decision.is_promoted, decision
    assert any(message in criterion.reason for criterion in decision.criteria)


@pytest.mark.parametrize(
    ("ratio", "outcome"),
    [
        (None, "shadow"),
        # neither non-inferiority nor inferiority is significant
        (Ratio(1.01, 0.02, 30), "shadow"),
        (Ratio(1.06, 0.02, 30), "kept"),
        (Ratio(0.99, 0.01, 30), "promoted"),
    ],
)
def test_fresher_version_forecasts_in_the_shadow_while_the_test_is_undecided(ratio: Ratio | None, outcome: str) -> None:
    evidence = replace(GOOD, champion_comparison=replace(COMPARISON, ratio=ratio, is_fresher=True))
    assert decide(evidence, GateConfig()).outcome == outcome
    # shadow forecasts cannot decide the other criteria
    assert decide(replace(evidence, certificate=None), GateConfig()).outcome == "kept"
    if outcome == "shadow":
        assert "forecasts in the shadow" in reason_of(evidence, "champion")
        # another recipe must be better
        other = replace(evidence, champion_comparison=replace(COMPARISON, ratio=ratio))
        assert decide(other, GateConfig()).outcome == "kept"


def test_non_inferiority_is_not_enough_if_skill_is_required() -> None:
    gate = GateConfig(require="skill")
    assert decide(GOOD, gate).is_promoted
    by_chance = baseline(0.99, 0.01)
    assert decide(by_chance, GateConfig()).is_promoted
    assert decide(by_chance, gate).outcome == "kept"
    assert "p 0.16: no skill shown; p below 0.05 needed" in reason_of(by_chance, "baseline", gate)
    # with three tries, a difference by chance is three times as likely
    assert decide(baseline(0.98, 0.01), gate).is_promoted
    assert decide(baseline(0.98, 0.01, tries=3), gate).outcome == "kept"
    few = baseline(0.4, 0.02, MIN_EFFECTIVE_WINDOWS - 1)
    assert decide(few, gate).outcome == "kept"
    assert "with only 29 windows that do not overlap, 30 are needed" in reason_of(few, "baseline", gate)


def test_reason_mentions_missing_skill_of_a_version_that_passes() -> None:
    assert "no skill shown" not in reason_of(GOOD, "baseline")
    assert "no skill shown" in reason_of(baseline(1.0, 0.005), "baseline")


def test_stricter_settings_prevent_promotion() -> None:
    settings: dict[str, Any] = {"margin": -0.1}
    with pytest.raises(ValueError, match="margin"):
        GateConfig(**settings)
    assert decide(GOOD, GateConfig(latency_seconds=0.0005)).outcome == "kept"
    # the coverage is off by 0.01, more than two standard errors
    precise = changed(**{"coverage-80-error": 0.004})
    assert decide(precise, GateConfig()).is_promoted
    assert decide(precise, GateConfig(coverage_tolerance=0)).outcome == "kept"
    assert decide(GOOD, GateConfig(better_by=0.2)).outcome == "kept"
    assert decide(baseline(1.005, 0.003), GateConfig(margin=0)).outcome == "kept"


def test_ratio_of_proportional_losses_is_exact() -> None:
    losses = np.random.default_rng(0).uniform(1, 2, 60)
    same = compare_losses(losses, losses, 5)
    assert same is not None
    assert (same.value, same.p_below(), same.upper(0.05)) == (1, 0.5, 1)
    half = compare_losses(losses / 2, losses, 5)
    assert half is not None
    assert (round(half.value, 12), half.p_below(), half.n_blocks) == (0.5, 0, 12)
    # equal except for rounding
    near = compare_losses(losses * (1 - 2e-16), losses, 5)
    assert near is not None
    assert near.p_below() == 0.5
    assert compare_losses(losses[:14], losses[:14], 5) is None
    assert compare_losses(losses, losses * 0, 5) is None


def test_confidence_bound_of_a_ratio_has_its_nominal_coverage() -> None:
    random = np.random.default_rng(0)
    overlap, n_trials = 5, 400
    covered = 0
    for _ in range(n_trials):
        # moving averages: neighbouring losses share steps, like overlapping horizons
        ours, theirs = (
            np.convolve(np.abs(random.normal(0, scale, 100 + overlap - 1)), np.full(overlap, 1 / overlap), "valid")
            for scale in (0.9, 1.0)
        )
        ratio = compare_losses(ours, theirs, overlap)
        assert ratio is not None
        covered += ratio.upper(0.05) >= 0.9
    assert 0.92 <= covered / n_trials <= 0.98

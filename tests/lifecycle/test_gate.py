"""The gate: each criterion alone keeps a version out, and says with which figures."""

from dataclasses import replace
from typing import Any

import pytest

from forecaster.domain.manifest import Certificate
from forecaster.evaluation.significance import Comparison
from forecaster.lifecycle.gate import Evidence, GateConfig, decide

GOOD = Evidence(
    metrics={
        "mae": 0.5,
        "relative_mae": 0.4,
        "naive-p_value": 0.001,
        "coverage-80": 0.81,
        "coverage-80-error": 0.005,
        "coverage-95": 0.94,
        "coverage-95-error": 0.005,
    },
    levels=(80, 95),
    certificate=Certificate(digests={"validation": "0"}, cutoffs=("2026-01-01",)),
    latency_seconds=0.001,
    beside_champion=Comparison(-3.0, 0.001, -0.1, 100),
    champion_mae=0.6,
)


def changed(**figures: float | None) -> Evidence:
    metrics = {name: value for name, value in (GOOD.metrics | figures).items() if value is not None}
    return replace(GOOD, metrics=metrics)


def test_a_version_that_shows_everything_is_let_through() -> None:
    decision = decide(GOOD, GateConfig())
    assert decision.is_promoted
    assert [one.name for one in decision.criteria] == [
        "certified", "baseline", "champion", "coverage-80", "coverage-95", "latency",
    ]  # fmt: skip
    assert decide(replace(GOOD, beside_champion=None, champion_mae=None), GateConfig()).is_promoted


@pytest.mark.parametrize(
    ("evidence", "unmet", "said"),
    [
        (replace(GOOD, certificate=None), "certified", "no leakage certificate"),
        (changed(relative_mae=1.03), "baseline", "relative_mae 1.03, at most 1.02"),
        (changed(relative_mae=None), "baseline", "the last value has no error here"),
        (changed(mae=0.61), "champion", "MAE 0.61, the champion's 0.6"),
        # better, but by less than the margin, and maybe by chance
        (
            replace(changed(mae=0.597), beside_champion=Comparison(-0.5, 0.3, -0.003, 100)),
            "champion",
            "+0.5% better, p 0.3",
        ),
        (changed(**{"coverage-80": 0.77}), "coverage-80", "77.0% covered, 78.0 to 82.0 % allowed"),
        (changed(**{"coverage-80": 0.83}), "coverage-80", "83.0% covered"),
        (changed(**{"coverage-95": None}), "coverage-95", "too few calibration windows"),
        (replace(GOOD, latency_seconds=0.06), "latency", "60 ms, at most 50"),
    ],
)
def test_each_criterion_alone_keeps_a_version_out(evidence: Evidence, unmet: str, said: str) -> None:
    decision = decide(evidence, GateConfig())
    assert not decision.is_promoted
    (criterion,) = [one for one in decision.criteria if not one.is_met]
    assert criterion.name == unmet
    assert said in criterion.reason


@pytest.mark.parametrize(
    "evidence",
    [
        # worse than the baseline, within the margin; the reason says that no skill is shown
        changed(relative_mae=1.01, **{"naive-p_value": 0.6}),
        # by a margin, though maybe by chance; by little, though surely
        replace(changed(mae=0.59), beside_champion=Comparison(-1, 0.3, -0.01, 100)),
        replace(changed(mae=0.599), beside_champion=Comparison(-9, 0.0, -0.001, 100)),
        # few windows: two standard errors are more than the tolerance
        changed(**{"coverage-80": 0.75, "coverage-80-error": 0.03}),
    ],
)
def test_what_the_gate_allows(evidence: Evidence) -> None:
    assert decide(evidence, GateConfig()).is_promoted


def test_no_skill_is_said_even_where_it_is_let_through() -> None:
    decision = decide(changed(relative_mae=1.01, **{"naive-p_value": 0.6}), GateConfig())
    assert "p 0.6: no skill shown" in decision.criteria[1].reason


def test_of_several_tries_one_is_better_by_chance_more_easily() -> None:
    evidence = changed(relative_mae=0.99, **{"naive-p_value": 0.03})
    assert "p 0.03" in decide(evidence, GateConfig()).criteria[1].reason
    assert "no skill" not in decide(evidence, GateConfig()).criteria[1].reason
    several = decide(replace(evidence, tries=3), GateConfig()).criteria[1].reason
    assert "p 0.09 for the best of 3 tries: no skill shown" in several


def test_how_strict_it_is_can_be_set() -> None:
    settings: dict[str, Any] = {"margin": -0.1}
    with pytest.raises(ValueError, match="margin"):
        GateConfig(**settings)
    assert not decide(GOOD, GateConfig(latency_seconds=0.0005)).is_promoted
    assert not decide(GOOD, GateConfig(coverage_tolerance=0)).is_promoted or GOOD.metrics["coverage-80-error"] > 0.004

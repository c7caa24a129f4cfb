"""The promotion gate: the criteria that a version must meet to become champion. It decides from metrics alone."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from forecaster.domain.config import Config
from forecaster.domain.manifest import MIN_EFFECTIVE_WINDOWS, Certificate
from forecaster.evaluation.significance import Ratio

PROMOTED, SHADOW, KEPT = "promoted", "shadow", "kept"


class GateConfig(Config):
    """The thresholds of the gate.

    Args:
        require: `not_worse` is a non-inferiority test against the last-value baseline with `margin`; `skill` requires a
            significantly lower error.
        margin: the non-inferiority margin, as a share of the baseline's MAE, or of the champion's for a fresher one.
        better_by: the smallest improvement on the champion's MAE, as a share; it must also be significant.
        significance: the significance level of all tests; confidence bounds use `1 - significance`.
        refits: how often the challenger's recipe is refitted within the rows that the champion has not seen.
        coverage_tolerance: the largest difference between a coverage and its level; two standard errors if larger.
        latency_seconds: the longest median time to forecast one series.
    """

    require: Literal["not_worse", "skill"] = "not_worse"
    margin: float = Field(0.02, ge=0)
    better_by: float = Field(0.01, ge=0)
    significance: float = Field(0.05, gt=0, lt=1)
    refits: int = Field(4, ge=1, le=1000)
    coverage_tolerance: float = Field(0.02, ge=0, lt=1)
    latency_seconds: float = Field(0.05, gt=0)


@dataclass(frozen=True)
class ChampionComparison:
    """A comparison of a challenger's losses with the champion's on the same windows.

    Args:
        version: the champion's version.
        ratio: the challenger's MAE over the champion's; None if there are too few windows for a test.
        n_windows: the number of windows.
        is_as_served: True if the champion's own weights made its forecasts, on rows after its training; False if both
            recipes were fitted on the rows before the windows.
        is_fresher: whether the recipes are the same and the challenger was trained on later rows.
        coverage: by level, the coverage of the challenger's and of the champion's intervals.
    """

    version: int
    ratio: Ratio | None
    n_windows: int
    is_as_served: bool
    is_fresher: bool
    coverage: dict[int, tuple[float, float]]


@dataclass(frozen=True)
class Evidence:
    """The evidence by which the gate judges a challenger.

    Args:
        metrics: the metrics of its backtest, named as by `report.score`.
        levels: the levels of the backtest's intervals.
        certificate: its leakage certificate; None if it has none.
        latency_seconds: the median time to forecast one series.
        baseline_ratio: its MAE over the last-value baseline's; None if there are too few windows for a test.
        champion_comparison: the comparison with the champion; None if there is no other champion.
        tries: the number of versions tried on these rows; p-values are multiplied by it (Bonferroni).
        best_of: the number of versions that this is the best of; confidence bounds are corrected for it.
    """

    metrics: dict[str, float]
    levels: tuple[int, ...]
    certificate: Certificate | None
    latency_seconds: float
    baseline_ratio: Ratio | None
    champion_comparison: ChampionComparison | None
    tries: int = 1
    best_of: int = 1


@dataclass(frozen=True)
class Criterion:
    """A criterion, whether it is met and why; `is_open` if shadow forecasts may still decide it."""

    name: str
    is_met: bool
    reason: str
    is_open: bool = False


@dataclass(frozen=True)
class Decision:
    """The gate's decision on a version."""

    criteria: tuple[Criterion, ...]

    @property
    def outcome(self) -> str:
        """Return `promoted` if all criteria are met, `shadow` if all unmet criteria are open, and `kept` otherwise."""
        unmet = [criterion for criterion in self.criteria if not criterion.is_met]
        return PROMOTED if not unmet else SHADOW if all(criterion.is_open for criterion in unmet) else KEPT

    @property
    def is_promoted(self) -> bool:
        """Return whether all criteria are met."""
        return self.outcome == PROMOTED


def decide(evidence: Evidence, gate: GateConfig) -> Decision:
    """Return the decision on a challenger."""
    return Decision(
        (
            _check_certificate(evidence),
            _check_baseline(evidence, gate),
            _check_champion(evidence, gate),
            *_check_coverage(evidence, gate),
            _check_latency(evidence, gate),
        )
    )


def compare_with_champion(comparison: ChampionComparison, gate: GateConfig, tries: int) -> Criterion:
    """Return the criterion `champion`, which is met if the challenger is `better`, or `fresher` and not worse.

    The test for `better` is two-sided, because before the test either version may be the better one.
    """
    ratio = comparison.ratio
    windows = f"{comparison.n_windows} windows " + (
        f"since version {comparison.version} was trained" if comparison.is_as_served else "that both recipes forecast"
    )
    if ratio is None:
        reason = f"too few windows for a test: {windows}"
        return Criterion("champion", False, reason + _note_shadow(comparison), is_open=comparison.is_fresher)
    p_value = min(1.0, 2 * tries * ratio.p_below())
    measured = f"{ratio.value:.3g} of the champion's MAE, p {p_value:.2g}{_note_tries(tries)}, on {windows}"
    if p_value < gate.significance and ratio.value <= 1 - gate.better_by:
        return Criterion("champion", True, f"better: {measured}")
    reason = f"{measured}; better needs at most {1 - gate.better_by:g} and p below {gate.significance:g}"
    if not comparison.is_fresher:
        return Criterion("champion", False, reason)
    bound, confidence = ratio.upper(gate.significance), f"{1 - gate.significance:.3g} confidence"
    if bound <= 1 + gate.margin:
        return Criterion("champion", True, f"fresher: {measured}, at most {bound:.3g} with {confidence}")
    reason += f"; fresher needs at most {1 + gate.margin:g}, but it is at most {bound:.3g} with {confidence}"
    is_open = ratio.p_above() >= gate.significance
    return Criterion("champion", False, reason + (_note_shadow(comparison) if is_open else ""), is_open)


def _check_certificate(evidence: Evidence) -> Criterion:
    certificate = evidence.certificate
    if certificate is None:
        return Criterion("certified", False, "it has no leakage certificate; train it again")
    if not certificate.rehearsed:
        n_cutoffs = len(certificate.cutoffs)
        reason = f"audited at {n_cutoffs} cutoffs by an earlier release, which did not run the recipe again"
        return Criterion("certified", True, reason)
    rehearsed = sum(certificate.rehearsed.values())
    reason = f"audited for leakage on {certificate.windows} windows, with the recipe run again on {rehearsed}"
    return Criterion("certified", True, reason)


def _check_baseline(evidence: Evidence, gate: GateConfig) -> Criterion:
    ratio, tries, level = evidence.baseline_ratio, evidence.tries, gate.significance / evidence.best_of
    if ratio is None:
        has_error = evidence.metrics.get("naive-mae", 0) > 0
        few = "too few windows for a test; raise backtest.n_windows"
        return Criterion("baseline", False, few if has_error else "the last value has no error here")
    p_value, bound = min(1.0, tries * ratio.p_below()), ratio.upper(level)
    has_enough = ratio.n_blocks >= MIN_EFFECTIVE_WINDOWS
    has_skill = p_value < gate.significance and has_enough
    skill = f"p {p_value:.2g}{_note_tries(tries)}" + ("" if has_skill else ": no skill shown")
    if not has_enough:
        skill += f" with only {ratio.n_blocks} windows that do not overlap, {MIN_EFFECTIVE_WINDOWS} are needed"
    if gate.require == "skill":
        reason = f"relative_mae {ratio.value:.4g}, {skill}; p below {gate.significance:g} needed"
        return Criterion("baseline", has_skill, reason)
    bounded = f"at most {bound:.4g} with {1 - level:.3g} confidence, {1 + gate.margin:g} allowed"
    return Criterion("baseline", bound <= 1 + gate.margin, f"relative_mae {ratio.value:.4g}, {bounded}; {skill}")


def _check_champion(evidence: Evidence, gate: GateConfig) -> Criterion:
    if evidence.champion_comparison is None:
        return Criterion("champion", True, "first: there is no other champion yet")
    return compare_with_champion(evidence.champion_comparison, gate, evidence.tries)


def _check_coverage(evidence: Evidence, gate: GateConfig) -> Iterator[Criterion]:
    comparison = evidence.champion_comparison
    for level in evidence.levels:
        covered = evidence.metrics.get(f"coverage-{level}")
        if covered is None:
            yield Criterion(f"coverage-{level}", False, "too few calibration windows for this interval")
            continue
        allowed = max(gate.coverage_tolerance, 2 * evidence.metrics[f"coverage-{level}-error"])
        is_met = abs(covered - level / 100) <= allowed
        reason = f"{covered:.1%} covered, {level - 100 * allowed:.1f} to {level + 100 * allowed:.1f} % allowed"
        if not is_met and comparison is not None and comparison.is_as_served and level in comparison.coverage:
            # after a change of regime the champion's coverage may be off by even more
            ours, theirs = comparison.coverage[level]
            is_met = abs(ours - level / 100) <= abs(theirs - level / 100)
            reason += f"; on the champion's rows {ours:.1%}, and {theirs:.1%} by the champion"
        yield Criterion(f"coverage-{level}", is_met, reason)


def _check_latency(evidence: Evidence, gate: GateConfig) -> Criterion:
    reason = f"{1000 * evidence.latency_seconds:.2g} ms, {1000 * gate.latency_seconds:g} ms allowed"
    return Criterion("latency", evidence.latency_seconds <= gate.latency_seconds, reason)


def _note_tries(tries: int) -> str:
    return f" for the best of {tries} tries" if tries > 1 else ""


def _note_shadow(comparison: ChampionComparison) -> str:
    return "; it forecasts in the shadow until actuals decide" if comparison.is_fresher else ""

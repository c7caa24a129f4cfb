"""The gate: the criteria that a version must meet to become champion. Pure decisions over figures."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from forecaster.domain.config import Config
from forecaster.domain.manifest import MIN_EFFECTIVE_WINDOWS, Certificate
from forecaster.evaluation.significance import Ratio

PROMOTED, SHADOW, KEPT = "promoted", "shadow", "kept"


class GateConfig(Config):
    """How strict the gate is.

    Args:
        require: `not_worse`: the version is not worse than the last value by more than `margin`; `skill`: it is better.
            Both are tests, not comparisons of two numbers.
        margin: the part of the last value's MAE, or of the champion's for a fresher version, that counts as no worse.
        better_by: the least improvement on the champion's MAE, of which a version of another recipe must also be sure.
        significance: of all tests; a bound holds with the probability that remains.
        refits: how often a challenger's recipe is fitted anew within the rows that the champion has not seen.
        coverage_tolerance: how far a coverage may be from its level; two standard errors where that is more.
        latency_seconds: the longest median time of one forecast of one series.
    """

    require: Literal["not_worse", "skill"] = "not_worse"
    margin: float = Field(0.02, ge=0)
    better_by: float = Field(0.01, ge=0)
    significance: float = Field(0.05, gt=0, lt=1)
    refits: int = Field(4, ge=1, le=1000)
    coverage_tolerance: float = Field(0.02, ge=0, lt=1)
    latency_seconds: float = Field(0.05, gt=0)


@dataclass(frozen=True)
class BesideChampion:
    """A challenger's losses beside the champion's on the same windows.

    Args:
        version: the champion's.
        ratio: of the challenger's MAE to the champion's; None where there are too few windows to tell.
        n_windows: how many windows that is measured on.
        is_as_served: whether the champion's own weights made its forecasts, on rows later than its training; if not,
            both recipes were fitted on the rows before the windows.
        is_fresher: whether the recipes are the same and the challenger has seen later rows.
        coverage: by level, the share that the challenger's and the champion's intervals covered.
    """

    version: int
    ratio: Ratio | None
    n_windows: int
    is_as_served: bool
    is_fresher: bool
    coverage: dict[int, tuple[float, float]]


@dataclass(frozen=True)
class Evidence:
    """The figures of a challenger.

    Args:
        metrics: of its backtest, as `report.score` names them.
        levels: of the intervals that were asked for.
        certificate: of its training.
        latency_seconds: the median of one forecast of one series.
        beside_baseline: its MAE over the last value's; None where there are too few windows to tell.
        beside_champion: its losses beside the champion's; None where there is no other champion.
        tries: how many versions were tried on these rows; p-values are multiplied by it (Bonferroni).
        best_of: how many of them at once; bounds are those of the best of so many.
    """

    metrics: dict[str, float]
    levels: tuple[int, ...]
    certificate: Certificate | None
    latency_seconds: float
    beside_baseline: Ratio | None
    beside_champion: BesideChampion | None
    tries: int = 1
    best_of: int = 1


@dataclass(frozen=True)
class Criterion:
    """A criterion, whether it is met, and the figures; `is_open` where forecasts in the shadow may still decide it."""

    name: str
    is_met: bool
    reason: str
    is_open: bool = False


@dataclass(frozen=True)
class Decision:
    """All criteria of a version."""

    criteria: tuple[Criterion, ...]

    @property
    def outcome(self) -> str:
        """Return `promoted` if each criterion is met, `shadow` if those that are not are open, and `kept` otherwise."""
        unmet = [criterion for criterion in self.criteria if not criterion.is_met]
        return PROMOTED if not unmet else SHADOW if all(criterion.is_open for criterion in unmet) else KEPT

    @property
    def is_promoted(self) -> bool:
        """Say whether every criterion is met."""
        return self.outcome == PROMOTED


def decide(evidence: Evidence, gate: GateConfig) -> Decision:
    """Return the decision on a challenger."""
    return Decision(
        (
            _is_certified(evidence),
            _beside_baseline(evidence, gate),
            _beside_champion(evidence, gate),
            *_is_calibrated(evidence, gate),
            _is_fast(evidence, gate),
        )
    )


def replaces(beside: BesideChampion, gate: GateConfig, tries: int) -> Criterion:
    """Return whether a challenger replaces the champion: it is `better`, or it is `fresher` and not worse.

    A difference is tested two-sided: before the test, either may be the better.
    """
    ratio = beside.ratio
    where = f"{beside.n_windows} windows " + (
        f"since version {beside.version} was trained" if beside.is_as_served else "that both recipes forecast"
    )
    if ratio is None:
        few = f"too few windows to tell: {where}"
        return Criterion("champion", False, few + _waits(beside), is_open=beside.is_fresher)
    chance = min(1.0, 2 * tries * ratio.p_below())
    found = f"{ratio.value:.3g} of the champion's MAE, p {chance:.2g}{_of_tries(tries)}, on {where}"
    if chance < gate.significance and ratio.value <= 1 - gate.better_by:
        return Criterion("champion", True, f"better: {found}")
    reason = f"{found}; better needs at most {1 - gate.better_by:g} and p below {gate.significance:g}"
    if not beside.is_fresher:
        return Criterion("champion", False, reason)
    bound, sure = ratio.upper(gate.significance), f"{1 - gate.significance:.3g} confidence"
    if bound <= 1 + gate.margin:
        return Criterion("champion", True, f"fresher: {found}, at most {bound:.3g} with {sure}")
    reason += f"; fresher needs at most {1 + gate.margin:g}, it is at most {bound:.3g} with {sure}"
    is_open = ratio.p_above() >= gate.significance
    return Criterion("champion", False, reason + (_waits(beside) if is_open else ""), is_open)


def _is_certified(evidence: Evidence) -> Criterion:
    found = evidence.certificate
    if found is None:
        return Criterion("certified", False, "it has no leakage certificate; train it again")
    if not found.rehearsed:
        reason = f"audited at {len(found.cutoffs)} cutoffs by an earlier release, which did not run the recipe again"
        return Criterion("certified", True, reason)
    asked, rehearsed = found.windows, sum(found.rehearsed.values())
    return Criterion(
        "certified", True, f"audited for leakage: {asked} windows asked, the recipe run again on {rehearsed}"
    )


def _beside_baseline(evidence: Evidence, gate: GateConfig) -> Criterion:
    ratio, tries, level = evidence.beside_baseline, evidence.tries, gate.significance / evidence.best_of
    if ratio is None:
        has_error = evidence.metrics.get("naive-mae", 0) > 0
        few = "too few windows to tell; raise backtest.n_windows" if has_error else "the last value has no error here"
        return Criterion("baseline", False, few)
    chance, bound = min(1.0, tries * ratio.p_below()), ratio.upper(level)
    is_enough = ratio.n_blocks >= MIN_EFFECTIVE_WINDOWS
    has_skill = chance < gate.significance and is_enough
    skill = f"p {chance:.2g}{_of_tries(tries)}" + ("" if has_skill else ": no skill shown")
    if not is_enough:
        skill += f", for want of windows: {ratio.n_blocks} that do not overlap, {MIN_EFFECTIVE_WINDOWS} are needed"
    if gate.require == "skill":
        reason = f"relative_mae {ratio.value:.4g}, {skill}; p below {gate.significance:g} needed"
        return Criterion("baseline", has_skill, reason)
    bounded = f"at most {bound:.4g} with {1 - level:.3g} confidence, {1 + gate.margin:g} allowed"
    return Criterion("baseline", bound <= 1 + gate.margin, f"relative_mae {ratio.value:.4g}, {bounded}; {skill}")


def _beside_champion(evidence: Evidence, gate: GateConfig) -> Criterion:
    if evidence.beside_champion is None:
        return Criterion("champion", True, "first: there is no other champion yet")
    return replaces(evidence.beside_champion, gate, evidence.tries)


def _is_calibrated(evidence: Evidence, gate: GateConfig) -> Iterator[Criterion]:
    beside = evidence.beside_champion
    for level in evidence.levels:
        covered = evidence.metrics.get(f"coverage-{level}")
        if covered is None:
            yield Criterion(f"coverage-{level}", False, "too few calibration windows to know this interval")
            continue
        allowed = max(gate.coverage_tolerance, 2 * evidence.metrics[f"coverage-{level}-error"])
        is_met = abs(covered - level / 100) <= allowed
        reason = f"{covered:.1%} covered, {level - 100 * allowed:.1f} to {level + 100 * allowed:.1f} % allowed"
        if not is_met and beside is not None and beside.is_as_served and level in beside.coverage:
            # where the world has changed, the champion that would stay is no better
            ours, theirs = beside.coverage[level]
            is_met = abs(ours - level / 100) <= abs(theirs - level / 100)
            reason += f"; {ours:.1%} where the champion's covered {theirs:.1%}"
        yield Criterion(f"coverage-{level}", is_met, reason)


def _is_fast(evidence: Evidence, gate: GateConfig) -> Criterion:
    reason = f"{1000 * evidence.latency_seconds:.2g} ms, at most {1000 * gate.latency_seconds:g}"
    return Criterion("latency", evidence.latency_seconds <= gate.latency_seconds, reason)


def _of_tries(tries: int) -> str:
    return f" for the best of {tries} tries" if tries > 1 else ""


def _waits(beside: BesideChampion) -> str:
    return "; it forecasts in the shadow until actuals decide" if beside.is_fresher else ""

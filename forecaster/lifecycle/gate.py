"""The gate: what a version must show before it may become champion. Pure decisions over figures; a criterion each."""

from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import Field

from forecaster.domain.config import Config
from forecaster.domain.manifest import Certificate
from forecaster.evaluation.significance import Comparison


class GateConfig(Config):
    """How strict the gate is.

    Args:
        margin: by how much of the last value's MAE a version may be worse than it.
        better_by: by how much of the champion's MAE a version must be better, unless it is significantly so.
        significance: the p-value below which it is.
        coverage_tolerance: how far a coverage may be from its level, or two standard errors where that is more.
        latency_seconds: how long one forecast of one series may take.
    """

    margin: float = Field(0.02, ge=0)
    better_by: float = Field(0.01, ge=0)
    significance: float = Field(0.05, gt=0, lt=1)
    coverage_tolerance: float = Field(0.02, ge=0, lt=1)
    latency_seconds: float = Field(0.05, gt=0)


@dataclass(frozen=True)
class Evidence:
    """What is known of a challenger.

    Args:
        metrics: of its backtest, as `report.score` names them.
        levels: the intervals that were asked for.
        certificate: of its training.
        latency_seconds: the median of one forecast of one series.
        beside_champion: its losses beside the champion's on the same cutoffs; None where there is no champion.
        champion_mae: the champion's MAE on them.
        tries: how many recipes were tried at once; their p-values are multiplied with it (Bonferroni).
    """

    metrics: dict[str, float]
    levels: tuple[int, ...]
    certificate: Certificate | None
    latency_seconds: float
    beside_champion: Comparison | None
    champion_mae: float | None
    tries: int = 1


@dataclass(frozen=True)
class Criterion:
    """One thing that was to be shown, whether it was, and the figures."""

    name: str
    is_met: bool
    reason: str


@dataclass(frozen=True)
class Decision:
    """All criteria; a version is promoted if each is met."""

    criteria: tuple[Criterion, ...]

    @property
    def is_promoted(self) -> bool:
        """Say whether every criterion is met."""
        return all(criterion.is_met for criterion in self.criteria)


def decide(evidence: Evidence, gate: GateConfig) -> Decision:
    """Return the decision on a challenger."""
    return Decision(
        (
            _is_certified(evidence),
            _is_not_worse_than_the_baseline(evidence, gate),
            _is_better_than_the_champion(evidence, gate),
            *_is_calibrated(evidence, gate),
            _is_fast(evidence, gate),
        )
    )


def _is_certified(evidence: Evidence) -> Criterion:
    found = evidence.certificate
    reason = f"no leak at {len(found.cutoffs)} cutoffs" if found else "it has no leakage certificate; train it again"
    return Criterion("certified", found is not None, reason)


def _is_not_worse_than_the_baseline(evidence: Evidence, gate: GateConfig) -> Criterion:
    relative = evidence.metrics.get("relative_mae")
    if relative is None:
        return Criterion("baseline", False, "the last value has no error here, and the version has")
    chance = evidence.metrics.get("naive-p_value")
    skill = "" if chance is None else _skill(min(1.0, chance * evidence.tries), evidence.tries, gate)
    reason = f"relative_mae {relative:.4g}, at most {1 + gate.margin:g}{skill}"
    return Criterion("baseline", relative <= 1 + gate.margin, reason)


def _skill(chance: float, tries: int, gate: GateConfig) -> str:
    of = f" for the best of {tries} tries" if tries > 1 else ""
    return f", p {chance:.2g}{of}" + ("" if chance < gate.significance else ": no skill shown")


def _is_better_than_the_champion(evidence: Evidence, gate: GateConfig) -> Criterion:
    if evidence.beside_champion is None or evidence.champion_mae is None:
        return Criterion("champion", True, "there is none yet")
    mae, chance = evidence.metrics["mae"], evidence.beside_champion.p_value
    better_by = 1 - mae / evidence.champion_mae if evidence.champion_mae > 0 else 0.0
    is_better = mae < evidence.champion_mae and (chance < gate.significance or better_by >= gate.better_by)
    reason = f"MAE {mae:.4g}, the champion's {evidence.champion_mae:.4g} ({better_by:+.1%} better, p {chance:.2g})"
    return Criterion("champion", is_better, f"{reason}; p below {gate.significance:g} or {gate.better_by:.1%} needed")


def _is_calibrated(evidence: Evidence, gate: GateConfig) -> Iterator[Criterion]:
    for level in evidence.levels:
        covered = evidence.metrics.get(f"coverage-{level}")
        if covered is None:
            yield Criterion(f"coverage-{level}", False, "too few calibration windows to know this interval")
            continue
        allowed = max(gate.coverage_tolerance, 2 * evidence.metrics[f"coverage-{level}-error"])
        reason = f"{covered:.1%} covered, {level - 100 * allowed:.1f} to {level + 100 * allowed:.1f} % allowed"
        yield Criterion(f"coverage-{level}", abs(covered - level / 100) <= allowed, reason)


def _is_fast(evidence: Evidence, gate: GateConfig) -> Criterion:
    reason = f"{1000 * evidence.latency_seconds:.2g} ms, at most {1000 * gate.latency_seconds:g}"
    return Criterion("latency", evidence.latency_seconds <= gate.latency_seconds, reason)

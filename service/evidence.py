"""When what came says that a model should be trained again."""

from collections.abc import Iterable

from forecaster.evaluation.drift import Drift
from forecaster.ledger.skill import Realised
from service.settings import Settings


def reasons(realised: Realised | None, drifts: Iterable[tuple[str, int, Drift]], settings: Settings) -> list[str]:
    """Return what speaks for a retraining, in words; nothing as long as too little is known.

    Args:
        realised: of the champion's forecasts; None where nothing came yet.
        drifts: what of its inputs (`values`, `changes`), of how many, and how far it has drifted.
        settings: the limits.
    """
    found = []
    if realised is not None and realised.n_scores >= settings.evidence_scores:
        relative, most = realised.relative_mae, settings.evidence_relative_mae
        if relative is not None and relative > most:
            found.append(f"realised relative_mae {relative:.3g}, at most {most:g}")
        for level, share in realised.coverage.items():
            is_known = realised.n_covered[level] >= settings.evidence_scores
            if is_known and abs(share - int(level) / 100) > settings.evidence_coverage:
                found.append(
                    f"{share:.1%} inside the {level} % interval, within {settings.evidence_coverage:.0%} wanted"
                )
    for what, count, drift in drifts:
        if count >= settings.evidence_inputs and drift.psi > settings.evidence_psi:
            found.append(f"{what} asked with have drifted: PSI {drift.psi:.2g}, at most {settings.evidence_psi:g}")
    return found

"""What is done now and then: old forecasts are deleted, and what came of the others moves intervals and metrics."""

import asyncio
import logging
from collections.abc import Iterable, Mapping

from forecaster.database.retraining import request_retraining
from forecaster.domain.instants import DAY, now_at
from forecaster.domain.manifest import CHANGES, VALUES
from forecaster.evaluation.drift import Drift
from forecaster.ledger.retention import forget_before
from forecaster.ledger.running_sums import ScoreSums, VersionKey, sums_since
from forecaster.ledger.skill import GroupSkill, skill_from_sums
from forecaster.registry.cache import CHAMPION
from service.catalog import Catalog, Model, ModelStore
from service.forecast_service import ForecastService
from service.metrics import Metrics
from service.settings import Settings

EVERY_SECONDS = 60
# of how many days the realised figures are
SKILL_DAYS = 90
_log = logging.getLogger("forecaster.service")


async def do_housekeeping(forecast_service: ForecastService, model_store: ModelStore, metrics: Metrics) -> None:
    """Do it again and again, until cancelled; what fails is tried again the next time."""
    while True:
        try:
            await asyncio.to_thread(_tidy, forecast_service, model_store.catalog, metrics)
        # whatever it is, the next time may be better, and the service goes on
        except Exception:
            _log.exception("what is done now and then failed")
        await asyncio.sleep(EVERY_SECONDS)


def _tidy(forecast_service: ForecastService, catalog: Catalog, metrics: Metrics) -> None:
    now, kept_days = now_at(), forecast_service.settings.keep_days
    if kept_days:
        forget_before(forecast_service.upkeep, now - int(kept_days * DAY))
    tallies = sums_since(forecast_service.upkeep, now // DAY - SKILL_DAYS)
    _tell_skill(tallies, metrics)
    forecast_service.learn()
    for name, model in catalog.items():
        for version, (_, drifts) in forecast_service.recorder.drift.read(name).items():
            for what, drift in drifts.items():
                metrics.drift.labels(name, version, what).set(drift.psi)
        _weigh(forecast_service, name, model, tallies, metrics)


def _tell_skill(tallies: Mapping[VersionKey, ScoreSums], metrics: Metrics) -> None:
    """Set the metrics of realised skill, of all owners together."""
    for gauge in (metrics.relative_mae, metrics.coverage, metrics.scores):
        gauge.clear()
    together: dict[tuple[str, int], ScoreSums] = {}
    for (_, model, version), tally in tallies.items():
        together.setdefault((model, version), ScoreSums()).add(tally)
    for (model, version), tally in together.items():
        one = skill_from_sums(tally)
        metrics.scores.labels(model, version).set(one.n_scores)
        if one.relative_mae is not None:
            metrics.relative_mae.labels(model, version).set(one.relative_mae)
        for level, share in one.coverage.items():
            metrics.coverage.labels(model, version, level).set(share)


def _weigh(
    forecast_service: ForecastService,
    name: str,
    model: Model,
    tallies: Mapping[VersionKey, ScoreSums],
    metrics: Metrics,
) -> None:
    """Ask for a retraining of a model whose champion has evidence against it.

    Each owner is judged alone, so that one owner's numbers neither hide nor fake another's.
    """
    champion = model.index.aliases.get(CHAMPION)
    if champion is None:
        return
    watch = forecast_service.recorder.drift
    of_champion = {owner: tally for (owner, *other), tally in tallies.items() if other == [name, champion]}
    for owner in sorted(of_champion.keys() | watch.owners(name)):
        tally = of_champion.get(owner)
        count, drifts = watch.read(name, owner).get(champion, (0, {}))
        found = reasons(
            None if tally is None else skill_from_sums(tally),
            [(what, count, drift) for what, drift in _telling(drifts, model, champion).items()],
            forecast_service.settings,
        )
        by = f" asked by '{owner}'" if owner else ""
        if found and request_retraining(forecast_service.upkeep, name, f"version {champion}{by}: {'; '.join(found)}"):
            metrics.retrainings.labels(name).inc()
            _log.warning("model '%s' should be trained again: %s", name, "; ".join(found))


def _telling(drifts: Mapping[str, Drift], model: Model, version: int) -> dict[str, Drift]:
    """Return the drifts that are evidence: of the changes, and of values that do not go where they like.

    What a model of prices has learnt are their changes. Features are for people.
    """
    is_price = model.predictors[version].manifest.is_positive
    return {what: one for what, one in drifts.items() if what == CHANGES or (what == VALUES and not is_price)}


def reasons(realised: GroupSkill | None, drifts: Iterable[tuple[str, int, Drift]], settings: Settings) -> list[str]:
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

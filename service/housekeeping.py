"""Periodic tasks: delete old forecasts, update metrics and adaptive intervals, request retraining on evidence."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping

from forecaster.database.retraining import request_retraining
from forecaster.domain.instants import DAY, now_microseconds
from forecaster.domain.manifest import CHANGES, VALUES
from forecaster.evaluation.drift import Drift
from forecaster.ledger.retention import forget_before
from forecaster.ledger.running_sums import ScoreSums, VersionKey, sums_since
from forecaster.ledger.skill import GroupSkill, skill_from_sums
from forecaster.registry.cache import CHAMPION
from service.catalog import Catalog, ModelStore
from service.forecast_service import ForecastService
from service.metrics import Metrics
from service.served_model import Model
from service.settings import Settings

EVERY_SECONDS = 60
# realised skill is measured over the scores of so many days
SKILL_DAYS = 90
_log = logging.getLogger("forecaster.service")


async def run_housekeeping(forecast_service: ForecastService, model_store: ModelStore, metrics: Metrics) -> None:
    """Run the tasks every `EVERY_SECONDS`, until cancelled."""
    while True:
        await asyncio.to_thread(run_tasks, forecast_service, model_store.catalog, metrics)
        await asyncio.sleep(EVERY_SECONDS)


def run_tasks(forecast_service: ForecastService, catalog: Catalog, metrics: Metrics) -> None:
    """Run the tasks in order. The first that fails is logged and ends the round, as most need the database."""
    sums: dict[VersionKey, ScoreSums] = {}

    def read_sums() -> None:
        sums.update(sums_since(forecast_service.maintenance_engine, now_microseconds() // DAY - SKILL_DAYS))

    tasks: dict[str, Callable[[], None]] = {
        "deleting old forecasts": lambda: _delete_old_forecasts(forecast_service),
        "reading realised skill": read_sums,
        "updating the metrics of realised skill": lambda: _update_skill_metrics(sums, metrics),
        "updating adaptive intervals": forecast_service.load_miscoverage_rates,
        "updating the metrics of input drift": lambda: _update_drift_metrics(forecast_service, catalog, metrics),
        "checking champions": lambda: _check_champions(forecast_service, catalog, sums, metrics),
    }
    for name, task in tasks.items():
        try:
            task()
        # housekeeping must not stop the service, and the next round may succeed
        except Exception:
            _log.exception("housekeeping: %s failed", name)
            return


def _delete_old_forecasts(forecast_service: ForecastService) -> None:
    keep_days = forecast_service.settings.keep_days
    if keep_days:
        forget_before(forecast_service.maintenance_engine, now_microseconds() - int(keep_days * DAY))


def _update_drift_metrics(forecast_service: ForecastService, catalog: Catalog, metrics: Metrics) -> None:
    for name in catalog:
        for version, (_, drifts) in forecast_service.queue.drift.read(name).items():
            for variable, drift in drifts.items():
                metrics.drift.labels(name, version, variable).set(drift.psi)


def _check_champions(
    forecast_service: ForecastService, catalog: Catalog, sums: Mapping[VersionKey, ScoreSums], metrics: Metrics
) -> None:
    for name, model in catalog.items():
        _check_champion(forecast_service, name, model, sums, metrics)


def _update_skill_metrics(sums: Mapping[VersionKey, ScoreSums], metrics: Metrics) -> None:
    """Set the metrics of realised skill, over all owners."""
    for gauge in (metrics.relative_mae, metrics.coverage, metrics.scores):
        gauge.clear()
    by_version: dict[tuple[str, int], ScoreSums] = {}
    for (_, model, version), total in sums.items():
        by_version.setdefault((model, version), ScoreSums()).add(total)
    for (model, version), total in by_version.items():
        skill = skill_from_sums(total)
        metrics.scores.labels(model, version).set(skill.n_scores)
        if skill.relative_mae is not None:
            metrics.relative_mae.labels(model, version).set(skill.relative_mae)
        for level, share in skill.coverage.items():
            metrics.coverage.labels(model, version, level).set(share)


def _check_champion(
    forecast_service: ForecastService,
    name: str,
    model: Model,
    sums: Mapping[VersionKey, ScoreSums],
    metrics: Metrics,
) -> None:
    """Request a retraining if there is evidence against the champion of a model.

    Each owner's evidence is judged separately, so that one owner's data can neither hide nor forge another's.
    """
    champion = model.index.aliases.get(CHAMPION)
    if champion is None:
        return
    monitor = forecast_service.queue.drift
    champion_sums = {owner: total for (owner, *other), total in sums.items() if other == [name, champion]}
    for owner in sorted(champion_sums.keys() | monitor.owners(name)):
        total = champion_sums.get(owner)
        count, drifts = monitor.read(name, owner).get(champion, (0, {}))
        reasons = retraining_reasons(
            None if total is None else skill_from_sums(total),
            [(variable, count, drift) for variable, drift in _drift_evidence(drifts, model, champion).items()],
            forecast_service.settings,
        )
        by = f" in requests of '{owner}'" if owner else ""
        text = "; ".join(reasons)
        if reasons and request_retraining(forecast_service.maintenance_engine, name, f"version {champion}{by}: {text}"):
            metrics.retrainings.labels(name).inc()
            _log.warning("model '%s': retraining requested: %s", name, text)


def _drift_evidence(drifts: Mapping[str, Drift], model: Model, version: int) -> dict[str, Drift]:
    """Return the drifts that count as evidence: of changes, and of values unless the series is a price.

    Prices wander, and a model of prices learns from their changes. Drift of features is reported only.
    """
    is_price = model.predictors[version].manifest.is_positive
    return {
        variable: drift
        for variable, drift in drifts.items()
        if variable == CHANGES or (variable == VALUES and not is_price)
    }


def retraining_reasons(
    realised: GroupSkill | None, drifts: Iterable[tuple[str, int, Drift]], settings: Settings
) -> list[str]:
    """Return the reasons to retrain, as text; empty while there is too little evidence.

    Args:
        realised: the realised skill of the champion; None if it has no scores.
        drifts: input variable (`values`, `changes`), number of inputs, and their drift.
        settings: the thresholds.
    """
    reasons = []
    if realised is not None and realised.n_scores >= settings.evidence_scores:
        relative, threshold = realised.relative_mae, settings.evidence_relative_mae
        if relative is not None and relative > threshold:
            reasons.append(f"realised relative_mae {relative:.3g}, at most {threshold:g} allowed")
        for level, share in realised.coverage.items():
            is_known = realised.n_covered[level] >= settings.evidence_scores
            if is_known and abs(share - float(level) / 100) > settings.evidence_coverage:
                reasons.append(
                    f"the {level} % interval covered {share:.1%} of the actuals, "
                    f"at most {settings.evidence_coverage:.0%} off allowed"
                )
    for variable, count, drift in drifts:
        if count >= settings.evidence_inputs and drift.psi > settings.evidence_psi:
            reasons.append(f"input {variable} drifted: PSI {drift.psi:.2g}, at most {settings.evidence_psi:g} allowed")
    return reasons

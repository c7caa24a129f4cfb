"""What is done now and then: old forecasts are deleted, and what came of the others moves intervals and metrics."""

import asyncio
import logging

from forecaster.database.jobs import ask_for_retraining
from forecaster.domain.instants import DAY, now_at
from forecaster.domain.manifest import CHANGES, VALUES
from forecaster.ledger.adaptation import read_allowed
from forecaster.ledger.reading import models_scored
from forecaster.ledger.retention import forget_before
from forecaster.ledger.skill import realised_skill
from forecaster.registry.cache import CHAMPION
from service.accounts import Accounts
from service.catalog import Catalog, Shelf
from service.evidence import reasons
from service.metrics import Metrics

EVERY_SECONDS = 60
# of how many days the realised figures are
SKILL_DAYS = 90
_log = logging.getLogger("service")


async def keep_house(accounts: Accounts, shelf: Shelf, metrics: Metrics) -> None:
    """Do it again and again, until cancelled; what fails is tried again the next time."""
    while True:
        try:
            await asyncio.to_thread(_tidy, accounts, shelf.catalog, metrics)
            await asyncio.to_thread(_weigh, accounts, shelf.catalog, metrics)
        # whatever it is, the next time may be better, and the service goes on
        except Exception:
            _log.exception("what is done now and then failed")
        await asyncio.sleep(EVERY_SECONDS)


def _tidy(accounts: Accounts, catalog: Catalog, metrics: Metrics) -> None:
    now, kept_days = now_at(), accounts.settings.keep_days
    if kept_days:
        forget_before(accounts.upkeep, now - int(kept_days * DAY))
    since = now - SKILL_DAYS * DAY
    for gauge in (metrics.relative_mae, metrics.coverage, metrics.scores):
        gauge.clear()
    for model in models_scored(accounts.upkeep):
        for one in realised_skill(accounts.upkeep, model, "version", since=since):
            metrics.scores.labels(model, one.group).set(one.n_scores)
            if one.relative_mae is not None:
                metrics.relative_mae.labels(model, one.group).set(one.relative_mae)
            for level, share in one.coverage.items():
                metrics.coverage.labels(model, one.group, level).set(share)
    if accounts.settings.adapt_intervals:
        accounts.recorder.allowed = {
            (name, version): read_allowed(accounts.upkeep, name, version)
            for name, model in catalog.items()
            for version in model.predictors
        }


def _weigh(accounts: Accounts, catalog: Catalog, metrics: Metrics) -> None:
    """Ask for a retraining of each model whose champion has evidence against it."""
    since = now_at() - SKILL_DAYS * DAY
    for name, model in catalog.items():
        seen = accounts.recorder.drift.read(name)
        for version, (_, drifts) in seen.items():
            for what, drift in drifts.items():
                metrics.drift.labels(name, version, what).set(drift.psi)
        champion = model.index.aliases.get(CHAMPION)
        if champion is None:
            continue
        realised = realised_skill(accounts.upkeep, name, version=champion, since=since)
        count, drifts = seen.get(champion, (0, {}))
        found = reasons(
            realised[0] if realised else None,
            # prices go where they like; what a model of them has learnt are their changes. Features are for people
            [
                (what, count, drift)
                for what, drift in drifts.items()
                if what == CHANGES or (what == VALUES and not model.predictors[champion].manifest.is_positive)
            ],
            accounts.settings,
        )
        if found and ask_for_retraining(accounts.upkeep, name, f"version {champion}: {'; '.join(found)}"):
            metrics.retrainings.labels(name).inc()
            _log.warning("model '%s' should be trained again: %s", name, "; ".join(found))

"""What is done now and then: old forecasts are deleted, and what came of the others moves intervals and metrics."""

import asyncio
import logging
from collections.abc import Mapping

from forecaster.database.jobs import ask_for_retraining
from forecaster.domain.instants import DAY, now_at
from forecaster.domain.manifest import CHANGES, VALUES
from forecaster.evaluation.drift import Drift
from forecaster.ledger.retention import forget_before
from forecaster.ledger.skill import realised
from forecaster.ledger.tallies import Of, Tally, recent
from forecaster.registry.cache import CHAMPION
from service.accounts import Accounts
from service.catalog import Catalog, Model, Shelf
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
        # whatever it is, the next time may be better, and the service goes on
        except Exception:
            _log.exception("what is done now and then failed")
        await asyncio.sleep(EVERY_SECONDS)


def _tidy(accounts: Accounts, catalog: Catalog, metrics: Metrics) -> None:
    now, kept_days = now_at(), accounts.settings.keep_days
    if kept_days:
        forget_before(accounts.upkeep, now - int(kept_days * DAY))
    tallies = recent(accounts.upkeep, now // DAY - SKILL_DAYS)
    _tell_skill(tallies, metrics)
    accounts.learn()
    for name, model in catalog.items():
        for version, (_, drifts) in accounts.recorder.drift.read(name).items():
            for what, drift in drifts.items():
                metrics.drift.labels(name, version, what).set(drift.psi)
        _weigh(accounts, name, model, tallies, metrics)


def _tell_skill(tallies: Mapping[Of, Tally], metrics: Metrics) -> None:
    """Set the metrics of realised skill, of all owners together."""
    for gauge in (metrics.relative_mae, metrics.coverage, metrics.scores):
        gauge.clear()
    together: dict[tuple[str, int], Tally] = {}
    for (_, model, version), tally in tallies.items():
        together.setdefault((model, version), Tally()).add(tally)
    for (model, version), tally in together.items():
        one = realised(tally)
        metrics.scores.labels(model, version).set(one.n_scores)
        if one.relative_mae is not None:
            metrics.relative_mae.labels(model, version).set(one.relative_mae)
        for level, share in one.coverage.items():
            metrics.coverage.labels(model, version, level).set(share)


def _weigh(accounts: Accounts, name: str, model: Model, tallies: Mapping[Of, Tally], metrics: Metrics) -> None:
    """Ask for a retraining of a model whose champion has evidence against it.

    Each owner is judged alone, so that one owner's numbers neither hide nor fake another's.
    """
    champion = model.index.aliases.get(CHAMPION)
    if champion is None:
        return
    watch = accounts.recorder.drift
    of_champion = {owner: tally for (owner, *other), tally in tallies.items() if other == [name, champion]}
    for owner in sorted(of_champion.keys() | watch.owners(name)):
        tally = of_champion.get(owner)
        count, drifts = watch.read(name, owner).get(champion, (0, {}))
        found = reasons(
            None if tally is None else realised(tally),
            [(what, count, drift) for what, drift in _telling(drifts, model, champion).items()],
            accounts.settings,
        )
        by = f" asked by '{owner}'" if owner else ""
        if found and ask_for_retraining(accounts.upkeep, name, f"version {champion}{by}: {'; '.join(found)}"):
            metrics.retrainings.labels(name).inc()
            _log.warning("model '%s' should be trained again: %s", name, "; ".join(found))


def _telling(drifts: Mapping[str, Drift], model: Model, version: int) -> dict[str, Drift]:
    """Return the drifts that are evidence: of the changes, and of values that do not go where they like.

    What a model of prices has learnt are their changes. Features are for people.
    """
    is_price = model.predictors[version].manifest.is_positive
    return {what: one for what, one in drifts.items() if what == CHANGES or (what == VALUES and not is_price)}

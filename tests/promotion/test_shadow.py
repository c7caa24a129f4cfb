"""A challenger in the shadow: the ledger's scores promote it, keep it out, or let it wait."""

import json
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from sqlalchemy import Engine

from forecaster.database.engine import open_engine
from forecaster.database.schema import upgrade_schema
from forecaster.domain.errors import StoreUnavailable
from forecaster.ledger.paired_losses import PairedLosses, paired_losses
from forecaster.ledger.scoring import Actual, record_actuals
from forecaster.ledger.writer import Writer
from forecaster.promotion.gate import GateConfig
from forecaster.promotion.shadow import FIRST_LOOK, judge_shadow, settle_shadows
from forecaster.registry.store import Store
from forecaster.training import past_runs
from tests.conftest import TrainedModels, run_module
from tests.ledger.test_ledger import HOUR, entry, served
from tests.registry.ruined import registry_of

HORIZON = 2


def serve_hours(engine: Engine, n_hours: int, champion: float, challenger: float, begin: int = 0) -> None:
    """Write forecasts of two versions for each hour, with errors of about these sizes, and the actuals."""
    random, writer = np.random.default_rng(begin), Writer(engine)
    writer.start()
    for hour in range(begin, begin + n_hours):
        for version, error, is_shadow in ((1, champion, False), (2, challenger, True)):
            mean = tuple(random.normal(0, error, HORIZON).tolist())
            one = entry(served(first=hour, mean=mean), at=hour + 1, version=version, is_shadow=is_shadow)
            (outcome,) = writer.submit([one]).result(timeout=30)
            assert outcome is True
    writer.stop()
    record_actuals(engine, [Actual("a", hour * HOUR, 0.0) for hour in range(begin, begin + n_hours + HORIZON)])


def test_errors_are_paired_by_series_cutoff_and_step(engine: Engine) -> None:
    writer = Writer(engine)
    writer.start()
    entries = [
        entry(served("a", 10, (1.0, 2.0)), at=1),
        # asked again: counts once, with the mean error
        entry(served("a", 10, (3.0, 2.0)), at=2),
        entry(served("a", 11, (5.0, 5.0)), at=3),
        entry(served("a", 12, (9.0, 9.0)), at=4, forecast_by="naive"),
        # of another owner's series with the same name
        entry(served("a", 10, (7.0, 7.0)), at=5, owner="other"),
        entry(served("a", 10, (0.5, 0.5)), at=6, version=2, is_shadow=True),
        entry(served("a", 12, (0.5, 0.5)), at=7, version=2, is_shadow=True),
        entry(served("a", 10, (0.0, 0.0)), at=8, version=3, is_shadow=True),
    ]
    for one in entries:
        writer.submit([one]).result(timeout=30)
    writer.stop()
    record_actuals(engine, [Actual("a", hour * HOUR, 0.0) for hour in range(9, 15)], is_for_all=True)
    paired = paired_losses(engine, "sine", 2, 1, 9 * HOUR, HORIZON)
    # in units of the champion's usual error, 2
    assert (paired.ours.tolist(), paired.theirs.tolist()) == ([0.25], [1.0])
    assert (paired.n_scores, paired.overlap) == (2, 1)
    assert paired_losses(engine, "sine", 9, 1, 9 * HOUR, HORIZON).n_scores == 0
    # of what the challenger may have seen, and of what is rolled out
    assert paired_losses(engine, "sine", 2, 1, 10 * HOUR, HORIZON).n_scores == 0
    assert paired_losses(engine, "sine", 2, 1, 9 * HOUR, 1).n_scores == 1


def test_cutoffs_an_hour_apart_overlap_by_the_horizon(engine: Engine) -> None:
    serve_hours(engine, 6, 1.0, 1.0)
    assert paired_losses(engine, "sine", 2, 1, -HOUR, HORIZON).overlap == HORIZON


def test_one_wrong_actual_does_not_make_a_bad_challenger_as_good_as_the_champion(engine: Engine) -> None:
    serve_hours(engine, 40, 1.0, 2.0)
    before = judge_shadow(paired_losses(engine, "sine", 2, 1, -HOUR, HORIZON), 1, GateConfig(), 1)
    record_actuals(engine, [Actual("a", 20 * HOUR, 1e6)])
    after = judge_shadow(paired_losses(engine, "sine", 2, 1, -HOUR, HORIZON), 1, GateConfig(), 1)
    for found in (before, after):
        assert found is not None
        assert not found.is_met, found


@pytest.mark.parametrize(("ratio", "verdict"), [(0.5, "better"), (1.0, "fresher"), (1.5, "kept"), (1.03, "open")])
def test_the_scores_decide_once_they_suffice(ratio: float, verdict: str) -> None:
    random = np.random.default_rng(1)
    theirs = random.uniform(0.9, 1.1, 16 * HORIZON)
    noise = 0.0 if verdict == "fresher" else 0.2
    ours = theirs * ratio * (1 + random.normal(0, noise, len(theirs)))
    found = judge_shadow(PairedLosses(ours, theirs, HORIZON, 1), 1, GateConfig(), 1)
    assert found is not None
    assert (found.is_met, found.is_open) == (verdict in ("better", "fresher"), verdict == "open")
    assert found.reason.startswith(f"in the shadow, {verdict}" if found.is_met else "in the shadow, ")


def test_the_evidence_is_looked_at_only_when_it_has_doubled() -> None:
    theirs = np.ones(FIRST_LOOK * HORIZON * 4)
    ours = np.concatenate([np.full(FIRST_LOOK * HORIZON * 2, 1.5), np.zeros(FIRST_LOOK * HORIZON * 2)])
    ours += np.random.default_rng(0).normal(0, 0.01, len(ours))

    def look(n: int) -> str:
        found = judge_shadow(PairedLosses(ours[:n], theirs[:n], HORIZON, 1), 1, GateConfig(), 1)
        return "nothing" if found is None else found.reason

    assert look(FIRST_LOOK * HORIZON - 1) == "nothing"
    assert look(2 * FIRST_LOOK * HORIZON) == look(4 * FIRST_LOOK * HORIZON - 1)
    assert look(4 * FIRST_LOOK * HORIZON) != look(4 * FIRST_LOOK * HORIZON - 1)


def leave_in_the_shadow(store: Store, name: str) -> None:
    """Record what the gate says of version 2 where it cannot tell it from the champion."""
    decision: dict[str, Any] = {
        "outcome": "shadow",
        "criteria": [{"name": "champion", "is_met": False, "reason": "too few windows to tell", "is_open": True}],
        "gate": GateConfig().model_dump(),
        "tries": 1,
        "trained_until": "1970-01-01T00:00:00.000000000",
        "horizon": HORIZON,
    }
    past_runs.log_decision(store.uri, store.find(name).runs[2], decision, "1 0123")
    store.set_alias(name, "challenger", 2)
    store.set_alias(name, "champion", 1)


def test_score_promotes_a_challenger_that_proves_itself_and_says_so(models: TrainedModels, tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path}/service.db")
    upgrade_schema(engine)
    store = registry_of(models, tmp_path / "registry").store
    leave_in_the_shadow(store, "sine")
    url = engine.url.render_as_string(hide_password=False)
    (tmp_path / "bars").mkdir()

    def score() -> dict[str, Any]:
        options = ("--store", "bars", "--database", url, "--tracking-uri", store.uri)
        done = run_module("pipelines.score", *options, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        shadows: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])["shadows"]
        return shadows

    serve_hours(engine, 5, 1.0, 0.1, begin=50)
    assert score()["sine"] == {"version": 2, "outcome": "shadow", "reason": "too few scores to tell"}
    assert store.find("sine").aliases["champion"] == 1
    serve_hours(engine, 40, 1.0, 0.1, begin=100)
    settled = score()["sine"]
    assert (settled["version"], settled["outcome"]) == (2, "promoted")
    assert settled["reason"].startswith("in the shadow, better: ")
    assert store.find("sine").aliases == {"champion": 2, "previous": 1, "challenger": 2}
    tags = mlflow.MlflowClient(store.uri).get_run(store.find("sine").runs[2]).data.tags
    assert tags["gate"] == "promoted"
    assert tags["gate/champion"].startswith("met: in the shadow, better: ")
    assert "promoted_at" in tags
    # and nothing is left to do, nor is it promoted again once it was rolled back, whatever its run still says
    mlflow.MlflowClient(store.uri).delete_tag(store.find("sine").runs[2], "promoted_at")
    store.roll_back("sine")
    leave_in_the_shadow(store, "sine")
    assert score() == {}
    assert store.find("sine").aliases["champion"] == 1


def test_a_model_that_cannot_be_settled_stops_no_other(models: TrainedModels, tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path}/service.db")
    upgrade_schema(engine)
    store = registry_of(models, tmp_path / "registry").store
    leave_in_the_shadow(store, "sine")
    serve_hours(engine, 5, 1.0, 0.1, begin=50)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "read_artifact", _is_gone)
        settled = settle_shadows(engine, store.uri)
    assert settled["sine"]["outcome"] == "failed"
    assert "gate.json" in settled["sine"]["reason"]


def _is_gone(store: Store, run_id: str, path: str) -> str:
    raise StoreUnavailable(f"{path}: it is not there")

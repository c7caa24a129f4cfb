"""Shadow challengers: the ledger's scores promote them, reject them, or are still too few."""

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
from forecaster.promotion.shadow import FIRST_LOOK, judge_shadow, resolve_shadows
from forecaster.registry.store import Store
from forecaster.training import past_runs
from tests.conftest import TrainedModels, run_module
from tests.ledger.test_ledger import HOUR, entry, served
from tests.registry.registry_copy import copy_registry

HORIZON = 2


def serve_hours(engine: Engine, n_hours: int, champion: float, challenger: float, begin: int = 0) -> None:
    """Write hourly forecasts of both versions, with errors of about the given sizes, and their actuals."""
    random, writer = np.random.default_rng(begin), Writer(engine)
    writer.start()
    for hour in range(begin, begin + n_hours):
        for version, error, is_shadow in ((1, champion, False), (2, challenger, True)):
            mean = tuple(random.normal(0, error, HORIZON).tolist())
            forecast = entry(served(first=hour, mean=mean), at=hour + 1, version=version, is_shadow=is_shadow)
            (outcome,) = writer.submit([forecast]).result(timeout=30)
            assert outcome is True
    writer.stop()
    record_actuals(engine, [Actual("a", hour * HOUR, 0.0) for hour in range(begin, begin + n_hours + HORIZON)])


def test_errors_are_paired_by_series_cutoff_and_step(engine: Engine) -> None:
    writer = Writer(engine)
    writer.start()
    entries = [
        entry(served("a", 10, (1.0, 2.0)), at=1),
        # a repeated request counts once, with the mean error
        entry(served("a", 10, (3.0, 2.0)), at=2),
        entry(served("a", 11, (5.0, 5.0)), at=3),
        entry(served("a", 12, (9.0, 9.0)), at=4, forecast_by="naive"),
        # another owner's series with the same name
        entry(served("a", 10, (7.0, 7.0)), at=5, owner="other"),
        entry(served("a", 10, (0.5, 0.5)), at=6, version=2, is_shadow=True),
        entry(served("a", 12, (0.5, 0.5)), at=7, version=2, is_shadow=True),
        entry(served("a", 10, (0.0, 0.0)), at=8, version=3, is_shadow=True),
    ]
    for forecast in entries:
        writer.submit([forecast]).result(timeout=30)
    writer.stop()
    record_actuals(engine, [Actual("a", hour * HOUR, 0.0) for hour in range(9, 15)], is_for_all=True)
    paired = paired_losses(engine, "sine", 2, 1, 9 * HOUR, HORIZON)
    # scaled by the champion's usual error, 2
    assert (paired.ours.tolist(), paired.theirs.tolist()) == ([0.25], [1.0])
    assert (paired.n_scores, paired.overlap) == (2, 1)
    assert paired_losses(engine, "sine", 9, 1, 9 * HOUR, HORIZON).n_scores == 0
    # cutoffs that the challenger may have seen, and rolled-out steps, do not count
    assert paired_losses(engine, "sine", 2, 1, 10 * HOUR, HORIZON).n_scores == 0
    assert paired_losses(engine, "sine", 2, 1, 9 * HOUR, 1).n_scores == 1


def test_hourly_cutoffs_overlap_by_the_horizon(engine: Engine) -> None:
    serve_hours(engine, 6, 1.0, 1.0)
    assert paired_losses(engine, "sine", 2, 1, -HOUR, HORIZON).overlap == HORIZON


def test_wrong_actual_does_not_promote_a_bad_challenger(engine: Engine) -> None:
    serve_hours(engine, 40, 1.0, 2.0)
    before = judge_shadow(paired_losses(engine, "sine", 2, 1, -HOUR, HORIZON), 1, GateConfig(), 1)
    record_actuals(engine, [Actual("a", 20 * HOUR, 1e6)])
    after = judge_shadow(paired_losses(engine, "sine", 2, 1, -HOUR, HORIZON), 1, GateConfig(), 1)
    for criterion in (before, after):
        assert criterion is not None
        assert not criterion.is_met, criterion


@pytest.mark.parametrize(("ratio", "verdict"), [(0.5, "better"), (1.0, "fresher"), (1.5, "kept"), (1.03, "open")])
def test_enough_scores_decide_on_the_challenger(ratio: float, verdict: str) -> None:
    random = np.random.default_rng(1)
    theirs = random.uniform(0.9, 1.1, 16 * HORIZON)
    noise = 0.0 if verdict == "fresher" else 0.2
    ours = theirs * ratio * (1 + random.normal(0, noise, len(theirs)))
    criterion = judge_shadow(PairedLosses(ours, theirs, HORIZON, 1), 1, GateConfig(), 1)
    assert criterion is not None
    assert (criterion.is_met, criterion.is_open) == (verdict in ("better", "fresher"), verdict == "open")
    assert criterion.reason.startswith(f"in the shadow, {verdict}" if criterion.is_met else "in the shadow, ")


def test_scores_are_tested_again_only_when_they_have_doubled() -> None:
    theirs = np.ones(FIRST_LOOK * HORIZON * 4)
    ours = np.concatenate([np.full(FIRST_LOOK * HORIZON * 2, 1.5), np.zeros(FIRST_LOOK * HORIZON * 2)])
    ours += np.random.default_rng(0).normal(0, 0.01, len(ours))

    def reason(n: int) -> str:
        criterion = judge_shadow(PairedLosses(ours[:n], theirs[:n], HORIZON, 1), 1, GateConfig(), 1)
        return "too few" if criterion is None else criterion.reason

    assert reason(FIRST_LOOK * HORIZON - 1) == "too few"
    assert reason(2 * FIRST_LOOK * HORIZON) == reason(4 * FIRST_LOOK * HORIZON - 1)
    assert reason(4 * FIRST_LOOK * HORIZON) != reason(4 * FIRST_LOOK * HORIZON - 1)


def make_shadow_challenger(store: Store, name: str) -> None:
    """Record that the gate left version 2 in the shadow of version 1."""
    decision: dict[str, Any] = {
        "outcome": "shadow",
        "criteria": [{"name": "champion", "is_met": False, "reason": "too few windows for a test", "is_open": True}],
        "gate": GateConfig().model_dump(),
        "tries": 1,
        "trained_until": "1970-01-01T00:00:00.000000000",
        "horizon": HORIZON,
    }
    past_runs.log_decision(store.uri, store.find(name).runs[2], decision, "1 0123")
    store.set_alias(name, "challenger", 2)
    store.set_alias(name, "champion", 1)


def test_score_pipeline_promotes_a_better_challenger(models: TrainedModels, tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path}/service.db")
    upgrade_schema(engine)
    store = copy_registry(models, tmp_path / "registry").store
    make_shadow_challenger(store, "sine")
    url = engine.url.render_as_string(hide_password=False)
    (tmp_path / "bars").mkdir()

    def score() -> dict[str, Any]:
        options = ("--store", "bars", "--database", url, "--tracking-uri", store.uri)
        done = run_module("pipelines.score", *options, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        shadows: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])["shadows"]
        return shadows

    serve_hours(engine, 5, 1.0, 0.1, begin=50)
    assert score()["sine"] == {"version": 2, "outcome": "shadow", "reason": "too few scores for a test"}
    assert store.find("sine").aliases["champion"] == 1
    serve_hours(engine, 40, 1.0, 0.1, begin=100)
    result = score()["sine"]
    assert (result["version"], result["outcome"]) == (2, "promoted")
    assert result["reason"].startswith("in the shadow, better: ")
    assert store.find("sine").aliases == {"champion": 2, "previous": 1, "challenger": 2}
    tags = mlflow.MlflowClient(store.uri).get_run(store.find("sine").runs[2]).data.tags
    assert tags["gate"] == "promoted"
    assert tags["gate/champion"].startswith("met: in the shadow, better: ")
    assert "promoted_at" in tags
    # after a rollback it is not promoted again, even if its run lacks the tag of a promotion
    mlflow.MlflowClient(store.uri).delete_tag(store.find("sine").runs[2], "promoted_at")
    store.roll_back("sine")
    make_shadow_challenger(store, "sine")
    assert score() == {}
    assert store.find("sine").aliases["champion"] == 1


def test_error_with_one_model_is_reported_and_does_not_stop_the_others(models: TrainedModels, tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path}/service.db")
    upgrade_schema(engine)
    store = copy_registry(models, tmp_path / "registry").store
    make_shadow_challenger(store, "sine")
    serve_hours(engine, 5, 1.0, 0.1, begin=50)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "read_artifact", _fail)
        results = resolve_shadows(engine, store.uri)
    assert results["sine"]["outcome"] == "failed"
    assert "gate.json" in results["sine"]["reason"]


def _fail(store: Store, run_id: str, path: str) -> str:
    raise StoreUnavailable(f"{path}: does not exist")
